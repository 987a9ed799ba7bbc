from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from eisbach.errors import AudioError, UserError
from eisbach.structure import phase_randomise, texture_embedding
from eisbach.structure.frechet import EMBEDDING_SIZE, gaussian_frechet, shrunk_covariance
from eisbach.structure.sets.distances import frechet_distance
from eisbach.studies.ground_truth import synthetic
from eisbach.types import Waveform


def texture_distance(a, b):
    return frechet_distance(a, b, shrink=True)


def random_covariance(rng, d):
    factor = rng.standard_normal((d, 2 * d))
    return factor @ factor.T / d


def test_distance_equals_scipys_matrix_square_root():
    rng = np.random.default_rng(0)
    a, b = random_covariance(rng, 8), random_covariance(rng, 8)
    mean_a, mean_b = rng.standard_normal((2, 8))
    expected = np.sum((mean_a - mean_b) ** 2) + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert gaussian_frechet(mean_a, a, mean_b, b) == pytest.approx(expected, rel=1e-8)


def test_one_dimension_has_a_closed_form():
    one = np.ones((1, 1))
    assert gaussian_frechet(np.array([1.0]), 4 * one, np.array([3.0]), 9 * one) == pytest.approx(4.0 + 1.0)


def test_singular_covariances_are_harmless():
    rank_one = np.outer(np.ones(64), np.ones(64))
    assert gaussian_frechet(np.zeros(64), rank_one, np.zeros(64), rank_one) == pytest.approx(0.0, abs=1e-9)
    assert gaussian_frechet(np.zeros(64), np.zeros((64, 64)), np.ones(64), np.zeros((64, 64))) == pytest.approx(64.0)


def test_shrinkage_equals_scikit_learns():
    covariance = pytest.importorskip("sklearn.covariance")
    rng = np.random.default_rng(2)
    for n in (3, 10, 200):
        rows = rng.standard_normal((n, 12)) @ rng.standard_normal((12, 12))
        np.testing.assert_allclose(shrunk_covariance(rows), covariance.ledoit_wolf(rows)[0], rtol=1e-8)
    same = np.ones((4, 12))
    np.testing.assert_array_equal(shrunk_covariance(same), np.zeros((12, 12)))


def test_order_does_not_matter_and_a_set_is_nearest_to_itself():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((20, EMBEDDING_SIZE)), rng.standard_normal((25, EMBEDDING_SIZE)) + 0.5
    assert texture_distance(a, a) == pytest.approx(0.0, abs=1e-6)
    assert texture_distance(a, b) == pytest.approx(texture_distance(b[::-1], a[::-1]), rel=1e-9)
    assert texture_distance(a, b) > 5


def test_music_is_nearer_to_music_than_to_its_surrogates():
    def embedded(clips):
        return np.array([texture_embedding(clip) for clip in clips])

    clips = [synthetic.form("ABC", 4.0, seed) for seed in range(10)]
    music, other = embedded(clips[:5]), embedded(clips[5:])
    surrogates = embedded(phase_randomise(clip, seed) for seed, clip in enumerate(clips[5:]))
    assert texture_distance(music, other) < texture_distance(music, surrogates)


def test_bad_sets_are_refused():
    with pytest.raises(UserError, match="at least 2"):
        texture_distance(np.zeros((1, 4)), np.zeros((5, 4)))
    with pytest.raises(UserError, match="not finite"):
        texture_distance(np.full((3, 4), np.nan), np.zeros((5, 4)))
    with pytest.raises(UserError, match="4 dimensions and the second set 5"):
        texture_distance(np.zeros((3, 4)), np.zeros((5, 5)))
    with pytest.raises(AudioError, match="at least 2 s"):
        texture_embedding(Waveform(np.ones((1, 22050), np.float32), 22050))
