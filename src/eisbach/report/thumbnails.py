"""One small picture a clip for pages: spectrogram above, self-similarity and trajectory below, in about 20 kB."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from eisbach.report.figures import features_of
from eisbach.report.figures_draw import draw_mel, draw_similarity, draw_trajectory, trajectory_limit
from eisbach.report.players import Picture
from eisbach.structure.features import Features

_SIZE, _DPI = (4.2, 3.9), 112  # inches; sharp on a phone's or a laptop's card of 17 rem
_MEL = (0.115, 0.625, 0.87, 0.365)  # left, bottom, width, height in figure fractions
_SIMILARITY = (0.095, 0.095, 0.39, 0.42)
_TRAJECTORY = (0.595, 0.095, 0.39, 0.42)
_QUALITY = 72


def clip_thumbnail(path: Path, limit: float | None = None) -> list[Picture]:
    """The three pictures of one clip as a single WebP.

    Parameters
    ----------
    limit : float or None
        Half-width of the trajectory's axes in dB; the same for all clips that are compared.

    Raises
    ------
    AudioError
        A file that cannot be read.
    """
    return [thumbnail_of(features_of(path), limit)]


def thumbnail_maker(paths: Sequence[Path]) -> partial[list[Picture]]:
    """`clip_thumbnail` with one trajectory scale that suits all of `paths`; unreadable files are passed over."""
    from eisbach.errors import AudioError

    clips = []
    for path in paths:
        try:
            clips.append(features_of(path))
        except AudioError:
            continue
    return partial(clip_thumbnail, limit=trajectory_limit(clips))


def thumbnail_of(
    features: Features, limit: float | None, draw_matrix: Callable[[Any, Features], Any] = draw_similarity
) -> Picture:
    """The picture of features that are at hand; `draw_matrix` draws the self-similarity matrix."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    mel, similarity, trajectory = (figure.add_axes(box) for box in (_MEL, _SIMILARITY, _TRAJECTORY))
    draw_mel(mel, features)
    draw_matrix(similarity, features)
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
    return Picture(
        "Spectrogram; self-similarity; path from start (ring) to end (square)",
        _describe(features),
        buffer.getvalue(),
        "image/webp",
    )


def _compact(axes: Any) -> None:
    axes.tick_params(labelsize=9, length=2, pad=1)
    axes.xaxis.label.set_size(9)
    axes.yaxis.label.set_size(9)
    legend = axes.get_legend()
    if legend is not None:
        legend.remove()


def _describe(features: Features) -> str:
    """What the picture shows, in words, from the numbers behind it."""
    from eisbach.structure.similarity import self_similarity

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
