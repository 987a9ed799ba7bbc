"""Players with a waveform and the detected sections under it: what each card of the page holds."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from eisbach.audio import read_audio
from eisbach.errors import AudioError
from eisbach.progress import Progress
from eisbach.report.audio_embed import EmbeddedAudio, embed_all
from eisbach.report.figures import features_of
from eisbach.report.figures_draw import trajectory_limit
from eisbach.report.structure.draw import draw_sections
from eisbach.report.structure.sections import Span, section_spans
from eisbach.report.thumbnails import thumbnail_of
from eisbach.structure.features import Features
from eisbach.types import Record

COLUMNS = 360
"""Vertical strokes of a waveform."""
_MOST_SECONDS = 600.0  # of one clip; as much as `audio_embed` embeds


@dataclass(frozen=True)
class SectionBar:
    """One section under a waveform.

    Attributes
    ----------
    letter : str
        What it sounds like; equal letters sound alike.
    start, end : float
        Seconds.
    left, width : float
        Per cent of the player's length.
    tone : int
        Index of the letter's colour.
    said : str
        'Section B, 0:12 to 0:20'.
    """

    letter: str
    start: float
    end: float
    left: float
    width: float
    tone: int
    said: str


@dataclass(frozen=True)
class Player:
    """A clip that can be heard and seen.

    Attributes
    ----------
    record : Record
    audio : EmbeddedAudio
    wave : str
        The `d` of an SVG path in a box 360 wide and 100 high; empty when the file cannot be read.
    sections : list of SectionBar
    seconds : float
    features : Features or None
        None when the file cannot be read.
    picture : str
        Data address of spectrogram, matrix and trajectory; empty when there is none.
    alt : str
        What the picture shows.
    """

    record: Record
    audio: EmbeddedAudio
    wave: str
    sections: list[SectionBar]
    seconds: float
    features: Features | None = field(repr=False)
    picture: str = ""
    alt: str = ""


def make_players(records: Sequence[Record], *, budget: int, pictures: bool = True, quiet: bool = True) -> list[Player]:
    """A player for each record, in order; a file that cannot be read any more says so in its place.

    Parameters
    ----------
    budget : int
        Bytes of base64 that all audio may take.
    """
    paths = [Path(str(row["path"])) for row in records]
    audio = embed_all(paths, budget=budget, quiet=quiet)
    found: list[tuple[Features | None, list[Span]]] = []
    with Progress(len(paths), "find sections", quiet=quiet) as bar:
        for path in paths:
            found.append(_analysed(path))
            bar.advance()
    limit = trajectory_limit([features for features, _ in found if features is not None])
    players = []
    with Progress(len(paths), "draw pictures", quiet=quiet) as bar:
        for row, path, sound, (features, spans) in zip(records, paths, audio, found, strict=True):
            players.append(_player(row, path, sound, features, spans, limit if pictures else None))
            bar.advance()
    return players


def _analysed(path: Path) -> tuple[Features | None, list[Span]]:
    try:
        features = features_of(path)
    except AudioError:
        return None, []
    return features, section_spans(features)


def _player(
    row: Record, path: Path, audio: EmbeddedAudio, features: Features | None, spans: Sequence[Span], limit: float | None
) -> Player:
    wave, seconds = waveform_path(path, audio.seconds or _MOST_SECONDS)
    picture, alt = "", ""
    if features is not None and limit is not None:
        made = thumbnail_of(features, limit, partial(draw_sections, spans=spans))
        picture = f"data:{made.mime};base64,{base64.b64encode(made.data).decode('ascii')}"
        alt = made.alt
    return Player(row, audio, wave, section_bars(spans, seconds), seconds, features, picture, alt)


def waveform_path(path: Path, most: float = _MOST_SECONDS) -> tuple[str, float]:
    """The outline of a file's peaks as an SVG path (360 × 100, loudest peak at full height), and the seconds it spans.

    At most the first `most` seconds, as much as is embedded. Empty, with 0 seconds, for a file that cannot be read.
    """
    try:
        waveform = read_audio(path, duration=most, mono=True, allow_silent=True)
    except AudioError:
        return "", 0.0
    size = np.abs(waveform.samples[0])
    edges = np.linspace(0, len(size), min(COLUMNS, len(size)) + 1).astype(int)
    peaks = np.maximum.reduceat(size, edges[:-1])
    top = float(peaks.max())
    heights = np.maximum(0.8, 48.0 * peaks / top) if top > 0 else np.full(len(peaks), 0.8)
    x = np.arange(len(heights)) * (COLUMNS / len(heights))
    strokes = [f"M{a:.0f} {50 - h:.0f}V{50 + h:.0f}" for a, h in zip(x, heights, strict=True)]
    return "".join(strokes), waveform.duration


def section_bars(spans: Sequence[Span], seconds: float) -> list[SectionBar]:
    """The sections within the `seconds` that can be heard, as bars."""
    tones: Mapping[str, int] = {
        letter: index for index, letter in enumerate(dict.fromkeys(span.letter for span in spans))
    }
    bars = []
    for span in spans:
        end = min(span.end, seconds)
        if seconds <= 0 or span.start >= end:
            continue
        bars.append(
            SectionBar(
                span.letter, round(span.start, 2), round(end, 2), 100 * span.start / seconds,
                100 * (end - span.start) / seconds,
                tones[span.letter] % 7, f"Section {span.letter}, {clock(span.start)} to {clock(end)}",
            )
        )  # fmt: skip
    return bars


def clock(seconds: float) -> str:
    """Minutes and seconds, '1:05'."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"
