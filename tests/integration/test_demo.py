"""The whole chain by its command, on inputs small enough for a test."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from own_process import OwnProcess, eisbach, start_eisbach
from typer.testing import CliRunner

from eisbach.audio import audio_hash, write_audio
from eisbach.cli.main import app
from eisbach.data.manifest import load_manifest
from eisbach.errors import UserError
from eisbach.files import find_files
from eisbach.statistics.records import load_records
from eisbach.training.checkpoint import list_checkpoints
from eisbach.types import Waveform

SMALL = [
    "training.steps=3",
    "training.batch_size=2",
    "training.warmup_steps=1",
    "training.adapter.rank=2",
    "training.checkpoint.every=1",
    "generation.num_inference_steps=2",
    "generation.batch_size=2",
]
TWO_PROMPTS = 'generation.prompts=[{"id": "a", "text": "slow low cello"}, {"id": "b", "text": "fast high celesta"}]'


def command(model: Path, out: Path, *more: str) -> list[str]:
    changes = [part for change in [*SMALL, f"training.model={model}", TWO_PROMPTS] for part in ("--set", change)]
    return ["demo", "--out", str(out), "--quick", *more, *changes]


def clips(root: Path) -> list[Path]:
    """Finished clips, while another process may be writing and removing beside them; a kill may leave a hidden partial
    file."""
    return find_files(root / "arms", (".flac",))


def sounds(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): audio_hash(path) for path in clips(root)}


@pytest.mark.whole
def test_the_demo_from_scores_to_page(tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    result = CliRunner().invoke(
        app, command(tiny_model, out, "--set", "material.clips=10", "--set", "material.seed=1"), catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    page = out / "report" / "index.html"
    assert str(page) in result.stdout
    manifest = load_manifest(out / "data")
    assert sum(row.labels["flat"] == "true" for row in manifest) == 7
    assert sum(row.labels["kind"] == "developing" for row in manifest) == 3
    records = load_records(out)
    assert {(row["arm"], row["prompt_id"]) for row in records} == {
        (arm, prompt)
        for arm in ("plain", "eq5", "paper-sample", "recommended", "oracle", "base")
        for prompt in ("a", "b")
    }
    text = page.read_text(encoding="utf-8")
    summary = json.loads((out / "summary.json").read_text())
    for label in (
        "plain",
        "Eq. 5",
        "weight per sample",
        "recommended weighting",
        "untrained base",
        "Held-out performances",
    ):
        assert label in text
    assert summary["verdict"].startswith("A rehearsal (--quick)")
    assert "Is it nearer to held-out performances?" in summary["verdict"]
    assert not (out / "arms" / "base" / "seed-0" / "train").exists()
    assert summary["verdict"] in result.stdout
    assert "http://" not in text.replace("http://www.w3.org", "")
    for line in ("Eq. 5", "oracle"):
        assert any(line in printed and "flat" in printed for printed in result.stdout.splitlines())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four clips of somebody's, with captions beside three of them."""
    root = tmp_path / "own audio"
    rate = 8000
    seconds = np.arange(31 * rate) / rate
    for index in range(5):
        steps = 2 ** ((seconds // (1 + index) % 7) / 12)
        samples = 0.3 * np.sin(2 * np.pi * np.cumsum(200.0 * (index + 1) * steps) / rate)
        write_audio(root / f"{index}.wav", Waveform(samples.astype(np.float32)[None], rate))
        if index < 4:
            (root / f"{index}.txt").write_text("slow low cello")
    return root


def kill_when(process: OwnProcess, happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not happened():
        assert process.poll() is None, process.wait()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.wait()


def straight(tiny_model: Path, out: Path, folder: Path) -> None:
    arguments = command(tiny_model, out, "--data", str(folder))
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "4.wav is left out: has no caption" in result.stderr
    assert not (folder / "manifest.jsonl").exists()


@pytest.mark.whole
def test_own_audio(tiny_model: Path, tmp_path: Path, folder: Path) -> None:
    out = tmp_path / "own"
    straight(tiny_model, out, folder)
    summary = json.loads((out / "summary.json").read_text())
    assert "oracle" not in summary["arms"]
    assert summary["recovered"] == []
    assert any("no oracle" in note for note in summary["notes"])
    page = (out / "report" / "index.html").read_text()
    assert "no oracle arm" in page
    material = json.loads((out / "material.json").read_text())
    assert (material["clips"], material["looked_at"]) == (4, len(material["weighed"]))
    for said in ("Is it nearer to your music?", "through the codec", "What the recommended weighting would favour"):
        assert said in page


@pytest.mark.slow
def test_own_audio_killed_twice_and_continued(tiny_model: Path, tmp_path: Path, folder: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    straight(tiny_model, whole, folder)
    arguments = command(tiny_model, broken, "--data", str(folder))
    # any checkpoint, not the first: two are kept, so on a loaded machine the first may be gone before anybody looks
    kill_when(start_eisbach(*arguments), lambda: bool(list_checkpoints(broken / "arms/eq5/seed-0/train/checkpoints")))
    kill_when(start_eisbach(*arguments), lambda: any("paper-sample" in path.parts for path in clips(broken)))
    before = {path: path.stat().st_mtime_ns for path in clips(broken)}
    assert len(before) >= 4
    final = eisbach(*arguments)
    assert final.returncode == 0, final.stderr
    assert sounds(broken) == sounds(whole)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert load_records(broken) == load_records(whole)


def test_a_folder_without_audio_is_one_sentence(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no audio"):
        CliRunner().invoke(
            app, command(tiny_model, tmp_path / "o", "--data", str(tmp_path / "empty")), catch_exceptions=False
        )


def test_a_model_that_is_missing_is_exit_code_2(tmp_path: Path) -> None:
    done = eisbach(*command(tmp_path / "nothing", tmp_path / "o", "--set", "material.clips=4"))
    assert done.returncode == 2
    assert "there is no model in" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_dry_run_writes_nothing(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "--dry-run", "--out", str(tmp_path / "o")], catch_exceptions=False)
    assert result.exit_code == 0
    assert "sample: recommended" in result.stdout
    assert not (tmp_path / "o").exists()
