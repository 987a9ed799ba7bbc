from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from eisbach.structure.metrics.form import checkerboard_profile
from eisbach.structure.metrics.texture import vendi_score
from eisbach.structure.similarity import lagged_similarity, self_similarity, squared_distances

FRAMES = np.random.default_rng(0).normal(-40, 8, (40, 32))


def test_distances_equal_scipys():
    expected = cdist(FRAMES, FRAMES, "sqeuclidean") / 32
    np.testing.assert_allclose(squared_distances(FRAMES), expected, atol=1e-9)
    np.testing.assert_allclose(self_similarity(FRAMES), np.exp(-expected / 72.0), atol=1e-12)


def test_a_constant_offset_of_tau_gives_the_kernels_value():
    frames = np.stack([np.zeros(32), np.full(32, 6.0)])
    assert np.isclose(self_similarity(frames)[0, 1], np.exp(-0.5))


def test_lag_similarity_is_the_band_of_the_matrix():
    matrix = self_similarity(FRAMES)
    for lag, diagonal in enumerate(lagged_similarity(FRAMES, 10), start=1):
        np.testing.assert_allclose(diagonal, np.diagonal(matrix, lag), rtol=1e-4)
    assert len(lagged_similarity(FRAMES, 100)) == 39


def test_checkerboard_equals_direct_means():
    matrix = self_similarity(FRAMES)
    for width in (3, 7):
        direct = []
        for t in range(width, 40 - width + 1):
            a, b = slice(t - width, t), slice(t, t + width)
            within = 0.5 * (matrix[a, a].mean() + matrix[b, b].mean())
            direct.append(max(0.0, within - matrix[a, b].mean()))
        assert np.isclose(checkerboard_profile(matrix, np.array([width]))[0], np.mean(direct))


def test_vendi_of_known_matrices():
    assert np.isclose(vendi_score(np.ones((12, 12))), 1.0)
    assert np.isclose(vendi_score(np.eye(12)), 12.0)
    assert np.isclose(vendi_score(np.kron(np.eye(3), np.ones((4, 4)))), 3.0)
    shuffled = np.random.default_rng(1).permutation(40)
    matrix = self_similarity(FRAMES)
    assert np.isclose(vendi_score(matrix), vendi_score(matrix[np.ix_(shuffled, shuffled)]))
