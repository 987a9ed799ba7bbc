"""`eisbach data`."""

from __future__ import annotations

import typer

app = typer.Typer(help="Make, check and encode training data.", no_args_is_help=True)


@app.command()
def doctor() -> None:
    """(being built)."""
