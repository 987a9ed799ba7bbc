import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
import statsmodels.formula.api as smf
from scipy.stats import binomtest
from statsmodels.stats.multitest import multipletests

from eisbach.errors import UserError
from eisbach.report.wording import verdict
from eisbach.statistics.comparison import adjust, compare_all, compare_arms, compare_unpaired
from eisbach.statistics.nearness import compare_to_reference
from eisbach.statistics.records import MetricInfo
from eisbach.statistics.results import evaluate, summarise_arm
from eisbach.studies.judging import over_draws

METRIC = MetricInfo("score", "score", better="higher", primary=True)


def make(arms, prompts=8, seeds=3, models=(0,), noise=1.0, prompt_sd=1.0, model_sd=0.0, rng=0):
    """Rows of a made-up experiment; `arms` maps a name to its true mean."""
    rng = np.random.default_rng(rng)
    rows = []
    hardness = rng.normal(0, prompt_sd, prompts)
    for arm, mean in arms.items():
        for model in models:
            shift = rng.normal(0, model_sd)
            for prompt in range(prompts):
                for seed in range(seeds):
                    value = mean + shift + hardness[prompt] + rng.normal(0, noise)
                    rows.append(
                        {"arm": arm, "train_seed": model, "prompt_id": f"p{prompt}", "seed": seed, "path": "x",
                         "score": float(value), "is_flat": bool(value < 0)}
                    )  # fmt: skip
    return rows


def prompt_differences(rows, arm="b", baseline="a"):
    """By hand: the differences of the prompts' means."""
    means = {}
    for row in rows:
        means.setdefault((row["arm"], row["prompt_id"]), []).append(row["score"])
    prompts = sorted({prompt for _, prompt in means})
    return np.array([np.mean(means[arm, p]) - np.mean(means[baseline, p]) for p in prompts])


