"""The page of `eisbach analyze`: sets side by side, with intervals, pictures, and players that show the detected
sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eisbach import __version__
from eisbach.experiments.comparing import Sets
from eisbach.files import write_text
from eisbach.report.audio_embed import BUDGET_BYTES
from eisbach.report.page import render_page
from eisbach.report.structure.cards import clip_rows, clip_words, flag_rows, listen_group, open_groups
from eisbach.report.structure.findings import findings, headline_sentences, page_facts, page_title
from eisbach.report.structure.listen import embedded_words, plan_groups
from eisbach.report.structure.numbers import measure_chart, measure_row, printed_rows
from eisbach.report.structure.players import make_players
from eisbach.report.structure.set_pictures import GroupPicture, group_pictures
from eisbach.report.structure.set_tables import SetTable
from eisbach.report.tables import MARK_MEANINGS
from eisbach.statistics.comparison import FEW_UNITS
from eisbach.types import Skipped

LISTEN = 24
"""Clips that a page lets one hear unless asked otherwise."""
_MOST_SKIPPED = 200
_SHOWN_MARK = (
    "▲ higher, ▼ lower",
    "a difference from the reference was shown (corrected p below 0.05, and an interval without 0)",
)
_DIRECTED_MARK = ("▲ better, ▼ worse", "the same, in or against the direction that was declared with --primary")


@dataclass(frozen=True)
class StructurePage:
    """Everything that the page says.

    Attributes
    ----------
    sets : Sets
    command : str
        Shell line that makes the page again.
    title : str
        "" names the sets.
    set_tables, set_notes : sequence of SetTable, of str
        Distances between sets and memorisation, and what a reader must know of them.
    skipped : sequence of Skipped
    captions : mapping of str to str
        Words of each prompt.
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
    """

    sets: Sets
    command: str
    title: str = ""
    set_tables: Sequence[SetTable] = ()
    set_notes: Sequence[str] = ()
    skipped: Sequence[Skipped] = ()
    captions: Mapping[str, str] = field(default_factory=dict)
    listen: int = LISTEN
    chosen: Sequence[str] = ()
    pictures: bool = True
    audio_budget: int = BUDGET_BYTES
    files: Sequence[tuple[str, str]] = ()
    configuration: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


def write_structure_page(out: str | Path, page: StructurePage, *, quiet: bool = True) -> Path:
    """Writes `out/index.html` atomically and returns its path.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written.
    """
    path = Path(out) / "index.html"
    write_text(path, render_structure_page(page, quiet=quiet))
    return path


def render_structure_page(page: StructurePage, *, quiet: bool = True) -> str:
    """The page as text: one file that needs no network."""
    return render_page("structure.html.j2", **_values(page, quiet))


def _values(page: StructurePage, quiet: bool) -> dict[str, Any]:
    sets = page.sets
    groups = plan_groups(sets, page.listen, page.captions, page.chosen)
    rows = [row for group in groups for take in group.takes for row in take.clips if row is not None]
    players = make_players(rows, budget=page.audio_budget, pictures=page.pictures, quiet=quiet)
    by_row = {id(row): player for row, player in zip(rows, players, strict=True)}
    pictures: list[GroupPicture] = group_pictures(players, sets.names) if page.pictures else []
    primary = sets.primary
    further = [info for info in sets.metrics if info not in primary]
    point_name = "prompt" if sets.paired else "clip"
    return {
        "title": page.title or page_title(sets),
        "facts": page_facts(sets, page.skipped),
        "sets": [{"name": name, "clips": sets.clips(name)} for name in sets.names],
        "findings": findings(sets, primary),
        "sentences": headline_sentences(sets),
        "oracle": sets.results.oracle if sets.results is not None else None,
        "how": sets.how,
        "notes": sets.notes,
        "counted": "prompts" if sets.paired else "clips",
        "primary_rows": [measure_row(sets, info) for info in primary],
        "further_rows": [measure_row(sets, info) for info in further],
        "printed_rows": printed_rows(sets),
        "marks": [_SHOWN_MARK, *([_DIRECTED_MARK] if any(i.better for i in primary) else []), *MARK_MEANINGS[2:]],
        "charts": [(info, measure_chart(sets, info, point_name)) for info in primary] if len(sets.records) > 1 else [],
        "point_name": point_name,
        "groups": [listen_group(sets, group, by_row, primary) for group in groups],
        "open_groups": open_groups(groups),
        "embedded_words": embedded_words(sets, rows, players, page.audio_budget, bool(page.chosen)),
        "group_pictures": pictures,
        "pictured_words": f"Made from the {len(rows)} clips that can be heard above.",
        "set_tables": page.set_tables,
        "set_notes": page.set_notes,
        "metrics": [*primary, *further],
        "few_units": FEW_UNITS,
        "command": page.command,
        "files": page.files,
        "configuration": page.configuration,
        "versions": page.versions,
        "flags": flag_rows(sets),
        "clip_rows": clip_rows(sets, primary),
        "clip_metrics": primary,
        "clip_words": clip_words(len(sets.records)),
        "skipped": list(page.skipped[:_MOST_SKIPPED]),
        "skipped_count": len(page.skipped),
        "version": __version__,
    }
