"""Figures 2-4 and 7-12 of Elucidated Representation Diffusion, drawn from a toy run's arrays, and what all pictures of
the toy share: a grid of panels, colours by target and arm, and a finished PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from eisbach.report.allocation_figure import COLOURS, INK, LINE, SOFT
from eisbach.report.fonts import figure_png, new_figure
from eisbach.report.page import PagePicture

Figures = Mapping[str, Mapping[str, Tensor]]
DPI = 200
_TARGET_NAMES = {"eps": "ε", "x0": "x0", "v": "v", "u": "u"}
_PATH_NAMES = {"linear": "linear", "vp": "VP", "gvp": "GVP (cosine)", "edm": "EDM"}
_ARM_NAMES = {
    "constant": "constant",
    "min_snr": "Min-SNR",
    "p2": "P2",
    "erd": "ERD",
    "erd_corrected": "ERD, density corrected",
}
_CLUSTER_COLOURS = COLOURS[:4]
_CLUSTER_MARKERS = ("o", "^", "s", "D")
_GLOBAL, _PIECE, _FLOOR = COLOURS[1], COLOURS[2], "#1d1f24"
# The first two eigenvalues often coincide (two outputs): a wide pale line stays visible under a thin dashed one.
_MODES = (
    {"color": COLOURS[5], "linewidth": 3.2},
    {"color": COLOURS[0], "linewidth": 1.3, "linestyle": (0, (5, 1.6))},
    {"color": COLOURS[1], "linewidth": 1.3, "linestyle": (0, (6, 1.4, 1.2, 1.4))},
)


def paper_pictures(figures: Figures, targets: Sequence[str], bins: Sequence[float]) -> list[PagePicture]:
    """All pictures, in the paper's order.

    Parameters
    ----------
    figures : mapping of path to arrays
        `ToyRun.figures`.
    targets : sequence of str
        Order of the arrays' first axis.
    bins : sequence of float
        Edges of the piecewise models' bins.
    """
    first = next(iter(figures))
    only = {first: figures[first]}
    return [
        _loss_picture(only, targets, bins, "fig02-loss", "Figure 2: loss and Bayes floor", piecewise=False),
        _phase_picture(only, targets, "fig03-phase", "Figure 3: recoverable signal and Bayes noise"),
        _joint_picture(figures, targets),
        _loss_picture(
            figures, targets, bins, "fig07-loss", "Figure 7: loss and Bayes floor, global and piecewise models"
        ),
        _excess_picture(figures, targets),
        _phase_picture(figures, targets, "fig08-phase", "Figure 8: phase space"),
        *(_features_picture(figures[path], targets, path) for path in figures),
        _spectrum_picture(figures, targets),
        _rank_picture(figures, targets),
        *(_gram_picture(figures[path], targets, path) for path in figures),
    ]


def _grid(figures: Figures, targets: Sequence[str], **options: Any) -> tuple[Any, Any]:
    """Targets in rows and paths in columns; one path alone has its targets side by side."""
    return panels(1, len(targets), **options) if len(figures) == 1 else panels(len(targets), len(figures), **options)


def _cells(figures: Figures, targets: Sequence[str], axes: Any) -> list[tuple[Any, Mapping[str, Tensor], int]]:
    if len(figures) == 1:
        return [(axes[0, i], next(iter(figures.values())), i) for i in range(len(targets))]
    return [(axes[i, j], arrays, i) for j, arrays in enumerate(figures.values()) for i in range(len(targets))]


def _label(figures: Figures, targets: Sequence[str], axes: Any, x_label: str, y_label: str) -> None:
    if len(figures) == 1:
        titles(axes, [f"target {target_name(y)}" for y in targets], [path_name(next(iter(figures)))], x_label, y_label)
    else:
        titles(axes, [path_name(p) for p in figures], [f"target {target_name(y)}" for y in targets], x_label, y_label)


def _loss_picture(
    figures: Figures, targets: Sequence[str], bins: Sequence[float], name: str, title: str, *, piecewise: bool = True
) -> PagePicture:
    """Loss of global (and piecewise) models over t, on the exact floor."""
    figure, axes = _grid(figures, targets)
    for axis, arrays, i in _cells(figures, targets, axes):
        t = arrays["global/t"].numpy()
        floor = arrays["global/floor"][i].numpy()
        axis.fill_between(t, floor, arrays["global/loss"][i].numpy(), color=_GLOBAL, alpha=0.18, linewidth=0)
        axis.plot(t, arrays["global/loss"][i].numpy(), color=_GLOBAL, linewidth=1.4, label="global model")
        if piecewise and "piecewise/loss" in arrays:
            axis.plot(
                arrays["piecewise/t"].numpy(), arrays["piecewise/loss"][i].numpy(), color=_PIECE, linewidth=1.2,
                linestyle=(0, (4, 1.5)), label="piecewise models",
            )  # fmt: skip
            for edge in bins[1:-1]:
                axis.axvline(edge, color=SOFT, linewidth=0.4, linestyle=":")
        axis.plot(t, floor, color=_FLOOR, linewidth=1.0, linestyle=(0, (1.2, 1.2)), label="Bayes floor")
        axis.set_ylim(bottom=0)
    _label(figures, targets, axes, "noise level t", "loss a coordinate")
    axes[0, 0].legend(frameon=False, fontsize=7)
    return PagePicture(
        name,
        title,
        "The floor is exact; the loss is the floor plus the measured excess, and the shaded gap is that excess. "
        "See the next picture for the excess itself."
        if name.startswith("fig07")
        else "The dotted floor is exact; the shaded gap up to the loss is what training could still remove.",
        "Loss and Bayes floor over the noise level, a panel for each target"
        + (" and path." if len(figures) > 1 else "."),
        finish(figure),
    )


def _excess_picture(figures: Figures, targets: Sequence[str]) -> PagePicture:
    """The gaps of Figure 7 on a logarithmic axis, where they can be seen."""
    figure, axes = _grid(figures, targets)
    for axis, arrays, i in _cells(figures, targets, axes):
        axis.plot(arrays["global/t"].numpy(), arrays["global/excess"][i].numpy(), color=_GLOBAL, label="global model")
        if "piecewise/excess" in arrays:
            axis.plot(
                arrays["piecewise/t"].numpy(), arrays["piecewise/excess"][i].numpy(), color=_PIECE,
                linestyle=(0, (4, 1.5)), label="piecewise models",
            )  # fmt: skip
        log_axis(axis)
    _label(figures, targets, axes, "noise level t", "excess a coordinate")
    axes[0, 0].legend(frameon=False, fontsize=7)
    return PagePicture(
        "fig07b-excess", "Figure 7, the gap itself: excess over the Bayes floor",
        "Mean squared distance from the exact Bayes predictor, a coordinate, on a logarithmic axis.",
        "Excess over the noise level for global and piecewise models.", finish(figure),
    )  # fmt: skip


def _phase_picture(figures: Figures, targets: Sequence[str], name: str, title: str) -> PagePicture:
    """|E[y | x_t]| against |y - E[y | x_t]|: points are samples, the line their root mean squares."""
    figure, axes = _grid(figures, targets, height=2.3)
    image = None
    for axis, arrays, i in _cells(figures, targets, axes):
        t = arrays["phase/t"].numpy()
        many = arrays["phase/sample_signal"].shape[2]
        image = axis.scatter(
            arrays["phase/sample_signal"][i].flatten().numpy(), arrays["phase/sample_noise"][i].flatten().numpy(),
            c=np.repeat(t, many), cmap="viridis", s=3, alpha=0.35, linewidths=0, vmin=0, vmax=1, rasterized=True,
        )  # fmt: skip
        signal, noise = arrays["phase/signal"][i].numpy(), arrays["phase/noise"][i].numpy()
        axis.plot(signal, noise, color="black", linewidth=1.0)
        axis.scatter(
            signal[[0, -1]], noise[[0, -1]], c=t[[0, -1]], cmap="viridis", vmin=0, vmax=1, s=34, edgecolors="black",
            zorder=3,
        )  # fmt: skip
        end = max(axis.get_xlim()[1], axis.get_ylim()[1])
        axis.plot([0, end], [0, end], color=SOFT, linewidth=0.8, linestyle="--")
        axis.set_xlim(0, end)
        axis.set_ylim(0, end)
    _label(figures, targets, axes, "signal |E[y | x_t]|", "noise |y − E[y | x_t]|")
    colour_bar(figure, image, axes, "noise level t")
    return PagePicture(
        name,
        title,
        "Points are samples, the black line root mean squares, the ringed dots its ends. Above the dashed diagonal "
        "more than half of the target's energy is noise that no network can predict.",
        "Phase space of recoverable and irreducible norms over the noise level.",
        finish(figure),
    )


def _features_picture(arrays: Mapping[str, Tensor], targets: Sequence[str], path: str) -> PagePicture:
    """Hidden features at four noise levels in the PCA plane of the first."""
    levels = arrays["features/t"].tolist()
    figure, axes = panels(len(targets), len(levels), width=2.1, height=2.0)
    component = arrays["features/component"].numpy()
    for i in range(len(targets)):
        points = arrays["features/projection"][i].numpy()
        reach = 1.1 * np.abs(points).max()
        for j in range(len(levels)):
            for k in range(component.max() + 1):
                x, y = points[j, component == k].T
                axes[i, j].scatter(
                    x, y, color=_CLUSTER_COLOURS[k], marker=_CLUSTER_MARKERS[k], s=7, linewidths=0, alpha=0.7
                )
            axes[i, j].set_xlim(-reach, reach)
            axes[i, j].set_ylim(-reach, reach)
            share = float(arrays["features/separation"][i, j])
            axes[i, j].annotate(
                f"between {share:.2f}", (0.03, 0.04), xycoords="axes fraction", fontsize=7, zorder=5,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0},
            )  # fmt: skip
    titles(
        axes,
        [f"t = {t:g}" for t in levels],
        [f"target {target_name(y)}" for y in targets],
        f"PC 1 of t = {levels[0]:g}",
        f"PC 2 of t = {levels[0]:g}",
    )
    return PagePicture(
        f"fig09-features-{path}",
        f"Figure 9: last hidden layer, {path_name(path)} path",
        "Colours and marks are clusters, in the plane of the first two principal axes at t = 0.1; all panels of a row "
        "share their scale. 'Between' is the share of the features' variance that lies between clusters.",
        "Hidden features at four noise levels for each target.",
        finish(figure),
    )


def _spectrum_picture(figures: Figures, targets: Sequence[str]) -> PagePicture:
    """Top-3 eigenvalues over t, with the untrained network's as a control."""
    figure, axes = _grid(figures, targets)
    for axis, arrays, i in _cells(figures, targets, axes):
        t = arrays["ntk/t"].numpy()
        for mode, line in enumerate(_MODES):
            axis.plot(t, arrays["ntk/top"][i][:, mode].numpy(), label=f"κ{mode + 1}", **line)
            axis.plot(
                t, arrays["ntk_untrained/top"][0][:, mode].numpy(), color=SOFT, linewidth=0.9, linestyle=(0, (1.2,
                1.4)),
                label="untrained" if mode == 0 else None,
            )  # fmt: skip
        log_axis(axis)
    _label(figures, targets, axes, "noise level t", "eigenvalue / samples")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: labels[i] == "untrained")
    figure.legend(
        [handles[i] for i in order], [labels[i] for i in order],
        loc="outside lower center", ncols=len(order), frameon=False, fontsize=8,
    )  # fmt: skip
    return PagePicture(
        "fig10-spectrum",
        "Figure 10: the three largest NTK eigenvalues",
        "Of the full kernel (samples x outputs) divided by the number of samples. κ1 and κ2 coincide where the "
        "two outputs are alike. Dotted, from the top, κ1 and κ2 together and κ3 of the same network before training, "
        "which has seen no target.",
        "Top-3 NTK eigenvalues over the noise level.",
        finish(figure),
    )


