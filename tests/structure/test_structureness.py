from __future__ import annotations

import numpy as np
import pytest

from eisbach.structure.features import extract_features
from eisbach.structure.metrics.repetition import structureness
from eisbach.structure.scape import clip_scape, enhanced_similarity
from eisbach.studies.ground_truth import synthetic


@pytest.mark.parametrize("seed", [11, 12])
def test_long_structure_falls_from_aaaa_to_abcd(seed):
    values = [
        structureness(extract_features(synthetic.form(letters, 17.37, seed)), "long")
        for letters in ("AAAA", "AABA", "ABCA", "ABCD")
    ]
    assert values[0] > 0.6 > values[1] > 0.4 > values[2] > 0.2 > values[3]
    assert values[3] < 0.05


@pytest.mark.parametrize("piece", [synthetic.drone, synthetic.noise, synthetic.pad])
@pytest.mark.parametrize("band", ["short", "mid", "long"])
def test_still_sounds_have_no_structure(piece, band):
    assert structureness(extract_features(piece(3, 40.0)), band) < 0.05


def test_bands_are_about_lengths():
    features = extract_features(synthetic.loop(5.3, 1, 60.0))  # a short loop is fit at every length
    assert structureness(features, "short") > 0.6
    features = extract_features(synthetic.form("ABCA", 9.0, 1))  # what returns is 9 s long
    assert structureness(features, "mid") > 0.2
    assert structureness(features, "long") == 0.0


def test_similarity_obeys_the_scapes_conventions():
    similarity, step = enhanced_similarity(extract_features(synthetic.form("ABA", 10.0, 2)))
    assert step == 1.0
    np.testing.assert_array_equal(np.diag(similarity), 1.0)
    np.testing.assert_array_equal(similarity, similarity.T)
    assert ((similarity == -2.0) | ((similarity >= 0.0) & (similarity <= 1.0))).all()


def test_short_and_long_clips():
    tiny = extract_features(synthetic.drone(0, 1.0))
    assert np.isnan(structureness(tiny, "long"))
    assert clip_scape(tiny).fitness.shape == (0, 0)
    long = extract_features(synthetic.loop(11.0, 0, 200.0))
    assert len(clip_scape(long).fitness) <= 80
    assert 200.0 - clip_scape(long).step_seconds * len(clip_scape(long).fitness) < 5.0
