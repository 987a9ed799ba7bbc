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
from eisbach.cli.analyze import collect
from eisbach.cli.main import app
from eisbach.data.manifest import Manifest, ManifestRow, save_manifest
from eisbach.errors import UserError
from eisbach.studies.ground_truth import synthetic

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


def test_table_files_and_pictures(folders, tmp_path):
    result = RUN.invoke(app, ["analyze", str(folders), "--out", str(tmp_path), "--pictures", "--no-page", "-q"])
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "index.html").exists()
    assert "judged flat" in result.output
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
    clips = collect([folders / "flat", folders / "flat" / "loop.flac"])
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
    assert [clip.keys["group"] for clip in collect([tmp_path], "kind")] == ["loop", "drone"]
    named = collect([Path(f"one={folders / 'flat'}"), Path(f"two={folders / 'moving'}")])
    assert {clip.keys["group"] for clip in named} == {"one", "two"}
    alone = collect([folders / "flat", folders])
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
