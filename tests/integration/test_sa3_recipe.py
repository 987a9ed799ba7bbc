"""The paper's recipe on the tiny native checkpoint: from MusicCaps' CSV and audio to a file for Stability's loader."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

from eisbach.adapters import load_adapter
from eisbach.audio import write_audio
from eisbach.backbones import load_backbone
from eisbach.cli.main import app
from eisbach.config import build_config
from eisbach.data.manifest import load_manifest
from eisbach.training.config import TrainConfig
from eisbach.types import Waveform

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "sa3-medium-paper.yaml"
NATIVE = ROOT / "tests" / "fixtures" / "sa3_native_tiny"
CAPTIONS = (
    "slow strings and bassoon in a minor key",
    "celesta and pizzicato strings, playful and bright",
    "a cello alone",
    "a fast piano piece with drums",
    "a quiet choir",
)


def eisbach(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def musiccaps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five clips of MusicCaps' form (one of them held out), each a second long; a sixth was not fetched."""
    root = tmp_path_factory.mktemp("musiccaps")
    rng = np.random.default_rng(0)
    columns = ["ytid", "start_s", "end_s", "aspect_list", "caption", "is_audioset_eval"]
    with (root / "musiccaps-public.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(columns)
        for index, caption in enumerate((*CAPTIONS, "nobody has this one")):
            table.writerow([f"clip{index:07d}", 0, 1, "['music']", caption, index == 4])
    time = np.arange(44100) / 44100
    for index in range(5):
        tone = 0.2 * np.sin(2 * np.pi * 110 * (index + 1) * time) * np.linspace(0.1, 1, 44100)
        samples = np.stack([tone, 0.5 * tone]) + 0.01 * rng.standard_normal((2, 44100))
        write_audio(root / "audio" / f"clip{index:07d}.wav", Waveform(samples.astype(np.float32), 44100))
    eisbach(
        "data", "musiccaps", root / "musiccaps-public.csv", root / "audio",
        "--out", root / "data", "--held-out", "eval", "--jobs", "1",
    )  # fmt: skip
    assert len(load_manifest(root / "data")) == 5
    return root / "data"


def train(manifest: Path, out: Path, *changes: str) -> Path:
    """Three steps of the recipe; only the model, the data and lengths are others."""
    sets = [f"model={NATIVE}", "data.crop_seconds=0.4", "steps=3", "held_out.every=3", "tensorboard=false", *changes]
    flags = [part for change in sets for part in ("--set", change)]
    printed = eisbach("train", RECIPE, "--data", manifest, "--out", out, "--quiet", *flags)
    assert printed.strip() == str(out)
    return out


def test_the_recipe_says_what_the_paper_and_stability_s_trainer_say() -> None:
    config = build_config(TrainConfig, yaml.safe_load(RECIPE.read_text(encoding="utf-8")))
    assert (config.adapter.type, config.adapter.rank, config.adapter.alpha) == ("dora", 16, 16.0)
    assert (config.steps, config.batch_size, config.accumulation, config.optimiser.lr) == (1000, 4, 1, 5e-5)
    assert (config.weighting.sample, config.weighting.strength, config.weighting.reduction) == (
        "entropy_barrier",
        0.5,
        "batch",
    )
    assert config.precision == "bf16"
    assert (config.optimiser.betas, config.optimiser.weight_decay) == ((0.9, 0.95), 0.01)
    assert config.adapter.norm_gradient == "full"
    assert config.max_grad_norm is None
    assert config.noise_levels.density is None  # the model's own
    inpainting = config.objective.inpainting
    assert inpainting is not None
    assert (inpainting.segments, inpainting.full, inpainting.causal) == (0.1, 0.8, 0.1)
    assert config.objective.pairing == "optimal_transport"
    resolved = yaml.safe_load(eisbach("train", RECIPE, "--dry-run"))
    assert build_config(TrainConfig, resolved) == config


@pytest.mark.whole
def test_from_data_to_an_adapter_that_stability_s_loader_plays(musiccaps: Path, tmp_path: Path) -> None:
    # The recipe's rate moves little in three steps; a larger one makes half precision of the file small beside the
    # change.
    out = train(musiccaps, tmp_path / "barrier", "optimiser.lr=0.005")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 3
    assert 0 < rows[-1]["weight_mean"] < 1  # Eq. 5 is at work
    assert all(np.isfinite(row["held_out_loss"]) for row in rows)
    assert json.loads((out / "result.json").read_text())["stamp"]["clips"] == 4

    native = tmp_path / "barrier.safetensors"
    eisbach("export", out / "adapter", "--to", "sa3", "--out", native, "--model", NATIVE)
    with safe_open(str(native), framework="pt") as file:
        told = json.loads(file.metadata()["lora_config"])
    assert (told["rank"], told["alpha"], told["adapter_type"]) == (16, 16, "dora-rows")
    reference = load_file(NATIVE / "dora-rows.safetensors")
    made = load_file(native)
    assert made.keys() == reference.keys()  # the names that Stability's own code gave its adapter of this model
    # a DoRA's update is smaller than what half precision rounds away
    assert {tensor.dtype for tensor in made.values()} == {torch.float32}

    plain, ours, exported = load_backbone(NATIVE), load_backbone(NATIVE), load_backbone(NATIVE)
    load_adapter(ours, out / "adapter")
    load_adapter(exported, native)
    with torch.no_grad():
        conditioning = plain.condition(["a cello alone"], [0.5])
        x_t = torch.randn(1, 16, 80, generator=torch.Generator().manual_seed(0))
        base, trained, played = (
            model.predict(x_t, torch.tensor([0.5]), conditioning) for model in (plain, ours, exported)
        )
    change = float((trained - base).norm())
    assert change > 0.2 * float(base.norm())
    assert float((played - trained).norm()) < 0.005 * change


@pytest.mark.whole
def test_stopped_and_continued_it_is_the_same_with_every_part_of_the_objective(musiccaps: Path, tmp_path: Path) -> None:
    changes = [
        "precision=fp32",
        "adapter.rank=2",
        "held_out.every=0",
        "data.crop_seconds=1.2",  # longer than the clips: padded, and the silence behind them is trained
        "objective.silence_extension=0.1",
        "objective.inpainting.full=0.2",
        "objective.inpainting.segments=0.4",
        "objective.inpainting.causal=0.4",
    ]
    straight = train(musiccaps, tmp_path / "straight", *changes)
    train(musiccaps, tmp_path / "continued", *changes, "steps=1")
    continued = train(musiccaps, tmp_path / "continued", *changes)
    first, second = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (straight, continued))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.whole
