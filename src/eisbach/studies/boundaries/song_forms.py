"""Forms as songs and sets of variations have them, played by the sound font: pieces that the boundary model of
`structure.sections` was first not made with.

`run` joins passages that were made each for itself. Here a piece is written as a whole, bar by bar, from phrases over
chord progressions, and goes on through its boundaries as music does: one key, one tempo, often one band, upbeats and
fills. A section is known by its phrase, its progression, its accompaniment, or who plays it.

- *blues*: choruses of twelve bars over the same chords, each with another soloist or riff, or both;
- *song*: AABA and verse-chorus forms of 8 or 16 bars, chords and tune returning;
- *rondo*: ABACA, ABACABA; the episodes in another key and accompaniment;
- *variations*: a theme, then the theme over other accompaniments, on other instruments, ornamented, in minor;
- *miniature*: 12 to 20 s of two or three phrases;
- *through-composed*: ever new sections, some with fills into the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from eisbach.audio import read_audio, resample, to_mono
from eisbach.data.manifest import load_manifest
from eisbach.data.synth import INSTRUMENTS, Track, fit_octave, fold_into, synthesise
from eisbach.errors import UserError
from eisbach.studies.ground_truth.synthetic_forms import SectionedPiece
from eisbach.types import Waveform

KINDS = ("blues", "song", "rondo", "variations", "miniature", "through-composed")
_RATE = 22050
_MODES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10), "mixolydian": (0, 2, 4, 5, 7, 9, 10)}
_LEADS = (
    *("violin", "flute", "trumpet", "clarinet", "oboe", "piano", "guitar", "vibraphone", "choir", "french horn"),
    *("harpsichord", "cello", "recorder", "marimba", "trombone"),
)
_BACKING = ("piano", "guitar", "strings", "church organ", "harp", "pizzicato strings", "choir", "brass", "harpsichord")
_BASSES = ("contrabass", "cello", "bassoon", "tuba", "pizzicato contrabass")
_TWELVE_BARS = ((0, 0, 0, 0, 3, 3, 0, 0, 4, 3, 0, 0), (0, 3, 0, 0, 3, 3, 0, 0, 1, 4, 0, 4))
_EIGHT_BARS = ((0, 5, 3, 4), (0, 3, 4, 0), (0, 4, 5, 3), (5, 3, 0, 4), (1, 4, 0, 5), (3, 4, 2, 5), (0, 2, 3, 4))
_FIGURES = ("block", "arpeggio", "alberti", "offbeat", "held", "walking")
_RHYTHMS = (
    *(
        (0, 1, 2, 3),
        (0, 1.5, 2, 3),
        (0, 0.5, 1, 2, 3),
        (0, 2, 3),
        (0, 0.5, 1, 1.5, 2, 3),
        (0, 2),
        (0, 1, 1.5, 2, 2.5, 3),
    ),
    *((0.5, 1, 1.5, 2.5, 3), (0, 0.75, 1.5, 2, 3)),
)
_JOINED = ("ABC", "ABCD", "ABAC", "ABCA", "ABA", "AB", "ABCB")


@dataclass(frozen=True)
class Passage:
    """Four-four bars of a tune over chords.

    Attributes
    ----------
    mode : str
        Key of `_MODES`.
    chords : tuple of int
        Scale degree of the triad of each bar.
    tune : tuple of (beat, beats, degree)
    key : int
        Semitones above the piece's key.
    figure : str
        How the chords are played.
    lead, backing, bass : str
        Instruments.
    """

    mode: str
    chords: tuple[int, ...]
    tune: tuple[tuple[float, float, int], ...]
    key: int
    figure: str
    lead: str
    backing: str
    bass: str

    def pitch(self, degree: int) -> int:
        """Semitones above the piece's key of a degree that counts on through the octaves."""
        octave, step = divmod(degree, 7)
        return self.key + 12 * octave + _MODES[self.mode][step]


