"""A ladder for every structure metric, synthetic pieces ordered by the quantity that it claims to measure, and whether
it follows that ladder.

One ladder a seed (another timbre, pitch, rhythm), and for some metrics a second with other instruments, tempi and
lengths. Rank correlation with the truth, signed so that 1 is right: mean and least over the seeds, and of all rungs of
all seeds pooled, which no ladder can win whose readings depend more on the timbre than on the structure. The paper's
quantities as printed stand beside: that a ladder orders one does not undo the ground truth that contradicts it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from eisbach.output_folder import Finished
from eisbach.progress import Progress
from eisbach.structure import METRICS
from eisbach.structure.features import extract_features
from eisbach.structure.metrics import Metric
from eisbach.studies.ground_truth import synthetic, synthetic_varied
from eisbach.studies.ground_truth.synthetic import circle, level_steps, tones_in_noise
from eisbach.studies.ground_truth.synthetic_forms import refrain, repeated_stretch, returning_tunes
from eisbach.studies.ground_truth.synthetic_varied import shuffled, varied_form
from eisbach.types import Waveform


@dataclass(frozen=True)
class Ladder:
    """Synthetic pieces ordered by the quantity that a metric claims to measure.

    Attributes
    ----------
    quantity : str
        What the rungs count, with its unit.
    values : tuple of float
        The true quantity, rung by rung.
    piece : callable (value, seed) -> Waveform
    rising : bool
        Whether the metric should rise (True) or fall with `values`.
    """

    quantity: str
    values: tuple[float, ...]
    piece: Callable[[float, int], Waveform]
    rising: bool = True


def _refrains(seconds: float) -> Ladder:
    """Lengths that lie off every grid of the analysis."""
    return Ladder(
        f"how often one of six sections of {seconds:g} s is heard, the others being new",
        (1.0, 2.0, 3.0, 4.0, 6.0),
        lambda times, seed: refrain(times, seed, seconds),
    )


_BLOCKS = Ladder(
    "length of the blocks, s", (3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0), partial(synthetic.blocks, duration=80.0)
)
_CONTRAST = Ladder(
    "spectral contrast between alternating 6 s sections, dB", (0.0, 2.0, 4.0, 6.0, 9.0, 12.0, 18.0), synthetic.contrast
)
_CIRCLE = Ladder("radius of a full circle in a plane of timbres, dB", (0.0, 1.5, 3.0, 6.0, 9.0, 12.0), circle)
_CRESCENDO = Ladder("rise of a crescendo, dB", (6.0, 12.0, 20.0, 30.0, 40.0, 60.0), synthetic.crescendo)
_NOISE = Ladder(
    "level of noise relative to tones, dB", (20.0, 10.0, 0.0, -10.0, -20.0, -30.0, -40.0), tones_in_noise, rising=False
)
_ONSETS = Ladder("onsets a second", (0.5, 1.0, 2.0, 4.0, 8.0, 16.0), synthetic.onsets, rising=False)
_REORDERED = Ladder(
    "length of the pieces in which a form was shuffled, s; 60 leaves it whole",
    (2.0, 4.0, 8.0, 12.0, 60.0),
    lambda seconds, seed: shuffled(synthetic.form("ABACABDABACABD", 4.3, seed), seconds, seed),
)

LADDERS: dict[str, Ladder] = {
    "block_strength": _CONTRAST,
    "block_scale": _BLOCKS,
    "section_contrast": Ladder(
        "spectral contrast between alternating 10 s sections, dB",
        (0.0, 2.0, 4.0, 6.0, 9.0, 12.0, 18.0),
        partial(synthetic.contrast, section_seconds=10.0, duration=60.0),
    ),
    "continuation": _REORDERED,
    "textural_vendi": Ladder("number of different textures", (1.0, 2.0, 4.0, 8.0, 16.0), synthetic.states),
    "motif_coverage": Ladder(
        "share of the sections that are heard twice", (0.0, 0.25, 0.5, 0.75, 1.0), synthetic.motif_share
    ),
    "structureness_short": _refrains(6.37),
    "structureness_mid": _refrains(11.37),
    "structureness_long": _refrains(17.37),
    "longest_repeat": Ladder(
        "length of the one passage that is heard twice, s", (0.0, 4.0, 8.0, 12.0, 16.0, 24.0), repeated_stretch
    ),
    "level_range": _CRESCENDO,  # the metric reads 0.9 of it
    "flux_gini": _ONSETS,
    "closure": Ladder(
        "degrees walked along a circle of timbres; 360 closes it",
        (120.0, 180.0, 240.0, 300.0, 360.0),
        synthetic.arc,
        rising=False,
    ),
    "lag_similarity": Ladder(
        "how far each repetition of a loop departs from the first, dB",
        (18.0, 12.0, 9.0, 6.0, 3.0, 0.0),
        synthetic.loop_variation,
        rising=False,
    ),
    "loop_strength": Ladder(
        "share of the bars, from the start, that are one bar repeated",
        (0.0, 0.25, 0.5, 0.75, 1.0),
        synthetic.partial_loop,
    ),
    "spectral_contrast": _NOISE,
    "trajectory_coverage": _CIRCLE,
    "loudness_range": Ladder(
        "distance of two levels that alternate every 10 s, dB", (0.0, 3.0, 6.0, 10.0, 15.0, 20.0), level_steps
    ),
    "paper_block_scale": _BLOCKS,
    "paper_peak_to_valley": _NOISE,
    "paper_flux_sparsity": _ONSETS,
    "paper_pca_coverage": _CIRCLE,
    "paper_pc1_share": _CONTRAST,
    "paper_dynamic_range": _CRESCENDO,
}
"""Metric -> the pieces on which it has to rise or fall."""

VARIED_LADDERS: dict[str, Ladder] = {
    "level_range": Ladder(
        "rise of a crescendo, dB", (6.0, 12.0, 20.0, 30.0, 40.0, 60.0), synthetic_varied.varied_crescendo
    ),
    "loudness_range": Ladder(
        "distance of two alternating levels, dB", (0.0, 3.0, 6.0, 10.0, 15.0, 19.0), synthetic_varied.varied_level_steps
    ),
    "flux_gini": Ladder("onsets a second", (0.5, 1.0, 2.0, 4.0, 8.0), synthetic_varied.varied_onsets, rising=False),
    "block_scale": Ladder(
        "length of the blocks, s", (3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0), synthetic_varied.varied_blocks
    ),
    "continuation": Ladder(
        "length of the pieces in which a form of bands was shuffled, s; 60 leaves it whole",
        (2.0, 4.0, 8.0, 12.0, 60.0),
        lambda seconds, seed: shuffled(varied_form("ABACABDABACABD", 4.3, seed + 700), seconds, seed),
    ),
    "textural_vendi": Ladder(
        "number of bands that take turns", (1.0, 2.0, 4.0, 8.0, 16.0), synthetic_varied.varied_states
    ),
    "motif_coverage": Ladder(
        "share of the sections whose tune returns on other instruments, in another key and at another tempo",
        (0.0, 0.25, 0.5, 0.75, 1.0),
        returning_tunes,
    ),
    "closure": Ladder(
        "degrees walked along a circle", (180.0, 225.0, 270.0, 315.0, 360.0), synthetic_varied.varied_arc, rising=False
    ),
    "trajectory_coverage": Ladder(
        "radius of a full circle, dB", (0.0, 1.5, 3.0, 6.0, 9.0, 12.0), synthetic_varied.varied_circle
    ),
    "section_contrast": Ladder(
        "jump of the balance of two bands, dB", (0.0, 2.0, 4.0, 6.0, 9.0, 12.0, 18.0), synthetic_varied.varied_contrast
    ),
    "spectral_contrast": Ladder(
        "level of noise relative to music, dB",
        (20.0, 10.0, 0.0, -10.0, -20.0, -30.0),
        synthetic_varied.varied_noise,
        rising=False,
    ),
}
"""Metric -> a second ladder, over other instruments, tempi and lengths."""


GOAL = 0.95


def _rank_correlation(truth: np.ndarray, readings: np.ndarray) -> float:
    """Of the defined readings; NaN for fewer than three."""
    defined = ~np.isnan(readings)
    return float(spearmanr(truth[defined], readings[defined]).statistic) if defined.sum() > 2 else float("nan")


def climb(metric: Metric, ladder: Ladder, seeds: int) -> dict[str, Any]:
    """Readings and rank correlations of a metric on a ladder, over the seeds."""
    sign = 1.0 if ladder.rising else -1.0
    readings = np.array(
        [[metric.function(extract_features(ladder.piece(v, seed))) for v in ladder.values] for seed in range(seeds)]
    )
    each = [sign * _rank_correlation(np.array(ladder.values), row) for row in readings]
    pooled = sign * _rank_correlation(np.tile(ladder.values, seeds), readings.ravel())
    return {
        "truth": ladder.values,
        "median_reading": [round(float(v), 4) for v in np.nanmedian(readings, axis=0)],
        "undefined": int(np.isnan(readings).sum()),
        "mean": round(float(np.nanmean(each)), 4),
        "least": round(float(np.nanmin(each)), 4),
        "pooled": round(float(pooled), 4),
    }


def check_ladders(seeds: int, done: Finished, quiet: bool = False) -> dict[str, Any]:
    """Every metric on its ladders, by metric, and the primary metrics whose mean is below the goal on one."""
    report: dict[str, Any] = {}
    with Progress(len(METRICS), "ladders", quiet=quiet) as bar:
        for name, metric in METRICS.items():
            ladders = {"first": LADDERS[name], **({"varied": VARIED_LADDERS[name]} if name in VARIED_LADDERS else {})}
            report[name] = {
                "primary": metric.primary,
                "as_printed": metric.as_printed,
                "unit": metric.unit,
                "ladders": {
                    which: done.get(f"ladder {name} {which}", partial(climb, metric, ladder, seeds))
                    for which, ladder in ladders.items()
                },
            }
            bar.advance(note=name)
    below = [
        f"{name} ({which})"
        for name, entry in report.items()
        for which, ladder in entry["ladders"].items()
        if entry["primary"] and ladder["mean"] < GOAL
    ]
    return {"seeds": seeds, "metrics": report, "primary_below_goal": below}
