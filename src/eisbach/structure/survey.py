"""The first pass over a recording: what it holds, where it begins and ends, and what is wrong with it.

Nothing here grows with the length of the recording but 50 numbers a second (and, up to `BUFFER_SECONDS`, the mono
signal itself, so that only longer files are read twice).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from eisbach.audio import SILENCE_PEAK
from eisbach.structure.loudness_meter import LoudnessMeter
from eisbach.structure.sources import Source

SAMPLE_RATE = 22050
"""Hz; everything is analysed at this rate."""
HOP = 441
"""Samples of a mel frame and of the blocks that trimming looks at: 20 ms."""
BUFFER_SECONDS = 600.0
"""Up to this length the mono signal is kept between the passes (53 MB); longer recordings are decoded twice."""

_TRIM_DB = 65.0  # ends quieter than this below the loudest 20 ms are silence; a 60 dB crescendo keeps its start
_FULL_SCALE = 0.99
_LOWEST_TOP = 0.05  # what was clipped and then turned down has lower tops; below this they may be quantisation
_CLIPPED_SHARE = 2e-5  # flat tops a sample
_SHOULDER = 1e-3  # the sample before a flat top is this much lower; before the crest of a slow wave it is not
_DC_SHARE = 1e-3  # of the power, from which an offset is worth a flag, at any level: loud and soft must read alike
_DC_SECONDS = 0.2  # the mean of a shorter sound is no offset
_CANCELLED = 0.1  # of the power that uncorrelated channels would leave in their mean


@dataclass(frozen=True)
class Survey:
    """What the first pass found.

    Attributes
    ----------
    seconds : float
        Length that was read.
    frames : int
        Samples a channel that were read.
    more : bool
        The recording goes on beyond the limit.
    peak : float
        Largest absolute sample of any channel.
    clipped, dc_offset, phase_cancelling, silent : bool
        See `flags` in `analyze.Analysis`.
    mix : int or None
        Channel that is analysed; None is the mean of all of them.
    offset : float
        Subtracted from the mono signal: its mean where `dc_offset`, else 0.
    first, last : int
        The sound's extent in the mono signal at 22.05 kHz; both 0 for silence.
    loudness_blocks : np.ndarray
        K-weighted mean squares, ten a second.
    """

    seconds: float
    frames: int
    more: bool
    peak: float
    clipped: bool
    dc_offset: bool
    phase_cancelling: bool
    silent: bool
    mix: int | None
    offset: float
    first: int
    last: int
    loudness_blocks: np.ndarray
    buffer: tuple[np.ndarray, ...] | None

    def mono(self, source: Source) -> Iterator[np.ndarray]:
        """The sound between `first` and `last`, in chunks, without its offset: from memory, or read again."""
        chunks = _mono_chunks(source, self.mix, self.seconds) if self.buffer is None else iter(self.buffer)
        position = 0
        for chunk in chunks:
            start, end = max(self.first - position, 0), min(self.last - position, len(chunk))
            position += len(chunk)
            if start < end:
                part = chunk[start:end]
                yield part - np.float32(self.offset) if self.offset else part
            if position >= self.last:
                return


def survey(source: Source, max_seconds: float) -> Survey:
    """Reads a source once, up to `max_seconds`.

    Raises
    ------
    AudioError
        What `Source.blocks` raises.
    """
    channels = _Channels(source.channels)
    meter = LoudnessMeter(source.sample_rate, source.channels)
    track, more = _Track(), False
    resampler = Resampler(source.sample_rate)
    for block, ends in _limited(source, max_seconds):
        more = more or ends
        mono = block.mean(axis=0)
        channels.push(block, mono)
        meter.push(block)
        track.push(resampler.push(mono))
    track.push(resampler.finish())
    mix = channels.loudest() if channels.cancelling() else None
    if mix is not None:  # rare enough to read again: the mean of the channels holds next to nothing
        track = _Track()
        for chunk in _mono_chunks(source, mix, max_seconds):
            track.push(chunk)
    offset = channels.mean(mix, source.sample_rate)
    first, last, silent = track.extent(offset)
    if offset and not silent:
        offset = track.mean(first, last)
    return Survey(
        channels.count / source.sample_rate, channels.count, more, channels.peak, channels.clipped(), offset != 0.0,
        mix is not None, silent, mix, offset, first, last, meter.finish(), track.buffer,
    )  # fmt: skip


def _mono_chunks(source: Source, mix: int | None, max_seconds: float) -> Iterator[np.ndarray]:
    """One channel (or the mean of all) at 22.05 kHz, in chunks [shape=(n,), float32]."""
    resampler = Resampler(source.sample_rate)
    for block, _ in _limited(source, max_seconds):
        yield resampler.push(block.mean(axis=0) if mix is None else block[mix])
    yield resampler.finish()


def _limited(source: Source, max_seconds: float) -> Iterator[tuple[np.ndarray, bool]]:
    """Blocks up to the limit, and with each whether the recording goes on beyond it."""
    left = round(max_seconds * source.sample_rate)
    for block in source.blocks():
        cut = block.shape[1] > left
        yield (block[:, :left] if cut else block), cut
        left -= block.shape[1]
        if cut:
            return


class Resampler:
    """A stream from any rate to 22.05 kHz; the chunks together equal soxr's result for the whole, bit for bit."""

    def __init__(self, sample_rate: float) -> None:
        self._stream = None
        if sample_rate != SAMPLE_RATE:
            import soxr

            self._stream = soxr.ResampleStream(sample_rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")

    def push(self, samples: np.ndarray) -> np.ndarray:
        """What can be said at the new rate after these samples [shape=(n,), float32]."""
        return samples if self._stream is None else self._stream.resample_chunk(np.ascontiguousarray(samples))

    def finish(self) -> np.ndarray:
        """The rest."""
        empty = np.zeros(0, np.float32)
        return empty if self._stream is None else self._stream.resample_chunk(empty, last=True)


class _Channels:
    """Running statistics of the channels as they are in the recording."""

    def __init__(self, channels: int) -> None:
        self.count, self.peak = 0, 0.0
        self._sum, self._energy = np.zeros(channels), np.zeros(channels)
        self._mono_energy = 0.0
        self._flat = 0  # flat tops at `_top`
        self._top = 0.0
        self._carry = np.zeros((channels, 0), np.float32)

    def push(self, block: np.ndarray, mono: np.ndarray) -> None:
        if block.shape[1] == 0:
            return
        self.count += block.shape[1]
        self._sum += block.sum(axis=1, dtype=np.float64)
        # float32 products are exact enough for shares of a per cent, and ten times faster than float64
        self._energy += np.einsum("ij,ij->i", block, block)
        self._mono_energy += float(np.dot(mono, mono))
        peak = max(float(block.max()), -float(block.min()))
        self.peak = max(self.peak, peak)
        self._clip(block, peak)

    def _clip(self, block: np.ndarray, peak: float) -> None:
        """Counts flat tops (three samples or more at the peak); an encoder's overshoots beyond 1 count as full
        scale."""
        full = self.peak >= _FULL_SCALE
        top = max(_FULL_SCALE, min(1.0, self.peak) - 1e-4) if full else self.peak
        if top > self._top + 1e-4 * full:  # tops counted so far lie below the real one
            self._flat = 0
        self._top = max(self._top, top)
        if peak >= self._top >= _LOWEST_TOP:
            height = np.abs(np.concatenate([self._carry, block], axis=1))
            at_top = height >= self._top
            begins = height[:, :-3] < (1.0 - _SHOULDER) * self._top
            self._flat += int((begins & at_top[:, 1:-2] & at_top[:, 2:-1] & at_top[:, 3:]).sum())
        self._carry = block[:, -3:].copy()

    def clipped(self) -> bool:
        return self._flat > _CLIPPED_SHARE * self.count * len(self._sum)

    def cancelling(self) -> bool:
        """Whether averaging the channels loses most of the sound."""
        channels = len(self._sum)
        return channels > 1 and self._mono_energy < _CANCELLED * self._energy.mean() / channels

    def loudest(self) -> int:
        return int(self._energy.argmax())

    def mean(self, mix: int | None, rate: float) -> float:
        """The mean of the mono signal where it is an offset that matters; 0 elsewhere."""
        if self.count < _DC_SECONDS * rate:
            return 0.0
        mean = float(self._sum.mean() if mix is None else self._sum[mix]) / self.count
        power = (self._mono_energy if mix is None else float(self._energy[mix])) / self.count
        return mean if mean**2 > _DC_SHARE * power else 0.0


class _Track:
    """The mono signal at 22.05 kHz: its energy in blocks of 20 ms, and while it is short the signal itself."""

    def __init__(self) -> None:
        self.buffer: tuple[np.ndarray, ...] | None = ()
        self._chunks: list[np.ndarray] = []
        self._carry = np.zeros(0, np.float32)
        self._energy: list[np.ndarray] = []
        self._sums: list[np.ndarray] = []
        self._low, self._high, self._count = 0.0, 0.0, 0

    def push(self, samples: np.ndarray) -> None:
        if len(samples) == 0:
            return
        self._low = min(self._low, float(samples.min())) if self._count else float(samples.min())
        self._high = max(self._high, float(samples.max())) if self._count else float(samples.max())
        self._count += len(samples)
        if self.buffer is not None:
            self._chunks.append(samples)
            self.buffer = tuple(self._chunks) if self._count <= BUFFER_SECONDS * SAMPLE_RATE else None
        joined = np.concatenate([self._carry, samples]) if len(self._carry) else samples
        whole = len(joined) // HOP
        self._add(joined[: whole * HOP].reshape(whole, HOP))
        self._carry = joined[whole * HOP :].copy()

    def _add(self, blocks: np.ndarray) -> None:
        self._energy.append(np.einsum("ij,ij->i", blocks, blocks, dtype=np.float64))
        self._sums.append(blocks.sum(axis=1, dtype=np.float64))

    def extent(self, offset: float) -> tuple[int, int, bool]:
        """First and last sample of the sound, and whether there is none."""
        if max(self._high - offset, offset - self._low) < SILENCE_PEAK:
            return 0, 0, True
        if len(self._carry):
            self._add(np.pad(self._carry, (0, HOP - len(self._carry)))[None])
        energy, sums = np.concatenate(self._energy), np.concatenate(self._sums)
        lengths = np.full(len(energy), float(HOP))
        lengths[-1] = self._count - HOP * (len(energy) - 1)
        if offset:  # each block's own mean: digital silence beside sound with an offset has none
            energy = np.maximum(energy - sums**2 / lengths, 0.0)
        loudest = energy.max()
        if not loudest > 0.0:  # an offset so large that its square rounds the sound away
            return 0, 0, True
        loud = np.flatnonzero(energy > loudest * 10 ** (-_TRIM_DB / 10))
        return int(loud[0]) * HOP, min(int(loud[-1] + 1) * HOP, self._count), False

    def mean(self, first: int, last: int) -> float:
        """The mean between two samples that `extent` gave."""
        sums = np.concatenate(self._sums)[first // HOP : -(-last // HOP)]
        return float(sums.sum()) / (last - first)
