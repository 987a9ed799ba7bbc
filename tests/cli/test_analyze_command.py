from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from typer.testing import CliRunner

from eisbach.audio import write_audio
from eisbach.cli.main import app
from eisbach.data.manifest import Manifest, ManifestRow, save_manifest
from eisbach.errors import UserError
from eisbach.experiments.sets import collect_clips
from eisbach.studies.ground_truth import synthetic
from eisbach.types import Waveform

RUN = CliRunner()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """The default folder of the command is in the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("audio")
    write_audio(root / "flat" / "loop.flac", synthetic.loop(2.0, 1, 20.0))
    write_audio(root / "moving" / "form.flac", synthetic.form("ABCD", 5.0, 1))
    sf.write(root / "moving" / "nan.wav", np.full(3000, np.nan), 22050, subtype="FLOAT")
    return root


@pytest.mark.whole
def test_table_files_and_pictures(folders, tmp_path):
    result = RUN.invoke(app, ["analyze", str(folders), "--out", str(tmp_path), "--pictures", "--no-page", "-q"])
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "index.html").exists()
    assert re.search(r"judged flat +1 of 1 +0 of 1", result.output)
    assert "nan.wav holds 3000 NaN" in result.output
    assert (tmp_path / "records.parquet").is_file()
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2


def test_json_is_only_json(folders):
    result = RUN.invoke(app, ["analyze", str(folders), "--json", "-q"])
    data = json.loads(result.stdout)
    assert not Path("analysis").exists()  # machine output alone leaves no files
    assert data["page"] is None
    assert set(data["groups"]) == {str(folders / "flat"), str(folders / "moving")}
    assert data["groups"][str(folders / "flat")]["share_flat"] == 1.0
    assert data["groups"][str(folders / "moving")]["share_flat"] == 0.0
    assert len(data["skipped"]) == 1


def test_dry_run_analyses_nothing(folders, tmp_path):
    result = RUN.invoke(app, ["analyze", str(folders), "--dry-run", "--out", str(tmp_path / "x")])
    assert len(json.loads(result.stdout)["clips"]) == 3
    assert not (tmp_path / "x").exists()


def test_a_device_is_looked_for_only_where_one_is_named(folders, tmp_path, monkeypatch):
    """To look for one imports torch, which takes as long as the rest of a small analysis."""
    asked = []
    monkeypatch.setattr("eisbach.experiments.analysis.place", asked.append)
    for options in ([], ["--device", "cpu"]):
        result = RUN.invoke(app, ["analyze", str(folders), "--dry-run", "--out", str(tmp_path / "x"), *options])
        assert result.exit_code == 0, result.output
    assert asked == ["cpu"]


def test_manifests_bring_labels_and_missing_files_are_reported(folders, tmp_path):
    write_audio(tmp_path / "a.flac", synthetic.drone(1, 13.0))
    labels = {"arm": "plain", "kind": "drone", "flat": "true"}
    rows = [ManifestRow(f"clip-{n}", f"{n}.flac", "x", 13.0, labels, "0" * 64, "train") for n in "ab"]
    save_manifest(Manifest(rows, tmp_path))
    result = RUN.invoke(app, ["analyze", str(tmp_path), "--json", "-q"])
    data = json.loads(result.stdout)
    assert set(data["groups"]) == {"plain"}
    assert data["records"][0]["id"] == "clip-a"
    assert data["records"][0]["kind"] == "drone"
    assert "b.flac" in data["skipped"][0]["reason"]


def test_a_file_named_twice_is_analysed_once(folders):
    clips = collect_clips([folders / "flat", folders / "flat" / "loop.flac"])
    assert len(clips) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "does not exist"),
        (["EMPTY"], "no audio files"),
        (["FOLDER", "--pictures", "--json"], "--out"),
        (["FOLDER", "--training", "FOLDER"], "--held-out"),
        (["FOLDER", "--by", "mood"], "no label 'mood'"),
        (["FOLDER", "--baseline", "nobody", "-q"], "flat, moving"),
        (["FOLDER", "--pair", "prompt_id", "-q"], "nothing can be matched"),
        (["FOLDER", "--metrics", "beauty", "-q"], "'beauty'"),
        (["FOLDER", "--clip", "nobody", "-q"], "no clip has the id 'nobody'"),
    ],
)
def test_mistakes_are_user_errors(arguments, message, folders, tmp_path):
    places = {"EMPTY": str(tmp_path), "FOLDER": str(folders)}
    result = RUN.invoke(app, ["analyze", *[places.get(a, a) for a in arguments]])
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "x.wav").write_bytes(b"nothing")
    result = RUN.invoke(app, ["analyze", str(tmp_path), "-q"])
    assert isinstance(result.exception, UserError)
    assert "none of the 1 files" in str(result.exception)


@pytest.mark.whole
def test_two_folders_give_a_page_that_needs_no_network(folders):
    result = RUN.invoke(app, ["analyze", str(folders / "flat"), str(folders / "moving"), "-q"])
    assert result.exit_code == 0, result.output
    out = Path("analysis")
    assert {path.name for path in out.iterdir()} >= {
        "index.html", "records.jsonl", "records.parquet", "details.jsonl", "comparison.json", "comparison.csv"
    }  # fmt: skip
    page = (out / "index.html").read_text()
    assert "moving beside flat" in page
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    assert "nan.wav holds 3000 NaN" in page
    assert page.count("data:audio/") == 2
    # the form ABCD falls into sections, the loop does not
    assert 'aria-label="Section A, 0:00 to' in page
    assert "rests on a single clip" in page
    assert str(out / "index.html") in result.stdout


def test_numbers_beside_the_page_agree(folders):
    RUN.invoke(app, ["analyze", str(folders / "flat"), str(folders / "moving"), "-q", "--listen", "0"])
    rows = {
        (row["metric"], row["set"]): row
        for row in csv.DictReader(Path("analysis/comparison.csv").read_text().splitlines())
    }
    compared = json.loads(Path("analysis/comparison.json").read_text())
    means = {name: compared["means"][name]["block_strength"]["mean"] for name in ("flat", "moving")}
    assert compared["reference"] == "flat"
    assert float(rows["block_strength", "moving"]["difference"]) == pytest.approx(means["moving"] - means["flat"])
    assert rows["block_strength", "moving"]["verdict"] == "too few"
    assert "No clip is embedded" in Path("analysis/index.html").read_text()


@pytest.mark.whole
def test_a_second_run_takes_up_the_first(folders, monkeypatch):
    arguments = ["analyze", str(folders / "flat"), "-q", "--listen", "0"]
    assert RUN.invoke(app, arguments).exit_code == 0
    first = Path("analysis/records.jsonl").read_text()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("analysed again")

    monkeypatch.setattr("eisbach.structure.batch._run", lambda *a, **k: iter(()) if not a[0] else refuse())
    result = RUN.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert Path("analysis/records.jsonl").read_text() == first


def test_sets_by_label_and_by_name(folders, tmp_path):
    rows = []
    for index, kind in enumerate(["loop", "drone"]):
        write_audio(tmp_path / f"{kind}.flac", synthetic.drone(index, 4.0))
        rows.append(ManifestRow(kind, f"{kind}.flac", "", 4.0, {"kind": kind}, str(index) * 64, "train"))
    save_manifest(Manifest(rows, tmp_path))
    assert [clip.keys["group"] for clip in collect_clips([tmp_path], "kind")] == ["loop", "drone"]
    named = collect_clips([Path(f"one={folders / 'flat'}"), Path(f"two={folders / 'moving'}")])
    assert {clip.keys["group"] for clip in named} == {"one", "two"}
    alone = collect_clips([folders / "flat", folders])
    assert {clip.keys["group"] for clip in alone} == {str(folders / "flat"), str(folders)}


def test_clips_of_a_second_are_reported_and_not_fatal(tmp_path):
    for name in ("a", "b"):
        write_audio(tmp_path / name / "short.flac", synthetic.drone(1, 1.0))
    result = RUN.invoke(app, ["analyze", str(tmp_path / "a"), str(tmp_path / "b"), "-q"])
    assert result.exit_code == 0, result.output
    assert "No metric is defined" in result.stdout
    page = Path("analysis/index.html").read_text()
    assert "Too short for sections" in page
    assert "too_short" in page


RATE = 16_000


def passages(path, develops, seed, seconds=10.0):
    """One held chord, or four passages that differ."""
    rng = np.random.default_rng(seed)
    t = np.arange(int(RATE * seconds)) / RATE
    samples = np.zeros_like(t)
    for part in range(4):
        inside = (t >= seconds / 4 * part) & (t < seconds / 4 * (part + 1))
        base = (110 * 2 ** rng.integers(0, 4)) * (1 + 2 * part) if develops else 220.0
        level = 0.05 * (1 + 3 * part) if develops else 0.2
        samples[inside] = level * sum(np.sin(2 * np.pi * base * k * t[inside]) / k for k in (1, 2, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, Waveform((samples + 1e-3 * rng.standard_normal(len(t)))[None].astype(np.float32), RATE))


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    root = tmp_path_factory.mktemp("compared")
    for index in range(5):
        passages(root / f"flat/{index}.wav", False, index)
        passages(root / f"rich/{index}.wav", True, index)
        passages(root / f"upper/{index}.wav", True, 50 + index)
    passages(root / "other/alone.flac", True, 9)
    (root / "rich/broken.mp3").write_bytes(b"not music")
    return root


def run(*arguments):
    return RUN.invoke(app, ["analyze", *map(str, arguments)])


@pytest.mark.whole
def test_two_folders_give_numbers_records_and_players(compared, tmp_path):
    result = run(compared / "flat", f"new={compared / 'rich'}", "--out", tmp_path, "--json", "--quiet", "--no-pictures")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    statistics = said["comparison"]["statistics"]
    by_metric = {each["metric"]: each for each in statistics["comparisons"]}
    assert by_metric["level_range"]["difference"] > 5
    assert by_metric["level_range"]["p"] == pytest.approx(2 / 2**5)
    assert by_metric["level_range"]["n_units"] == 5
    assert (said["comparison"]["matched_by"], statistics["baseline"]) == ("name", "flat")
    assert [item["item"].endswith("broken.mp3") for item in said["skipped"]] == [True]
    assert said["verdict"] in said["sentences"]
    page = (tmp_path / "index.html").read_text()
    assert page.count("<audio") == 10
    assert "broken.mp3" in page
    assert "<img" not in page.partition('id="listen"')[2].partition('id="pictures"')[0]
    assert "pair: auto" in page  # the exact configuration
    assert json.loads((tmp_path / "comparison.json").read_text()) == said["comparison"]
    assert (tmp_path / "records.parquet").is_file()


def test_three_sets_of_unequal_size_in_words(compared, tmp_path):
    result = run(compared / "flat", compared / "rich", compared / "other", "--out", tmp_path, "--no-page", "--quiet",
                 "--primary", "level_range,is_flat")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "\nWith rich, level range was" in result.stdout
    assert "other against flat" in result.stdout
    assert "other could not be matched: every clip of it counts as one" in result.stdout
    assert not (tmp_path / "index.html").exists()


@pytest.mark.whole
def test_an_oracle_gives_recovered_shares_in_numbers_and_words(compared, tmp_path):
    result = run(compared / "flat", compared / "rich", compared / "upper", "--baseline", "flat", "--oracle", "upper",
                 "--primary", "level_range:higher", "--out", tmp_path, "--quiet", "--listen", "0")  # fmt: skip
    assert result.exit_code == 0, result.output
    statistics = json.loads((tmp_path / "comparison.json").read_text())["statistics"]
    (share,) = statistics["recovered"]
    assert (statistics["oracle"], share["arm"], share["metric"]) == ("upper", "rich", "level_range")
    assert share["share"] == pytest.approx(1.0, abs=0.2)
    assert "ich recovers" in result.stdout
    assert "ich recovers" in (tmp_path / "index.html").read_text()
    by_metric = {each["metric"]: each for each in statistics["comparisons"] if each["arm"] == "rich"}
    assert by_metric["level_range"]["verdict"] == "inconclusive"  # five pairs reach no p under .0625
    assert {info["name"]: info["better"] for info in statistics["metrics"]}["level_range"] == "higher"


def test_dry_run_writes_nothing_and_says_what_would_be_compared(compared, tmp_path):
    result = run(compared / "flat", compared / "rich", "--dry-run", "--out", tmp_path / "out", "--baseline", "rich")
    assert json.loads(result.stdout)["baseline"] == "rich"
    assert json.loads(result.stdout)["sets"][str(compared / "rich")] == 6
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--baseline", "q"], "--baseline is 'q'"),
        (["--oracle", "q"], "--oracle is 'q'"),
        (["--oracle", "flat"], "must be different sets"),
        (["--metrics", "beauty"], "no metric named 'beauty'"),
        (["--primary", "is_flat:good"], "METRIC:higher or METRIC:lower"),
        (["--metrics", "level_range", "--primary", "is_flat"], "add it to --metrics"),
        (["--metrics", "motif_coverage"], "no clip has a value for the metric 'motif_coverage'"),
        (["--pair", "luck"], "nothing can be matched"),
        (["--seconds", "0"], "--seconds is 0"),
        (["--seconds", "nan"], "--seconds is nan"),
        (["--seconds", "5", "--from", "end"], "--from is 'end'"),
        (["--seconds", "60"], "none of the 11 clips can be cut to 60 s"),
    ],
)
def test_mistakes_are_one_sentence(compared, tmp_path, options, said):
    result = run(compared / "flat", compared / "rich", "--out", tmp_path, "--quiet", "--no-page", *options)
    assert isinstance(result.exception, UserError)
    assert said in str(result.exception)
    assert str(result.exception).endswith(".")
    assert "\n" not in str(result.exception)


@pytest.mark.slow
def test_sets_of_unequal_length_get_no_verdict_until_they_are_cut(tmp_path):
    for index in range(6):
        passages(tmp_path / f"short/{index}.wav", False, index, seconds=10.0)
        passages(tmp_path / f"long/{index}.wav", True, index, seconds=20.0)
    out = tmp_path / "out"
    result = run(tmp_path / "short", tmp_path / "long", "--out", out, "--quiet")
    assert result.exit_code == 0, result.output
    compared = json.loads((out / "comparison.json").read_text())
    assert {each["verdict"] for each in compared["statistics"]["comparisons"]} == {"not comparable"}
    assert "20.0 s (median) and those of short 10.0 s" in compared["refused"]["long"]
    assert "--seconds 10" in result.stdout
    page = (out / "index.html").read_text()
    verdict = page.partition('class="verdict"')[2].partition("</div>")[0]
    assert "No verdict on long" in verdict
    assert not re.search(r"differs from|▲|▼", page.partition('id="listen"')[0].partition('class="key"')[0])
    cut = tmp_path / "cut"
    result = run(tmp_path / "short", tmp_path / "long", "--out", cut, "--quiet", "--seconds", "10", "--from", "middle")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (cut / "records.jsonl").read_text().splitlines()]
    assert {row["duration"] for row in rows} == {10.0}
    assert {row["cut_start"] for row in rows if row["group"].endswith("long")} == {5.0}
    compared = json.loads((cut / "comparison.json").read_text())
    assert compared["refused"] == {}
    assert compared["matched_by"] == "name"
    assert "not comparable" not in {each["verdict"] for each in compared["statistics"]["comparisons"]}
    assert "--seconds" not in "".join(compared["notes"])


def test_the_former_command_names_the_new_one(compared):
    result = RUN.invoke(app, ["compare", "a b/", "c/", "--pairing", "name", "--oracle", "c"])
    assert isinstance(result.exception, UserError)
    assert str(result.exception).endswith("eisbach analyze 'a b/' c/ --pair name --oracle c .")
    assert not re.search(r"^\W*compare\b", RUN.invoke(app, ["--help"]).output, flags=re.MULTILINE)
