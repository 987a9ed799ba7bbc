"""Every command that computes with a network, whole, on a second device: the same files as on the CPU, but for
rounding."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import covered
import numpy as np
import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from second_device import NAME, products, second_device
from typer.testing import CliRunner

from eisbach.audio import write_audio
from eisbach.cli.main import app
from eisbach.config import build_config
from eisbach.data.images import load_digits
from eisbach.data.manifest import load_manifest
from eisbach.diagnostics.probe import run_probe
from eisbach.diagnostics.probe.result import ProbeConfig
from eisbach.experiments.cells import Cell, run_cell
from eisbach.experiments.recipes import load_spec
from eisbach.generation.images import image_noise
from eisbach.generation.takes import starting_noise
from eisbach.image_quality.digits_classifier import train_classifier
from eisbach.structure.features import extract_features
from eisbach.studies.signature_digits import run as signature_digits
from eisbach.training.config import TrainConfig
from eisbach.types import Waveform

NATIVE = Path(__file__).parent.parent / "fixtures" / "sa3_native_tiny"


def test_every_command_has_a_device_or_a_reason() -> None:
    placed = covered.placed_commands().keys()
    assert placed | covered.CPU_ONLY.keys() == dict(covered.leaf_commands(typer.main.get_command(app))).keys()
    assert not placed & covered.CPU_ONLY.keys()
    assert placed == COVERED.keys()


def run(*arguments: object) -> str:
    """What a command prints; a command that fails fails the test."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def recipe(folder: Path, clips: Path, **changes: Any) -> Path:
    """A recipe of three steps on the tiny native Stable Audio 3."""
    values = {
        "model": str(NATIVE),
        "data": {"manifest": [str(clips)], "crop_seconds": 0.5, "cache": str(folder / "latents")},
        "adapter": {"type": "dora", "rank": 2},
        "weighting": {"sample": "entropy_barrier"},
        "objective": {"inpainting": {}},
        "optimiser": {"lr": 1e-2},
        "batch_size": 2,
        "steps": 3,
        "ema_decay": 0.9,
        "log_every": 1,
        "held_out": {"every": 2, "batches": 1},
        "checkpoint": {"every": 2},
        "tensorboard": False,
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(values))
    return path


Compute = Callable[[str, Path], dict[str, Any]]
"""(device, a folder of its own) -> numbers and arrays that are compared."""


