from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from eisbach.structure.scape import fitness_scape

GOLDEN = json.loads((Path(__file__).parents[1] / "fixtures" / "libfmp_scape.json").read_text())


def enhanced(n, seed, repeats=()):
    """Penalties everywhere but on the diagonal and on `repeats`: (row, column, length)."""
    matrix = np.random.default_rng(seed).uniform(-2.5, -2.0, (n, n))
    for row, column, length in repeats:
        for k in range(length):
            matrix[row + k, column + k] = matrix[column + k, row + k] = 1.0
    np.fill_diagonal(matrix, 1.0)
    return matrix


def family_by_recursion(block):
    """Best (score, cells, coverage) of a path family over the columns of `block`, by memoised search over whole
    paths."""
    n, m = block.shape

    # the best path to every last row: families may trade one for another
    @cache
    def paths(row, column):
        found = {}
        if column == m - 1:
            found[row] = (block[row, column], 1)
        for dr, dc in ((1, 1), (2, 1), (1, 2)):
            if row + dr < n and column + dc < m:
                for last, (total, cells) in paths(row + dr, column + dc).items():
                    candidate = (block[row, column] + total, cells + 1)
                    if last not in found or candidate[0] > found[last][0]:
                        found[last] = candidate
        return found

    best = [(0.0, 0, 0)] * (n + 1)
    for row in range(n - 1, -1, -1):
        best[row] = best[row + 1]
        for last, (total, cells) in paths(row, 0).items():
            rest = best[last + 1]
            candidate = (total + rest[0], cells + rest[1], last - row + 1 + rest[2])
            if candidate[0] > best[row][0] + 1e-12:
                best[row] = candidate
    return best[0]


def test_equals_libfmp_on_a_stored_example():
    similarity = np.array(GOLDEN["similarity"])
    scape = fitness_scape(similarity)
    for name in ("fitness", "score", "coverage"):
        for length, row in enumerate(GOLDEN[name]):
            ours = getattr(scape, name)[length]
            np.testing.assert_allclose(ours[: len(row)], row, atol=1e-9)
            assert np.isnan(ours[len(row) :]).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_equals_libfmp_when_it_is_installed(seed):
    c4 = pytest.importorskip("libfmp.c4")
    matrix = np.random.default_rng(seed).uniform(-2.0, 1.0, (26, 26))
    matrix = np.maximum(matrix, matrix.T)
    np.fill_diagonal(matrix, 1.0)
    theirs = c4.compute_fitness_scape_plot(matrix)
    np.testing.assert_allclose(np.nan_to_num(fitness_scape(matrix).fitness), theirs[0], atol=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
def test_strict_recursion_equals_a_search_over_whole_paths(seed):
    n = 12
    matrix = np.random.default_rng(seed).uniform(-1.5, 1.0, (n, n))
    np.fill_diagonal(matrix, 1.0)
    scape = fitness_scape(matrix, strict_start=True)
    for length in range(1, n + 1):
        for start in range(n - length + 1):
            score, cells, coverage = family_by_recursion(matrix[:, start : start + length])
            assert np.isclose(scape.score[length - 1, start], (score - length) / cells)
            assert np.isclose(scape.coverage[length - 1, start], (coverage - length) / n)


def test_a_segment_that_returns_twice_is_known_in_closed_form():
    scape = fitness_scape(enhanced(30, 3, [(2, 12, 6), (2, 22, 6), (12, 22, 6)]), step_seconds=2.0, strict_start=True)
    # three copies of 6 cells, all ones: score (18 - 6) / 18, coverage (18 - 6) / 30
    assert np.isclose(scape.score[5, 2], 12 / 18)
    assert np.isclose(scape.coverage[5, 2], 12 / 30)
    assert np.isclose(scape.fitness[5, 2], 0.5)
    assert scape.thumbnail() in [(4.0, 16.0), (24.0, 36.0), (44.0, 56.0)]
    assert scape.best(12.0, 13.0) == pytest.approx(0.5)
    assert np.isnan(scape.best(61.0))


def test_without_repeats_nothing_is_fit():
    assert np.nanmax(fitness_scape(enhanced(20, 4)).fitness) == 0.0


def test_only_the_lengths_asked_for():
    matrix = enhanced(20, 5, [(1, 10, 7)])
    part, whole = fitness_scape(matrix, shortest=3, longest=7), fitness_scape(matrix)
    np.testing.assert_array_equal(part.fitness[2:7], whole.fitness[2:7])
    assert np.isnan(part.fitness[:2]).all()
    assert np.isnan(part.fitness[7:]).all()


@pytest.mark.parametrize("n", [0, 1, 2])
def test_tiny_matrices(n):
    assert fitness_scape(np.ones((n, n))).fitness.shape == (n, n)


def test_refuses_what_is_not_square():
    with pytest.raises(ValueError, match="square"):
        fitness_scape(np.ones((3, 4)))
