"""The pictures of a probe, in the page's order: levels, variance, labels, belief and loss, gradients.

Colours are Okabe and Ito's, which any colour vision tells apart; lines also differ in their markers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from eisbach.diagnostics.probe import intervals
from eisbach.diagnostics.probe.explain import ACTS_CV, Explanation
from eisbach.diagnostics.probe.intervals import Estimate
from eisbach.diagnostics.probe.levels import Grid, LevelSummary, make_grid
from eisbach.diagnostics.probe.predictions import LABEL, TELLS_AUC
from eisbach.diagnostics.probe.result import ProbeResult
from eisbach.report.figures import _finish
from eisbach.report.page import PagePicture

_BLUE, _RED, _GREEN, _PURPLE, _ORANGE, _SKY, _GREY = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555",
)  # fmt: skip
_SERIES = (_BLUE, _RED, _GREEN, _PURPLE, _ORANGE, _SKY, _GREY)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_MOST_LINES = 7

Line = tuple[str, Sequence[float], Sequence[Estimate]]
"""A line's name ("" for none), its noise levels and its values."""


def probe_pictures(result: ProbeResult, explanation: Explanation) -> list[PagePicture]:
    """Every picture that this probe has the numbers for, in the page's order."""
    grid = make_grid(result.rows)
    makers: Sequence[Callable[[], PagePicture | None]] = (
        lambda: _levels(explanation),
        lambda: _variance(explanation),
        lambda: _labels(grid, explanation),
        lambda: _auc(explanation),
        lambda: _belief_loss(explanation),
        lambda: _gradients(explanation),
        lambda: _gradient_levels(explanation),
    )
    return [picture for picture in (make() for make in makers) if picture is not None]


def _panels(count: int, width: float, height: float) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(1, count, squeeze=False)[0])
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="0.92", linewidth=0.8)
        panel.set_axisbelow(True)
    return figure, axes


def _lines(axes: Any, lines: Sequence[Line], ylabel: str, first: int = 0) -> None:
    """Lines over the noise level, with intervals where there are any, and a legend where there are names."""
    for index, (name, levels, values) in enumerate(lines, first):
        colour = _SERIES[index % len(_SERIES)]
        points = [(t, one) for t, one in zip(levels, values, strict=True) if one.value is not None]
        axes.plot(
            [t for t, _ in points], [point.value for _, point in points], color=colour,
            marker=_MARKERS[index % len(_MARKERS)], markersize=4.5, linewidth=1.5, label=name or None,
        )  # fmt: skip
        for t, point in points:
            if point.low is not None and point.high is not None:
                axes.plot([t, t], [point.low, point.high], color=colour, linewidth=1.1, alpha=0.7)
    if any(name for name, *_ in lines):
        names = axes.legend(frameon=False, fontsize=8, loc="best").get_texts()
        for name in names:
            name.set_parse_math(False)  # a label of the manifest may hold a dollar
    axes.set_xlabel("noise level t (1 = noise)")
    axes.set_ylabel(ylabel)
    axes.set_xlim(-0.02, 1.02)


def _rule(axes: Any, height: float, name: str = "") -> None:
    """A dashed line across, with its name at the right end."""
    axes.axhline(height, color=_GREY, linestyle="--", linewidth=1, zorder=0)
    axes.annotate(
        name, (0.995, height), xytext=(0, 2), textcoords="offset points", xycoords=("axes fraction", "data"),
        fontsize=8, color=_GREY, ha="right",
    )  # fmt: skip


def _from_zero(axes: Any, at_least: float = 0.0) -> None:
    axes.set_ylim(0, max(axes.get_ylim()[1], at_least))


def _band(axes: Any, levels: Sequence[LevelSummary], column: str, ylabel: str) -> None:
    """The median of a column over noise levels, and a band that holds the middle 80% of the clips."""
    spreads = [(level.t, level.columns[column]) for level in levels if level.columns[column].q50 is not None]
    t = [row[0] for row in spreads]
    axes.fill_between(t, [s.q10 for _, s in spreads], [s.q90 for _, s in spreads], color=_BLUE, alpha=0.22, linewidth=0)
    _lines(axes, [("", t, [Estimate(spread.q50) for _, spread in spreads])], ylabel)
    if not spreads:
        axes.text(0.5, 0.5, "there is none", ha="center", va="center", transform=axes.transAxes)


