"""Several adapters at once: what they do together is the sum of what each does to the weights, where it acts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from eisbach import adapters
from eisbach.adapters.inject import ATTACHED
from eisbach.adapters.mix import AdapterMix, Part
from eisbach.backbones.stable_audio3 import StableAudio3Backbone
from eisbach.diffusion.guidance import Projection, guided
from eisbach.diffusion.samplers import sample_ode, sample_pingpong
from eisbach.diffusion.schedules import get_schedule
from eisbach.errors import CheckpointError, ConfigError, EisbachError

LEVELS = [0.95, 0.7, 0.5, 0.3, 0.05]


@pytest.fixture
def pair(tmp_path: Path, make_adapter: Callable[..., torch.Tensor]) -> list[Path]:
    """A LoRA and a DoRA of the same layers."""
    made = [tmp_path / "lora", tmp_path / "dora"]
    make_adapter(made[0], kind="lora", rank=2, alpha=2.0)
    make_adapter(made[1], kind="dora", rank=3, alpha=6.0)
    return made


def weights(model: StableAudio3Backbone) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.module.state_dict().items()}


def merged(model: StableAudio3Backbone, path: Path, strength: float) -> dict[str, torch.Tensor]:
    """The weights that peft's own merging makes of one adapter."""
    adapters.attach(model, path, strength)
    try:
        return weights(model)
    finally:
        adapters.detach(model)


def test_at_each_level_the_weights_are_the_base_s_plus_the_change_of_each_that_acts(
    sa3: StableAudio3Backbone, pair: list[Path]
) -> None:
    base = weights(sa3)
    parts = [Part(pair[0], 0.8, (0.3, 1.0)), Part(pair[1], -0.5, (0.0, 0.7))]
    alone = [merged(sa3, part.path, part.strength) for part in parts]
    mix = AdapterMix(sa3, parts)
    acting = {t: mix.set_level(t) for t in LEVELS}
    assert acting == {0.95: (0,), 0.7: (0, 1), 0.5: (0, 1), 0.3: (0, 1), 0.05: (1,)}
    for t in LEVELS:
        active = mix.set_level(t)
        for name, value in weights(sa3).items():
            expected = base[name] + sum((alone[number][name] - base[name] for number in active), torch.zeros(()))
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    mix.detach()
    assert all(torch.equal(value, base[name]) for name, value in weights(sa3).items())


def test_outside_its_interval_the_network_is_the_base_bit_for_bit(
    sa3: StableAudio3Backbone, pair: list[Path], reference: dict[str, torch.Tensor], play: Callable[..., torch.Tensor]
) -> None:
    base = play(sa3)
    mix = AdapterMix(sa3, [Part(pair[1], 1.0, (0.6, 1.0))])
    mix.set_level(0.9)
    assert not torch.equal(play(sa3), base)
    mix.set_level(0.59)
    assert torch.equal(play(sa3), base)


def test_a_level_at_the_end_of_an_interval_is_inside_in_single_precision_too(
    sa3: StableAudio3Backbone, pair: list[Path]
) -> None:
    mix = AdapterMix(sa3, [Part(pair[0], 1.0, (0.3, 0.9))])
    for t in (0.3, 0.9, float(torch.tensor(0.3)), float(torch.tensor(0.9))):
        assert mix.acting(t) == (0,)
    assert mix.acting(0.2999) == mix.acting(0.9001) == ()


@pytest.mark.parametrize("sampler", ["euler", "heun", "pingpong"])
@pytest.mark.parametrize("apg", [0.0, 1.0])
@pytest.mark.whole
def test_sampling_equals_a_network_that_is_merged_anew_at_every_call(
    sa3: StableAudio3Backbone, pair: list[Path], sampler: str, apg: float
) -> None:
    """With guidance both branches of a call see the same adapters."""
    parts = [Part(pair[0], 0.8, (0.5, 1.0)), Part(pair[1], 0.6, (0.2, 0.8))]
    conditioning = sa3.condition(["slow cello"], [4.0])
    null = sa3.null_condition(conditioning)
    noise = torch.randn(1, sa3.latent_channels, 16, generator=torch.Generator().manual_seed(0))
    fresh = torch.Generator().manual_seed(1)

    def sample(predict: Any) -> torch.Tensor:
        fresh.manual_seed(1)
        network = guided(predict, conditioning, null, 2.5, projection=Projection(apg, sa3.path, sa3.target))
        shared: dict[str, Any] = {
            "path": sa3.path,
            "target": sa3.target,
            "noise": noise,
            "times": get_schedule("uniform", 6, sa3.path),
        }
        if sampler == "pingpong":
            return sample_pingpong(
                network, fresh_noise=lambda step: torch.randn(noise.shape, generator=fresh), **shared
            )
        return sample_ode(network, method=sampler, **shared)

    base = sample(sa3.predict)
    mix = AdapterMix(sa3, parts)
    mixed = sample(mix.predict(sa3.predict))
    mix.detach()
    original = weights(sa3)
    alone = [merged(sa3, part.path, part.strength) for part in parts]

    def by_hand(x_t: torch.Tensor, t: torch.Tensor, rows: Any) -> torch.Tensor:
        level = float(t[0])
        state = sa3.module.state_dict()
        for name, value in original.items():
            made = value.clone()
            for part, single in zip(parts, alone, strict=True):
                if part.interval[0] - 1e-6 <= level <= part.interval[1] + 1e-6:
                    made += single[name] - value
            state[name].copy_(made)
        return sa3.predict(x_t, t, rows)

    try:
        expected = sample(by_hand)
    finally:
        sa3.module.load_state_dict(original)
    assert float((mixed - base).norm() / base.norm()) > 0.01
    torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-4)


