"""Checkpoints of a training beside one another: what each plays, on one page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from eisbach import adapters
from eisbach.adapters.formats import peft as peft_format
from eisbach.backbones import load_backbone
from eisbach.cli.main import app
from eisbach.config import build_config
from eisbach.data.manifest import load_manifest
from eisbach.errors import UserError
from eisbach.files import write_text
from eisbach.generation import GenerateConfig
from eisbach.output_folder import weights_identity
from eisbach.report.checkpoints import compare_checkpoints
from eisbach.training.checkpoint import write_checkpoint

RUN = CliRunner()


def save_run(model: Path, root: Path, sizes: dict[int, float], averaged: bool = False) -> Path:
    """A run folder as training leaves it, its adapter growing from checkpoint to checkpoint."""
    backbone = load_backbone(model)
    identity = backbone.identity()
    config = adapters.adapter_config(backbone, kind="dora", rank=2, alpha=2.0)
    parameters = adapters.inject(backbone, config, seed=0)
    write_text(root / "config.yaml", f"model: {model}\nsteps: {max(sizes)}\n")
    generator = torch.Generator().manual_seed(1)
    directions = {name: torch.randn(value.shape, generator=generator) for name, value in parameters.items()}
    begun = {name: value.detach().clone() for name, value in parameters.items()}
    for step, size in sizes.items():
        with torch.no_grad():
            for name, value in parameters.items():
                value.copy_(begun[name] + size * directions[name])
        files = {peft_format.WEIGHTS: peft_format.adapter_tensors(backbone.module)}
        if averaged:
            files["average.safetensors"] = {name: 2 * value.detach() for name, value in parameters.items()}
        texts = {peft_format.CONFIG: peft_format.config_values(config)}
        write_checkpoint(root / "checkpoints", step, files, texts, {"base_identity": identity}, keep=9)
    return root


def config_of(out: Path, **changes: Any) -> GenerateConfig:
    values: dict[str, Any] = {
        "out": str(out),
        "prompts": [{"id": "calm", "text": "slow cello"}, {"id": "fast", "text": "fast piano"}],
        "num_inference_steps": 2,
        "duration": 9.0,
    }
    return build_config(GenerateConfig, values | changes)


@pytest.fixture(scope="module")
def compared(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compared")
    save_run(tiny_model, root / "run", {10: 0.2, 20: 0.6})
    compare_checkpoints(root / "run", config_of(root / "out"), quiet=True)
    return root


@pytest.mark.whole
def test_every_checkpoint_plays_beside_the_base_from_the_same_noise(compared: Path) -> None:
    out = compared / "out"
    sounds = {name: [row.audio_hash for row in load_manifest(out / name)] for name in ("base", "step-10", "step-20")}
    assert all(len(set(sounds[name])) == 2 for name in sounds)
    assert len({value for hashes in sounds.values() for value in hashes}) == 6
    stamps = [json.loads((out / name / "generation.json").read_text()) for name in sounds]
    assert [stamp["arm"] for stamp in stamps] == ["base", "step-10", "step-20"]
    assert len({stamp["model_identity"] for stamp in stamps}) == 1
    played = compared / "run" / "checkpoints" / "step-000020"
    assert stamps[2]["adapter_identity"] == weights_identity(played)


@pytest.mark.whole
def test_the_page_says_what_is_flat_and_lets_every_clip_be_heard(compared: Path) -> None:
    page = (compared / "out" / "index.html").read_text()
    assert "Checkpoints of run" in page
    assert page.count("data:audio/") == 6
    for name in ("base", "step-10", "step-20"):
        assert name in page
    assert page.count("judged flat") + page.count("judged developing") >= 6


@pytest.mark.whole
def test_later_checkpoints_join_and_nothing_is_played_twice(compared: Path, tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(compared, tmp_path / "c")
    run, out = tmp_path / "c" / "run", tmp_path / "c" / "out"
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.flac")}
    save_run(tiny_model, tmp_path / "longer", {10: 0.2, 20: 0.6, 30: 1.0})
    shutil.copytree(tmp_path / "longer/checkpoints/step-000030", run / "checkpoints" / "step-000030")
    done = compare_checkpoints(run, config_of(out), quiet=True)
    assert list(done.flat) == ["base", "step-10", "step-20", "step-30"]
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_average_is_what_plays_where_one_was_kept(tiny_model: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from eisbach.training.publish import publish_checkpoint

    run = save_run(tiny_model, tmp_path / "run", {10: 0.3}, averaged=True)
    publish_checkpoint(run / "checkpoints" / "step-000010", tmp_path / "adapter")
    raw = load_file(run / "checkpoints/step-000010/adapter_model.safetensors")
    played = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert played.keys() == raw.keys()
    assert all(torch.equal(played[name], 2 * raw[name]) for name in raw)
    assert json.loads((tmp_path / "adapter" / "eisbach.json").read_text())["averaged"] is True
    adapters.attach(load_backbone(tiny_model), tmp_path / "adapter")


@pytest.mark.whole
def test_a_damaged_checkpoint_is_left_out_and_named(tiny_model: Path, tmp_path: Path) -> None:
    run = save_run(tiny_model, tmp_path / "run", {10: 0.2, 20: 0.6})
    weights = run / "checkpoints/step-000010/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    done = compare_checkpoints(run, config_of(tmp_path / "out"), quiet=True)
    assert list(done.flat) == ["base", "step-20"]
    (said,) = done.left_out
    assert "step-10 was left out: the checkpoint" in said
    (run / "checkpoints/step-000020/adapter_config.json").unlink()
    with pytest.raises(UserError, match="none of the 2 checkpoints"):
        compare_checkpoints(run, config_of(tmp_path / "other"), quiet=True)


def test_what_is_no_training_is_one_sentence(tiny_model: Path, tmp_path: Path) -> None:
    command = ["generate", "slow cello", "--compare-checkpoints"]

    def refused(run: Path, *more: str) -> str:
        with pytest.raises(UserError) as told:
            RUN.invoke(app, [*command, str(run), *more], catch_exceptions=False)
        return str(told.value)

    assert "is no training run" in refused(tmp_path)
    write_text(tmp_path / "fresh" / "config.yaml", "model: {create: {width: 32}}\n")
    assert "trained a model from nothing" in refused(tmp_path / "fresh")
    write_text(tmp_path / "empty" / "config.yaml", f"model: {tiny_model}\n")
    assert "has no checkpoint yet" in refused(tmp_path / "empty", "--out", str(tmp_path / "o"))
    assert "leave out --adapter" in refused(tmp_path / "empty", "--adapter", "x")
