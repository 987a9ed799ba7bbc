"""What a metric must not depend on, declared as data so that a bench and the tests can hold it to its word.

Conventions: a change of condition keeps the musical content and changes the recording. The six conditions are those of
`CONDITIONS`; a metric states for each how far its value may move, in its own unit: 0 is *exact* (rounding only,
`EXACT_TOLERANCE`), a positive number is *close* (within that much), None is *no* (it may move by any amount, and comparisons have to hold the
condition equal).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

CONDITIONS = ("gain", "sample_rate", "stereo", "codec", "noise_floor", "length")
"""gain: turned down or up without clipping. sample_rate: the same sound at 44.1 and 48 kHz. stereo: two channels of unequal
level. codec: through a lossy file (Vorbis). noise_floor: hiss 50 dB below the clip's level added. length: the same form with
every section half as long again."""

EXACT_TOLERANCE = 2e-3
"""An *exact* metric may move by this share of its value (of 1 for values under 1): float32 rounding and dither, no more."""

Kind = Literal["exact", "close", "no"]


@dataclass(frozen=True)
class Invariances:
    """How far a metric may move under each condition, in its own unit: 0 exact, positive close, None not invariant."""

    gain: float | None = 0.0
    sample_rate: float | None = None
    stereo: float | None = 0.0
    codec: float | None = None
    noise_floor: float | None = None
    length: float | None = None

    def kind(self, condition: str) -> Kind:
        """``exact``, ``close`` or ``no``."""
        tolerance = self.tolerance(condition)
        return "no" if tolerance is None else "exact" if tolerance == 0.0 else "close"

    def tolerance(self, condition: str) -> float | None:
        """The declared tolerance under a condition of `CONDITIONS`; None where the metric is not invariant."""
        values: dict[str, float | None] = asdict(self)
        return values[condition]

    def holds(self, condition: str, before: float, after: float) -> bool:
        """Whether a metric that read `before` and reads `after` under `condition` keeps its word (always where it gave none)."""
        tolerance = self.tolerance(condition)
        if tolerance is None:
            return True
        if before != before or after != after:  # NaN: undefined before must be undefined after
            return before != before and after != after
        allowed = EXACT_TOLERANCE * max(1.0, abs(before)) if tolerance == 0.0 else tolerance
        return abs(after - before) <= allowed
