"""Numbers and names as a reader wants them in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

from eisbach.diagnostics.probe.intervals import Estimate

_COLUMNS = {
    "latent_db": "latents' level",
    "loudness_db": "audio's level",
    "output_energy_db": "energy of the output",
    "x0_energy_db": "energy of the data estimate",
    "loss": "loss",
    "x0_loss": "loss of the data estimate",
    "structure.share_below_200": "share of energy below 200 Hz",
    "structure.share_above_2000": "share of energy above 2 kHz",
}


def column_name(column: str) -> str:
    """What a column of the rows is called: 'latents' level', 'textural Vendi'."""
    from eisbach.structure.metrics import METRICS

    metric = METRICS.get(column.removeprefix("structure."))
    if metric is not None:
        return metric.label[:1].lower() + metric.label[1:]
    return _COLUMNS.get(column, column.removeprefix("structure.").replace("_", " "))


def number(value: float | None, digits: int = 2) -> str:
    """A number with a true minus sign, never '-0.00'; '–' without a value."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return text.replace("-", "" if not any(c in text for c in "123456789") else "\u2212")


def said(estimate: Estimate, digits: int = 2) -> str:
    """'0.41 (95% 0.20 to 0.58)'; '–' where there is no value."""
    if estimate.low is None or estimate.high is None:
        return number(estimate.value, digits)
    return f"{number(estimate.value, digits)} (95% {number(estimate.low, digits)} to {number(estimate.high, digits)})"


def percent(value: float | None) -> str:
    """'81%', '2.3%' below 10, '0.04%' below 0.1; '–' without a value."""
    if value is None:
        return "–"
    size = abs(100 * value)
    digits = 0 if size >= 9.95 or size < 1e-4 else 1 if size >= 0.095 else 2
    return number(100 * value, digits) + "%"


def said_percent(share: Estimate) -> str:
    """'81% (95% 70% to 90%)'; without the interval where there is none."""
    if share.low is None or share.high is None:
        return percent(share.value)
    return f"{percent(share.value)} (95% {percent(share.low)} to {percent(share.high)})"


def degrees(value: float) -> str:
    """'0.4°' below 10, '61°' above."""
    return f"{number(value, 1 if abs(value) < 9.95 else 0)}°"


def where(chosen: Sequence[float], levels: Sequence[float]) -> str:
    """Where among the measured noise levels the chosen ones lie: 'at every noise level', 'from t = 0.1 to 0.5'.

    Parameters
    ----------
    chosen, levels : sequence of float
        Ascending; `chosen` is part of `levels` and not empty.
    """
    if len(chosen) == len(levels) > 1:
        return "at every noise level"
    first = levels.index(chosen[0])
    if len(chosen) > 1 and list(levels[first : first + len(chosen)]) == list(chosen):
        return f"from t = {chosen[0]:g} to {chosen[-1]:g}"
    return "at t = " + ", ".join(f"{t:g}" for t in chosen)
