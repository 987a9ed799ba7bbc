"""Whether the metrics keep the invariances that they declare.

Synthetic pieces of two families (additive tones; instruments unlike one another) are turned down and up, resampled,
panned, sent through Vorbis, given hiss and made half as long again; every metric is measured before and after, and its
largest change is set beside what it declares.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from eisbach.studies.ground_truth import synthetic
from eisbach.studies.ground_truth.invariance_check import Piece, check_invariances
from eisbach.studies.ground_truth.synthetic_varied import varied_form
from eisbach.types import Waveform

FORMS = ("ABCA", "AABA", "ABCD", "ABAB")


def pieces(count: int, section_seconds: float) -> list[Piece]:
    """`count` pieces of each family, by the length of their sections."""
    made: list[Piece] = []
    for seed in range(count):
        letters = FORMS[seed % len(FORMS)]
        for form in (synthetic.form, varied_form):
            made.append(partial(_piece, form, letters, section_seconds, 60 + seed))
    return made


def _piece(
    form: Callable[[str, float, int], Waveform], letters: str, section_seconds: float, seed: int, longer: float
) -> Waveform:
    return form(letters, section_seconds * longer, seed)


def check(count: int, section_seconds: float) -> dict[str, Any]:
    """Every metric under every condition, over `count` pieces of each family with four sections of
    `section_seconds`."""
    outcomes = check_invariances(pieces(count, section_seconds))
    rows = [{key: _plain(value) for key, value in asdict(outcome).items()} for outcome in outcomes]
    return {"pieces": 2 * count, "section_seconds": section_seconds, "outcomes": rows}


def _plain(value: object) -> object:
    if not isinstance(value, float):
        return value
    return None if math.isnan(value) else round(value, 6)
