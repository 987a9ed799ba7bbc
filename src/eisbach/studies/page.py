"""All claims on one page of HTML, and on pages of Markdown: study by study, each claim with all that it rests on."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eisbach.config import StrictModel, build_config, read_yaml
from eisbach.experiments.measures import FLAT, known_metrics
from eisbach.files import write_text
from eisbach.studies.contract import ClaimDeclaration, ClaimResult, Source, Study, Verdict, load_studies
from eisbach.studies.preamble import READING, before_tables, fill, other_draws
from eisbach.studies.wording import effect_text, full_run, marked_verdict, run_command, took_text

_PAPERS = {
    "barrier": "the entropy log-barrier", "erd": "recoverability weighting (ERD)",
    "signature": "class-conditional entropy", "entropic time": "entropic time (arXiv 2504.13612)",
    "ours": "this project",
}  # fmt: skip
_VERDICTS: tuple[Verdict, ...] = ("supported", "refuted", "inconclusive", "not run")
_SECTIONS: dict[str, dict[str, float]] = {
    "barrier": {"abstract": 0, "eq": 3, "figure": 7, "table": 7, "prediction": 9},
    "erd": {"figure": 3, "table": 4},
}
"""In which section of its paper a thing stands."""
_MOST_WORDS = 1_250
"""Of the studies of one page, so that with its head it stays one that is read."""
_SHORT = 8
"""Words of a smallest effect that still stands in a cell whole; of a longer one the first clause does."""


class _Retired(StrictModel):
    what: str
    why: str
    study: str
    commit: str


@dataclass(frozen=True)
class StudySection:
    """A study's claims on one paper, in words.

    Attributes
    ----------
    name, title, command : str
    facts, needs : str
        When it ran and what it took; what a run needs that it does not make itself.
    head : list of str
    rows : list of list of str
        A claim each, decided ones first.
    notes : list of str
        Unit of inference, the smallest effect where all claims share it, and what letters and † of the rows mean.
    """

    name: str
    title: str
    command: str
    facts: str
    needs: str
    head: list[str]
    rows: list[list[str]]
    notes: list[str]


def study_section(study: Study, paper: str | None = None) -> StudySection | None:
    """What a study says of a paper, or of all; None where it says nothing."""
    rows = [(claim, result) for claim, result in study.rows() if paper in (None, claim.source.paper)]
    if not rows:
        return None
    rows.sort(key=lambda row: row[1].verdict == "not run")
    ran = full_run(study)
    claims = [claim for claim, _ in rows]
    letters = _letters(claims)
    units = dict.fromkeys(claim.unit for claim in claims)
    shared = len(units) == 1 and len({claim.smallest_effect for claim in claims}) == 1
    counted = _counted(claims)
    if shared:
        shown = "could have been shown" if ran else "can be shown"
        counted += f" Smallest effect that {shown}: {claims[0].smallest_effect.rstrip('.')}."
    head = ["claim", *(["verdict", "effect (95%)"] if ran else []), *([] if shared else ["smallest effect"]), "where"]
    made = []
    for claim, result in rows:
        smallest = _gist(claim.smallest_effect, letters) + ("" if len(units) == 1 else f", by {_short_unit(claim)}")
        place = str(claim.source) if paper is None else claim.source.place or "–"
        said = [marked_verdict(study, result), _effect(result)] if ran else []
        made.append([claim.claim, *said, *([] if shared else [smallest]), place])
    notes = [counted, *([] if shared else [f"({letter}) {effect}" for effect, letter in letters.items()])]
    if study.declaration.declared.known:
        notes.append(f"Known when it was declared, before the run: {study.declaration.declared.known.rstrip('.')}.")
    if study.declaration.declared.note:
        notes.append(
            f"† Declared or changed when some records were known: {study.declaration.declared.note.rstrip('.')}."
        )
    needs = f"Needs {study.declaration.needs.rstrip('.')}." if study.declaration.needs else ""
    facts = f"{took_text(study)}."
    if ran is not None and ran.date is not None:
        facts = f"run on {ran.date}; {facts}"
    return StudySection(study.name, study.declaration.title, run_command(study), facts, needs, head, made, notes)


def _counted(claims: Sequence[ClaimDeclaration]) -> str:
    ways = dict.fromkeys((claim.unit, claim.seeds) for claim in claims)
    if len(ways) == 1:
        return f"Unit: {claims[0].unit}; {claims[0].seeds}."
    return f"Units: {'; '.join(f'{unit}, {seeds}' for unit, seeds in ways)}."


def _short_unit(claim: ClaimDeclaration) -> str:
    return re.split("[,;:(]", claim.unit)[0].strip()


def _letters(claims: Sequence[ClaimDeclaration]) -> dict[str, str]:
    """A letter for each smallest effect that is too long for a cell."""
    long = dict.fromkeys(
        claim.smallest_effect
        for claim in claims
        if len(claim.smallest_effect.split()) > _SHORT and _first_clause(claim.smallest_effect) != claim.smallest_effect
    )
    return {effect: chr(ord("a") + index) for index, effect in enumerate(long)}


def _gist(effect: str, letters: dict[str, str]) -> str:
    """A smallest effect for a cell: whole, or its first clause and the letter under which all of it stands."""
    return f"{_first_clause(effect)} ({letters[effect]})" if effect in letters else effect


def _first_clause(effect: str) -> str:
    return re.split(r" \(|[;:.] |, that is |, as ", effect.rpartition("Smallest: ")[2])[0]


def _effect(result: ClaimResult) -> str:
    """What decided; where pieces that stand did, beside it the flat ones of any kind, which may say something else."""
    if not result.effects:
        return f"– {result.note}".rstrip()
    first, *others = result.effects
    said = [f"{effect_text(first, name=True)}."]
    measure, _, compared = first.name.partition(": ")
    if measure == known_metrics([{"standing": 0.0}])[0].label:
        any_kind = f"{FLAT.label}: {compared}"
        said += [f"Flat of any kind: {effect_text(effect)}." for effect in others if effect.name == any_kind]
    return " ".join([*said, *([result.note] if result.note else [])])


def order_of(source: Source) -> float:
    """Where in its paper a claim stands, as far as its first words tell: a section, and tenths for its predictions."""
    match = re.match(r"(abstract|§|section|prediction|figure|table|eq)[a-z.]*\s*(\d*)", source.place.lower())
    if match is None:
        return float("inf")
    if match[1] in ("§", "section"):
        return float(match[2] or "inf")
    section = _SECTIONS.get(source.paper, {}).get(match[1], float("inf"))
    return section + (int(match[2]) / 10 if match[1] == "prediction" and match[2] else 0)


def in_order(studies: Sequence[Study], paper: str) -> list[Study]:
    """The studies that decided something and ask something of a paper, in the paper's order by their first claim on it,
    else by name: so every claim stands here or among those of `waiting`."""

    def place(study: Study) -> tuple[float, str]:
        return next(order_of(claim.source) for claim, _ in study.rows() if claim.source.paper == paper), study.name

    of_paper = [
        study
        for study in studies
        if any(result.verdict != "not run" for _, result in study.rows())
        and any(claim.source.paper == paper for claim, _ in study.rows())
    ]
    return sorted(of_paper, key=place)


def waiting(studies: Sequence[Study]) -> list[Study]:
    """The studies of which no claim has a verdict yet."""
    return [study for study in studies if all(result.verdict == "not run" for _, result in study.rows())]


def claims_pages(studies: Sequence[Study] | None = None, stem: str = "claims") -> dict[str, str]:
    """Texts by file name: an index `stem.md`, and beside it the claims by paper and what has not been run. What is too
    long for a page goes on in the next."""
    studies = load_studies() if studies is None else studies
    pages: dict[str, str] = {}
    head = ["paper", "claims", *_VERDICTS]
    summary, tables = [_row(*head), _row(*["---"] * len(head))], []
    for paper, name in _PAPERS.items():
        verdicts = [
            result.verdict for study in studies for claim, result in study.rows() if claim.source.paper == paper
        ]
        if not verdicts:
            continue
        title = _upper(name)
        decided = in_order(studies, paper)
        sections = [study_section(study, paper) for study in decided]
        made = _paged(f"{stem}-{paper.replace(' ', '-')}", f"Claims: {title}", READING, sections)
        pages |= made
        counts = [str(verdicts.count(verdict)) for verdict in _VERDICTS]
        summary.append(_row(title, str(len(verdicts)), *counts))
        tables += [f"## {title}", _verdicts_by_study(decided, paper, _study_links(made, sections))]
    idle = [study_section(study) for study in waiting(studies)]
    more = []
    if idle:
        made = _paged(f"{stem}-not-run", "Claims: declared, and not run yet", _IDLE, idle)
        pages |= made
        more = [
            "## Not run yet",
            fill(f"What each study will decide, its command and its minutes: pages {_numbered(made)}."),
            fill(f"Studies: {', '.join(_study_links(made, idle))}."),
        ]
    entries = [_row(entry.what, entry.why, entry.study, entry.commit) for entry in _retired()]
    pages[f"{stem}-retired.md"] = "\n".join([_RETIRED, *entries]) + "\n"
    retired = ["## Retired", f"What was built, measured and taken out again has [a page]({stem}-retired.md)."]
    parts = ["# Claims", *before_tables(studies), "\n".join(summary), *tables, *other_draws(), *more, *retired]
    return {f"{stem}.md": "\n\n".join(parts) + "\n", **pages}


def _verdicts_by_study(studies: Sequence[Study], paper: str, links: Sequence[str]) -> str:
    """A table of what each study says of a paper, in counts."""
    found = [[result.verdict for claim, result in study.rows() if claim.source.paper == paper] for study in studies]
    columns = [verdict for verdict in _VERDICTS if any(verdict in verdicts for verdicts in found)]
    rows = [_row("study", *columns), _row(*["---"] * (1 + len(columns)))]
    for verdicts, link in zip(found, links, strict=True):
        rows.append(_row(link, *(str(verdicts.count(verdict) or "–") for verdict in columns)))
    return "\n".join(rows)


_RETIRED = """# Claims: retired

