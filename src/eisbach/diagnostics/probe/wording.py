"""Numbers and names as a reader wants them in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from eisbach.diagnostics.probe.agreement import number, said
from eisbach.structure.metrics import METRICS

__all__ = ["column", "count", "degrees", "number", "percent", "said", "series", "weight", "where"]

_COLUMNS = {
    "latent_db": "the latents' level",
    "loudness_db": "the audio's level",
    "output_energy_db": "the energy of the output",
    "x0_energy_db": "the energy of the data estimate",
    "loss": "the loss",
    "x0_loss": "the loss of the data estimate",
    "structure.noise_floor_db": "the noise floor",
    "structure.bandwidth_hz": "the bandwidth",
    "structure.share_below_200": "the share of energy below 200 Hz",
    "structure.share_above_2000": "the share of energy above 2 kHz",
}


def column(name: str) -> str:
    """What a column of the rows is called in a sentence: 'the latents' level', 'textural Vendi'."""
    if name in _COLUMNS:
        return _COLUMNS[name]
    metric = name.removeprefix("structure.")
    if metric in METRICS:
        label = METRICS[metric].label
        return label[:1].lower() + label[1:]
    return metric.replace("_", " ")


def percent(value: float | None) -> str:
    """'81%', '2.3%' below 10, '0.04%' below 0.1; 'an unknown share' without a value."""
    if value is None:
        return "an unknown share"
    size = abs(100 * value)
    digits = 0 if size >= 9.95 or size < 1e-4 else 1 if size >= 0.095 else 2
    return number(100 * value, digits) + "%"


def degrees(value: float) -> str:
    """'0.4°' below 10, '61°' above."""
    return f"{number(value, 1 if abs(value) < 9.95 else 0)}°"


def weight(value: float) -> str:
    """Three significant digits: '0.143', '12.5', '0.00052'."""
    return f"{value:.3g}"


def count(n: int, noun: str) -> str:
    """'1 clip', '5 clips'."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def series(parts: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def where(chosen: Sequence[float], levels: Sequence[float]) -> str:
    """Where among the measured noise levels the chosen ones lie: 'up to t = 0.5', 'at every noise level that was measured'.

    Parameters
    ----------
    chosen, levels : sequence of float
        Ascending; `chosen` is part of `levels` and not empty.
    """
    places = [levels.index(t) for t in chosen]
    if len(chosen) == len(levels):
        return "at every noise level" if len(levels) > 1 else f"at t = {levels[0]:g}"
    if places == list(range(places[0], places[-1] + 1)) and len(places) > 1:
        if places[0] == 0:
            return f"up to t = {chosen[-1]:g}"
        if places[-1] == len(levels) - 1:
            return f"from t = {chosen[0]:g} on"
        return f"from t = {chosen[0]:g} to {chosen[-1]:g}"
    return f"at t = {series([f'{t:g}' for t in chosen])}"
