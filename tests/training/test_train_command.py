from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from eisbach.cli.main import main
from eisbach.config import build_config, dump_yaml
from eisbach.training.config import TrainConfig

Command = Callable[..., int]


@pytest.fixture
def eisbach(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command line in this process and returns its exit code."""

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["eisbach", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0)

    return run


def test_a_dry_run_prints_the_resolved_recipe_and_makes_nothing(
    eisbach: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {manifest: a}\nsteps: 5\n")
    out = tmp_path / "run"
    code = eisbach(
        "train", str(recipe), "--dry-run", "--set", "optimiser.lr=0.5", "--data", "b", "--data", "c", "--out", str(out)
    )
    assert code == 0
    config = build_config(TrainConfig, yaml.safe_load(capsys.readouterr().out))
    assert (config.steps, config.optimiser.lr, config.data.manifest, config.out) == (5, 0.5, ["b", "c"], str(out))
    assert not out.exists()


@pytest.mark.parametrize(
    "change", ["weighting.sample=nosuch", "weighting.noise_level=nosuch", "noise_levels.density=nosuch"]
)
def test_a_dry_run_checks_the_names_of_weightings_and_densities(
    eisbach: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {manifest: a}\n")
    assert eisbach("train", str(recipe), "--dry-run", "--set", change) == 2
    streams = capsys.readouterr()
    assert "'nosuch' is not known; choose one of" in streams.err
    assert streams.out == ""


def test_the_command_trains_prints_the_folder_and_continues_nothing_that_is_finished(
    eisbach: Command, configure: Callable[..., TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(steps=1)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump_yaml(config))
    assert eisbach("train", str(recipe)) == 0
    streams = capsys.readouterr()
    assert streams.out.strip() == config.out
    assert "is finished: 1 steps, adapter/ written" in streams.err
    assert eisbach("train", str(recipe), "--quiet") == 0
    assert capsys.readouterr().err == ""


def test_a_folder_of_recordings_needs_no_manifest(
    eisbach: Command, configure: Callable[..., TrainConfig], clips: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    music = tmp_path / "my music"
    music.mkdir()
    for file in clips.glob("*.wav"):
        shutil.copy(file, music)
    (music / "broken.wav").write_bytes(b"RIFF")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump_yaml(configure(steps=1)))
    assert eisbach("train", str(recipe), "--data", str(music), "--dry-run") == 0
    assert not (music / "manifest.jsonl").exists()
    assert eisbach("train", str(recipe), "--data", str(music)) == 0
    told = capsys.readouterr().err
    assert f"{music} had no manifest, so {music / 'manifest.jsonl'} was made: 10 clips" in told
    assert "1 left out" in told
    assert eisbach("train", str(recipe), "--data", str(music)) == 0
    assert "had no manifest" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("data: {manifest: a}\nsteps: 0\nmomentum: 1\n", "2 faults"),
        ("- 1\n", "must be a mapping"),
        ("a: [", "not valid YAML"),
        ("steps: 5\n", "'data' is required"),
        ("data: {manifest: nowhere}\n", "nowhere"),
        ("data: 7\n", "data"),
    ],
)
def test_a_bad_recipe_is_one_sentence_and_exit_code_2(
    eisbach: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, part: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    assert eisbach("train", str(recipe), "--out", str(tmp_path / "run")) == 2
    error = capsys.readouterr().err
    assert part in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1


def test_a_missing_recipe_is_one_sentence(eisbach: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert eisbach("train", str(tmp_path / "nowhere.yaml")) == 2
    assert "does not exist" in capsys.readouterr().err


def test_checking_a_recipe_does_not_import_torch() -> None:
    code = "import sys, eisbach.cli.train, eisbach.training, eisbach.training.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
