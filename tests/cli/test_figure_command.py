from __future__ import annotations

import json
import re

import numpy as np
import pytest
import soundfile as sf
from typer.testing import CliRunner

from eisbach.audio import write_audio
from eisbach.cli import figure as command
from eisbach.cli.main import app
from eisbach.data.manifest import Manifest, ManifestRow, save_manifest
from eisbach.errors import AudioError, UserError
from eisbach.report.structure.figures import KINDS
from eisbach.studies.ground_truth import synthetic

RUN = CliRunner()


def invoke(*arguments):
    return RUN.invoke(app, ["figure", *map(str, arguments), "-q"])


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """A generation folder: two arms, one prompt, and a file that cannot be read."""
    root = tmp_path_factory.mktemp("generated")
    rows = []
    for arm, clip in (("plain", synthetic.loop(2.0, 1, 12.0)), ("barrier", synthetic.form("AB", 6.0, 1))):
        write_audio(root / f"{arm}.flac", clip)
        labels = {"arm": arm, "prompt_id": "piglet", "seed": "42"}
        rows.append(ManifestRow(f"{arm}-piglet", f"{arm}.flac", "a prince", 12.0, labels, "0" * 64, "held_out"))
    save_manifest(Manifest(rows, root))
    return root


def test_the_names_of_the_help_are_those_of_the_library():
    assert list(KINDS) == list(command._NAMES)


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
@pytest.mark.whole
def test_endings_give_formats(generated, tmp_path, ending):
    out = tmp_path / f"mel.{ending}"
    result = invoke("mel", generated / "plain.flac", "--out", out)
    assert result.exit_code == 0, result.output
    assert out.read_bytes().startswith({"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[ending])
    assert str(out) in result.stdout


@pytest.mark.whole
def test_the_whole_set_from_a_generation_folder(generated, tmp_path):
    result = invoke("all", generated, "--out", tmp_path, "--format", "svg", "--json")
    assert result.exit_code == 0, result.output
    done = json.loads(result.stdout)
    names = {figure["kind"]: figure for figure in done["figures"]}
    assert set(names) == set(KINDS)
    assert sorted(path.name for path in tmp_path.glob("*.svg")) == sorted(f"{name}.svg" for name in KINDS)
    # the baseline stands first, and the figures of single clips show the method
    assert [clip["group"] for clip in names["baseline"]["clips"]] == ["plain", "barrier"]
    assert [clip["label"] for clip in names["ssm"]["clips"]] == ["barrier-piglet"]


@pytest.mark.whole
def test_a_broken_file_is_left_out_of_a_set_and_named(tmp_path):
    write_audio(tmp_path / "a.flac", synthetic.form("AB", 6.0, 2))
    sf.write(tmp_path / "b.wav", np.full(3000, np.nan), 22050, subtype="FLOAT")
    result = invoke("all", tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "b.wav" in result.stderr
    assert (tmp_path / "out" / "ssm.png").is_file()
    assert "clips" not in result.stdout  # no note of a choice where all were taken


def test_dry_run_draws_nothing(generated, tmp_path):
    result = invoke("ssm", generated, "--out", tmp_path / "x.png", "--dry-run", "--by", "prompt_id")
    plan = json.loads(result.stdout)[0]
    assert [clip["label"] for clip in plan["clips"]] == ["plain-piglet", "barrier-piglet"]
    assert {clip["group"] for clip in plan["clips"]} == {"piglet"}
    assert not (tmp_path / "x.png").exists()


def test_labels_replace_names(generated, tmp_path):
    out = tmp_path / "x.svg"
    result = invoke("mel", generated, "--out", out, "--label", "at 500 steps", "--label", "at 1000 steps")
    assert result.exit_code == 0, result.output
    text = re.sub(r"\s+", " ", out.read_text())
    assert "at 500 steps" in text
    assert "at 1000 steps" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pie", "FOLDER", "--out", "x.png"], "mel, ssm, spectrum, trajectory"),
        (["mel", "nowhere.wav", "--out", "x.png"], "does not exist"),
        (["mel", "FOLDER", "--out", "x.jpg"], "png, pdf, svg"),
        (["mel", "FOLDER", "--out", "x.wav"], "that is audio"),
        (["baseline", "FOLDER/plain.flac", "--out", "x.png"], "needs 2 clips"),
        (["mel", "FOLDER", "--out", "x.png", "--label", "one"], "2 clips came with 1 labels"),
        (["mel", "FOLDER", "--out", "x.png", "--by", "mood"], "no label 'mood'"),
        (["all", "FOLDER", "--out", "figures", "--baseline", "nobody"], "plain, barrier"),
        (["all", "FOLDER", "--out", "figures", "--format", "gif"], "not 'gif'"),
        (["all", "FOLDER", "--out", "figures.png"], "give a folder"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message, generated, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke(*[a.replace("FOLDER", str(generated)) for a in arguments])
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_too_many_clips_ask_for_a_sample(tmp_path):
    for index in range(3):
        write_audio(tmp_path / f"{index}.wav", synthetic.drone(index, 3.0))
    result = invoke("baseline", tmp_path, "--out", tmp_path / "x.png")
    assert "--most 2" in str(result.exception)
    result = invoke("baseline", tmp_path, "--out", tmp_path / "x.png", "--most", 2)
    assert "an even sample of 2 of 3 clips" in result.stdout


def test_unreadable_files_of_one_figure_are_an_error(tmp_path):
    (tmp_path / "x.wav").write_bytes(b"nothing")
    result = invoke("mel", tmp_path / "x.wav", "--out", tmp_path / "x.png")
    assert isinstance(result.exception, AudioError)


def test_silence_says_so(tmp_path):
    sf.write(tmp_path / "quiet.wav", np.zeros(22050 * 3), 22050)
    result = invoke("ssm", tmp_path / "quiet.wav", "--out", tmp_path / "x.png")
    assert "quiet is silent" in str(result.exception)
