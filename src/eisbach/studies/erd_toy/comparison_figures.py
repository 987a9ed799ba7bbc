"""Pictures of the weightings' comparison: ratios with intervals, and excess over the noise level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from eisbach.report.allocation_figure import COLOURS, INK, SOFT, STYLES
from eisbach.report.page import PagePicture
from eisbach.studies.erd_toy.axes import arm_name, finish, log_axis, panels, path_name, target_name, titles
from eisbach.studies.erd_toy.comparison import PRIMARY, Ratio

MEASURE_NAMES = {
    "excess": "excess over the Bayes floor",
    "likelihood_gap": "likelihood gap",
    "sliced_wasserstein": "sliced Wasserstein distance",
    "coverage_error": "coverage error",
    "outliers": "outliers",
}
_MARKERS = ("o", "s", "^", "D", "v")
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
_FILLED = ("lower", "higher")


def ratios_picture(found: Sequence[Ratio], arm: str) -> PagePicture:
    """A panel for each primary measure, a row for each path and target, a mark for each baseline."""
    chosen = [one for one in found if one.arm == arm and one.measure in PRIMARY]
    cells = list(dict.fromkeys((one.path, one.target) for one in chosen))
    baselines = list(dict.fromkeys(one.baseline for one in chosen))
    measures = [name for name in PRIMARY if any(one.measure == name for one in chosen)]
    figure, axes = panels(1, len(measures), width=3.4, height=0.42 * len(cells) + 0.6, sharey=True)
    for axis, measure in zip(axes[0], measures, strict=True):
        for one in chosen:
            if one.measure != measure or one.outcome == "identical" or not one.ratio > 0:
                continue
            place = len(cells) - 1 - cells.index((one.path, one.target))
            index = baselines.index(one.baseline)
            y = place + 0.25 * ((len(baselines) - 1) / 2 - index)
            colour = COLOURS[index]
            if one.interval is not None:
                axis.plot(one.interval, [y, y], color=colour, linewidth=1.2)
            axis.plot(
                one.ratio, y, marker=_MARKERS[index % len(_MARKERS)], color=colour, markersize=4.5, linestyle="none",
                markerfacecolor=colour if one.outcome in _FILLED else "white",
            )  # fmt: skip
        axis.axvline(1, color=INK, linewidth=0.8)
        axis.set_xscale("log")
        shown = [tick for tick in _TICKS if axis.get_xlim()[0] <= tick <= axis.get_xlim()[1]]
        axis.set_xticks(shown, [f"{tick:g}" for tick in shown])
        axis.set_xticks([], minor=True)
        axis.set_title(MEASURE_NAMES[measure], fontsize=9, color=INK)
        axis.set_xlabel("ratio to the baseline (below 1: lower, better)", fontsize=8)
    axes[0, 0].set_yticks(range(len(cells)), [f"{path_name(p)}, {target_name(y)}" for p, y in reversed(cells)])
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=COLOURS[i],
            marker=_MARKERS[i % len(_MARKERS)],
            markersize=4.5,
            label=f"against {arm_name(name)}",
        )
        for i, name in enumerate(baselines)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)
    return PagePicture(
        f"comparison-{arm}",
        f"{arm_name(arm)} against the baselines, at equal steps",
        "Ratio of geometric means over training seeds with its 95% t interval; filled where the sign-flip test after "
        "Holm's correction "
        "is below 0.05. No mark: the two weights are the same function there.",
        "Ratios by path, target and baseline.",
        finish(figure),
    )


def curves_picture(
    curves: Mapping[tuple[str, str, str], Tensor], t: Tensor, paths: Sequence[str], targets: Sequence[str]
) -> PagePicture:
    """Excess over t of every arm, geometric mean over seeds."""
    arms = list(dict.fromkeys(arm for _, _, arm in curves))
    figure, axes = panels(len(targets), len(paths))
    for j, path in enumerate(paths):
        for i, target in enumerate(targets):
            for index, arm in enumerate(arms):
                mean = curves[path, target, arm].clamp(min=1e-12).log().mean(dim=0).exp()
                axes[i, j].plot(
                    t.numpy(), mean.numpy(), color=COLOURS[index], linestyle=STYLES[index % len(STYLES)], linewidth=1.2,
                    label=arm_name(arm),
                )  # fmt: skip
            log_axis(axes[i, j])
    titles(
        axes, [path_name(p) for p in paths], [f"target {target_name(y)}" for y in targets], "noise level t", "excess"
    )
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(arms), frameon=False, fontsize=8, labelcolor=SOFT
    )
    return PagePicture(
        "comparison-curves",
        "Where each weighting leaves error",
        "Excess over the Bayes floor a coordinate, geometric mean over training seeds, unweighted: what a weighting "
        "gains at some noise "
        "levels it pays for at others.",
        "Excess over the noise level for each weighting.",
        finish(figure),
    )
