"""Pictures of audio: mel-spectrogram, self-similarity, trajectory, one clip's three together, and a grid of clips.

Each picture takes audio in any form (`Waveform`, `Features`, `Analysis` or the path of a file) and returns PNG bytes,
or also writes them when `out` is given; a `draw_` function draws on axes that the caller owns. Colour maps are
perceptually even and readable with any colour vision (magma, cividis, viridis); start and end are told apart by shape
as well as by shade.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from eisbach.errors import UserError
from eisbach.report.fonts import figure_png, new_figure
from eisbach.structure.analyze import Analysis
from eisbach.structure.features import (
    FLOOR_DB,
    FRAME_RATE,
    TEXTURE_RATE,
    TEXTURE_WINDOW,
    Features,
    extract_features,
)
from eisbach.structure.similarity import self_similarity
from eisbach.types import Waveform

Source = Waveform | Features | Analysis | str | Path
"""Anything that a picture can be made of."""

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
    figure = new_figure(7.0, 2.8)
    axes = figure.subplots()
    image = draw_mel(axes, features_of(source))
    _colour_bar(figure, axes, image, "level (dB)")
    return finish(figure, [axes], title, out)


def similarity_picture(source: Source, *, out: str | Path | None = None, title: str = "") -> bytes:
    """PNG of the texture's self-similarity matrix (seconds against seconds, 0–1)."""
    figure = new_figure(4.2, 3.5)
    axes = figure.subplots()
    image = draw_similarity(axes, features_of(source))
    _colour_bar(figure, axes, image, "similarity")
    return finish(figure, [axes], title, out)


def trajectory_picture(source: Source, *, out: str | Path | None = None, title: str = "") -> bytes:
    """PNG of the path through the clip's textures (first two principal components, dB), with start and end marked."""
    figure = new_figure(4.4, 3.6)
    axes = figure.subplots()
    points = draw_trajectory(axes, features_of(source))
    _colour_bar(figure, axes, points, "time (s)")
    return finish(figure, [axes], title, out)


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
    clips = [features_of(source) for _, source in rows]
    limit = trajectory_limit(clips) if same_scale else None
    figure = new_figure(12.0, 2.45 * len(rows) + (0.6 if title else 0.35))
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
    return finish(figure, list(grid.flat), title, out)


def _colour_bar(figure: Any, axes: Any, mappable: Any, label: str) -> None:
    if mappable is None:
        return
    bar = figure.colorbar(mappable, ax=axes, pad=0.02, fraction=0.05)
    bar.set_label(label, fontsize=_STYLE["label"])
    bar.ax.tick_params(labelsize=_STYLE["tick"])


def finish(figure: Any, all_axes: Sequence[Any], title: str = "", out: str | Path | None = None) -> bytes:
    """The figure's PNG with the sizes of text that all pictures share, also written to `out`."""
    for axes in all_axes:
        axes.xaxis.label.set_size(_STYLE["label"])
        axes.yaxis.label.set_size(_STYLE["label"])
        axes.tick_params(labelsize=_STYLE["tick"])
    if title:
        figure.suptitle(title, fontsize=_STYLE["title"] + 1.0, fontweight="bold", parse_math=False)
    return figure_png(figure, out)


# --- what one axes shows


_MEL_SHOWN_DB = 70.0
_TICK_HZ = (100, 500, 1000, 2000, 5000)
_MAX_COLUMNS = 1500  # pictures wider than this only cost bytes
_PRINTED_RATE = 10.0  # mel frames a second in pictures by the paper's own definitions

View = Literal["texture", "mel"]
"""What is compared or projected: textures of 2 s on an absolute scale (ours), or single mel frames (as the paper
prints)."""


