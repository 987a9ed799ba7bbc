"""Whether the metrics keep the invariances that they declare.

Synthetic pieces of two families (additive tones; instruments unlike one another) are turned down and up, resampled,
panned, sent through Vorbis, given hiss and made half as long again; every metric is measured before and after, and its
largest change is set beside what it declares.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from eisbach.audio import resample, write_blocks
from eisbach.structure.features import extract_features
from eisbach.structure.metrics import METRICS, Metric, measure
from eisbach.structure.metrics.base import CONDITIONS, Kind
from eisbach.studies.ground_truth import synthetic
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


_NOISE_DB = -50.0
"""Level of the added hiss relative to the clip's RMS."""
_LONGER = 1.5
"""How much longer every section is under ``length``."""

Piece = Callable[[float], Waveform]
"""A piece as a function of how long its sections are, relative to the original."""


@dataclass(frozen=True)
class Outcome:
    """What a condition did to a metric over a set of pieces.

    Attributes
    ----------
    metric, condition : str
    declared : str
        ``exact``, ``close`` or ``no``.
    tolerance : float or None
        As declared, in the metric's unit.
    largest : float
        Largest change over the pieces (NaN when it is defined for none).
    typical : float
        Median value over the unchanged pieces.
    pieces : int
        Comparisons.
    broken : int
        Comparisons that broke the declaration.
    """

    metric: str
    condition: str
    declared: Kind
    tolerance: float | None
    largest: float
    typical: float
    pieces: int
    broken: int


def variants(waveform: Waveform, seed: int) -> Iterator[tuple[str, Waveform]]:
    """The same music under every condition but ``length``: (condition, waveform), twice where there are two
    directions."""
    samples, rate = waveform.samples, waveform.sample_rate
    louder = 0.98 / max(float(np.abs(samples).max()), 1e-9)
    for gain in (0.03, louder):
        yield "gain", Waveform(samples * np.float32(gain), rate)
    for other in (44100, 48000):
        yield "sample_rate", resample(waveform, other)
    mono = samples.mean(axis=0, keepdims=True)
    yield "stereo", Waveform(np.concatenate([1.6 * mono, 0.4 * mono]).astype(np.float32), rate)
    yield "codec", _through_vorbis(resample(waveform, 44100))
    level = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) * 10.0 ** (_NOISE_DB / 20.0)
    hiss = np.random.default_rng([seed, 51]).standard_normal(samples.shape, dtype=np.float32)
    yield "noise_floor", Waveform(samples + np.float32(level) * hiss, rate)


def _through_vorbis(waveform: Waveform) -> Waveform:
    """A waveform written as Ogg Vorbis at libsndfile's default quality, and read again."""
    import soundfile as sf

    buffer = io.BytesIO()
    write_blocks(buffer, waveform.samples, int(waveform.sample_rate), format="OGG", subtype="VORBIS")
    buffer.seek(0)
    data, rate = sf.read(buffer, dtype="float32", always_2d=True)
    return Waveform(np.ascontiguousarray(data.T), int(rate))


def check_invariances(pieces: Sequence[Piece], metrics: Mapping[str, Metric] = METRICS) -> list[Outcome]:
    """Every metric under every condition, over pieces of any kind: one `Outcome` each, in the order of the tables."""
    pairs: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for seed, piece in enumerate(pieces):
        original = piece(1.0)
        before = measure(extract_features(original))
        for condition, changed in [*variants(original, seed), ("length", piece(_LONGER))]:
            after = measure(extract_features(changed))
            for name in metrics:
                pairs.setdefault((name, condition), []).append((before[name], after[name]))
    return [_outcome(metrics[name], condition, pairs[name, condition]) for name in metrics for condition in CONDITIONS]


def _outcome(metric: Metric, condition: str, pairs: Sequence[tuple[float, float]]) -> Outcome:
    declared = metric.invariances
    changes = np.array([abs(after - before) for before, after in pairs])
    known = changes[~np.isnan(changes)]
    originals = np.array([before for before, _ in pairs if before == before])
    return Outcome(
        metric.name,
        condition,
        declared.kind(condition),
        declared.tolerance(condition),
        float(known.max()) if len(known) else float("nan"),
        float(np.median(originals)) if len(originals) else float("nan"),
        len(pairs),
        sum(not declared.holds(condition, before, after) for before, after in pairs),
    )
