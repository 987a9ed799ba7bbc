"""Figures without global state, saved with fonts for names and captions in any script.

matplotlib takes a list of families and draws each character with the first that has it. Its own font has no ideographs,
no hangul, no Devanagari …; here the rest of a figure's characters are looked up in every font that matplotlib lists,
and then in those of the system that its list, which may be older than the font, does not have.
"""

from __future__ import annotations

import io
import logging
import unicodedata
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eisbach.files import write_bytes

DPI = 150
OWN_FAMILY = "DejaVu Sans"
"""matplotlib's own font, always there and always first."""

_NO_SHAPES = ("Last Resort", ".LastResort", "Adobe Blank", "Adobe NotDef")  # every character is a box, or nothing
_SAID_AT_MOST = 8

_coverage: dict[tuple[str, str], bool] = {}  # by font file and character
_looked_beyond = False  # whether the system's fonts were compared with matplotlib's list
_said: set[str] = set()


def drawable(text: str) -> str:
    """A text without what no font can draw: undecodable bytes and controls become escapes, invisible marks are left
    out."""
    return "".join(_drawable(character) for character in text)


def _drawable(character: str) -> str:
    code, category = ord(character), unicodedata.category(character)
    if category == "Cs":  # a byte of a file name that is no UTF-8, as Python holds it
        return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"
    if category == "Cc":
        return {"\n": "\n", "\t": " "}.get(character, f"\\x{code:02x}")
    return "" if category == "Cf" else character


def font_families(texts: Iterable[str]) -> tuple[list[str], str]:
    """The families that draw some texts, and the characters for which no font is installed.

    Parameters
    ----------
    texts : iterable of str
        As `drawable` gives them.

    Returns
    -------
    families : list of str
        matplotlib's own first, then as few others as draw the rest, those with more of the characters first.
    missing : str
        In the order of their codes; spaces and line ends are never missing.
    """
    global _looked_beyond
    from matplotlib.font_manager import fontManager

    characters = {character for text in texts for character in text if unicodedata.category(character)[0] not in "ZC"}
    families, rest = _choose(characters)
    if rest and not _looked_beyond:
        _looked_beyond = True
        if _add_system_fonts(fontManager):
            families, rest = _choose(characters)
    return families, "".join(sorted(rest))


def _dress(figure: Any) -> None:
    """Gives every text of a figure the fonts that draw it, and says once what none can draw."""
    texts = figure.findobj(lambda artist: hasattr(artist, "set_fontfamily"))
    for text in texts:
        if text.get_text() != (plain := drawable(text.get_text())):
            text.set_text(plain)
    families, missing = font_families(text.get_text() for text in texts)
    for text in texts:
        text.set_fontfamily(families)
    new = [character for character in missing if character not in _said]
    if new:
        _said.update(new)
        named = ", ".join(f"{character} (U+{ord(character):04X})" for character in new[:_SAID_AT_MOST])
        more = f" and {len(new) - _SAID_AT_MOST} more" if len(new) > _SAID_AT_MOST else ""
        warnings.warn(
            f"no installed font has {named}{more}: pictures show boxes in their place; install a font that has them, "
            "such as Noto Sans CJK for Chinese, Japanese and Korean.",
            stacklevel=3,
        )


def save_figure(figure: Any, buffer: Any, **options: Any) -> None:
    """`figure.savefig` with the fonts that its texts need, and without matplotlib's own words on every missing glyph
    and every missing bold."""
    _dress(figure)
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure.savefig(buffer, **options)
    finally:
        log.setLevel(level)


def new_figure(width: float, height: float, **options: Any) -> Any:
    """An empty figure of this size in inches on the Agg canvas: no pyplot, no global state, no display needed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), **{"layout": "constrained", **options})
    FigureCanvasAgg(figure)
    return figure


def figure_png(figure: Any, out: str | Path | None = None, *, dpi: int = DPI, colours: int | None = None) -> bytes:
    """A figure's PNG, also written to `out` (atomically); the same figure gives the same bytes.

    With `colours`, as many at most: line art needs few, and a palette makes the file a third of the size.
    """
    buffer = io.BytesIO()
    save_figure(figure, buffer, format="png", dpi=dpi, metadata={"Software": None})
    if colours is not None:
        from PIL import Image  # matplotlib's own dependency

        small = Image.open(buffer).convert("RGB").quantize(colours, dither=Image.Dither.NONE)
        buffer = io.BytesIO()
        small.save(buffer, format="png", optimize=True)
    if out is not None:
        write_bytes(out, buffer.getvalue())
    return buffer.getvalue()


def _choose(characters: set[str]) -> tuple[list[str], set[str]]:
    """matplotlib's own family and as many others as help, the widest first; and the characters that none has."""
    files = _files_by_family()
    families, rest = [OWN_FAMILY], characters - _covered(files[OWN_FAMILY], characters)
    wanted = _variant(characters)
    while rest:
        counts = {family: len(_covered(file, rest)) for family, file in files.items()}
        best = max(counts, key=lambda name: (counts[name], wanted in name.split(), *_plainness(name)))
        if counts[best] == 0:
            break
        families.append(best)
        rest = rest - _covered(files[best], rest)
    return families, rest


def _files_by_family() -> dict[str, str]:
    """The file of each family that matplotlib lists, the upright one of regular weight, sorted by name."""
    from matplotlib.font_manager import fontManager

    files: dict[str, tuple[Any, str]] = {}
    for entry in fontManager.ttflist:
        weight = (
            entry.weight if isinstance(entry.weight, int) else 400 if entry.weight in ("normal", "regular") else 700
        )
        rank = (entry.style != "normal", abs(weight - 400), entry.stretch != "normal", entry.fname)
        if not entry.name.startswith(_NO_SHAPES) and (entry.name not in files or rank < files[entry.name][0]):
            files[entry.name] = rank, entry.fname
    return {family: files[family][1] for family in sorted(files)}


def _variant(characters: set[str]) -> str:
    """Which of the shapes that Chinese, Japanese and Korean give one code is meant, as families name it."""
    names = {unicodedata.name(character, "").split(" ")[0] for character in characters}
    return "KR" if "HANGUL" in names else "JP" if names & {"HIRAGANA", "KATAKANA"} else "SC"


def _plainness(family: str) -> tuple[bool, bool]:
    """Of two families with as many of the characters: the one without serifs, and not of typewriter width."""
    return "Sans" in family or "Gothic" in family, "Mono" not in family


def _covered(file: str, characters: Iterable[str]) -> set[str]:
    """Which of the characters a font file has an outline for; none of a file that cannot be read or scaled."""
    characters = set(characters)
    new = [character for character in characters if (file, character) not in _coverage]
    if new:
        from matplotlib.ft2font import FT2Font

        try:
            font = FT2Font(file)
            has = [font.scalable and font.get_char_index(ord(character)) != 0 for character in new]
        except (OSError, RuntimeError):  # gone since matplotlib listed it, or damaged
            has = [False] * len(new)
        _coverage.update({(file, character): known for character, known in zip(new, has, strict=True)})
    return {character for character in characters if _coverage[file, character]}


def _add_system_fonts(manager: Any) -> bool:
    """Adds the system's fonts that matplotlib's list lacks, and says whether there were any."""
    from matplotlib import font_manager

    known = {entry.fname for entry in manager.ttflist}
    added = False
    for path in sorted(font_manager.findSystemFonts()):
        if path not in known:
            try:
                manager.addfont(path)
                added = True
            except (OSError, RuntimeError, ValueError):  # no font that matplotlib can use
                continue
    return added
