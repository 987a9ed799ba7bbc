"""Pictures of a probe: belief and weight by noise level, what the weights follow, labels, losses and gradients.

Colours are Okabe and Ito's, which any colour vision tells apart; lines also differ in marker, and are named where they end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from eisbach.diagnostics.probe import wording
from eisbach.diagnostics.probe.agreement import LABEL
from eisbach.diagnostics.probe.cause import strongest
from eisbach.diagnostics.probe.drivers import Driver
from eisbach.diagnostics.probe.explain import ACTS_CV, Explanation
from eisbach.diagnostics.probe.findings import TELLS_AUC
from eisbach.diagnostics.probe.grid import Grid, make_grid
from eisbach.diagnostics.probe.result import ProbeResult
from eisbach.report.figures import _figure, _finish
from eisbach.report.probe_axes import (
    BLUE,
    GREEN,
    GREY,
    MARKERS,
    ORANGE,
    PURPLE,
    RED,
    SERIES,
    axis_name,
    band,
    bare,
    estimates,
    name_ends,
    panels,
    t_axes,
    whisker,
    zero_based,
)

_GROUPS = {
    "loudness": (RED, "s"),
    "structure": (BLUE, "o"),
    "energy": (ORANGE, "^"),
    "loss": (GREEN, "D"),
    "sound": (PURPLE, "v"),
}
_MOST_LINES = 7


@dataclass(frozen=True)
class ProbePicture:
    """One picture of the page.

    Attributes
    ----------
    name : str
        File name without its ending.
    title, caption, alt : str
        Heading, one sentence on how to read it, and what it shows for someone who cannot see it.
    png : bytes
    """

    name: str
    title: str
    caption: str
    alt: str
    png: bytes


def probe_pictures(result: ProbeResult, explanation: Explanation) -> list[ProbePicture]:
    """Every picture that this probe has the numbers for, in the page's order."""
    grid = make_grid(result.rows)
    makers: Sequence[Callable[[], ProbePicture | None]] = (
        lambda: levels_picture(explanation),
        lambda: drivers_picture(explanation),
        lambda: loudness_picture(grid, explanation),
        lambda: variance_picture(explanation),
        lambda: labels_picture(grid, explanation),
        lambda: auc_picture(explanation),
        lambda: belief_loss_picture(explanation),
        lambda: gradients_picture(explanation),
        lambda: gradient_levels_picture(explanation),
    )
    return [picture for picture in (make() for make in makers) if picture is not None]


def levels_picture(explanation: Explanation) -> ProbePicture | None:
    """Belief, weights and their spread between clips over the noise level."""
    if not explanation.has_sample_weight:
        return _noise_weight_picture(explanation)
    levels = explanation.levels
    t = [one.t for one in levels]
    figure, axes = panels(3, 10.5, 3.1)
    has_belief = any(one.columns["belief"].q50 is not None for one in levels)
    if has_belief:
        band(axes[0], levels, "belief", BLUE)
    else:
        axes[0].text(0.5, 0.5, "this weighting has no belief", ha="center", va="center", transform=axes[0].transAxes)
    axes[0].set_ylabel("belief (1 = structureless)")
    band(axes[1], levels, "sample_weight", BLUE)
    axes[1].set_ylabel("sample weight")
    zero_based(axes[1])
    raw = estimates(axes[2], t, [one.cv_sample_weight for one in levels], BLUE, "o", "before strength")
    trained = estimates(axes[2], t, [one.cv for one in levels], RED, "s", "as trained")
    axes[2].axhline(ACTS_CV, color=GREY, linestyle="--", linewidth=1)
    axes[2].set_ylabel("variation between clips (sd / mean)")
    zero_based(axes[2], at_least=1.6 * ACTS_CV)
    axes[2].annotate(
        "acts above", (1, ACTS_CV), xytext=(-2, 2), textcoords="offset points", xycoords=("axes fraction", "data"),
        color=GREY, fontsize=8, va="bottom", ha="right",
    )  # fmt: skip
    axes[2].legend(handles=[raw, trained], frameon=False, fontsize=8, loc="upper right")
    t_axes(axes)
    acting = wording.where(explanation.acts_at, t) if explanation.acts_at else "at no noise level"
    return ProbePicture(
        "levels",
        "Belief and weight by noise level",
        "Lines are medians over clips and bands hold the middle 80%; on the right, how much the weights of different clips differ "
        f"at one noise level (below the dashed line, {ACTS_CV:g}, they are nearly alike).",
        f"Three panels over noise level: belief, sample weight, and its variation between clips. As trained, the variation reaches "
        f"{ACTS_CV:g} {acting}.",
        _finish(figure, list(axes), "", None),
    )


