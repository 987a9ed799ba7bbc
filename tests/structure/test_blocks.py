"""The scale of blocks: pairs of equal distance, so that what fades with distance alone does not pass for sections."""

from __future__ import annotations

import numpy as np
import pytest

from eisbach.structure.features import extract_features
from eisbach.structure.metrics.form import block_curve, block_scale, checkerboard_profile, equal_distance_profile
from eisbach.studies.ground_truth.synthetic import blocks
from eisbach.studies.ground_truth.synthetic_varied import varied_blocks


def directly(similarity: np.ndarray, width: int) -> float:
    """The definition, pair by pair."""
    n, values = len(similarity), []
    for t in range(width, n - width + 1):
        differences = []
        for distance in range((width + 1) // 2, width):
            pairs = [(i, i + distance) for i in range(t - width, t + width - distance)]
            within = [similarity[i, j] for i, j in pairs if j < t or i >= t]
            across = [similarity[i, j] for i, j in pairs if i < t <= j]
            differences.append(np.mean(within) - np.mean(across))
        values.append(max(0.0, float(np.mean(differences))))
    return float(np.mean(values))


def test_equal_distance_profile_is_its_definition():
    rng = np.random.default_rng(0)
    matrix = rng.random((23, 23))
    matrix = 0.5 * (matrix + matrix.T)
    widths = np.array([2, 3, 4, 7, 11])
    np.testing.assert_allclose(equal_distance_profile(matrix, widths), [directly(matrix, width) for width in widths])
    assert len(equal_distance_profile(np.zeros((0, 0)), np.zeros(0, dtype=int))) == 0


def test_similarity_that_only_fades_with_distance_has_no_blocks():
    place = np.arange(60)
    fading = np.exp(-np.abs(place[:, None] - place[None, :]) / 2.0)  # what windows that share audio look like
    widths = np.arange(3, 20)
    assert checkerboard_profile(fading, widths).max() > 0.2
    assert equal_distance_profile(fading, widths).max() < 1e-9


@pytest.mark.parametrize("seed", [0, 2])
@pytest.mark.whole
def test_slow_notes_are_no_blocks(seed):
    scales = [
        block_scale(extract_features(varied_blocks(length, seed, duration=64.0, tempo=36.0))) for length in (4, 8, 16)
    ]
    assert (np.diff(scales) > 0).all(), scales


def test_curve_and_scale_agree_and_end_with_the_clip():
    features = extract_features(blocks(6.0, 1, duration=40.0))
    scales, contrasts = block_curve(features)
    assert scales[contrasts.argmax()] == block_scale(features)
    assert 3.5 <= block_scale(features) <= 6.0  # of 6 s
    assert contrasts.min() >= 0.0
    assert contrasts.max() <= 1.0
