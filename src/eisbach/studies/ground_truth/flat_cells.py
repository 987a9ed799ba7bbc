"""Labelled material for judging beliefs: developing music and eighteen flat cells, from scores that one split holds out
of the other.

    python -m eisbach.studies.ground_truth.flat_cells --out runs/auc2/dev --side train --seed 71 --clips 120
    --developing 300

`held_out` draws only from scores whose split is held out of the embedded model's training, `train` only from the
others, so the two sets share no score. Clips are 32 s long unless told. Every row's label `cell` names its cell:
`developing`; the flat kinds that `eisbach data flat` makes, with textures and loops taken apart; and `unseen` ones,
made in other ways than any of the package's material, to see whether a statistic found on the former holds on the
latter. The last two were added when the statistic stood.

| cell | what it is |
|---|---|
| drone, pad | a held chord of the piece; a wide one with slow beating |
| texture noise, texture cloud | stationary noise with the piece's spectrum; its notes at random at a constant density |
| loop 1.5-3, 3-6, 6-12, 12-16 s | a fragment of the piece, copied end to end |
| unseen rain | random impulses through resonances at the piece's pitches, 4 to 60 a second |
| unseen AM noise | four bands of noise, each with its own periodic level |
| unseen shimmer | a chord of the piece struck again and again at random moments and levels |
| unseen LFO pad | a held chord whose brightness swings with a period of 2 to 10 s |
| unseen arpeggio | a chord of the piece, its notes in turn at a steady pace |
| unseen played loop 1.5-4, 4-10 s | bars of the piece *played* again each time, with human irregularities of time and
loudness |
| unseen noisy loop | a copied loop of 2 to 10 s under stationary noise 6 to 20 dB softer |
| unseen wind | noise with the piece's spectrum whose level and brightness wander at random, within 0.3 to 2 s |
| unseen granular | grains of 60 to 300 ms from anywhere in 2 to 8 s of the piece, in random order |
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np

from eisbach.data.flat_material import cloud, coloured_noise, drone, held_chord, loop, pad
from eisbach.data.performance import Performance
from eisbach.data.render import Clip, RenderSpec, finish, piece_labels, plan_caption, render
from eisbach.data.scores import list_pieces
from eisbach.data.splits import assign_split
from eisbach.data.synth import INSTRUMENTS, Track, fold_into, synthesise
from eisbach.types import SkipReport, Waveform

_LOOPS = {
    "loop 1.5-3 s": (1.5, 3.0),
    "loop 3-6 s": (3.0, 6.0),
    "loop 6-12 s": (6.0, 12.0),
    "loop 12-16 s": (12.0, 16.0),
}
_PLAYED = {"unseen played loop 1.5-4 s": (1.5, 4.0), "unseen played loop 4-10 s": (4.0, 10.0)}
_TUNES = 300  # of the many short tunes, this many a side: names are matched one by one


def _rain(performance: Performance, sample_rate: int, rng: np.random.Generator) -> Waveform:
    """Impulses at random moments and of random strength through decaying resonances at the piece's own pitches."""
    total = round(performance.seconds * sample_rate)
    pitches = np.unique(np.concatenate([track.pitch for track in performance.tracks]))
    pitches = rng.choice(pitches, min(len(pitches), 8), replace=False)
    rate = float(np.exp(rng.uniform(np.log(4), np.log(60))))
    out = np.zeros(total + sample_rate)
    for pitch in pitches.tolist():
        frequency = min(440 * 2 ** ((pitch - 69) / 12), 0.45 * sample_rate)
        time = np.arange(round(0.5 * sample_rate)) / sample_rate
        ring = np.exp(-time / float(rng.uniform(0.02, 0.15))) * np.sin(2 * np.pi * frequency * time)
        drops = np.zeros(total)
        moments = rng.integers(0, total, rng.poisson(rate * performance.seconds / len(pitches)) + 1)
        np.add.at(drops, moments, rng.exponential(1.0, len(moments)))
        size = 1 << (total + len(ring)).bit_length()
        out[:total] += np.fft.irfft(np.fft.rfft(drops, size) * np.fft.rfft(ring, size), size)[:total]
    return Waveform(out[None, :total].astype(np.float32), sample_rate)


