"""Notes of any audio, and what they say of form: how much of the music is a motif heard before.

Bittner et al., "A lightweight instrument-agnostic model for polyphonic note transcription and multipitch estimation"
(ICASSP 2022): the network that Spotify publishes as basic-pitch (Apache-2.0). Its ONNX file is shipped as it is;
onnxruntime, the extra ``judges``, runs it. From 22.05 kHz it gives, 86 times a second, how likely each of 88 pitches
sounds and how likely it begins. The decoding is ours and follows the publication's: a note begins at a peak of the
onsets, lasts until its pitch has been unlikely for an eighth of a second, and what sounds without an onset is taken
afterwards, strongest first. The package's own notes of the same posteriorgrams are equal
(tests/structure/test_notes.py, `recipes/judges/golden_basic_pitch.py`). The network scales every window of two seconds
to its own loudest bin, so that the noise of a pause is notes to it; what stays 50 dB under a clip's loudest moment is
none here (of 2,800 notes of nine orchestral recordings none was lost).

*Note motifs.* The melody is the highest note of every moment (`melody`). A *motif* is five of its notes in a row: four
intervals in semitones and three ratios of the times between them, so neither key nor tempo counts. It is *heard before*
when an earlier motif that shares no note with it has the same intervals and ratios within `_RATIO_TOLERANCE`. The share
of the melody's notes inside such motifs is `note_motifs`: 0 for ever new music, 1/2 for a tune played twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.audio import read_audio, to_mono
from eisbach.errors import AudioError, UserError
from eisbach.progress import Progress
from eisbach.structure.embeddings.base import MAX_SECONDS, prepare
from eisbach.structure.sets.onset_details import OnsetEvents
from eisbach.types import Record, SkipReport, Waveform

SAMPLE_RATE = 22050
LOWEST_PITCH, _PITCHES = 21, 88
"""MIDI number of the first of the pitches, and how many there are."""
COLUMNS = ("note_motifs", "notes_per_second")
"""What `_measure_notes` adds to a record."""

_HOP, _WINDOW, _FRAMES = 256, 43_844, 172
_EDGE = 15  # frames at either end of a window that its neighbours know better
_ADVANCE = _WINDOW - 2 * _EDGE * _HOP
_BATCH = 8
_ONSET, _SOUNDING = 0.5, 0.3
_RELEASE, _SHORTEST = 11, 11  # frames: unlikely for so long ends a note; shorter ones are left out
_QUIET, _MOMENT = 50.0, 0.1  # dB under the clip's loudest moment; seconds of a moment
_TOGETHER = 0.06  # seconds: onsets nearer than this are one moment
_OVERTONES, _GHOST = (12, 19, 24, 28, 31, 34, 36), 0.7  # semitones of the 2nd to 8th partial; share of the strength
_SOUNDS_ON, _WELL_UNDER = 0.1, 6  # seconds; semitones: a melody's own last note may ring on, but falls by less
_MOTIF = 5  # notes
_RATIO_TOLERANCE = 0.45  # octaves of time between notes: a crotchet for a dotted one is .58
_MIN_NOTES = 12


@dataclass(frozen=True)
class Notes:
    """Notes in order of their onsets.

    Attributes
    ----------
    onset, duration : np.ndarray [shape=(n,), float64]
        Seconds.
    pitch : np.ndarray [shape=(n,), int]
        MIDI numbers, 21 to 108.
    strength : np.ndarray [shape=(n,), float64]
        Mean probability that the pitch sounds while the note does, 0-1.
    """

    onset: np.ndarray
    duration: np.ndarray
    pitch: np.ndarray
    strength: np.ndarray


@lru_cache(maxsize=1)
def _session() -> Any:
    """The network, on one thread, so that a number never depends on how many there are."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError(
            "notes need onnxruntime, which is not installed; run: pip install 'eisbach[judges]'."
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = resources.files("eisbach").joinpath("assets/judges/basic_pitch.onnx").read_bytes()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def check_notes() -> None:
    """Raises UserError, in one sentence, where notes cannot be had."""
    _session()


