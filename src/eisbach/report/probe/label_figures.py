"""Pictures of a probe by label and by loss: whose clips weigh more, how surely labels are told apart, and what belief goes with."""

from __future__ import annotations

import numpy as np

from eisbach.diagnostics.probe import wording
from eisbach.diagnostics.probe.agreement import LABEL
from eisbach.diagnostics.probe.explain import Explanation
from eisbach.diagnostics.probe.findings import TELLS_AUC
from eisbach.diagnostics.probe.grid import Grid
from eisbach.report.figures import _figure, _finish
from eisbach.report.page import PagePicture
from eisbach.report.probe.axes import BLUE, GREY, MARKERS, SERIES, estimates, name_ends, t_axes, zero_based

_MOST_LINES = 7


def labels_picture(grid: Grid, explanation: Explanation) -> PagePicture | None:
    """Mean weight of each label's clips over the noise level."""
    groups = label_groups(grid, explanation)
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
    return PagePicture(
        "labels",
        "Weight by label",
        "The mean weight of the clips of each label; the labels come from the manifest and are never shown to the weighting.",
        f"Mean sample weight over noise level for {', '.join(name for name, _ in groups)}.",
        _finish(figure, [axes], "", None),
    )


def auc_picture(explanation: Explanation) -> PagePicture | None:
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
    return PagePicture(
        "auc",
        "Does the weight tell the labels apart?",
        f"The chance that {against}; lines are 95% intervals over clips.",
        "AUC over noise level for " + ", ".join(one.negative for one in shown) + ".",
        _finish(figure, [axes], "", None),
    )


def belief_loss_picture(explanation: Explanation) -> PagePicture | None:
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
    return PagePicture(
        "belief_loss",
        "Does belief go with loss?",
        "The barrier paper's prediction 5: above the line at low noise, falling or crossing it at high noise. Lines are 95% intervals over "
        "clips.",
        f"Rank correlation of belief with loss over noise level: {said}.",
        _finish(figure, [axes], "", None),
    )


def label_groups(grid: Grid, explanation: Explanation) -> list[tuple[str, np.ndarray]]:
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
