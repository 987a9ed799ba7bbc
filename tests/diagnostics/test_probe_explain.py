import json

import numpy as np
import pytest
from probe_cases import LEVELS, make_result
from scipy import stats

from eisbach.diagnostics.probe import association
from eisbach.diagnostics.probe.agreement import BeliefLoss, belief_correctness
from eisbach.diagnostics.probe.association import Estimate
from eisbach.diagnostics.probe.explain import explain
from eisbach.diagnostics.probe.levels import decompose
from eisbach.diagnostics.probe.result import ProbeResult
from eisbach.errors import UserError


def rng(seed=0):
    return np.random.default_rng(seed)


class TestAssociation:
    def test_spearman_is_scipys_with_ties_and_its_interval_holds_the_truth(self):
        generator = rng(1)
        draws = association.resample_clips(40, generator, 400)
        held = 0
        for _ in range(40):
            x, e = generator.standard_normal((2, 40))
            y = np.round(0.6 * x + 0.8 * e, 1)
            found = association.spearman(x, y, draws)
            assert found.value == pytest.approx(stats.spearmanr(x, y).statistic)
            held += found.low <= 0.58 <= found.high  # 6/pi arcsin(0.6 / 2) for a bivariate normal
        assert 33 <= held <= 40

    def test_correlation_with_a_constant_is_unknown(self):
        draws = association.resample_clips(20, rng(), 50)
        assert association.spearman(np.zeros(20), np.arange(20.0), draws) == association.UNKNOWN

    def test_permutation_p_is_uniform_under_the_null_and_small_under_a_link(self):
        generator = rng(2)
        noise = generator.standard_normal((25, 300))
        p = association.permutation_p(generator.standard_normal(25), noise, generator, 999)
        assert stats.kstest(p, "uniform").pvalue > 0.001
        x = generator.standard_normal(25)
        assert association.permutation_p(x, x[:, None], generator, 999)[0] == 1 / 1000

    def test_holm_steps_down(self):
        assert association.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
        assert association.holm([0.6, 0.9]) == [1.0, 1.0]
        assert association.holm([]) == []

    def test_explained_share_does_not_grow_with_useless_predictors(self):
        generator = rng(3)
        fitted, honest = [], []
        for _ in range(10):
            y, x = generator.standard_normal(30), generator.standard_normal((30, 10))
            honest.append(association.explained(y, [x]))
            design = np.concatenate([np.ones((30, 1)), association.features(x)], axis=1)
            target = association.ranks(y)
            residual = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
            fitted.append(1 - (residual**2).sum() / (target**2).sum())
        assert np.mean(fitted) > 0.5  # what a plain R^2 would claim
        assert np.mean(honest) < 0.15

    def test_explained_equals_leaving_clips_out_one_by_one(self):
        generator = rng(4)
        x = generator.standard_normal((14, 2))
        y = x[:, 0] + 0.3 * generator.standard_normal(14)
        target = association.ranks(y)
        f = association.features(x)
        best = np.inf
        for penalty in (0.003, 0.03, 0.3, 3.0):
            error = 0.0
            for left in range(14):
                rest = np.setdiff1d(np.arange(14), [left])
                # the intercept is the mean of all clips' predictors, which `features` centred: fit it with the ridge
                design = np.concatenate([f[rest], np.ones((13, 1))], axis=1)
                ridge = np.diag([penalty * 14 * 2.0] * 4 + [0.0])
                solution = np.linalg.solve(design.T @ design + ridge, design.T @ target[rest])
                error += (target[left] - np.append(f[left], 1.0) @ solution) ** 2
            best = min(best, error)
        expected = 1 - best / ((target**2).sum() * (14 / 13) ** 2)
        assert association.explained(y, [x]) == pytest.approx(expected, abs=1e-9)

    def test_a_preference_for_the_middle_counts_as_explained(self):
        x = rng(5).standard_normal(40)
        assert association.explained(-np.abs(x), [x[:, None]]) > 0.7

    def test_auc_counts_pairs_and_ties(self):
        found = association.auc(np.array([1.0, 2.0, 3.0]), np.array([0.0, 2.0]), rng())
        assert found.value == pytest.approx((1 + 1 + 1 + 0 + 0.5 + 1) / 6)
        assert stats.mannwhitneyu([1, 2, 3], [0, 2]).statistic / 6 == found.value

    def test_perfect_separation_still_has_an_interval(self):
        found = association.auc(np.arange(10.0) + 20, np.arange(10.0), rng())
        assert (found.value, found.high) == (1.0, 1.0)
        assert 0.7 < found.low < 0.76
        assert association.auc(np.zeros(0), np.ones(3), rng()).value is None

    def test_jackknife_of_a_mean_is_the_t_interval(self):
        x = rng(6).standard_normal(20)
        (found,) = association.jackknife(lambda index: np.array([x[index].mean()]), 20, -9, 9)
        expected = stats.t.interval(0.95, 19, x.mean(), x.std(ddof=1) / 20**0.5)
        assert (found.low, found.high) == pytest.approx(expected)


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
        assert found.sd_between_clips == pytest.approx(np.hypot(0.5, 0.3), abs=0.08)

    def test_clips_that_differ_by_chance_alone_have_no_share(self):
        weights = np.exp(0.2 * rng(8).standard_normal((50, 8, 1)))
        found = decompose(weights, association.resample_clips(50, rng(), 100))
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


