"""All claims on one page, in HTML and Markdown, and as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eisbach.config import StrictModel, build_config, read_yaml
from eisbach.files import write_text
from eisbach.studies.contract import (
    RECIPE,
    ClaimDeclaration,
    ClaimResult,
    Declaration,
    Effect,
    Result,
    Study,
    Verdict,
    load_studies,
)

if TYPE_CHECKING:
    from eisbach.report.page import NumberTable

_PAPERS = {
    "barrier": "the entropy log-barrier", "erd": "recoverability weighting (ERD)",
    "signature": "class-conditional entropy", "entropic time": "entropic time (arXiv 2504.13612)",
    "ours": "this project",
}  # fmt: skip
_READING = """*Supported* and *refuted* mean what the study's rules say, for the material and the models named there;
*inconclusive* is neither: read the interval. Intervals are 95%. **†** marks a verdict of which not every rule was
declared before the run; [here]({undeclared}) stands which."""
_PREAMBLE = """# Claims

Every claim of the papers that a study here has decided, and our own. Written by `eisbach study page` from each study's
`study.yaml` and `result.json` (computed from its records); a test holds these pages to those files. A study's folder
holds its README (what was asked, what came out, what failed on the way), its code and its records; `eisbach study show
NAME` prints one in full and `eisbach study run NAME` runs it again.

"""
_MOST_WORDS = 1_250
"""Of the rows of one page, so that with its head it stays one that is read."""


class _Retired(StrictModel):
    what: str
    why: str
    study: str
    commit: str


def _digits(value: float) -> str:
    if float(value).is_integer() or not math.isfinite(value):
        return f"{value:.0f}".replace("-", "−")
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(places, 4)}f}"
    return text.replace("-", "−")


def effect_text(effect: Effect, *, name: bool = False) -> str:
    """'−26 points (−56 to +5), p = 0.095', with the effect's name in front where asked."""
    text = _digits(effect.value) + ("%" if effect.unit == "%" else f" {effect.unit}" if effect.unit else "")
    if effect.low is not None and effect.high is not None:
        text += f" ({_digits(effect.low)} to {_digits(effect.high)})"
    if effect.p is not None:
        text += f", p = {effect.p:.2g}"
    return f"{effect.name}: {text}" if name else text


def claim_row(study: Study, claim: ClaimDeclaration, result: ClaimResult) -> list[str]:
    """A claim as cells of text: study, claim, source, verdict, effect, unit, date."""
    run = study.result.run
    return [
        study.name,
        claim.claim,
        str(claim.source),
        _marked(study, result),
        effect_text(result.effects[0], name=True) if result.effects else "–",
        claim.unit,
        str(run.date) if run is not None and run.date is not None else "–",
    ]


def result_row(study: Study, claim: ClaimDeclaration, result: ClaimResult) -> dict[str, Any]:
    """A claim as plain values."""
    run = study.result.run
    return {
        "study": study.name,
        **claim.model_dump(mode="json"),
        **result.model_dump(mode="json"),
        "date": None if run is None or run.date is None else run.date.isoformat(),
        "command": None if run is None else run.command,
        "seconds": None if run is None else run.seconds,
    }


def result_lines(declaration: Declaration, result: Result) -> list[str]:
    """Every verdict with its effects."""
    claims = {claim.key: claim for claim in declaration.claims}
    lines = []
    if result.run is not None and result.run.quick:
        lines.append("A rehearsal (--quick): everything runs, and its numbers decide nothing.")
    for claim_result in result.claims:
        lines.append(f"{claim_result.verdict}: {claims[claim_result.key].claim}")
        lines += [f"    {effect_text(effect, name=True)}" for effect in claim_result.effects]
        lines += [f"    {claim_result.note}"] if claim_result.note else []
    return lines