def _levels(explanation: Explanation) -> PagePicture:
    levels = explanation.levels
    t = [level.t for level in levels]
    if not explanation.has_sample_weight:
        figure, axes = _panels(1, 6.0, 3.1)
        _band(axes[0], levels, "weight", "weight")
        _from_zero(axes[0])
        title, alt = "Weight by noise level", "The noise-level weight over noise level."
        caption = "The weight of a clip's loss at each noise level; it is the same for every clip."
        return PagePicture("levels", title, caption, alt, _finish(figure, axes, "", None))
    figure, axes = _panels(3, 10.5, 3.1)
    _band(axes[0], levels, "belief", "belief (1 = structureless)")
    _band(axes[1], levels, "sample_weight", "sample weight")
    _from_zero(axes[1])
    spreads: list[Line] = [
        ("before strength", t, [level.cv_sample_weight for level in levels]),
        ("as trained", t, [level.cv for level in levels]),
    ]
    _lines(axes[2], spreads, "variation between clips (sd / mean)")
    _rule(axes[2], ACTS_CV, "acts above")
    _from_zero(axes[2], at_least=1.6 * ACTS_CV)
    acting = intervals.where(explanation.acts_at, t) if explanation.acts_at else "at no noise level"
    return PagePicture(
        "levels",
        "Belief and weight by noise level",
        "Lines are medians over clips and bands hold the middle 80%; on the right, how much the weights of different "
        "clips "
        f"differ at one noise level (below the dashed line, {ACTS_CV:g}, they are nearly alike).",
        "Three panels over noise level: belief, sample weight, and its variation between clips. As trained, the "
        "variation "
        f"reaches {ACTS_CV:g} {acting}.",
        _finish(figure, axes, "", None),
    )


def _variance(explanation: Explanation) -> PagePicture | None:
    both = (("as trained", explanation.variance), ("sample weight", explanation.sample_variance))
    rows = [(name, shares) for name, shares in both if shares is not None and shares.level.value is not None]
    if not rows:
        return None
    figure, axes = _panels(1, 7.5, 1.2 + 0.5 * len(rows))
    left = np.zeros(len(rows))
    for part, key, colour in (
        ("noise level", "level", _ORANGE),
        ("clip", "clip", _SKY),
        ("rest", "remainder", "#BBBBBB"),
    ):
        widths = np.array([100 * (getattr(shares, key).value or 0.0) for _, shares in rows])
        bars = axes[0].barh(range(len(rows)), widths, left=left, height=0.6, color=colour, label=part)
        axes[0].bar_label(
            bars, [f"{width:.0f}%" if width >= 9 else "" for width in widths], label_type="center", fontsize=8
        )
        left += widths
    axes[0].set_yticks(range(len(rows)), [f"{name} (sd of ln w {shares.sd:.2g})" for name, shares in rows])
    axes[0].set_xlim(0, 100)
    axes[0].set_xlabel("share of the variance of ln weight (%)")
    axes[0].legend(frameon=False, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.4, 1.0))
    text = "; ".join(f"{name}: {intervals.percent(shares.level.value)} noise level" for name, shares in rows)
    return PagePicture(
        "variance",
        "Noise level or clip?",
        "A sample weighting whose variance lies between noise levels is a noise-level weighting in disguise; one that "
        "favours "
        "clips has it between clips.",
        f"Shares of the variance of ln weight: {text}.",
        _finish(figure, axes, "", None),
    )


def _labels(grid: Grid, explanation: Explanation) -> PagePicture | None:
    pairs = explanation.separations
    if not pairs:
        return None
    texts = np.array([value or "" for value in grid.texts(LABEL + pairs[0].label)])
    weights = grid.by_level("sample_weight")
    values = [pairs[0].positive, *(pair.negative for pair in pairs)][:_MOST_LINES]
    lines: list[Line] = []
    for value in values:
        of_label = weights[texts == value]
        means = [
            float(column[np.isfinite(column)].mean()) if np.isfinite(column).any() else None for column in of_label.T
        ]
        lines.append((value, grid.levels.tolist(), [Estimate(mean) for mean in means]))
    figure, axes = _panels(1, 7.0, 3.4)
    _lines(axes[0], lines, "mean sample weight")
    _from_zero(axes[0])
    return PagePicture(
        "labels",
        "Weight by label",
        "The mean weight of each label's clips; labels come from the manifest and are never shown to the weighting.",
        f"Mean sample weight over noise level for {', '.join(values)}.",
        _finish(figure, axes, "", None),
    )


