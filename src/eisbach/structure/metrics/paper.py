"""The paper's own five dimensions (Eisbach, Table 2 and Figures 2 to 5), as printed, so that its table can be
reproduced and checked.

Conventions: the paper reads them off mel-spectrograms and gives no formulas. Each function takes the plainest reading
of its words on *raw* mel frames (50 a second, dB). Every one is contradicted by pieces whose structure is known
(`Metric.contradicted_by` says how, and `tests/structure/test_paper_dimensions.py` shows it); a metric that survives
stands beside each. None of them is ever primary.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from eisbach.structure.features import FRAME_RATE, Features
from eisbach.structure.metrics.base import Metric
from eisbach.structure.metrics.form import checkerboard_profile
from eisbach.structure.metrics.texture import hull_area, principal_plane, principal_shares

MIN_SECONDS = 8.0
_MATRIX_RATE = 2.0  # frames a second of the cosine matrix: half a second is far finer than any block
_MATRIX_FRAMES = 1200  # longest side: ten minutes at that rate, longer clips are pooled further
_MIN_SCALE, _MAX_SCALE = 1.5, 40.0  # seconds, as for form.block_scale
_PLANE_FRAMES = 30_000  # frames of a projection: ten minutes, longer clips are thinned evenly
_SURROGATE_FRAMES, _SURROGATES = 1500, 4


def _thinned(frames: np.ndarray, most: int) -> np.ndarray:
    return frames[:: -(-len(frames) // most)] if len(frames) else frames


def cosine_similarity(features: Features) -> tuple[np.ndarray, float]:
    """The paper's self-similarity matrix (section 5, Figure 2): cosines of mel frames, and its frames a second.

    The frames are dB above the floor of -80, averaged over half a second (more beyond ten minutes, so that the matrix
    never has more than 1200 rows); the matrix is stretched to its own extremes, as a picture's colours are.
    """
    pool = max(round(FRAME_RATE / _MATRIX_RATE), -(-len(features.mel_db) // _MATRIX_FRAMES))
    whole = len(features.mel_db) // pool
    frames = features.mel_db[: whole * pool].reshape(whole, pool, -1).mean(axis=1, dtype=np.float64) + 80.0
    norms = np.linalg.norm(frames, axis=1, keepdims=True)
    unit = frames / np.maximum(norms, 1e-9)
    matrix = unit @ unit.T
    low, high = float(matrix.min()), float(matrix.max())
    return (matrix - low) / max(high - low, 1e-12), FRAME_RATE / pool


def block_scale(features: Features) -> float:
    """'Self-similarity block scale', seconds: the strongest checkerboard of the cosine matrix."""
    matrix, rate = cosine_similarity(features)
    longest = min(_MAX_SCALE, features.duration / 3.0)
    half_widths = np.arange(max(1, round(_MIN_SCALE * rate)), int(longest * rate) + 1)
    half_widths = half_widths[2 * half_widths < len(matrix)]
    if len(half_widths) == 0:
        return float("nan")
    return float(half_widths[checkerboard_profile(matrix, half_widths).argmax()] / rate)


def peak_to_valley(features: Features) -> float:
    """'Spectral peak-to-valley contrast', dB: highest less lowest band of the clip's mean mel spectrum, in [0, 80]."""
    mean = features.mel_db.mean(axis=0, dtype=np.float64)
    return float(mean.max() - mean.min())


def flux_sparsity(features: Features) -> float:
    """'Spectral flux distribution': Hoyer sparsity of the rise of the dB mel frames, in [0, 1]; NaN when nothing
    changes.

    1 is a single change, 0 the same change at every frame (Hoyer 2004).
    """
    flux = np.maximum(np.diff(features.mel_db, axis=0), 0.0).sum(axis=1, dtype=np.float64)
    norm = float(np.sqrt(np.sum(flux**2)))
    if norm <= 0.0:
        return float("nan")
    root = np.sqrt(len(flux))
    return float(min(1.0, max(0.0, (root - flux.sum() / norm) / (root - 1.0))))


def pca_coverage(features: Features) -> float:
    """'PCA trajectory coverage', dB: square root of the hull's area in the plane of the raw mel frames."""
    return float(np.sqrt(hull_area(principal_plane(_thinned(features.mel_db, _PLANE_FRAMES))[0])))