def study_lines(study: Study) -> list[str]:
    """A study in full, for a terminal."""
    declaration, run = study.declaration, study.result.run
    lines = [declaration.title, declaration.question, ""]
    for claim, result in study.rows():
        measures = ", ".join(
            f"{measure.name} ({measure.direction}{', margin ' + measure.margin if measure.margin else ''})"
            for measure in claim.measures
        )
        lines += [
            f"{result.verdict.upper()}: {claim.claim} [{claim.source}]",
            *(f"    {effect_text(effect, name=True)}" for effect in result.effects),
            *([f"    {result.note}"] if result.note else []),
            f"    measured by {measures}; unit: {claim.unit}; {claim.seeds}; smallest effect: {claim.smallest_effect}",
            f"    supported if {claim.supported_if}; refuted if {claim.refuted_if}",
        ]
    declared = declaration.declared
    lines += ["", f"declared {declared.date}, commit {declared.commit}{'; ' + declared.note if declared.note else ''}"]
    if run is not None:
        lines.append(f"last run {run.date or '(no date)'}: {run.command}")
        lines += [f"recorded by hand: {run.by_hand}"] if run.by_hand else []
    lines += [f"needs {declaration.needs}"] if declaration.needs else []
    kind = "recipe.yaml" if (study.folder / RECIPE).is_file() else "run.py"
    lines.append(f"run it: eisbach study run {study.name} ({kind}; about {declaration.minutes or 1:g} CPU minutes)")
    lines.append(f"more: {study.folder / 'README.md'}")
    return lines


def claims_pages(studies: Sequence[Study] | None = None, stem: str = "claims") -> dict[str, str]:
    """Texts by file name: an index `stem.md`, and beside it the claims by paper, how studies decide, and what was not
    declared. What is too long for a page goes on in the next."""
    studies = _decided_first(load_studies() if studies is None else studies)
    undeclared = f"{stem}-undeclared.md"
    reading = _READING.format(undeclared=undeclared)
    pages: dict[str, str] = {}
    head = ["paper", "claims", *_VERDICTS, "page"]
    summary = [_row(*head), _row(*["---"] * len(head))]
    for paper, name in _PAPERS.items():
        verdicts = [
            result.verdict for study in studies for claim, result in study.rows() if claim.source.paper == paper
        ]
        if not verdicts:
            continue
        blocks = [_claim_rows(study, paper) for study in studies]
        title = name[0].upper() + name[1:]
        made = _paged(f"{stem}-{paper.replace(' ', '-')}", f"Claims: {title}", reading, _CLAIM_HEAD, blocks)
        pages |= made
        links = ", ".join(f"[{'read' if index == 0 else index + 1}]({file})" for index, file in enumerate(made))
        counts = [str(verdicts.count(verdict)) for verdict in _VERDICTS]
        summary.append(_row(title, str(len(verdicts)), *counts, links))
    how = _paged(
        f"{stem}-how", "How each study decides", "Units, seeds and the smallest effect that each could show.",
        ["study", "unit", "seeds", "smallest effect", "CPU min"], [_ways(study) for study in studies],
    )  # fmt: skip
    notes = [[_row(study.name, study.declaration.declared.note)] for study in _with_notes(studies)]
    pages |= how | _paged(
        undeclared.removesuffix(".md"), "Not declared before the run", "What of each study's rules was set after a "
        "first look, and why.", ["study", "of its declaration"], notes,
    )  # fmt: skip
    ways = ", ".join(
        f"[{'how each study decides' if index == 0 else index + 1}]({file})" for index, file in enumerate(how)
    )
    parts = [
        _PREAMBLE + reading, "", *summary, "", f"More: {ways}.", "",
        "## Retired\n\nBuilt, measured, and taken out because it did not prove useful.\n",
        "| what | why | study | last in commit |\n|---|---|---|---|",
        *(_row(entry.what, entry.why, entry.study, entry.commit) for entry in _retired()),
    ]  # fmt: skip
    return {f"{stem}.md": "\n".join(parts).rstrip() + "\n", **pages}


_VERDICTS: tuple[Verdict, ...] = ("supported", "refuted", "inconclusive", "not run")
_CLAIM_HEAD = ["claim", "where", "verdict", "effect", "study"]


def _claim_rows(study: Study, paper: str) -> list[str]:
    rows = []
    for claim, result in study.rows():
        if claim.source.paper == paper:
            effect = effect_text(result.effects[0], name=True) if result.effects else "–"
            note = f" {result.note}" if result.note else ""
            verdict = f"**{_marked(study, result)}**"
            rows.append(_row(claim.claim, claim.source.place or "–", verdict, effect + "." + note, _link(study)))
    return rows


