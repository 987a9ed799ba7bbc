"""A page from its template, and what pages are made of: pictures with their words, and tables of numbers."""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eisbach.files import atomic_write

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
        atomic_write(folder / f"{picture.name}.png", lambda partial, png=picture.png: _write(partial, png))  # type: ignore[misc]


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


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
