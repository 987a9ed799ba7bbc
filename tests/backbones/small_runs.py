"""Tiny clips, and a training run of two steps on them, for backbones that are folders."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from second_device import NAME, second_device

from eisbach.adapters.attach import attach, detach
from eisbach.audio import audio_hash, write_audio
from eisbach.backbones import load_backbone, load_codec_of, load_image_codec_of
from eisbach.backbones.base import Backbone
from eisbach.codecs.base import place_codec
from eisbach.config import build_config
from eisbach.data.manifest import Manifest, ManifestRow, save_manifest
from eisbach.generation import GenerateConfig, generate
from eisbach.training import train
from eisbach.training.config import TrainConfig
from eisbach.types import Waveform

CAPTIONS = ("slow strings and bassoon", "celesta")


def write_clips(root: Path, seconds: float, sample_rate: int) -> Path:
    """A folder with the manifest of four stereo clips of noise."""
    rng, rows = np.random.default_rng(0), []
    for index in range(4):
        samples = (0.1 * rng.standard_normal((2, round(seconds * sample_rate)))).astype(np.float32)
        write_audio(root / f"{index}.wav", Waveform(samples, sample_rate))
        rows.append(
            ManifestRow(
                id=str(index),
                path=f"{index}.wav",
                caption=CAPTIONS[index % 2],
                duration=seconds,
                labels={},
                audio_hash=audio_hash(root / f"{index}.wav"),
                split="train",
            )
        )
    save_manifest(Manifest(rows, root))
    return root


def run_of(model: Path, clips: Path, out: Path, **changes: Any) -> TrainConfig:
    """Two steps of an adapter on crops of a second; keyword arguments replace whole keys."""
    values: dict[str, Any] = {
        "model": str(model),
        "data": {"manifest": str(clips), "crop_seconds": 1.0},
        "adapter": {"type": "dora", "rank": 2},
        "optimiser": {"lr": 1e-2},
        "weighting": {"sample": "entropy_barrier"},
        "batch_size": 2,
        "steps": 2,
        "condition_dropout": 0.5,
        "held_out": {"every": 0},
        "tensorboard": False,
        "out": str(out),
        **changes,
    }
    return build_config(TrainConfig, values, "test")


def attached_and_detached(model: Path, adapter: Path) -> None:
    """An adapter folds all of its layers into the model's weights, and comes out without a trace."""
    layers = {name.rpartition(".lora_")[0] for name in load_file(adapter / "adapter_model.safetensors")}
    backbone = load_backbone(model)
    before = backbone.identity()
    assert attach(backbone, adapter) == len(layers)
    assert backbone.identity() != before  # something was folded into the weights
    detach(backbone)
    assert backbone.identity() == before


def trains_and_plays(model: Path, clips: Path, tmp_path: Path, kind: str) -> None:
    """`train` learns something, what it wrote attaches and detaches, and `generate` plays it for the 30 s asked for."""
    adapter = Path(train(run_of(model, clips, tmp_path / "run", adapter={"type": kind, "rank": 2}))) / "adapter"
    weights = load_file(adapter / "adapter_model.safetensors")
    assert any(float(weights[name].abs().max()) > 0 for name in weights if "lora_B" in name)
    attached_and_detached(model, adapter)
    values = {
        "model": str(model),
        "adapter": str(adapter),
        "prompts": [{"id": "a", "text": CAPTIONS[0]}],
        "seeds": [0],
        "duration": 30.0,
        "num_inference_steps": 4,
        "sampler": "euler",
        "out": str(tmp_path / "played"),
    }
    manifest = generate(build_config(GenerateConfig, values, "test"))
    assert [row.duration for row in manifest.rows] == [30.0]


def fetched_from_the_hub(model: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """The backbone of a hub whose only repository holds `model`: what is asked for is enough to condition and to
    decode."""
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    def snapshot(_: str, **options: Any) -> str:
        names = [file.relative_to(model).as_posix() for file in model.rglob("*") if file.is_file()]
        for name in filter_repo_objects(names, **options):
            (place / name).parent.mkdir(exist_ok=True)
            shutil.copy(model / name, place / name)
        return str(place)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    backbone = load_backbone("owner/tiny")
    assert len(backbone.condition(CAPTIONS[:1], [1.0])) == 1
    assert load_codec_of(backbone).name == "oobleck"
    return backbone


def same_on_a_second_device(model: Path, captions: tuple[str, ...] = CAPTIONS) -> None:
    """Captions, predictions, gradients and the codec of a model, all moved there, give what they give on the CPU."""
    expected = _computed(model, captions, torch.device("cpu"))
    with second_device():
        made = _computed(model, captions, torch.device(NAME))
    assert made.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            made[name], value, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )


def _computed(model: Path, captions: tuple[str, ...], device: torch.device) -> dict[str, torch.Tensor]:
    backbone: Any = load_backbone(model)
    backbone.module.to(device).requires_grad_(True)
    rows = backbone.condition(list(captions), [1.0] * len(captions)).to(device)
    if backbone.retimes:
        rows = backbone.with_durations(rows, [2.0] * len(captions))
    shape = backbone.latent_shape or (backbone.latent_channels, 24)
    noise = torch.Generator().manual_seed(3)
    x_t = torch.randn(len(captions), *shape, generator=noise).to(device)
    t = torch.linspace(0.2, 0.9, len(captions)).to(device)
    found = {"tokens": rows.tokens, "global": rows.global_embed}
    known = (
        [torch.rand(len(captions), 1 + shape[0], shape[1], generator=noise).to(device)] if backbone.inpainting else []
    )
    for name, conditioning in (("output", rows), ("null", backbone.null_condition(rows))):
        found[name] = backbone.predict(x_t, t, conditioning, *known)
    (found["output"] + found["null"]).square().mean().backward()
    found |= {name: value.grad for name, value in backbone.module.named_parameters() if value.grad is not None}
    if backbone.modality == "audio":
        codec = load_codec_of(backbone)
        place_codec(codec, device)
        sound = 0.1 * np.random.default_rng(0).standard_normal((codec.audio_channels, 8 * codec.samples_per_frame))
        found["latents"] = codec.encode(Waveform(sound.astype(np.float32), codec.sample_rate))
        found["decoded"] = torch.from_numpy(codec.decode(found["latents"])[0].samples)
    else:
        images = load_image_codec_of(backbone)
        place_codec(images, device)
        found["decoded"] = images.decode(x_t.cpu())
    return {name: value.detach().cpu() for name, value in found.items()}