def _noise_weight_picture(explanation: Explanation) -> ProbePicture:
    levels = explanation.levels
    figure, axes = _figure(6.0, 3.1)
    band(axes, levels, "weight", BLUE)
    zero_based(axes)
    axes.set_ylabel("weight")
    t_axes([axes])
    return ProbePicture(
        "levels",
        "Weight by noise level",
        "The weight of a clip's loss at each noise level; without a sample weighting it is the same for every clip.",
        "The noise-level weight over noise level.",
        _finish(figure, [axes], "", None),
    )


def drivers_picture(explanation: Explanation) -> ProbePicture | None:
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
    return ProbePicture(
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


def loudness_picture(grid: Grid, explanation: Explanation) -> ProbePicture | None:
    """Weight against the strongest loudness and structure column, at the noise level where weights differ most."""
    drivers = explanation.drivers
    chosen = [one for one in (strongest(drivers, "loudness"), strongest(drivers, "structure")) if one is not None]
    if not chosen:
        return None
    spreads = [one.cv_sample_weight.value or 0.0 for one in explanation.levels]
    place = int(np.argmax(spreads))
    weights = grid.by_level("sample_weight")[:, place]
    groups = _label_groups(grid, explanation)
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
    return ProbePicture(
        "scatter",
        "Weights, loudness and structure",
        f"Each mark is one clip at t = {grid.levels[place]:g}, where the weights differ most; the columns shown are the strongest of "
        "their group.",
        f"Scatter of sample weight against {names}.",
        _finish(figure, list(axes), "", None),
    )


def variance_picture(explanation: Explanation) -> ProbePicture | None:
    """Where the variance of ln weight lies, as one bar a weight."""
    both = (("sample weight", explanation.sample_variance), ("as trained", explanation.variance))
    rows = [(name, one) for name, one in both if one is not None and one.level.value is not None]
    if not rows:
        return None
    figure, axes = _figure(7.5, 0.9 + 0.55 * len(rows))
    parts = (
        ("noise level", "level", ORANGE),
        ("clip", "clip", BLUE),
        ("rest (clip at a level, chance)", "remainder", "#BBBBBB"),
    )
    for place, (_, one) in enumerate(reversed(rows)):
        left = 0.0
        for title, key, colour in parts:
            width = 100 * (getattr(one, key).value or 0.0)
            axes.barh(place, width, left=left, height=0.6, color=colour, edgecolor="white")
            if width >= 9:
                axes.text(
                    left + width / 2,
                    place,
                    f"{width:.0f}%",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if colour == BLUE else "black",
                )
            if place == len(rows) - 1:
                axes.bar(0, 0, color=colour, label=title)
            left += width
    axes.set_yticks(range(len(rows)), [f"{name} (sd of ln w {one.sd:.2g})" for name, one in reversed(rows)])
    axes.set_xlim(0, 100)
    axes.set_ylim(-0.5, len(rows) - 0.5)
    axes.set_xlabel("share of the variance of ln weight (%)")
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.4, 1.0))
    bare(axes)
    said = "; ".join(
        f"{name}: {wording.percent(one.level.value)} noise level, {wording.percent(one.clip.value)} clip"
        for name, one in rows
    )
    return ProbePicture(
        "variance",
        "Noise level or clip?",
        "A sample weighting whose variance lies between noise levels is a noise-level weighting in disguise; one that favours clips has "
        "it between clips.",
        f"Shares of the variance of ln weight: {said}.",
        _finish(figure, [axes], "", None),
    )


def labels_picture(grid: Grid, explanation: Explanation) -> ProbePicture | None:
    """Mean weight of each label's clips over the noise level."""
    groups = _label_groups(grid, explanation)
    if len(groups) < 2:
        return None
    weights = grid.by_level("sample_weight")
    figure, axes = _figure(7.0, 3.4)
    ends = []
    for index, (name, members) in enumerate(groups):
        mean = np.array([_mean(weights[members, k]) for k in range(len(grid.levels))])
        axes.plot(grid.levels, mean, color=SERIES[index], marker=MARKERS[index], markersize=4.5, linewidth=1.6)
        ends.append((name, float(mean[-1]), SERIES[index]))
    zero_based(axes)
    name_ends(axes, ends)
    axes.set_ylabel("mean sample weight")
    t_axes([axes])
    return ProbePicture(
        "labels",
        "Weight by label",
        "The mean weight of the clips of each label; the labels come from the manifest and are never shown to the weighting.",
        f"Mean sample weight over noise level for {', '.join(name for name, _ in groups)}.",
        _finish(figure, [axes], "", None),
    )


