"""EDM2's learned uncertainty: at its optimum e^u is the mean weighted error at each noise level, whatever the base."""

import math

import pytest
import torch

from eisbach.diffusion.paths import PATHS, get_path
from eisbach.diffusion.targets import TARGETS
from eisbach.errors import CheckpointError, UserError
from eisbach.weighting import Weighting
from eisbach.weighting.noise_level import EDM, Constant, LearnedUncertainty, MinSNR

T = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)


def error_curve(log_snr: torch.Tensor) -> torch.Tensor:
    """A made-up mean squared error of u, over three decades: falls with SNR, with a bump."""
    return 2 * torch.sigmoid(-log_snr / 2) ** 2 * (1 + 0.8 * torch.exp(-((log_snr - 1) ** 2) / 4)) + 0.01


def train(weighting: LearnedUncertainty, path: str, target: str, steps: int = 700) -> None:
    """Adam on the loss as `Weighting` composes it, with errors that scatter about the curve as those of samples do."""
    generator = torch.Generator().manual_seed(0)
    composed = Weighting(noise_level=weighting)
    optimiser = torch.optim.Adam(composed.trainable_parameters().values(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        t = torch.sigmoid(1.2 * torch.randn(512, generator=generator, dtype=torch.float64))
        scatter = torch.randn(4, 512, generator=generator, dtype=torch.float64).square().mean(0)  # mean 1
        losses = error_curve(get_path(path).log_snr(t)) * scatter
        optimiser.zero_grad()
        composed(losses, torch.zeros(512, 1, 2), t=t, path=path, target=target).loss.backward()
        optimiser.step()
        schedule.step()


@pytest.mark.parametrize(
    ("path", "target", "base"), [("linear", "u", "edm"), ("gvp", "eps", MinSNR(5.0)), ("edm", "x0", "edm")]
)
@pytest.mark.whole
def test_optimum_is_the_mean_weighted_error(path, target, base):
    weighting = LearnedUncertainty(base)
    train(weighting, path, target)
    t = torch.sigmoid(1.2 * torch.linspace(-2, 2, 41, dtype=torch.float64))
    known = weighting.base(path, target, t) * error_curve(get_path(path).log_snr(t))
    assert known.max() / known.min() > 3, "the curve is no constant"
    learned = weighting.log_uncertainty(path, t).detach().double()
    assert (learned - known.log()).abs().max() < 0.12
    assert (learned - known.log()).abs().mean() < 0.04
    # so every noise level contributes a weighted loss of 1
    contribution = weighting(path, target, t) * error_curve(get_path(path).log_snr(t))
    torch.testing.assert_close(contribution, torch.ones_like(t), rtol=0.13, atol=0)


def test_starts_as_its_base():
    for path in PATHS:
        for target in TARGETS:
            for weighting, base in (
                (LearnedUncertainty(), EDM(0.5)),
                (LearnedUncertainty(sigma_data=1.3), EDM(1.3)),
                (LearnedUncertainty("constant"), Constant()),
                (LearnedUncertainty(MinSNR(2.0)), MinSNR(2.0)),
            ):
                weight, penalty = weighting.terms(path, target, T)
                torch.testing.assert_close(weight.detach(), base(path, target, T), rtol=0, atol=0)
                assert penalty.tolist() == [0.0] * len(T)


def test_terms_by_hand_and_by_finite_difference():
    weighting = LearnedUncertainty(channels=8)
    net = weighting.module
    with torch.no_grad():
        net.weight.copy_(torch.linspace(-0.3, 0.4, 8))
        net.bias.fill_(0.2)
    weight, penalty = weighting.terms("linear", "u", T)
    # EDM2's own preconditioning: c_noise = ln(sigma)/4, with sigma/alpha for sigma away from alpha = 1
    c_noise = ((T / (1 - T)).log() / 4).float()
    features = math.sqrt(2) * torch.cos(torch.outer(c_noise, net.frequencies) + net.phases)
    u = features @ net.weight + net.bias
    torch.testing.assert_close(penalty, u.double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weight, EDM()("linear", "u", T) / u.double().exp(), rtol=1e-5, atol=0)
    losses = torch.linspace(0.1, 3, len(T), dtype=torch.float64)
    (weight * losses + penalty).mean().backward()
    step = 1e-2
    for parameter in weighting.trainable_parameters().values():
        flat = parameter.data.view(-1)
        for place in range(min(3, flat.numel())):
            values = []
            for sign in (1, -1):
                flat[place] += sign * step
                now, cost = weighting.terms("linear", "u", T)
                values.append(float((now * losses + cost).mean().detach()))
                flat[place] -= sign * step
            slope = (values[0] - values[1]) / (2 * step)
            assert float(parameter.grad.view(-1)[place]) == pytest.approx(slope, rel=2e-3, abs=2e-4)


def test_call_is_detached_and_parameters_stay_float32():
    weighting = LearnedUncertainty()
    assert not weighting("linear", "u", T).requires_grad
    weight, penalty = weighting.terms("linear", "u", T)
    assert weight.requires_grad
    assert penalty.requires_grad
    assert {name: value.dtype for name, value in weighting.trainable_parameters().items()} == {
        "weight": torch.float32,
        "bias": torch.float32,
    }
    with torch.no_grad():
        weighting.module.weight.normal_(generator=torch.Generator().manual_seed(1))
    plain = weighting("linear", "u", T)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(weighting("linear", "u", T), plain, rtol=0, atol=0)


def test_moves_and_checks_devices():
    weighting = LearnedUncertainty(channels=4)
    parameters = weighting.trainable_parameters()
    assert weighting.to("cpu") is weighting
    assert all(weighting.trainable_parameters()[name] is value for name, value in parameters.items())
    meta = LearnedUncertainty(channels=4).to("meta")
    with pytest.raises(UserError, match=r"parameters are on meta .* call to\('cpu'\)"):
        meta("linear", "u", T)
    # the meta device runs shapes through as a GPU would its values
    weight, penalty = meta.terms("linear", "u", torch.empty(3, device="meta"))
    assert weight.device.type == penalty.device.type == "meta"
    assert weight.shape == penalty.shape == (3,)


def test_state_makes_the_same_weighting_again():
    first, second = LearnedUncertainty(seed=1), LearnedUncertainty(seed=2)
    with torch.no_grad():
        first.module.weight.normal_(generator=torch.Generator().manual_seed(1))
    second.load_state_dict({key: value.clone() for key, value in first.state_dict().items()})
    torch.testing.assert_close(second("linear", "u", T), first("linear", "u", T), rtol=0, atol=0)
    torch.testing.assert_close(LearnedUncertainty(seed=1).module.phases, first.module.phases, rtol=0, atol=0)
    for state in ({"weight": torch.zeros(128)}, LearnedUncertainty(channels=5).state_dict()):
        with pytest.raises(CheckpointError, match="build it with the options it was saved with"):
            second.load_state_dict(state)


def test_whole_graph_compiles_with_gradient():
    weighting = LearnedUncertainty(channels=8)

    def loss(t, losses):
        weight, penalty = weighting.terms("linear", "u", t)
        return (weight * losses + penalty).mean()

    losses = torch.linspace(0.1, 3, len(T), dtype=torch.float64)
    loss(T, losses).backward()
    expected = weighting.module.weight.grad.clone()
    weighting.module.weight.grad = None
    torch.compile(loss, backend="aot_eager", fullgraph=True)(T, losses).backward()
    torch.testing.assert_close(weighting.module.weight.grad, expected, rtol=1e-5, atol=1e-7)


def test_bad_options():
    for options, words in (
        ({"channels": 0}, "channels must be a whole number of at least 1"),
        ({"channels": 2.5}, "channels must be a whole number"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"sigma_data": 0.0}, "sigma_data must be a finite number above 0"),
        ({"base": "score"}, "choose one of constant"),
        ({"base": "tabulated"}, "needs options of its own"),
        ({"base": "edm2"}, "without learned parameters"),
        ({"base": LearnedUncertainty()}, "without learned parameters"),
        ({"base": 3}, "without learned parameters"),
        ({"base": "min_snr", "sigma_data": 0.5}, "sigma_data belongs to the base 'edm'"),
    ):
        with pytest.raises(UserError, match=words):
            LearnedUncertainty(**options)
    with pytest.raises(UserError, match="keeps its own scale"):
        Weighting(noise_level=LearnedUncertainty(), normalisation="mean1")
