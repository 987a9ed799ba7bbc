"""Pictures of audio: mel-spectrogram, self-similarity, trajectory, one clip's three together, and a grid of clips.

Each function takes audio in any form (`Waveform`, `Features`, `Analysis` or the path of a file) and returns PNG bytes,
or also writes them when `out` is given. Figures are made through matplotlib's objects on the Agg canvas: no pyplot, no
global figure state, no display needed.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eisbach.errors import UserError
from eisbach.files import atomic_write
from eisbach.report.figures_draw import draw_mel, draw_similarity, draw_trajectory, trajectory_limit
from eisbach.report.fonts import save_figure
from eisbach.structure.analyze import Analysis
from eisbach.structure.features import Features, extract_features
from eisbach.types import Waveform

Source = Waveform | Features | Analysis | str | Path
"""Anything that a picture can be made of."""

DPI = 150
_STYLE = {"label": 9.0, "tick": 8.0, "title": 10.0}


def features_of(source: Source) -> Features:
    """The features behind a picture; files are read as far as an analysis goes.

    Raises
    ------
    AudioError
        A file that cannot be read, or empty or non-finite samples.
    """
    if isinstance(source, Features):
        return source
    if isinstance(source, Analysis):
        return source.features
    return extract_features(source)


def mel_picture(source: Source, *, out: str | Path | None = None, title: str = "") -> bytes:
    """PNG of the mel-spectrogram (Hz against seconds, dB below the clip's maximum)."""
    figure, axes = _figure(7.0, 2.8)
    image = draw_mel(axes, features_of(source))
    _colour_bar(figure, axes, image, "level (dB)")
    return _finish(figure, [axes], title, out)


def similarity_picture(source: Source, *, out: str | Path | None = None, title: str = "") -> bytes:
    """PNG of the texture's self-similarity matrix (seconds against seconds, 0–1)."""
    figure, axes = _figure(4.2, 3.5)
    image = draw_similarity(axes, features_of(source))
    _colour_bar(figure, axes, image, "similarity")
    return _finish(figure, [axes], title, out)


def trajectory_picture(source: Source, *, out: str | Path | None = None, title: str = "") -> bytes:
    """PNG of the path through the clip's textures (first two principal components, dB), with start and end marked."""
    figure, axes = _figure(4.4, 3.6)
    points = draw_trajectory(axes, features_of(source))
    _colour_bar(figure, axes, points, "time (s)")
    return _finish(figure, [axes], title, out)


def clip_picture(source: Source, *, out: str | Path | None = None, title: str = "") -> bytes:
    """PNG of one clip's three pictures side by side."""
    return grid_picture([("", source)], out=out, title=title)


def grid_picture(
    rows: Sequence[tuple[str, Source]], *, out: str | Path | None = None, title: str = "", same_scale: bool = True
) -> bytes:
    """PNG of a grid: a row a clip (an arm, say), columns mel-spectrogram, self-similarity and trajectory.

    Parameters
    ----------
    rows : sequence of (label, source)
        At least one; at most 24, beyond which nothing would be legible.
    same_scale : bool
        Give every trajectory the same dB axes, so that a larger path means more change of texture.
    out : path or None
        Also write the PNG there (atomically).

    Raises
    ------
    UserError
        No rows or too many.
    """
    if not 1 <= len(rows) <= 24:
        raise UserError(f"a grid holds 1 to 24 clips, not {len(rows)}; choose fewer.")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    clips = [features_of(source) for _, source in rows]
    limit = trajectory_limit(clips) if same_scale else None
    figure = Figure(figsize=(12.0, 2.45 * len(rows) + (0.6 if title else 0.35)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), 3, squeeze=False, width_ratios=[1.75, 1.0, 1.0])
    drawings: list[tuple[str, str, Callable[..., Any]]] = [
        ("mel-spectrogram", "level (dB)", draw_mel),
        ("self-similarity of textures", "similarity", draw_similarity),
        ("path through textures", "time (s)", lambda axes, clip: draw_trajectory(axes, clip, limit)),
    ]
    for index, ((label, _), clip) in enumerate(zip(rows, clips, strict=True)):
        for column, (heading, bar_label, draw) in enumerate(drawings):
            axes = grid[index, column]
            _colour_bar(figure, axes, draw(axes, clip), bar_label)
            if index == 0:
                axes.set_title(heading, fontsize=_STYLE["title"])
            if index < len(rows) - 1 and column < 2:
                axes.set_xlabel("")
        if label:
            grid[index, 0].annotate(
                label, (0.0, 0.5), xytext=(-52, 0), xycoords="axes fraction", textcoords="offset points",
                rotation=90, ha="right", va="center", fontsize=_STYLE["title"], fontweight="bold", parse_math=False,
            )  # fmt: skip
    return _finish(figure, list(grid.flat), title, out)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _colour_bar(figure: Any, axes: Any, mappable: Any, label: str) -> None:
    if mappable is None:
        return
    bar = figure.colorbar(mappable, ax=axes, pad=0.02, fraction=0.05)
    bar.set_label(label, fontsize=_STYLE["label"])
    bar.ax.tick_params(labelsize=_STYLE["tick"])


def _finish(figure: Any, all_axes: Sequence[Any], title: str, out: str | Path | None) -> bytes:
    for axes in all_axes:
        axes.xaxis.label.set_size(_STYLE["label"])
        axes.yaxis.label.set_size(_STYLE["label"])
        axes.tick_params(labelsize=_STYLE["tick"])
    if title:
        figure.suptitle(title, fontsize=_STYLE["title"] + 1.0, fontweight="bold", parse_math=False)
    buffer = io.BytesIO()
    save_figure(figure, buffer, format="png", dpi=DPI, metadata={"Software": None})
    png = buffer.getvalue()
    if out is not None:
        atomic_write(out, lambda partial: _write_bytes(partial, png))
    return png


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)
