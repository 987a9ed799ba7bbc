from __future__ import annotations

import numpy as np
import pytest

from eisbach.structure.features import extract_features
from eisbach.structure.metrics.repetition import longest_diagonal, longest_repeat, longest_repeat_span
from eisbach.structure.similarity import chroma_recurrence
from eisbach.structure.stripes import find_stripes
from eisbach.studies.ground_truth import synthetic


@pytest.mark.parametrize("section", [7.37, 10.0])
def test_forms_repeat_for_as_long_as_they_do(section):
    values = [longest_repeat(extract_features(synthetic.form(f, section, 21))) for f in ("AAAA", "AABA", "ABCD")]
    assert values[0] == pytest.approx(3 * section, abs=0.6)
    assert values[1] == pytest.approx(section, abs=0.6)
    assert values[2] < 3.5


@pytest.mark.parametrize("period", [2.3, 3.3, 5.71])
def test_a_loop_repeats_for_all_but_one_period(period):
    assert longest_repeat(extract_features(synthetic.loop(period, 0, 30.0))) == pytest.approx(30.0 - period, abs=1.0)


@pytest.mark.parametrize("piece", [synthetic.drone, synthetic.noise, synthetic.pad])
def test_still_sounds_repeat_for_nothing(piece):
    assert longest_repeat(extract_features(piece(5, 30.0))) < 2.5


def test_where_the_repeat_lies():
    length, start, lag = longest_repeat_span(extract_features(synthetic.form("ABCA", 9.1, 4)))
    assert (length, start, lag) == pytest.approx((9.1, 0.0, 27.3), abs=0.6)


def diagonal(n, places):
    matches = np.zeros((n, n), dtype=bool)
    for row, column in places:
        matches[row, column] = True
    return matches


def test_diagonals_bridge_gaps_and_bend():
    straight = [(i, i + 10) for i in range(3, 9)]
    assert longest_diagonal(diagonal(30, straight), 4, 0) == (6, 3, 10)
    gapped = [place for place in straight if place[0] != 5]
    assert longest_diagonal(diagonal(30, gapped), 4, 0)[0] == 3
    assert longest_diagonal(diagonal(30, gapped), 4, 1)[0] == 6
    bent = straight[:3] + [(i, i + 11) for i in range(6, 10)]
    assert longest_diagonal(diagonal(30, bent), 4, 0)[0] == 7


def test_diagonals_near_the_main_one_or_without_movement_do_not_count():
    near = diagonal(30, [(i, i + 3) for i in range(20)])
    assert longest_diagonal(near, 4, 0) == (0, 0, 0)
    far = diagonal(30, [(i, i + 6) for i in range(20)])
    assert longest_diagonal(far, 4, 0, np.zeros(30, dtype=bool)) == (0, 0, 0)
    assert longest_diagonal(np.ones((3, 3), dtype=bool), 4, 0) == (0, 0, 0)


def test_recurrence_is_symmetric_and_bounded():
    recurrence = chroma_recurrence(extract_features(synthetic.form("ABA", 7.37, 6)))
    np.testing.assert_array_equal(recurrence.cosine, recurrence.cosine.T)
    assert recurrence.cosine.max() <= 1.0 + 1e-5
    row = round(1.0 * recurrence.rate)
    assert recurrence.cosine[row, row + 58 : row + 61].max() > 0.9  # 2 * 7.37 s later
    assert len(chroma_recurrence(extract_features(synthetic.drone(0, 1.0))).cosine) == 0


def test_stripes_have_the_ends_of_the_sections():
    stripes = find_stripes(extract_features(synthetic.form("ABA", 9.1, 8)))
    found = np.stack([stripes.first, stripes.last, stripes.lag], axis=1) / stripes.rate
    assert np.abs(found - (0.0, 9.1, 18.2)).max(axis=1).min() < 0.6
    assert len(find_stripes(extract_features(synthetic.drone(1, 30.0))).lag) == 0
