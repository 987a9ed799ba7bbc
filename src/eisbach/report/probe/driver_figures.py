"""Pictures of what a weighting follows: explained shares, single candidates, and the strongest of them clip by clip."""

from __future__ import annotations

import numpy as np

from eisbach.diagnostics.probe import wording
from eisbach.diagnostics.probe.cause import strongest
from eisbach.diagnostics.probe.drivers import Driver
from eisbach.diagnostics.probe.explain import Explanation
from eisbach.diagnostics.probe.grid import Grid
from eisbach.report.figures import _finish
from eisbach.report.page import PagePicture
from eisbach.report.probe.axes import (
    BLUE,
    GREEN,
    GREY,
    MARKERS,
    ORANGE,
    PURPLE,
    RED,
    SERIES,
    axis_name,
    bare,
    panels,
    whisker,
)
from eisbach.report.probe.label_figures import label_groups

_GROUPS = {
    "loudness": (RED, "s"),
    "structure": (BLUE, "o"),
    "energy": (ORANGE, "^"),
    "loss": (GREEN, "D"),
    "sound": (PURPLE, "v"),
}


def drivers_picture(explanation: Explanation) -> PagePicture | None:
    """Left: explained shares; right: rank correlations of the single candidates."""
    drivers = explanation.drivers
    shares = drivers.shares
    bars = [
        ("loudness", shares.loudness, RED, ""), ("structure", shares.structure, BLUE, ""),
        ("both together", shares.both, GREY, ""), ("loudness beyond structure", shares.loudness_only, RED, "///"),
        ("structure beyond loudness", shares.structure_only, BLUE, "///"), ("energy of the prediction", shares.energy, ORANGE, ""),
        ("loss", shares.loss, GREEN, ""),
    ]  # fmt: skip
    bars = [bar for bar in bars if bar[1].value is not None]
    tested = [one for one in drivers.candidates if one.spearman.value is not None]
    if not bars or not tested:
        return None
    figure, axes = panels(2, 10.5, 0.6 + 0.3 * max(len(bars), len(tested)), ratios=[1.0, 1.15])
    places = np.arange(len(bars))[::-1]
    for place, (_, share, colour, hatch) in zip(places, bars, strict=True):
        value = 100 * (share.value or 0.0)
        solid = not hatch
        axes[0].barh(
            place, value, height=0.62, facecolor=colour if solid else "white", edgecolor=colour, hatch=hatch, linewidth=1.0,
        )  # fmt: skip
        right = value
        if share.low is not None and share.high is not None:
            right = 100 * share.high
            axes[0].plot([100 * share.low, right], [place, place], color="black", linewidth=1.2, solid_capstyle="butt")
        axes[0].annotate(
            wording.percent(share.value), (max(right, value), place), xytext=(4, 0), textcoords="offset points",
            va="center", fontsize=8,
        )  # fmt: skip
    axes[0].set_yticks(places, [name for name, *_ in bars])
    axes[0].set_xlim(0, 118)
    axes[0].set_xticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100%"])
    axes[0].set_xlabel("share of the difference between clips that it explains")
    places = np.arange(len(tested))[::-1]
    for place, one in zip(places, tested, strict=True):
        colour, marker = _GROUPS[one.group]
        whisker(axes[1], one.spearman, float(place), colour, marker)
    axes[1].axvline(0, color=GREY, linewidth=1)
    axes[1].set_yticks(places, [_driver_name(one) for one in tested])
    axes[1].set_xlim(-1.03, 1.03)
    axes[1].set_xlabel("rank correlation with the weight, within noise levels")
    for each in axes:
        bare(each)
        each.grid(axis="x", color="0.9", linewidth=0.8)
        each.set_axisbelow(True)
    said = ", ".join(f"{name} {wording.percent(share.value)}" for name, share, *_ in bars)
    return PagePicture(
        "drivers",
        "What the weights follow",
        "Left: how much of the difference between clips each explains when it has to predict a clip that was left out (hatched: what it "
        "adds to the other); right: each candidate alone, with * where p after Holm's correction is below 0.05. Lines are 95% intervals.",
        f"Explained shares: {said}.",
        _finish(figure, list(axes), "", None),
    )


def _driver_name(one: Driver) -> str:
    star = " *" if one.p_holm is not None and one.p_holm < 0.05 else ""
    return wording.column(one.name).removeprefix("the ") + star


def loudness_picture(grid: Grid, explanation: Explanation) -> PagePicture | None:
    """Weight against the strongest loudness and structure column, at the noise level where weights differ most."""
    drivers = explanation.drivers
    chosen = [one for one in (strongest(drivers, "loudness"), strongest(drivers, "structure")) if one is not None]
    if not chosen:
        return None
    spreads = [one.cv_sample_weight.value or 0.0 for one in explanation.levels]
    place = int(np.argmax(spreads))
    weights = grid.by_level("sample_weight")[:, place]
    groups = label_groups(grid, explanation)
    figure, axes = panels(len(chosen), 5.2 * len(chosen), 3.4)
    for each, one in zip(axes, chosen, strict=True):
        values = grid.by_clip(one.name)
        for index, (name, members) in enumerate(groups):
            each.scatter(
                values[members], weights[members], s=26, color=SERIES[index], marker=MARKERS[index], alpha=0.75,
                linewidths=0, label=name,
            )  # fmt: skip
        each.set_xlabel(axis_name(one.name))
        each.set_ylabel(f"sample weight at t = {grid.levels[place]:g}")
        each.set_title(f"rank correlation over all levels {wording.said(one.spearman)}", fontsize=9)
        bare(each)
    if len(groups) > 1:
        axes[0].legend(frameon=False, fontsize=8, loc="best", handletextpad=0.2)
    names = " and ".join(wording.column(one.name) for one in chosen)
    return PagePicture(
        "scatter",
        "Weights, loudness and structure",
        f"Each mark is one clip at t = {grid.levels[place]:g}, where the weights differ most; the columns shown are the strongest of "
        "their group.",
        f"Scatter of sample weight against {names}.",
        _finish(figure, list(axes), "", None),
    )
