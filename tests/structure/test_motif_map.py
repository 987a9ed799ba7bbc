from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eisbach.structure.features import extract_features
from eisbach.structure.metrics.repetition import motif_coverage
from eisbach.structure.motif_map import motif_map
from eisbach.studies.ground_truth import synthetic


def test_a_section_points_to_its_repeat_and_back():
    found = motif_map(extract_features(synthetic.form("ABCA", 7.37, 5)))
    early, late = found.start < 3.0, found.start > 22.6
    assert found.recurs[early].all()
    np.testing.assert_allclose(found.match[early] - found.start[early], 3 * 7.37, atol=0.3)
    np.testing.assert_allclose(found.match[late] - found.start[late], -3 * 7.37, atol=0.3)
    assert (found.transposition[early] == 0).all()
    between = (found.start > 8.0) & (found.start < 17.5)
    assert not found.recurs[between].any()


@pytest.mark.parametrize("semitones", [1, 5, 11])
def test_transpositions_are_named(semitones):
    features = extract_features(synthetic.form("AB", 8.0, 3))
    first = features.chroma[: len(features.chroma) // 2]
    found = motif_map(replace(features, chroma=np.concatenate([first, np.roll(first, semitones, axis=1)])))
    up = (semitones + 5) % 12 - 5
    assert (found.transposition[found.start < 3.0] == up).all()
    assert (found.transposition[found.start > 9.0] == (-up if up < 6 else 6)).all()


@pytest.mark.parametrize("section", [7.37, 11.1])
@pytest.mark.parametrize(("letters", "truth"), [("AAAA", 1.0), ("AABA", 0.75), ("ABCA", 0.5), ("ABCD", 0.0)])
def test_coverage_off_the_frame_grid(section, letters, truth):
    assert motif_coverage(extract_features(synthetic.form(letters, section, 6))) == pytest.approx(truth, abs=0.06)


def test_too_short_or_still():
    tiny = motif_map(extract_features(synthetic.drone(0, 2.0)))
    assert len(tiny.start) == 0
    assert np.isnan(motif_coverage(extract_features(synthetic.drone(0, 2.0))))
    assert not motif_map(extract_features(synthetic.drone(0, 20.0))).recurs.any()
    alone = motif_map(extract_features(synthetic.form("AB", 3.0, 1)))  # no two windows without overlap
    assert np.isnan(alone.match).any()
    assert not alone.recurs[np.isnan(alone.match)].any()
