"""Distances between two sets of vectors, and the diversity of one: arrays in, numbers out.

Conventions: rows are items (clips, images), columns an embedding's dimensions; everything is computed in float64, in
blocks whose memory does not grow with the product of the sets' sizes. Nothing here knows about audio, and nothing is
random except where a `numpy.random.Generator` is passed.

==================  ==========================================  ==========  =====================================
function            what                                        range       bias in small sets
==================  ==========================================  ==========  =====================================
`frechet_distance`  Fréchet distance of two Gaussians           [0, inf)    upward, about c / n: `frechet_infinity`
`kernel_distance`   squared maximum mean discrepancy            (-inf,inf)  none (0 in expectation for equal laws)
`precision_recall`  shares inside the other set's k-NN balls    [0, 1]      depends on n: compare equal sizes
`density_coverage`  the same, robust to outliers                [0, inf),   depends on n: compare equal sizes
                                                                [0, 1]
`vendi_score`       effective number of different items         [1, n]      grows with n: compare equal sizes
==================  ==========================================  ==========  =====================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from eisbach.errors import UserError
from eisbach.structure.frechet import gaussian_frechet, shrunk_covariance
from eisbach.structure.metrics.texture import vendi_score as vendi_of_similarity

_BLOCK_VALUES = 8_000_000
"""Entries of a distance matrix held at once: 64 MB of float64."""
_MEDIAN_ROWS = 2000
_VENDI_ROWS = 6000


@dataclass(frozen=True)
class PrecisionRecall:
    """`precision`: share of the fake items that lie in the real set's manifold; `recall`: the reverse. Both in [0,
    1]."""

    precision: float
    recall: float


@dataclass(frozen=True)
class DensityCoverage:
    """`density`: how many real balls hold a fake item, over k, >= 0, about 1 for equal laws; `coverage`: share of the
    real items whose ball holds a fake one, in [0, 1].
    """

    density: float
    coverage: float


@dataclass(frozen=True)
class Extrapolation:
    """A statistic fitted as ``value + slope / n``.

    Attributes
    ----------
    value : float
        Intercept: the statistic for infinitely many items.
    slope : float
        What 1 / n is multiplied by.
    sizes : tuple of int
        Set sizes that were used.
    means : tuple of float
        Mean statistic at each of them.
    """

    value: float
    slope: float
    sizes: tuple[int, ...]
    means: tuple[float, ...]


def as_rows(rows: np.ndarray, name: str, at_least: int) -> np.ndarray:
    """Rows as float64 [shape=(n, d)], or a `UserError`: too few, not two-dimensional, no column or non-finite."""
    array = np.asarray(rows, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise UserError(f"the {name} set has the shape {array.shape}; give one row an item and one column a dimension.")
    if len(array) < at_least:
        raise UserError(f"the {name} set holds {len(array)} item(s); this comparison needs at least {at_least}.")
    if not np.isfinite(array).all():
        bad = int((~np.isfinite(array).all(axis=1)).sum())
        raise UserError(
            f"{bad} row(s) of the {name} set are not finite; leave out the items that could not be embedded."
        )
    return array


def as_pair(a: np.ndarray, b: np.ndarray, names: tuple[str, str], at_least: int) -> tuple[np.ndarray, np.ndarray]:
    """Two checked sets of equal dimension."""
    first, second = as_rows(a, names[0], at_least), as_rows(b, names[1], at_least)
    if first.shape[1] != second.shape[1]:
        raise UserError(
            f"the {names[0]} set has {first.shape[1]} dimensions and the {names[1]} set {second.shape[1]}; embed both "
            "alike."
        )
    return first, second


def frechet_distance(a: np.ndarray, b: np.ndarray, *, shrink: bool = False) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two sets, >= 0, in squared units of the embedding.

    ``|mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))`` (Dowson & Landau 1982; Heusel et al. 2017).

    Parameters
    ----------
    a, b : np.ndarray [shape=(n, d) and (m, d)]
        At least two rows each.
    shrink : bool
        False: sample covariances with n - 1, as FID and FAD are published. With fewer rows than dimensions the trace of
        the square root is taken as a nuclear norm of ``A B^T`` (the same number without a d x d root). True:
        Ledoit-Wolf covariances, for sets smaller than a covariance needs.

    Raises
    ------
    UserError
        Fewer than two rows, different dimensions, non-finite values.
    """
    a, b = as_pair(a, b, ("first", "second"), 2)
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    if shrink:
        return gaussian_frechet(mean_a, shrunk_covariance(a), mean_b, shrunk_covariance(b))
    centred_a = (a - mean_a) / np.sqrt(len(a) - 1.0)
    centred_b = (b - mean_b) / np.sqrt(len(b) - 1.0)
    if min(len(a), len(b)) < a.shape[1]:
        # C = Z^T Z, and the nuclear norm of A^(1/2) B^(1/2) is that of Z_a Z_b^T: polar factors do not change it
        root = float(np.linalg.svd(centred_a @ centred_b.T, compute_uv=False).sum())
        gap = mean_a - mean_b
        return float(max(0.0, gap @ gap + np.sum(centred_a**2) + np.sum(centred_b**2) - 2.0 * root))
    return gaussian_frechet(mean_a, centred_a.T @ centred_a, mean_b, centred_b.T @ centred_b)


