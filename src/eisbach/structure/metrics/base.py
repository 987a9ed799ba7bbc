"""What a metric is: a function of features with its unit, its range, and what it must not depend on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Literal

from eisbach.structure.features import Features

CONDITIONS = ("gain", "sample_rate", "stereo", "codec", "noise_floor", "length")
"""Changes of the recording that keep the musical content. gain: turned down or up without clipping. sample_rate: the
same sound at 44.1 and 48 kHz. stereo: two channels of unequal level. codec: through a lossy file (Vorbis). noise_floor:
hiss 50 dB below the clip's level added. length: the same form with every section half as long again."""

_EXACT_TOLERANCE = 2e-3
"""An *exact* metric may move by this share of its value (of 1 for values under 1): float32 rounding and dither, no
more."""

Kind = Literal["exact", "close", "no"]


@dataclass(frozen=True)
class Invariances:
    """How far a metric may move under each condition of `CONDITIONS`, in its own unit.

    0 is *exact* (rounding only), a positive number *close* (within that much), None *no*: it may move by any amount,
    and comparisons have to hold the condition equal.
    """

    gain: float | None = 0.0
    sample_rate: float | None = 0.0
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
        """Whether a metric that read `before` and reads `after` keeps its word (always where it gave none)."""
        tolerance = self.tolerance(condition)
        if tolerance is None:
            return True
        if before != before or after != after:  # NaN: undefined before must be undefined after
            return before != before and after != after
        allowed = _EXACT_TOLERANCE * max(1.0, abs(before)) if tolerance == 0.0 else tolerance
        return abs(after - before) <= allowed


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number about a clip.

    Attributes
    ----------
    name : str
        Column name in records.
    label : str
        Title for tables and pictures.
    unit : str
        Unit for axis labels; "" for a pure number.
    range : (float, float)
        Bounds that every value respects.
    higher_means : str
        What a higher value means, in words a reader understands.
    family : str
        What it is about: ``form``, ``repetition``, ``texture``, ``dynamics``, ``rhythm`` or ``paper``.
    min_seconds : float
        Shortest analysed length at which the metric is defined; shorter clips get no value and a flag.
    function : callable (Features) -> float
        NaN where the metric is undefined for the clip.
    primary : bool
        Belongs to the declared primary set (corrected by Holm), not to the exploratory rest.
    invariances : Invariances
        What it must not depend on, and how closely.
    contradicted_by : str
        For a quantity of the paper that is kept as printed: the ground truth that speaks against it. "" for all others.
        Such a metric is never primary, and tables mark it.
    """

    name: str
    label: str
    unit: str
    range: tuple[float, float]
    higher_means: str
    family: str
    min_seconds: float
    function: Callable[[Features], float]
    primary: bool = False
    invariances: Invariances = field(default_factory=Invariances)
    contradicted_by: str = ""

    def __post_init__(self) -> None:
        if self.contradicted_by and self.primary:
            raise ValueError(f"{self.name} is contradicted by ground truth and cannot be primary")

    @property
    def as_printed(self) -> bool:
        """Whether it is one of the paper's own quantities, kept beside a better one."""
        return bool(self.contradicted_by)
