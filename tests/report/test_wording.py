from dataclasses import replace
from types import SimpleNamespace

import pytest

from eisbach.experiments.measures import FLAT
from eisbach.report.comparison.findings import recovered_sentences
from eisbach.report.wording import (
    format_difference,
    format_flatness,
    format_interval,
    format_p,
    format_value,
    overall_verdict,
    recovered_sentence,
    verdict,
)
from eisbach.statistics.comparison import Comparison
from eisbach.statistics.records import MetricInfo
from eisbach.statistics.results import RecoveredShare

DB = MetricInfo("level_range", "level range", unit="dB", better="higher")
TITLES = {"rec": "the recurrence barrier", "plain": "plain training", "eq5": "Eq. 5"}


def compared(arm="rec", **changes):
    values = {
        "arm": arm, "baseline": "plain", "metric": "is_flat", "unit": "prompt", "n_units": 24, "n_clips": 96,
        "unmatched": 0,
        "paired": True, "mean": 0.09, "baseline_mean": 0.44, "difference": -0.35, "interval": (-0.52, -0.17),
        "t_interval": (-0.53, -0.17), "p": 0.004, "p_floor": 1e-4, "verdict": "better",
    }  # fmt: skip
    return Comparison(**(values | changes))


def test_an_improvement_in_a_sentence():
    assert verdict(compared(), FLAT, TITLES) == (
        "With the recurrence barrier, 9% of the pieces came out flat against 44% with plain training, which is better "
        "(difference −35 points, 95% interval −52 to −17, p = 0.004, 24 prompts)."
    )


def test_with_few_units_the_t_interval_is_quoted():
    assert "95% interval −53 to −17" in verdict(compared(n_units=8), FLAT)


def test_the_correction_is_said_only_where_it_matters():
    assert "p = 0.004 (0.024 after correction" in verdict(compared(p_adjusted=0.024), FLAT)
    assert "correction" not in verdict(compared(p_adjusted=0.004), FLAT)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"verdict": "worse", "difference": 0.2, "interval": (0.1, 0.3)}, "which is worse (difference +20 points"),
        ({"verdict": "inconclusive", "interval": (-0.6, 0.1), "p": 0.3}, "No difference could be shown. With"),
        ({"verdict": "inconclusive", "p_adjusted": 0.09}, "leans towards an improvement, but it is not certain"),
        ({"verdict": "inconclusive", "difference": 0.2, "interval": (0.1, 0.3)}, "leans towards the worse"),
        ({"verdict": "inconclusive", "p_floor": 0.1, "unit": "trained model", "n_units": 3, "p": 0.1},
         "With 3 trained models an arm no p value below 0.1 is possible"),
        ({"verdict": "no difference", "difference": -0.01, "margin": 0.1, "p_equivalence": 0.01},
         "a difference of 10 points or more is ruled out, p = 0.010"),
        ({"verdict": "no difference", "difference": 0.0, "margin": None}, "no difference at all"),
        ({"verdict": "too few", "n_units": 1, "interval": None, "t_interval": None, "p": None}, "one prompt only"),
        ({"verdict": "too few", "n_units": 0}, "share no prompt and seed"),
    ],
)  # fmt: skip
def test_other_outcomes_are_as_plain(changes, said):
    sentence = verdict(compared(**changes), FLAT, TITLES)
    assert said in sentence
    assert "nan" not in sentence
    assert sentence.endswith(".")


def test_the_opening_sentence_picks_the_strongest_evidence():
    rec, eq5 = (
        compared(),
        compared("eq5", verdict="inconclusive", p=0.6, mean=0.41, difference=-0.03, interval=(-0.2, 0.1)),
    )
    said = overall_verdict([eq5, rec], FLAT, TITLES)
    assert said.startswith("With the recurrence barrier")
    assert said.endswith("For Eq. 5, no improvement could be shown.")
    assert overall_verdict([eq5, rec], FLAT, TITLES, apart=["rec"]).startswith(
        "No difference could be shown. With Eq. 5"
    )
    both = overall_verdict([rec, compared("eq5", p=0.01)], FLAT, TITLES)
    assert both.endswith("Eq. 5 helped as well.")
    assert overall_verdict([], FLAT) == "There is nothing to compare with the baseline."


def test_an_arm_that_does_not_train_helps_nobody():
    base, eq5 = compared("base", p=0.001), compared("eq5", p=0.01)
    names = TITLES | {"base": "the untrained base"}
    said = overall_verdict([base, eq5], FLAT, names, apart=["base"])
    assert said.startswith("With Eq. 5")
    assert said.endswith(" No candidate, and better than the baseline: the untrained base.")
    unclear = compared("eq5", verdict="inconclusive", p=0.6, difference=-0.03, interval=(-0.2, 0.1))
    said = overall_verdict([base, unclear], FLAT, names, apart=["base"])
    assert "closest" not in said
    assert said.startswith("No difference could be shown. With Eq. 5")
    assert overall_verdict([base], FLAT, names, apart=["base"]).startswith("With the untrained base, 9%")


