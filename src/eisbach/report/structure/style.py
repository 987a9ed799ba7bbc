"""How the figures of structure look on paper: sizes, colours, saving as PNG, PDF or SVG with text that stays text.

Sizes are those of a journal (one column 3.35 in, two columns 7 in), text is 7 pt or more at that size, categories use
Okabe and Ito's colours and also differ in dash and marker, and images use maps whose lightness rises evenly (magma,
cividis, viridis), so that every figure can be read in greyscale and with any colour vision.
"""

from __future__ import annotations

import io
import itertools
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eisbach.audio import AUDIO_SUFFIXES
from eisbach.errors import UserError
from eisbach.files import atomic_write
from eisbach.report.charts import COLOURS
from eisbach.report.figures import Source
from eisbach.report.fonts import save_figure
from eisbach.structure.features import Features

FORMATS = ("png", "pdf", "svg")
"""What figures are written as."""
DPI = 300
"""Of rasters: PNG files, and the images inside PDF and SVG."""
COLUMN, PAGE = 3.35, 7.0
"""Widths in inches of one column and of a whole page."""
LABEL_PT, TICK_PT, TITLE_PT = 8.0, 7.0, 8.5

_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.4, 1.2, 1.4)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, SOFT, LINE = "#1d1f24", "#5b606b", "#dcd9d0"


@dataclass(frozen=True)
class PictureClip:
    """A clip of a figure.

    Attributes
    ----------
    label : str
        What stands beside or above it.
    source : Waveform, Features, Analysis, str or Path
    group : str
        Prompt, arm or folder: clips of one group share a colour where clips are pooled.
    """

    label: str
    source: Source
    group: str = ""


def blank(width: float, height: float) -> Any:
    """An empty figure of this size in inches, on the Agg canvas; no pyplot, no global state."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("pictures need matplotlib, which is not installed; pip install matplotlib.") from error
    figure: Any = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)
    return figure


def colour_bar(
    figure: Any, axes: Any, mappable: Any, label: str, *, shrink: float = 1.0, location: str = "right"
) -> None:
    """A colour bar beside one axes or a list of them; none for axes on which nothing was drawn."""
    if mappable is None:
        return
    bar = figure.colorbar(mappable, ax=axes, pad=0.015, fraction=0.035, shrink=shrink, aspect=24, location=location)
    bar.set_label(label, fontsize=LABEL_PT)
    bar.ax.tick_params(labelsize=TICK_PT, length=2)
    bar.outline.set_linewidth(0.5)


def line_style(index: int, *, reference: bool = False) -> dict[str, Any]:
    """Colour and dash of the index-th line; neighbours differ in both. A reference has ink, as on pages."""
    if reference:
        return {"color": INK, "linestyle": "-"}
    turn, colour = divmod(index, len(COLOURS))
    return {"color": COLOURS[colour], "linestyle": _DASHES[(index + turn) % len(_DASHES)]}


def tidy(axes: Any) -> None:
    """Journal sizes for an axes' text; thin frame."""
    axes.xaxis.label.set_size(LABEL_PT)
    axes.yaxis.label.set_size(LABEL_PT)
    axes.tick_params(labelsize=TICK_PT, length=2.5, width=0.6, pad=2)
    for spine in axes.spines.values():
        spine.set_linewidth(0.6)
    legend = axes.get_legend()
    if legend is not None:
        for text in legend.get_texts():
            text.set_fontsize(TICK_PT)


def heading(axes: Any, text: str, *, most: int = 46, above_note: bool = False, note_lines: int = 1) -> None:
    """The panel's title, taken literally (no mathematics in file names), cut in the middle where it would not fit.

    `above_note` leaves room for letters or `note_lines` lines of small text between title and panel.
    """
    pad = 4 + 9 * note_lines if above_note else 3
    axes.set_title(shorten(text, most), loc="left", fontsize=TITLE_PT, color=INK, pad=pad, parse_math=False)


def shorten(text: str, most: int) -> str:
    """`text` with its middle left out where it is wider than `most` letters; ideographs are two wide."""
    if _width(text) <= most:
        return text
    head, tail = (most - 1) // 2, most - 1 - (most - 1) // 2
    return f"{_beginning(text, head)}…{_beginning(text[::-1], tail)[::-1]}"


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _beginning(text: str, most: int) -> str:
    """As many of the first characters as `most` letters leave room for."""
    widths = itertools.accumulate(_width(letter) for letter in text)
    return text[: sum(width <= most for width in widths)]


def format_of(out: str | Path) -> str:
    """The format that a file's ending asks for.

    Raises
    ------
    UserError
        Any other ending.
    """
    ending = Path(out).suffix.lower().lstrip(".")
    if ending not in FORMATS:
        hint = "that is audio; name the picture with --out" if f".{ending}" in AUDIO_SUFFIXES else "choose one of them"
        raise UserError(f"{out} ends in '.{ending}', and figures are written as {', '.join(FORMATS)}; {hint}.")
    return ending


def render(figure: Any, all_axes: Sequence[Any], out: str | Path | None = None, *, form: str | None = None) -> bytes:
    """The finished figure as bytes of `form` (from `out`'s ending when there is one, else PNG), also written to `out`.

    The same figure gives the same bytes: dates and random ids are left out.
    """
    import matplotlib

    form = form or (format_of(out) if out is not None else "png")
    for axes in all_axes:
        tidy(axes)
    settings = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "eisbach"}
    kinds: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Producer": None, "Creator": "Eisbach"},
        "svg": {"Date": None, "Creator": "Eisbach"},
    }
    metadata = kinds[form]
    buffer = io.BytesIO()
    with matplotlib.rc_context(settings):
        save_figure(figure, buffer, format=form, dpi=DPI, metadata=metadata)
    data = buffer.getvalue()
    if out is not None:
        atomic_write(out, _writer(data))
    return data


def _writer(data: bytes) -> Callable[[Path], None]:
    def write(partial: Path) -> None:
        partial.write_bytes(data)

    return write


def longest(clips: Sequence[Features]) -> float:
    """Seconds that a common time axis must hold."""
    return max([1e-3, *(clip.trimmed_start + clip.duration for clip in clips)])