def close(made: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    """Each entry within `tolerance` of its size: single numbers near nothing may differ by more."""
    assert made.keys() == expected.keys()
    for key, value in expected.items():
        there, here = np.asarray(made[key], dtype=float), np.asarray(value, dtype=float)
        assert there.shape == here.shape, key
        assert np.isfinite(there).all(), key
        assert np.linalg.norm(there - here) <= tolerance * np.linalg.norm(here) + 1e-9, key


def both(compute: Compute, tmp_path: Path, tolerance: float = 1e-4) -> None:
    """A command gives the same on the CPU and on the second device, and its networks were where they should be."""
    with second_device():  # the accelerator of this machine, which the CPU is chosen beside
        expected = compute("cpu", tmp_path / "cpu")
    assert products(NAME) == 0
    on_the_host = products("cpu")
    with second_device():
        made = compute(NAME, tmp_path / NAME)
    assert products(NAME) > on_the_host / 2
    close(made, expected, tolerance)


def _tensors(file: Path) -> dict[str, Any]:
    return {name: value.float().numpy() for name, value in load_file(file).items()}


def _rows(file: Path, *columns: str) -> dict[str, Any]:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return {column: [row[column] for row in rows if row.get(column) is not None] for column in columns}


def _audio(folder: Path) -> dict[str, Any]:
    """The spectrogram of each clip in dB: finding phases multiplies rounding, and its magnitudes stay."""
    manifest = load_manifest(folder)
    return {row.id: extract_features(manifest.audio_path(row)).mel_db for row in manifest}


def _train(clips: Path, tmp_path: Path, **changes: Any) -> Compute:
    def compute(device: str, folder: Path) -> dict[str, Any]:
        run("train", recipe(folder, clips, **changes), "--out", folder / "run", "--device", device, "-q")
        weights = _tensors(folder / "run" / "adapter" / "adapter_model.safetensors")
        return weights | _rows(folder / "run" / "metrics.jsonl", "loss", "grad_norm", "held_out_loss")

    return compute


def trains(clips: Path, digits_model: Path, tmp_path: Path) -> None:
    both(_train(clips, tmp_path), tmp_path, tolerance=1e-3)
    # What one device began the other finishes, from encoded latents to the optimiser's state.
    moved = tmp_path / "moved"
    path = recipe(moved, clips, steps=2)
    with second_device():
        run("train", path, "--out", moved / "run", "--device", NAME, "-q")
    run("train", recipe(moved, clips), "--out", moved / "run", "--device", "cpu", "-q")
    expected = _tensors(tmp_path / "cpu" / "run" / "adapter" / "adapter_model.safetensors")
    close(_tensors(moved / "run" / "adapter" / "adapter_model.safetensors"), expected, 1e-3)


def generates(clips: Path, tiny_model: Path, tmp_path: Path) -> None:
    path = recipe(tmp_path, clips, model=str(tiny_model), objective={}, steps=1, held_out={"every": 0})
    run("train", path, "--out", tmp_path / "run", "-q")

    def compute(device: str, folder: Path, *more: str) -> dict[str, Any]:
        run(
            "generate", "slow strings", "--model", tiny_model, "--adapter", tmp_path / "run" / "adapter", "--steps", 2,
            "--out", folder, "--device", device, "-q", *more,
        )  # fmt: skip
        return _audio(folder)

    both(compute, tmp_path, tolerance=5e-2)
    with second_device():
        compute(NAME, tmp_path / "bf16", "--precision", "bf16")
    assert json.loads((tmp_path / "bf16" / "generation.json").read_text())["precision"] == "bf16"
    assert "precision" not in json.loads((tmp_path / NAME / "generation.json").read_text())


def exports(clips: Path, digits_model: Path, tmp_path: Path) -> None:
    run("train", recipe(tmp_path, clips, steps=1, held_out={"every": 0}), "--out", tmp_path / "run", "-q")

    def compute(device: str, folder: Path) -> dict[str, Any]:
        printed = run(
            "export", tmp_path / "run" / "adapter", "--model", NATIVE, "--to", "sa3", "--out", folder / "a.safetensors",
            "--check", "--precision", "fp32", "--json", "--device", device,
        )  # fmt: skip
        done = json.loads(printed)
        assert done["relative_deviation"] < 1e-3
        return {"effect": done["effect"]["relative"], **_tensors(folder / "a.safetensors")}

    both(compute, tmp_path, tolerance=1e-3)


def encodes(clips: Path, digits_model: Path, tmp_path: Path) -> None:
    def compute(device: str, folder: Path) -> dict[str, Any]:
        run(
            "data", "encode", clips, "--model", NATIVE, "--crop-seconds", 0.5, "--out", folder, "--device", device,
            "-j", 1,
        )  # fmt: skip
        files = sorted(folder.rglob("*.safetensors"))
        return {f"{file.stem} {name}": value for file in files for name, value in _tensors(file).items()}

    both(compute, tmp_path)


def probes(clips: Path, tiny_model: Path, tmp_path: Path) -> None:
    def compute(device: str, folder: Path) -> dict[str, Any]:
        path = recipe(folder, clips, model=str(tiny_model), objective={})
        run(
            "probe", path, "--clips", 4, "--levels", "0.2,0.8", "--out", folder / "probe", "--device", device, "-q",
            "--no-structure", "--no-gradients",
        )  # fmt: skip
        return _rows(folder / "probe" / "rows.jsonl", "loss", "sample_weight", "x0_loss")

    both(compute, tmp_path, tolerance=1e-3)

    def gradients(device: str, folder: Path) -> dict[str, Any]:
        path = recipe(folder, clips, model=str(tiny_model), objective={}, device=device)
        config = build_config(TrainConfig, json.loads(path.read_text()))
        probe = ProbeConfig(train=config, clips=2, levels=[0.5], gradient_batches=2, gain_clips=1, structure=False)
        found = run_probe(probe, quiet=True)
        return {"loss": [row["loss"] for row in found.rows], "batches": [row["loss"] for row in found.batches]}

    both(gradients, tmp_path / "gradients", tolerance=1e-3)


def measures_signatures(clips: Path, digits_model: Path, tmp_path: Path) -> None:
    data = tmp_path / "data.safetensors"
    latents = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    save_file({"latents": latents, "labels": torch.arange(10).repeat(2)}, data)

    def compute(device: str, folder: Path) -> dict[str, Any]:
        run(
            "signature", "run", "--model", digits_model, "--classes", "0..9", "--steps", 8, "--trajectories", 2,
            "--source", "reverse", "--source", "forward", "--data", data, "--guidance", "2:0.2:0.7", "--out", folder,
            "--set", "resamples=100", "--device", device, "-q",
        )  # fmt: skip
        files = sorted((folder / "curves").glob("*.json"))
        return {file.stem: json.loads(file.read_text())["entropy"] for file in files}

    both(compute, tmp_path, tolerance=1e-3)


def measures_entropic_time(clips: Path, digits_model: Path, tmp_path: Path) -> None:
    def compute(device: str, folder: Path) -> dict[str, Any]:
        found = run(
            "signature", "entropy", "--model", digits_model, "--data", "digits", "--samples", 4, "--levels", 8,
            "--out", folder / "curve.json", "--json", "--device", device, "-q",
        )  # fmt: skip
        return {"mse": json.loads(found)["mse"]}

    both(compute, tmp_path)


def draws_images(clips: Path, digits_model: Path, tmp_path: Path) -> None:
    from PIL import Image

    def compute(device: str, folder: Path) -> dict[str, Any]:
        run(
            "images", "sample", digits_model, "--count", 4, "--steps", 2, "--guidance", 2, "--out", folder, "--device",
            device, "-q",
        )  # fmt: skip
        return {file.name: np.asarray(Image.open(file)).astype(float) for file in sorted(folder.glob("*/*.png"))}

    both(compute, tmp_path, tolerance=1.0)  # a level of grey


def judges_images(clips: Path, digits_model: Path, tmp_path: Path) -> None:
    from PIL import Image

    train, held = load_digits().split(0.25)
    train_classifier(type(train)(train.items[:200], train.classes), held).save(tmp_path / "features")
    for name, items in (("reference", held.items[:60]), ("samples", held.items[60:110])):
        (tmp_path / name).mkdir()
        for number, item in enumerate(items):
            Image.fromarray(item.read(None, 1, "none")[..., 0]).save(tmp_path / name / f"{number}.png")

    def compute(device: str, folder: Path) -> dict[str, Any]:
        found = run(
            "images", "quality", "--features", "digits", "--weights", tmp_path / "features", "--samples",
            tmp_path / "samples", "--reference", tmp_path / "reference", "--json", "--device", device,
        )  # fmt: skip
        return {key: value for key, value in json.loads(found).items() if isinstance(value, float)}

    both(compute, tmp_path, tolerance=1e-3)


def analyses(clips: Path, digits_model: Path, tmp_path: Path) -> None:
    for index, name in enumerate("aabb"):
        time = np.arange(4 * 16000) / 16000
        samples = 0.3 * np.sin(2 * np.pi * 220 * (index + 1) * time * (1 + 0.1 * np.floor(time)))
        write_audio(tmp_path / name / f"{index % 2}.wav", Waveform(samples.astype(np.float32)[None], 16000))

    def compute(device: str, folder: Path) -> dict[str, Any]:
        run(
            "analyze", tmp_path / "a", tmp_path / "b", "--embedding", "musicnn", "--no-page", "--out", folder,
            "--pair", "none", "--device", device, "-q",
        )  # fmt: skip
        return _rows(folder / "records.jsonl", "level_range", "flat_probability", "bandwidth_hz")

    both(compute, tmp_path, tolerance=1e-2)


def experiments(clips: Path, tiny_model: Path, tmp_path: Path) -> None:
    """A cell of an experiment, trained and played; and what the command hands on."""
    changes = {"model": str(tiny_model), "objective": {}, "steps": 1, "held_out": {"every": 0}}
    training = json.loads(recipe(tmp_path, clips, **changes).read_text())
    del training["weighting"]
    values = {
        "title": "t",
        "training": training,
        "arms": {"plain": {"label": "plain"}, "low": {"label": "low", "overrides": {"optimiser.lr": 1e-4}}},
        "generation": {"prompts": [{"id": "a", "text": "slow strings"}], "num_inference_steps": 1},
        "primary_metrics": {"level_range": "higher"},
    }
    (tmp_path / "experiment.yaml").write_text(json.dumps(values))

    def compute(device: str, folder: Path) -> dict[str, Any]:
        spec = load_spec(tmp_path / "experiment.yaml", [f"device={device}", f"out={folder}"])
        run_cell(spec, Cell("plain", 0, folder), lambda key: nullcontext())
        return _audio(folder / "arms" / "plain" / "seed-0" / "samples")

    both(compute, tmp_path, tolerance=5e-2)
    with second_device():
        printed = run("experiment", "run", tmp_path / "experiment.yaml", "--device", NAME, "--dry-run")
    assert f"device: {NAME}" in printed


def demonstrates(clips: Path, digits_model: Path, tmp_path: Path) -> None:
    """The demo is an experiment, which is tested whole: here, what it hands on."""
    with second_device():
        printed = run("demo", "--out", tmp_path, "--device", f"{NAME}:1", "--precision", "fp32", "--dry-run")
    assert f"device: {NAME}:1" in printed
    assert "precision: fp32" in printed


def studies(clips: Path, digits_model: Path, tmp_path: Path) -> None:
    """A study hands its device on to what it runs; and the command hands it to the study."""
    shutil.copytree(digits_model, tmp_path / "cells" / "unet-v-constant-0" / "model")

    def compute(device: str, folder: Path) -> dict[str, Any]:
        settings = signature_digits.Settings(digits=str(tmp_path), seeds=1, steps=8, trajectories=2, device=device)
        folder.mkdir()
        signature_digits.run(settings, folder, quiet=True)
        found = json.loads((folder / signature_digits.RESULT).read_text())
        return {name: value["at_the_end"] for name, value in found["networks"][0].items()}

    both(compute, tmp_path, tolerance=1e-2)
    with second_device():
        printed = run("study", "run", "signature_digits", "--device", NAME, "--dry-run", "--out", tmp_path / "out")
    assert f"device: {NAME}" in printed


COVERED: dict[str, Callable[..., None]] = {
    "analyze": analyses,
    "data encode": encodes,
    "demo": demonstrates,
    "experiment run": experiments,
    "export": exports,
    "generate": generates,
    "images quality": judges_images,
    "images sample": draws_images,
    "probe": probes,
    "signature entropy": measures_entropic_time,
    "signature run": measures_signatures,
    "study run": studies,
    "train": trains,
}


def test_every_path_is_tested_on_a_second_device() -> None:
    for kind, (every, tested) in covered.paths().items():
        assert sorted(every) == sorted(tested), kind


LONG = ("probe", "signature run", "study run", "train")
"""Commands whose parts test_networks.py trains, samples and weighs on the device, one by one."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in COVERED]
)
@pytest.mark.whole
def test_command(name: str, clips: Path, digits_model: Path, tiny_model: Path, tmp_path: Path) -> None:
    model = tiny_model if name in ("experiment run", "generate", "probe") else digits_model
    COVERED[name](clips, model, tmp_path)


# --- what every command says of a device


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "a", "--out", "OUT"],
        ["export", "OUT", "--check", "--model", "embedded"],
        ["data", "encode", "CLIPS", "--model", str(NATIVE)],
        ["train", "RECIPE", "--out", "OUT"],
        ["train", "RECIPE", "--out", "OUT", "--dry-run"],
        ["probe", "RECIPE", "--out", "OUT"],
        ["signature", "run", "--classes", "a,b", "--out", "OUT"],
        ["signature", "entropy", "--data", "digits", "--out", "OUT"],
        ["images", "sample", "OUT", "--dry-run"],
        ["images", "quality", "--reference", "OUT", "--samples", "OUT"],
        ["analyze", "CLIPS", "--out", "OUT"],
        ["demo", "--out", "OUT"],
        ["experiment", "run", "demo", "--out", "OUT"],
        ["study", "run", "curation", "--quick", "--out", "OUT"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]) + (" --dry-run" if "--dry-run" in arguments else ""),
)
def test_a_device_that_is_not_there_is_one_sentence(arguments: list[str], clips: Path, tmp_path: Path) -> None:
    from eisbach.errors import UserError

    places = {"OUT": tmp_path / "out", "CLIPS": clips, "RECIPE": recipe(tmp_path, clips)}
    words = [str(places.get(word, word)) for word in arguments]
    with pytest.raises(UserError, match="the device 'cuda:7' is not on this machine"):
        CliRunner().invoke(app, [*words, "--device", "cuda:7"], catch_exceptions=False)
    assert not (tmp_path / "out").exists()


def test_noise_is_drawn_on_the_host_whatever_the_device() -> None:
    here = starting_noise("p", 3, 4, 40, 1), image_noise(3, 5, (1, 8, 8))
    with second_device():
        there = starting_noise("p", 3, 4, 40, 1), image_noise(3, 5, (1, 8, 8))
    assert all(torch.equal(a, b) and b.device.type == "cpu" for a, b in zip(here, there, strict=True))


def test_a_study_without_a_network_takes_no_device() -> None:
    from eisbach.errors import UserError

    with pytest.raises(UserError, match="computes on the CPU"):
        CliRunner().invoke(app, ["study", "run", "boundaries", "--device", "cpu"], catch_exceptions=False)
    with pytest.raises(UserError, match="computes in fp32"):
        CliRunner().invoke(app, ["study", "run", "belief_auc", "--precision", "bf16"], catch_exceptions=False)