def _tune(rng: np.random.Generator, chords: tuple[int, ...], riff: bool) -> tuple[tuple[float, float, int], ...]:
    """A singable line: chord tones on strong beats, steps between, a rest now and then, a long note every fourth bar;
    a riff is two bars said again over every chord."""
    notes: list[tuple[float, float, int]] = []
    degree = int(rng.integers(4, 9))
    for bar, chord in enumerate(chords):
        if riff and bar >= 2:
            for beat, beats, old in [note for note in notes if 4 * (bar % 2) <= note[0] < 4 * (bar % 2) + 4]:
                notes.append((4.0 * (bar - bar % 2) + beat, beats, old))
            continue
        onsets = (0,) if bar % 4 == 3 and rng.random() < 0.6 else _RHYTHMS[int(rng.integers(len(_RHYTHMS)))]
        for onset, after in zip(onsets, (*onsets[1:], 4), strict=True):
            if onset in (0, 2) and rng.random() < 0.8:
                tones = [chord + third + 7 * octave for third in (0, 2, 4) for octave in (0, 1, 2)]
                near = [tone for tone in tones if tone != degree and abs(tone - degree) <= 4]
                degree = int(rng.choice(near)) if near else degree
            else:
                degree += int(rng.choice((-2, -1, -1, 1, 1, 2)))
            degree = int(np.clip(degree, 2, 14))
            if rng.random() > 0.08:
                notes.append((4.0 * bar + onset, float(after - onset), degree))
    return tuple(notes)


