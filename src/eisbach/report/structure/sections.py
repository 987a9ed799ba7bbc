"""The detected sections of a clip as stretches of its own time, for pictures and players."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from eisbach.structure.features import Features
from eisbach.structure.sections import find_sections


@dataclass(frozen=True)
class Span:
    """One section: from `start` to `end` in seconds of the file, and the letter of what it sounds like."""

    start: float
    end: float
    letter: str


def section_spans(features: Features) -> list[Span]:
    """The sections that `structure.sections.find_sections` finds, first to last; empty for a clip too short to have
    any."""
    found = find_sections(features)
    if not found.labels:
        return []
    edges = itertools.pairwise((found.start, *found.boundaries, found.end))
    return [Span(float(a), float(b), letter) for (a, b), letter in zip(edges, found.labels, strict=True)]
