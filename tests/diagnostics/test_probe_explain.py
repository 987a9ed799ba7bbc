import json

import numpy as np
import pytest
from probe_cases import LEVELS, make_result
from scipy import stats

from eisbach.diagnostics.probe.explain import explain
from eisbach.diagnostics.probe.grid import Estimate, percentile_interval, resample_clips
from eisbach.diagnostics.probe.levels import decompose
from eisbach.diagnostics.probe.predictions import BeliefLoss, auc_estimate, belief_correctness, rank_correlation
from eisbach.diagnostics.probe.result import ProbeResult
from eisbach.errors import UserError


def rng(seed=0):
    return np.random.default_rng(seed)


class TestIntervals:
    def test_rank_correlation_is_scipys_with_ties_and_its_interval_holds_the_truth(self):
        generator = rng(1)
        draws = resample_clips(40, generator, 400)
        held = 0
        for _ in range(40):
            x, e = generator.standard_normal((2, 40))
            y = np.round(0.6 * x + 0.8 * e, 1)
            value = float(rank_correlation(x, y))
            interval = percentile_interval(value, rank_correlation(x[draws], y[draws]))
            assert value == pytest.approx(stats.spearmanr(x, y).statistic)
            held += interval.low <= 0.58 <= interval.high  # 6/pi arcsin(0.6 / 2) for a bivariate normal
        assert 33 <= held <= 40

    def test_correlation_with_a_constant_is_unknown(self):
        assert np.isnan(rank_correlation(np.zeros(20), np.arange(20.0)))

    def test_auc_counts_pairs_and_ties(self):
        area = auc_estimate(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0]), rng(), 200)
        assert area.value == pytest.approx((1 + 1 + 1 + 0 + 0.5 + 1) / 6)
        assert stats.mannwhitneyu([1, 2, 3], [0, 2]).statistic / 6 == area.value
        assert area.low <= area.value <= area.high

    def test_perfect_separation_still_has_an_interval(self):
        area = auc_estimate(np.arange(10.0) + 20, np.arange(10.0), rng(), 100)
        assert (area.value, area.high) == (1.0, 1.0)
        assert 0.7 < area.low < 0.76
        assert auc_estimate(np.zeros(0), np.ones(3), rng(), 100).value is None


class TestLevels:
    def test_shares_of_variance_are_the_ones_that_were_built_in(self):
        generator = rng(7)
        level = np.linspace(-1, 1, 9)
        clip = 0.5 * generator.standard_normal(60)
        chance = 0.3 * generator.standard_normal((60, 9, 1))
        found = decompose(np.exp(level[None, :, None] + clip[:, None, None] + chance), None)
        parts = np.array([level.var(), clip.var(), 0.3**2])
        expected = parts / parts.sum()
        assert [found.level.value, found.clip.value, found.remainder.value] == pytest.approx(list(expected), abs=0.05)
        assert found.sd == pytest.approx(np.sqrt(parts.sum()), abs=0.05)

    def test_clips_that_differ_by_chance_alone_have_no_share(self):
        weights = np.exp(0.2 * rng(8).standard_normal((50, 8, 1)))
        found = decompose(weights, resample_clips(50, rng(), 100))
        assert found.clip.value < 0.05
        assert found.remainder.value > 0.85
        assert found.level.low is not None

    def test_a_constant_weight_has_no_shares(self):
        assert decompose(np.full((5, 3, 1), 0.2), None).level.value is None
        assert decompose(np.full((1, 3, 1), 0.2), None) is None

    def test_where_it_acts_and_what_strength_leaves(self):
        found = explain(make_result("structure", acts_below=0.5, strength=0.3, clips=24), resamples=50)
        assert found.sample_acts_at == [0.05, 0.2, 0.35]
        assert found.acts_at == []
        one = found.levels[0]
        weights = np.array(
            [
                row["weight"]
                for row in make_result("structure", acts_below=0.5, strength=0.3, clips=24).rows
                if row["t"] == 0.05
            ]
        )
        assert one.cv.value == pytest.approx(weights.std(ddof=1) / weights.mean())
        assert one.ess_share == pytest.approx(1 / (1 + one.cv.value**2))
        assert one.columns["weight"].mean.low < weights.mean() < one.columns["weight"].mean.high
        assert [level.t for level in found.levels] == list(LEVELS)


def test_few_clips_give_no_intervals():
    few = explain(make_result(clips=5))
    assert not few.enough_clips
    assert all(level.cv.low is None for level in few.levels)
    assert few.belief_loss is None


