"""One clip in, every metric out, with flags that say what should not be trusted."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.errors import AudioError
from eisbach.structure.energy import NARROW_BAND_HZ, bandwidth_hz, noise_floor_db, share_of
from eisbach.structure.features import (
    MAX_SECONDS,
    SAMPLE_RATE,
    Features,
    features_of_survey,
    one_thread,
    source_of,
    texture_statistics,
)
from eisbach.structure.flatness import FLAT_KINDS, IS_FLAT_FROM, judge_identity, kind_probabilities
from eisbach.structure.loudness_meter import integrated_loudness
from eisbach.structure.metrics import METRICS, measure
from eisbach.structure.metrics.paper import pc1_share_of_surrogates
from eisbach.structure.sections import find_sections
from eisbach.structure.sets.clips import clip_sketch
from eisbach.structure.sets.onset_details import onset_events, pack_attacks
from eisbach.structure.sources import Source
from eisbach.structure.survey import Survey, survey
from eisbach.types import Record, Waveform

ANALYSIS_VERSION = 11
"""Raised whenever a number that `analyze` returns would change; records of another version are computed anew."""

CONDITIONS = (
    "duration", "analysed_seconds", "sample_rate", "channels", "peak_db", "noise_floor_db", "bandwidth_hz",
    "share_below_200", "share_above_2000", "loudness_lufs", "pc1_share_walk", "pc1_share_phases",
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
        `peak_db` (dBFS), `noise_floor_db` (dB below the clip's maximum), `bandwidth_hz`, the energy shares
        `share_below_200` and `share_above_2000` (0-1), `loudness_lufs` (integrated loudness), and what the paper's
        share of PC1 is for surrogates of the clip without any structure (`pc1_share_walk`, `pc1_share_phases`, see
        `paper.pc1_share_of_surrogates`).
    flags : list of str
        ``silent``; ``clipped``; ``dc_offset`` (it was taken off); ``phase_cancelling`` (the channels cancel: the
        loudest one was analysed); ``truncated`` (the file holds less than it states); ``mislabelled`` (its ending names
        another format); ``narrow_band``; ``too_short`` (some metric needs more); ``capped`` (only its first two hours
        were analysed); ``undefined:<metric>``.
    kinds : dict of str to float
        `flatness.kind_probabilities`: of `none` and of each of `FLAT_KINDS`, in all 1; NaN for clips too short to
        judge. Silence is `still`.
    features : Features
        For pictures.
    """

    metrics: dict[str, float]
    conditions: dict[str, float]
    flags: list[str]
    kinds: dict[str, float]
    features: Features = field(repr=False)

    @property
    def flat_probability(self) -> float:
        """Probability that the clip is flat in any way."""
        return 1.0 - self.kinds["none"]

    def record(self) -> Record:
        """Flat columns for a table: NaN becomes None, flags are joined by ``;``."""
        row: Record = {}
        flat = {"flat_probability": self.flat_probability} | {f"flat_{kind}": self.kinds[kind] for kind in FLAT_KINDS}
        for name, value in {**self.metrics, **self.conditions, **flat}.items():
            row[name] = None if np.isnan(value) else float(value)
        row["is_flat"] = None if np.isnan(self.flat_probability) else bool(self.flat_probability >= IS_FLAT_FROM)
        row["flags"] = ";".join(self.flags)
        return row

    def detail(self) -> dict[str, Any]:
        """What a page needs beside the record: JSON-ready, lists of plain numbers.

        `sections` (`boundaries` in seconds from the start of the file, `strengths`, `labels`, and of the large form
        `large` and `large_labels`), `embedding` (64 texture
        statistics, or None under 2 s), `onsets` (seconds from the start of the file) and `attacks` (what enters at each
        onset, `sets.onset_details.pack_attacks`), and `sketch` (`sets.clips.clip_sketch`).
        Times count the silence at the file's start.
        """
        with one_thread():
            sections, events = find_sections(self.features), onset_events(self.features)
            embedding, sketch = texture_statistics(self.features), clip_sketch(self.features)
        return {
            "sections": {
                "boundaries": [round(time, 3) for time in sections.boundaries],
                "strengths": [round(strength, 4) for strength in sections.strengths],
                "labels": list(sections.labels),
                "large": [round(time, 3) for time in sections.large],
                "large_labels": list(sections.large_labels),
            },
            "embedding": None if embedding is None else [round(float(value), 5) for value in embedding],
            "onsets": [round(float(time), 3) for time in events.times],
            "attacks": pack_attacks(events),
            "sketch": sketch,
        }


def analysis_version() -> str:
    """What has to be equal for a stored record to be taken up again: this module's version and the judge's
    constants."""
    return f"{ANALYSIS_VERSION}-{judge_identity()}"


RECORD_COLUMNS: tuple[str, ...] = (
    *METRICS, *CONDITIONS, "flat_probability", *(f"flat_{kind}" for kind in FLAT_KINDS), "is_flat", "flags"
)  # fmt: skip
"""The columns of `Analysis.record`, in order."""


