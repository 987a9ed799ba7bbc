"""The signature of a statistic, and the measured error curve."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from eisbach.diagnostics.mixture import GaussianMixture
from eisbach.diagnostics.signature.entropic import measured_levels, squared_errors
from eisbach.diagnostics.signature.statistic import statistic_signature
from eisbach.diffusion.paths import get_path
from eisbach.errors import UserError


def rows_of(distance: float, clips: int = 160, seed: int = 0) -> list[dict]:
    """Two classes with normal logits `distance` apart at low noise, and nothing at high noise."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(clips):
        flat = number % 4 != 0  # unequal numbers
        for t, scale in ((0.9, 0.0), (0.5, 1.0), (0.1, 1.0)):
            logit = rng.normal() + scale * (distance / 2 if flat else -distance / 2)
            rows.append(
                {"clip": f"c{number}", "t": t, "belief": 1 / (1 + math.exp(-logit)), "label.flat": str(flat).lower()}
            )
    return rows


def test_the_statistics_signature_is_near_the_exact_entropy_at_equal_priors() -> None:
    found = statistic_signature(rows_of(3.0, 400))
    u = np.random.default_rng(1).normal(size=200_000)
    exact = np.logaddexp(0, -(2 * 1.5**2 + 2 * 1.5 * u)).mean()  # two unit normals at +-1.5
    assert found.groups == ["false", "true"]
    assert found.prior_entropy == pytest.approx(math.log(2))
    assert found.quantity == "cross-entropy"
    assert found.t == [0.9, 0.5, 0.1]
    for place in (1, 2):
        assert found.entropy_lo[place] < exact < found.entropy_hi[place]
        assert found.entropy[place] == pytest.approx(exact, abs=0.06)
    assert found.entropy[0] == pytest.approx(math.log(2), abs=0.06)
    assert 0.5 < found.half.t < 0.9
    assert found.half.t_lo <= found.half.t <= found.half.t_hi


def test_labels_that_cannot_be_judged_are_refused() -> None:
    rows = rows_of(2.0, 40)
    with pytest.raises(UserError, match="no row has both"):
        statistic_signature(rows, label="kind")
    with pytest.raises(UserError, match="two values with at least 5"):
        statistic_signature(rows[:30])
    with pytest.raises(UserError, match="summing to 1"):
        statistic_signature(rows, prior={"true": 0.5, "false": 0.6})
    for change in ({"t": 3.0}, {"t": "half"}, {"clip": None}):
        with pytest.raises(UserError, match="no clip or no noise level"):
            statistic_signature([*rows, {**rows[0], **change}])


def test_squared_errors_of_the_perfect_network_are_the_posterior_variance() -> None:
    path = get_path("linear")
    mixture = GaussianMixture(weights=[1.0], means=[[0.0, 0.0]], covariances=0.25)
    x0 = 0.5 * torch.randn(40_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    levels = measured_levels(path, 5, 0.1, 10.0)
    found = squared_errors(lambda x_t, t: mixture.bayes_predict(path, "u", x_t, t), path, "u", x0, noise, levels).mean(
        1
    )
    s = (levels / (1 - levels)) ** 2
    np.testing.assert_allclose(found, 2 * 0.25 * s / (0.25 + s), rtol=0.02)
    half = squared_errors(
        lambda x_t, t: torch.zeros_like(x_t), path, "x0", x0[:, :, None], noise[:, :, None], levels[:1],
        mask=torch.zeros(len(x0), 1, dtype=torch.bool),
    )  # fmt: skip
    assert float(half.abs().sum()) == 0


def test_levels_outside_the_path_are_refused() -> None:
    with pytest.raises(UserError, match="lies outside it"):
        measured_levels(get_path("edm"), 5, 100.0, 200.0)