class TestLabelsAndPredictions:
    def test_auc_by_kind_and_level(self):
        result = make_result("nothing", clips=32)
        for row in result.rows:
            if row["label.kind"] == "drone" and row["t"] < 0.5:
                row["sample_weight"] *= 0.01
        found = explain(result, resamples=50)
        drone, loop = found.separations
        assert (drone.negative, drone.n_positive, drone.n_negative) == ("drone", 16, 8)
        assert [auc.value for t, auc in drone.levels if t < 0.5] == [1.0] * 3
        assert loop.levels[0][1].value < 0.9

    def test_any_two_valued_label_can_be_named(self):
        result = make_result("nothing", clips=16, kinds=False)
        for row in result.rows:
            row["label.hall"] = "wet" if int(row["clip"][-3:]) % 2 else "dry"
            row["label.piece"] = row["clip"]
        (found,) = explain(result, label="hall", resamples=50).separations
        assert (found.positive, found.negative) == ("dry", "wet")
        with pytest.raises(UserError, match=r"the label 'piece' has 16 values .* exactly two"):
            explain(result, label="piece", resamples=10)
        with pytest.raises(UserError, match=r"no label 'mood'; their labels are hall, piece"):
            explain(result, label="mood", resamples=10)

    @pytest.mark.parametrize(
        ("low", "high", "gap", "outcome"),
        [
            ((0.5, 0.3, 0.6), (-0.1, -0.3, 0.1), (0.6, 0.4, 0.8), "confirmed"),
            ((-0.5, -0.6, -0.3), (0.1, -0.1, 0.3), (-0.6, -0.8, -0.4), "refuted"),
            ((0.3, 0.1, 0.5), (0.7, 0.5, 0.8), (-0.4, -0.5, -0.2), "refuted"),
            ((0.3, -0.1, 0.5), (0.1, -0.1, 0.3), (0.2, -0.1, 0.4), "undecided"),
            ((0.4, 0.2, 0.6), (0.3, 0.1, 0.5), (0.1, -0.1, 0.3), "undecided"),
        ],
    )
    def test_prediction_5(self, low, high, gap, outcome):
        bands = {"low": Estimate(*low), "high": Estimate(*high)}
        assert belief_correctness(BeliefLoss([], bands, Estimate(*gap))).outcome == outcome

    @pytest.mark.parametrize(
        ("quiet", "noisy", "outcome"),
        [
            ([3.0, 2.8, 3.1, 2.9], [1.0, 1.1, 0.9, 1.0], "confirmed"),
            ([1.0, 1.1, 0.9, 1.0], [3.0, 2.8, 3.1, 2.9], "refuted"),
            ([3.0, 0.5, 1.2, 0.8], [1.0, 1.1, 0.9, 1.0], "undecided"),
            ([3.0], [1.0], "undecided"),  # one batch has no interval
        ],
    )
    def test_prediction_1_needs_an_interval_of_the_gradients_too(self, quiet, noisy, outcome):
        result = make_result("equal", clips=16)
        for row in result.rows:  # the weights themselves do as the prediction says
            row["sample_weight"] = 0.99 - 0.5 * row["t"] ** 2 + 1e-4 * int(row["clip"][-3:])
        result.gradients["levels"] = [
            {"t": t, "weighted_norm": float(np.mean(norms)), "weighted_norms": [*norms, None], "batches": len(norms)}
            for t, norms in ((0.05, quiet), (0.95, noisy))
        ]
        prediction = next(p for p in explain(result, resamples=60).predictions if p.number == 1)
        assert prediction.outcome == outcome
        ratio = prediction.measures[-1][1]
        assert ratio.value == pytest.approx(stats.gmean(np.array(quiet) / np.array(noisy)))
        if len(quiet) > 1:
            ends = stats.ttest_1samp(np.log(np.array(quiet) / np.array(noisy)), 0).confidence_interval()
            assert [ratio.low, ratio.high] == pytest.approx(np.exp(list(ends)))

    def test_belief_and_loss_are_correlated_within_levels(self):
        result = make_result("structure", clips=30)
        for row in result.rows:  # at low noise the loss follows the belief, at high noise it runs against it
            row["loss"] = 2 + row["belief"] if row["t"] < 0.5 else 3 - row["belief"]
        found = explain(result, resamples=100)
        assert found.belief_loss.bands["low"].value == pytest.approx(1.0)
        assert found.belief_loss.bands["high"].value == pytest.approx(-1.0)
        prediction = next(one for one in found.predictions if one.number == 5)
        assert prediction.outcome == "confirmed"


def test_the_same_result_gives_the_same_explanation_and_it_is_json():
    result = make_result("both", clips=16)
    first, second = (explain(result, resamples=60).to_json() for _ in range(2))
    assert first == second
    assert json.loads(json.dumps(first, allow_nan=False)) == first


def test_rows_that_are_not_finite_are_left_out_by_clip():
    result = make_result("loudness", clips=20)
    result.rows[3].update(sample_weight=None, weight=None, belief=None, loss=None)
    found = explain(result, resamples=50)
    assert found.levels[3].clips == 19
    assert found.sample_variance.clip.value > 0.5


def test_no_rows_is_one_sentence():
    with pytest.raises(UserError, match="no rows"):
        explain(ProbeResult({}, [], [], {}, []))
