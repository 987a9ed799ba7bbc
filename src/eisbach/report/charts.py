"""Charts as inline SVG: they follow the page's width and its light or dark colours, and need no script."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from eisbach.report.wording import format_value
from eisbach.statistics.records import MetricInfo
from eisbach.statistics.results import ArmSummary

REFERENCE = "reference"
"""The arm of a summary that is the reference's: drawn without a colour of its own."""

COLOURS = (
    "#6b7078", "#0b63a5", "#b35900", "#00785a", "#8a3b94", "#8c6d00", "#b02a5b", "#3f4fb5", "#a33022", "#4a7a12",
    "#00778f", "#6b4a35",
)  # fmt: skip
"""What pages and pictures give their sets, one after another, so that a set has one colour everywhere (`--a0` and on in
style.css, which has others on dark pages)."""
_DASHES = 4  # in style.css

_LEFT, _RIGHT = 2.5, 97.5  # per cent of the width that the axis spans; heights are in pixels
_ROW, _TOP, _AXIS = 62, 6, 34


def arm_class(index: int) -> str:
    """The class, in style.css, of what belongs to the `index`-th set: its colour."""
    return f"arm-{index % len(COLOURS)}"


def _line_class(index: int) -> str:
    """Colour and dash: a set beyond the last colour has another dash than the one whose colour it shares."""
    return f"{arm_class(index)} dash-{(index + index // len(COLOURS)) % _DASHES}"


