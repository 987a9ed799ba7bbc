"""Pictures of what a weighting does to gradients and to the optimiser's step."""

from __future__ import annotations

import numpy as np

from eisbach.diagnostics.probe import wording
from eisbach.diagnostics.probe.explain import Explanation
from eisbach.report.figures import _figure, _finish
from eisbach.report.page import PagePicture
from eisbach.report.probe.axes import BLUE, GREY, RED, bare, name_ends, panels, t_axes, zero_based


def gradients_picture(explanation: Explanation) -> PagePicture | None:
    """Angle and size of the weighted gradient and of AdamW's update, with chance for scale."""
    gradients = explanation.gradients
    if gradients is None or gradients.angle is None:
        return None
    angles = [
        ("gradient: weighted and plain", gradients.angle, BLUE), ("AdamW's update: weighted and plain", gradients.update_angle, RED),
        ("the same with clipping", gradients.clipped_update_angle, RED),
        ("plain: halves of a batch", gradients.halves_angle, GREY), ("plain: two batches", gradients.between_batches_angle, GREY),
    ]  # fmt: skip
    sizes = [
        ("gradient", gradients.norm_ratio, BLUE), ("AdamW's update", gradients.update_ratio, RED),
        ("the same with clipping", gradients.clipped_update_ratio, RED),
    ]  # fmt: skip
    kept = [[row for row in rows if row[1] is not None] for rows in (angles, sizes)]
    figure, axes = panels(2, 10.5, 2.6, ratios=[1.35, 1.0])
    for each, rows, unit, ends in zip(axes, kept, ("°", ""), (95.0, None), strict=True):
        places = np.arange(len(rows))[::-1]
        for place, (_, value, colour) in zip(places, rows, strict=True):
            each.barh(place, value, color=colour, height=0.6)
            text = wording.degrees(value or 0.0) if unit else f"{value:.3g}"
            each.annotate(
                text, (value or 0.0, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8
            )
        each.set_yticks(places, [name for name, *_ in rows])
        top = ends or 1.25 * max([1.0, *(row[1] or 0.0 for row in rows)])
        each.set_xlim(0, max(top, 1.15 * max(row[1] or 0.0 for row in rows)))
        bare(each)
    axes[0].set_xlabel("angle between them (degrees)")
    axes[1].axvline(1, color=GREY, linestyle="--", linewidth=1)
    axes[1].set_xlabel("size of weighted over plain")
    return PagePicture(
        "gradients",
        "What is left of it in the optimiser",
        "How far the weighting turns and shrinks a step, before and after AdamW's normalisation; the grey bars are what chance does between "
        "plain batches.",
        "Angles: " + ", ".join(f"{name} {wording.degrees(value or 0.0)}" for name, value, _ in kept[0]) + ".",
        _finish(figure, list(axes), "", None),
    )


def gradient_levels_picture(explanation: Explanation) -> PagePicture | None:
    """Norm of the plain and the weighted gradient by noise level."""
    rows = [row for row in explanation.gradient_levels if row.get("plain_norm") and row.get("weighted_norm")]
    if len(rows) < 2:
        return None
    figure, axes = _figure(6.0, 3.1)
    t = [float(row["t"]) for row in rows]
    ends = []
    for key, name, colour, marker in (("plain_norm", "plain", GREY, "o"), ("weighted_norm", "weighted", BLUE, "s")):
        values = [float(row[key]) for row in rows]
        axes.plot(t, values, color=colour, marker=marker, markersize=4.5, linewidth=1.6)
        ends.append((name, values[-1], colour))
    values = [float(row[key]) for row in rows for key in ("plain_norm", "weighted_norm")]
    if max(values) > 10 * min(values):
        axes.set_yscale("log")
        axes.set_ylabel("norm of the gradient (log scale)")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: "")
    else:
        axes.set_ylabel("norm of the gradient")
        zero_based(axes)
    name_ends(axes, ends)
    t_axes([axes])
    return PagePicture(
        "gradient_levels",
        "Gradients by noise level",
        "The size of the gradient of batches at a single noise level (part of the barrier paper's prediction 1).",
        "Norm of the plain and the weighted gradient over noise level.",
        _finish(figure, [axes], "", None),
    )