def _auc(explanation: Explanation) -> PagePicture | None:
    pairs = [pair for pair in explanation.separations if any(area.value is not None for _, area in pair.levels)]
    if not pairs:
        return None
    figure, axes = _panels(1, 7.0, 3.6)
    lines: list[Line] = []
    for index, pair in enumerate(pairs[: _MOST_LINES - 1]):
        shift = 0.006 * (index - (len(pairs) - 1) / 2)  # so that intervals lie beside one another
        lines.append((pair.negative, [t + shift for t, _ in pair.levels], [area for _, area in pair.levels]))
    _lines(
        axes[0], lines, "AUC of the weight", first=1
    )  # the first colour is the positive label's in the other picture
    _rule(axes[0], 0.5, "chance")
    _rule(axes[0], TELLS_AUC, "told apart")
    axes[0].set_ylim(min(0.38, axes[0].get_ylim()[0]), 1.02)
    names = ", ".join(pair.negative for pair in pairs)
    return PagePicture(
        "auc",
        "Does the weight tell the labels apart?",
        f"The chance that a clip of {pairs[0].label} '{pairs[0].positive}' weighs more than one of each other; lines "
        "are 95% "
        "intervals over clips.",
        f"AUC over noise level for {names}.",
        _finish(figure, axes, "", None),
    )


def _belief_loss(explanation: Explanation) -> PagePicture | None:
    link = explanation.belief_loss
    if link is None:
        return None
    figure, axes = _panels(1, 7.0, 3.2)
    _rule(axes[0], 0.0, "above: low belief goes with low loss")
    _lines(axes[0], [("", [t for t, _ in link.levels], [one for _, one in link.levels])], "rank correlation")
    axes[0].set_ylim(-1, 1)
    bands = "; ".join(f"{band} noise {intervals.said(value)}" for band, value in link.bands.items())
    return PagePicture(
        "belief_loss",
        "Does belief go with loss?",
        "The barrier paper's prediction 5: above 0 at low noise, falling or crossing it at high noise. Lines are 95% "
        "intervals "
        "over clips.",
        f"Rank correlation of belief with loss over noise level: {bands}.",
        _finish(figure, axes, "", None),
    )


def _gradients(explanation: Explanation) -> PagePicture | None:
    gradients = explanation.gradients
    if gradients is None or gradients.angle is None:
        return None
    angles = [
        ("plain gradients of two batches", gradients.between_batches_angle, _GREY),
        ("AdamW's update: weighted and plain", gradients.update_angle, _RED),
        ("gradient: weighted and plain", gradients.angle, _BLUE),
    ]
    sizes = [("AdamW's update", gradients.update_norm_ratio, _RED), ("gradient", gradients.norm_ratio, _BLUE)]
    figure, axes = _panels(2, 10.5, 2.4)
    for panel, bars, unit in (
        (axes[0], angles, "angle between them (degrees)"),
        (axes[1], sizes, "size of weighted over plain"),
    ):
        known = [(name, value, colour) for name, value, colour in bars if value is not None]
        drawn = panel.barh(range(len(known)), [bar[1] for bar in known], color=[bar[2] for bar in known], height=0.6)
        panel.bar_label(drawn, [f"{bar[1]:.3g}" for bar in known], fontsize=8, padding=3)
        panel.set_yticks(range(len(known)), [bar[0] for bar in known])
        panel.set_xlabel(unit)
        panel.margins(x=0.15)
    axes[1].axvline(1, color=_GREY, linestyle="--", linewidth=1)
    said = ", ".join(f"{name} {intervals.degrees(value)}" for name, value, _ in angles if value is not None)
    return PagePicture(
        "gradients",
        "What is left of it in the optimiser",
        "How far the weighting turns and shrinks a step, before and after AdamW's normalisation and the recipe's "
        "clipping; the "
        "grey bar is what chance does between plain batches.",
        f"Angles: {said}.",
        _finish(figure, axes, "", None),
    )


def _gradient_levels(explanation: Explanation) -> PagePicture | None:
    rows = [row for row in explanation.gradient_levels if row.get("plain_norm") and row.get("weighted_norm")]
    if len(rows) < 2:
        return None
    figure, axes = _panels(1, 6.0, 3.1)
    t = [float(row["t"]) for row in rows]
    lines: list[Line] = [
        (name, t, [Estimate(float(row[f"{name}_norm"])) for row in rows]) for name in ("plain", "weighted")
    ]
    _lines(axes[0], lines, "norm of the gradient")
    norms = [point.value or 0.0 for _, _, values in lines for point in values]
    if max(norms) > 10 * min(norms):
        axes[0].set_yscale("log")
    else:
        _from_zero(axes[0])
    return PagePicture(
        "gradient_levels",
        "Gradients by noise level",
        "The size of the gradient of batches at a single noise level (part of the barrier paper's prediction 1).",
        "Norm of the plain and the weighted gradient over noise level.",
        _finish(figure, axes, "", None),
    )
