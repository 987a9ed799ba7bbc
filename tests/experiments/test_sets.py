"""Folders and manifests as sets: reading them, matching their clips, and what is refused before or after measuring."""

import json

import numpy as np
import pytest

from eisbach.audio import write_audio
from eisbach.data.manifest import Manifest, ManifestRow, save_manifest
from eisbach.errors import UserError
from eisbach.experiments.analysis import analyze_sets, plan_analysis
from eisbach.experiments.comparing import match_sets
from eisbach.experiments.measures import condition_notes, length_faults
from eisbach.experiments.sets import collect_sets
from eisbach.types import Waveform

RATE = 8_000


def tone(path, hz=220.0, seconds=2.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(int(RATE * seconds)) / RATE
    write_audio(path, Waveform((0.2 * np.sin(2 * np.pi * hz * t))[None].astype(np.float32), RATE))
    return path


def folder(root, name, stems):
    for index, stem in enumerate(stems):
        tone(root / name / f"{stem}.wav", 200.0 + 10 * index + 100 * len(name))
    return root / name


def manifest(root, name, rows):
    folder = root / name
    saved = []
    for number, labels in enumerate(rows):
        tone(folder / f"{number}.wav", 300.0 + 20 * number)
        saved.append(
            ManifestRow(f"c{number}", f"{number}.wav", f"words {labels.get('prompt_id', '')}", 2.0, labels, "0" * 64)
        )
    save_manifest(Manifest(saved, folder))
    return folder


def matched(paths, pair="auto", only=None):
    """How the clips of paths are matched, without measuring them."""
    found = collect_sets([str(path) for path in paths])
    by_set = {}
    for clip in found.clips:
        by_set.setdefault(str(clip.keys["group"]).rsplit("/", 1)[-1], []).append({**clip.keys, "path": str(clip.path)})
    if only is not None:
        by_set = {name: by_set[name] for name in only}
    return match_sets(by_set, pair, names=found.names, side_by_side=found.side_by_side)


def test_folders_are_matched_by_name_and_may_be_renamed(tmp_path):
    a, b = folder(tmp_path, "a", ["x", "y", "z"]), folder(tmp_path, "b", ["x", "y"])
    paths = [str(a), f"barrier={b}"]
    assert list(collect_sets(paths).sizes.items()) == [(str(a), 3), ("barrier", 2)]
    found = matched(paths)
    assert (found.by, found.unmatched) == ("name", [])
    assert (matched(paths, "none").by, matched(paths, "none").unmatched) == ("none", ["barrier"])


def test_names_count_below_the_folder_and_endings_do_not(tmp_path):
    tone(tmp_path / "a/deep/x.wav")
    tone(tmp_path / "a/x.flac")
    tone(tmp_path / "a/x.wav", 330.0)
    found = collect_sets([str(tmp_path / "a"), f"b={folder(tmp_path, 'b', ['x'])}"])
    names = {found.names[str(clip.path)] for clip in found.clips if clip.keys["group"] != "b"}
    assert names == {"deep/x", "x.flac", "x.wav"}


def test_a_stray_common_name_is_chance_and_one_lonely_set_does_not_unpair_the_rest(tmp_path):
    a = folder(tmp_path, "a", ["one", "two", "three", "four"])
    b = folder(tmp_path, "b", ["one", "two", "three", "four"])
    c = folder(tmp_path, "c", ["one", "p", "q", "r"])
    found = matched([a, b, c])
    assert (found.by, found.unmatched) == ("name", ["c"])
    assert (matched([a, b, c], "name").by, matched([a, b, c], "name").unmatched) == ("name", [])
    alone = matched([a, b, c], only=["a", "c"])
    assert (alone.by, alone.unmatched) == ("none", ["c"])
    assert "c could not be matched" in found.how


def test_albums_in_one_folder_are_not_matched_by_the_names_of_their_tracks(tmp_path):
    for album in ("first", "second"):
        folder(tmp_path / "music", album, ["01", "02", "03"])
    assert matched([tmp_path / "music"]).by == "none"
    assert matched([tmp_path / "music"], "name").by == "name"  # unless somebody asks for it


def test_manifests_are_matched_by_prompt_and_seed_whatever_the_file_names(tmp_path):
    labels = [{"prompt_id": p, "seed": s} for p in ("cat", "seal") for s in ("1", "2")]
    a = manifest(tmp_path, "a", labels)
    b = manifest(tmp_path, "b", [entry | {"train_seed": "3"} for entry in reversed(labels)])
    paths = [str(a), str(b / "manifest.jsonl")]
    for pair in ("auto", "prompt"):
        assert (matched(paths, pair).by, matched(paths, pair).unmatched) == ("prompt", [])
    analysed = analyze_sets(plan_analysis(paths), quiet=True)
    rows = analysed.sets.records
    assert [(r["arm"], r["prompt_id"], r["seed"], r["train_seed"]) for r in rows][3:5] == [
        ("a", "seal", "2", None), ("b", "seal", "2", 3)
    ]  # fmt: skip
    assert analysed.captions == {"cat": "words cat", "seal": "words seal"}


def test_one_manifest_of_several_arms_is_several_sets(tmp_path):
    rows = [{"arm": arm, "prompt_id": "p", "seed": "0"} for arm in ("plain", "barrier")]
    path = manifest(tmp_path, "all", rows)
    assert list(collect_sets([str(path)]).sizes) == ["plain", "barrier"]
    assert list(collect_sets([f"run={path}"]).sizes) == ["run/plain", "run/barrier"]


def test_broken_files_are_reported_and_a_set_of_only_broken_files_is_refused(tmp_path):
    a, b = folder(tmp_path, "a", ["x", "y"]), folder(tmp_path, "b", ["x", "y"])
    (b / "bad.wav").write_bytes(b"RIFF nothing")
    (b / "empty.flac").write_bytes(b"")
    analysed = analyze_sets(plan_analysis([a, b], out=tmp_path / "out"), quiet=True)
    assert len(analysed.records) == 4
    assert sorted(item.item.rsplit("/", 1)[1] for item in analysed.skips.skipped) == ["bad.wav", "empty.flac"]
    assert (tmp_path / "out/records.parquet").is_file()
    (tmp_path / "c").mkdir()
    (tmp_path / "c/bad.wav").write_bytes(b"no")
    with pytest.raises(UserError, match=r"none of the 1 files of the set '.*/c' could be analysed"):
        analyze_sets(plan_analysis([a, tmp_path / "c"], pair="none"), quiet=True)


def test_mistakes_get_one_sentence(tmp_path):
    a, b = folder(tmp_path, "a", ["x"]), folder(tmp_path, "b", ["y"])
    (tmp_path / "empty").mkdir()
    for arguments, said in [
        ([str(a), str(tmp_path / "none")], "does not exist"),
        ([str(a), str(tmp_path / "empty")], "holds no audio"),
        ([str(a), f"again={a}"], "very same files"),
        ([str(a), f"={b}"], "must look like"),
        ([], "nothing to read"),
    ]:
        with pytest.raises(UserError, match=said):
            collect_sets(arguments)
    for wanted, said in [
        ("prompt", "no values of prompt and seed"),
        ("name", "no values of name"),
        ("luck", "no values of luck"),
        (" , ", "--pair is empty"),
    ]:
        with pytest.raises(UserError, match=said):
            plan_analysis([a, b], pair=wanted)


def test_several_paths_of_one_name_are_one_set(tmp_path):
    a, b = folder(tmp_path, "a", ["x"]), folder(tmp_path, "b", ["y"])
    assert collect_sets([f"s={a}", f"s={b}"]).sizes == {"s": 2}


def test_unequal_lengths_bandwidths_and_silence_are_pointed_out():
    rows = [
        {"arm": "a", "duration": 30.0, "bandwidth_hz": 3_900.0, "flags": "narrow_band"},
        {"arm": "b", "duration": 60.0, "bandwidth_hz": 16_000.0, "flags": "silent;clipped"},
    ]
    notes = " ".join(condition_notes(rows))
    for said in ("from 30.0 to 60.0 s", "a 3.9 kHz, b 16.0 kHz", "1 clip is silent", "1 clip is clipped"):
        assert said in notes
    assert condition_notes(rows[:1]) == []


def lengths(**by_set):
    return [
        {"arm": arm, "train_seed": None, "prompt_id": f"p{n}", "seed": "0", "duration": seconds}
        for arm, own in by_set.items()
        for n, seconds in enumerate(own)
    ]


@pytest.mark.parametrize(
    ("other", "unmatched", "refused"),
    [
        ([30.0] * 6, (), False),
        ([31.0] * 6, (), False),  # within a tenth
        ([60.0] * 6, (), True),
        ([60.0] * 6, ("b",), True),
        ([30.0, 30.0, 30.0, 30.0, 30.0, 300.0], ("b",), True),  # equal medians, other means
        ([20.0, 40.0, 30.0, 30.0, 30.0, 30.0], (), True),  # equal on average, unlike pair by pair
        ([20.0, 40.0, 30.0, 30.0, 30.0, 30.0], ("b",), False),
    ],
)
def test_sets_of_unequal_length_get_no_verdict(other, unmatched, refused):
    faults = length_faults(lengths(a=[30.0] * 6, b=other), ["a", "b"], unmatched)
    assert set(faults) == ({"b"} if refused else set())
    if refused:
        assert "No verdict on b" in faults["b"]
        assert "--seconds" in faults["b"]


def test_lengths_that_are_not_known_refuse_nothing():
    assert length_faults(lengths(a=[None] * 3, b=[30.0] * 3), ["a", "b"]) == {}


def test_what_was_measured_is_written_once(tmp_path):
    a, b = folder(tmp_path, "a", ["x", "y"]), folder(tmp_path, "b", ["x", "y"])
    analysed = analyze_sets(plan_analysis([a, b], out=tmp_path / "out"), quiet=True)
    written = json.loads((tmp_path / "out/comparison.json").read_text())
    assert written == json.loads(json.dumps(analysed.to_json()))
    assert written["matched_by"] == "name"
