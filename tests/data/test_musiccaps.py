from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from small_audio import tone, write
from typer.testing import CliRunner

from eisbach.cli.data import app
from eisbach.data.manifest import Manifest, load_manifest
from eisbach.data.musiccaps import MusicCapsReport, NotUsed, build_musiccaps, place_clip
from eisbach.data.musiccaps_table import FetchedFile, MusicCapsRow, match_files, name_readings, read_rows
from eisbach.errors import UserError

COLUMNS = (
    "ytid", "start_s", "end_s", "audioset_positive_labels", "aspect_list", "caption", "author_id", "is_balanced_subset",
    "is_audioset_eval",
)  # fmt: skip
RATE = 8000


def cells(ytid: str, start: float = 30, end: float = 40, **changes: str) -> dict[str, str]:
    values = {
        "ytid": ytid, "start_s": f"{start}", "end_s": f"{end}", "audioset_positive_labels": "/m/0140xf,/m/02cjck",
        "aspect_list": "['low quality', 'sustained, long strings']", "caption": f'A "calm" cello,\nsaid of {ytid}.',
        "author_id": "4", "is_balanced_subset": "False", "is_audioset_eval": "True",
    }  # fmt: skip
    return values | changes


def table(path: Path, *rows: dict[str, str]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def video(path: Path, seconds: float, silent: tuple[float, float] | None = None) -> Path:
    """Sound whose level is the time: a cut shows where it came from."""
    samples = tone(seconds, RATE) * 0 + (np.arange(round(seconds * RATE)) / RATE / 100)[:, None]
    if silent is not None:
        samples[round(silent[0] * RATE) : round(silent[1] * RATE)] = 0
    return write(path, samples, RATE)


def test_whole_videos_are_cut_and_clips_are_kept(tmp_path: Path) -> None:
    sound, out = tmp_path / "sound", tmp_path / "out"
    ids = ["-0Gj8-vB1q4", "_bc_def_12-", "BraketID_30", "Named0times", "Title_id-09"]
    source = table(tmp_path / "mc.csv", *(cells(ytid) for ytid in ids), cells("Missing_1ab"))
    video(sound / f"{ids[0]}.wav", 60.0)
    video(sound / f"{ids[1]}.wav", 10.2)
    video(sound / "deeper" / f"A title [{ids[2]}].wav", 45.0)
    video(sound / f"{ids[3]}_30_40.wav", 9.8)
    video(sound / f"Old style title-{ids[4]}.flac", 39.8)
    video(sound / "holiday.wav", 5.0)
    manifest, report = build_musiccaps(source, sound, out, quiet=True)
    assert [row.id for row in manifest] == [f"{ytid}_30_40" for ytid in ids]
    begins, lasts = {}, {}
    for row in manifest:
        samples, rate = sf.read(out / row.path)
        assert rate == RATE
        assert row.duration == pytest.approx(len(samples) / rate)
        begins[row.id[:11]], lasts[row.id[:11]] = samples[0] * 100, row.duration
    assert list(begins.values()) == pytest.approx([30, 0, 30, 0, 30], abs=0.01)
    assert list(lasts.values()) == pytest.approx([10, 10, 10, 9.8, 9.8], abs=0.001)
    row = manifest.rows[0]
    assert row.caption == 'A "calm" cello,\nsaid of -0Gj8-vB1q4.'
    assert row.labels == {
        "piece": ids[0], "aspects": "low quality; sustained, long strings", "audioset": "/m/0140xf,/m/02cjck",
        "author": "4",
    }  # fmt: skip
    assert load_manifest(out).rows == manifest.rows
    assert (report.rows, report.found, report.fresh) == (6, 5, 5)
    assert report.counts() | {"missing": 1} == dict.fromkeys(report.counts(), 0) | {"missing": 1}
    assert report.unmatched == ("holiday.wav",)
    left = read_rows(out / "missing.csv")  # can be given to a downloader, or to this command
    assert [row.ytid for row in left.rows] == ["Missing_1ab"]
    assert left.rows[0].caption == 'A "calm" cello,\nsaid of Missing_1ab.'
    assert json.loads((out / "report.json").read_text())["counts"]["missing"] == 1


def test_the_same_call_cuts_only_what_is_new(tmp_path: Path) -> None:
    sound, out = tmp_path / "sound", tmp_path / "out"
    source = table(tmp_path / "mc.csv", *(cells(f"video{number}") for number in range(4)))
    for number in range(3):
        video(sound / f"video{number}.wav", 45.0)
    build_musiccaps(source, sound, out, quiet=True, jobs=2)
    first = (out / "clips" / "video0_30_40.flac").stat().st_mtime_ns
    journal = out / "clips.jsonl"
    journal.write_text(journal.read_text()[:-20])  # a death while the last line was written
    (out / "clips" / "video1_30_40.flac").unlink()
    (sound / "video0.wav").unlink()  # what was cut stays
    video(sound / "video3.wav", 10.0)
    manifest, report = build_musiccaps(source, sound, out, quiet=True)
    assert len(manifest) == 4
    assert report.fresh == 3  # the unlinked, the half-written line, and the new one
    assert (out / "clips" / "video0_30_40.flac").stat().st_mtime_ns == first
    video(sound / "video3.wav", 10.0, silent=(0, 5))  # fetched again
    assert build_musiccaps(source, sound, out, quiet=True)[1].fresh == 1
    assert build_musiccaps(source, sound, out, quiet=True)[1].fresh == 0


def test_everything_that_is_not_used_is_reported(tmp_path: Path) -> None:
    sound, out = tmp_path / "sound", tmp_path / "out"
    sound.mkdir()
    source = table(
        tmp_path / "mc.csv",
        cells("good"), cells("good"), cells("short"), cells("beyond"), cells("sloppy", 1, 11), cells("broken"),
        cells("silent"), cells("mistimed"), cells("twice", 0, 10), cells("twice", 50, 60), cells("badtime", caption="x",
        end_s="x"),
        cells("double"),
    )  # fmt: skip
    for name, seconds in {
        "good.wav": 60, "good.mp3": 60, "short": 4, "beyond": 35, "sloppy": 11.5, "mistimed_70_80": 10, "twice": 10,
        "double_30": 200,
    }.items():  # fmt: skip
        video(sound / (name if "." in name else f"{name}.wav"), seconds)
    (sound / "broken.m4a").write_bytes(b"no sound")
    video(sound / "silent.wav", 60, silent=(25, 45))
    video(sound / "[good] [short].wav", 10)
    manifest, report = build_musiccaps(source, sound, out, quiet=True)
    assert [row.id for row in manifest] == ["good_30_40"]
    assert report.rows == 12
    said = [(item.kind, item.row, item.item) for item in report.findings]
    assert said == [
        ("duplicate", 2, "row 2"),
        ("malformed", 11, "row 11"),
        ("ambiguous", None, "[good] [short].wav"),
        ("duplicate", 1, "good.mp3"),
        ("too_short", 3, "short_30_40"),
        ("too_short", 4, "beyond_30_40"),
        ("ambiguous", 5, "sloppy_1_11"),
        ("unreadable", 6, "broken_30_40"),
        ("silent", 7, "silent_30_40"),
        ("missing", 8, "mistimed_30_40"),
        ("ambiguous", 9, "twice_0_10"),
        ("ambiguous", 10, "twice_50_60"),
        ("ambiguous", 12, "double_30_40"),
    ]
    left = [row.ytid for row in read_rows(out / "missing.csv").rows]  # every row without a clip, whatever the reason
    assert left == ["short", "beyond", "sloppy", "broken", "silent", "mistimed", "twice", "twice", "double"]
    reasons = {item.item: item.reason for item in report.findings}
    assert reasons["row 2"] == "row 2 (line 5) is good_30_40, as row 1 is; the first is used"
    assert reasons["row 11"].endswith("has the end_s 'x'; a number of seconds from 0 is needed")
    assert "lasts 4.0 s, less than the 10 s of the row" in reasons["short_30_40"]
    assert "30 to 40 s, beyond its end" in reasons["beyond_30_40"]
    assert "re-export it as wav or flac" in reasons["broken_30_40"]
    assert reasons["mistimed_30_40"] == "mistimed_70_80.wav says 70 to 80 s and the row is 30 to 40 s"
    assert "name it twice_50_60" in reasons["twice_50_60"]


def row_of(ytid: str, start: float = 30.0, end: float = 40.0, number: int = 1) -> MusicCapsRow:
    return MusicCapsRow(number, ytid, start, end, "x")


@pytest.mark.parametrize(
    ("stem", "reading"),
    [
        ("-0Gj8-vB1q4", ("-0Gj8-vB1q4", None, None)),
        ("[-0Gj8-vB1q4]", ("-0Gj8-vB1q4", None, None)),
        ("A [live] song [-0Gj8-vB1q4]", ("-0Gj8-vB1q4", None, None)),
        ("[-0Gj8-vB1q4]-[30-40]", ("-0Gj8-vB1q4", 30, 40)),
        ("-0Gj8-vB1q4_30", ("-0Gj8-vB1q4", 30, None)),
        ("-0Gj8-vB1q4_30.0_40.0", ("-0Gj8-vB1q4", 30, 40)),
        ("-0Gj8-vB1q4-30-40", ("-0Gj8-vB1q4", 30, 40)),
        ("-0Gj8-vB1q4_30s_40s", ("-0Gj8-vB1q4", 30, 40)),
        ("-0Gj8-vB1q4_30000", ("-0Gj8-vB1q4", 30000, None)),
        ("a_b_1_2_3_4", ("a_b_1_2", 3, 4)),
        ("A title-a_b_1_2", ("a_b_1_2", None, None)),
        ("-0Gj8-vB1q4x", None),
        ("30_40", None),
        ("a_b_1", None),
    ],
)
def test_names(stem: str, reading: tuple[str, float | None, float | None] | None) -> None:
    assert name_readings(stem, {"-0Gj8-vB1q4", "a_b_1_2"}) == ([] if reading is None else [reading])


def test_times_may_be_in_milliseconds_and_choose_the_row() -> None:
    rows = [row_of("video", number=1), row_of("video", 90, 100, number=2)]
    paths = [Path("video_90000.wav"), Path("video.wav"), Path("video_90.wav"), Path("video_91.wav")]
    matches = match_files(rows, paths)
    assert [item.path.name for item in matches.files[1]] == ["video.wav"]
    assert [item.path.name for item in matches.files[2]] == ["video_90.wav", "video_90000.wav", "video.wav"]
    assert [item.path.name for item in matches.mistimed[1]] == ["video_91.wav"]


@pytest.mark.parametrize(
    ("named", "duration", "row", "expected"),
    [
        (True, 10.0, (30, 40), (0, 10.0)),
        (True, 10.4, (30, 40), (0, 10.0)),
        (True, 9.6, (30, 40), (0, 9.6)),
        (True, 300.0, (30, 40), "ambiguous"),
        (True, 9.0, (30, 40), "too_short"),
        (False, 10.1, (30, 40), (0, 10.0)),
        (False, 10.0, (0, 10), (0, 10.0)),
        (False, 300.0, (30, 40), (30, 10)),
        (False, 39.7, (30, 40), (30, pytest.approx(9.7))),
        (False, 39.4, (30, 40), "too_short"),
        (False, 12.0, (0, 10), (0, 10)),
        (False, 11.0, (1, 11), "ambiguous"),
        (False, 12.5, (1, 11), (1, 10)),
        (False, 9.4, (0, 10), "too_short"),
    ],
)
def test_clip_or_video(named: bool, duration: float, row: tuple[float, float], expected: object) -> None:
    audio = FetchedFile(Path("video.wav"), "video", row[0] if named else None)
    if isinstance(expected, str):
        with pytest.raises(NotUsed) as caught:
            place_clip(row_of("video", *row), audio, duration)
        assert caught.value.kind == expected
    else:
        assert place_clip(row_of("video", *row), audio, duration) == expected


@pytest.mark.parametrize("rule", ["eval", "balanced", "hash", "none"])
def test_what_is_held_out(tmp_path: Path, rule: str) -> None:
    rows = [
        cells(f"v{number}", 30 * (number // 40), 30 * (number // 40) + 1, is_audioset_eval=str(number % 2 == 0),
        is_balanced_subset=str(number % 4 == 0))
        for number in range(40)
    ]  # fmt: skip
    rows.append(cells("v0", 5, 6, is_audioset_eval="True", is_balanced_subset="True"))
    source = table(tmp_path / "mc.csv", *rows)
    for number in range(40):
        video(tmp_path / "sound" / f"v{number}.wav", 9.0)
    manifest, _ = build_musiccaps(source, tmp_path / "sound", tmp_path / "out", held_out=rule, quiet=True)
    held = {row.labels["piece"] for row in manifest if row.split == "held_out"}
    every = {"eval": 2, "balanced": 4}
    if rule in every:
        assert held == {f"v{number}" for number in range(0, 40, every[rule])}
    else:
        assert len(held) == 0 if rule == "none" else 0 < len(held) < 12
    trained = {row.labels["piece"] for row in manifest if row.split == "train"}
    assert not held & trained  # a video is never on both sides


def test_captions_from_a_template(tmp_path: Path) -> None:
    source = table(tmp_path / "mc.csv", cells("a"), cells("b", aspect_list="[]"))
    video(tmp_path / "sound" / "a.wav", 10.0)
    video(tmp_path / "sound" / "b.wav", 10.0)

    def make(template: str, out: str) -> tuple[Manifest, MusicCapsReport]:
        return build_musiccaps(source, tmp_path / "sound", tmp_path / out, template=template, quiet=True)

    assert make("{aspects}: {{x}} {caption}", "one")[0].rows[0].caption == (
        'low quality, sustained, long strings: {x} A "calm" cello,\nsaid of a.'
    )
    manifest, report = make("{aspects}", "two")
    assert [row.id for row in manifest] == ["a_30_40"]
    assert [item.reason for item in report.findings] == ["row 2 has no aspects to caption it"]
    for template in ("{mood}", "words", "{caption", "{caption.__class__}", "{caption!r}", "{}"):
        with pytest.raises(UserError, match="the caption template"):
            make(template, "three")


CSV_FAULTS = {
    "ytid,start_s\na,1\n": "lacks the columns end_s, aspect_list, caption",
    "": "lacks the columns .*its first line has: nothing",
    "ytid,ytid,start_s,end_s,aspect_list,caption\n": "names a column twice",
    "ytid,start_s,end_s,aspect_list,caption\n": "has no usable row;",
    'ytid,start_s,end_s,aspect_list,caption\na,0,10,[],x\nb,0,10,[],"x\nc,0,10,[],x\n': "after row 1 that is never "
    "closed.*row 2",
    "ytid,start_s,end_s,aspect_list,caption\na,0,10,[]\n": r"row 1 \(line 2\) has 4 cells where the header has 5",
    "ytid,start_s,end_s,aspect_list,caption\na b,0,10,[],x\n": "has the ytid 'a b'",
    "ytid,start_s,end_s,aspect_list,caption\na,10,10,[],x\n": "ends at 10 s and starts at 10 s",
    "ytid,start_s,end_s,aspect_list,caption\na,-1,10,[],x\n": "start_s '-1'",
    "ytid,start_s,end_s,aspect_list,caption\na,0,nan,[],x\n": "end_s 'nan'",
    "ytid,start_s,end_s,aspect_list,caption\na,0,10,[],\n": "has no caption",
    "ytid,start_s,end_s,aspect_list,caption\na,0,10,slow,x\n": "has the aspect_list 'slow'",
    "ytid,start_s,end_s,aspect_list,caption\na,0,10,[open('x')],x\n": "has the aspect_list",
    'ytid,start_s,end_s,aspect_list,caption\na,0,10,[],"x"y\n': "cannot be read",
    "ytid,start_s,end_s,aspect_list,caption,is_audioset_eval\na,0,10,[],x,maybe\n": "is_audioset_eval 'maybe'",
}


@pytest.mark.parametrize("text", CSV_FAULTS)
def test_a_csv_that_cannot_be_used(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mc.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=CSV_FAULTS[text]) as caught:
        read_rows(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_bad_row_does_not_take_its_neighbours_along(tmp_path: Path) -> None:
    path = tmp_path / "mc.csv"
    path.write_bytes(
        b'\xef\xbb\xbfytid,start_s,end_s,aspect_list,caption\r\n\r\na,0,10,[],x\r\nb,0,10,[],"x"y\r\nc,0,10,[],"x, '
        b'""y""\nz"\r\n'
    )
    read = read_rows(path)
    assert [(row.ytid, row.number, row.caption) for row in read.rows] == [("a", 1, "x"), ("c", 3, 'x, "y"\nz')]
    assert [fault.number for fault in read.faults] == [2]
    with pytest.raises(UserError, match=r"has 1 rows that cannot be used .*row 2"):
        read_rows(path, strict=True)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="must be UTF-8"):
        read_rows(path)


def test_the_command(tmp_path: Path) -> None:
    source = table(tmp_path / "mc.csv", cells("a"), cells("b"))
    video(tmp_path / "sound" / "a.wav", 50.0)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["musiccaps", *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.stdout

    common = [str(source), str(tmp_path / "sound"), "--out", str(tmp_path / "out")]
    planned = json.loads(run(*common, "--dry-run"))
    assert (planned["rows"], planned["with_a_file"], planned["without_a_file"]) == (2, 1, 1)
    assert not (tmp_path / "out").exists()
    text = run(*common)
    assert "1 clips, 0.2 minutes" in text
    assert "1  missing" in text
    assert json.loads(run(*common, "--json"))["fresh"] == 0
    faults = {
        (str(tmp_path / "no.csv"), *common[1:]): "does not exist",
        (str(source), str(tmp_path / "none"), *common[2:]): "is not a folder",
        (*common, "--held-out", "some"): "choose hash, eval, balanced, none",
        (str(source), str(tmp_path / "out"), *common[2:]): "holds no audio",
        (str(source), str(tmp_path / "out" / "clips"), *common[2:]): "choose another --out",
    }
    for arguments, said in faults.items():
        with pytest.raises(UserError, match=said):
            run(*arguments)
    (tmp_path / "other").mkdir()
    video(tmp_path / "other" / "x.wav", 3)
    with pytest.raises(UserError, match=r"none of the 2 rows .*no file's name holds a ytid"):
        run(str(source), str(tmp_path / "other"), "--out", str(tmp_path / "new"))
    (tmp_path / "other" / "manifest.jsonl").write_text("{}")
    with pytest.raises(UserError, match="a manifest that MusicCaps did not make"):
        run(*common[:3], str(tmp_path / "other"))
