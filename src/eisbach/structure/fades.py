"""Fades at the ends of a clip, found and undone: turning the volume is no development.

A *fade out* begins where the level (of mel power, over 1 s) last stands within 3 dB of the clip's usual one, and falls
all the way to the clip's end: the best monotone curve (isotonic regression) through it leaves little. It takes 1.2 s or
more for the first 20 dB; a last chord that rings in a room takes less. Fades in are found alike. The curve is what is
undone, up to 50 dB: beyond that lies what the recording's own noise floor has swallowed.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import uniform_filter1d
from scipy.optimize import isotonic_regression

_USUAL = 60.0  # percentile of the level
_BODY_DB, _DEPTH_DB, _RIPPLE_DB, _LIFT_DB = 3.0, 20.0, 3.0, 50.0
_SHORTEST_CLIP, _SHORTEST, _SMOOTH = 8.0, 1.2, 1.0  # seconds


def fade_lift(power: np.ndarray, frame_rate: float) -> np.ndarray | None:
    """Decibels by which each frame was turned down by a fade in or out, in [0, 50], [shape=(frames,)]; None where there
    is no fade.

    Parameters
    ----------
    power : np.ndarray [shape=(frames,)]
        Non-negative.
    frame_rate : float
        Frames a second.
    """
    if len(power) < _SHORTEST_CLIP * frame_rate or not power.any():
        return None
    size = 2 * round(_SMOOTH * frame_rate / 2) + 1
    smooth = uniform_filter1d(power.astype(np.float64), size, mode="nearest")
    level = 10.0 * np.log10(np.maximum(smooth, float(power.max()) * 1e-10))
    usual = float(np.percentile(level, _USUAL))
    lift = np.zeros(len(level))
    for turn in (slice(None), slice(None, None, -1)):
        _undo(level[turn] - usual, lift[turn], round(_SHORTEST * frame_rate))
    return np.minimum(lift, _LIFT_DB) if lift.any() else None


def _undo(level: np.ndarray, lift: np.ndarray, shortest: int) -> None:
    """Writes into `lift` what a fade out at the end of `level` (dB about the usual one) took."""
    start = int(np.flatnonzero(level >= -_BODY_DB)[-1])
    curve = isotonic_regression(level[start:], increasing=False).x
    deep = np.flatnonzero(curve < -_DEPTH_DB)
    if not len(deep) or deep[0] < shortest:
        return
    audible = curve > -_LIFT_DB
    if np.sqrt(np.mean(np.square(level[start:] - curve)[audible])) < _RIPPLE_DB:
        lift[start:] = np.maximum(-_BODY_DB - curve, 0.0)
