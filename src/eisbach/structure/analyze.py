"""One clip in, every metric out, with flags that say what should not be trusted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eisbach.structure.details import describe
from eisbach.structure.energy import bandwidth_hz, is_clipped, noise_floor_db, share_of
from eisbach.structure.features import MAX_SECONDS, SAMPLE_RATE, Features, extract_features
from eisbach.structure.flatness import IS_FLAT_FROM, flat_probability, judge_identity
from eisbach.structure.metrics import METRICS, measure
from eisbach.structure.spectra import long_term_spectrum
from eisbach.types import Record, Waveform

ANALYSIS_VERSION = 2
"""Raised whenever a number that `analyze` returns would change; records of another version are computed anew."""

NARROW_BAND_HZ = 4300.0
"""Clips without energy above this (8 kHz recordings, say) are flagged ``narrow_band``."""


CONDITIONS = (
    "duration", "analysed_seconds", "sample_rate", "channels", "peak_db", "noise_floor_db", "bandwidth_hz",
    "share_below_200", "share_above_2000",
)  # fmt: skip
"""Circumstances reported beside every result; see `Analysis.conditions`."""


@dataclass(frozen=True)
class Analysis:
    """What `analyze` found.

    Attributes
    ----------
    metrics : dict of str to float
        One value a metric of `METRICS`; NaN where it is undefined, and then a flag ``undefined:<metric>`` says so.
    conditions : dict of str to float
        What a comparison has to hold equal: `duration` and `analysed_seconds` (s), `sample_rate` (Hz), `channels`,
        `peak_db` (dBFS), `noise_floor_db` (dB below the clip's maximum), `bandwidth_hz`, and the energy shares
        `share_below_200` and `share_above_2000` (0-1).
    flags : list of str
        ``silent``, ``clipped``, ``narrow_band``, ``too_short`` (some metric needs more), ``capped`` (only the first ten minutes were
        analysed), ``undefined:<metric>``.
    flat_probability : float
        `flatness.flat_probability` of the metrics; 1 for silence.
    features : Features
        For pictures.
    """

    metrics: dict[str, float]
    conditions: dict[str, float]
    flags: list[str]
    flat_probability: float
    features: Features = field(repr=False)

    def record(self) -> Record:
        """Flat columns for a table: NaN becomes None, flags are joined by ``;``."""
        row: Record = {}
        for name, value in {**self.metrics, **self.conditions}.items():
            row[name] = None if np.isnan(value) else float(value)
        row["flat_probability"] = None if np.isnan(self.flat_probability) else float(self.flat_probability)
        row["is_flat"] = None if np.isnan(self.flat_probability) else bool(self.flat_probability >= IS_FLAT_FROM)
        row["flags"] = ";".join(self.flags)
        return row

    def detail(self) -> dict[str, Any]:
        """What a page needs beside the record: JSON-ready, lists of plain numbers.

        `sections` (`boundaries` in seconds from the start of the file, `strengths`, `labels`), `embedding` (64 texture
        statistics, or None under 2 s) and `onsets` (seconds from the start of the file).
        """
        return describe(self.features)


def analysis_version() -> str:
    """What has to be equal for a stored record to be taken up again: this module's version and the judge's constants."""
    return f"{ANALYSIS_VERSION}-{judge_identity()}"


RECORD_COLUMNS: tuple[str, ...] = (*METRICS, *CONDITIONS, "flat_probability", "is_flat", "flags")
"""The columns of `Analysis.record`, in order."""


def analyze(waveform: Waveform, *, full_duration: float | None = None) -> Analysis:
    """Every metric of a waveform.

    Parameters
    ----------
    waveform : Waveform
        Any sample rate and number of channels.
    full_duration : float or None
        Seconds of the whole recording, when `waveform` is only its beginning.

    Raises
    ------
    AudioError
        Empty or non-finite samples.
    """
    features = extract_features(waveform)
    duration = waveform.duration if full_duration is None else full_duration
    conditions = _conditions(waveform, features, duration)
    flags = []
    if features.duration == 0.0:
        flags.append("silent")
    if is_clipped(waveform.samples):
        flags.append("clipped")
    if not np.isnan(conditions["bandwidth_hz"]) and conditions["bandwidth_hz"] < NARROW_BAND_HZ:
        flags.append("narrow_band")
    if 0.0 < features.duration < max(metric.min_seconds for metric in METRICS.values()):
        flags.append("too_short")
    if duration > MAX_SECONDS or duration > waveform.duration + 1.0:  # compressed files' headers are not exact
        flags.append("capped")
    metrics = measure(features)
    flags += [f"undefined:{name}" for name, value in metrics.items() if np.isnan(value)]
    probability = 1.0 if features.duration == 0.0 else flat_probability(metrics)
    return Analysis(metrics, conditions, flags, probability, features)


def _conditions(waveform: Waveform, features: Features, duration: float) -> dict[str, float]:
    peak = float(np.abs(waveform.samples).max())
    values = (duration, features.duration, float(waveform.sample_rate), float(waveform.channels),
              20.0 * float(np.log10(max(peak, 1e-10))), noise_floor_db(features))  # fmt: skip
    if features.duration == 0.0:
        return dict(zip(CONDITIONS, (*values, *[float("nan")] * 3), strict=True))
    spectrum = long_term_spectrum(features.samples)
    shares = (share_of(spectrum, SAMPLE_RATE, 0.0, 200.0), share_of(spectrum, SAMPLE_RATE, 2000.0, SAMPLE_RATE))
    return dict(zip(CONDITIONS, (*values, bandwidth_hz(spectrum, SAMPLE_RATE), *shares), strict=True))