def analyze(
    audio: Waveform | str | Path | Source, *, device: str | None = None, max_seconds: float = MAX_SECONDS
) -> Analysis:
    """Every metric of a waveform or a file.

    Parameters
    ----------
    audio : Waveform, path or Source
        Any sample rate and number of channels. A file is read in blocks, so that hours of it need no more memory than
        their frames.
    device : str or None
        See `features.extract_features`.
    max_seconds : float
        Longer recordings are analysed up to here and flagged ``capped``.

    Raises
    ------
    AudioError
        Empty or non-finite samples, or a file that cannot be read.

    Examples
    --------
    >>> import numpy as np
    >>> from eisbach.structure import analyze
    >>> from eisbach.types import Waveform
    >>> time = np.arange(20 * 22050) / 22050
    >>> half = np.where(time < 10, 220.0, 660.0)  # one tone for ten seconds, then another
    >>> sound = Waveform((0.3 * np.sin(2 * np.pi * half * time)).astype(np.float32)[None], 22050)
    >>> analysis = analyze(sound)
    >>> round(analysis.metrics["block_scale"], 1), round(analysis.metrics["level_range"])
    (6.5, 0)
    >>> [round(time) for time in analysis.detail()["sections"]["boundaries"]]
    [10]
    """
    with one_thread():
        return _analyze(source_of(audio), device, max_seconds)


def _analyze(source: Source, device: str | None, max_seconds: float) -> Analysis:
    extent = survey(source, max_seconds)
    features = features_of_survey(source, extent, device=device)
    conditions = _conditions(source, extent, features)
    metrics = measure(features)
    flags = [name for name in ("silent", "clipped", "dc_offset", "phase_cancelling") if getattr(extent, name)]
    flags += source.faults(extent.frames) if not extent.more else []
    if conditions["bandwidth_hz"] < NARROW_BAND_HZ:  # NaN for silence is not narrow
        flags.append("narrow_band")
    if 0.0 < features.duration < max(metric.min_seconds for metric in METRICS.values()):
        flags.append("too_short")
    if extent.more:
        flags.append("capped")
    flags += [f"undefined:{name}" for name, value in metrics.items() if np.isnan(value)]
    return Analysis(metrics, conditions, flags, kind_probabilities(features), features)


def analyze_array(samples: np.ndarray, sample_rate: float, *, device: str | None = None) -> Analysis | list[Analysis]:
    """Every metric of audio in an array.

    Parameters
    ----------
    samples : np.ndarray [shape=(n,), (channels, n) or (batch, channels, n)]
        Floating point in the nominal range [-1, 1]; integers are taken at their full scale.
    sample_rate : float
        Hz.

    Returns
    -------
    Analysis, or a list of them for a batch

    Raises
    ------
    AudioError
        Another number of axes, empty or non-finite samples, or a rate that is not positive.
    """
    samples = np.asarray(samples)
    if samples.ndim == 3:
        return [_analyze_one(clip, sample_rate, device) for clip in samples]
    return _analyze_one(samples, sample_rate, device)


def _analyze_one(samples: np.ndarray, sample_rate: float, device: str | None) -> Analysis:
    if samples.ndim not in (1, 2) or samples.dtype.kind not in "fiu":
        raise AudioError(
            f"samples must be numbers of shape (n,), (channels, n) or (batch, channels, n), not {samples.dtype} of "
            "shape "
            f"{samples.shape}."
        )
    if samples.dtype.kind == "u":
        raise AudioError(f"samples of type {samples.dtype} have no agreed zero; pass signed integers or floats.")
    if samples.ndim == 2 and samples.shape[0] > samples.shape[1]:
        raise AudioError(f"samples must be (channels, n), not {samples.shape}; transpose the array.")
    if samples.dtype.kind == "i":
        samples = samples / float(-np.iinfo(samples.dtype).min)
    if not (np.isfinite(sample_rate) and sample_rate > 0):
        raise AudioError(f"a sample rate must be positive, not {sample_rate} Hz.")
    rate = int(sample_rate) if float(sample_rate).is_integer() else sample_rate
    return analyze(Waveform(np.atleast_2d(samples).astype(np.float32), rate), device=device)  # type: ignore[arg-type]


def _conditions(source: Source, extent: Survey, features: Features) -> dict[str, float]:
    duration = max(extent.seconds, source.declared_seconds()) if extent.more else extent.seconds
    values = [duration, features.duration, float(source.sample_rate), float(source.channels),
              20.0 * float(np.log10(max(extent.peak, 1e-10))), noise_floor_db(features)]  # fmt: skip
    if extent.silent:
        values += [float("nan")] * 3
    else:
        spectrum = features.spectrum
        values += [bandwidth_hz(spectrum, SAMPLE_RATE), share_of(spectrum, SAMPLE_RATE, 0.0, 200.0),
                   share_of(spectrum, SAMPLE_RATE, 2000.0, SAMPLE_RATE)]  # fmt: skip
    values.append(integrated_loudness(features.loudness_blocks))
    values += pc1_share_of_surrogates(features)
    return dict(zip(CONDITIONS, values, strict=True))