def _rank_picture(figures: Figures, targets: Sequence[str]) -> PagePicture:
    """Entropy-based effective rank over t."""
    figure, axes = _grid(figures, targets)
    for axis, arrays, i in _cells(figures, targets, axes):
        t = arrays["ntk/t"].numpy()
        axis.plot(t, arrays["ntk/rank"][i].numpy(), color=COLOURS[0], label="trained")
        axis.plot(t, arrays["ntk_untrained/rank"][0].numpy(), color=SOFT, linestyle=(0, (1.2, 1.4)), label="untrained")
        axis.set_ylim(bottom=0)
    _label(figures, targets, axes, "noise level t", "effective rank")
    axes[0, 0].legend(frameon=False, fontsize=7)
    return PagePicture(
        "fig11-rank",
        "Figure 11: effective rank of the NTK",
        "exp of the Shannon entropy of the eigenvalues' shares: 1 would be a single mode. Two outputs that are not "
        "told apart make 2.",
        "Effective rank over the noise level.",
        finish(figure),
    )


def _gram_picture(arrays: Mapping[str, Tensor], targets: Sequence[str], path: str) -> PagePicture:
    """Cosines between samples' gradients at low and high noise, sorted by cluster."""
    figure, axes = panels(2, len(targets), width=2.1, height=2.1, images=True)
    image = None
    # Cosines are rarely negative: the scale starts where they do, and its lightness rises throughout.
    lowest = min(0.0, float(arrays["ntk/gram"].min()))
    for i in range(len(targets)):
        for j in range(2):
            axis = axes[j, i]
            image = axis.imshow(
                arrays["ntk/gram"][i, j].numpy(), cmap="cividis", vmin=lowest, vmax=1, interpolation="nearest"
            )
            axis.grid(visible=False)
            axis.set_xticks([])
            axis.set_yticks([])
    titles(axes, [f"target {target_name(y)}" for y in targets], ["t = 0.05", "t = 0.95"], "samples by cluster")
    colour_bar(figure, image, axes, "cosine")
    return PagePicture(
        f"fig12-gram-{path}",
        f"Figure 12: normalised NTK Gram matrices, {path_name(path)} path",
        "Samples sorted by cluster, the same ones at both noise levels; blocks on the diagonal are clusters whose "
        "gradients agree.",
        "Gram matrices at t = 0.05 and t = 0.95 for each target.",
        finish(figure),
    )


