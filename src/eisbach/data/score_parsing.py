"""From a score file to a compact table of notes (music21 does the reading)."""

from __future__ import annotations

import copy
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from eisbach.errors import EisbachError, UserError
from eisbach.files import atomic_write
from eisbach.tensor_files import read_arrays

PARSER_VERSION = 2
"""Part of the cache key: raise it whenever the tables that this module makes change."""

_DEFAULT_VELOCITY = 76
_Repeats = Literal["none", "expanded", "once"]
_RING_AGAIN = 0.5  # s between alarms


class ScoreError(EisbachError):
    """A score that cannot be turned into notes; callers skip the piece and report it."""


class ScoreTimeout(ScoreError):
    """Parsing took too long; another machine, or a calmer one, may manage it."""


class _Expired(BaseException):
    """Raised by the alarm: not an `Exception`, so that the parser's own handlers let it through."""


@dataclass(frozen=True)
class NoteTable:
    """The notes of one piece, sorted by onset.

    Attributes
    ----------
    piece : str
        Id of the piece.
    part : np.ndarray [shape=(n,), int16]
        0 is the first (usually the highest) part of the score.
    onset, duration : np.ndarray [shape=(n,), float64]
        Quarter notes from the beginning; ties are merged.
    pitch, velocity : np.ndarray [shape=(n,), int16]
        MIDI numbers; the velocity follows the dynamics written in the score.
    tempo : np.ndarray [shape=(m, 2), float64]
        Onset in quarters and quarters a minute of each tempo mark; empty when the score has none.
    repeats : {"none", "expanded", "once"}
        "once": the score has repeats that could not be expanded, so each section is taken one time.
    title : str
    """

    piece: str
    part: np.ndarray
    onset: np.ndarray
    duration: np.ndarray
    pitch: np.ndarray
    velocity: np.ndarray
    tempo: np.ndarray
    repeats: _Repeats
    title: str

    @property
    def length(self) -> float:
        """Quarters from the beginning to the end of the last note."""
        return float((self.onset + self.duration).max()) if self.onset.size else 0.0

    @property
    def parts(self) -> int:
        """Number of parts."""
        return int(self.part.max()) + 1 if self.part.size else 0


def parse_score(source: str, piece: str, *, text: bool = False, timeout: float | None = 60.0) -> NoteTable:
    """The notes of one score.

    Parameters
    ----------
    source : str
        Path of a MusicXML, kern or abc file, or (``text=True``) one abc tune.
    piece : str
        Id that the table carries.
    timeout : float or None
        Seconds of wall time (only in the main thread of a process, where a POSIX alarm can end the parser).

    Raises
    ------
    ScoreError
        The parser failed or took too long, or the score holds no notes.
    """
    from music21 import converter, stream

    try:
        with _time_limit(timeout), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if text:
                score = converter.parseData(source, format="abc")
            else:
                score = converter.parse(source, forceSource=True)
            if isinstance(score, stream.Opus):
                scores = list(score.scores)
                if len(scores) != 1:
                    raise ScoreError(f"holds {len(scores)} scores where one was expected")
                score = scores[0]
            return _table(score, piece)
    except ScoreError:
        raise
    except _Expired as error:
        raise ScoreTimeout(f"parsing took longer than {timeout:g} s") from error
    except Exception as error:  # a third-party parser on foreign files: whatever it raises means "cannot be parsed"
        raise ScoreError(f"cannot be parsed ({type(error).__name__}: {' '.join(str(error).split())[:160]})") from error


@contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    usable = seconds and hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if not usable:
        yield
        return

    def stop(signum: int, frame: object) -> None:
        raise _Expired

    previous = signal.signal(signal.SIGALRM, stop)
    # It rings again: what is raised in a finaliser, or where the parser swallows everything, goes no further.
    signal.setitimer(signal.ITIMER_REAL, float(seconds or 0), _RING_AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _table(score: Any, piece: str) -> NoteTable:
    from music21 import stream, tempo

    parts = list(score.parts) if hasattr(score, "parts") else []
    parts = parts or [score]
    rows: list[
        tuple[float, float, int, int, int, int, int]
    ] = []  # onset, duration, part, pitch, velocity, tie, measure
    measure_lists = [list(part.getElementsByClass(stream.Measure)) for part in parts]
    for index, part in enumerate(parts):
        rows += _part_rows(part, index, measure_lists[index])
    if not rows:
        raise ScoreError("holds no notes")
    marks = []
    for mark in score.recurse().getElementsByClass(tempo.MetronomeMark):
        speed = mark.getQuarterBPM()
        if speed:
            marks.append((float(mark.getOffsetInHierarchy(score)), float(speed)))
    order, repeats = _measure_order(parts[0], measure_lists)
    data = np.array(rows, dtype=np.float64)
    speeds = np.array(sorted(set(marks)), dtype=np.float64).reshape(-1, 2)
    if order is not None:
        data, speeds = _reorder(data, speeds, measure_lists[0], order)
    data = _merge_ties(data)
    keep = (data[:, 1] > 0) & (data[:, 3] >= 12) & (data[:, 3] <= 115)
    data = data[keep]
    if not len(data):
        raise ScoreError("holds no notes")
    data = data[np.lexsort((data[:, 3], data[:, 2], data[:, 0]))]
    title = str(score.metadata.bestTitle or "") if score.metadata is not None else ""
    return NoteTable(
        piece=piece,
        part=data[:, 2].astype(np.int16),
        onset=data[:, 0],
        duration=data[:, 1],
        pitch=data[:, 3].astype(np.int16),
        velocity=data[:, 4].astype(np.int16),
        tempo=speeds,
        repeats=repeats,
        title=" ".join(title.split()),
    )


_TIES = {None: 0, "start": 1, "continue": 2, "stop": 3, "let-ring": 0}


def _part_rows(part: Any, index: int, measures: list[Any]) -> list[tuple[float, float, int, int, int, int, int]]:
    from music21 import dynamics, harmony

    levels = sorted(
        (float(item.getOffsetInHierarchy(part)), float(item.volumeScalar))
        for item in part.recurse().getElementsByClass(dynamics.Dynamic)
    )
    times = np.array([time for time, _ in levels])
    containers = list(enumerate(measures)) if measures else [(-1, part)]
    rows = []
    for number, container in containers:
        base = float(part.elementOffset(container)) if measures else 0.0
        for element in container.recurse().notes:
            if isinstance(element, harmony.Harmony) or element.duration.isGrace:
                continue
            onset = base + float(element.getOffsetInHierarchy(container))
            current = int(np.searchsorted(times, onset + 1e-6)) - 1
            written = element.volume.velocity
            velocity = _DEFAULT_VELOCITY if current < 0 else round(24 + 100 * levels[current][1])
            velocity = int(np.clip(written if written is not None else velocity, 1, 127))
            notes = element.notes if element.isChord else [element]
            for note in notes:
                pitch = getattr(note, "pitch", None)
                if pitch is None:  # unpitched percussion
                    continue
                tie = note.tie or element.tie
                kind = _TIES.get(tie.type if tie else None, 0)
                rows.append((onset, float(element.quarterLength), index, int(pitch.midi), velocity, kind, number))
    return rows


def _measure_order(part: Any, measure_lists: list[list[Any]]) -> tuple[list[int] | None, _Repeats]:
    """The order in which measures sound when repeats are played; None when they sound as written.

    The repeats are expanded on a skeleton that has the bar lines and marks but no notes: expanding the score
    itself copies every note and takes ten times as long.
    """
    from music21 import bar, note, repeat, spanner, stream

    measures = measure_lists[0]
    marked = [
        any(isinstance(line, bar.Repeat) for line in (measure.leftBarline, measure.rightBarline))
        or bool(measure.getElementsByClass(repeat.RepeatExpression))
        for measure in measures
    ]
    if not any(marked):
        return None, "none"
    if any(len(other) != len(measures) for other in measure_lists):
        return None, "once"
    skeleton = stream.Part()
    bones = {}
    for number, measure in enumerate(measures):
        bone = stream.Measure(number=number)
        # the expander numbers some measures anew, so each carries its place in a lyric
        bone.append(note.Rest(quarterLength=4.0, lyric=str(number)))
        for side in ("leftBarline", "rightBarline"):
            line = getattr(measure, side)
            if line is not None:
                setattr(bone, side, copy.deepcopy(line))
        for mark in measure.getElementsByClass(repeat.RepeatExpression):
            bone.insert(0.0 if mark.offset == 0 else 4.0, copy.deepcopy(mark))
        bones[id(measure)] = bone
        skeleton.append(bone)
    for bracket in part.recurse().getElementsByClass(spanner.RepeatBracket):
        spanned = [bones[id(item)] for item in bracket.getSpannedElements() if id(item) in bones]
        if spanned:
            skeleton.insert(0, spanner.RepeatBracket(spanned, number=bracket.number))
    try:
        expanded = repeat.Expander(skeleton).process()
        order = [int(bone.notesAndRests[0].lyric) for bone in expanded.getElementsByClass(stream.Measure)]
    except Exception:  # incoherent repeats: music21 raises several kinds
        return None, "once"
    return (order, "expanded") if order else (None, "once")


def _reorder(
    data: np.ndarray, speeds: np.ndarray, measures: list[Any], order: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    starts = np.array([float(measure.offset) for measure in measures])
    last = float(measures[-1].highestTime) or float(measures[-1].barDuration.quarterLength)
    lengths = np.diff(np.append(starts, starts[-1] + last))
    pieces, marks, clock = [], [], 0.0
    by_measure = {number: data[data[:, 6] == number] for number in set(order)}
    for number in order:
        rows = by_measure[number].copy()
        rows[:, 0] += clock - starts[number]
        pieces.append(rows)
        inside = (speeds[:, 0] >= starts[number]) & (speeds[:, 0] < starts[number] + lengths[number])
        marks.append(speeds[inside] + [clock - starts[number], 0.0])
        clock += lengths[number]
    return np.concatenate(pieces), np.concatenate(marks)


def _merge_ties(data: np.ndarray) -> np.ndarray:
    """Joins tied notes: a note whose tie goes on takes the length of the next one of its part and pitch."""
    data = data[np.lexsort((data[:, 0], data[:, 3], data[:, 2]))]
    keep = np.ones(len(data), dtype=bool)
    head = 0
    for index in range(1, len(data)):
        current, previous = data[index], data[head]
        joined = (
            current[5] in (2, 3)
            and previous[5] in (1, 2)
            and current[2] == previous[2]
            and current[3] == previous[3]
            and abs(previous[0] + previous[1] - current[0]) < 1e-3
        )
        if joined:
            data[head, 1] += current[1]
            data[head, 5] = 2 if current[5] == 2 else 0
            keep[index] = False
        else:
            head = index
    return data[keep]


# --- a table on disk


_ARRAYS = ("part", "onset", "duration", "pitch", "velocity", "tempo")


def write_table(path: Path, table: NoteTable, source: str) -> None:
    """Writes a table and the hash of the score that it was read from, atomically."""
    texts = {"repeats": table.repeats, "title": table.title, "source": source}
    arrays = {name: np.array(text) for name, text in texts.items()} | {name: getattr(table, name) for name in _ARRAYS}

    def write(partial: Path) -> None:
        with partial.open("wb") as handle:
            np.savez_compressed(handle, **arrays)  # type: ignore[arg-type]

    atomic_write(path, write)


def read_table(path: Path, piece: str, source: str) -> NoteTable | None:
    """A cached table; None when the file is damaged or of another score than `source`, so that it is parsed again."""
    try:
        data = read_arrays(path, "cached score")
    except UserError:
        return None
    arrays = {name: data.get(name) for name in _ARRAYS}
    notes = len(data["onset"]) if "onset" in data and data["onset"].ndim == 1 else -1
    for name, array in arrays.items():
        numeric = array is not None and array.dtype.kind in "iuf" and bool(np.isfinite(array).all())
        if not numeric or (name != "tempo" and array.shape != (notes,)):  # type: ignore[union-attr]
            return None
    texts = [data.get(name) for name in ("repeats", "title", "source")]
    if any(text is None or text.dtype.kind != "U" or text.shape for text in texts):
        return None
    if str(texts[2]) != source:
        return None
    return NoteTable(piece=piece, repeats=str(texts[0]), title=str(texts[1]), **arrays)  # type: ignore[arg-type]
