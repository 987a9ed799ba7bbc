"""From note tables to a performance: which section is played, how fast, in which key, by whom, how loud.

Everything is drawn from one generator, so a performance is a pure function of its scores and its seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from eisbach.data.captions import Facts, is_minor
from eisbach.data.score_parsing import NoteTable
from eisbach.data.synth import INSTRUMENTS, Ensemble, Track, ensembles_for, fit_octave, fold_into
from eisbach.types import Waveform

_PAUSE = (0.2, 0.7)  # seconds between the pieces of a set
_SECTION = (4.0, 12.0)  # seconds that one orchestration lasts where it changes


@dataclass(frozen=True)
class Excerpt:
    """Notes in seconds, before anybody plays them.

    Attributes
    ----------
    part : np.ndarray [shape=(n,), int]
    onset, duration : np.ndarray [shape=(n,), float64]
        Seconds.
    pitch, velocity : np.ndarray [shape=(n,), int]
    beat : float
        Seconds of a quarter note (of the first piece).
    pieces : tuple of str
        The pieces that sound, in order.
    """

    part: np.ndarray
    onset: np.ndarray
    duration: np.ndarray
    pitch: np.ndarray
    velocity: np.ndarray
    beat: float
    pieces: tuple[str, ...]


@dataclass(frozen=True)
class Performance:
    """What will sound, and what a caption may say about it."""

    tracks: tuple[Track, ...]
    seconds: float
    facts: Facts
    pieces: tuple[str, ...]


def take_excerpt(tables: Iterator[NoteTable], seconds: float, rng: np.random.Generator) -> Excerpt:
    """`seconds` of music: a section of the first piece, and, where it is too short, further pieces behind it.

    Parameters
    ----------
    tables : iterator of NoteTable
        As many as are asked for are taken from it; when it ends early the excerpt is shorter.
    """
    blocks: list[np.ndarray] = []
    pieces: list[str] = []
    clock, beat = 0.0, 0.5
    for table in tables:
        quarter = 60.0 / _quarters_per_minute(table, rng)
        if not blocks:
            beat = quarter
        wanted = (seconds - clock) / quarter
        start = _section_start(table, wanted, rng)
        inside = (table.onset >= start - 1e-9) & (table.onset < start + wanted)
        block = np.stack(
            [
                table.part[inside],
                clock + (table.onset[inside] - start) * quarter,
                table.duration[inside] * quarter,
                table.pitch[inside] + int(rng.integers(-5, 7)),
                table.velocity[inside],
            ],
            axis=1,
        )
        if not len(block):
            continue
        blocks.append(block)
        pieces.append(table.piece)
        clock += (table.length - start) * quarter + float(rng.uniform(*_PAUSE))
        if clock >= seconds - 1.0:
            break
    data = np.concatenate(blocks) if blocks else np.zeros((0, 5))
    return Excerpt(
        part=data[:, 0].astype(int),
        onset=data[:, 1],
        duration=np.minimum(data[:, 2], seconds - data[:, 1]),
        pitch=data[:, 3].astype(int),
        velocity=data[:, 4].astype(int),
        beat=beat,
        pieces=tuple(pieces),
    )


def _quarters_per_minute(table: NoteTable, rng: np.random.Generator) -> float:
    """The score's own speed (or one that gives three onsets a second), varied, kept within 0.7 to 8 onsets a second."""
    moments = np.unique(np.round(table.onset, 3)).size
    per_quarter = max(0.05, moments / max(table.length, 1.0))
    base = float(np.clip(table.tempo[0, 1], 40, 240)) if len(table.tempo) else 180.0 / per_quarter
    speed = base * float(np.exp(rng.normal(0.0, 0.35)))
    return float(np.clip(speed, 0.7 * 60 / per_quarter, 8.0 * 60 / per_quarter))


