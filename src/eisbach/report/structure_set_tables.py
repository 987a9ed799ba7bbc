"""The sets as wholes: distances between them, diversity and memorisation, as numbers and as tables for the page."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eisbach.report.structure_compare import Sets
from eisbach.report.structure_page import SetTable
from eisbach.types import SkipReport


@dataclass
class Wholes:
    """What was measured: plain values for JSON, and tables for people."""

    values: dict[str, Any] = field(default_factory=dict)
    tables: list[SetTable] = field(default_factory=list)


def measure_sets(
    sets: Sets,
    *,
    embedding: str = "texture",
    training: Path | None = None,
    held_out: Path | None = None,
    folder: Path | None = None,
    seed: int = 0,
    jobs: int = 1,
    skips: SkipReport | None = None,
    quiet: bool = True,
) -> Wholes:
    """Distances between every set and the reference, and memorisation where training audio is named."""
    return Wholes()
