"""The figures of a paper on musical structure, from any audio: one function each, and a table of them by name.

Figures 1-8 of "Eisbach: entropy log-barrier", Section 7, plus the curve of block scales, the fitness scape plot and the
motif map. Every function takes clips and gives the bytes of a PNG, PDF or SVG, which it also writes when `out` is
given. Panels that are compared share their axes and colour scales. With ``view="mel"`` matrices and trajectories are
drawn by the paper's own definitions (cosine of mel frames, principal components of mel frames), not by ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.errors import UserError
from eisbach.report.figures import View, draw_mel, draw_trajectory, trajectory_limit
from eisbach.report.structure.draw import (
    by_group,
    columns_of,
    draw_block_curves,
    draw_sections,
    draw_spectra,
    drop_legend,
    group_legend,
    letters_of,
    note,
    panel_grid,
    pc1_share,
    section_spans,
    shrink_of,
    trajectory_panels,
)
from eisbach.report.structure.kind import Kind
from eisbach.report.structure.maps import draw_motifs, draw_scape
from eisbach.report.structure.style import (
    PAGE,
    PictureClip,
    blank,
    colour_bar,
    heading,
    longest,
    render,
)
from eisbach.structure.features import Features
from eisbach.structure.metrics.form import BLOCKS_MIN_SECONDS as _BLOCKS_NEED
from eisbach.structure.metrics.form import block_curve
from eisbach.structure.sets.clips import mean_spectrum


def mel_figure(
    clips: Sequence[PictureClip], *, out: str | Path | None = None, form: str | None = None, view: View = "texture"
) -> bytes:
    """Figure 1: mel-spectrograms in rows, on one time axis and one scale of levels.

    Raises
    ------
    UserError
        No clip, more than 12, or an ending of `out` that is not written.
    AudioError
        A file that cannot be read.
    """
    features = _checked(clips, "mel")
    figure = blank(PAGE, 0.45 + 1.12 * len(clips))
    rows = figure.subplots(len(clips), 1, squeeze=False, sharex=True)[:, 0]
    image = None
    for axes, clip, sound in zip(rows, clips, features, strict=True):
        image = draw_mel(axes, sound) or image
        heading(axes, clip.label, most=70)
        axes.set_xlabel("")
        axes.set_ylabel("Hz")
    rows[0].set_xlim(0.0, longest(features))
    rows[-1].set_xlabel("time (s)")
    colour_bar(figure, list(rows), image, "level (dB re max)", shrink=min(1.0, 2.0 / len(clips)))
    return render(figure, rows, out, form=form)


def ssm_figure(
    clips: Sequence[PictureClip], *, out: str | Path | None = None, form: str | None = None, view: View = "texture"
) -> bytes:
    """Figure 2: self-similarity matrices with detected boundaries and the letters of the sections, all on the scale
    0-1."""
    features = _checked(clips, "ssm")
    figure, panels = panel_grid(len(clips), 0.3)
    image = None
    for axes, clip, sound in zip(panels, clips, features, strict=True):
        image = draw_sections(axes, sound, section_spans(sound), view) or image
        heading(axes, clip.label, most=letters_of(len(clips)), above_note=True)
    what = "cosine of mel frames" if view == "mel" else "similarity of textures"
    colour_bar(figure, panels, image, what, shrink=shrink_of(len(clips)))
    return render(figure, panels, out, form=form)


Curve = tuple[np.ndarray, np.ndarray]
"""Two lines of a clip: energy and spread by band, or scales and strengths."""


def spectrum_figure(
    clips: Sequence[PictureClip], *, out: str | Path | None = None, form: str | None = None, view: View = "texture"
) -> bytes:
    """Figure 3: mean spectral energy of each group and, below, its spread over time, by frequency.

    Clips of one group are averaged (in dB), and a band shows one standard deviation over its clips. Silent clips are
    left out of a group's mean.

    Raises
    ------
    UserError
        More than seven groups, or a group of nothing but silence.
    """
    features = _checked(clips, "spectrum")
    spectra = []
    for name, members in by_group(clips, features):
        sounding = [mean_spectrum(sound) for sound in members if len(sound.mel_db)]
        if not sounding:
            raise UserError(f"{name} holds only silence, which has no spectrum; leave it out.")
        spectra.append((name, sounding))
    return spectra_of_groups(spectra, features[0].mel_hz, out=out, form=form)


def spectra_of_groups(
    spectra: Sequence[tuple[str, Sequence[Curve]]], mel_hz: np.ndarray, *, out: str | Path | None = None,
    form: str | None = None, reference: str = "",
) -> bytes:  # fmt: skip
    """`spectrum_figure` of spectra that are known: by group, each clip's `mean_spectrum`; `reference` names the group
    that the others are held against."""
    figure = blank(PAGE * 0.72, 4.1)
    top, bottom = figure.subplots(2, 1, sharex=True)
    draw_spectra(top, bottom, mel_hz, spectra, reference)
    group_legend(figure, top, spectra)
    return render(figure, [top, bottom], out, form=form)


def trajectory_figure(
    clips: Sequence[PictureClip], *, out: str | Path | None = None, form: str | None = None, view: View = "texture"
) -> bytes:
    """Figure 4: paths through textures from start to end, on equal axes.

    Above each path stands the share of PC 1, beside that of two surrogates without structure, random walks and random
    phases: a share means nothing by itself, since a walk without any direction has 60%.
    """
    features = _checked(clips, "trajectory")
    figure, panels = panel_grid(len(clips), 0.6 if columns_of(len(clips)) > 2 else 0.45)
    limit = trajectory_limit(features, view)
    trajectory_panels(figure, panels, clips, features, limit, view)
    return render(figure, panels, out, form=form)


def _steps_figure(
    clips: Sequence[PictureClip], *, out: str | Path | None = None, form: str | None = None, view: View = "texture"
) -> bytes:
    """Figure 5: a row a clip (a checkpoint, say); columns are mel-spectrogram, self-similarity matrix and
    trajectory."""
    features = _checked(clips, "steps")
    limit = trajectory_limit(features, view)
    figure = blank(PAGE, 0.75 + 1.95 * len(clips))
    grid = figure.subplots(len(clips), 3, squeeze=False, width_ratios=[1.65, 1.0, 1.0])
    mel = matrix = points = None
    for row, (clip, sound) in enumerate(zip(clips, features, strict=True)):
        left, middle, right = grid[row]
        mel = draw_mel(left, sound) or mel
        matrix = draw_sections(middle, sound, section_spans(sound), view) or matrix
        points = draw_trajectory(right, sound, limit, view=view, marker=0.5) or points
        drop_legend(right)
        heading(left, clip.label, most=34)
        left.set_xlim(0.0, longest(features))
        middle.set_ylabel("")
        right.set_ylabel("PC 2 (dB)")
        right.set_xlabel("PC 1 (dB)")
        share = pc1_share(sound, view)
        if share is not None:
            note(right, f"PC 1 {share.clip:.0%} (random walk {share.walk:.0%})")
        if row < len(clips) - 1:
            for axes in (left, middle, right):
                axes.set_xlabel("")
    for column, (image, words) in enumerate(
        ((mel, "level (dB re max)"), (matrix, "similarity"), (points, "time (s), from ring to square"))
    ):
        colour_bar(figure, list(grid[:, column]), image, words, shrink=0.8, location="bottom")
    return render(figure, list(grid.flat), out, form=form)


def baseline_figure(
    clips: Sequence[PictureClip], *, out: str | Path | None = None, form: str | None = None, view: View = "texture"
) -> bytes:
    """Figures 6-8: the baseline (first clip) beside the method: mel-spectrograms, matrices and trajectories on equal
    axes."""
    features = _checked(clips, "baseline")
    limit = trajectory_limit(features, view)
    figure = blank(PAGE, 7.4)
    grid = figure.subplots(3, 2, height_ratios=[0.62, 1.15, 1.15])
    image: Any = None
    for axes, clip, sound in zip(grid[0], clips, features, strict=True):
        image = draw_mel(axes, sound) or image
        heading(axes, clip.label, most=34)
        axes.set_xlim(0.0, longest(features))
    colour_bar(figure, list(grid[0]), image, "level (dB re max)")
    image = None
    for axes, sound in zip(grid[1], features, strict=True):
        image = draw_sections(axes, sound, section_spans(sound), view) or image
    colour_bar(figure, list(grid[1]), image, "similarity")
    trajectory_panels(figure, list(grid[2]), None, features, limit, view)
    return render(figure, list(grid.flat), out, form=form)


def blocks_figure(
    clips: Sequence[PictureClip], *, out: str | Path | None = None, form: str | None = None, view: View = "texture"
) -> bytes:
    """Block strength by time scale: at which length of sections a group of clips is organised, and how strongly.

    Raises
    ------
    UserError
        More than seven groups, or a group none of whose clips is long enough.
    """
    features = _checked(clips, "blocks")
    curves = []
    for name, members in by_group(clips, features):
        found = [block_curve(sound) for sound in members if sound.duration >= _BLOCKS_NEED]
        found = [(np.asarray(scales), np.asarray(strengths)) for scales, strengths in found if len(scales)]
        if not found:
            raise UserError(f"no clip of {name} is {_BLOCKS_NEED:g} s long, which block scales need; leave it out.")
        curves.append((name, found))
    return blocks_of_groups(curves, out=out, form=form)


def blocks_of_groups(
    curves: Sequence[tuple[str, Sequence[Curve]]], *, out: str | Path | None = None, form: str | None = None,
    reference: str = "",
) -> bytes:  # fmt: skip
    """`blocks_figure` of curves that are known: by group, each clip's scales and strengths; `reference` names the group
    that the others are held against."""
    figure = blank(PAGE * 0.72, 2.7)
    axes = figure.subplots()
    draw_block_curves(axes, curves, reference=reference)
    group_legend(figure, axes, curves)
    return render(figure, [axes], out, form=form)


def _scape_figure(
    clips: Sequence[PictureClip], *, out: str | Path | None = None, form: str | None = None, view: View = "texture"
) -> bytes:
    """Fitness scape plots: how well each stretch of the piece (centre across, length upwards) explains the rest by
    repeats."""
    features = _checked(clips, "scape")
    figure, panels = panel_grid(len(clips), 0.3, height=0.8)
    images = []
    for axes, clip, sound in zip(panels, clips, features, strict=True):
        images.append(draw_scape(axes, sound))
        heading(axes, clip.label, most=letters_of(len(clips)))
    images = [image for image in images if image is not None]
    top = max([0.5, *(float(np.nanmax(image.get_array())) for image in images)])
    for image in images:
        image.set_clim(0.0, top)
    colour_bar(figure, panels, images[0] if images else None, "fitness (ring: best)", shrink=shrink_of(len(clips)))
    return render(figure, panels, out, form=form)


def motifs_figure(
    clips: Sequence[PictureClip], *, out: str | Path | None = None, form: str | None = None, view: View = "texture"
) -> bytes:
    """Motif maps: arcs join stretches that are heard again, wherever and in whatever key; one time axis for all
    clips."""
    features = _checked(clips, "motifs")
    figure = blank(PAGE, 0.45 + 1.5 * len(clips))
    rows = figure.subplots(len(clips), 1, squeeze=False, sharex=True)[:, 0]
    for axes, clip, sound in zip(rows, clips, features, strict=True):
        draw_motifs(axes, sound)
        heading(axes, clip.label, most=70)
    rows[0].set_xlim(0.0, longest(features))
    rows[-1].set_xlabel("time (s)")
    return render(figure, rows, out, form=form)


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "mel",
            mel_figure,
            "mel-spectrograms in rows",
            "Mel-spectrograms on one time axis; levels are dB below each clip's loudest moment. Vertical edges are "
            "changes of texture, "
            "horizontal bands are registers.",
            "1",
        ),
        Kind(
            "ssm",
            ssm_figure,
            "self-similarity matrices with detected boundaries and section letters",
            "Self-similarity of 2 s textures (1: alike). Bright blocks on the diagonal are sections, bright blocks "
            "beside it their returns; "
            "dashed lines are detected boundaries, and equal letters sound alike.",
            "2",
        ),
        Kind(
            "spectrum",
            spectrum_figure,
            "mean spectral energy and its spread over time, by group",
            "Top: mean spectral energy of each group, relative to its mean over bands. Bottom: standard deviation "
            "over time, by band. Shaded: "
            "one standard deviation over the group's clips.",
            "3",
            500,
            None,
            True,
        ),
        Kind(
            "trajectory",
            trajectory_figure,
            "paths through textures, with surrogates' PC 1 shares",
            "Each clip's path through the plane of its first two principal components of texture, from ring (start) "
            "to square (end), on equal "
            "axes. The share of PC 1 means something only beside those of random walks and random phases.",
            "4",
        ),
        Kind(
            "steps",
            _steps_figure,
            "a row a clip: mel-spectrogram, matrix, trajectory",
            "A row a clip. Left: mel-spectrogram. Centre: self-similarity with detected sections. Right: path through "
            "textures from ring (start) "
            "to square (end). Columns share their scales.",
            "5",
            8,
        ),
        Kind(
            "baseline",
            baseline_figure,
            "a baseline clip beside a method's clip",
            "Left: the baseline. Right: the method. Rows: mel-spectrograms, self-similarity with detected sections, "
            "and paths through textures "
            "from ring (start) to square (end), on equal axes.",
            "6-8",
            2,
            2,
        ),
        Kind(
            "blocks",
            blocks_figure,
            "block strength by time scale, by group",
            "How strongly clips fall into blocks of each length: thin lines are clips, thick ones a group's mean, "
            "marks their peaks. A peak is "
            "the length of the sections; a low, even curve is music without sections.",
            "",
            500,
            None,
            True,
        ),
        Kind(
            "scape",
            _scape_figure,
            "fitness scape plots of repetition",
            "Each cell is a stretch of the piece (its centre across, its length upwards); its shade says how well the "
            "stretch and its repeats "
            "explain the piece. The ring is the best stretch of 3 s or more.",
            "",
            6,
        ),
        Kind(
            "motifs",
            motifs_figure,
            "where motifs return",
            "Arcs join a stretch with its best return: solid in the same key, dashed when transposed, thicker when "
            "longer; the twelve longest are "
            "drawn. The strip below is black where the music is heard again anywhere.",
            "",
            8,
        ),
    )
}
"""Every figure by name; a new one is a function and a line here."""


def _checked(clips: Sequence[PictureClip], name: str) -> list[Features]:
    return KINDS[name].checked(clips)