Built, measured, and taken out because it did not prove useful.

| what | why | study | last in commit |
|---|---|---|---|"""
_IDLE = (
    "What was written down before looking: each claim with the smallest effect that its study can show, and the "
    "command that decides it."
)


def _paged(stem: str, title: str, intro: str, sections: Sequence[StudySection | None]) -> dict[str, str]:
    """Studies as pages by file name; one is cut only where it alone is too long."""
    parts: list[list[str]] = [[]]
    words = 0
    for text in (text for section in sections if section is not None for text in _markdown(section)):
        size = len(text.split())
        if parts[-1] and words + size > _MOST_WORDS:
            parts.append([])
            words = 0
        parts[-1].append(text)
        words += size
    names = [f"{stem}.md" if index == 0 else f"{stem}-{index + 1}.md" for index in range(len(parts))]
    pages = {}
    for index, texts in enumerate(parts):
        part = f", part {index + 1} of {len(parts)}" if len(parts) > 1 else ""
        after = [f"Next: [part {index + 2}]({names[index + 1]})."] if index + 1 < len(parts) else []
        pages[names[index]] = "\n\n".join([f"# {title}{part}", fill(intro), *texts, *after]) + "\n"
    return pages


def _markdown(section: StudySection, part: str = "") -> list[str]:
    """A study as texts that each fit a page."""
    table = [_row(*section.head), _row(*["---"] * len(section.head))]
    bold = section.head.index("verdict") if "verdict" in section.head else None
    for cells in section.rows:
        table.append(_row(*(f"**{cell}**" if index == bold else cell for index, cell in enumerate(cells))))
    parts = [
        f"## {section.title}{part}",
        fill(f"[{section.name}](../src/eisbach/studies/{section.name}/README.md): {section.facts} {section.needs}"),
        f"```sh\n{section.command}\n```",
        "\n".join(table),
        *(fill(note) for note in section.notes),
    ]
    text = "\n\n".join(parts)
    if len(text.split()) <= _MOST_WORDS or len(section.rows) == 1:
        return [text]
    half = (len(section.rows) + 1) // 2
    halves = (section.rows[:half], part), (section.rows[half:], ", continued")
    return [text for rows, name in halves for text in _markdown(replace(section, rows=rows), name)]


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _upper(name: str) -> str:
    return name[0].upper() + name[1:]


def _numbered(pages: dict[str, str]) -> str:
    return ", ".join(f"[{index}]({file})" for index, file in enumerate(pages, 1))


def _study_links(pages: dict[str, str], sections: Sequence[StudySection | None]) -> list[str]:
    """Each study by its title, leading to its heading."""
    links = []
    for section in sections:
        if section is not None:
            file = next(file for file, text in pages.items() if f"\n## {section.title}\n" in text)
            anchor = re.sub(r"[^\w\- ]", "", section.title.lower()).replace(" ", "-")
            links.append(f"[{section.title}]({file}#{anchor})")
    return links


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

    studies = load_studies()
    verdicts = [result.verdict for study in studies for _, result in study.rows()]
    papers: list[dict[str, Any]] = [
        {
            "key": paper.replace(" ", "-"),
            "name": _upper(name),
            "sections": [study_section(study, paper) for study in in_order(studies, paper)],
        }
        for paper, name in _PAPERS.items()
    ]
    html = render_page(
        "claims.html.j2",
        title="Claims",
        question="What the papers claim, what we claim, and what the studies say.",
        reading=READING.replace("*", ""),
        facts=[(verdict, str(verdicts.count(verdict))) for verdict in _VERDICTS],
        papers=[paper for paper in papers if paper["sections"]],
        waiting=[study_section(study) for study in waiting(studies)],
        retired=[entry.model_dump() for entry in _retired()],
    )
    write_text(page, html)
    pages = claims_pages(studies, markdown.stem)
    for name, text in pages.items():
        write_text(markdown.with_name(name), text)
    # What went on in a further page before, and fits now, must not stay and contradict.
    topics = "|".join((*(paper.replace(" ", "-") for paper in _PAPERS), "not-run"))
    numbered = re.compile(rf"{re.escape(markdown.stem)}-({topics})(-\d+)?\.md")
    for file in markdown.parent.glob(f"{glob.escape(markdown.stem)}-*.md"):
        if file.name not in pages and numbered.fullmatch(file.name):
            file.unlink()
