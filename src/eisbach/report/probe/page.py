"""The probe's page: one self-contained `index.html` with the verdict on top, then pictures, numbers and the setup."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eisbach.diagnostics.probe import intervals
from eisbach.diagnostics.probe.explain import Explanation
from eisbach.diagnostics.probe.intervals import Estimate
from eisbach.diagnostics.probe.result import ProbeResult
from eisbach.diagnostics.probe.verdict import Verdict
from eisbach.files import write_text
from eisbach.report.figures import DPI
from eisbach.report.page import NumberTable, PagePicture, render_page, save_pictures
from eisbach.report.probe.figures import probe_pictures

PAGE, PICTURES = "index.html", "pictures"


def write_probe_page(
    result: ProbeResult,
    explanation: Explanation,
    verdict: Verdict,
    folder: str | Path,
    *,
    command: str = "",
    title: str = "",
) -> Path:
    """Writes `folder/index.html` and `folder/pictures/*.png`, each atomically, and returns the page's path.

    Parameters
    ----------
    command : str
        The shell line that makes the page again.
    title : str
        Heading; by default the name of the weighting.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written.
    """
    folder = Path(folder)
    pictures = probe_pictures(result, explanation)
    save_pictures(pictures, folder / PICTURES)
    write_text(folder / PAGE, render_probe_page(result, explanation, verdict, pictures, command=command, title=title))
    return folder / PAGE


def render_probe_page(
    result: ProbeResult,
    explanation: Explanation,
    verdict: Verdict,
    pictures: Sequence[PagePicture],
    *,
    command: str = "",
    title: str = "",
) -> str:
    """The page as text."""
    setup = result.setup
    return render_page(
        "probe.html.j2",
        title=title or f"What {weighting_name(setup)} would do",
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
        f"{int(size) * int(setup.get('accumulation') or 1)} "
        "and their noise levels were drawn as training draws them."
    )


def _shown(value: object) -> str:
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False) if value else "–"
    return "–" if value is None or value == "" else str(value)


def number_tables(explanation: Explanation) -> list[NumberTable]:
    """Everything that the page's pictures show, as numbers; tables without rows are left out."""
    link, gain = explanation.belief_loss, explanation.gain
    tables = [
        _levels(explanation),
        NumberTable(
            "Turned up by 6 dB",
            "Factor on a clip's weight, by experiment, through the codec and the model.",
            ["t", "factor"],
            [] if gain is None else [["all levels", _cell(gain.per_step)], *_by_level(gain.levels)],
        ),
        NumberTable(
            "What goes with the weight",
            "Rank correlation between clips, within noise levels. It is only watched: something else may go with it.",
            ["measured", "clips", "rank correlation"],
            [
                [intervals.column_name(row.column), str(row.clips), _cell(row.spearman)]
                for row in explanation.correlations
            ],
        ),
        NumberTable(
            "AUC of the sample weight",
            "Chance that a clip of the first value weighs more; 0.5 is chance.",
            ["label", "clips", *(f"t = {level.t:g}" for level in explanation.levels)],
            [
                [
                    f"{pair.label}: {pair.positive} > {pair.negative}",
                    f"{pair.n_positive} / {pair.n_negative}",
                    *(_cell(area) for _, area in pair.levels),
                ]
                for pair in explanation.separations
            ],
        ),
        NumberTable(
            "Belief and loss",
            "Rank correlation between clips; above 0, low belief goes with low loss.",
            ["t", "rank correlation"],
            [] if link is None else _by_level(link.levels),
        ),
    ]
    return [table for table in tables if table.rows]


def _by_level(levels: Sequence[tuple[float, Estimate]]) -> list[list[str]]:
    return [[f"{t:g}", _cell(value)] for t, value in levels]


def _levels(explanation: Explanation) -> NumberTable:
    head = ["t", "log-SNR", "belief", "sample weight", "weight as trained", "variation, sample weight",
    "variation as trained",
            "effective samples", "loss"]  # fmt: skip
    rows = []
    for level in explanation.levels:
        means = {name: _cell(level.columns[name].mean, 3) for name in ("belief", "sample_weight", "weight", "loss")}
        rows.append(
            [f"{level.t:g}", intervals.number(level.log_snr, 1), means["belief"], means["sample_weight"],
             means["weight"], _cell(level.cv_sample_weight, 3), _cell(level.cv, 3),
             intervals.percent(level.ess_share), means["loss"]]
        )  # fmt: skip
    note = "Means over clips with 95% intervals; variation is sd over mean between clips."
    return NumberTable("By noise level", note, head, rows)


def _cell(value: Estimate, digits: int = 2) -> str:
    return intervals.said(value, digits).replace("(95% ", "(")
