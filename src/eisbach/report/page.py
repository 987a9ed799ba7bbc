"""A page from its template, and what pages are made of: pictures with their words, and tables of numbers."""

from __future__ import annotations

import base64
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from eisbach.errors import UserError
from eisbach.files import write_bytes
from eisbach.report.charts import arm_class

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
    environment.globals["arm_class"] = arm_class
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


# --- a page served from this computer until it is stopped


_LOCAL = ("127.0.0.1", "localhost", "::1")


def serve(app: Any, host: str, port: int, what: str) -> None:
    """Serves an ASGI application until Ctrl-C, and says where; port 0 takes a free one.

    Parameters
    ----------
    what : str
        What anybody can see who reaches the host, for the note where that is not this computer alone.

    Raises
    ------
    UserError
        The host is no name of this computer, or the port is taken.
    """
    import uvicorn

    if not host:
        raise UserError("--host is empty; 127.0.0.1 is this computer, 0.0.0.0 every network that it is in.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except (OSError, OverflowError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(
                f"{host}:{port} cannot be served from ({reason}); choose another --port or --host."
            ) from error
        listener.listen()
        if host not in _LOCAL:
            typer.echo(f"note: everyone who reaches {host} sees {what}.", err=True)
        shown = f"[{host}]" if ":" in host else host
        typer.echo(f"http://{shown}:{listener.getsockname()[1]}/ (stop with Ctrl-C)", err=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
