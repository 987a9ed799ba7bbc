import numpy as np
import pytest

from eisbach.errors import UserError
from eisbach.statistics.paired import metric_value, pair_cells


def row(arm, prompt, seed, value, model=0):
    return {"arm": arm, "train_seed": model, "prompt_id": prompt, "seed": seed, "path": "x", "m": value}


def test_cells_hold_matched_clips_only_in_a_fixed_order():
    rows = [
        row("b", "p10", 1, 5.0), row("a", "p10", 1, 4.0), row("a", "p2", 3, 1.0), row("b", "p2", 3, 2.0),
        row("a", "p2", 1, 7.0), row("b", "p2", 1, 8.0), row("a", "p2", 2, 9.0), row("b", "p9", 1, 9.0),
    ]  # fmt: skip
    cells = pair_cells(rows, "m", ["a", "b"])
    assert cells.prompts == ["p10", "p2"]
    np.testing.assert_array_equal(cells.values[0, 0], [[4.0, np.nan], [7.0, 1.0]])
    np.testing.assert_array_equal(cells.values[1, 0], [[5.0, np.nan], [8.0, 2.0]])
    assert (cells.matched, cells.unmatched, cells.unit) == (3, 2, "prompt")
    np.testing.assert_allclose(cells.unit_means(), [[4.0, 4.0], [5.0, 5.0]])


def test_three_arms_keep_what_all_three_have():
    rows = [row(arm, p, 0, 1.0) for arm, prompts in {"a": "xyz", "b": "xy", "c": "yz"}.items() for p in prompts]
    cells = pair_cells(rows, "m", ["a", "b", "c"])
    assert (cells.prompts, cells.matched, cells.unmatched) == (["y"], 1, 4)


def test_training_seeds_are_matched_with_one_another():
    rows = [
        row(arm, "p", 0, 10.0 * m + (arm == "b"), m) for arm, ms in {"a": (0, 1, 2), "b": (1, 2, 3)}.items() for m in ms
    ]
    cells = pair_cells(rows, "m", ["a", "b"])
    assert (cells.models, cells.unit, cells.unmatched) == ([1, 2], "trained model", 2)
    np.testing.assert_allclose(cells.unit_means(), [[10.0, 20.0], [11.0, 21.0]])


def test_one_trained_checkpoint_does_not_stand_in_for_others():
    rows = [row("a", "p", 0, float(m), m) for m in (0, 1, 2)] + [row("b", "p", 0, 5.0, 1)]
    cells = pair_cells(rows, "m", ["a", "b"])
    assert cells.models == [1]
    assert cells.unit == "prompt"
    assert not cells.fixed_arm


def test_nothing_in_common_is_empty_not_an_error():
    cells = pair_cells([row("a", "p", 0, 1.0), row("b", "q", 0, 1.0)], "m", ["a", "b"])
    assert (cells.matched, cells.unmatched) == (0, 2)
    assert cells.unit_means().shape == (2, 0)


def test_values_are_numbers_or_nothing():
    assert metric_value({"m": True}, "m") == 1.0
    assert metric_value({"m": None}, "m") is None
    assert metric_value({}, "m") is None
    with pytest.raises(UserError, match="text"):
        metric_value({"m": "loud"}, "m")