class TestDrivers:
    def test_missing_and_equal_columns_are_left_out_and_said(self):
        result = make_result("structure", clips=20)
        for row in result.rows:
            row["loudness_db"] = -14.0
            row["latent_db"] = None
        found = explain(result, resamples=50).drivers
        named = {one.name: one for one in found.candidates}
        assert found.loudness_same
        assert named["loudness_db"].same
        assert "latent_db" not in named
        assert named["structure.closure"].clips == 10  # half of the clips lack it: below the least number
        assert named["structure.closure"].spearman.value is None
        assert found.shares.loudness.value is None
        assert found.shares.structure.value > 0.8

    def test_structure_that_rounding_alone_changes_is_not_ranked(self):
        result = make_result("loudness", clips=20)
        for row in result.rows:
            for name in list(row):
                if name.startswith("structure."):
                    row[name] = 5.0 + 1e-3 * row["latent_db"]  # a quieter copy of the same music, read from a file
        found = explain(result, resamples=50).drivers
        assert all(one.same for one in found.candidates if one.group == "structure")
        assert found.shares.structure.value is None
        assert found.shares.loudness.value > 0.8

    def test_what_follows_loudness_adds_nothing_beyond_it(self):
        found = explain(make_result("nested", clips=40, seed=1), resamples=100).drivers
        vendi = next(one for one in found.candidates if one.name == "structure.textural_vendi")
        assert vendi.spearman.value > 0.4
        assert vendi.p_holm < 0.05
        assert abs(vendi.beyond_loudness.value) < 0.35
        assert found.shares.structure_only.value < 0.05 < found.shares.loudness_only.low

    def test_bands_show_where_it_follows(self):
        found = explain(make_result("loudness", clips=24, acts_below=0.5), resamples=100).drivers
        lead = next(one for one in found.candidates if one.name == "latent_db")
        assert lead.bands["low"].value > 0.9
        assert lead.bands["high"].value is None  # the weights are equal there

    def test_few_clips_give_no_intervals_and_no_driver(self):
        found = explain(make_result(clips=5))
        assert not found.enough_clips
        assert not found.drivers.enough
        assert found.drivers.shares.loudness.value is None
        assert all(one.cv.low is None for one in found.levels)
        assert found.belief_loss is None


class TestAgreement:
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
    assert found.drivers.clips == 19
    assert found.levels[3].clips == 19
    assert found.drivers.shares.loudness.value > 0.8


def test_no_rows_is_one_sentence():
    with pytest.raises(UserError, match="no rows"):
        explain(ProbeResult({}, [], [], {}, []))
