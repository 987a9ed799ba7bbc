"""`eisbach watch`: trainings and experiments in the browser while they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eisbach.errors import UserError


def watch(
    runs: Annotated[list[Path], typer.Argument(help="Folders of training runs or of experiments.", show_default=False)],
    once: Annotated[bool, typer.Option("--once", help="Write the page as it is now, and stop.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="With --once: the page to write.", show_default="RUN/report/watch.html")
    ] = None,
    host: Annotated[str, typer.Option(help="127.0.0.1 is this computer alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8787,
) -> None:
    """Watch trainings in the browser: loss, weights, what looks wrong, what each checkpoint plays, time left.

    The page keeps itself up to date without losing your place or a playing sound, and changes nothing in the runs.
    """
    if out is not None and not once:
        raise UserError("--out is for the page of --once; without it the page is served.")
    if once:
        from eisbach.report.run.page import write_watch_page

        typer.echo(str(write_watch_page(runs, out or runs[0] / "report" / "watch.html")))
        return
    from eisbach.report.page import serve
    from eisbach.report.run.page import watch_app

    serve(watch_app(runs), host, port, "the trainings")