def test_paired_comparison_equals_scipy_on_the_prompts_means():
    rows = make({"a": 0.0, "b": 0.6}, prompts=12)
    found = compare_arms(rows, METRIC, "a", "b")
    by_hand = prompt_differences(rows)
    assert (found.unit, found.n_units, found.n_clips, found.unmatched, found.paired) == ("prompt", 12, 36, 0, True)
    assert found.difference == pytest.approx(by_hand.mean())
    assert found.mean - found.baseline_mean == pytest.approx(found.difference)
    exact = scipy.stats.permutation_test((by_hand,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert found.p == pytest.approx(exact.pvalue)
    t = scipy.stats.ttest_1samp(by_hand, 0).confidence_interval()
    assert found.t_interval == pytest.approx((t.low, t.high))
    low, high = found.interval
    assert low < found.difference < high
    assert (high - low) == pytest.approx(t.high - t.low, rel=0.35)


def test_pairing_removes_what_prompts_have_in_common():
    rows = make({"a": 0.0, "b": 0.5}, prompts=12, prompt_sd=8.0, noise=0.3)
    assert compare_arms(rows, METRIC, "a", "b").verdict == "better"
    assert compare_unpaired(rows, METRIC, "a", "b").p > 0.3


def test_order_of_rows_does_not_matter_and_the_seed_repeats_everything():
    rows = make({"a": 0.0, "b": 0.5}, prompts=20)
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    assert compare_arms(rows, METRIC, "a", "b") == compare_arms(shuffled, METRIC, "a", "b")
    assert compare_arms(rows, METRIC, "a", "b", seed=1).interval != compare_arms(rows, METRIC, "a", "b").interval


def test_swapping_the_arms_turns_the_sign():
    rows = make({"a": 0.0, "b": 1.5}, prompts=10)
    there, back = compare_arms(rows, METRIC, "a", "b"), compare_arms(rows, METRIC, "b", "a")
    assert there.difference == pytest.approx(-back.difference)
    assert there.p == pytest.approx(back.p)
    assert there.g == pytest.approx(-back.g)
    assert there.p_improvement == pytest.approx(1 - back.p_improvement)
    assert (there.verdict, back.verdict) == ("better", "worse")


def test_directions_decide_the_word():
    rows = make({"a": 0.0, "b": 2.0}, prompts=10)
    words = {
        better: compare_arms(rows, dataclasses.replace(METRIC, better=better), "a", "b").verdict
        for better in ("higher", "lower", None)
    }
    assert words == {"higher": "better", "lower": "worse", None: "higher"}


def test_identical_arms_are_alike_and_never_significant():
    rows = make({"a": 0.0})
    rows += [row | {"arm": "b"} for row in rows]
    found = compare_arms(rows, METRIC, "a", "b")
    assert (found.difference, found.p, found.interval, found.t_interval) == (0.0, 1.0, (0.0, 0.0), (0.0, 0.0))
    assert (found.verdict, found.p_improvement, found.g) == ("no difference", 0.5, None)


def test_equivalence_needs_data_and_closeness():
    wide = dataclasses.replace(METRIC, margin=0.5)
    many = make({"a": 0.0, "b": 0.02}, prompts=40, seeds=4, noise=0.5)
    assert compare_arms(many, wide, "a", "b").verdict == "no difference"
    few = make({"a": 0.0, "b": 0.02}, prompts=5, seeds=1, noise=1.5)
    assert compare_arms(few, wide, "a", "b").verdict == "inconclusive"


def test_a_share_is_compared_in_points_within_its_bounds():
    rows = make({"a": -0.4, "b": 1.5}, prompts=4, noise=2.0)
    info = MetricInfo("is_flat", "flat", better="lower", share=True)
    found = compare_arms(rows, info, "a", "b")
    flat = [row["is_flat"] for row in rows if row["arm"] == "a"]
    assert found.baseline_mean == pytest.approx(np.mean(flat))
    assert -1.0 <= found.t_interval[0] <= found.t_interval[1] <= 1.0
    assert found.difference < 0


def shares(flat_a, flat_b):
    """Clips of two arms, one a prompt, flat or not."""
    return [
        {"arm": arm, "prompt_id": f"p{number}", "seed": 0, "train_seed": 0, "is_flat": flat}
        for arm, side in (("a", flat_a), ("b", flat_b)) for number, flat in enumerate(side)
    ]  # fmt: skip


@pytest.mark.parametrize("compare", [compare_arms, compare_unpaired])
def test_a_handful_of_clips_that_are_all_alike_rules_nothing_out(compare):
    info = MetricInfo("is_flat", "flat", better="lower", share=True, margin=0.1)
    few = compare(shares([False] * 4, [False] * 4), info, "a", "b")
    assert few.verdict == "inconclusive"
    assert few.p_equivalence == pytest.approx(0.9**4)
    # No flat clip among four: the exact bound of a binomial share.
    assert few.shown_interval[1] == pytest.approx(binomtest(0, 4).proportion_ci(0.95).high)
    assert few.interval == few.t_interval
    many = compare(shares([False] * 60, [False] * 60), info, "a", "b")
    assert many.verdict == "no difference"
    opposite = compare(shares([True] * 4, [False] * 4), info, "a", "b")
    assert opposite.p_equivalence == 1.0
    assert -1.0 == opposite.shown_interval[0] <= opposite.difference < opposite.shown_interval[1]


def test_gaps_are_counted_and_partners_are_kept_together():
    rows = make({"a": 0.0, "b": 1.0}, prompts=4, seeds=2)
    rows = [r for r in rows if not (r["arm"] == "b" and r["prompt_id"] == "p3")]  # 2 clips of a without partner
    rows[0] = rows[0] | {"score": None}  # and one pair without a value
    found = compare_arms(rows, METRIC, "a", "b")
    assert (found.n_units, found.n_clips, found.unmatched) == (3, 5, 4)
    kept = [r for r in rows if r["prompt_id"] != "p3" and (r["prompt_id"], r["seed"]) != ("p0", 0)]
    assert found.difference == pytest.approx(prompt_differences(kept).mean())


def test_one_prompt_gives_no_test_and_no_prompt_gives_nothing():
    rows = make({"a": 0.0, "b": 1.0}, prompts=1, seeds=4)
    one = compare_arms(rows, METRIC, "a", "b")
    assert (one.verdict, one.n_units, one.p, one.interval, one.t_interval) == ("too few", 1, None, None, None)
    assert math.isfinite(one.difference)
    apart = [r | {"prompt_id": "other"} if r["arm"] == "b" else r for r in rows]
    none = compare_arms(apart, METRIC, "a", "b")
    assert (none.verdict, none.n_units, none.unmatched) == ("too few", 0, 8)
    assert math.isnan(none.difference)


@pytest.mark.parametrize(
    ("arm", "metric", "said"), [("zz", "score", "'zz'"), ("b", "nope", "'nope'"), ("b", "path", "text")]
)
def test_unknown_names_are_refused(arm, metric, said):
    with pytest.raises(UserError, match=said):
        compare_arms(make({"a": 0.0, "b": 1.0}), metric, "a", arm)


def test_several_training_seeds_make_the_trained_model_the_unit():
    rows = make({"a": 0.0, "b": 3.0}, models=(0, 1, 2, 3, 4), model_sd=0.5)
    found = compare_arms(rows, METRIC, "a", "b")
    assert (found.unit, found.n_units) == ("trained model", 5)
    means = {
        arm: [np.mean([r["score"] for r in rows if r["arm"] == arm and r["train_seed"] == m]) for m in range(5)]
        for arm in "ab"
    }
    exact = scipy.stats.permutation_test(
        (np.array(means["b"]), np.array(means["a"])), lambda x, y: x.mean() - y.mean(), n_resamples=np.inf
    )
    assert found.p == pytest.approx(exact.pvalue)
    assert found.p == found.p_floor == pytest.approx(2 / 252)
    assert found.verdict == "better"
    checkpoints = compare_arms(rows, METRIC, "a", "b", unit="prompt")
    assert (checkpoints.unit, checkpoints.n_units, checkpoints.n_clips) == ("prompt", 8, 120)


def test_three_trainings_cannot_show_anything():
    rows = make({"a": 0.0, "b": 9.0}, models=(0, 1, 2))
    found = compare_arms(rows, METRIC, "a", "b")
    assert found.p == pytest.approx(0.1)
    assert found.verdict == "inconclusive"
    with pytest.raises(UserError, match="at least two training seeds"):
        compare_arms(make({"a": 0.0, "b": 1.0}), METRIC, "a", "b", unit="trained model")


def test_an_untrained_baseline_stands_beside_every_model():
    rows = make({"b": 1.0}, models=(0, 1, 2), model_sd=0.3)
    rows += [r | {"train_seed": None} for r in make({"base": 0.0}, rng=5)]
    found = compare_arms(rows, METRIC, "base", "b")
    assert (found.unit, found.n_units, found.n_clips, found.unmatched) == ("trained model", 3, 72, 0)
    assert found.p_floor == pytest.approx(2 / 2**3)  # the baseline cannot be dealt out: signs are flipped


def test_a_single_training_on_either_side_pairs_whatever_its_seed():
    rows = make({"a": 0.0}) + [r | {"train_seed": 7} for r in make({"b": 0.0}, rng=1)]
    assert compare_arms(rows, METRIC, "a", "b").n_units == 8


def test_corrections_equal_statsmodels_within_each_arm():
    rows = make({"a": 0.0, "b": 0.5, "c": 0.2}, prompts=10)
    rng = np.random.default_rng(0)
    names = [f"m{i}" for i in range(6)]
    rows = [r | {n: r["score"] + float(rng.normal(0, 2)) for n in names} for r in rows]
    infos = [MetricInfo(n, n, better="higher", primary=i < 3) for i, n in enumerate(names)]
    found = compare_all(rows, infos, "a", ["a", "b", "c"], n_resamples=200)
    assert len(found) == 12
    for arm in "bc":
        for method, chosen in (("holm", names[:3]), ("fdr_bh", names[3:])):
            own = [one for one in found if one.arm == arm and one.metric in chosen]
            expected = multipletests([one.p for one in own], method=method)[1]
            assert [one.p_adjusted for one in own] == pytest.approx(list(expected))


def test_the_corrected_p_decides():
    rows = make({"a": 0.0, "b": 5.0}, prompts=7)
    infos = [dataclasses.replace(METRIC, name=n) for n in ("score", "x1", "x2", "x3", "x4", "x5")]
    rng = np.random.default_rng(0)
    rows = [r | {i.name: float(rng.normal()) for i in infos[1:]} for r in rows]
    raw = compare_arms(rows, METRIC, "a", "b")
    corrected = compare_all(rows, infos, "a", ["b"])[0]
    assert raw.p == pytest.approx(2 / 2**7)
    assert (raw.verdict, corrected.verdict) == ("better", "inconclusive")
    assert corrected.p_adjusted == pytest.approx(6 * raw.p)
    assert adjust([], infos) == []


def test_unpaired_comparison_equals_scipy():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 1, 7), rng.normal(1, 2, 9)
    rows = [{"arm": "a", "prompt_id": f"a{i}", "seed": 0, "path": "x", "score": float(v)} for i, v in enumerate(a)]
    rows += [{"arm": "b", "prompt_id": f"b{i}", "seed": 0, "path": "x", "score": float(v)} for i, v in enumerate(b)]
    found = compare_unpaired(rows, METRIC, "a", "b", n_resamples=20_000)
    exact = scipy.stats.permutation_test((b, a), lambda x, y: x.mean() - y.mean(), n_resamples=np.inf)
    low = (
        scipy.stats.permutation_test(
            (b, a), lambda x, y: abs(x.mean() - y.mean()), n_resamples=np.inf, alternative="greater"
        )
    ).pvalue
    assert found.p == pytest.approx(low)
    assert found.p == pytest.approx(exact.pvalue, abs=0.05)  # scipy doubles the smaller tail
    welch = scipy.stats.ttest_ind(b, a, equal_var=False).confidence_interval()
    assert found.t_interval == pytest.approx((welch.low, welch.high))
    theirs = scipy.stats.bootstrap(
        (b, a), lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis), n_resamples=20_000, method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert found.interval == pytest.approx((theirs.low, theirs.high), abs=0.06)
    assert (found.unit, found.n_units, found.paired) == ("clip", 7, False)


def test_unpaired_with_one_clip_a_side_says_too_few():
    rows = [{"arm": arm, "prompt_id": arm, "seed": 0, "path": "x", "score": 1.0} for arm in "ab"]
    assert compare_unpaired(rows, METRIC, "a", "b").verdict == "too few"


def test_mixed_model_agrees_with_the_paired_comparison():
    import pandas as pd

    rows = make({"a": 0.0, "b": 0.7}, prompts=24, seeds=4)
    tilt = np.random.default_rng(2).normal(0, 1, 24)  # some prompts gain more than others
    rows = [r | {"score": r["score"] + (r["arm"] == "b") * float(tilt[int(r["prompt_id"][1:])])} for r in rows]
    found = compare_arms(rows, METRIC, "a", "b")
    frame = pd.DataFrame(rows)
    wide = frame.pivot_table(index=["prompt_id", "seed"], columns="arm", values="score").reset_index()
    wide["difference"] = wide["b"] - wide["a"]
    fitted = smf.mixedlm("difference ~ 1", wide, groups=wide["prompt_id"]).fit()
    assert found.difference == pytest.approx(fitted.params["Intercept"], abs=1e-6)
    low, high = fitted.conf_int().loc["Intercept"]
    assert found.interval[0] == pytest.approx(low, abs=0.15)
    assert found.interval[1] == pytest.approx(high, abs=0.15)


def test_false_positives_and_coverage_are_nominal():
    rejected = covered = 0
    trials = 300
    for trial in range(trials):
        rows = make({"a": 0.0, "b": 0.0}, prompts=8, seeds=2, rng=trial)
        found = compare_arms(rows, METRIC, "a", "b", n_resamples=99)
        rejected += found.p < 0.05
        covered += found.shown_interval[0] <= 0 <= found.shown_interval[1]
    assert 0.02 <= rejected / trials <= 0.08
    assert 0.92 <= covered / trials <= 0.98


def test_bootstrap_covers_with_many_prompts():
    covered = sum(
        low <= 0.5 <= high
        for low, high in (
            compare_arms(
                make({"a": 0.0, "b": 0.5}, prompts=24, seeds=1, rng=trial), METRIC, "a", "b", n_resamples=299
            ).interval
            for trial in range(100)
        )
    )
    assert 0.88 <= covered / 100 <= 0.99


def test_arm_summary_gives_prompts_and_interval():
    rows = make({"a": 2.0}, prompts=5, seeds=2)
    one = summarise_arm(rows, "score", "a")
    assert one.mean == pytest.approx(np.mean([r["score"] for r in rows]))
    assert one.points["p3"] == pytest.approx(np.mean([r["score"] for r in rows if r["prompt_id"] == "p3"]))
    assert one.interval[0] < one.mean < one.interval[1]
    single = summarise_arm([rows[0]], "score", "a")
    assert (single.interval, single.n_clips) == (None, 1)
    empty = summarise_arm([rows[0] | {"score": None}], "score", "a")
    assert math.isnan(empty.mean)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("better", ["higher", None])
def test_an_interval_that_holds_zero_is_no_verdict_whatever_p_says(sign, better):
    gains = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 20.0]  # every prompt gains, one of them most of it
    rows = [
        {
            "arm": arm,
            "prompt_id": f"p{n}",
            "seed": 0,
            "path": "x",
            "level": 10.0 * n + (sign * gain if arm == "new" else 0),
        }
        for arm in ("plain", "new")
        for n, gain in enumerate(gains)
    ]
    found = compare_arms(rows, MetricInfo("level", "level", better=better), "plain", "new")
    low, high = found.shown_interval
    assert found.p == pytest.approx(2 / 2**8)
    assert low < 0 < high
    assert found.verdict not in ("better", "worse", "higher", "lower")


