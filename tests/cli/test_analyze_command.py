from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile as sf
from typer.testing import CliRunner

from eisbach.audio import write_audio
from eisbach.cli.analyze import collect
from eisbach.cli.main import app
from eisbach.data.manifest import Manifest, ManifestRow, save_manifest
from eisbach.errors import UserError
from eisbach.structure import synthetic

RUN = CliRunner()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("audio")
    write_audio(root / "flat" / "loop.flac", synthetic.loop(2.0, 1, 20.0))
    write_audio(root / "moving" / "form.flac", synthetic.form("ABCD", 5.0, 1))
    sf.write(root / "moving" / "nan.wav", np.full(3000, np.nan), 22050, subtype="FLOAT")
    return root


def test_table_files_and_pictures(folders, tmp_path):
    result = RUN.invoke(app, ["analyze", str(folders), "--out", str(tmp_path), "--pictures", "-q"])
    assert result.exit_code == 0, result.output
    assert "judged flat" in result.output
    assert "nan.wav holds 3000 NaN" in result.output
    assert (tmp_path / "records.parquet").is_file()
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2


def test_json_is_only_json(folders):
    result = RUN.invoke(app, ["analyze", str(folders), "--json", "-q"])
    data = json.loads(result.stdout)
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
    [(["nowhere"], "does not exist"), (["EMPTY"], "no audio files"), (["FOLDER", "--pictures"], "--out")],
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
