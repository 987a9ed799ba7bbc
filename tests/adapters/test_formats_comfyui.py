"""ComfyUI's files, by ComfyUI's documented arithmetic written down here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from eisbach import adapters
from eisbach.adapters import convert
from eisbach.adapters.formats import comfyui
from eisbach.adapters.formats.sa3 import native_layers as sa3_names
from eisbach.errors import CheckpointError, UserError

INNER = {"exclude": ["duration_embedder.linear"]}


def comfy_weight(path: Path, strength: float = 1.0) -> Callable[[str, torch.Tensor], torch.Tensor]:
    """What ComfyUI makes of a checkpoint's tensors, in fp32: the model's keys are looked up, as it does, not the
    file's."""
    lora = {name: value.float() for name, value in load_file(path).items()}

    def change(name: str, weight: torch.Tensor) -> torch.Tensor:
        if not name.startswith("model.model.") or not name.endswith(".weight"):
            return weight
        x = "diffusion_model." + name.removeprefix("model.model.").removesuffix(".weight")
        if f"{x}.diff" in lora:
            return weight + strength * lora.pop(f"{x}.diff")
        if f"{x}.lora_B.weight" not in lora:
            return weight
        up, down = lora.pop(f"{x}.lora_B.weight"), lora.pop(f"{x}.lora_A.weight")
        alpha = lora.pop(f"{x}.alpha").item() / down.shape[0] if f"{x}.alpha" in lora else 1.0
        difference = torch.mm(up.flatten(1), down.flatten(1)).reshape(weight.shape)
        scale = lora.pop(f"{x}.dora_scale", None)
        if scale is None:
            return weight + strength * alpha * difference
        assert scale.shape[0] == weight.shape[0]
        norm = weight.reshape(weight.shape[0], -1).norm(dim=1, keepdim=True)
        norm = norm.reshape(weight.shape[0], *[1] * (weight.dim() - 1)) + torch.finfo(torch.float32).eps
        return weight + strength * ((weight + alpha * difference) * (scale / norm) - weight)

    change.left = lora  # type: ignore[attr-defined]
    return change


SHAPES = [
    ({"kind": "lora", "rank": 2, "alpha": 6.0, **INNER}, "diff"),
    ({"kind": "lora", "rank": 1, "alpha": 1.0, "targets": ["preprocess_conv", "to_qkv", "proj_in"]}, "diff"),
    ({"kind": "dora", "rank": 3, "alpha": 4.5, **INNER}, "diff"),
    ({"kind": "dora", "rank": 3, "alpha": 4.5, **INNER}, "scale"),
    ({"kind": "dora", "rank": 1, "alpha": 2.0, "targets": ["postprocess_conv", "to_qkv", "to_local_embed.0"]}, "scale"),
]


@pytest.mark.parametrize(("options", "dora"), SHAPES)
def test_comfyui_plays_what_was_trained(
    sa3: Any, play: Any, make_adapter: Any, play_changed: Any, tmp_path: Path, options: dict[str, Any], dora: str
) -> None:
    played = make_adapter(tmp_path / "ours", **options)
    assert (played - play(sa3)).abs().max() > 0.01
    file = tmp_path / "comfy.safetensors"
    convert.write(convert.read(tmp_path / "ours"), "comfyui", file, module=sa3.module, dora=dora, precision="fp32")
    change = comfy_weight(file)
    torch.testing.assert_close(play_changed(change), played, rtol=0, atol=3e-6)
    assert not change.left  # type: ignore[attr-defined]  # every key was used
    adapters.attach(sa3, file)
    torch.testing.assert_close(play(sa3), played, rtol=0, atol=3e-6)


@pytest.mark.parametrize("dora", ["diff", "scale"])
def test_half_the_strength_is_half_the_way_in_the_weights(
    sa3: Any, play: Any, make_adapter: Any, play_changed: Any, tmp_path: Path, dora: str
) -> None:
    make_adapter(tmp_path / "ours", kind="dora", **INNER)
    file = tmp_path / "comfy.safetensors"
    convert.write(convert.read(tmp_path / "ours"), "comfyui", file, module=sa3.module, dora=dora, precision="fp32")
    adapters.attach(sa3, tmp_path / "ours", 0.5)
    torch.testing.assert_close(play_changed(comfy_weight(file, 0.5)), play(sa3), rtol=0, atol=3e-6)


