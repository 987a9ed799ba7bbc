"""The probe's page: one self-contained `index.html` with the verdict on top, then pictures, numbers and the setup."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eisbach.diagnostics.probe.explain import ACTS_CV, Explanation
from eisbach.diagnostics.probe.grid import Estimate, number, percent, said, where
from eisbach.diagnostics.probe.levels import LevelSummary
from eisbach.diagnostics.probe.predictions import TELLS_AUC
from eisbach.diagnostics.probe.result import ProbeResult
from eisbach.diagnostics.probe.verdict import Verdict
from eisbach.files import write_text
from eisbach.report.figures import finish
from eisbach.report.fonts import DPI, new_figure
from eisbach.report.page import NumberTable, PagePicture, render_page, save_pictures

PAGE, PICTURES = "index.html", "pictures"


def write_probe_page(
    result: ProbeResult, explanation: Explanation, verdict: Verdict, folder: str | Path, *, command: str = ""
) -> Path:
    """Writes `folder/index.html` and `folder/pictures/*.png`, each atomically, and returns the page's path.

    Parameters
    ----------
    command : str
        The shell line that makes the page again.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written.
    """
    folder, setup = Path(folder), result.setup
    pictures = probe_pictures(explanation)
    save_pictures(pictures, folder / PICTURES)
    page = render_page(
        "probe.html.j2",
        title=f"What {weighting_name(setup)} would do",
        question="Which clips and which noise levels would this weighting favour on this model and this data, before "
        "anything is trained?",
        facts=_facts(explanation),
        headline=verdict.headline,
        findings=verdict.sentences,
        reason=verdict.recommendation.reason,
        yaml=verdict.recommendation.yaml,
        pictures=[picture.embedded(DPI) for picture in pictures],
        tables=number_tables(explanation),
        drawn=_drawn(setup),
        commands=[command] if command else [],
        setup=[
            (name.replace("_", " "), _shown(value))
            for name, value in setup.items()
            if name not in ("skipped", "levels")
        ],
        skipped=setup.get("skipped") or [],
    )
    write_text(folder / PAGE, page)
    return folder / PAGE


def weighting_name(setup: dict[str, Any]) -> str:
    """'the entropy barrier with min snr': the two axes' names in words."""
    names = [str(setup.get(axis, "none")).replace("_", " ") for axis in ("sample", "noise_level")]
    named = [name for name in names if name != "none"]
    if not named:
        return "no weighting"
    return "the " + " with ".join(named) if names[0] != "none" else named[0]


def _facts(explanation: Explanation) -> list[tuple[str, str]]:
    setup = explanation.setup
    facts = [("clips", str(explanation.clips)), ("noise levels", str(len(explanation.levels)))]
    if setup.get("draws"):
        facts.append(("draw of noise" if setup["draws"] == 1 else "draws of noise", str(setup["draws"])))
    if explanation.batches is not None:
        facts.append(("simulated batches", str(explanation.batches.batches)))
    if explanation.gradients is not None:
        facts.append(("compared gradients", str(explanation.gradients.batches)))
    return facts


def _drawn(setup: dict[str, Any]) -> str:
    seconds, size = setup.get("crop_seconds"), setup.get("batch_size")
    if seconds is None or size is None:
        return "Every clip was noised at the same levels."
    return (
        f"Every clip’s crop of {float(seconds):g} s was noised at the same levels; batches of "
        f"{int(size) * int(setup.get('accumulation') or 1)} and their noise levels were drawn as training draws them."
    )


def _shown(value: object) -> str:
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False) if value else "–"
    return "–" if value is None or value == "" else str(value)