@dataclass(frozen=True)
class Series:
    """One line of a curve chart.

    Attributes
    ----------
    label : str
    x, y : sequence of float
        Equal lengths; points that are not finite are left out.
    colour : int
        Index of the arm's colour on the page.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0


def arms_chart(
    info: MetricInfo, summaries: Sequence[ArmSummary], labels: Mapping[str, str], *, point_name: str = "prompt"
) -> str:
    """A row an arm: small dots are prompts, the big mark is their mean, the bar its 95% interval.

    Parameters
    ----------
    summaries : sequence of ArmSummary
        Drawn in this order; the index is the colour.
    labels : mapping of str to str
        What to call each arm.
    """
    values = [value for arm in summaries for value in (*arm.points.values(), arm.mean, *(arm.interval or ()))]
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if info.share else nice_ticks(min(finite), max(finite))
    low, high = min(ticks[0], *finite), max(ticks[-1], *finite)

    def place(value: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * ((value - low) / (high - low) if high > low else 0.5)

    height = _TOP + _ROW * len(summaries) + _AXIS
    bottom = height - _AXIS
    said = "; ".join(_said(info, arm, labels) for arm in summaries)
    parts = [
        f'<svg class="chart" role="img" width="100%" height="{height}" aria-label="{escape(info.label)}, by arm: '
        f'{escape(said)}">'
    ]
    for index, tick in enumerate(ticks):
        x = place(tick)
        anchor = "start" if index == 0 else "end" if index == len(ticks) - 1 else "middle"
        parts.append(f'<line class="grid" x1="{x:.2f}%" x2="{x:.2f}%" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(
            f'<text class="tick" x="{x:.2f}%" y="{bottom + 20}" text-anchor="{anchor}">'
            f"{escape(_tick(info, tick, ticks))}</text>"
        )
    for index, arm in enumerate(summaries):
        parts.append(_arm_row(info, arm, labels.get(arm.arm, arm.arm), index, place, point_name))
    return "".join([*parts, "</svg>"])


def _said(info: MetricInfo, arm: ArmSummary, labels: Mapping[str, str]) -> str:
    text = f"{labels.get(arm.arm, arm.arm)} {format_value(info, arm.mean, arm.n_clips)}"
    if arm.interval is None:
        return text
    return f"{text} (95% interval {format_value(info, arm.interval[0])} to {format_value(info, arm.interval[1])})"


def _arm_row(
    info: MetricInfo, arm: ArmSummary, label: str, index: int, place: Callable[[float], float], point_name: str
) -> str:
    top = _TOP + _ROW * index
    middle = top + 42
    of = "arm-music" if arm.arm == REFERENCE else arm_class(index)
    parts = [f'<g class="{of}"><text class="row" x="{_LEFT}%" y="{top + 17}">{escape(label)}</text>']
    value = format_value(info, arm.mean, arm.n_clips)
    parts.append(f'<text class="value" x="{_RIGHT}%" y="{top + 17}" text-anchor="end">{escape(value)}</text>')
    stacked: dict[float, int] = {}
    for name, point in arm.points.items():
        if not math.isfinite(point):
            continue
        x = place(point)
        level = stacked[round(x)] = stacked.get(round(x), -1) + 1  # dots that coincide are fanned out
        offset = (level + 1) // 2 * 5 * (-1 if level % 2 else 1)
        offset = max(-12, min(12, offset))
        parts.append(
            f'<circle class="dot" cx="{x:.2f}%" cy="{middle + offset}" r="4">'
            f"<title>{escape(point_name)} {escape(name)}: {escape(format_value(info, point))}</title></circle>"
        )
    if arm.interval is not None:
        a, b = place(arm.interval[0]), place(arm.interval[1])
        parts.append(f'<line class="bar" x1="{a:.2f}%" x2="{b:.2f}%" y1="{middle}" y2="{middle}"/>')
        for x in (a, b):
            parts.append(f'<line class="cap" x1="{x:.2f}%" x2="{x:.2f}%" y1="{middle - 6}" y2="{middle + 6}"/>')
    if math.isfinite(arm.mean):
        parts.append(f'<circle class="mean" cx="{place(arm.mean):.2f}%" cy="{middle}" r="7"/>')
    return "".join([*parts, "</g>"])


def curves_chart(series: Sequence[Series], x_label: str, y_label: str) -> str:
    """Lines over a common x axis, with a legend in words; empty when nothing is finite."""
    cleaned = []
    for line in series:
        points = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
        if points:
            cleaned.append((line, points))
    if not cleaned:
        return ""
    xs = [x for _, points in cleaned for x, _ in points]
    ys = [y for _, points in cleaned for _, y in points]
    x_ticks, y_ticks = nice_ticks(min(xs), max(xs)), nice_ticks(min(ys), max(ys))
    x0, x1, y0, y1 = min(xs), max(xs), y_ticks[0], y_ticks[-1]
    height, plot = 260, 214
    said = "; ".join(f"{line.label} from {points[0][1]:.3g} to {points[-1][1]:.3g}" for line, points in cleaned)
    parts = [
        f'<svg class="chart lines" role="img" height="{height}" aria-label="{escape(y_label)} over {escape(x_label)}: '
        f'{escape(said)}">'
    ]
    for tick in y_ticks:
        y = 8 + (plot - 16) * (1 - (tick - y0) / (y1 - y0))
        parts.append(f'<line class="grid" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="-8" y="{y + 4:.1f}" text-anchor="end">{_number(tick, y_ticks)}</text>')
    parts.append(f'<svg y="8" width="100%" height="{plot - 16}" overflow="visible">')
    for tick in x_ticks:
        if x0 <= tick <= x1 and x1 > x0:
            x = 100 * (tick - x0) / (x1 - x0)
            anchor = "end" if x > 92 else "start" if x < 3 else "middle"
            parts.append(
                f'<text class="tick" x="{x:.2f}%" y="{plot + 4}" text-anchor="{anchor}">{_number(tick, x_ticks)}</text>'
            )
    parts.append(
        '<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" width="100%" height="100%" overflow="visible">'
    )
    for line, points in cleaned:
        path = " ".join(
            f"{1000 * (x - x0) / (x1 - x0) if x1 > x0 else 500:.1f},{1000 * (1 - (y - y0) / (y1 - y0)):.1f}"
            for x, y in _thin(points)
        )
        parts.append(f'<polyline class="curve {_line_class(line.colour)}" points="{path}"/>')
    parts.append("</svg></svg>")
    parts.append(f'<text class="tick" x="50%" y="{height - 4}" text-anchor="middle">{escape(x_label)}</text></svg>')
    legend = "".join(
        f'<li class="{arm_class(line.colour)}"><svg width="34" height="12" aria-hidden="true"><line class="curve '
        f'{_line_class(line.colour)}" x1="1" x2="33" y1="6" y2="6"/></svg>{escape(line.label)}</li>'
        for line, _ in cleaned
    )
    return f'{"".join(parts)}<ul class="legend">{legend}</ul>'


def _thin(points: Sequence[tuple[float, float]], most: int = 400) -> Sequence[tuple[float, float]]:
    """Every k-th point and the last, so that a long run does not swell the page."""
    step = max(1, math.ceil(len(points) / most))
    thinned = list(points[::step])
    if thinned[-1] != points[-1]:
        thinned.append(points[-1])
    return thinned


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers that enclose [low, high], ascending; at least two."""
    if not high > low:
        pad = abs(low) * 0.1 or 0.5
        low, high = low - pad, high + pad
    raw = (high - low) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _tick(info: MetricInfo, value: float, ticks: Sequence[float]) -> str:
    if info.share:
        return f"{100 * value:.0f}%"
    return _number(value, ticks) + (f" {info.unit}" if info.unit and value == ticks[-1] else "")


def _number(value: float, ticks: Sequence[float]) -> str:
    step = ticks[1] - ticks[0]
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0
    if digits and round(step * 10**digits, 6) % 1:
        digits += 1
    return f"{value:,.{digits}f}".replace(",", "\u202f").replace("-", "\u2212")
