"""The page that sets sets side by side: what differs and how sure that is, numbers, players with sections, pictures.

`eisbach analyze` and experiments fill the same `ComparisonPage`; what one of them has not to say is not on its page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from eisbach import __version__
from eisbach.errors import UserError
from eisbach.experiments.reference import Reference
from eisbach.files import write_text
from eisbach.report.audio_embed import BUDGET_BYTES
from eisbach.report.charts import Series, curves_chart
from eisbach.report.comparison.cards import (
    clip_table,
    clip_words,
    embedded_words,
    flag_table,
    listen_group,
    listening_words,
    open_groups,
    plan_groups,
    with_reference,
)
from eisbach.report.comparison.findings import (
    Finding,
    findings,
    headline_sentences,
    headline_verdict,
    mark_meanings,
    nearness_findings,
    nearness_verdict,
    page_facts,
    page_title,
    recovered_sentences,
)
from eisbach.report.comparison.numbers import (
    GroupPicture,
    SetTable,
    group_pictures,
    measure_chart,
    measure_row,
    near_rows,
    near_words,
    printed_rows,
)
from eisbach.report.comparison.players import Player, make_players
from eisbach.report.listen.page import votes_section
from eisbach.report.listen.votes import ListeningScore
from eisbach.report.page import render_page
from eisbach.statistics.comparison import FEW_UNITS
from eisbach.statistics.sets import Sets
from eisbach.structure.record_files import read_details
from eisbach.types import Skipped

LISTEN = 24
"""Clips that a page lets one hear unless asked otherwise."""
_MOST_SKIPPED = 200


@dataclass(frozen=True)
class ArmText:
    """How a set is spoken of.

    Attributes
    ----------
    name : str
        As in the records.
    label : str
        Short title for tables ('Recurrence barrier').
    phrase : str
        Within a sentence ('the recurrence barrier'); the label when empty.
    explanation : str
        One or two sentences for a reader who has not seen the formulas.
    """

    name: str
    label: str
    phrase: str = ""
    explanation: str = ""


@dataclass(frozen=True)
class ComparisonPage:
    """Everything that the page says.

    Attributes
    ----------
    sets : Sets
    commands : sequence of str
        Shell lines that make the page again.
    title, question : str
        The heading ("" names the sets), and what was asked (blank lines part paragraphs).
    noun : 'set' or 'arm'
        What the page calls a set; an arm's page opens with the verdict by the first primary measure, a set's with what
        differs in each of them.
    arms : sequence of ArmText
        Sets that are missing here are shown by name; with any, the page says what each is.
    notes : sequence of str
        Limits, beside those that the sets know.
    set_tables, set_notes : sequence of SetTable, of str
        Distances between sets and memorisation, and what a reader must know of them.
    curves : sequence of (title, y label, sequence of Series)
        Training curves.
    skipped : sequence of Skipped
    captions : mapping of str to str
        Words of each prompt.
    audio_root : Path
        Folder that relative paths in the records start from.
    analysis : Path or None
        Folder of the clips' analysis, whose ``details.jsonl`` holds their sections; None looks for them again.
    listen : int
        Clips to embed at most; 0 for none.
    chosen : sequence of str
        Ids of clips that are embedded in place of a sample.
    pictures : bool
    audio_budget : int
        Bytes of base64 that all audio may take.
    files : sequence of (name, words)
        What lies beside the page.
    configuration : str
        Everything that decided the result, as YAML.
    versions : mapping of str to str
    apart : sequence of str
        Sets that are no candidates for the verdict (an oracle, the untrained base).
    lead : str
        What the verdict opens with: that this was a rehearsal.
    reference, heard : Reference or None, int
        The music that the sets were held against, and how many clips of it stand in every row of players.
    material : mapping or None
        What the section on a person's own material shows (`report.experiment.page.material_section`).
    votes : ListeningScore or None
        What listeners chose between these sets.
    """

    sets: Sets
    commands: Sequence[str] = ()
    title: str = ""
    question: str = ""
    noun: Literal["set", "arm"] = "set"
    arms: Sequence[ArmText] = ()
    notes: Sequence[str] = ()
    set_tables: Sequence[SetTable] = ()
    set_notes: Sequence[str] = ()
    curves: Sequence[tuple[str, str, Sequence[Series]]] = ()
    skipped: Sequence[Skipped] = ()
    captions: Mapping[str, str] = field(default_factory=dict)
    audio_root: Path = Path()
    analysis: Path | None = None
    listen: int = LISTEN
    chosen: Sequence[str] = ()
    pictures: bool = True
    audio_budget: int = BUDGET_BYTES
    files: Sequence[tuple[str, str]] = ()
    configuration: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    apart: Sequence[str] = ()
    lead: str = ""
    reference: Reference | None = None
    heard: int = 0
    material: Mapping[str, Any] | None = None
    votes: ListeningScore | None = None

    @property
    def labels(self) -> dict[str, str]:
        """What tables call each set."""
        return {name: name for name in self.sets.names} | {arm.name: arm.label for arm in self.arms}

    @property
    def phrases(self) -> dict[str, str]:
        """What sentences call each set."""
        return {name: name for name in self.sets.names} | {arm.name: arm.phrase or arm.label for arm in self.arms}


def write_comparison_page(out: str | Path, page: ComparisonPage, *, quiet: bool = True) -> Path:
    """Writes `out/index.html` atomically and returns its path.

    Raises
    ------
    UserError
        The page of arms whose results hold no metric.
    StorageError
        The disk is full or the folder cannot be written.
    """
    path = Path(out) / "index.html"
    write_text(path, render_comparison_page(page, quiet=quiet))
    return path


def render_comparison_page(page: ComparisonPage, *, quiet: bool = True) -> str:
    """The page as text: one file that needs no network."""
    if page.noun == "arm" and not page.sets.metrics:
        raise UserError("the records hold no metric, so there is nothing to report; analyse the clips first.")
    values = _said(page) | _numbers(page) | _heard(page, quiet) | _again(page)
    return render_page("comparison.html.j2", **values)


def _said(page: ComparisonPage) -> dict[str, Any]:
    """What the page says in words: title, facts, verdict, limits."""
    sets, results, phrases = page.sets, page.sets.results, page.phrases
    sentences = headline_sentences(results, phrases)
    checkpoints = None
    if page.noun == "arm":
        leads = [Finding(page.lead + (headline_verdict(results, phrases, page.apart) or ""))]
        sentences = sentences if len(sentences) > 1 else []
    else:
        leads = findings(sets, sets.primary)
    if sets.nearness is not None:
        leads = [
            Finding(page.lead + nearness_verdict(sets.nearness, sets.names, phrases, page.apart)),
            *nearness_findings(sets, phrases),
        ]
        sentences = []
    if results is not None and results.checkpoint_comparisons and sets.nearness is None:
        checkpoints = headline_verdict(
            replace(results, comparisons=results.checkpoint_comparisons), phrases, page.apart
        )
    return {
        "title": page.title or page_title(sets),
        "question": [part.strip() for part in page.question.split("\n\n") if part.strip()],
        "noun": page.noun,
        "facts": page_facts(sets, page.noun, len(page.skipped)),
        "sets": [
            {"label": page.labels[name], "clips": sets.clips(name), "role": _role(sets, name)} for name in sets.names
        ],
        "leads": leads,
        "checkpoint_verdict": checkpoints,
        "recovered": recovered_sentences(results, phrases),
        "sentences": sentences,
        "how": sets.how,
        "notes": list(dict.fromkeys([*sets.notes, *page.notes])),
        "arms": [(arm, sets.names.index(arm.name), _role(sets, arm.name)) for arm in page.arms],
        "few_units": FEW_UNITS,
    }


def _role(sets: Sets, name: str) -> str:
    if sets.results is None:
        return ""
    return {sets.results.baseline: "baseline", sets.results.oracle: "told the truth"}.get(name, "")


def _numbers(page: ComparisonPage) -> dict[str, Any]:
    """Tables and charts."""
    sets, primary = page.sets, page.sets.primary
    further = [info for info in sets.metrics if info not in primary]
    checkpoint_rows = []
    if sets.results is not None and sets.results.checkpoint_comparisons:
        results = replace(sets.results, comparisons=sets.results.checkpoint_comparisons)
        checkpoint_rows = [measure_row(replace(sets, results=results), info) for info in primary]
    return {
        "counted": "prompts" if sets.paired else "clips",
        "point_name": "prompt" if sets.paired else "clip",
        "primary_rows": [measure_row(sets, info) for info in primary],
        "near_rows": near_rows(sets),
        "checkpoint_rows": checkpoint_rows,
        "further_rows": [measure_row(sets, info) for info in further],
        "printed_rows": printed_rows(sets),
        "marks": mark_meanings(primary, sets.nearness),
        "near": near_words(sets),
        "charts": [(info, measure_chart(sets, info, page.labels)) for info in primary] if len(sets.records) > 1 else [],
        "curves": [(title, _svg(curves_chart(series, "training step", y))) for title, y, series in page.curves],
        "set_tables": page.set_tables,
        "set_notes": [
            note for note in dict.fromkeys(page.set_notes) if not (sets.refused and "differ in length" in note)
        ],
        "metrics": [*primary, *further],
    }


def _svg(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)  # made by `charts`, which escapes every text


def _heard(page: ComparisonPage, quiet: bool) -> dict[str, Any]:
    """Players, and the pictures of sets that are made from what they play."""
    sets, labels = page.sets, page.labels
    groups = plan_groups(sets, page.listen, page.captions, page.chosen)
    if page.reference is not None:
        groups = with_reference(groups, page.reference.records, page.heard)
    rows = [row for group in groups for take in group.takes for row in take.clips if row is not None]
    music = list({id(row): row for group in groups for take in group.takes for row in take.beside}.values())
    details = {} if page.analysis is None else read_details(page.analysis)
    players = make_players(
        [*rows, *music],
        budget=page.audio_budget,
        root=page.audio_root,
        details=details,
        pictures=page.pictures,
        quiet=quiet,
    )
    sketches = _sketches(page, details, players)
    by_row = {id(row): player for row, player in zip([*rows, *music], players, strict=True)}
    beside = "" if page.reference is None else page.reference.label
    words = embedded_words(sets, rows, players, page.audio_budget, noun=page.noun, chosen=bool(page.chosen))
    return {
        "groups": [listen_group(sets, group, by_row, labels, beside) for group in groups],
        "open_groups": open_groups(groups),
        "listening": listening_words(sets, page.noun),
        "beside": beside if music else "",
        "material": page.material,
        "votes": None if page.votes is None else votes_section(page.votes),
        "embedded_words": words,
        "has_parts": any(player.parts for player in players),
        "pictured": any(player.picture for player in players),
        "group_pictures": _group_pictures(page, sketches),
        "pictured_words": f"Made from {len(sketches):,} of the {len(sets.records):,} clips."
        if len(sketches) < len(sets.records)
        else "Made from all clips, not only those that can be heard above.",
    }


def _group_pictures(
    page: ComparisonPage, sketches: list[tuple[str, Mapping[str, Sequence[float]]]]
) -> list[GroupPicture]:
    """The pictures of the sets, and of the music that they are held against."""
    if not page.pictures:
        return []
    music = [] if page.reference is None else [(page.reference.label, own) for own in page.reference.sketches if own]
    return group_pictures([*sketches, *music], music[0][0] if music else "")


def _sketches(
    page: ComparisonPage, details: Mapping[str, Mapping[str, Any]], players: Sequence[Player]
) -> list[tuple[str, Mapping[str, Sequence[float]]]]:
    """Label and sketch of every clip whose analysis or player has one, set by set."""
    heard = {str(player.record["path"]): player.sketch for player in players}
    found = []
    for name in page.sets.names:
        for row in page.sets.records:
            path = str(row["path"])
            own = details.get(str(page.audio_root / path), {}).get("sketch") or heard.get(path)
            if row["arm"] == name and own:
                found.append((page.labels[name], own))
    return found


def _again(page: ComparisonPage) -> dict[str, Any]:
    """Files, flags, every clip, and how to make the page again."""
    sets = page.sets
    flag_head, flags = flag_table(sets, page.labels)
    clip_head, clips = clip_table(sets, page.noun, page.labels)
    return {
        "commands": page.commands,
        "files": page.files,
        "configuration": page.configuration,
        "versions": page.versions,
        "flag_head": flag_head,
        "flags": flags,
        "clip_head": clip_head,
        "clip_rows": clips,
        "clip_words": clip_words(len(sets.records)),
        "skipped": list(page.skipped[:_MOST_SKIPPED]),
        "skipped_count": len(page.skipped),
        "version": __version__,
    }
