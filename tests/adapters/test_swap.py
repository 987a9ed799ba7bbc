"""Directions of one DoRA adapter with the magnitudes of another, against the closed form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from adapter_files import make_adapter
from safetensors.torch import load_file

from eisbach import adapters
from eisbach.adapters.formats import peft as peft_format
from eisbach.adapters.mix import swap_magnitudes
from eisbach.backbones import load_backbone
from eisbach.errors import CheckpointError


def test_rows_point_as_the_one_and_are_as_long_as_the_other(tiny_model: Path, tmp_path: Path) -> None:
    """W′ = m V / ‖V‖ with V = W + s B A of the first and m of the second, computed from the files alone."""
    one = make_adapter(tiny_model, tmp_path / "one", 1)
    other = make_adapter(tiny_model, tmp_path / "other", 2, rank=2)  # ranks need not be equal
    swap_magnitudes(one, other, tmp_path / "swap")
    backbone = load_backbone(str(tiny_model))
    base = {name: value.double().clone() for name, value in backbone.module.state_dict().items()}
    adapters.attach(backbone, tmp_path / "swap")
    played = backbone.module.state_dict()
    factors, lengths = (load_file(folder / peft_format.WEIGHTS) for folder in (one, other))
    prefix = "base_model.model."
    layers = [name.removesuffix(".lora_A.weight") for name in factors if name.endswith(".lora_A.weight")]
    assert len(layers) > 4
    for layer in layers:
        a, b = (factors[f"{layer}.lora_{part}.weight"].double().flatten(1) for part in "AB")
        magnitude = lengths[f"{layer}.lora_magnitude_vector"].double().flatten()
        weight = base[f"{layer.removeprefix(prefix)}.weight"]
        raw = weight.flatten(1) + 2.0 * b @ a  # s = 6 / 3
        expected = magnitude[:, None] * raw / raw.norm(dim=1, keepdim=True)
        found = played[f"{layer.removeprefix(prefix)}.weight"].double().flatten(1)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.norm(dim=1), magnitude.abs(), rtol=1e-4, atol=1e-5)


def test_a_swap_with_itself_is_itself_and_the_reverse_brings_both_back(tiny_model: Path, tmp_path: Path) -> None:
    one, other = (make_adapter(tiny_model, tmp_path / str(seed), seed) for seed in (1, 2))
    there, back = tmp_path / "there", tmp_path / "back"
    swap_magnitudes(one, one, tmp_path / "same")
    swap_magnitudes(one, other, there)
    swap_magnitudes(there, one, back)
    original = load_file(one / peft_format.WEIGHTS)
    for folder in (tmp_path / "same", back):
        found = load_file(folder / peft_format.WEIGHTS)
        assert found.keys() == original.keys()
        assert all(torch.equal(found[name], value) for name, value in original.items())
    swapped = load_file(there / peft_format.WEIGHTS)
    moved = {name.rpartition(".")[2] for name, value in original.items() if not torch.equal(swapped[name], value)}
    assert moved == {"lora_magnitude_vector"}
    stamp = json.loads((there / peft_format.STAMP).read_text())
    assert stamp["base_identity"] == load_backbone(str(tiny_model)).identity()
    assert stamp["swap"].keys() == {"direction", "magnitude"}
    assert stamp["swap"]["direction"] != stamp["swap"]["magnitude"]


def test_what_cannot_be_swapped_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    dora = make_adapter(tiny_model, tmp_path / "dora", 1)
    lora = make_adapter(tiny_model, tmp_path / "lora", 2, kind="lora")
    foreign = make_adapter(tiny_model, tmp_path / "foreign", 3, base_identity="another")
    for pair, sentence in (((dora, lora), "is a LoRA adapter, which has no magnitudes"),
                           ((dora, foreign), "were trained on two base models")):  # fmt: skip
        with pytest.raises(CheckpointError, match=sentence):
            swap_magnitudes(*pair, tmp_path / "out")
    assert not (tmp_path / "out").exists()
