"""Structurally flat material from the same sound world: drones, pads, loops and textures, labelled by kind.

Each clip begins as a performance of a real score, planned exactly as developing material is; its caption is that
performance's caption. What sounds is then made flat from the same instruments and pitches. So the captions of
flat and developing clips come from one distribution and cannot reveal the label.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from eisbach.data.manifest import Manifest
from eisbach.data.performance import Performance
from eisbach.data.render import Clip, RenderSpec, finish, piece_labels, plan_caption, render
from eisbach.data.synth import INSTRUMENTS, Track, dies_away, fold_into, get_font, synthesise
from eisbach.errors import UserError
from eisbach.types import SkipReport, Waveform

KINDS = ("drone", "pad", "loop", "texture")
"""What flat material is made of where nobody chooses."""
_ALL_KINDS = (*KINDS, "noise", "cloud")
"""All that may be chosen: the two halves of "texture", too."""
_LOOP_SECONDS = (1.0, 16.0)

_CROSSFADE = 0.03  # seconds at a loop's joint: no click, no audible breath


def flat_clip(
    spec: RenderSpec, index: int, cache: Path | None, report: SkipReport, *, kinds: tuple[str, ...] = KINDS
) -> Clip:
    """Clip `index` of flat material; kinds take turns."""
    kind = kinds[index % len(kinds)]
    performance, caption, rng = plan_caption(spec, index, cache, report)
    labels = {"kind": kind, "flat": "true", **piece_labels(performance)}
    stereo = spec.channels == 2
    if kind == "loop":
        shortest, longest = _LOOP_SECONDS
        # at least three times round, so that it is heard as a loop
        longest = min(longest, performance.seconds / 3)
        period = float(np.exp(rng.uniform(np.log(min(shortest, longest)), np.log(longest))))
        period = round(period * spec.sample_rate) / spec.sample_rate  # a whole number of samples, so the label is exact
        waveform = loop(performance, period, spec.sample_rate, rng, stereo=stereo)
        labels["loop_seconds"] = f"{period:.6f}"
    else:
        maker = {"drone": drone, "pad": pad, "texture": texture, "noise": coloured_noise, "cloud": cloud}[kind]
        waveform = maker(performance, spec.sample_rate, rng, stereo=stereo)
    return Clip(finish(waveform, rng), caption, labels)


def render_flat(
    out: str | Path, *, clips: int, spec: RenderSpec | None = None, kinds: tuple[str, ...] = KINDS, jobs: int = 1,
    cache: str | Path | None = None, quiet: bool = False,
) -> tuple[Manifest, SkipReport]:  # fmt: skip
    """Flat clips in a folder with their manifest; resumable and deterministic as `render.render` is.

    Raises
    ------
    UserError
        A kind that does not exist, or whatever `render` refuses.
    """
    check_kinds(kinds)
    spec = replace(spec or RenderSpec(), kind="flat-" + "-".join(kinds))
    return render(
        out, clips=clips, spec=spec, jobs=jobs, cache=cache, quiet=quiet, make=partial(flat_clip, kinds=kinds)
    )


def check_kinds(kinds: Sequence[str]) -> None:
    """Refuses a kind that does not exist, or none."""
    if not kinds or any(kind not in _ALL_KINDS for kind in kinds):
        raise UserError(f"kinds must be among {', '.join(_ALL_KINDS)} (got {', '.join(kinds) or 'none'}).")


def drone(performance: Performance, sample_rate: int, rng: np.random.Generator, *, stereo: bool) -> Waveform:
    """One chord of the piece held from beginning to end; what dies away is struck again at a steady pulse."""
    tracks = held_chord(performance, rng, notes=int(rng.integers(1, 4)), pulse=float(rng.uniform(0.25, 1.5)))
    return synthesise(tracks, performance.seconds, sample_rate, stereo=stereo)


def pad(performance: Performance, sample_rate: int, rng: np.random.Generator, *, stereo: bool) -> Waveform:
    """A wide static chord with slow beating: a steady amplitude wave of constant depth, and slightly late doubles."""
    tracks = held_chord(performance, rng, notes=int(rng.integers(3, 6)), pulse=float(rng.uniform(0.4, 1.2)))
    waveform = synthesise(tracks, performance.seconds, sample_rate, stereo=stereo)
    time = np.arange(waveform.samples.shape[1]) / sample_rate
    depth, speed = float(rng.uniform(0.1, 0.5)), float(np.exp(rng.uniform(np.log(0.3), np.log(6.0))))
    wave = 1.0 - depth * (0.5 + 0.5 * np.sin(2 * np.pi * speed * time + float(rng.uniform(0, 2 * np.pi))))
    samples = waveform.samples.copy()
    delay = round(float(rng.uniform(0.011, 0.035)) * sample_rate)
    samples[:, delay:] += 0.7 * waveform.samples[:, :-delay]
    return Waveform((samples * wave).astype(np.float32), sample_rate)


def loop(
    performance: Performance, period: float, sample_rate: int, rng: np.random.Generator, *, stereo: bool
) -> Waveform:
    """A fragment of the piece of `period` seconds, repeated exactly; its joint is crossfaded so that it does not click.

    Raises
    ------
    UserError
        A period that does not fit into the piece with the crossfade behind it.
    """
    fade = round(min(_CROSSFADE, period / 8) * sample_rate) if period > 0 else 0
    length = round(period * sample_rate) if math.isfinite(period) else 0
    total = round(performance.seconds * sample_rate)
    if length < 1 or length + fade > total:
        raise UserError(
            f"a loop of {period:g} s cannot be cut from a clip of {performance.seconds:g} s; give a period of at most "
            f"{max(0.0, performance.seconds - _CROSSFADE):g} s."
        )
    whole = synthesise(performance.tracks, performance.seconds, sample_rate, stereo=stereo).samples
    first = _busy_start(whole, length + fade, rng)
    piece = whole[:, first : first + length + fade].copy()
    ramp = np.sin(np.linspace(0, np.pi / 2, fade)).astype(np.float32)
    # the fade's overhang at the end flows into the beginning: equal power, because the two are not in phase
    cycle = piece[:, :length].copy()
    cycle[:, :fade] = cycle[:, :fade] * ramp + piece[:, length : length + fade] * ramp[::-1]
    return Waveform(np.tile(cycle, -(-total // length))[:, :total], sample_rate)


def _busy_start(samples: np.ndarray, length: int, rng: np.random.Generator) -> int:
    """A start whose stretch is not nearly silent: the loudest of eight drawn."""
    starts = rng.integers(0, max(1, samples.shape[1] - length + 1), 8)
    levels = [float(np.square(samples[:, start : start + length]).mean()) for start in starts]
    return int(starts[int(np.argmax(levels))])


def texture(performance: Performance, sample_rate: int, rng: np.random.Generator, *, stereo: bool) -> Waveform:
    """Noise with the performance's own spectrum, or a cloud of its notes at constant density."""
    if rng.random() < 0.5:
        return coloured_noise(performance, sample_rate, rng, stereo=stereo)
    return cloud(performance, sample_rate, rng, stereo=stereo)


