"""Players with a waveform, the detected sections and a picture under them: what each card of the page holds."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.audio import read_audio
from eisbach.errors import AudioError
from eisbach.progress import Progress
from eisbach.report.audio_embed import MOST_SECONDS, EmbeddedAudio, embed_all
from eisbach.report.figures import draw_mel, draw_trajectory, features_of, trajectory_limit
from eisbach.report.structure.draw import Span, draw_sections, large_spans, section_spans
from eisbach.structure.features import Features, forget
from eisbach.structure.sets.clips import clip_sketch
from eisbach.structure.similarity import self_similarity
from eisbach.types import Record

_LETTER_WIDTH = 4.0  # per cent of a card that a letter takes
_COLUMNS = 360  # vertical strokes of a waveform
_PICTURE_BUDGET = 8_000_000  # bytes as base64, over all clips of a page

_SIZE, _DPI = (4.2, 3.9), 112  # inches; sharp on a phone's or a laptop's card of 17 rem
_MEL = (0.115, 0.625, 0.87, 0.365)  # left, bottom, width, height in figure fractions
_SIMILARITY = (0.095, 0.095, 0.39, 0.42)
_TRAJECTORY = (0.595, 0.095, 0.39, 0.42)
_QUALITY = 72


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

    @property
    def shown(self) -> str:
        """The letter where it fits; the bar's name says it anyway."""
        return self.letter if self.width >= _LETTER_WIDTH * len(self.letter) else ""


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
    sketch : dict of str to list of float
        `structure.sets.clips.clip_sketch`; empty when the file cannot be read.
    picture : str
        Data address of spectrogram, matrix and trajectory; empty when there is none.
    alt : str
        What the picture shows.
    parts : list of SectionBar
        The large form, where it has fewer parts than there are sections.
    """

    record: Record
    audio: EmbeddedAudio
    wave: str
    sections: list[SectionBar]
    seconds: float
    sketch: Mapping[str, Sequence[float]] = field(repr=False)
    picture: str = ""
    alt: str = ""
    parts: Sequence[SectionBar] = ()


def make_players(
    records: Sequence[Record],
    *,
    budget: int,
    root: Path = Path(),
    details: Mapping[str, Mapping[str, Any]] | None = None,
    pictures: bool = True,
    seconds: float = MOST_SECONDS,
    quiet: bool = True,
) -> list[Player]:
    """A player for each record, in order; a file that cannot be read any more says so in its place.

    Parameters
    ----------
    budget : int
        Bytes of base64 that all audio may take.
    root : Path
        Folder that relative paths of the records start from.
    details : mapping or None
        Of the clips' analysis by path (`record_files.read_details`): sections and sketches; what lacks them is looked
        at again.
    pictures : bool
        Draw each clip, until the pictures take 8 MB.
    seconds : float
        What is heard of a clip at most.
    """
    paths = [root / str(row["path"]) for row in records]
    audio = embed_all(paths, budget=budget, seconds=seconds, quiet=quiet)
    with Progress(len(paths), "read clips", quiet=quiet) as bar:
        features = [_features(path, bar) for path in paths]
    details = details or {}
    limit = trajectory_limit([clip for clip in features if clip is not None])
    players: list[Player] = []
    spent = 0
    with Progress(len(paths), "draw pictures", quiet=quiet) as bar:
        for row, path, sound, clip in zip(records, paths, audio, features, strict=True):
            drawn = limit if pictures and spent < _PICTURE_BUDGET else None
            players.append(_player(row, path, sound, clip, details.get(str(path)), drawn))
            spent += len(players[-1].picture)
            if clip is not None:
                forget(clip)  # its matrices are as large as everything else together
            bar.advance()
    return players


def _features(path: Path, bar: Progress) -> Features | None:
    try:
        return features_of(path)
    except AudioError:
        return None
    finally:
        bar.advance()


def _player(
    row: Record,
    path: Path,
    audio: EmbeddedAudio,
    features: Features | None,
    detail: Mapping[str, Any] | None,
    limit: float | None,
) -> Player:
    wave, seconds = waveform_path(path, audio.seconds or MOST_SECONDS)
    if features is None:
        return Player(row, audio, wave, [], seconds, {})
    spans = section_spans(features, detail)
    sketch = (detail or {}).get("sketch") or clip_sketch(features)
    picture = "" if limit is None else f"data:image/webp;base64,{_base64(_clip_thumbnail(features, limit, spans))}"
    alt = "" if limit is None else _describe(features)
    parts = section_bars(large_spans(features, detail), seconds, "Part")
    bars = section_bars(spans, seconds)
    return Player(row, audio, wave, bars, seconds, sketch, picture, alt, parts if len(parts) > 1 else ())


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def waveform_path(path: Path, most: float = MOST_SECONDS) -> tuple[str, float]:
    """The outline of a file's peaks as an SVG path (360 × 100, loudest peak at full height), and the seconds it spans.

    At most the first `most` seconds, as much as is embedded. Empty, with 0 seconds, for a file that cannot be read.
    """
    try:
        waveform = read_audio(path, duration=most, mono=True, allow_silent=True)
    except AudioError:
        return "", 0.0
    size = np.abs(waveform.samples[0])
    edges = np.linspace(0, len(size), min(_COLUMNS, len(size)) + 1).astype(int)
    peaks = np.maximum.reduceat(size, edges[:-1])
    top = float(peaks.max())
    heights = np.maximum(0.8, 48.0 * peaks / top) if top > 0 else np.full(len(peaks), 0.8)
    x = np.arange(len(heights)) * (_COLUMNS / len(heights))
    strokes = [f"M{a:.0f} {50 - h:.0f}V{50 + h:.0f}" for a, h in zip(x, heights, strict=True)]
    return "".join(strokes), waveform.duration


def section_bars(spans: Sequence[Span], seconds: float, noun: str = "Section") -> list[SectionBar]:
    """The sections within the `seconds` that can be heard, as bars."""
    tones = {letter: index for index, letter in enumerate(dict.fromkeys(span.letter for span in spans))}
    bars = []
    for span in spans:
        end = min(span.end, seconds)
        if seconds <= 0 or span.start >= end:
            continue
        bars.append(
            SectionBar(
                span.letter, round(span.start, 2), round(end, 2), 100 * span.start / seconds,
                100 * (end - span.start) / seconds, tones[span.letter] % 7,
                f"{noun} {span.letter}, {clock(span.start)} to {clock(end)}",
            )
        )  # fmt: skip
    return bars


def clock(seconds: float) -> str:
    """Minutes and seconds, '1:05'."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"


