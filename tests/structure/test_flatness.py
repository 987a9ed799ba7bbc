from __future__ import annotations

import math

import numpy as np
import pytest

from eisbach.errors import UserError
from eisbach.structure import METRICS, analyze, flat_probability, is_flat
from eisbach.structure.flatness import FORBIDDEN, judge
from eisbach.studies.ground_truth import synthetic


def test_the_judge_uses_only_known_metrics_and_none_of_the_weightings():
    used = set(judge()["features"])
    assert used <= set(METRICS)
    assert not used & FORBIDDEN


def test_the_asset_reports_held_out_numbers_for_every_kind():
    for by_kind in judge()["held_out"].values():
        for family in ("developing", "drone", "pad", "loop", "texture"):
            assert any(kind.startswith(family) for kind in by_kind), family
        assert all(numbers["auc"] > 0.93 for kind, numbers in by_kind.items() if kind != "developing")


@pytest.mark.parametrize("seed", [101, 102])
def test_flat_and_developing_synthetic_pieces_are_told_apart(seed):
    assert not is_flat(analyze(synthetic.form("ABCD", 7.5, seed)).metrics)
    flat = [synthetic.drone(seed, 30.0), synthetic.noise(seed, 30.0), synthetic.pad(seed, 30.0)]
    flat += [synthetic.loop(period, seed, 30.0) for period in (1.0, 2.7, 6.0, 12.0)]
    assert [is_flat(analyze(piece).metrics) for piece in flat] == [True] * 7


def test_probability_is_the_logistic_function_of_the_asset():
    constants = judge()["features"]
    at_mean = {name: feature["mean"] for name, feature in constants.items()}
    expected = 1 / (1 + math.exp(-judge()["bias"]))
    assert flat_probability(at_mean) == pytest.approx(expected)
    lag = constants["lag_similarity"]
    one_up = dict(at_mean, lag_similarity=lag["mean"] + 0.1 * lag["scale"])
    logit = judge()["bias"] + 0.1 * lag["weight"]
    assert flat_probability(one_up) == pytest.approx(1 / (1 + math.exp(-logit)))


def test_undefined_metrics_are_no_evidence_and_missing_ones_an_error():
    metrics = {name: feature["mean"] for name, feature in judge()["features"].items()}
    assert flat_probability({**metrics, "motif_coverage": None}) == pytest.approx(flat_probability(metrics))
    assert np.isnan(flat_probability({**metrics, "lag_similarity": float("nan")}))
    assert not is_flat({**metrics, "lag_similarity": None})
    with pytest.raises(UserError, match="needs the metrics"):
        flat_probability({"block_strength": 0.1})
    assert 0.0 <= flat_probability(dict.fromkeys(metrics, 1000000000.0)) <= 1.0