def _am_noise(performance: Performance, sample_rate: int, rng: np.random.Generator) -> Waveform:
    """Four bands of noise between the piece's lowest and highest pitch and an octave above, each with a periodic
    level."""
    total = round(performance.seconds * sample_rate)
    pitches = np.concatenate([track.pitch for track in performance.tracks])
    edges = np.linspace(float(pitches.min()), float(pitches.max()) + 12, 5)
    hertz = 440 * 2 ** ((edges - 69) / 12)
    grid = np.fft.rfftfreq(total, 1 / sample_rate)
    time = np.arange(total) / sample_rate
    out = np.zeros(total)
    for low, high in pairwise(hertz.tolist()):
        spectrum = np.fft.rfft(rng.standard_normal(total)) * ((grid >= low) & (grid < high))
        band = np.fft.irfft(spectrum, total)
        band /= max(float(band.std()), 1e-9)
        speed = float(np.exp(rng.uniform(np.log(0.4), np.log(8.0))))
        swing = 1 - float(rng.uniform(0.3, 0.95)) * (
            0.5 + 0.5 * np.sin(2 * np.pi * speed * time + rng.uniform(0, 6.28))
        )
        out += float(rng.uniform(0.3, 1.0)) * band * swing
    return Waveform(out[None].astype(np.float32), sample_rate)


def _shimmer(performance: Performance, sample_rate: int, rng: np.random.Generator) -> Waveform:
    """Each note of a chord struck again at random moments, 1 to 6 a second, at random levels."""
    seconds = performance.seconds
    rate = float(rng.uniform(1, 6))
    tracks = []
    for track in held_chord(performance, rng, notes=4, pulse=1.0):
        for pitch in np.unique(track.pitch).tolist():
            count = max(2, round(rate * seconds))
            onset = (np.arange(count) + rng.random(count)) * seconds / count
            level = rng.uniform(40, 100, count)
            length = np.full(count, 1.5 / rate)
            tracks.append(Track(track.instrument, onset, length, np.full(count, pitch), level, track.pan))
    return synthesise(tracks, seconds, sample_rate)


def _lfo_pad(performance: Performance, sample_rate: int, rng: np.random.Generator) -> Waveform:
    """A held chord through a low pass whose cutoff swings over one to three octaves, once in 2 to 10 s."""
    base = synthesise(held_chord(performance, rng, notes=4, pulse=0.5), performance.seconds, sample_rate).samples[0]
    period, octaves = float(np.exp(rng.uniform(np.log(2), np.log(10)))), float(rng.uniform(1, 3))
    centre = float(np.exp(rng.uniform(np.log(500), np.log(2000))))
    phase = float(rng.uniform(0, 2 * np.pi))
    size, hop = 1024, 256
    window = np.hanning(size + 1)[:-1]
    padded = np.pad(base, (size, 2 * size))
    grid = np.fft.rfftfreq(size, 1 / sample_rate)
    out = np.zeros(len(padded))
    for start in range(0, len(padded) - size, hop):
        swing = np.sin(2 * np.pi * start / sample_rate / period + phase)
        cutoff = centre * 2 ** (octaves / 2 * swing)
        block = np.fft.rfft(padded[start : start + size] * window) / (1 + (grid / cutoff) ** 4) ** 0.5
        out[start : start + size] += np.fft.irfft(block) * window
    return Waveform(out[None, size : size + len(base)].astype(np.float32), sample_rate)


def _arpeggio(performance: Performance, sample_rate: int, rng: np.random.Generator) -> Waveform:
    """A chord's notes in turn, up or up and down, at a steady pace of 2 to 8 notes a second."""
    seconds = performance.seconds
    step = 1 / float(rng.uniform(2, 8))
    count = int(seconds / step)
    tracks = []
    for track in held_chord(performance, rng, notes=5, pulse=1.0)[:2]:
        low = np.unique(track.pitch)
        notes = np.unique(fold_into(np.concatenate([low, low + 7, low + 12]), INSTRUMENTS[track.instrument]))
        order = np.concatenate([notes, notes[-2:0:-1]]) if rng.random() < 0.5 else notes
        pitch = np.resize(order, count)
        onset = np.arange(count) * step
        tracks.append(Track(track.instrument, onset, np.full(count, step), pitch, np.full(count, 85.0), track.pan))
    return synthesise(tracks, seconds, sample_rate)