def test_barrier_and_baseline_differ_in_their_weights_alone(
    musiccaps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eisbach.training import trainer

    seen: list[list[Any]] = []
    original = trainer.micro_step

    def recording(predict: Any, objective: Any, batch: Any, conditioning: Any, generator: Any) -> Any:
        def keep(*arguments: Any) -> Any:
            seen[-1].append(
                [arguments[0].clone(), arguments[1].clone(), arguments[2].tokens.clone(), arguments[3].clone()]
            )
            return predict(*arguments)

        return original(keep, objective, batch, conditioning, generator)

    monkeypatch.setattr(trainer, "micro_step", recording)
    for name, weighting in (("barrier", "entropy_barrier"), ("baseline", "none")):
        seen.append([])
        train(musiccaps, tmp_path / name, f"weighting.sample={weighting}", "held_out.every=0", "adapter.rank=2")
    assert len(seen[0]) == len(seen[1]) == 3
    for barrier, baseline in zip(*seen, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(barrier, baseline, strict=True))


def test_a_distilled_model_is_refused(musiccaps: Path, tmp_path: Path) -> None:
    folder = tmp_path / "distilled"
    shutil.copytree(NATIVE, folder)
    text = (folder / "model_config.json").read_text()
    (folder / "model_config.json").write_text(text.replace('"rectified_flow"', '"rf_denoiser"'))
    flags = ["--data", str(musiccaps), "--out", str(tmp_path / "run"), "--set", f"model={folder}"]
    result = CliRunner().invoke(app, ["train", str(RECIPE), *flags])
    assert "train the base model" in str(result.exception)
    assert "\n" not in str(result.exception)