def draws_rows(rng):
    """Eight draws whose sets make models good or bad whatever the arm, and an arm that gains a little in each."""
    easy = rng.normal(0.0, 5.0, 8)
    return [
        {
            "arm": arm, "train_seed": 100 + draw, "prompt_id": f"p{prompt}", "seed": 0, "path": f"{arm}{draw}{prompt}",
            "block_strength": easy[draw] + gain * (1 + 0.2 * draw) + rng.normal(0.0, 0.1),
        }
        for arm, gain in (("plain", 0.0), ("new", 0.5))
        for draw in range(8)
        for prompt in range(6)
    ]  # fmt: skip


def test_models_of_one_draw_are_a_pair():
    """As the judges of studies take them: sign flips and Student's interval over draws."""
    rows = draws_rows(np.random.default_rng(3))
    unpaired = compare_arms(rows, "block_strength", "plain", "new")
    paired = compare_arms(rows, "block_strength", "plain", "new", unit="draw")
    means = {
        (arm, draw): np.mean([r["block_strength"] for r in rows if r["arm"] == arm and r["train_seed"] == draw])
        for arm in ("plain", "new") for draw in range(100, 108)
    }  # fmt: skip
    differences = np.array([means["new", draw] - means["plain", draw] for draw in range(100, 108)])
    effect = over_draws("gain", "block_strength", differences)
    assert (paired.unit, paired.n_units, paired.test) == ("draw", 8, "sign-flip permutation by draw")
    assert paired.p == pytest.approx(effect.p)
    assert paired.p == pytest.approx(2 / 2**8)
    assert paired.shown_interval == pytest.approx((effect.low, effect.high))
    assert unpaired.unit == "trained model"
    assert unpaired.p is not None
    assert unpaired.p > 0.5  # what the sets differ by hides it
    info = MetricInfo("block_strength", "blocks", primary=True)
    oracle = [{**row, "arm": "oracle"} for row in rows if row["arm"] == "new"]
    results = evaluate([*rows, *oracle], [info], "plain", oracle="oracle", redrawn=True)
    assert {each.unit for each in results.comparisons} == {results.recovered[0].unit} == {"draw"}
    assert ", 8 draws)" in verdict(results.comparisons[0], info)
    music = [{"path": f"{n}.flac", "block_strength": 12.0 + 0.1 * n} for n in range(16)]
    near = compare_to_reference(rows, music, [info], ["plain", "new"], redrawn=True).comparisons[0]
    dealt = compare_to_reference(rows, music, [info], ["plain", "new"]).comparisons[0]
    assert (near.unit, near.n_units, near.p) == ("draw", 8, pytest.approx(2 / 2**8))
    assert dealt.p is not None
    assert dealt.p > 0.5
