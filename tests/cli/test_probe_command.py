import json

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from eisbach.audio import audio_hash, write_audio
from eisbach.cli.main import app
from eisbach.data.manifest import Manifest, ManifestRow, save_manifest
from eisbach.errors import ConfigError, UserError
from eisbach.types import Waveform


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Thirteen clips of 3 s: one sound at thirteen gains."""
    root = tmp_path_factory.mktemp("clips")
    time = np.arange(3 * 22050) / 22050
    sound = np.sin(2 * np.pi * 220 * time) * np.interp(time, [0, 1, 2, 3], [0.2, 0.9, 0.3, 0.6])
    rows = []
    for index, gain in enumerate(np.geomspace(0.02, 0.9, 13)):
        name = f"clip{index:02d}.wav"
        write_audio(root / name, Waveform((gain * sound)[None].astype(np.float32), 22050))
        labels = {"room": "dry" if index % 2 else "wet"}
        rows.append(ManifestRow(id=f"clip{index}", path=name, caption="a calm cello", duration=3.0, labels=labels,
                                audio_hash=audio_hash(root / name), split="train"))  # fmt: skip
    save_manifest(Manifest(rows, root), root / "manifest.jsonl")
    return root


def run(*arguments):
    return CliRunner().invoke(app, ["probe", *map(str, arguments)])


def small(clips, tiny_model, out, *more):
    return run("--data", clips, "--model", tiny_model, "--out", out, "--levels", "0.2,0.8", "--no-structure",
    "--no-gradients",
               "--set", "data.crop_seconds=3", "--set", "batch_size=2", "--quiet", *more)  # fmt: skip


def test_a_folder_of_recordings_gets_its_manifest_as_a_training_makes_it(clips, tiny_model, tmp_path):
    music = tmp_path / "music"
    music.mkdir()
    for file in clips.glob("*.wav"):
        (music / file.name).write_bytes(file.read_bytes())
        (music / f"{file.stem}.txt").write_text("a calm cello")
    done = small(music, tiny_model, tmp_path / "out", "--sample", "entropy_barrier")
    assert done.exit_code == 0, done.output
    assert (music / "manifest.jsonl").is_file()


def test_without_a_recipe_it_prints_a_verdict_and_writes_its_folder(clips, tiny_model, tmp_path):
    done = small(clips, tiny_model, tmp_path, "--sample", "entropy_barrier", "--label", "room", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["verdict"]["headline"].endswith(".")
    assert said["reused"] is False
    assert said["setup"]["clips"] == 13
    assert [one["t"] for one in said["explanation"]["levels"]] == [0.2, 0.8]
    assert said["explanation"]["separations"][0]["positive"] == "dry"
    held = json.loads((tmp_path / "probe.json").read_text())
    assert held["verdict"] == said["verdict"]
    assert (tmp_path / "index.html").is_file()
    assert (tmp_path / "pictures/levels.png").is_file()
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 26

    before = (tmp_path / "rows.jsonl").stat().st_mtime_ns
    again = small(clips, tiny_model, tmp_path, "--sample", "entropy_barrier", "--label", "room", "--json")
    assert json.loads(again.stdout)["reused"] is True
    assert json.loads(again.stdout)["verdict"] == said["verdict"]

    change = ("--sample", "entropy_barrier", "--set", "weighting.reduction=batch")
    rows = (tmp_path / "rows.jsonl").read_bytes()
    refused = small(clips, tiny_model, tmp_path, *change)
    assert isinstance(refused.exception, ConfigError)
    assert str(refused.exception) == (
        f"{tmp_path} holds a probe with other settings: train.weighting.reduction was 'sample' and is now 'batch'; "
        "add --fresh to replace it, or choose another --out."
    )
    assert (tmp_path / "rows.jsonl").read_bytes() == rows
    other = small(clips, tiny_model, tmp_path, *change, "--fresh")
    assert other.exit_code == 0, other.output
    assert other.stdout.startswith("This weighting is a constant here")
    assert "A setting to try: " in other.stdout
    assert f"page: {tmp_path / 'index.html'}" in other.stdout
    assert (tmp_path / "rows.jsonl").stat().st_mtime_ns != before


def test_a_mistyped_label_does_not_cost_the_measurements(clips, tiny_model, tmp_path):
    wrong = small(clips, tiny_model, tmp_path, "--sample", "entropy_barrier", "--label", "rom")
    assert isinstance(wrong.exception, UserError)
    assert "no label 'rom'; their labels are room" in str(wrong.exception)
    right = small(clips, tiny_model, tmp_path, "--sample", "entropy_barrier", "--label", "room", "--json")
    assert json.loads(right.stdout)["reused"] is True


def test_a_recipe_is_read_as_training_reads_it(clips, tiny_model, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    values = {"model": str(tiny_model), "data": {"manifest": str(clips), "crop_seconds": 3},
              "weighting": {"sample": "entropy_barrier", "strength": 0.3}, "steps": 5}  # fmt: skip
    recipe.write_text(yaml.safe_dump(values))
    done = run(recipe, "--noise-level", "min_snr", "--set", "weighting.strength=0.7", "--dry-run", "--clips", 5)
    resolved = yaml.safe_load(done.stdout)
    assert resolved["train"]["weighting"]["sample"] == "entropy_barrier"
    assert resolved["train"]["weighting"]["noise_level"] == "min_snr"
    assert resolved["train"]["weighting"]["strength"] == 0.7
    assert resolved["train"]["steps"] == 5
    assert resolved["clips"] == 5
    assert resolved["out"] == "runs/probe/entropy_barrier-min_snr"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "the probe has no data; add --data FOLDER"),
        (
            ["--data", "x", "--levels", "low,high"],
            "--levels is 'low,high'; give numbers separated by commas",
        ),
        (["--data", "x", "--levels", "0.5,1.5"], "every noise level must lie in (0, 1)"),
        (["--data", "x", "--clips", 0], "'clips': Input should be greater than or equal to 1"),
        (["--data", "x", "--set", "weighting.strenght=1"], "unknown key 'weighting.strenght'"),
        (["--data", "x", "--split", "test"], "'split'"),
        (["missing.yaml"], "the recipe missing.yaml does not exist"),
    ],
)
def test_mistakes_are_one_sentence(options, said):
    done = run(*options)
    assert isinstance(done.exception, (UserError, ConfigError))
    assert said in str(done.exception)
    assert "\n" not in str(done.exception)
    assert str(done.exception).endswith(".")