def number_tables(explanation: Explanation) -> list[NumberTable]:
    """Everything that was found, as numbers with 95% intervals; tables without rows are left out."""
    link, gain = explanation.belief_loss, explanation.gain
    tables = [
        _level_table(explanation),
        _share_table(explanation),
        NumberTable(
            "Turned up by 6 dB",
            "Factor on a clip's weight, by experiment, through the codec and the model.",
            ["t", "factor"],
            [] if gain is None else [["all levels", said(gain.per_step)], *_by_level(gain.levels)],
        ),
        _auc_table(explanation),
        *_gradient_tables(explanation),
        NumberTable(
            "The barrier paper's predictions",
            "Confirmed or refuted only where an interval says so.",
            ["measure", "prediction", "value", "outcome"],
            [
                [name, f"{prediction.number}: {prediction.claim}", said(value), prediction.outcome]
                for prediction in explanation.predictions
                for name, value in prediction.measures
            ],
        ),
        NumberTable(
            "Belief and loss",
            "Rank correlation between clips; above 0, low belief goes with low loss, as prediction 5 has it.",
            ["t", "rank correlation"],
            [] if link is None else _by_level(link.levels),
        ),
    ]
    return [table for table in tables if table.rows]


def _share_table(explanation: Explanation) -> NumberTable:
    shares = (("as trained", explanation.variance), ("sample weight", explanation.sample_variance))
    return NumberTable(
        "Noise level or clip?",
        "Shares of the variance of ln weight. A sample weighting whose variance lies between noise levels is a "
        "noise-level weighting in disguise.",
        ["weight", "between noise levels", "between clips", "rest", "sd of ln weight"],
        [
            [name, *map(_percent, (parts.level, parts.clip, parts.remainder)), number(parts.sd, 3)]
            for name, parts in shares
            if parts is not None and parts.level.value is not None
        ],
    )


def _auc_table(explanation: Explanation) -> NumberTable:
    rows = [
        [f"{pair.label}: {pair.positive} > {pair.negative}", f"{pair.n_positive} / {pair.n_negative}",
         *(said(area) for _, area in pair.levels)]
        for pair in explanation.separations
    ]  # fmt: skip
    head = ["label", "clips", *(f"t = {level.t:g}" for level in explanation.levels)]
    return NumberTable(
        "AUC of the sample weight", "Chance that a clip of the first value weighs more; 0.5 is chance.", head, rows
    )


def _by_level(levels: Sequence[tuple[float, Estimate]]) -> list[list[str]]:
    return [[f"{t:g}", said(value)] for t, value in levels]


def _percent(share: Estimate) -> str:
    ends = "" if share.low is None or share.high is None else f" ({percent(share.low)} to {percent(share.high)})"
    return percent(share.value) + ends


def _level_table(explanation: Explanation) -> NumberTable:
    head = ["t", "log-SNR", "belief", "sample weight", "weight as trained", "variation, sample weight",
            "variation as trained", "effective samples", "loss"]  # fmt: skip
    rows = []
    for level in explanation.levels:
        means = {name: said(level.columns[name].mean, 3) for name in ("belief", "sample_weight", "weight", "loss")}
        rows.append(
            [f"{level.t:g}", number(level.log_snr, 1), means["belief"], means["sample_weight"], means["weight"],
             said(level.cv_sample_weight, 3), said(level.cv, 3), percent(level.ess_share), means["loss"]]
        )  # fmt: skip
    note = "Means over clips with 95% intervals; variation is sd over mean between clips."
    return NumberTable("By noise level", note, head, rows)


def _gradient_tables(explanation: Explanation) -> list[NumberTable]:
    gradients = explanation.gradients
    rows = [] if gradients is None or gradients.angle.value is None else [
        ["gradient", said(gradients.angle), said(gradients.norm_ratio, 3)],
        ["AdamW's update", said(gradients.update_angle), said(gradients.update_norm_ratio, 3)],
        ["plain gradients of two batches", said(gradients.between_batches_angle), "–"],
    ]  # fmt: skip
    levels = [
        [f"{row['t']:g}", *(number(row.get(f"{name}_norm"), 4) for name in ("plain", "weighted"))]
        for row in explanation.gradient_levels
    ]
    return [
        NumberTable(
            "What is left of it in the optimiser",
            "Weighted against plain, before and after AdamW's normalisation and the recipe's clipping; the last row is "
            "what chance does. Means over batches with 95% intervals.",
            ["between", "angle (degrees)", "size of weighted over plain"],
            rows,
        ),
        NumberTable(
            "By noise level: gradients",
            "Norms of the gradients of batches at a single noise level, means over batches.",
            ["t", "plain", "weighted"],
            levels,
        ),
    ]


