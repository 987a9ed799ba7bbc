"""The probe's page: one self-contained `index.html` with the verdict on top, then pictures, numbers and the setup."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eisbach.diagnostics.probe import wording
from eisbach.diagnostics.probe.association import Estimate
from eisbach.diagnostics.probe.explain import Explanation
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
        question="Which clips and which noise levels would this weighting favour on this model and this data, before anything is trained?",
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
        f"Every clip’s crop of {float(seconds):g} s was noised at the same levels; batches of {int(size) * int(setup.get('accumulation') or 1)} "
        "and their noise levels were drawn as training draws them."
    )


def _shown(value: object) -> str:
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False) if value else "–"
    return "–" if value is None or value == "" else str(value)


def number_tables(explanation: Explanation) -> list[NumberTable]:
    """Everything that the page's pictures show, as numbers; tables without rows are left out."""
    tables = [_levels(explanation), _candidates(explanation), _aucs(explanation), _belief_loss(explanation)]
    return [table for table in tables if table.rows]


def _levels(explanation: Explanation) -> NumberTable:
    rows = []
    for one in explanation.levels:
        columns = one.columns
        rows.append(
            [f"{one.t:g}", _number(one.log_snr, 1), _cell(columns["belief"].mean, 3), _cell(columns["sample_weight"].mean, 3),
             _cell(columns["weight"].mean, 3), _cell(one.cv_sample_weight, 3), _cell(one.cv, 3),
             "–" if one.ess_share is None else wording.percent(one.ess_share), _cell(columns["loss"].mean, 3)]
        )  # fmt: skip
    head = ["t", "log-SNR", "belief", "sample weight", "weight as trained", "variation, sample weight", "variation as trained",
            "effective samples", "loss"]  # fmt: skip
    return NumberTable(
        "By noise level", "Means over clips with 95% intervals; variation is sd over mean between clips.", head, rows
    )


def _candidates(explanation: Explanation) -> NumberTable:
    rows = []
    for one in explanation.drivers.candidates:
        if one.same:
            rows.append(
                [wording.column(one.name).removeprefix("the "), one.group, "the clips hardly differ", *["–"] * 6]
            )
            continue
        rows.append(
            [wording.column(one.name).removeprefix("the "), one.group, _cell(one.spearman), _p(one.p_holm),
             "–" if one.share is None else wording.percent(one.share), _cell(one.beyond_loudness),
             *(_cell(one.bands.get(band, Estimate(None))) for band in ("low", "mid", "high"))]
        )  # fmt: skip
    head = [
        "candidate",
        "group",
        "rank correlation",
        "p (Holm)",
        "explains alone",
        "beyond loudness",
        "low noise",
        "mid noise",
        "high noise",
    ]
    note = "Rank correlation with the sample weight within noise levels, over all of them and by thirds of t."
    return NumberTable("What the weights follow", note, head, rows)


def _aucs(explanation: Explanation) -> NumberTable:
    head = ["label", "clips", *(f"t = {one.t:g}" for one in explanation.levels)]
    rows = [
        [
            f"{one.label}: {one.positive} > {one.negative}",
            f"{one.n_positive} / {one.n_negative}",
            *(_cell(auc) for _, auc in one.levels),
        ]
        for one in explanation.separations
    ]
    return NumberTable(
        "AUC of the sample weight", "Chance that a clip of the first value weighs more; 0.5 is chance.", head, rows
    )


def _belief_loss(explanation: Explanation) -> NumberTable:
    found = explanation.belief_loss
    rows = [] if found is None else [[f"{t:g}", _cell(one)] for t, one in found.levels]
    note = "Rank correlation between clips; above 0, low belief goes with low loss."
    return NumberTable("Belief and loss", note, ["t", "rank correlation"], rows)


def _cell(one: Estimate, digits: int = 2) -> str:
    if one.value is None:
        return "–"
    if one.low is None or one.high is None:
        return wording.number(one.value, digits)
    return (
        f"{wording.number(one.value, digits)} ({wording.number(one.low, digits)} to {wording.number(one.high, digits)})"
    )


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else wording.number(value, digits)


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