def _section_start(table: NoteTable, wanted: float, rng: np.random.Generator) -> float:
    spare = table.length - wanted
    draw = float(rng.random())
    if spare <= 0:
        return float(table.onset[0])
    moments = np.unique(table.onset[table.onset <= spare])
    on_beat = moments[np.abs(moments - np.round(moments)) < 1e-6]
    moments = on_beat if on_beat.size else moments
    return float(moments[int(draw * moments.size)]) if moments.size else float(table.onset[0])


def perform(
    excerpt: Excerpt, seconds: float, family: str, rng: np.random.Generator, *, styles: tuple[str, ...] | None = None,
    changing: bool | None = None,
) -> Performance:  # fmt: skip
    """Gives an excerpt to instruments.

    Parameters
    ----------
    changing : bool or None
        Whether the instrumentation changes every 4 to 12 s; None draws it (two thirds do).
    """
    palette, bounds = _orchestration(family, seconds, rng, styles, changing)
    excerpt = _accompany(excerpt, rng)
    order = _parts_from_high(excerpt)
    base = float(rng.uniform(58, 100))
    arc = _dynamics_arc(seconds, rng)
    articulation, length = (("staccato", 0.5), ("detached", 0.8), ("legato", 1.02))[
        int(rng.choice(3, p=(0.2, 0.3, 0.5)))
    ]
    voices: dict[str, list[np.ndarray]] = {}
    ensemble = palette[0]
    for first, last in pairwise(bounds):
        others = [other for other in palette if other is not ensemble]
        if first > 0 and others and rng.random() < 0.8:
            ensemble = others[int(rng.integers(len(others)))]
        texture = str(rng.choice(("full", "doubled", "thin", "outer"), p=(0.5, 0.25, 0.1, 0.15)))
        if len(bounds) == 2:
            texture = "full"
        inside = (excerpt.onset >= first) & (excerpt.onset < last)
        # a thinned texture may leave a passage without any note
        given = _assign(excerpt, inside, order, ensemble, texture) or _assign(excerpt, inside, order, ensemble, "full")
        for name, rows in given:
            voices.setdefault(name, []).append(rows)
    tracks = []
    for name in sorted(voices):
        rows = np.concatenate(voices[name])
        rows = _without_doubles(rows[np.argsort(rows[:, 0], kind="stable")])
        count = len(rows)
        # the louder the passage, the firmer each note; small irregularities as of people playing
        level = base + 0.6 * (rows[:, 3] - 76) + np.interp(rows[:, 0], *arc) + rng.normal(0, 3, count)
        tracks.append(
            Track(
                instrument=name,
                onset=np.maximum(0.0, rows[:, 0] + rng.normal(0, 0.007, count)),
                duration=np.maximum(0.06, rows[:, 1] * length),
                pitch=rows[:, 2].astype(int),
                velocity=np.clip(level, 20, 125),
                pan=float(rng.uniform(-0.6, 0.6)),
            )
        )
    group = palette[0].name if len(palette) == 1 and palette[0].name not in INSTRUMENTS else None
    facts = describe(tracks, seconds, family, articulation, group)
    return Performance(tuple(tracks), seconds, facts, excerpt.pieces)


def describe(tracks: list[Track], seconds: float, family: str, articulation: str, ensemble: str | None = None) -> Facts:
    """The facts of a caption, from the notes that are played."""
    pitch = np.concatenate([track.pitch for track in tracks])
    duration = np.concatenate([track.duration for track in tracks])
    onset = np.concatenate([track.onset for track in tracks])
    velocity = np.concatenate([track.velocity for track in tracks])
    order = np.argsort(pitch, kind="stable")
    running = np.cumsum(duration[order])
    median = float(pitch[order][int(np.searchsorted(running, running[-1] / 2))])
    # onsets nearer than 60 ms are one moment
    moments = 1 + int((np.diff(np.sort(onset)) > 0.06).sum())
    share = sorted(tracks, key=lambda track: (-float(track.duration.sum()), track.instrument))
    return Facts(
        instruments=tuple(track.instrument for track in share),
        family=family,
        pitch=median,
        density=moments / seconds,
        minor=is_minor(pitch, duration),
        loudness=float(np.average(velocity, weights=duration)),
        articulation=articulation,
        ensemble=ensemble,
    )


