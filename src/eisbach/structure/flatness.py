"""The judge: is a clip structurally flat (drone, pad, loop, noise texture) or does it develop?

A logistic model over a few metrics. Its constants live in ``assets/structure/flatness.json``, written by
``bench/calibrate_structure.py`` from labelled audio, original and codec-decoded, together with its held-out AUC by
kind. By construction it uses no statistic that a sample weighting uses: not the entropy of frame energies and not the
spectrum of a Gram matrix (so not textural Vendi either). A weighting therefore cannot win by optimising its own judge.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

from eisbach.errors import UserError

FORBIDDEN = frozenset({"textural_vendi"})
"""Metrics too close to what the weightings compute."""

IS_FLAT_FROM = 0.5
"""`is_flat` is a probability of at least this."""

_ESSENTIAL = "lag_similarity"  # without it (clips under 8 s) the judge has nothing to stand on


@lru_cache(maxsize=1)
def judge() -> dict[str, Any]:
    """The calibrated constants: `features` (name -> low, high, mean, scale, weight), `bias`, and the numbers of the
    calibration."""
    asset = resources.files("eisbach").joinpath("assets/structure/flatness.json")
    return dict(json.loads(asset.read_text(encoding="utf-8")))


@lru_cache(maxsize=1)
def judge_identity() -> str:
    """Eight hex digits of the constants' hash: probabilities of different judges must not be mixed."""
    asset = resources.files("eisbach").joinpath("assets/structure/flatness.json")
    return hashlib.sha256(asset.read_bytes()).hexdigest()[:8]


def flat_probability(metrics: Mapping[str, float | None]) -> float:
    """Probability in [0, 1] that a clip is flat.

    Parameters
    ----------
    metrics : mapping of str to float or None
        As `Analysis.metrics` or a record holds them; others than the judge's own are ignored. Values beyond the range
        of the calibration (`low`, `high`) count as its ends: the judge does not extrapolate. A metric that is
        undefined (NaN or None) for the clip counts as the calibration's mean, that is, as no evidence; without
        `lag_similarity` the result is NaN.

    Raises
    ------
    UserError
        A metric that the judge needs is missing altogether.

    Examples
    --------
    >>> import numpy as np
    >>> from eisbach.structure import analyze, flat_probability
    >>> from eisbach.types import Waveform
    >>> hiss = 0.1 * np.random.default_rng(0).standard_normal((1, 20 * 22050)).astype(np.float32)
    >>> round(flat_probability(analyze(Waveform(hiss, 22050)).metrics), 1)
    1.0
    """
    constants = judge()
    missing = [name for name in constants["features"] if name not in metrics]
    if missing:
        raise UserError(f"the flatness judge needs the metrics {', '.join(missing)}; pass what `analyze` returned.")
    if not _defined(metrics[_ESSENTIAL]):
        return float("nan")
    logit = float(constants["bias"])
    for name, feature in constants["features"].items():
        value = metrics[name]
        if _defined(value):
            seen = min(max(float(value), feature["low"]), feature["high"])  # type: ignore[arg-type]
            logit += feature["weight"] * (seen - feature["mean"]) / feature["scale"]
    return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, logit))))


def is_flat(metrics: Mapping[str, float | None]) -> bool:
    """Whether `flat_probability` reaches one half; a clip too short to judge is not called flat."""
    probability = flat_probability(metrics)
    return not math.isnan(probability) and probability >= IS_FLAT_FROM


def _defined(value: float | None) -> bool:
    return value is not None and not math.isnan(value)