def _ways(study: Study) -> list[str]:
    minutes = f"{study.declaration.minutes:g}" if study.declaration.minutes else "–"
    ways = dict.fromkeys((claim.unit, claim.seeds, claim.smallest_effect) for claim in study.declaration.claims)
    return [_row(_link(study), *way, minutes) for way in ways]


def _paged(stem: str, title: str, intro: str, head: Sequence[str], blocks: Sequence[Sequence[str]]) -> dict[str, str]:
    """Rows as pages by file name; a block (a study's rows) is cut only where it alone is too long."""
    parts: list[list[str]] = [[]]
    words = 0
    for block in blocks:
        size = sum(len(row.split()) for row in block)
        for row in block:
            if parts[-1] and (
                words + len(row.split()) > _MOST_WORDS or (row is block[0] and words + size > _MOST_WORDS)
            ):
                parts.append([])
                words = 0
            parts[-1].append(row)
            words += len(row.split())
    pages = {}
    for index, rows in enumerate(parts):
        part = f", part {index + 1}" if len(parts) > 1 else ""
        name = f"{stem}.md" if index == 0 else f"{stem}-{index + 1}.md"
        table = "\n".join([_row(*head), _row(*["---"] * len(head)), *rows])
        pages[name] = f"# {title}{part}\n\n{intro}\n\n{table}\n"
    return pages


def _decided_first(studies: Sequence[Study]) -> list[Study]:
    """Studies that have run, then those that have not."""
    return sorted(studies, key=lambda study: all(result.verdict == "not run" for _, result in study.rows()))


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _link(study: Study) -> str:
    return f"[{study.name}](../src/eisbach/studies/{study.name}/README.md)"


def _with_notes(studies: Sequence[Study]) -> list[Study]:
    return [study for study in studies if study.declaration.declared.note]


def _marked(study: Study, result: ClaimResult) -> str:
    return result.verdict + (" †" if study.declaration.declared.note else "")


def _retired() -> list[_Retired]:
    values = read_yaml(Path(__file__).parent / "retired.yaml")
    return [build_config(_Retired, entry, "retired.yaml") for entry in values["retired"]]


def write_pages(page: Path, markdown: Path) -> None:
    """Writes the page of all claims, and the same as Markdown: `markdown` and pages beside it that begin with its name.

    Raises
    ------
    StorageError
        The disk is full or a folder cannot be written.
    """
    from eisbach.report.page import render_page

    studies = _decided_first(load_studies())
    decided, waiting = (_tables(studies, run=run) for run in (True, False))
    verdicts = [result.verdict for study in studies for _, result in study.rows()]
    html = render_page(
        "claims.html.j2",
        title="Claims",
        question="What the papers claim, what we claim, and what the studies say.",
        facts=[(verdict, str(verdicts.count(verdict))) for verdict in _VERDICTS],
        decided=decided,
        waiting=waiting,
        undeclared=[(study.name, study.declaration.declared.note) for study in _with_notes(studies)],
        retired=[entry.model_dump() for entry in _retired()],
    )
    write_text(page, html)
    for name, text in claims_pages(studies, markdown.stem).items():
        write_text(markdown.with_name(name), text)


def _tables(studies: Sequence[Study], *, run: bool) -> list[NumberTable]:
    """A table a paper, of the claims that have a verdict or of those that have none."""
    from eisbach.report.page import NumberTable

    tables = []
    for paper, name in _PAPERS.items():
        rows = []
        for study in studies:
            for claim, result in study.rows():
                if claim.source.paper == paper and (result.verdict != "not run") == run:
                    named, text, _, verdict, effect, unit, date = claim_row(study, claim, result)
                    own = (
                        [verdict, f"{effect}; by {unit}", claim.source.place]
                        if run
                        else [claim.source.place, f"by {unit}"]
                    )
                    rows.append([text, *own, f"{named}, {date}" if run else named])
        head = ["claim", *(["verdict", "effect (95%)", "where"] if run else ["where", "unit"]), "study"]
        if rows:
            tables.append(NumberTable(f"{name[0].upper()}{name[1:]}", f"{len(rows)} claims.", head, rows))
    return tables