# --- the pictures, over the noise level. Colours are Okabe and Ito's, which any colour vision tells apart; lines also
# differ in their markers.


_SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
_GREY = _SERIES[-1]
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_MOST_LINES = 6

Line = tuple[str, Sequence[float], Sequence[Estimate]]
"""A line's name ("" for none), its noise levels and its values."""


def probe_pictures(explanation: Explanation) -> list[PagePicture]:
    """Every picture that this probe has the numbers for, in the page's order."""
    auc = _auc(explanation)
    return [_levels(explanation), *([] if auc is None else [auc])]


def _panels(count: int, width: float, height: float) -> tuple[Any, list[Any]]:
    figure = new_figure(width, height)
    axes = list(figure.subplots(1, count, squeeze=False)[0])
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="0.92", linewidth=0.8)
        panel.set_axisbelow(True)
    return figure, axes


def _lines(axes: Any, lines: Sequence[Line], ylabel: str) -> None:
    """Lines over the noise level, with intervals where there are any, and a legend where there are names."""
    for index, (name, levels, values) in enumerate(lines):
        colour = _SERIES[index % len(_SERIES)]
        points = [(t, value) for t, value in zip(levels, values, strict=True) if value.value is not None]
        axes.plot(
            [t for t, _ in points], [value.value for _, value in points], color=colour,
            marker=_MARKERS[index % len(_MARKERS)], markersize=4.5, linewidth=1.5, label=name or None,
        )  # fmt: skip
        for t, value in points:
            if value.low is not None and value.high is not None:
                axes.plot([t, t], [value.low, value.high], color=colour, linewidth=1.1, alpha=0.7)
    if any(name for name, *_ in lines):
        for text in axes.legend(frameon=False, fontsize=8, loc="best").get_texts():
            text.set_parse_math(False)  # a label of the manifest may hold a dollar
    axes.set_xlabel("noise level t (1 = noise)")
    axes.set_ylabel(ylabel)
    axes.set_xlim(-0.02, 1.02)


def _rule(axes: Any, height: float, name: str) -> None:
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
    lower, upper = [spread.q10 for _, spread in spreads], [spread.q90 for _, spread in spreads]
    axes.fill_between(t, lower, upper, color=_SERIES[0], alpha=0.22, linewidth=0)
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
        return PagePicture("levels", title, caption, alt, finish(figure, axes))
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
    acting = where(explanation.acts_at, t) if explanation.acts_at else "at no noise level"
    return PagePicture(
        "levels",
        "Belief and weight by noise level",
        "Lines are medians over clips and bands hold the middle 80%; on the right, how much the weights of different "
        f"clips differ at one noise level (below the dashed line, {ACTS_CV:g}, they are nearly alike).",
        "Three panels over noise level: belief, sample weight, and its variation between clips. As trained, the "
        f"variation reaches {ACTS_CV:g} {acting}.",
        finish(figure, axes),
    )


def _auc(explanation: Explanation) -> PagePicture | None:
    pairs = [pair for pair in explanation.separations if any(area.value is not None for _, area in pair.levels)]
    if not pairs:
        return None
    lines: list[Line] = []
    for index, pair in enumerate(pairs[:_MOST_LINES]):
        shift = 0.006 * (index - (len(pairs) - 1) / 2)  # so that intervals lie beside one another
        lines.append((pair.negative, [t + shift for t, _ in pair.levels], [area for _, area in pair.levels]))
    figure, axes = _panels(1, 7.0, 3.6)
    _lines(axes[0], lines, "AUC of the weight")
    _rule(axes[0], 0.5, "chance")
    _rule(axes[0], TELLS_AUC, "told apart")
    axes[0].set_ylim(min(0.38, axes[0].get_ylim()[0]), 1.02)
    return PagePicture(
        "auc",
        "Does the weight tell the labels apart?",
        f"The chance that a clip of {pairs[0].label} '{pairs[0].positive}' weighs more than one of each other, with "
        "95% intervals over clips; labels come from the manifest and are never shown to the weighting.",
        f"AUC over noise level for {', '.join(pair.negative for pair in pairs)}.",
        finish(figure, axes),
    )