def frechet_infinity(
    a: np.ndarray, b: np.ndarray, rng: np.random.Generator, *, n_sizes: int = 8, draws: int = 8, shrink: bool = False
) -> Extrapolation:
    """The Fréchet distance that infinitely many items would give (Chong & Forsyth 2020).

    The distance is computed on random subsets of equal size, from a third of the smaller set up to all of it, and
    fitted as ``value + slope / n``. It needs sets clearly larger than the dimension: below that the law is not 1 / n.

    Raises
    ------
    UserError
        Sets of fewer than three items a dimension.
    """
    a, b = as_pair(a, b, ("first", "second"), 2)
    most, d = min(len(a), len(b)), a.shape[1]
    if most < 3 * d:
        raise UserError(
            f"extrapolating a Fréchet distance in {d} dimensions needs at least {3 * d} items a set, not {most}; "
            "use kernel_distance, which is unbiased."
        )
    # Evenly spaced in 1 / n, over which the bias is a straight line.
    sizes = np.unique(np.round(most / np.linspace(3.0, 1.0, n_sizes)).astype(int))
    means = []
    for size in sizes:
        values = [
            frechet_distance(
                a[rng.choice(len(a), size, replace=False)], b[rng.choice(len(b), size, replace=False)], shrink=shrink
            )
            for _ in range(draws)
        ]
        means.append(float(np.mean(values)))
    slope, value = np.polyfit(1.0 / sizes, means, 1)
    return Extrapolation(float(value), float(slope), tuple(int(n) for n in sizes), tuple(means))


def kernel_distance(a: np.ndarray, b: np.ndarray, kernel: str = "gaussian", *, bandwidth: float | None = None) -> float:
    """Unbiased squared maximum mean discrepancy (Gretton et al. 2012, Eq. 3): 0 in expectation for equal laws, may be
    negative.

    Parameters
    ----------
    a, b : np.ndarray [shape=(n, d) and (m, d)]
        At least two rows each; the sizes may differ.
    kernel : str
        ``"polynomial"``: ``(x.y / d + 1)^3``, the kernel inception distance of Binkowski et al. (2018), which depends
        on the embedding's origin and scale. ``"gaussian"``: ``exp(-|x - y|^2 / 2 s^2)`` (kernel audio distance).
    bandwidth : float or None
        s of the Gaussian kernel; None takes the median distance over the pooled items, at most 2,000 of them, evenly
        spaced.

    Raises
    ------
    UserError
        Fewer than two rows, an unknown kernel, a bandwidth that is not positive, or identical items without one.
    """
    a, b = as_pair(a, b, ("first", "second"), 2)
    function, own = _kernel(kernel, a, b, bandwidth)
    n, m = len(a), len(b)
    # Sums over pairs of different items of each set, and over all pairs across.
    within_a, within_b = _kernel_sum(function, a, a) - own(a), _kernel_sum(function, b, b) - own(b)
    return float(within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2.0 * _kernel_sum(function, a, b) / (n * m))


