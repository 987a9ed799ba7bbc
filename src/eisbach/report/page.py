"""A page from its template, and what pages are made of: pictures with their words, and tables of numbers."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eisbach.files import write_bytes

_CSS_DPI = 96


@dataclass(frozen=True)
class PagePicture:
    """One picture of a page.

    Attributes
    ----------
    name : str
        File name without its ending.
    title, caption, alt : str
        Heading, one or two sentences on how to read it, and what it shows for someone who cannot see it.
    png : bytes
    """

    name: str
    title: str
    caption: str
    alt: str
    png: bytes

    def embedded(self, dpi: float) -> dict[str, Any]:
        """What the template shows: the words, a data address, and the size in CSS pixels of a picture drawn at
        `dpi`."""
        width, height = struct.unpack(">II", self.png[16:24])  # PNG's header
        return {
            "title": self.title,
            "caption": self.caption,
            "alt": self.alt,
            "width": round(width * _CSS_DPI / dpi),
            "height": round(height * _CSS_DPI / dpi),
            "uri": f"data:image/png;base64,{base64.b64encode(self.png).decode('ascii')}",
        }


@dataclass(frozen=True)
class NumberTable:
    """A table of a page: heading, what it holds, column names, and rows of texts whose first cell names the row."""

    title: str
    note: str
    head: list[str]
    rows: list[list[str]]


def save_pictures(pictures: Sequence[PagePicture], folder: Path) -> None:
    """Writes each picture as `folder/name.png`, atomically.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written.
    """
    for picture in pictures:
        write_bytes(folder / f"{picture.name}.png", picture.png)


def render_page(template: str, **values: Any) -> str:
    """The text of a page.

    Parameters
    ----------
    template : str
        File in `report/templates`.
    **values
        What the template names; a name that is missing is an error, never an empty place.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("eisbach.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(**values)


def plain_table(head: Sequence[str], rows: Sequence[Sequence[str]], widest: int = 44) -> str:
    """Columns for a terminal; cells longer than `widest` wrap."""
    import textwrap

    split = [[textwrap.wrap(cell, widest) or [""] for cell in row] for row in rows]
    widths = [
        max(len(head[column]), *(len(line) for row in split for line in row[column])) for column in range(len(head))
    ]
    lines = ["  ".join(text.ljust(width) for text, width in zip(head, widths, strict=True)).rstrip()]
    for row in split:
        for place in range(max(len(cell) for cell in row)):
            cells = [cell[place] if place < len(cell) else "" for cell in row]
            lines.append("  ".join(text.ljust(width) for text, width in zip(cells, widths, strict=True)).rstrip())
    return "\n".join(lines)