def _joint_picture(figures: Figures, targets: Sequence[str]) -> PagePicture:
    """Figure 4a: the kernel between noise levels, normalised."""
    figure, axes = panels(len(figures), len(targets), width=2.1, height=2.1, images=True)
    image = None
    for j, arrays in enumerate(figures.values()):
        for i in range(len(targets)):
            axis = axes[j, i]
            image = axis.imshow(
                arrays["ntk/joint"][i].numpy(), cmap="magma", vmin=0, vmax=1, origin="lower", extent=(0, 1, 0, 1),
                interpolation="nearest",
            )  # fmt: skip
            axis.grid(visible=False)
    titles(
        axes,
        [f"target {target_name(y)}" for y in targets],
        [path_name(p) for p in figures],
        "noise level t",
        "noise level t′",
    )
    colour_bar(figure, image, axes, "|Θ(t, t′)| normalised")
    return PagePicture(
        "fig04-joint",
        "Figure 4: joint NTK over noise levels",
        "Size of the kernel between two noise levels over the geometric mean of their own: 1 says that a step at one "
        "level moves the other as much as itself. The spectra of Figure 4b are those of Figure 10.",
        "Joint NTK heat maps.",
        finish(figure),
    )


def panels(
    rows: int, columns: int, width: float = 2.6, height: float = 2.0, *, images: bool = False, **options: Any
) -> tuple[Any, Any]:
    """(figure, axes of shape (rows, columns)), without any global state of matplotlib; `images` closes up square
    panels."""
    layout = "compressed" if images else "constrained"
    figure = new_figure(width * columns + 0.4, height * rows + 0.5, layout=layout)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(SOFT)
        axis.tick_params(which="both", colors=SOFT, labelsize=7, labelcolor=INK)
        axis.grid(color=LINE, linewidth=0.5)
        axis.set_axisbelow(True)
    return figure, axes


