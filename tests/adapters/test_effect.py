from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from eisbach import adapters
from eisbach.adapters import convert, effect
from eisbach.adapters.formats import peft as peft_format
from eisbach.backbones import load_backbone
from eisbach.errors import ConfigError


@pytest.fixture
def tiny(tiny_model: Path) -> Any:
    return load_backbone(str(tiny_model))


def adapt(backbone: Any, kind: str, size: float) -> Any:
    config = adapters.adapter_config(backbone, kind=kind, rank=2, alpha=2.0)
    parameters = adapters.inject(backbone, config, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return config


@torch.no_grad()
def inputs(backbone: Any) -> tuple[Any, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x_t = torch.randn(3, backbone.latent_channels, 11, generator=generator)
    return backbone.condition(["cello", "piano", ""], [4.0, 4.0, 4.0]), x_t, torch.tensor([1.0, 0.5, 0.1])


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_in_layers_and_folded_in_it_is_the_change_of_the_prediction(tiny: Any, tmp_path: Path, kind: str) -> None:
    conditioning, x_t, t = inputs(tiny)
    identity = tiny.identity()
    with torch.no_grad():
        base = tiny.predict(x_t, t, conditioning)
    config = adapt(tiny, kind, 0.2)
    peft_format.save(tmp_path, tiny.module, config, {})
    with torch.no_grad():
        changed = tiny.predict(x_t, t, conditioning)
    expected = [
        float((a - b).square().mean().sqrt() / b.square().mean().sqrt()) for a, b in zip(changed, base, strict=True)
    ]
    assert min(expected) > 0.01
    trainable = adapters.trainable_parameters(tiny.module).keys()
    assert effect.relative_change(tiny, conditioning, x_t, t).tolist() == pytest.approx(expected, rel=1e-4)
    assert adapters.trainable_parameters(tiny.module).keys() == trainable
    with torch.no_grad():
        assert torch.equal(tiny.predict(x_t, t, conditioning), changed)
    adapters.remove_layers(tiny.module)
    adapters.attach(tiny, tmp_path)
    folded = {name: value.clone() for name, value in tiny.module.state_dict().items()}
    assert effect.relative_change(tiny, conditioning, x_t, t).tolist() == pytest.approx(expected, rel=1e-3)
    assert all(torch.equal(value, folded[name]) for name, value in tiny.module.state_dict().items())
    adapters.detach(tiny)
    assert tiny.identity() == identity


def test_an_adapter_that_did_nothing_is_told_from_one_that_did(tiny: Any) -> None:
    adapt(tiny, "dora", 0.0)
    nothing = effect.measure(tiny)
    assert nothing.negligible
    assert nothing.levels[0] == 1.0
    assert nothing.levels == sorted(nothing.levels, reverse=True)
    with torch.no_grad():
        for parameter in adapters.trainable_parameters(tiny.module).values():
            parameter += 0.1
    something = effect.measure(tiny)
    assert not something.negligible
    assert something.overall > 100 * nothing.overall


def test_it_is_looked_at_where_the_base_model_goes(tiny: Any) -> None:
    levels = effect.base_levels(tiny, steps=4)
    adapt(tiny, "lora", 0.5)
    again = effect.base_levels(tiny, steps=4)
    assert levels.x_t.shape == (4, tiny.latent_channels, 64)
    assert torch.equal(levels.x_t, again.x_t)


def test_without_an_adapter_there_is_nothing_to_measure(tiny: Any) -> None:
    with pytest.raises(ConfigError, match="no adapter"):
        effect.measure(tiny)


def test_a_written_file_is_compared_with_its_source(sa3: Any, make_adapter: Any, tmp_path: Path) -> None:
    make_adapter(tmp_path / "ours", kind="dora")
    adapter = convert.read(tmp_path / "ours")
    before = sa3.identity()
    for precision, least, most in (("fp32", 0.0, 1e-4), ("fp16", 1e-4, 2e-2)):
        file = tmp_path / f"{precision}.safetensors"
        convert.write(adapter, "sa3", file, precision=precision)
        compared = effect.compare(sa3, tmp_path / "ours", file)
        assert least <= compared.deviation < most
        assert compared.relative_deviation == pytest.approx(compared.deviation * compared.effect.overall, rel=0.5)
    assert sa3.identity() == before