def _clip_thumbnail(features: Features, limit: float | None, spans: Sequence[Span]) -> bytes:
    """One small WebP, about 20 kB: spectrogram above, self-similarity with sections and trajectory below.

    Parameters
    ----------
    limit : float or None
        Half-width of the trajectory's axes in dB; the same for all clips that are compared.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    mel, similarity, trajectory = (figure.add_axes(box) for box in (_MEL, _SIMILARITY, _TRAJECTORY))
    draw_mel(mel, features)
    draw_sections(similarity, features, spans)
    draw_trajectory(trajectory, features, limit)
    for axes in (mel, similarity, trajectory):
        _compact(axes)
    mel.set_ylabel("Hz", labelpad=0)
    mel.set_xlabel("seconds", labelpad=0)
    similarity.set_xlabel("seconds", labelpad=0)
    similarity.set_ylabel("")
    trajectory.set_xlabel("dB", labelpad=0)
    trajectory.set_ylabel("")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", pil_kwargs={"quality": _QUALITY, "method": 2})
    return buffer.getvalue()


def _compact(axes: Any) -> None:
    axes.tick_params(labelsize=9, length=2, pad=1)
    axes.xaxis.label.set_size(9)
    axes.yaxis.label.set_size(9)
    legend = axes.get_legend()
    if legend is not None:
        legend.remove()


def _describe(features: Features) -> str:
    """What the picture shows, in words, from the numbers behind it."""
    if len(features.texture) < 3:
        return f"Pictures of a clip of {features.duration:.0f} seconds, too short for self-similarity."
    likeness = float(self_similarity(features.texture).mean())
    words = (
        "nearly the same throughout" if likeness > 0.8 else "changing little" if likeness > 0.5
        else "with clearly different passages" if likeness > 0.2 else "changing all the time"
    )  # fmt: skip
    return (
        f"Mel spectrogram, self-similarity matrix and texture trajectory of a clip of {features.duration:.0f} seconds, "
        f"{words}: two moments are on average {likeness:.0%} alike."
    )