def titles(axes: Any, columns: Sequence[str], rows: Sequence[str], x_label: str, y_label: str = "") -> None:
    """Column names on top, row names and the y axis at the left, the x axis at the bottom."""
    for axis, name in zip(axes[0], columns, strict=True):
        axis.set_title(name, fontsize=9, color=INK)
    for row, name in zip(axes, rows, strict=True):
        row[0].set_ylabel(f"{name}\n{y_label}" if y_label else name, fontsize=8, color=INK)
    for axis in axes[-1]:
        axis.set_xlabel(x_label, fontsize=8, color=INK)


def log_axis(axis: Any) -> None:
    """A logarithmic y axis with plain numbers, and with 2 and 5 between the powers of ten where there are few of
    these."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 100 * low else (1.0,)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def colour_bar(figure: Any, image: Any, axes: Any, label: str) -> None:
    """A colour bar beside all panels, in the panels' sizes of text, opaque where the marks are not."""
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=28, pad=0.015)
    bar.set_label(label, fontsize=8, color=INK)
    bar.ax.tick_params(labelsize=7, colors=SOFT, labelcolor=INK)
    bar.solids.set_alpha(1.0)


def finish(figure: Any) -> bytes:
    """The PNG, with 256 colours."""
    return figure_png(figure, dpi=DPI, colours=256)


def path_name(path: str) -> str:
    """A path as a person reads it."""
    return _PATH_NAMES.get(path, path)


def target_name(target: str) -> str:
    """A target as a person reads it."""
    return _TARGET_NAMES.get(target, target)


def arm_name(arm: str) -> str:
    """A weighting as a person reads it."""
    return _ARM_NAMES.get(arm, arm.replace("_", " "))
