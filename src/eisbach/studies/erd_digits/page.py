"""The page of the digits experiment, one self-contained `index.html` with the answer on top, and its pictures: quality
over steps, differences with intervals, and the digits that the models drew."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.files import read_json, read_jsonl, write_text
from eisbach.report.fonts import figure_png, new_figure
from eisbach.report.page import NumberTable, PagePicture, render_page
from eisbach.studies.erd_digits.spec import DigitsConfig
from eisbach.studies.erd_toy.figures import log_axis, target_name
from eisbach.types import Record

_ALPHA = 0.05


def write_digits_page(
    config: DigitsConfig, records: Sequence[Record], summary: Mapping[str, Any], *, command: str = ""
) -> Path:
    """Writes `index.html` into the experiment's folder and returns its path.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written.
    """
    page = render_page(
        "digits.html.j2",
        title="Loss weights on digits",
        question="Does recoverability weighting give better digits than constant, Min-SNR and P2 weights, at equal "
        "steps?",
        facts=[
            ("trainings", len({(r["backbone"], r["target"], r["arm"], r["seed"]) for r in records})),
            ("training seeds", f"{config.first_seed} to {config.first_seed + config.seeds - 1}"),
            ("classifier's accuracy", f"{summary['classifier_accuracy']:.1%}"),
            ("distance of real digits", f"{summary['floor']['frechet']:.2f}"),
        ],
        sentences=sentences(summary),
        pictures=_pictures(config, records, summary),
        tables=[_comparison_table(summary), _means_table(summary)],
        declared=list(summary["declared"].items()),
        command=command,
    )
    path = Path(config.out) / "index.html"
    write_text(path, page)
    return path


def write_page(settings: DigitsConfig, out: Path, command: str) -> Path:
    """The page of a finished run."""
    records = read_jsonl(out / "records.jsonl", "records")
    summary = read_json(out / "summary.json", "summary")
    return write_digits_page(settings.model_copy(update={"out": str(out)}), records, summary, command=command)


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """The pooled comparisons in words: how much, with which interval, and whether that is anything."""
    lines = []
    for comparison in summary["comparisons"]:
        entry, names = comparison["log_frechet"], (LABELS[comparison["arm"]], LABELS[comparison["baseline"]])
        if entry["mean"] is None:
            continue
        change = f"{_percent(entry['mean'])} in Fréchet distance"
        if entry["interval"] is None:
            lines.append(f"{names[0]} against {names[1]}: {change} in the one setting there is; no interval.")
            continue
        low, high = entry["interval"]
        p = entry.get("p_holm", entry["p"])
        # An interval that leaves out 0 is not enough where three baselines were tried.
        unclear = low <= 0 <= high or entry.get("p_holm", entry["p"]) >= _ALPHA
        verdict = "no clear difference" if unclear else "better" if high < 0 else "worse"
        lines.append(
            f"{names[0]} against {names[1]}: {verdict}. {change} (95% interval {_percent(low)} to {_percent(high)}, "
            f"lower in {entry['lower_in']} of {entry['settings']} settings, p = "
            f"{p:.3f}{' after Holm' if 'p_holm' in entry else ''})."
        )
    return lines or ["Nothing can be compared: a baseline and another arm are needed."]


def _percent(difference: float) -> str:
    """A difference of logarithms as a change in per cent."""
    import math

    return f"{100 * math.expm1(difference):+.0f}%".replace("-", "−")


def _pictures(config: DigitsConfig, records: Sequence[Record], summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    made = [
        PagePicture(
            "quality",
            "Quality over steps",
            "Fréchet distance to held-out digits (features of the classifier, averaged weights; lower is better); "
            "thin lines are seeds, "
            "thick ones their geometric mean, the dotted line real digits. Both axes of a row are shared.",
            "Fréchet distance over training steps for every network, target and weighting.",
            curves_picture(records, float(summary["floor"]["frechet"])),
        )
    ]
    if summary["comparisons"]:
        made.append(
            PagePicture(
                "differences",
                "Which weighting is better, setting by setting",
                "Fréchet distance at the last checkpoint over the baseline's: left of the line the first arm is "
                "better. Dots are means over seeds with 95% t intervals, the diamond is the mean over settings; an "
                "interval across the line shows no difference.",
                "; ".join(sentences(summary)),
                _differences_picture(summary),
            )
        )
    arms = [arm for arm in LABELS if any(row["arm"] == arm for row in records)]
    for backbone in config.backbones:
        png = samples_picture(config.out, backbone, arms, list(config.targets), config.first_seed)
        if png is not None:
            name = BACKBONES.get(backbone, backbone)
            made.append(
                PagePicture(
                    f"digits-{backbone}",
                    f"Digits of the {name}",
                    f"0 to 9, twice; seed {config.first_seed}, last checkpoint, the same noise in every arm; columns "
                    "are targets.",
                    f"Digits that the {name} drew, by weighting and target.",
                    png,
                )
            )
    return [picture.embedded(DPI) for picture in made]


def _comparison_table(summary: Mapping[str, Any]) -> NumberTable:
    rows = []
    for comparison in summary["comparisons"]:
        names = f"{LABELS[comparison['arm']]} − {LABELS[comparison['baseline']]}"
        entries = [("all settings", comparison["log_frechet"]), *comparison["by_setting"].items()]
        for setting, entry in entries:
            interval = entry["interval"]
            rows.append(
                [
                    f"{names}, {setting_name(setting)}",
                    "–" if entry["mean"] is None else f"{entry['mean']:+.3f}",
                    "–" if interval is None else f"{interval[0]:+.3f} to {interval[1]:+.3f}",
                    "–" if entry["p"] is None else f"{entry['p']:.3f}",
                    f"{entry['p_holm']:.3f}" if "p_holm" in entry else "–",
                ]
            )
    return NumberTable(
        "Differences of ln Fréchet distance",
        "Below 0: the first is better.",
        ["comparison", "mean", "95% interval", "p", "p (Holm)"],
        rows,
    )


def _means_table(summary: Mapping[str, Any]) -> NumberTable:
    rows = []
    for entry in summary["means"]:
        setting = setting_name(f"{entry['backbone']}/{entry['target']}")
        cells = [f"{setting}, {LABELS[entry['arm']]}"]
        for metric, digits in (
            ("frechet", 2),
            ("accuracy", 3),
            ("precision", 3),
            ("recall", 3),
            ("inception_score", 2),
        ):
            spread = entry[f"{metric}_sd"]
            cells.append(f"{entry[metric]:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}"))
        rows.append(cells)
    return NumberTable(
        "Means at the last checkpoint",
        "± standard deviation over seeds.",
        ["setting and arm", "Fréchet distance", "class seen", "precision", "recall", "IS"],
        rows,
    )


COLOURS = {"constant": "#555555", "min_snr": "#0072b2", "p2": "#e69f00", "erd": "#d55e00", "entropy_barrier": "#009e73"}
LABELS = {
    "constant": "constant",
    "min_snr": "Min-SNR",
    "p2": "P2",
    "erd": "ERD",
    "entropy_barrier": "entropy barrier",
}
_STYLES = {
    "constant": ("-", "o"),
    "min_snr": ((0, (5, 1.6)), "s"),
    "p2": ((0, (1.2, 1.2)), "^"),
    "erd": ("-", "D"),
    "entropy_barrier": ((0, (6, 1.4, 1.2, 1.4)), "v"),
}
"""Line and mark of each arm, for those who do not see its colour."""
DPI = 200
BACKBONES = {"unet": "UNet", "dit": "DiT", "uvit": "U-ViT"}


def setting_name(setting: str) -> str:
    """'unet/eps' as a person reads it: 'UNet, ε'."""
    backbone, _, target = setting.partition("/")
    return ", ".join(part for part in (BACKBONES.get(backbone, backbone), target_name(target)) if part)


_POOLED = "all settings"
_RATIOS = (0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0, 10.0, 20.0)


def curves_picture(records: Sequence[Record], floor: float) -> bytes:
    """PNG: Fréchet distance over steps, a panel a setting (rows backbones, columns targets), thin lines seeds, thick
    their mean."""
    backbones = list(dict.fromkeys(str(row["backbone"]) for row in records))
    targets = list(dict.fromkeys(str(row["target"]) for row in records))
    figure = new_figure(2.6 * len(targets) + 0.6, 2.0 * len(backbones) + 0.5)
    grid = figure.subplots(len(backbones), len(targets), squeeze=False, sharex="row", sharey="row")
    for i, backbone in enumerate(backbones):
        for j, target in enumerate(targets):
            axes = grid[i][j]
            rows = [row for row in records if row["backbone"] == backbone and row["target"] == target]
            for arm, label in LABELS.items():
                mine = [row for row in rows if row["arm"] == arm]
                if mine:
                    _lines(axes, mine, arm, label)
            axes.axhline(floor, color="#444444", lw=0.9, ls=":", label="real digits" if i == j == 0 else None)
            log_axis(axes)
            axes.set_title(setting_name(f"{backbone}/{target}"), fontsize=9)
            axes.tick_params(labelsize=7)
            if j == 0:
                axes.set_ylabel("Fréchet distance", fontsize=8)
            if i == len(backbones) - 1:
                axes.set_xlabel("training steps", fontsize=8)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8, frameon=False)
    return figure_png(figure, dpi=DPI)


def _lines(axes: Any, rows: Sequence[Record], arm: str, label: str) -> None:
    colour, (line_style, mark) = COLOURS[arm], _STYLES[arm]
    by_step: dict[int, list[float]] = {}
    for seed in sorted({int(row["seed"] or 0) for row in rows}):
        line = sorted((int(row["step"] or 0), float(row["frechet"] or 0)) for row in rows if row["seed"] == seed)
        axes.plot(*zip(*line, strict=True), color=colour, lw=0.6, alpha=0.4)
        for step, value in line:
            by_step.setdefault(step, []).append(value)
    steps = sorted(by_step)
    means = [float(np.exp(np.mean(np.log(by_step[step])))) for step in steps]
    axes.plot(steps, means, color=colour, lw=1.6, linestyle=line_style, marker=mark, ms=4, label=label)


def _differences_picture(summary: Mapping[str, Any]) -> bytes:
    """PNG: Fréchet distance, arm over baseline, in every setting (95% t interval over seeds) and pooled over
    settings."""
    comparisons = summary["comparisons"]
    # one row a setting in every panel: an arm that was trained in some settings only leaves the others empty
    rows = [*dict.fromkeys(setting for comparison in comparisons for setting in comparison["by_setting"]), _POOLED]
    figure = new_figure(2.3 * len(comparisons) + 1.1, 0.28 * len(rows) + 1.1)
    panels = figure.subplots(1, len(comparisons), squeeze=False, sharey=True, sharex=True)[0]
    for axes, comparison in zip(panels, comparisons, strict=True):
        axes.set_xscale("log")
        for name, entry in {**comparison["by_setting"], _POOLED: comparison["log_frechet"]}.items():
            if entry["mean"] is None:
                continue
            place, bold = rows.index(name), name == _POOLED
            colour = COLOURS[comparison["arm"]]
            if entry["interval"] is not None:
                axes.plot(np.exp(entry["interval"]), [place, place], color=colour, lw=2.6 if bold else 1.2)
            axes.plot([np.exp(entry["mean"])], [place], "D" if bold else "o", color=colour, ms=6 if bold else 4)
        axes.axvline(1, color="#444444", lw=0.8)
        axes.axhline(len(rows) - 1.5, color="#bbbbbb", lw=0.6)
        axes.set_yticks(
            range(len(rows)), [name if name == _POOLED else setting_name(name) for name in rows], fontsize=8
        )
        axes.set_title(f"{LABELS[comparison['arm']]} / {LABELS[comparison['baseline']]}", fontsize=9)
        axes.tick_params(axis="x", labelsize=7)
        axes.grid(axis="x", color="#e4e4e4", lw=0.6)
        axes.set_axisbelow(True)
    ticks = [tick for tick in _RATIOS if panels[0].get_xlim()[0] <= tick <= panels[0].get_xlim()[1]]
    panels[0].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    panels[0].set_xticks([], minor=True)
    panels[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.supxlabel("ratio of Fréchet distances (below 1: lower, better)", fontsize=8)
    return figure_png(figure, dpi=DPI)


def samples_picture(
    folder: str | Path, backbone: str, arms: Sequence[str], targets: Sequence[str], seed: int = 0
) -> bytes | None:
    """PNG: the first 20 digits that each arm (rows) and target (columns) drew with one backbone and seed; None where
    there are none."""
    root = Path(folder) / "cells"
    shown = {
        (arm, target): root / f"{backbone}-{target}-{arm}-{seed}" / "samples.npy" for arm in arms for target in targets
    }
    # an arm that was not trained with this backbone has no row
    arms = [arm for arm in arms if any(shown[arm, target].is_file() for target in targets)]
    if not arms:
        return None
    figure = new_figure(2.5 * len(targets) + 0.9, 0.6 * len(arms) + 0.4)
    grid = figure.subplots(len(arms), len(targets), squeeze=False)
    for i, j in itertools.product(range(len(arms)), range(len(targets))):
        arm, target = arms[i], targets[j]
        path = shown[arm, target]
        axes = grid[i][j]
        axes.set_xticks([])
        axes.set_yticks([])
        if path.is_file():
            axes.imshow(tile(np.load(path, allow_pickle=False)[:20, ..., 0], 10), cmap="gray_r", vmin=0, vmax=255)
        if i == 0:
            axes.set_title(target_name(target), fontsize=9)
        if j == 0:
            axes.set_ylabel(LABELS[arm], fontsize=8, rotation=0, ha="right", va="center")
    return figure_png(figure, dpi=DPI)


def tile(images: np.ndarray, columns: int) -> np.ndarray:
    """Images [shape=(N, H, W)] side by side in rows of `columns`, one black pixel apart."""
    count, height, width = images.shape
    rows = -(-count // columns)
    canvas = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1), dtype=images.dtype)
    for number, image in enumerate(images):
        top, left = number // columns * (height + 1), number % columns * (width + 1)
        canvas[top : top + height, left : left + width] = image
    return canvas