def pc1_share(features: Features) -> float:
    """'PC1 explains 39-55% of variance': share of the first principal component of the raw mel frames; NaN if nothing
    varies."""
    share = float(principal_shares(_thinned(features.mel_db, _PLANE_FRAMES))[0])
    return share if share > 0.0 else float("nan")


def pc1_share_of_surrogates(features: Features) -> list[float]:
    """The share of PC1 for two kinds of surrogates of the clip that have no structure: random walk, random phases.

    *Walk*: a random walk through mel space whose steps have the covariance of the clip's own steps. *Phases*: every
    band keeps its own spectrum over time and has its phases turned at random, independently of the other bands (Theiler
    et al. 1992). Means over four of each, from a fixed generator. A clip whose share does not exceed the walk's shows
    no "dominant direction of development".
    """
    frames = _thinned(features.mel_db, _SURROGATE_FRAMES).astype(np.float64)
    if features.duration < MIN_SECONDS or float(frames.std(axis=0).max()) <= 0.0:
        return [float("nan")] * 2
    rng = np.random.default_rng(0)
    n, bands = frames.shape
    values, vectors = np.linalg.eigh(np.cov(np.diff(frames, axis=0), rowvar=False))
    factor = vectors * np.sqrt(np.maximum(values, 0.0))
    walks, phases = [], []
    spectrum = np.fft.rfft(frames - frames.mean(axis=0), axis=0)
    for _ in range(_SURROGATES):
        walk = np.cumsum(rng.standard_normal((n, bands)), axis=0) @ factor.T
        walks.append(float(principal_shares(walk)[0]))
        turned = spectrum * np.exp(2j * np.pi * rng.random(spectrum.shape))
        phases.append(float(principal_shares(np.fft.irfft(turned, n, axis=0))[0]))
    return [float(np.mean(walks)), float(np.mean(phases))]


def dynamic_range(features: Features) -> float:
    """'Dynamic range' (> 40 dB against < 25 dB), dB: the loudest less the quietest frame of 20 ms, in [0, 80]."""
    level = np.log10(np.exp(features.mel_db * np.float32(np.log(10.0) / 10.0)).sum(axis=1, dtype=np.float64)) * 10.0
    return float(min(80.0, level.max() - level.min()))


def _as_printed(
    name: str,
    label: str,
    unit: str,
    top: float,
    higher_means: str,
    function: Callable[[Features], float],
    contradicted_by: str,
) -> Metric:
    return Metric(
        name=f"paper_{name}",
        label=f"Paper: {label}",
        unit=unit,
        range=(0.0, top),
        higher_means=higher_means,
        family="paper",
        min_seconds=MIN_SECONDS,
        function=function,
        contradicted_by=contradicted_by,
    )


AS_PRINTED = (
    _as_printed(
        name="block_scale",
        label="block scale",
        unit="s",
        top=40.0,
        higher_means="larger blocks in a cosine matrix of raw mel frames",
        function=block_scale,
        contradicted_by="drones and stationary noise have no blocks, and get a scale of several seconds",
    ),
    _as_printed(
        name="peak_to_valley",
        label="peak-to-valley",
        unit="dB",
        top=80.0,
        higher_means="a wider mean mel spectrum",
        function=peak_to_valley,
        contradicted_by="blind to time: a phase-randomised surrogate and any shuffling of the frames keep it",
    ),
    _as_printed(
        name="flux_sparsity",
        label="flux sparsity",
        unit="",
        top=1.0,
        higher_means="change gathered in fewer frames",
        function=flux_sparsity,
        contradicted_by="decibels weigh the flutter of the noise floor like an onset",
    ),
    _as_printed(
        name="pca_coverage",
        label="PCA coverage",
        unit="dB",
        top=80.0,
        higher_means="a wider area of raw mel frames",
        function=pca_coverage,
        contradicted_by="a loop of two seconds covers half the width of a developing piece, in any order of its frames",
    ),
    _as_printed(
        name="pc1_share",
        label="share of PC1",
        unit="",
        top=1.0,
        higher_means="more of the variance on one axis",
        function=pc1_share,
        contradicted_by="blind to the order of frames, and random walks reach about 60% (see pc1_share_walk)",
    ),
    _as_printed(
        name="dynamic_range",
        label="dynamic range",
        unit="dB",
        top=80.0,
        higher_means="a louder loudest against a quieter quietest frame",
        function=dynamic_range,
        contradicted_by="one gap of 20 ms decides it; the loudness range of EBU Tech 3342 stays under 25 LU",
    ),
)
"""The paper's dimensions, in its order."""