def test_a_harm_is_not_hidden_behind_an_unclear_arm():
    bad = compared("eq5", verdict="worse", difference=0.3, interval=(0.1, 0.5), p=0.001)
    unclear = compared("rec", verdict="inconclusive", difference=-0.05, interval=(-0.2, 0.1), p=0.4)
    assert "which is worse" in overall_verdict([unclear, bad], FLAT)


def test_numbers_for_people():
    assert format_value(FLAT, 0.094) == "9%"
    assert format_value(DB, 13.24) == "13.2 dB"
    assert format_value(DB, -0.052) == "−0.052 dB"
    assert format_value(DB, None) == format_value(DB, float("nan")) == "–"
    assert format_difference(DB, -1.234) == "−1.23 dB"
    assert format_difference(FLAT, 0.35) == "+35 points"
    assert format_difference(FLAT, 0.001) == "0 points"
    assert format_interval(DB, (-1.0, 2.0)) == "−1.00 to +2.00"
    assert format_interval(DB, None) == "–"
    assert [format_p(p) for p in (None, 0.0004, 0.0123, 0.09, 0.5)] == [
        "–",
        "p < 0.001",
        "p = 0.012",
        "p = 0.090",
        "p = 0.50",
    ]


def test_recovered_shares_are_said_or_refused():
    values = {
        "arm": "rec", "plain": "plain", "oracle": "or", "metric": "m", "share": 0.92, "interval": (0.5, 1.1),
        "oracle_gain": -0.38, "oracle_interval": (-0.5, -0.2), "reason": "", "unit": "prompt", "n_units": 8,
    }  # fmt: skip
    said = recovered_sentence(RecoveredShare(**values), TITLES)
    assert said == "The recurrence barrier recovers 92% of the gain of or (95% interval 50% to 110%, 8 prompts)."
    said = recovered_sentence(RecoveredShare(**(values | {"share": None, "interval": None, "reason": "too few"})))
    assert "cannot be given: too few" in said


def test_why_no_share_can_be_given_is_said_once():
    one = RecoveredShare(
        arm="rec", plain="plain", oracle="or", metric="m", share=0.92, interval=(0.5, 1.1), oracle_gain=-0.38,
        oracle_interval=(-0.5, -0.2), reason="", unit="prompt", n_units=8,
    )  # fmt: skip
    none = replace(one, share=None, interval=None, reason="too few")
    results = SimpleNamespace(recovered=[none, replace(none, arm="eq5")])
    assert recovered_sentences(results) == ["What share of or's gain is recovered cannot be given: too few."]
    results = SimpleNamespace(recovered=[one, replace(none, arm="eq5")])
    assert len(recovered_sentences(results)) == 2
    results = SimpleNamespace(recovered=[none, replace(none, arm="eq5", reason="no interval")])
    assert len(recovered_sentences(results)) == 2


def test_a_share_without_variation_claims_no_certainty() -> None:
    one = RecoveredShare(
        arm="recurrence",
        plain="plain",
        oracle="oracle",
        metric="is_flat",
        share=-0.0,
        interval=(-0.0, -0.0),
        oracle_gain=-0.4,
        oracle_interval=(-0.8, -0.1),
        reason="",
        unit="prompt",
        n_units=8,
    )
    said = recovered_sentence(one)
    assert "0%" in said
    assert "−0%" not in said
    assert "no interval" in said


@pytest.mark.parametrize(
    ("record", "words"),
    [({}, ""), ({"is_flat": None}, ""), ({"is_flat": True}, "judged flat"), ({"is_flat": False}, "judged developing"),
     ({"is_flat": True, "flat_still": 0.2, "flat_loop": 0.7, "flat_texture": None}, "judged flat, a loop"),
     ({"is_flat": False, "flat_still": 0.2, "flat_loop": 0.1}, "judged developing")],
)  # fmt: skip
def test_a_clip_is_called_flat_in_its_own_way(record, words):
    assert format_flatness(record) == words


def test_few_clips_are_counted_on_both_sides():
    alone = compared(paired=False, unit="clip", n_clips=8, n_baseline_clips=7, mean=0.125, baseline_mean=0.0)
    assert "1 of 8 pieces came out flat against 0 of 7 with plain" in verdict(alone, FLAT)
    assert "against 0% with plain" in verdict(replace(alone, n_baseline_clips=None), FLAT)
