from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from eisbach import adapters
from eisbach.adapters.formats import peft as peft_format
from eisbach.backbones import load_backbone
from eisbach.errors import CheckpointError, ConfigError


def trained_adapter(model: Path, folder: Path, kind: str, **stamp: Any) -> torch.Tensor:
    """Saves an adapter whose weights are far from their start; returns the adapted network's output."""
    backbone = load_backbone(str(model))
    stamp = {"base_identity": backbone.identity(), **stamp}
    config = adapters.adapter_config(backbone, kind=kind, rank=3, alpha=6.0)
    parameters = adapters.inject(backbone, config, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    peft_format.save(folder, backbone.module, config, stamp)
    return output(backbone)


@torch.no_grad()
def output(backbone: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    x_t = torch.randn(2, backbone.latent_channels, 11, generator=generator)
    conditioning = backbone.condition(["a calm cello", "a bright celesta"], [4.0, 4.0])
    return backbone.predict(x_t, torch.tensor([0.3, 0.8]), conditioning)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_attached_equals_trained_and_detached_equals_base(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    trained = trained_adapter(tiny_model, tmp_path, kind)
    backbone = load_backbone(str(tiny_model))
    base, identity = output(backbone), backbone.identity()
    assert (trained - base).abs().max() > 0.01
    count = adapters.attach(backbone, tmp_path)
    assert count == sum(name.endswith("lora_A.weight") for name in load_file(tmp_path / peft_format.WEIGHTS))
    torch.testing.assert_close(output(backbone), trained, rtol=1e-4, atol=1e-5)
    adapters.detach(backbone)
    assert torch.equal(output(backbone), base)
    assert backbone.identity() == identity


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_strength_interpolates_the_weights(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    trained_adapter(tiny_model, tmp_path, kind)
    weights = {}
    for strength in (0.0, 0.25, 1.0):
        backbone = load_backbone(str(tiny_model))
        adapters.attach(backbone, tmp_path, strength)
        weights[strength] = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    base = load_backbone(str(tiny_model)).module.state_dict()
    for name, value in base.items():
        assert torch.equal(weights[0.0][name], value)
        torch.testing.assert_close(weights[0.25][name], 0.75 * value + 0.25 * weights[1.0][name])


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_peft_itself_loads_the_folder(tiny_model: Path, tmp_path: Path, kind: str) -> None:
    from peft import PeftModel

    trained = trained_adapter(tiny_model, tmp_path, kind)
    backbone = load_backbone(str(tiny_model))
    wrapped = PeftModel.from_pretrained(backbone.module, str(tmp_path))
    assert wrapped.peft_config["default"].use_dora == (kind == "dora")
    torch.testing.assert_close(output(backbone), trained, rtol=1e-5, atol=1e-6)


def test_the_stamp_travels_in_the_weights_alone(tiny_model: Path, tmp_path: Path) -> None:
    trained_adapter(tiny_model, tmp_path, "lora", recipe_hash="abc")
    (tmp_path / peft_format.STAMP).unlink()
    assert peft_format.read_stamp(tmp_path)["recipe_hash"] == "abc"


def test_a_new_adapter_changes_nothing_and_only_it_trains(tiny_model: Path) -> None:
    backbone = load_backbone(str(tiny_model))
    base, state = output(backbone), torch.random.get_rng_state()
    parameters = adapters.inject(backbone, adapters.adapter_config(backbone, kind="dora", rank=2, alpha=2.0), seed=5)
    torch.testing.assert_close(output(backbone), base)
    assert torch.equal(torch.random.get_rng_state(), state)
    trainable = {name for name, parameter in backbone.module.named_parameters() if parameter.requires_grad}
    assert trainable == set(parameters)
    assert all("lora_" in name for name in trainable)


def test_the_seed_alone_draws_the_adapter(tiny_model: Path) -> None:
    def drawn(seed: int) -> torch.Tensor:
        backbone = load_backbone(str(tiny_model))
        config = adapters.adapter_config(backbone, kind="lora", rank=2, alpha=2.0)
        parameters = adapters.inject(backbone, config, seed=seed)
        return torch.cat([value.detach().flatten() for name, value in parameters.items() if "lora_A" in name])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_targets_that_match_nothing_name_the_layers_there_are(tiny_model: Path) -> None:
    backbone = load_backbone(str(tiny_model))
    config = adapters.adapter_config(backbone, kind="lora", rank=2, alpha=2.0, targets=["query"])
    with pytest.raises(ConfigError, match="to_qkv"):
        adapters.inject(backbone, config)


def test_exclude_leaves_layers_out(tiny_model: Path) -> None:
    backbone = load_backbone(str(tiny_model))
    config = adapters.adapter_config(
        backbone, kind="lora", rank=2, alpha=2.0, targets=["to_qkv", "to_out"], exclude=["cross_attn.to_out"]
    )
    names = adapters.inject(backbone, config)
    assert any("self_attn.to_out" in name for name in names)
    assert not any("cross_attn" in name for name in names)


def test_another_base_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    trained_adapter(tiny_model, tmp_path, "lora", base_identity="somebody-else")
    backbone = load_backbone(str(tiny_model))
    base = output(backbone)
    with pytest.raises(CheckpointError, match=f"somebody-else.*{backbone.identity()}"):
        adapters.attach(backbone, tmp_path)
    assert torch.equal(output(backbone), base)


@pytest.mark.parametrize("damage", ["truncated", "lacks", "unknown", "shape", "nothing", "nan", "kind"])
def test_bad_files_are_refused_and_leave_the_model_alone(tiny_model: Path, tmp_path: Path, damage: str) -> None:
    trained_adapter(tiny_model, tmp_path, "lora")
    file = tmp_path / peft_format.WEIGHTS
    tensors = load_file(file)
    first = sorted(tensors)[0]
    expected = "match"
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-8])
        expected = "truncated"
    elif damage == "lacks":
        tensors.pop(first)
    elif damage == "unknown":
        tensors["base_model.model.nowhere.lora_A.weight"] = torch.ones(2)
    elif damage == "shape":
        tensors[first] = torch.ones(1)
        expected = "shape"
    elif damage == "nothing":
        tensors = {}
        expected = "no weights"
    elif damage == "nan":
        tensors[first] = torch.full_like(tensors[first], float("nan"))
        expected = "not finite"
    else:
        values = json.loads((tmp_path / peft_format.CONFIG).read_text())
        (tmp_path / peft_format.CONFIG).write_text(json.dumps({**values, "peft_type": "IA3"}))
        expected = "IA3"
    if damage != "truncated":
        save_file(tensors, file)
    backbone = load_backbone(str(tiny_model))
    base, names = output(backbone), list(backbone.module.state_dict())
    with pytest.raises(CheckpointError, match=expected):
        adapters.attach(backbone, tmp_path)
    assert list(backbone.module.state_dict()) == names
    assert torch.equal(output(backbone), base)


def test_only_one_at_a_time_and_empty_folders_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    trained_adapter(tiny_model, tmp_path / "a", "lora")
    backbone = load_backbone(str(tiny_model))
    with pytest.raises(CheckpointError, match="holds neither"):
        adapters.attach(backbone, tmp_path)
    adapters.attach(backbone, tmp_path / "a")
    with pytest.raises(ConfigError, match="attached already"):
        adapters.attach(backbone, tmp_path / "a")
    with pytest.raises(ConfigError, match="attached already"):
        adapters.inject(backbone, adapters.adapter_config(backbone, kind="lora", rank=2, alpha=2.0))


def test_fully_trained_weights_attach_too(tiny_model: Path, tmp_path: Path) -> None:
    trained = load_backbone(str(tiny_model))
    with torch.no_grad():
        for parameter in trained.module.parameters():
            parameter += 0.05
    trained.save(tmp_path)
    backbone = load_backbone(str(tiny_model))
    base = output(backbone)
    adapters.attach(backbone, tmp_path)
    assert torch.equal(output(backbone), output(load_backbone(str(tmp_path))))
    adapters.detach(backbone)
    assert torch.equal(output(backbone), base)
    (tmp_path / "eisbach.json").write_text(json.dumps({"base_identity": "other"}))
    with pytest.raises(CheckpointError, match="base model other"):
        adapters.attach(backbone, tmp_path)