def _passage(
    rng: np.random.Generator, bars: int, mode: str, *, chords: tuple[int, ...] = (), riff: bool = False
) -> Passage:
    """A new passage, over new chords unless they are given."""
    loop = _EIGHT_BARS[int(rng.integers(len(_EIGHT_BARS)))]
    chords = chords or (loop * (-(-bars // 4)))[:bars]
    return Passage(
        mode, chords, _tune(rng, chords, riff), 0, str(rng.choice(_FIGURES)), str(rng.choice(_LEADS)),
        str(rng.choice(_BACKING)), str(rng.choice(_BASSES)),
    )  # fmt: skip


def _accompaniment(passage: Passage, bar: int, chord: int) -> tuple[list[tuple[float, float, int]], ...]:
    """(beat, beats, pitch) of the chords and of the bass in one bar."""
    triad = [passage.pitch(chord + third) for third in (0, 2, 4)]
    start = 4.0 * bar
    bass = [(start, 1.9, triad[0] - 24), (start + 2, 1.9, triad[bar % 2 * 2] - 24)]
    if passage.figure == "walking":
        steps = (triad[0], triad[1], triad[2], passage.pitch(chord + 5))
        bass = [(start + beat, 0.9, step - 24) for beat, step in enumerate(steps)]
    rows = {
        "block": [(start + beat, 0.9, tone) for beat in range(4) for tone in triad],
        "held": [(start, 3.9, tone) for tone in triad],
        "offbeat": [(start + beat + 0.5, 0.4, tone) for beat in range(4) for tone in triad],
        "walking": [(start + beat, 0.4, tone) for beat in (1, 3) for tone in triad],
        "arpeggio": [
            (start + k / 2, 0.5, (*triad, triad[0] + 12)[place]) for k, place in enumerate((0, 1, 2, 3, 2, 1, 2, 1))
        ],
        "alberti": [(start + k / 2, 0.5, triad[(0, 2, 1, 2)[k % 4]]) for k in range(8)],
    }
    return rows[passage.figure], bass


def _played(letters: str, parts: dict[str, Passage], seed: int, beat: float, root: int) -> SectionedPiece:
    """The piece, performed once through: equal letters are played from the same page, not the same sound."""
    rng = np.random.default_rng([seed, 82])
    rows: dict[tuple[str, int], list[tuple[float, float, int]]] = {}
    edges, now = [0.0], 0.0
    for number, letter in enumerate(letters):
        passage = parts[letter]
        bars = len(passage.chords)
        tune = [(start, beats, passage.pitch(degree)) for start, beats, degree in passage.tune]
        if number + 1 < len(letters) and rng.random() < 0.3:  # a run into the next section
            tune = [note for note in tune if note[0] < 4 * bars - 2] + [
                (4 * bars - 2 + k / 2, 0.5, passage.pitch(4 + k)) for k in range(4)
            ]
        chords: list[tuple[float, float, int]] = []
        bass: list[tuple[float, float, int]] = []
        for bar, chord in enumerate(passage.chords):
            more, low = _accompaniment(passage, bar, chord)
            chords, bass = chords + more, bass + low
        for name, level, notes in ((passage.lead, 92, tune), (passage.backing, 66, chords), (passage.bass, 72, bass)):
            rows.setdefault((name, level), []).extend((now + start, beats, pitch) for start, beats, pitch in notes)
        now += 4.0 * bars
        edges.append(now * beat)
    tracks = []
    for (name, level), notes in rows.items():
        table, instrument = np.array(notes), INSTRUMENTS[name]
        pitch = root + table[:, 2].astype(int)
        count = len(table)
        tracks.append(
            Track(
                name,
                np.maximum(0.0, table[:, 0] * beat + rng.normal(0.0, 0.012, count)),
                np.maximum(0.06, table[:, 1] * beat * rng.uniform(0.7, 1.0)),
                fold_into(pitch + fit_octave(pitch, instrument), instrument),
                np.clip(level + rng.normal(0.0, 5.0, count), 20.0, 125.0),
            )
        )
    samples = synthesise(tracks, edges[-1] + 0.6, _RATE).samples[0]
    samples = samples + rng.standard_normal(len(samples), dtype=np.float32) * np.float32(1e-3 * np.abs(samples).max())
    edges[-1] = len(samples) / _RATE
    return SectionedPiece(
        Waveform((0.6 * samples / np.abs(samples).max())[None].astype(np.float32), _RATE),
        np.array(edges),
        tuple(letters),
    )


def _others(rng: np.random.Generator, names: tuple[str, ...], own: str) -> str:
    return str(rng.choice([name for name in names if name != own]))


def _blues(rng: np.random.Generator) -> tuple[str, dict[str, Passage]]:
    chords = _TWELVE_BARS[int(rng.integers(2))]
    figure = str(rng.choice(("walking", "offbeat", "block")))
    band = replace(_passage(rng, 12, "mixolydian", chords=chords), figure=figure)
    parts = {}
    for letter in "ABCD"[: int(rng.integers(3, 5))]:
        solo = _passage(rng, 12, "mixolydian", chords=chords, riff=bool(rng.random() < 0.3))
        lead = solo.lead if rng.random() < 0.5 else band.lead
        parts[letter] = replace(solo, figure=band.figure, backing=band.backing, bass=band.bass, lead=lead)
    return str(rng.choice(("".join(parts), "A" + "".join(parts)[1:] + "A"))), parts


def _song(rng: np.random.Generator) -> tuple[str, dict[str, Passage]]:
    bars, mode = int(rng.choice((8, 8, 16))), str(rng.choice(tuple(_MODES)))
    first = _passage(rng, bars, mode)
    parts = {"A": first}
    for letter in "BC":
        own = replace(_passage(rng, bars, mode), backing=first.backing, bass=first.bass)
        parts[letter] = replace(own, lead=first.lead) if rng.random() < 0.5 else own
    return str(rng.choice(("AABA", "ABABCB", "AABABA", "ABAB", "AABC"))), parts


def _rondo(rng: np.random.Generator) -> tuple[str, dict[str, Passage]]:
    mode = str(rng.choice(("major", "minor")))
    theme = _passage(rng, 8, mode)
    letters = str(rng.choice(("ABACA", "ABACABA", "ABACADA")))
    parts = {"A": theme}
    for letter in sorted(set(letters) - {"A"}):
        own = _passage(rng, int(rng.choice((8, 12))), str(rng.choice(("major", "minor"))))
        lead = theme.lead if rng.random() < 0.4 else own.lead
        parts[letter] = replace(own, key=int(rng.choice((5, 7, -3))), bass=theme.bass, lead=lead)
    return letters, parts


def _variations(rng: np.random.Generator) -> tuple[str, dict[str, Passage]]:
    theme = _passage(rng, 8, "major")
    parts = {"A": theme}
    for letter, change in zip("BCDE", rng.permutation(5)[:4], strict=True):
        ornamented = tuple(
            part for beat, beats, degree in theme.tune
            for part in ([(beat, beats / 2, degree), (beat + beats / 2, beats / 2, degree + 1)] if beats >= 1 else
                         [(beat, beats, degree)])
        )  # fmt: skip
        parts[letter] = (
            replace(theme, figure=_others(rng, _FIGURES, theme.figure), backing=_others(rng, _BACKING, theme.backing)),
            replace(theme, lead=_others(rng, _LEADS, theme.lead)),
            replace(theme, mode="minor"),
            replace(theme, tune=ornamented, figure=_others(rng, _FIGURES, theme.figure)),
            replace(theme, lead=_others(rng, _LEADS, theme.lead), backing=_others(rng, _BACKING, theme.backing), key=5),
        )[int(change)]
    return "ABCDE"[: int(rng.integers(3, 6))], parts


def _miniature(rng: np.random.Generator) -> tuple[str, dict[str, Passage]]:
    mode = str(rng.choice(tuple(_MODES)))
    first = _passage(rng, 4, mode)
    second = _passage(rng, 4, mode)
    if rng.random() < 0.5:
        second = replace(second, lead=first.lead, bass=first.bass)
    return str(rng.choice(("AB", "ABA", "AB"))), {"A": first, "B": second}


def _through_composed(rng: np.random.Generator) -> tuple[str, dict[str, Passage]]:
    letters = "ABCDE"[: int(rng.integers(3, 6))]
    parts = {}
    for letter in letters:
        own = _passage(rng, int(rng.choice((6, 8, 10, 12))), str(rng.choice(tuple(_MODES))))
        parts[letter] = replace(own, key=int(rng.choice((0, 0, 5, 7, 2))))
    return letters, parts


_WRITERS: dict[str, Callable[[np.random.Generator], tuple[str, dict[str, Passage]]]] = {
    "blues": _blues, "song": _song, "rondo": _rondo, "variations": _variations, "miniature": _miniature,
    "through-composed": _through_composed,
}  # fmt: skip


def song_form(kind: str, seed: int) -> SectionedPiece:
    """One piece of a kind of `KINDS`; a pure function of its arguments."""
    rng = np.random.default_rng([seed, 81, KINDS.index(kind)])
    letters, parts = _WRITERS[kind](rng)
    beat = float(rng.uniform(0.38, 0.6))
    if kind == "miniature":
        beat = float(rng.uniform(12.0, 20.0)) / sum(4 * len(parts[letter].chords) for letter in letters)
    return _played(letters, parts, seed, beat, int(rng.integers(55, 67)))


def joined_recordings(folders: Sequence[str], seed: int, split: str) -> SectionedPiece:
    """Passages of 8 to 24 s of different recordings, joined without a gap, all of one level; some come again.

    Parameters
    ----------
    folders : sequence of str
        Manifests of excerpts (`python bench/recordings.py` makes one), or their folders.
    seed : int
    split : str
        Of the manifests' rows: "train" or "held_out".
    """
    rng = np.random.default_rng([seed, 83])
    files = _recorded(tuple(folders), split)
    letters = _JOINED[int(rng.integers(len(_JOINED)))]
    tracks = [sorted(files)[k] for k in rng.permutation(len(files))[: len(set(letters))]]
    parts = {}
    for letter, track in zip(sorted(set(letters)), tracks, strict=True):
        seconds = float(rng.uniform(8.0, 24.0))
        whole = to_mono(read_audio(files[track][int(rng.integers(len(files[track])))]))
        samples = resample(whole, _RATE).samples[0]
        first = int(rng.integers(max(1, len(samples) - round(seconds * _RATE))))
        part = samples[first : first + round(seconds * _RATE)]
        parts[letter] = 0.1 * part / max(float(np.sqrt(np.mean(part**2))), 1e-6)
    joined = np.concatenate([parts[letter] for letter in letters])
    edges = np.concatenate([[0.0], np.cumsum([len(parts[letter]) / _RATE for letter in letters])])
    joined = (0.7 * joined / np.abs(joined).max()).astype(np.float32)
    return SectionedPiece(Waveform(joined[None], _RATE), edges, tuple(letters))


@lru_cache(maxsize=4)
def _recorded(folders: tuple[str, ...], split: str) -> dict[str, list[Path]]:
    """The excerpts of a split by track."""
    by_track: dict[str, list[Path]] = {}
    for folder in folders:
        manifest = load_manifest(folder)
        for row in manifest:
            if row.split == split:
                name = f"{row.labels.get('piece', '')}/{row.labels.get('track', row.id)}"
                by_track.setdefault(name, []).append(manifest.audio_path(row))
    if len(by_track) < max(len(set(letters)) for letters in _JOINED):
        raise UserError(f"the split {split} of {', '.join(folders)} holds {len(by_track)} tracks; give four at least.")
    return by_track
