"""The page of trainings, served while they run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from eisbach.errors import UserError
from eisbach.report.run.page import watch_html
from eisbach.report.run.state import DemoClip, find_runs, read_run


def watch_app(paths: Sequence[str | Path]) -> Any:
    """An ASGI application with the page at `/` and the demos' sound below `/demo`; it writes nothing anywhere.

    Runs that begin later in an experiment appear; only files that a run's own demo manifests name are sent.

    Raises
    ------
    UserError
        A path that is neither a run nor an experiment.
    """
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import FileResponse, HTMLResponse, PlainTextResponse, Response
    from starlette.routing import Route

    find_runs(paths)

    def address(run: int, step: int, clip: DemoClip) -> str:
        return f"demo/{run}/{step}/{quote(clip.path.name)}"

    def page(_: Request) -> Response:
        try:
            return HTMLResponse(watch_html(find_runs(paths), address, live=True), headers={"Cache-Control": "no-store"})
        except UserError as error:
            return PlainTextResponse(str(error), 503)

    def demo(request: Request) -> Response:
        run, step, name = (request.path_params[key] for key in ("run", "step", "name"))
        runs = list(find_runs(paths).items())
        if run < len(runs):
            for clip in read_run(*runs[run]).demos.get(step, []):
                if clip.path.name == name:
                    return FileResponse(clip.path)
        return PlainTextResponse("there is no such demo", 404)

    return Starlette(routes=[Route("/", page), Route("/demo/{run:int}/{step:int}/{name}", demo)])
