"""A noise-level weight with parameters of its own trains beside the network, is saved with it and resumes exactly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from eisbach.diffusion.paths import Path as NoisingPath
from eisbach.errors import UserError
from eisbach.training import loop
from eisbach.weighting import Weighting
from eisbach.weighting.noise_level import NOISE_WEIGHTINGS
from eisbach.weighting.noise_level.base import NoiseWeight


class Scale(NoiseWeight):
    """exp(-u) with one parameter u, and the penalty u: at its optimum e^u is the mean loss."""

    name = "scale"

    def __init__(self) -> None:
        self.u = torch.nn.Parameter(torch.zeros(()))

    def _weight(self, path: NoisingPath, target: str, t: torch.Tensor, num_frames: int | None) -> torch.Tensor:
        return (-self.u).exp().expand(t.shape)

    def terms(self, path, target, t, *, num_frames=None):
        return (-self.u).exp().expand(t.shape), self.u.expand(t.shape)

    def trainable_parameters(self):
        return {"u": self.u}

    def state_dict(self):
        return {"u": self.u.detach()}

    def load_state_dict(self, state):
        self.u.data.copy_(state["u"])


@pytest.fixture(autouse=True)
def _scheme(monkeypatch):
    monkeypatch.setitem(NOISE_WEIGHTINGS, "scale", Scale)


def test_the_optimum_is_the_mean_loss_whatever_the_split():
    losses = torch.rand(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    output = torch.zeros(8, 1, 4, dtype=torch.float64)
    context = {"t": torch.full((8,), 0.5), "path": "linear", "target": "u"}
    whole = Weighting(noise_level=Scale())
    whole(losses, output, **context).loss.backward()
    # d/du (e^-u mean(l) + u) at u = 0
    torch.testing.assert_close(whole.noise_level.u.grad, (1 - losses.mean()).float())
    halves = Weighting(noise_level=Scale())
    stats = 0
    for part in (slice(0, 3), slice(3, 8)):
        some = {**context, "t": context["t"][part]}
        partial = halves.partial(losses[part], output[part], **some)
        partial.unscaled.backward()
        stats = stats + partial.stats
    torch.testing.assert_close(
        halves.noise_level.u.grad * halves.gradient_factor(stats).float(), whole.noise_level.u.grad
    )
    # A framework that divides the loss by the accumulation divides this gradient too.
    network, divided = torch.nn.Parameter(torch.zeros(8)), Weighting(noise_level=Scale())
    for part in (slice(0, 3), slice(3, 8)):
        partial = divided.partial(losses[part] + network[part], output[part], **{**context, "t": context["t"][part]})
        (partial.unscaled / 2).backward()
    factor = divided.finish_gradients([network], stats, already_divided_by=2)
    torch.testing.assert_close(factor, torch.tensor(2 / 8, dtype=torch.float64))
    torch.testing.assert_close(network.grad, torch.full((8,), 1 / 8))
    torch.testing.assert_close(divided.noise_level.u.grad, whole.noise_level.u.grad)
    with pytest.raises(UserError, match="learned noise-level weight"):
        Weighting(noise_level=Scale(), normalisation="mean1")


def test_it_trains_is_saved_and_resumes_exactly(configure, tmp_path):
    def run(out: str, **changes):
        return configure(out, weighting={"noise_level": "scale"}, checkpoint={"every": 3, "keep": 9}, **changes)

    whole = loop.train(run("whole"), quiet=True)
    saved = load_file(whole / "checkpoints" / "step-000006" / "weighting.safetensors")
    assert set(saved) == {"u"}
    assert abs(float(saved["u"])) > 0.02  # six steps of 1e-2
    # a run that stops at step 3 and goes on from its checkpoint
    half = loop.train(run("half"), quiet=True)
    import shutil

    for name in ("checkpoints/step-000006", "adapter"):
        shutil.rmtree(half / name)
    (half / "result.json").unlink()
    loop.train(run("half"), quiet=True)
    again = half / "checkpoints" / "step-000006"
    for name in ("weighting.safetensors", "optimizer.safetensors", "adapter_model.safetensors"):
        first, second = load_file(whole / "checkpoints" / "step-000006" / name), load_file(again / name)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first if not key.startswith("window."))


def test_the_networks_update_does_not_depend_on_the_penalty(configure):
    """Clipping sees the network's gradient alone."""
    config = configure("a", weighting={"noise_level": "scale"}, max_grad_norm=1e-3, steps=1, held_out={"every": 0})
    loop.train(config, quiet=True)
    plain = configure("b", max_grad_norm=1e-3, steps=1, held_out={"every": 0})
    loop.train(plain, quiet=True)
    first, second = (load_file(f"{c.out}/adapter/adapter_model.safetensors") for c in (config, plain))
    for key, value in first.items():
        torch.testing.assert_close(value, second[key], rtol=1e-5, atol=1e-8)


def test_the_scheme_that_ships_with_the_package_resumes_too(configure):
    import shutil

    def run(out: str):
        return configure(out, weighting={"noise_level": "edm2"}, checkpoint={"every": 3, "keep": 9})

    whole, half = loop.train(run("whole"), quiet=True), loop.train(run("half"), quiet=True)
    shutil.rmtree(half / "checkpoints" / "step-000006")
    (half / "result.json").unlink()
    loop.train(run("half"), quiet=True)
    first, second = (
        load_file(folder / "checkpoints" / "step-000006" / "weighting.safetensors") for folder in (whole, half)
    )
    assert first.keys() == second.keys() >= {"weight", "bias", "frequencies"}
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert float(first["weight"].abs().max()) > 0


def test_options_that_are_not_options(configure):
    for key, value in (("strength", 0.3), ("path", "vp")):
        with pytest.raises(UserError, match=key):
            configure("c", weighting={"noise_level": "min_snr", "options": {key: value}})


def test_weightings_stay_replaceable():
    assert replace(Weighting(noise_level=Scale()), strength=0.2).trainable_parameters().keys() == {"u"}