def auc_picture(explanation: Explanation) -> ProbePicture | None:
    """AUC by noise level with intervals, and the line of chance."""
    shown = [one for one in explanation.separations if any(auc.value is not None for _, auc in one.levels)][
        : _MOST_LINES - 1
    ]
    if not shown:
        return None
    figure, axes = _figure(7.0, 3.6)
    ends = []
    for index, one in enumerate(shown):
        t = np.array([level for level, _ in one.levels]) + 0.006 * (index - (len(shown) - 1) / 2)
        colour, marker = (
            SERIES[index + 1],
            MARKERS[index + 1],
        )  # the first is the positive label's in the other pictures
        estimates(axes, t, [auc for _, auc in one.levels], colour, marker, one.negative)
        last = [auc.value for _, auc in one.levels if auc.value is not None][-1]
        name = one.negative if one.label == "kind" else f"{one.label}: {one.positive} > {one.negative}"
        ends.append((name, float(last), colour))
    for height, name in ((0.5, "chance"), (TELLS_AUC, "told apart")):
        axes.axhline(height, color=GREY, linestyle="--", linewidth=1, zorder=0)
        axes.annotate(name, (0.995, height), xycoords=("axes fraction", "data"), xytext=(0, 2), textcoords="offset points",
                      fontsize=8, color=GREY, ha="right")  # fmt: skip
    lowest = min(
        auc.value if auc.low is None else auc.low for one in shown for _, auc in one.levels if auc.value is not None
    )
    axes.set_ylim(max(-0.02, min(0.38, lowest - 0.04)), 1.02)
    axes.set_ylabel("AUC of the weight")
    name_ends(axes, ends)
    t_axes([axes])
    against = (
        "developing clips weigh more than clips of that kind"
        if shown[0].label == "kind"
        else "the first label's clips weigh more"
    )
    return ProbePicture(
        "auc",
        "Does the weight tell the labels apart?",
        f"The chance that {against}; lines are 95% intervals over clips.",
        "AUC over noise level for " + ", ".join(one.negative for one in shown) + ".",
        _finish(figure, [axes], "", None),
    )


def belief_loss_picture(explanation: Explanation) -> ProbePicture | None:
    """Rank correlation of belief and loss by noise level."""
    found = explanation.belief_loss
    if found is None:
        return None
    figure, axes = _figure(7.0, 3.2)
    axes.axhline(0, color=GREY, linewidth=1)
    estimates(axes, [t for t, _ in found.levels], [one for _, one in found.levels], BLUE, "o", "")
    axes.set_ylim(-1, 1)
    axes.set_ylabel("rank correlation of belief with loss")
    for height, name, where in (
        (0.97, "low belief goes with low loss", "top"),
        (0.03, "low belief goes with high loss", "bottom"),
    ):
        axes.text(0.99, height, name, transform=axes.transAxes, ha="right", va=where, fontsize=8, color=GREY)
    t_axes([axes])
    said = "; ".join(f"{band} noise {wording.said(one)}" for band, one in found.bands.items())
    return ProbePicture(
        "belief_loss",
        "Does belief go with loss?",
        "The barrier paper's prediction 5: above the line at low noise, falling or crossing it at high noise. Lines are 95% intervals over "
        "clips.",
        f"Rank correlation of belief with loss over noise level: {said}.",
        _finish(figure, [axes], "", None),
    )


def gradients_picture(explanation: Explanation) -> ProbePicture | None:
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
    return ProbePicture(
        "gradients",
        "What is left of it in the optimiser",
        "How far the weighting turns and shrinks a step, before and after AdamW's normalisation; the grey bars are what chance does between "
        "plain batches.",
        "Angles: " + ", ".join(f"{name} {wording.degrees(value or 0.0)}" for name, value, _ in kept[0]) + ".",
        _finish(figure, list(axes), "", None),
    )


def gradient_levels_picture(explanation: Explanation) -> ProbePicture | None:
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
    return ProbePicture(
        "gradient_levels",
        "Gradients by noise level",
        "The size of the gradient of batches at a single noise level (part of the barrier paper's prediction 1).",
        "Norm of the plain and the weighted gradient over noise level.",
        _finish(figure, [axes], "", None),
    )


def _label_groups(grid: Grid, explanation: Explanation) -> list[tuple[str, np.ndarray]]:
    """(value, which clips) of the label that was judged; one group of all clips without one."""
    everything = np.ones(grid.n_clips, dtype=bool)
    if not explanation.separations:
        return [("all", everything)]
    texts = np.array([value or "" for value in grid.texts(LABEL + explanation.separations[0].label)])
    values = [explanation.separations[0].positive, *(one.negative for one in explanation.separations)]
    return [(value, texts == value) for value in values][:_MOST_LINES]


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else float("nan")