def posteriorgrams(waveform: Waveform) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How likely pitches sound and begin.

    Returns
    -------
    sounding, beginning : np.ndarray [shape=(frames, 88), float32]
        0-1.
    times : np.ndarray [shape=(frames,)]
        Seconds of the frames; about 86 a second.

    Raises
    ------
    AudioError
        Empty, non-finite or silent audio, or under half a second of it.
    UserError
        onnxruntime is not installed.
    """
    samples = prepare(waveform, SAMPLE_RATE, "the clip")
    padded = np.concatenate([np.zeros(_EDGE * _HOP, np.float32), samples])
    starts = np.arange(0, len(padded), _ADVANCE)
    padded = np.pad(padded, (0, int(starts[-1]) + _WINDOW - len(padded)))
    session, parts = _session(), []
    for first in range(0, len(starts), _BATCH):
        windows = np.stack([padded[start : start + _WINDOW] for start in starts[first : first + _BATCH]])
        outputs = session.run(
            ["StatefulPartitionedCall:1", "StatefulPartitionedCall:2"],
            {session.get_inputs()[0].name: windows[..., None]},
        )
        parts.append(np.stack(outputs)[:, :, _EDGE:-_EDGE])  # (2, windows, 142, 88)
    both = np.concatenate(parts, axis=1)
    own = both.shape[2]
    times = ((starts[:, None] + _HOP * np.arange(own)) / SAMPLE_RATE).ravel()
    # the windows overlap by a part of a frame more than what is cut off, so a frame may lie behind the clip's end
    count = int(len(samples) * (SAMPLE_RATE // _HOP) / SAMPLE_RATE)
    sounding, beginning = both.reshape(2, -1, both.shape[3])[:, :count]
    return sounding, beginning, times[:count]


def decode_notes(sounding: np.ndarray, beginning: np.ndarray) -> np.ndarray:
    """The notes of posteriorgrams: first frame, end frame, pitch (MIDI) and strength, [shape=(notes, 4), float64], in
    order of onset and pitch."""
    beginning = np.maximum(beginning, _rises(sounding, float(beginning.max(initial=0.0))))
    count, keys = sounding.shape
    left = np.zeros((count, keys + 2))  # a column of nothing on either side
    left[:, 1:-1] = sounding
    rows: list[tuple[int, int, int]] = []
    inner = beginning[1:-1]
    peaks = (inner > beginning[:-2]) & (inner > beginning[2:]) & (inner >= _ONSET)
    # backwards in time: a later onset ends what sounds before it
    for before, key in np.argwhere(peaks)[::-1].tolist():
        first = before + 1
        heard, unlikely = _lasting(left[first + 1 : count - 1, key + 1])
        end = first + 1 + heard - unlikely
        if first < count - 1 and end - first > _SHORTEST:
            left[first:end, key : key + 3] = 0.0
            rows.append((first, end, key))
    loudest = left.max(axis=1, initial=0.0)
    while count and loudest.max() > _SOUNDING:
        middle = int(loudest.argmax())
        column = int(left[middle].argmax())
        later, unlikely_later = _lasting(left[middle + 1 : count - 1, column])
        earlier, unlikely_earlier = _lasting(left[1:middle, column][::-1])
        left[middle, column] = 0.0
        # what ends a note is used up with it
        for used in (slice(middle + 1, middle + 1 + later), slice(middle - earlier, middle)):
            left[used, column - 1 : column + 2] = 0.0
        touched = slice(middle - earlier, middle + 1 + later)
        loudest[touched] = left[touched].max(axis=1)
        first, end = middle - earlier + unlikely_earlier, middle + later - unlikely_later
        if end - first > _SHORTEST:
            rows.append((first, end, column - 1))
    table = np.array(
        [(first, end, key + LOWEST_PITCH, sounding[first:end, key].mean()) for first, end, key in rows]
    ).reshape(-1, 4)
    return table[np.lexsort((table[:, 2], table[:, 0]))]


def _rises(sounding: np.ndarray, top: float) -> np.ndarray:
    """How far every pitch rose against both of the two frames before, scaled to at most `top`: onsets that the network
    did not name."""
    rise = np.zeros(sounding.shape)
    before = np.maximum(sounding[1:-1], sounding[:-2])
    rise[2:] = np.maximum(sounding[2:].astype(np.float64) - before, 0.0)
    most = float(rise.max(initial=0.0))
    return rise * (top / most) if most > 0.0 else rise


def _lasting(track: np.ndarray) -> tuple[int, int]:
    """Frames until a pitch has been unlikely `_RELEASE` times in a row, or all, and how many at their end are
    unlikely."""
    likely = np.flatnonzero(track >= _SOUNDING)
    gaps = np.diff(likely, prepend=-1, append=len(track) + _RELEASE)
    last = int(np.flatnonzero(gaps > _RELEASE)[0])
    until = (int(likely[last - 1]) if last else -1) + 1
    heard = min(until + _RELEASE, len(track))
    return heard, heard - until


def transcribe(waveform: Waveform) -> Notes:
    """The notes of a clip; raises as `posteriorgrams`.

    Examples
    --------
    >>> import numpy as np
    >>> from eisbach.types import Waveform
    >>> time = np.arange(22050) / 22050
    >>> tone = 0.3 * np.sin(2 * np.pi * 440 * time) * np.exp(-2 * time)
    >>> set(transcribe(Waveform(np.concatenate([tone, tone]).astype(np.float32)[None], 22050)).pitch.tolist())
    {69}
    """
    sounding, beginning, times = posteriorgrams(waveform)
    table = decode_notes(sounding, beginning)
    first, end = table[:, :2].astype(int).T
    onset = times[first]
    duration = times[np.minimum(end, len(times) - 1)] - onset
    heard = _is_heard(waveform, onset, duration)
    return Notes(onset[heard], duration[heard], table[heard, 2].astype(int), table[heard, 3])


def _is_heard(waveform: Waveform, onset: np.ndarray, duration: np.ndarray) -> np.ndarray:
    """Whether the clip comes within `_QUIET` of its loudest moment while a note sounds, [shape=(notes,), bool]."""
    samples = to_mono(waveform).samples[0].astype(np.float64)
    step = max(1, round(_MOMENT / 2 * waveform.sample_rate))
    steps = np.add.reduceat((samples - samples.mean()) ** 2, np.arange(0, len(samples), step))
    power = np.convolve(steps, [1.0, 1.0])  # of the moments that end with each step
    first = (onset * waveform.sample_rate / step).astype(int) + 1  # the attack, not what sounded before it
    last = ((onset + duration) * waveform.sample_rate / step).astype(int)
    loudest = [
        float(power[begin : max(begin, end) + 1].max(initial=0.0)) for begin, end in zip(first, last, strict=True)
    ]
    return np.array(loudest) > power.max() * 10 ** (-_QUIET / 10)


def melody(notes: Notes) -> tuple[np.ndarray, np.ndarray]:
    """Onsets (s) and pitches of the highest note of every moment at which something begins.

    Left out are overtones that the network took for notes, and what begins well under a note that sounds on: there the
    accompaniment moves, and the melody does not. How motifs read with this and without: `bench/note_motifs.py`.
    """
    own = np.flatnonzero(~_overtones(notes))
    onset, end, pitch = notes.onset[own], (notes.onset + notes.duration)[own], notes.pitch[own]
    onsets, pitches = [], []
    for moment in _moments(onset):
        start, top = float(onset[moment].min()), int(pitch[moment].max())
        above = (onset < start) & (end > start + _SOUNDS_ON) & (pitch >= top + _WELL_UNDER)
        if not above.any():
            onsets.append(start)
            pitches.append(top)
    return np.array(onsets), np.array(pitches, dtype=int)


def _overtones(notes: Notes) -> np.ndarray:
    """Which notes lie on an overtone of a much surer note of the same moment, [shape=(n,), bool]."""
    ghosts = np.zeros(len(notes.pitch), dtype=bool)
    for moment in _moments(notes.onset):
        pitch, strength = notes.pitch[moment], notes.strength[moment]
        on_overtone = np.isin(pitch[:, None] - pitch, _OVERTONES)
        ghosts[moment] = (on_overtone & (strength[:, None] < _GHOST * strength)).any(axis=1)
    return ghosts


def _moments(onsets: np.ndarray) -> list[np.ndarray]:
    """Indices of the notes of each moment."""
    return np.split(np.arange(len(onsets)), np.flatnonzero(np.diff(onsets) > _TOGETHER) + 1) if len(onsets) else []


def note_motifs(onsets: np.ndarray, pitches: np.ndarray) -> float:
    """Share of a melody's notes that lie inside a motif heard before, 0-1; NaN under 12 notes.

    Examples
    --------
    >>> onsets, tune = np.arange(16.0), np.array([60, 62, 64, 65, 62, 60, 67, 64])
    >>> note_motifs(onsets, np.concatenate([tune, tune + 3]))  # a tune, and again a third higher
    0.5
    """
    if len(pitches) < _MIN_NOTES:
        return math.nan
    windows = np.lib.stride_tricks.sliding_window_view
    intervals = windows(np.diff(pitches), _MOTIF - 1)
    gaps = np.log2(np.maximum(np.diff(onsets), 1e-3))
    ratios = windows(np.diff(gaps), _MOTIF - 2)[: len(intervals)]
    _, same = np.unique(intervals, axis=0, return_inverse=True)
    moving = np.abs(intervals).max(axis=1) > 0  # one note again and again is no motif
    inside = np.zeros(len(pitches), dtype=bool)
    for kind in np.flatnonzero(np.bincount(same) > 1):
        places = np.flatnonzero((same == kind) & moving)
        for number, place in enumerate(places):
            earlier = places[:number][places[:number] <= place - _MOTIF]
            if (np.abs(ratios[earlier] - ratios[place]) <= _RATIO_TOLERANCE).all(axis=1).any():
                inside[place : place + _MOTIF] = True
    return float(inside.mean())


def note_events(notes: Notes) -> OnsetEvents:
    """The moments of a clip with the pitches that begin at each, for `sets.onset_details.detail_diversity`: attacks are
    unit vectors over 88 pitches."""
    moments = _moments(notes.onset)
    attacks = np.zeros((len(moments), _PITCHES))
    for row, moment in enumerate(moments):
        attacks[row, notes.pitch[moment] - LOWEST_PITCH] = 1.0
    norms = np.maximum(np.linalg.norm(attacks, axis=1, keepdims=True), 1e-9)
    return OnsetEvents(np.array([float(notes.onset[moment].min()) for moment in moments]), attacks / norms)


def _measure_notes(waveform: Waveform) -> tuple[Record, Notes]:
    """`COLUMNS` of a clip, None where undefined, and its notes."""
    notes = transcribe(waveform)
    motifs = note_motifs(*melody(notes))
    seconds = waveform.samples.shape[-1] / waveform.sample_rate
    record: Record = {
        "note_motifs": None if math.isnan(motifs) else motifs, "notes_per_second": len(notes.pitch) / seconds
    }  # fmt: skip
    return record, notes


def notes_of_files(
    paths: Sequence[str | Path], *, skips: SkipReport | None = None, quiet: bool = False
) -> dict[str, tuple[Record, Notes]]:
    """`_measure_notes` of every file that can be read, ten minutes of each at most, by path; what cannot be is
    reported."""
    check_notes()
    found = {}
    with Progress(len(paths), "notes", quiet=quiet) as bar:
        for path in paths:
            try:
                found[str(path)] = _measure_notes(read_audio(path, duration=MAX_SECONDS))
            except AudioError as error:
                if skips is not None:
                    skips.add(str(path), f"no notes: {error}")
            bar.advance()
    return found