def _played_loop(performance: Performance, period: float, sample_rate: int, rng: np.random.Generator) -> Waveform:
    """The notes of one stretch of the piece again and again, each time with small irregularities of its own."""
    seconds = performance.seconds
    onsets = np.concatenate([track.onset for track in performance.tracks])
    starts = rng.uniform(0, max(seconds - period, 1e-3), 8)
    busiest = int(np.argmax([((onsets >= s) & (onsets < s + period)).sum() for s in starts]))
    first, rounds = float(starts[busiest]), int(np.ceil(seconds / period))
    tracks = []
    for track in performance.tracks:
        mine = (track.onset >= first) & (track.onset < first + period)
        if not mine.any():
            continue
        count = int(mine.sum()) * rounds
        shift = np.repeat(np.arange(rounds) * period, int(mine.sum()))
        onset = np.tile(track.onset[mine] - first, rounds) + shift + rng.normal(0, 0.01, count)
        level = np.clip(np.tile(track.velocity[mine], rounds) + rng.normal(0, 4, count), 20, 125)
        length = np.minimum(np.tile(track.duration[mine], rounds), period)
        pitch = np.tile(track.pitch[mine], rounds)
        tracks.append(Track(track.instrument, np.maximum(0, onset), length, pitch, level, track.pan))
    return synthesise(tracks, seconds, sample_rate)


def _noisy_loop(performance: Performance, period: float, sample_rate: int, rng: np.random.Generator) -> Waveform:
    """A copied loop and, under it, stationary noise of the piece's spectrum, 6 to 20 dB softer."""
    music = loop(performance, period, sample_rate, rng, stereo=False).samples
    noise = coloured_noise(performance, sample_rate, rng, stereo=False).samples
    ratio = 10 ** (-float(rng.uniform(6, 20)) / 20) * float(music.std()) / max(float(noise.std()), 1e-9)
    return Waveform(music + np.float32(ratio) * noise, sample_rate)


def wind(performance: Performance, sample_rate: int, rng: np.random.Generator) -> Waveform:
    """Two halves of coloured noise, above and below the middle of its spectrum, each with a level that wanders."""
    noise = coloured_noise(performance, sample_rate, rng, stereo=False).samples[0].astype(np.float64)
    spectrum = np.fft.rfft(noise)
    power = np.cumsum(np.abs(spectrum) ** 2)
    middle = int(np.searchsorted(power, power[-1] / 2))
    memory = float(np.exp(rng.uniform(np.log(0.3), np.log(2.0))))
    depth = float(rng.uniform(2, 6))  # dB
    out = np.zeros(len(noise))
    for part in (slice(0, middle), slice(middle, None)):
        band = np.zeros_like(spectrum)
        band[part] = spectrum[part]
        steps = int(performance.seconds * 20) + 2
        level, keep = np.zeros(steps), np.exp(-1 / (20 * memory))
        for step in range(1, steps):
            level[step] = keep * level[step - 1] + np.sqrt(1 - keep**2) * rng.standard_normal()
        gain = np.interp(np.arange(len(noise)) / sample_rate, np.arange(steps) / 20, depth * level)
        out += np.fft.irfft(band, len(noise)) * 10 ** (gain / 20)
    return Waveform(out[None].astype(np.float32), sample_rate)


