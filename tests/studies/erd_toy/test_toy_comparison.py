"""Ratios over seeds: known effects are found, chance is not, identical weights are not tested."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_rel

from eisbach.errors import UserError
from eisbach.studies.erd_toy.comparison import arm_means, compare_weightings, tally

TARGETS = ("eps", "x0", "v", "u")


def rows(effect: dict[str, float], seeds: int = 10, alias: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """Seeds share a large factor, so that only pairing sees the effect; noise within a pair is 2%."""
    rng = np.random.default_rng(0)
    out = []
    for target in TARGETS:
        for seed in range(seeds):
            shared = math.exp(rng.normal())
            for arm, factor in effect.items():
                value = shared * factor * math.exp(0.02 * rng.normal())
                out.append(
                    {"path": "linear", "target": target, "arm": arm, "seed": seed, "same_as": (alias or {}).get(arm,
                    arm),
                     "excess": value, "excess_0_0.2": value}
                )  # fmt: skip
    return out


def compare(data: list[dict[str, Any]], **options: Any) -> list[Any]:
    arms = [arm for arm in dict.fromkeys(row["arm"] for row in data) if arm not in ("constant", "p2")]
    baselines = [arm for arm in ("constant", "p2") if any(row["arm"] == arm for row in data)]
    return compare_weightings(data, arms, baselines, measures=["excess"], bands=["excess_0_0.2"], **options)


def test_a_known_effect_is_found_with_its_size() -> None:
    data = rows({"constant": 1.0, "p2": 2.0, "erd": 1.25})
    found = compare(data)
    tested = [one for one in found if one.measure == "excess"]
    assert len(tested) == 8
    for one in tested:
        truth = 1.25 if one.baseline == "constant" else 0.625
        assert one.ratio == pytest.approx(truth, rel=0.03)
        assert one.interval[0] < one.ratio < one.interval[1]
        assert one.outcome == ("higher" if one.baseline == "constant" else "lower")
        assert one.wins == (0 if one.baseline == "constant" else 10)
        # Exact sign-flip over 10 pairs that all agree: 2 of 1024; Holm over the eight tests of this path and arm.
        assert one.p == pytest.approx(2 / 1024)
        assert one.p_adjusted == pytest.approx(8 * 2 / 1024)
    assert tally(found, "erd", "excess", "p2") == {
        "lower": 4, "higher": 0, "identical": 0, "inconclusive": 0, "too few": 0,
    }  # fmt: skip


def test_the_interval_is_the_paired_t_interval() -> None:
    data = rows({"constant": 1.0, "erd": 1.1})
    one = next(one for one in compare(data) if one.measure == "excess" and one.target == "v")
    logs = {
        arm: np.log([row["excess"] for row in data if row["arm"] == arm and row["target"] == "v"])
        for arm in ("erd", "constant")
    }
    interval = ttest_rel(logs["erd"], logs["constant"]).confidence_interval()
    assert one.interval == pytest.approx((math.exp(interval.low), math.exp(interval.high)))


def test_chance_is_not_called_a_difference() -> None:
    found = compare(rows({"constant": 1.0, "erd": 1.0, "p2": 1.0}))
    assert {one.outcome for one in found if one.measure == "excess"} == {"inconclusive"}


def test_bands_are_shown_and_not_tested() -> None:
    band = [one for one in compare(rows({"constant": 1.0, "erd": 3.0})) if one.measure == "excess_0_0.2"]
    assert all(one.p is None and one.interval is not None and one.ratio == pytest.approx(3, rel=0.05) for one in band)


def test_one_training_under_two_names_is_identical() -> None:
    found = compare(rows({"constant": 1.0, "erd": 1.0}, alias={"erd": "constant"}))
    assert {one.outcome for one in found} == {"identical"}
    assert all(one.p is None for one in found)


def test_a_diverged_network_leaves_its_pair_out() -> None:
    data = rows({"constant": 1.0, "erd": 1.25})
    next(row for row in data if row["arm"] == "erd" and row["target"] == "u")["excess"] = None
    seeds = {one.target: one.seeds for one in compare(data) if one.measure == "excess"}
    assert seeds == {"eps": 10, "x0": 10, "v": 10, "u": 9}
    means = {(one["target"], one["arm"]): one for one in arm_means(data, ["excess"])}
    assert means["u", "erd"]["excess"] is not None


def test_few_or_unknown() -> None:
    assert {one.outcome for one in compare(rows({"constant": 1.0, "erd": 2.0}, seeds=1))} == {"too few"}
    with pytest.raises(UserError, match="no arm 'debiased'"):
        compare_weightings(rows({"constant": 1.0}), ["debiased"], ["constant"])