def draw_mel(axes: Any, features: Features) -> Any:
    """The mel-spectrogram in dB below the clip's maximum; returns the image (for a colour bar) or None when empty."""
    if len(features.mel_db) == 0:
        return draw_nothing(axes, "no sound")
    stride = -(-len(features.mel_db) // _MAX_COLUMNS)
    whole = len(features.mel_db) // stride * stride
    shown = features.mel_db[:whole].reshape(-1, stride, features.mel_db.shape[1]).mean(axis=1).T
    bands = len(features.mel_hz)
    start = features.trimmed_start
    image = axes.imshow(
        shown, origin="lower", aspect="auto", cmap="magma", vmin=-min(_MEL_SHOWN_DB, FLOOR_DB), vmax=0.0,
        extent=(start, start + whole / FRAME_RATE, -0.5, bands - 0.5), interpolation="nearest", rasterized=True,
    )  # fmt: skip
    ticks = [hz for hz in _TICK_HZ if features.mel_hz[0] <= hz <= features.mel_hz[-1]]
    axes.set_yticks(np.interp(ticks, features.mel_hz, np.arange(bands)))
    axes.set_yticklabels([f"{hz // 1000}k" if hz >= 1000 else str(hz) for hz in ticks])
    axes.set_xlabel("time (s)")
    axes.set_ylabel("frequency (Hz)")
    return image


def mel_frames(features: Features) -> tuple[np.ndarray, float]:
    """Mel frames in dB above the floor, at most 10 a second, [shape=(n, 64)], and how many there are a second."""
    pool = round(FRAME_RATE / _PRINTED_RATE) * -(-len(features.mel_db) // (20 * _MAX_COLUMNS))
    whole = len(features.mel_db) // pool * pool
    frames = features.mel_db[:whole].astype(np.float64).reshape(-1, pool, features.mel_db.shape[1]).mean(axis=1)
    return frames + FLOOR_DB, FRAME_RATE / pool


def cosine_similarity(frames: np.ndarray) -> np.ndarray:
    """Cosine of every pair of rows, [shape=(n, n)], 0–1 for non-negative frames; a row of zeros is like nothing."""
    norms = np.linalg.norm(frames, axis=1, keepdims=True)
    unit = frames / np.where(norms > 0, norms, 1.0)
    return unit @ unit.T


def draw_similarity(axes: Any, features: Features, view: View = "texture") -> Any:
    """A self-similarity matrix on the scale 0–1; returns the image or None when the clip is too short.

    Parameters
    ----------
    view : 'texture' or 'mel'
        Textures compared on our absolute scale, or the cosine of mel frames as in the paper's Figure 2.
    """
    if len(features.texture) < 2:
        return draw_nothing(axes, f"under {TEXTURE_WINDOW:g} s of sound")
    if view == "mel":
        frames, rate = mel_frames(features)
        stride = -(-len(frames) // _MAX_COLUMNS)
        matrix = cosine_similarity(frames[::stride])
        low = features.trimmed_start
        high = low + len(frames) / rate
    else:
        stride = -(-len(features.texture) // _MAX_COLUMNS)
        matrix = self_similarity(features.texture[::stride])
        low = features.trimmed_start + TEXTURE_WINDOW / 2  # a window's time is its middle
        high = low + (len(features.texture) - 1) / TEXTURE_RATE
    image = axes.imshow(
        matrix, origin="lower", aspect="equal", cmap="cividis", vmin=0.0, vmax=1.0,
        extent=(low, high, low, high), interpolation="nearest", rasterized=True,
    )  # fmt: skip
    marks = _marks(low, high)
    axes.set_xticks(marks)
    axes.set_yticks(marks)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_xlabel("time (s)")
    axes.set_ylabel("time (s)")
    return image


def project(texture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The texture's path in its own first two principal components.

    Returns
    -------
    path : np.ndarray [shape=(windows, 2)]
        Scaled so that distances are RMS dB over the texture's dimensions, as in the self-similarity matrix.
        Signs are fixed (the first quarter lies left of and below the rest), so pictures are reproducible.
    explained : np.ndarray [shape=(2,)]
        Share of the variance on each component; 0 where there is none.
    """
    centred = texture - texture.mean(axis=0)
    _, singular, components = np.linalg.svd(centred, full_matrices=False)
    path = np.zeros((len(texture), 2))
    count = min(2, len(singular))
    path[:, :count] = centred @ components[:count].T / np.sqrt(texture.shape[1])
    quarter = max(1, len(path) // 4)
    path *= np.where(path[:quarter].mean(axis=0) > 0, -1.0, 1.0)
    total = float(np.sum(singular**2))
    explained = np.zeros(2)
    if total > 1e-12:
        explained[:count] = singular[:count] ** 2 / total
    return path, explained


def draw_trajectory(
    axes: Any, features: Features, limit: float | None = None, *, view: View = "texture", marker: float = 1.0
) -> Any:
    """The path through the textures' plane, coloured by time, a ring at the start and a square at the end.

    Parameters
    ----------
    limit : float or None
        Half-width of both axes in dB (the same for clips that are compared); None fits this clip, at least 2 dB.
    view : 'texture' or 'mel'
        Which frames are projected; see `View`.
    marker : float
        Scale of the marks, for small panels.

    Returns
    -------
    The coloured points (for a colour bar), or None when the clip is too short.
    """
    if len(features.texture) < 3:
        return draw_nothing(axes, f"under {TEXTURE_WINDOW + 1:g} s of sound")
    frames, rate, first = _frames(features, view)
    path, explained = project(frames)
    limit = trajectory_limit([features], view) if limit is None else limit
    time = features.trimmed_start + first + np.arange(len(path)) / rate
    axes.plot(path[:, 0], path[:, 1], color="0.65", linewidth=0.8 * marker**0.5, zorder=1, rasterized=len(path) > 600)
    points = axes.scatter(
        path[:, 0],
        path[:, 1],
        c=time,
        cmap="viridis",
        s=11 * marker,
        linewidths=0,
        zorder=2,
        rasterized=len(path) > 600,
    )
    outline = {"zorder": 4, "edgecolors": "black", "linewidths": 1.3 * marker**0.5}
    axes.scatter(*path[0], marker="o", s=120 * marker, facecolors="white", label="start", **outline)
    axes.scatter(*path[-1], marker="s", s=42 * marker, facecolors="#D55E00", label="end", **outline)
    axes.set_xticks(_marks(-limit, limit))
    axes.set_yticks(_marks(-limit, limit))
    axes.set_xlim(-limit, limit)
    axes.set_ylim(-limit, limit)
    axes.set_aspect("equal")
    axes.set_xlabel(f"PC 1 (dB), {explained[0]:.0%} of variance")
    axes.set_ylabel(f"PC 2 (dB), {explained[1]:.0%}")
    axes.legend(loc="best", frameon=True, framealpha=0.85, borderpad=0.3, handletextpad=0.2, fontsize="small")
    return points


def _frames(features: Features, view: View) -> tuple[np.ndarray, float, float]:
    """The frames that are projected, how many there are a second, and the time of the first."""
    if view == "mel":
        frames, rate = mel_frames(features)
        return frames, rate, 0.5 / rate
    return features.texture, TEXTURE_RATE, TEXTURE_WINDOW / 2


def trajectory_limit(clips: list[Features], view: View = "texture") -> float:
    """Half-width in dB of axes that hold the path of every clip, at least 2 dB, rounded up to a half."""
    reach = [np.abs(project(_frames(clip, view)[0])[0]).max() for clip in clips if len(clip.texture) >= 3]
    return float(np.ceil(2.0 * max([2.0, *(1.12 * r for r in reach)])) / 2.0)


def _marks(low: float, high: float) -> np.ndarray:
    """Round tick positions for an axis that is drawn the same way in both directions."""
    from matplotlib.ticker import MaxNLocator

    marks = np.asarray(MaxNLocator(nbins=5, steps=[1, 2, 5, 10]).tick_values(low, high))
    return marks[(marks >= low) & (marks <= high)]


def draw_nothing(axes: Any, reason: str) -> None:
    """An empty panel that says why it is empty; ticks that it shares with other panels stay theirs."""
    axes.tick_params(left=False, labelleft=False)
    if len(axes.get_shared_x_axes().get_siblings(axes)) == 1:
        axes.tick_params(bottom=False, labelbottom=False)
    axes.text(0.5, 0.5, reason, ha="center", va="center", transform=axes.transAxes, color="0.4")
