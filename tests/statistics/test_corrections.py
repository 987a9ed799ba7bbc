"""Corrections for looking several times, held against statsmodels to the last bit."""

import numpy as np
import pytest

from eisbach.statistics.resampling import benjamini_hochberg, holm

multitest = pytest.importorskip("statsmodels.stats.multitest")


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20, 101])
@pytest.mark.parametrize(("ours", "theirs"), [(holm, "holm"), (benjamini_hochberg, "fdr_bh")])
def test_corrections_equal_those_of_statsmodels(ours, theirs, count):
    rng = np.random.default_rng(count)
    for scale in (1.0, 0.05, 1e-4):
        raw = np.round(scale * rng.random(count), 5)  # rounded, so that some are tied
        assert ours(raw) == multitest.multipletests(raw, method=theirs)[1].tolist()


def test_nothing_to_correct_stays_nothing():
    assert holm([]) == benjamini_hochberg([]) == []


def test_a_corrected_p_value_is_never_smaller_nor_above_one():
    raw = np.random.default_rng(0).random(50)
    for correct in (holm, benjamini_hochberg):
        assert all(p <= q <= 1.0 for p, q in zip(raw, correct(raw), strict=True))
