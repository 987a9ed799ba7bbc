"""The detected sections of a clip as stretches of its own time, for pictures and players."""

from __future__ import annotations

from dataclasses import dataclass

from eisbach.structure.features import Features


@dataclass(frozen=True)
class Span:
    """One section: from `start` to `end` in seconds of the file, and the letter of what it sounds like."""

    start: float
    end: float
    letter: str


def section_spans(features: Features) -> list[Span]:
    """The sections that `boundaries.find_sections` finds, first to last; one for a clip that does not fall into sections.

    Empty for silence.
    """
    from eisbach.structure.boundaries import find_sections

    if features.duration <= 0:
        return []
    found = find_sections(features)
    return to_spans(found.boundaries, found.labels, features)


def to_spans(boundaries, labels, features: Features) -> list[Span]:  # type: ignore[no-untyped-def]
    """Spans between boundaries; the first and the last may or may not be the clip's own ends."""
    start, end = features.trimmed_start, features.trimmed_start + features.duration
    inner = [float(one) for one in boundaries if start + 1e-6 < float(one) < end - 1e-6]
    edges = [start, *inner, end]
    return [Span(a, b, str(letter)) for a, b, letter in zip(edges[:-1], edges[1:], labels, strict=True)]
