"""Gates and level means: curves over the noise level that shape a sample weighting."""

import math

import numpy as np
import pytest
import torch

from eisbach.errors import UserError
from eisbach.weighting import EntropyBarrier, NoiseLevelTable, Weighting, build_weighting, gate_table
from eisbach.weighting.noise_level import MinSNR

GRID = torch.linspace(0, 1, 101, dtype=torch.float64)


def batch():
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(6, 3, 20, generator=generator, dtype=torch.float64)
    output[2:, :, :6] *= 2.5
    t = torch.tensor([0.05, 0.3, 0.45, 0.55, 0.7, 1.0], dtype=torch.float64)
    return torch.rand(6, generator=generator, dtype=torch.float64) + 0.5, output, t


def test_interpolates_as_numpy_does():
    points = ((0.1, 2.0), (0.3, 0.5), (0.35, 0.5), (0.9, 4.0))
    expected = np.interp(GRID.numpy(), *zip(*points, strict=True))
    np.testing.assert_allclose(NoiseLevelTable(points)(GRID), expected, rtol=1e-12)
    assert NoiseLevelTable(((0.5, 3.0),))(GRID).tolist() == [3.0] * 101
    assert NoiseLevelTable(points)(torch.tensor([math.nan])).isnan().all()
    assert NoiseLevelTable(points)(torch.tensor([0.2], dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("width", [0.0, 0.1])
def test_gates(width):
    below = gate_table(below=0.5, width=width)(GRID)
    assert (below[: round(50 - 50 * width)] == 1).all()
    assert (below[round(51 + 50 * width) :].abs() < 1e-9).all()
    assert float(below[50]) == pytest.approx(0.5)
    above = gate_table(above=0.5, width=width)(GRID)
    torch.testing.assert_close(above, 1 - below)
    band = gate_table(above=0.2, below=0.6, width=width)(GRID)
    assert float(band[40]) == pytest.approx(1)
    assert float(band[5]) == pytest.approx(0) == float(band[80])


def test_gates_that_open_at_the_very_end():
    assert gate_table(below=1.0, width=0.2)(GRID)[-1] == pytest.approx(0.5)
    assert gate_table(above=0.0)(GRID[1:]).min() == pytest.approx(1)


def test_outside_the_gate_a_sample_counts_as_if_unweighted():
    losses, output, t = batch()
    plain = Weighting(sample=EntropyBarrier(), strength=1.0)(losses, output)
    gated = build_weighting("entropy_barrier", strength=1.0, gate_below=0.5)(losses, output, t=t)
    torch.testing.assert_close(gated.weight[:3], plain.sample_weight[:3])
    torch.testing.assert_close(gated.weight[3:], torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(gated.sample_weight, plain.sample_weight)  # what the barrier itself says stays visible


def test_level_means_leave_the_differences_and_take_the_level():
    losses, output, t = batch()
    means = ((0.0, 0.4), (1.0, 0.1))
    raw = EntropyBarrier()(output).weight
    terms = build_weighting("entropy_barrier", strength=1.0, level_means=means)(losses, output, t=t)
    torch.testing.assert_close(terms.weight, raw / (0.4 - 0.3 * t))
    both = build_weighting("entropy_barrier", strength=0.5, level_means=means, gate_above=0.4)(losses, output, t=t)
    inside = (t > 0.4).double()
    expected = 0.5 + 0.5 * (1 + inside * (raw / (0.4 - 0.3 * t) - 1))
    torch.testing.assert_close(both.weight, expected)


def test_eq_5_averages_the_shaped_weights():
    losses, output, t = batch()
    terms = build_weighting("entropy_barrier", reduction="batch", strength=1.0, gate_below=0.5)(losses, output, t=t)
    shaped = torch.where(t < 0.5, EntropyBarrier()(output).weight, 1.0)
    torch.testing.assert_close(terms.loss, losses.mean() * shaped.mean())


def test_a_sample_too_short_to_be_judged_stays_neutral():
    losses, output, t = batch()
    mask = torch.ones(6, 20, dtype=torch.bool)
    mask[1, 1:] = False
    weighting = build_weighting("entropy_barrier", strength=1.0, level_means=((0.5, 0.2),))
    terms = weighting(losses, output, t=t, mask=mask)
    assert float(terms.weight[1]) == 1.0
    assert (terms.weight[[0, 2, 3]] != 1).all()


def test_a_closed_gate_does_not_hide_what_is_not_finite():
    losses, output, t = batch()
    output[4, 0, 0] = math.nan
    assert build_weighting("entropy_barrier", gate_below=0.1)(losses, output, t=t).loss.isnan()


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        ((), "increasing order"),
        (((0.5, 1.0), (0.5, 2.0)), "increasing order"),
        (((-0.1, 1.0),), "within"),
        (((0.1, -1.0),), "at least 0"),
        (((0.1, math.nan),), "at least 0"),
        ((1.0, 2.0), "pairs"),
        ("ab", "pairs"),
    ],
)
def test_bad_tables(points, sentence):
    with pytest.raises(UserError, match=sentence):
        NoiseLevelTable(points)


def test_bad_shapings():
    for options, sentence in (
        ({"gate_below": 1.2}, "noise level t"),
        ({"gate_width": 0.1}, "there is no gate"),
        ({"gate_below": 0.5, "gate_width": -1}, "at least 0"),
        ({"gate_above": 0.5, "gate_below": 0.5}, "leaves no noise level"),
        ({"level_means": ((0.2, 0.0),)}, "must be above 0"),
        ({"level_means": 3}, "pairs"),
    ):
        with pytest.raises(UserError, match=sentence):
            build_weighting("entropy_barrier", **options)
    with pytest.raises(UserError, match="neither"):
        gate_table()
    with pytest.raises(UserError, match="there is none"):
        build_weighting("none", "min_snr", gate_below=0.5)
    with pytest.raises(UserError, match=r"\[0, 1\]"):
        Weighting(sample=EntropyBarrier(), gate=NoiseLevelTable(((0.1, 2.0),)))
    losses, output, _ = batch()
    with pytest.raises(UserError, match="one noise level a sample"):
        build_weighting("entropy_barrier", gate_below=0.5)(losses, output)
    with pytest.raises(UserError, match="one noise level a sample"):
        build_weighting("entropy_barrier", gate_below=0.5)(losses, output, t=torch.ones(()))


def test_together_with_a_noise_level_weight():
    losses, output, t = batch()
    weighting = build_weighting("entropy_barrier", "min_snr", strength=1.0, gate_below=0.5)
    terms = weighting(losses, output, t=t, path="linear", target="u")
    noise = MinSNR()("linear", "u", t)
    torch.testing.assert_close(terms.noise_weight, noise)
    torch.testing.assert_close(terms.weight, noise * torch.where(t < 0.5, EntropyBarrier()(output).weight, 1.0))


@pytest.mark.parametrize("value", [[0.5], "0.5", True, float("nan"), -1, 2, {}])
@pytest.mark.parametrize("option", ["below", "above", "width"])
def test_a_gate_of_no_number_is_one_sentence(option, value):
    if option == "width" and value == 2:
        pytest.skip("a ramp of 2 is wide, and a number")
    with pytest.raises(UserError, match=f"gate_{option} must be"):
        gate_table(**({"below": 0.5} if option == "width" else {}), **{option: value})