def test_the_magnitude_as_it_is_would_play_something_else(
    sa3: Any, play: Any, make_adapter: Any, play_changed: Any, tmp_path: Path
) -> None:
    played = make_adapter(tmp_path / "ours", kind="dora", size=0.2, **INNER)
    adapter = convert.read(tmp_path / "ours")
    file = tmp_path / "comfy.safetensors"
    convert.write(adapter, "comfyui", file, module=sa3.module, dora="scale", precision="fp32")
    tensors = load_file(file)
    naive = tmp_path / "naive"
    native = {
        comfyui.PREFIX + name.removeprefix("model."): comfyui.rows_to_native(layer, adapter.layers[layer]).magnitude
        for layer, name in sa3_names(adapter.layers).items()
    }
    for name, magnitude in native.items():
        tensors[f"{name}.dora_scale"] = magnitude.view_as(tensors[f"{name}.dora_scale"])
    save_file(tensors, naive)
    assert (play_changed(comfy_weight(naive)) - played).abs().max() > 1e-2


def test_the_duration_embedder_is_refused_or_dropped_aloud(
    sa3: Any, play: Any, make_adapter: Any, play_changed: Any, tmp_path: Path
) -> None:
    make_adapter(tmp_path / "ours", alpha=6.0)
    inner = make_adapter(tmp_path / "inner", alpha=6.0, **INNER)
    adapter, file = convert.read(tmp_path / "ours"), tmp_path / "comfy.safetensors"
    with pytest.raises(UserError, match=r"duration_embedder\.linear.*--drop-conditioner"):
        convert.write(adapter, "comfyui", file)
    assert not file.exists()
    assert comfyui._some([f"layer.{n}" for n in range(5)]) == "layer.0 and 4 more layers"
    written = convert.write(adapter, "comfyui", file, drop_conditioner=True)
    assert "left out" in written.notes[0]
    assert written.layers == len(adapter.layers) - 1
    # The same seed draws other numbers once a layer is left out, so only the size of the effect is compared.
    change = (play_changed(comfy_weight(file)) - play(sa3)).norm()
    assert 0.3 < change / (inner - play(sa3)).norm() < 3


def test_dora_needs_the_base_model(sa3: Any, make_adapter: Any, tmp_path: Path) -> None:
    make_adapter(tmp_path / "ours", kind="dora", **INNER)
    adapter = convert.read(tmp_path / "ours")
    with pytest.raises(UserError, match="give --model"):
        convert.write(adapter, "comfyui", tmp_path / "a.safetensors")
    convert.write(adapter, "comfyui", tmp_path / "b.safetensors", module=sa3.module, dora="scale")
    with pytest.raises(UserError, match="give --model"):
        convert.read(tmp_path / "b.safetensors")


def test_dora_comes_back_from_a_scale(sa3: Any, make_adapter: Any, tmp_path: Path) -> None:
    make_adapter(tmp_path / "ours", kind="dora", rank=2, alpha=5.0, **INNER)
    adapter = convert.read(tmp_path / "ours")
    convert.write(adapter, "comfyui", tmp_path / "c.safetensors", module=sa3.module, dora="scale", precision="fp32")
    back = convert.read(tmp_path / "c.safetensors", convert.weights_of(sa3.module))
    assert (back.rank, back.alpha, back.kind) == (2, 5.0, "dora")
    for name, factors in adapter.layers.items():
        assert torch.equal(back.layers[name].a, factors.a)
        assert torch.equal(back.layers[name].b, factors.b)
        torch.testing.assert_close(back.layers[name].magnitude, factors.magnitude)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [("stranger", "not: 'diffusion_model.x.hada_w1_a'"), ("half", "lacks some"), ("ranks", "several ranks")],
)
def test_bad_files(sa3: Any, make_adapter: Any, tmp_path: Path, damage: str, sentence: str) -> None:
    make_adapter(tmp_path / "ours", **INNER)
    file = tmp_path / "comfy.safetensors"
    convert.write(convert.read(tmp_path / "ours"), "comfyui", file)
    tensors = load_file(file)
    first = next(name for name in sorted(tensors) if name.endswith("lora_A.weight"))
    if damage == "stranger":
        tensors["diffusion_model.x.hada_w1_a"] = torch.ones(1)
    elif damage == "half":
        tensors.pop(first)
    else:
        tensors[first] = tensors[first][:1]
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=sentence):
        adapters.attach(sa3, file)
