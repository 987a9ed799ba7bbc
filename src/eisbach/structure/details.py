"""What pictures and players need of a clip beside its record: sections, onsets, an embedding."""

from __future__ import annotations

from typing import Any

from eisbach.structure.boundaries import find_sections
from eisbach.structure.features import Features, texture_statistics
from eisbach.structure.sets.onset_details import onset_events, pack_attacks


def describe(features: Features) -> dict[str, Any]:
    """JSON-ready: `sections` (`boundaries`, `strengths`, `labels`), `embedding` (64 floats or None), `onsets` (seconds), `attacks` (what
    enters at each onset, `sets.onset_details.pack_attacks`).

    All times are seconds from the start of the file, silence included.
    """
    found = find_sections(features)
    embedding = texture_statistics(features)
    events = onset_events(features)
    return {
        "sections": {
            "boundaries": [round(time, 3) for time in found.boundaries],
            "strengths": [round(strength, 4) for strength in found.strengths],
            "labels": list(found.labels),
        },
        "embedding": None if embedding is None else [round(float(value), 5) for value in embedding],
        "onsets": [round(float(time), 3) for time in events.times],
        "attacks": pack_attacks(events),
    }