def _granular(performance: Performance, sample_rate: int, rng: np.random.Generator) -> Waveform:
    """A cloud of overlapping grains, all from one stretch of the piece."""
    whole = synthesise(performance.tracks, performance.seconds, sample_rate).samples[0]
    stretch = round(float(rng.uniform(2, 8)) * sample_rate)
    size = round(float(rng.uniform(0.06, 0.3)) * sample_rate)
    starts = rng.integers(0, max(1, len(whole) - stretch), 8)
    first = int(starts[int(np.argmax([np.square(whole[s : s + stretch]).sum() for s in starts]))])
    window = np.hanning(size)
    out = np.zeros(len(whole) + size)
    for at in range(0, len(whole), size // 4):
        source = first + int(rng.integers(0, max(1, stretch - size)))
        grain = whole[source : source + size]
        out[at : at + len(grain)] += grain * window[: len(grain)]
    return Waveform(out[None, : len(whole)].astype(np.float32), sample_rate)


PLAIN: dict[str, Callable[..., Waveform]] = {
    "drone": partial(drone, stereo=False),
    "pad": partial(pad, stereo=False),
    "texture noise": partial(coloured_noise, stereo=False),
    "texture cloud": partial(cloud, stereo=False),
    "unseen rain": _rain,
    "unseen AM noise": _am_noise,
    "unseen shimmer": _shimmer,
    "unseen LFO pad": _lfo_pad,
    "unseen arpeggio": _arpeggio,
}
CELLS = (*PLAIN, *_LOOPS, *_PLAYED, "unseen noisy loop")
_LATE = {"unseen wind": wind, "unseen granular": _granular}


def _flat_cell(
    spec: RenderSpec, index: int, cache: Path | None, report: SkipReport, *, cells: tuple[str, ...] = CELLS
) -> Clip:
    """Clip `index`: cells take turns."""
    cell = cells[index % len(cells)]
    performance, caption, rng = plan_caption(spec, index, cache, report)
    labels = {"kind": "flat", "flat": "true", "cell": cell, **piece_labels(performance)}
    makers = {**PLAIN, **_LATE}
    if cell in makers:
        waveform = makers[cell](performance, spec.sample_rate, rng)
    else:
        low, high = {**_LOOPS, **_PLAYED, "unseen noisy loop": (2.0, 10.0)}[cell]
        period = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        labels["loop_seconds"] = f"{period:.4f}"
        if cell in _LOOPS:
            waveform = loop(performance, period, spec.sample_rate, rng, stereo=False)
        else:
            make = _played_loop if cell in _PLAYED else _noisy_loop
            waveform = make(performance, period, spec.sample_rate, rng)
    return Clip(finish(waveform, rng), caption, labels)


def pieces_of(side: str) -> tuple[str, ...]:
    """Ids of the scores of one side of the split; of the short tunes, the first `_TUNES` in the order of their hash."""
    chosen = [piece for piece in list_pieces() if assign_split("0" * 64, {"piece": piece.id}) == side]
    tunes = sorted((p.id for p in chosen if p.family == "tune"), key=lambda name: sha256(name.encode()).hexdigest())
    return tuple(sorted([p.id for p in chosen if p.family != "tune"] + tunes[:_TUNES]))


def render_cells(
    out: Path,
    *,
    side: str,
    seed: int,
    clips: int,
    developing: int,
    seconds: float = 32.0,
    jobs: int = 1,
    quiet: bool = False,
) -> Path:
    """The folders `developing`, `flat` and `late` in `out`, continued where they are there in part; returns `out`.

    Parameters
    ----------
    side : {"train", "held_out"}
    clips : int
        Of each flat cell.
    developing : int
        Developing clips.
    """
    spec = RenderSpec(seed=seed, seconds=(seconds,), pieces=pieces_of(side))
    render(out / "developing", clips=developing, spec=spec, jobs=jobs, quiet=quiet)
    flat = replace(spec, kind="flat-cells")
    render(out / "flat", clips=clips * len(CELLS), spec=flat, jobs=jobs, quiet=quiet, make=_flat_cell)
    late = replace(spec, kind="flat-late")
    make = partial(_flat_cell, cells=tuple(_LATE))
    render(out / "late", clips=clips * len(_LATE), spec=late, jobs=jobs, quiet=quiet, make=make)
    return out


def _main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="Receives the folders developing, flat and late.")
    parser.add_argument("--side", choices=("train", "held_out"), required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--clips", type=int, default=200, help="Clips a flat cell.")
    parser.add_argument("--developing", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=32.0)
    parser.add_argument("--jobs", type=int, default=1)
    render_cells(**vars(parser.parse_args()))


if __name__ == "__main__":
    _main()