def coloured_noise(performance: Performance, sample_rate: int, rng: np.random.Generator, *, stereo: bool) -> Waveform:
    """Stationary noise filtered to the long-term spectrum of the performance, smoothed over a third of an octave."""
    whole = synthesise(performance.tracks, performance.seconds, sample_rate, stereo=stereo).samples
    count = whole.shape[1]
    size = 4096
    blocks = whole[:, : count // size * size].reshape(whole.shape[0], -1, size)
    power = (np.abs(np.fft.rfft(blocks * np.hanning(size), axis=-1)) ** 2).mean(axis=(0, 1))
    power = _smooth_octaves(power)
    spectrum = np.fft.rfft(rng.standard_normal(whole.shape), axis=-1)
    shape = np.sqrt(np.interp(np.linspace(0, 1, spectrum.shape[1]), np.linspace(0, 1, len(power)), power))
    noise = np.fft.irfft(spectrum * shape, n=count, axis=-1)
    return Waveform((noise / max(float(np.abs(noise).max()), 1e-12)).astype(np.float32), sample_rate)


def _smooth_octaves(power: np.ndarray) -> np.ndarray:
    total = np.concatenate([[0.0], np.cumsum(power)])
    index = np.arange(len(power))
    low = np.floor(index * 2 ** (-1 / 6)).astype(int)
    high = np.minimum(len(power), np.ceil(index * 2 ** (1 / 6)).astype(int) + 1)
    smoothed: np.ndarray = (total[high] - total[low]) / (high - low)
    return smoothed


def cloud(performance: Performance, sample_rate: int, rng: np.random.Generator, *, stereo: bool) -> Waveform:
    """Short notes of the performance's instruments and pitches, at random moments of one constant density."""
    seconds = performance.seconds
    density = float(rng.uniform(8, 25))
    count = max(4, round(density * seconds))
    names = [track.instrument for track in performance.tracks]
    share = np.array([len(track.pitch) for track in performance.tracks], dtype=float)
    chosen = rng.choice(len(names), count, p=share / share.sum())
    # one note in each of `count` equal slots keeps the density even; the moment within the slot is free
    onset = (np.arange(count) + rng.random(count)) * seconds / count
    length = float(rng.uniform(0.08, 0.4))
    tracks = []
    for place, track in enumerate(performance.tracks):
        mine = chosen == place
        if mine.any():
            pitches = rng.choice(np.unique(track.pitch), int(mine.sum()))
            level = np.full(int(mine.sum()), 80.0)
            tracks.append(Track(track.instrument, onset[mine], np.full(len(level), length), pitches, level, track.pan))
    return synthesise(tracks, seconds, sample_rate, stereo=stereo)


def held_chord(performance: Performance, rng: np.random.Generator, *, notes: int, pulse: float) -> list[Track]:
    """A chord that sounds somewhere in the performance, given to its instruments and held throughout."""
    seconds = performance.seconds
    moment = float(rng.uniform(0.1, 0.9)) * seconds
    sounding: list[tuple[str, int, float]] = []
    for track in performance.tracks:
        near = np.argsort(np.abs(track.onset - moment), kind="stable")[:notes]
        sounding += [(track.instrument, int(track.pitch[place]), track.pan) for place in near]
    classes = list(dict.fromkeys(pitch % 12 for _, pitch, _ in sounding))[:notes]
    tracks = []
    for name in dict.fromkeys(name for name, _, _ in sounding):
        instrument = INSTRUMENTS[name]
        own = [(pitch, pan) for other, pitch, pan in sounding if other == name]
        # every instrument holds notes of the same chord, as near as it can to what it played
        wanted = sorted({_nearest(pitch, classes) for pitch, _ in own})
        for pitch in np.unique(fold_into(np.array(wanted), instrument)).tolist():
            onset, duration = _held_notes(name, pitch, seconds, pulse)
            level = np.full(len(onset), 85.0)
            tracks.append(Track(name, onset, duration, np.full(len(onset), pitch), level, own[0][1]))
    return tracks


def _nearest(pitch: int, classes: list[int]) -> int:
    return min(
        (pitch + shift for shift in range(-6, 7) if (pitch + shift) % 12 in classes), key=lambda p: abs(p - pitch)
    )


def _held_notes(name: str, pitch: int, seconds: float, pulse: float) -> tuple[np.ndarray, np.ndarray]:
    envelope = get_font().envelope(INSTRUMENTS[name].program, pitch)
    if not dies_away(envelope):
        return np.zeros(1), np.array([seconds])
    # struck again before it has fallen by 12 dB, always at the same distance
    distance = min(pulse, max(0.08, envelope.audible(12.0) if envelope.sustain > 12.0 else pulse))
    onset = np.arange(0.0, seconds, distance)
    return onset, np.full(len(onset), distance)