def _orchestration(
    family: str, seconds: float, rng: np.random.Generator, styles: tuple[str, ...] | None, changing: bool | None
) -> tuple[list[Ensemble], list[float]]:
    """The ensembles that take part, and the moments at which the instrumentation changes."""
    options = ensembles_for(family, styles)
    weights = np.array([ensemble.weight for ensemble in options])
    first = options[int(rng.choice(len(options), p=weights / weights.sum()))]
    draw = float(rng.random())
    if not (draw < 0.65 if changing is None else changing):
        return [first], [0.0, seconds]
    # most hand-overs stay in a register, so that "low" and "high" remain true of the whole clip
    near = [e for e in options if e.shift == first.shift] if rng.random() < 0.75 else options
    weights = np.array([ensemble.weight for ensemble in near])
    palette = [first]
    for _ in range(int(rng.integers(1, 4))):
        palette.append(near[int(rng.choice(len(near), p=weights / weights.sum()))])
    bounds = [0.0]
    while bounds[-1] < seconds - _SECTION[0]:
        bounds.append(bounds[-1] + float(rng.uniform(*_SECTION)))
    bounds = [*bounds[: max(1, len(bounds) - 1)], seconds]
    return list(dict.fromkeys(palette)), bounds


def _accompany(excerpt: Excerpt, rng: np.random.Generator) -> Excerpt:
    """Gives most single-line tunes a bass: the lowest note of every two beats, two octaves down, held."""
    if len(np.unique(excerpt.part)) > 1 or rng.random() < 0.3 or not excerpt.onset.size:
        return excerpt
    step = 2 * excerpt.beat
    slots = np.floor(excerpt.onset / step).astype(int)
    chosen = [int(np.flatnonzero(slots == s)[np.argmin(excerpt.pitch[slots == s])]) for s in np.unique(slots)]
    bass = np.array(chosen)
    return replace(
        excerpt,
        part=np.append(excerpt.part, np.full(bass.size, excerpt.part.max() + 1)),
        onset=np.append(excerpt.onset, excerpt.onset[slots.searchsorted(np.unique(slots))]),
        duration=np.append(excerpt.duration, np.full(bass.size, step * 0.9)),
        pitch=np.append(excerpt.pitch, excerpt.pitch[bass] - 24),
        velocity=np.append(excerpt.velocity, excerpt.velocity[bass] - 8),
    )


def _parts_from_high(excerpt: Excerpt) -> list[int]:
    parts = np.unique(excerpt.part)
    return sorted((int(p) for p in parts), key=lambda p: (-float(excerpt.pitch[excerpt.part == p].mean()), p))