def test_one_adapter_everywhere_is_what_attaching_plays(
    sa3: StableAudio3Backbone, pair: list[Path], play: Callable[..., torch.Tensor]
) -> None:
    for path in pair:
        adapters.attach(sa3, path, 0.7)
        attached = play(sa3)
        adapters.detach(sa3)
        mix = AdapterMix(sa3, [Part(path, 0.7)])
        mix.set_level(0.4)
        torch.testing.assert_close(play(sa3), attached, rtol=1e-5, atol=1e-5)
        mix.detach()


def test_fully_trained_weights_take_part(sa3: StableAudio3Backbone, pair: list[Path], tmp_path: Path) -> None:
    base = weights(sa3)
    full = tmp_path / "full"
    full.mkdir()
    moved = {name: value + 0.01 if value.is_floating_point() else value for name, value in base.items()}
    save_file({name: value.contiguous() for name, value in moved.items()}, full / "model.safetensors")
    alone = merged(sa3, pair[1], 1.0)
    mix = AdapterMix(sa3, [Part(full, 0.5), Part(pair[1])])
    mix.set_level(0.5)
    for name, value in weights(sa3).items():
        expected = base[name] + 0.5 * (moved[name] - base[name]) + (alone[name] - base[name])
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("interval", "told"),
    [
        ((0.5, 0.5), "no noise level lies between"),
        ((0.8, 0.2), "the lower one comes first"),
        ((-0.1, 0.5), "lie from 0"),
        ((0.5, 1.5), "lie from 0"),
        ((float("nan"), 1.0), "lie from 0"),
    ],
)
def test_an_interval_that_is_none_is_refused(
    sa3: StableAudio3Backbone, pair: list[Path], interval: tuple[float, float], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        AdapterMix(sa3, [Part(pair[0], 1.0, interval)])
    assert sa3.module not in ATTACHED


def test_refusals_leave_the_base(
    sa3: StableAudio3Backbone, pair: list[Path], make_adapter: Callable[..., torch.Tensor], tmp_path: Path
) -> None:
    base = weights(sa3)
    make_adapter(tmp_path / "foreign", stamp={"base_identity": "0123456789abcdef"})
    with pytest.raises(CheckpointError, match="trained on the base model 0123456789abcdef"):
        AdapterMix(sa3, [Part(pair[0]), Part(tmp_path / "foreign")])
    AdapterMix(sa3, [Part(pair[0]), Part(tmp_path / "foreign")], any_base=True).detach()
    with pytest.raises(CheckpointError, match="there is no adapter"):
        AdapterMix(sa3, [Part(pair[0]), Part(tmp_path / "nothing.safetensors")])
    broken = load_file(pair[1] / "adapter_model.safetensors")
    save_file({name: value * torch.nan for name, value in broken.items()}, pair[1] / "adapter_model.safetensors")
    with pytest.raises(EisbachError, match="not finite"):
        AdapterMix(sa3, [Part(pair[0]), Part(pair[1])])
    assert sa3.module not in ATTACHED
    assert all(torch.equal(value, base[name]) for name, value in weights(sa3).items())
    assert json.loads((pair[0] / "adapter_config.json").read_text())["peft_type"] == "LORA"


def test_weights_beyond_what_the_network_holds_are_refused_and_the_base_comes_back(
    sa3: StableAudio3Backbone, pair: list[Path]
) -> None:
    base = weights(sa3)
    tensors = load_file(pair[0] / "adapter_model.safetensors")
    last = sorted(name.split(".lora_")[0] for name in tensors)[-1]  # the others are in place by then
    save_file(
        {name: value * (1e25 if name.startswith(last) else 1) for name, value in tensors.items()},
        pair[0] / "adapter_model.safetensors",
    )
    mix = AdapterMix(sa3, [Part(pair[0]), Part(pair[1])])
    with pytest.raises(CheckpointError, match="cannot be played together"):
        mix.set_level(0.5)
    assert all(torch.equal(value, base[name]) for name, value in weights(sa3).items())


def test_rows_of_different_levels_are_refused(sa3: StableAudio3Backbone, pair: list[Path]) -> None:
    mix = AdapterMix(sa3, [Part(pair[0], 1.0, (0.5, 1.0))])
    conditioning = sa3.condition(["a", "b"], [4.0, 4.0])
    x_t = torch.zeros(2, sa3.latent_channels, 8)
    with pytest.raises(ConfigError, match="one noise level for all rows"):
        mix.predict(sa3.predict)(x_t, torch.tensor([0.4, 0.6]), conditioning)