def median_distance(rows: np.ndarray) -> float:
    """Median Euclidean distance over pairs of rows (evenly spaced 2,000 of them where there are more)."""
    rows = rows[:: -(-len(rows) // _MEDIAN_ROWS)]
    # The upper triangle holds every pair once, and no item with itself.
    squared = np.concatenate([block for _, block in _squared_distance_blocks(rows, rows)])
    return float(np.sqrt(np.median(squared[np.triu_indices(len(rows), 1)])))


def precision_recall(real: np.ndarray, fake: np.ndarray, k: int = 3) -> PrecisionRecall:
    """Improved precision and recall (Kynkäänniemi et al. 2019, Eqs. 1-2).

    Parameters
    ----------
    real, fake : np.ndarray [shape=(n, d) and (m, d)]
        A set's manifold is the union of balls around its items, each reaching to the item's k-th nearest neighbour in
        the set.
    k : int
        At least 1 and smaller than either set.
    """
    real, fake = as_pair(real, fake, ("real", "fake"), 2)
    _check_k(k, len(real), "real")
    _check_k(k, len(fake), "fake")
    in_real, _ = _inside(fake, real, _neighbour_radii(real, k))
    in_fake, _ = _inside(real, fake, _neighbour_radii(fake, k))
    return PrecisionRecall(float((in_real > 0).mean()), float((in_fake > 0).mean()))


def density_coverage(real: np.ndarray, fake: np.ndarray, k: int = 5) -> DensityCoverage:
    """Density and coverage (Naeem et al. 2020, Eqs. 2-3): only the real set's balls are used, so that outliers among
    the fake do not count.

    Parameters
    ----------
    real, fake : np.ndarray [shape=(n, d) and (m, d)]
    k : int
        At least 1 and smaller than the real set.
    """
    real, fake = as_pair(real, fake, ("real", "fake"), 1)
    _check_k(k, len(real), "real")
    counts, covered = _inside(fake, real, _neighbour_radii(real, k))
    return DensityCoverage(float(counts.sum() / (k * len(fake))), float(covered.mean()))


def vendi_score(rows: np.ndarray, kernel: str = "cosine", *, bandwidth: float | None = None) -> float:
    """Vendi score (Friedman & Dieng 2023): exp of the entropy of the eigenvalues of K / n, in [1, n].

    Parameters
    ----------
    rows : np.ndarray [shape=(n, d)]
    kernel : str
        ``"cosine"`` (of the rows as they are; any n), or ``"gaussian"`` with a `bandwidth` (n up to 6,000).

    Raises
    ------
    UserError
        A row without direction (cosine), no bandwidth (Gaussian), or too many rows for a matrix.
    """
    rows = as_rows(rows, "given", 1)
    n, d = rows.shape
    if kernel == "cosine":
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        if (norms == 0.0).any():
            raise UserError(
                "a row of zeros has no direction, so its cosine is undefined; leave it out or use a Gaussian kernel."
            )
        unit = rows / norms
        # X X^T / n and X^T X / n share their non-zero eigenvalues: the smaller matrix is enough
        return vendi_of_similarity(unit @ unit.T if n <= d else unit.T @ unit * (d / n))
    if kernel != "gaussian":
        raise UserError(f"there is no Vendi kernel {kernel!r}; choose 'cosine' or 'gaussian'.")
    if bandwidth is None or not bandwidth > 0.0:
        raise UserError(
            f"a Gaussian Vendi score needs a positive bandwidth, not {bandwidth}; it is the distance at which items "
            "count as different."
        )
    if n > _VENDI_ROWS:
        raise UserError(
            f"a Gaussian Vendi score of {n} items needs an {n} x {n} matrix; give at most {_VENDI_ROWS}, or use the "
            "cosine kernel."
        )
    squared = np.concatenate([block for _, block in _squared_distance_blocks(rows, rows)])
    return vendi_of_similarity(np.exp(squared / (-2.0 * bandwidth**2)))


def _squared_distance_blocks(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(first row of `a`, squared Euclidean distances of a block of rows to all of `b`), block after block.

    Both are centred on b's mean first, and what rounding leaves of a distance of zero is set to zero.
    """
    centre = b.mean(axis=0)
    a, b = a - centre, b - centre
    norms_a, norms_b = np.einsum("ij,ij->i", a, a), np.einsum("ij,ij->i", b, b)
    step = max(1, _BLOCK_VALUES // max(1, len(b)))
    for first in range(0, len(a), step):
        block = a[first : first + step]
        scale = norms_a[first : first + step, None] + norms_b[None, :]
        squared = scale - 2.0 * (block @ b.T)
        yield first, np.where(squared > 1e-12 * scale, squared, 0.0)


def _neighbour_radii(rows: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each row to its k-th nearest other row, [shape=(n,)]."""
    radii = np.empty(len(rows))
    for first, squared in _squared_distance_blocks(rows, rows):
        count = len(squared)
        squared[np.arange(count), first + np.arange(count)] = 0.0
        radii[first : first + count] = np.partition(squared, k, axis=1)[:, k]  # index 0 is the row itself
    return radii


def nearest(queries: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Euclidean distance to, and index of, the nearest row for every query, [shape=(queries,)] each."""
    distance, index = np.empty(len(queries)), np.empty(len(queries), dtype=np.int64)
    for first, squared in _squared_distance_blocks(queries, rows):
        best = squared.argmin(axis=1)
        index[first : first + len(squared)] = best
        distance[first : first + len(squared)] = np.sqrt(squared[np.arange(len(squared)), best])
    return distance, index


def _inside(items: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many balls hold each item, and whether each ball holds any item."""
    counts, covered = np.zeros(len(items)), np.zeros(len(centres), dtype=bool)
    for first, squared in _squared_distance_blocks(items, centres):
        within = squared <= radii[None, :]
        counts[first : first + len(squared)] = within.sum(axis=1)
        covered |= within.any(axis=0)
    return counts, covered


def _check_k(k: int, n: int, name: str) -> None:
    if not 1 <= k < n:
        raise UserError(
            f"k = {k} neighbours cannot be found among {n} {name} item(s); k must be from 1 to {max(1, n - 1)}, or "
            "give more items."
        )


_Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _kernel(
    name: str, a: np.ndarray, b: np.ndarray, bandwidth: float | None
) -> tuple[_Kernel, Callable[[np.ndarray], float]]:
    """The kernel of two blocks of rows, and the sum of a set's kernel values with itself."""
    if name == "polynomial":
        return (
            lambda x, y: (x @ y.T / x.shape[1] + 1.0) ** 3,
            lambda x: float(((np.einsum("ij,ij->i", x, x) / x.shape[1] + 1.0) ** 3).sum()),
        )
    if name != "gaussian":
        raise UserError(f"there is no kernel {name!r}; choose 'gaussian' or 'polynomial'.")
    width = median_distance(np.concatenate([a, b])) if bandwidth is None else float(bandwidth)
    if not width > 0.0:
        raise UserError(
            "at least half of all pairs of items are identical, so the Gaussian kernel has no median bandwidth; pass "
            "one."
            if bandwidth is None
            else f"the Gaussian kernel's bandwidth must be positive, not {bandwidth}."
        )

    def gaussian(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.exp(np.concatenate([block for _, block in _squared_distance_blocks(x, y)]) / (-2.0 * width**2))

    return gaussian, lambda x: float(len(x))


def _kernel_sum(function: _Kernel, a: np.ndarray, b: np.ndarray) -> float:
    step = max(1, _BLOCK_VALUES // len(b))
    return float(sum(function(a[first : first + step], b).sum() for first in range(0, len(a), step)))