def _assign(
    excerpt: Excerpt, inside: np.ndarray, order: list[int], ensemble: Ensemble, texture: str
) -> list[tuple[str, np.ndarray]]:
    """(instrument, rows of onset, duration, pitch, velocity) of one section."""
    members = ensemble.members()
    playing = list(order)
    if texture == "thin" and len(playing) > 2:
        playing = playing[: max(1, len(playing) // 2)]
    elif texture == "outer" and len(playing) > 2:
        playing = [playing[0], playing[-1]]
    out = []
    for position, part in enumerate(order):
        if part not in playing:
            continue
        chosen = inside & (excerpt.part == part)
        if not chosen.any():
            continue
        where = round(position * (len(members) - 1) / max(1, len(order) - 1))
        players = [(members[where], 0)]
        if texture == "doubled" and position == 0:
            players.append((members[min(where + 1, len(members) - 1)], -12 if ensemble.shift >= 0 else 12))
        for player, octave in players:
            pitch = excerpt.pitch[chosen] + 12 * ensemble.shift + octave
            pitch = fold_into(pitch + fit_octave(pitch, player), player)
            rows = np.stack([excerpt.onset[chosen], excerpt.duration[chosen], pitch, excerpt.velocity[chosen]], axis=1)
            out.append((player.name, rows))
    return out


def _without_doubles(rows: np.ndarray) -> np.ndarray:
    """Drops a note that begins with another of the same pitch: two equal samples would only add up."""
    key = np.round(rows[:, 0], 3) * 1000 + rows[:, 2] / 1000
    _, first = np.unique(key, return_index=True)
    return rows[np.sort(first)]


def _dynamics_arc(seconds: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Times and velocity offsets: level, growing, fading, an arch, or terraces."""
    size = float(rng.uniform(10, 32))
    kind = int(rng.integers(5))
    if kind == 4:
        times = np.sort(rng.uniform(0, seconds, 4))
        levels = rng.choice((-0.5, 0.0, 0.5), 5) * size
        return np.repeat(times, 2) + np.tile((-0.05, 0.05), 4), np.repeat(levels, 2)[1:-1]
    shapes = ((0, 0, 0), (-0.7, 0, 0.5), (0.4, 0, -0.7), (-0.5, 0.5, -0.6))
    peak = float(rng.uniform(0.35, 0.8)) * seconds
    return np.array([0.0, peak, seconds]), np.array(shapes[kind]) * size


# --- a drawn room around dry sound: early reflections and a diffuse tail whose high notes die first


_DRY_SHARE = 0.25  # of the clips
_SECONDS = (0.25, 2.6)  # reverberation time (a fall by 60 dB) at low frequencies
_WET_DB = (-22.0, -4.0)  # level of the reverberation against the dry sound
_REFLECTIONS = 8


def in_room(waveform: Waveform, rng: np.random.Generator) -> Waveform:
    """The waveform in a room drawn from `rng`: of equal length, its channels with tails of their own.

    A quarter of the draws stays dry. Reverberation time (log-uniform), its fall towards high frequencies, the delay
    before the tail and the level are drawn.
    """
    from scipy.signal import fftconvolve

    dry = rng.random() < _DRY_SHARE
    seconds = float(np.exp(rng.uniform(*np.log(_SECONDS))))
    wet = 10 ** (float(rng.uniform(*_WET_DB)) / 20)
    if dry:
        return waveform
    response = np.stack([_response(seconds, waveform.sample_rate, rng) for _ in range(waveform.channels)])
    tail = fftconvolve(waveform.samples, response, axes=1)[:, : waveform.samples.shape[1]]
    loudness = [float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) for x in (waveform.samples, tail)]
    gain = wet * loudness[0] / max(loudness[1], 1e-9)
    return Waveform((waveform.samples + gain * tail).astype(np.float32), waveform.sample_rate)


def _response(seconds: float, sample_rate: int, rng: np.random.Generator) -> np.ndarray:
    """An impulse response without its direct sound [shape=(n,)]."""
    from scipy.signal import butter, sosfilt

    count = round(1.1 * seconds * sample_rate)
    time = np.arange(count) / sample_rate
    noise = rng.standard_normal(count)
    corner = float(np.exp(rng.uniform(np.log(900.0), np.log(4000.0))))
    low = sosfilt(butter(1, corner, fs=sample_rate, output="sos"), noise)
    shorter = float(rng.uniform(0.35, 0.8))
    tail = low * 10 ** (-3 * time / seconds) + (noise - low) * 10 ** (-3 * time / (shorter * seconds))
    start = round(float(rng.uniform(0.005, 0.04)) * sample_rate)
    tail[: min(start, count)] *= 0.1
    early = np.minimum(count - 1, (rng.uniform(0.005, 0.06, _REFLECTIONS) * sample_rate).astype(int))
    tail[early] += rng.choice((-1.0, 1.0), _REFLECTIONS) * rng.uniform(1.0, 5.0, _REFLECTIONS)
    return np.asarray(tail)
