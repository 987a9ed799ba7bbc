"""The judges of what barrier models share between seeds, follow of their prompts and tell apart, on records whose truth
is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_draws_judged import verdicts, write

from eisbach.statistics.records import load_records, save_records
from eisbach.studies.barrier_seeds import judge as seeds
from eisbach.studies.judging import not_above

Column = Callable[[str, int], float]


def column(seed: int, scale: float = 0.01, **arms: float) -> Column:
    """A value an arm (`_` for "-"; `rest` for the others) with a little of nothing for each model."""
    table = np.random.default_rng(seed).normal(0, scale, (997, 200))

    def value(arm: str, draw: int) -> float:
        return arms.get(arm.replace("-", "_"), arms["rest"]) + float(table[sum(map(ord, arm)) % 997, draw])

    return value


def half(arm: str, draw: int) -> float:
    return 0.5


def test_takes_of_a_prompt_align_and_differ_each_by_its_own_measure(tmp_path: Path) -> None:
    write(
        tmp_path, "barrier_seeds", half,
        boundary_alignment=column(1, rest=0.3, batch_50=0.5, sample_100=0.1),
        detail_diversity=column(2, rest=0.8, batch_50=0.6, sample_100=1.0, development=1.0),
        note_diversity=column(3, rest=0.8, sample_100=0.85, development=0.5),
    )  # fmt: skip
    assert verdicts(tmp_path, "barrier_seeds") == {
        "boundaries-align-eq5": "supported",
        "details-differ-eq5": "refuted",  # less different
        "boundaries-align-per-sample": "refuted",  # less aligned
        "details-differ-per-sample": "supported",
        "boundaries-align-development": "refuted",  # the same
        "details-differ-development": "inconclusive",  # onsets say yes, notes no
    }


def test_without_notes_onsets_decide_and_the_result_says_so(tmp_path: Path) -> None:
    write(tmp_path, "barrier_seeds", half, detail_diversity=column(2, rest=0.8, development=1.0))
    rows = [{k: v for k, v in row.items() if k != "note_diversity"} for row in load_records(tmp_path)]
    save_records(rows, tmp_path)
    results = {claim.key: claim for claim in seeds.judge(tmp_path)}
    result = results["details-differ-development"]
    assert result.verdict == "supported"
    assert "onsets alone decide" in result.note
    assert result.effects[0].p == pytest.approx(2 * 2 / 2**8)  # Holm over the two that are there


def test_characters_are_told_apart_from_plain_training_and_from_the_base(tmp_path: Path) -> None:
    write(
        tmp_path, "barrier_characters", half,
        musicnn_icc=column(4, rest=0.4, batch_50=0.6, sample_100=0.4, development=0.2, base=0.5),
        texture_icc=column(5, rest=0.3),
    )  # fmt: skip
    assert verdicts(tmp_path, "barrier_characters") == {
        "distinct-eq5": "supported",
        "not-by-prompt-alone-eq5": "supported",
        "distinct-per-sample": "refuted",  # the same
        "not-by-prompt-alone-per-sample": "refuted",  # the base's are further apart
        "distinct-development": "refuted",
        "not-by-prompt-alone-development": "refuted",
    }


def test_prompts_are_followed_less_along_a_slope(tmp_path: Path) -> None:
    small = column(6, 0.002, rest=0.0)

    def rank(arm: str, draw: int) -> float:
        strength = int(arm.split("-")[1]) / 100 if arm.startswith("sample") else 0.0
        return 0.8 + 0.05 * np.sin(draw) - 0.1 * strength + small(arm, draw)

    columns = {"tag_rank": rank, "tag_lift": column(7, 0.002, rest=0.2), "register_distance": column(8, rest=4.0)}
    found = verdicts(write(tmp_path / "falls", "barrier_adherence", half, **columns), "barrier_adherence")
    assert found == {
        "no-better-adherence-eq5": "supported",
        "less-controllable-eq5": "refuted",  # the same at every strength
        "no-better-adherence-per-sample": "supported",
        "less-controllable-per-sample": "supported",
    }
    nearer = columns | {"register_distance": column(8, rest=4.0, batch_50=1.0)}
    found = verdicts(write(tmp_path / "nearer", "barrier_adherence", half, **nearer), "barrier_adherence")
    assert found["no-better-adherence-eq5"] == "refuted"  # nearer to the register that was asked for


def test_not_above_is_the_one_sided_t_test() -> None:
    from scipy.stats import ttest_1samp

    values = np.random.default_rng(9).normal(0, 1, 8)
    assert not_above(values, 0.4) == pytest.approx(ttest_1samp(values, 0.4, alternative="less").pvalue)
    assert not_above(np.zeros(8), 0.1) == 0
    assert not_above(values[:1], 9.0) == 1
