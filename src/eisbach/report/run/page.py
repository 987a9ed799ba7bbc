"""The page of running or finished trainings: how the loss goes, what the weights do, and what each checkpoint plays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import eisbach
from eisbach.errors import EisbachError, UserError
from eisbach.files import write_text
from eisbach.report.audio_embed import embed_all
from eisbach.report.charts import Series, curves_chart
from eisbach.report.page import render_page
from eisbach.report.run.clips import WeighedClip
from eisbach.report.run.state import DemoClip, RunState, find_runs, read_run

_LEVELS = ("0.1", "0.3", "0.5", "0.7", "0.9")
_CHARTS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("Loss", "loss", (("loss", "on training clips"), ("held_out_loss", "on held-out clips"))),
    (
        "Held-out loss by noise level",
        "loss",
        tuple((f"held_out_loss_by_noise_level/{level}", f"t = {level}") for level in _LEVELS),
    ),
    (
        "Its demos",
        "mean over demos",
        (
            ("demos/flat_probability", "probability of being flat"),
            ("demos/block_strength", "how clearly they fall into sections"),
        ),
    ),
    (
        "What the weighting does",
        "share",
        (
            ("belief_mean", "mean belief that a clip is flat"),
            ("effective_sample_share", "share of the clips that count"),
        ),
    ),
    ("Spread of the weights", "standard deviation / mean", (("weight_cv", "weights"),)),
)
Source = Callable[[int, int, DemoClip | WeighedClip], str]
"""The address of a demo by run, step and clip, and of a training clip, at step -1."""
TRAINS = -1


def _watch_html(runs: Mapping[str, Path], source: Source | None, *, live: bool) -> str:
    """The page as text.

    Parameters
    ----------
    runs : mapping of str to Path
        As `state.find_runs` gives them.
    source : callable or None
        Addresses of demos; None embeds their sound.
    live : bool
        The page asks for itself again every few seconds and takes over what changed.
    """
    states, faults = [], []
    for name, folder in runs.items():
        try:
            states.append(read_run(name, folder))
        except EisbachError as error:  # half written, or gone
            faults.append(str(error))
    sources = source or _embedded(states)
    done = sum(state.status == "finished" for state in states)
    return render_page(
        "watch.html.j2",
        title="Trainings" if len(runs) > 1 else f"Training {next(iter(runs))}",
        question=None,
        facts=[("runs", str(len(runs))), ("finished", str(done))],
        version=eisbach.__version__,
        live=live,
        faults=faults,
        runs=[_run(index, state, sources) for index, state in enumerate(states)],
    )


def write_watch_page(paths: Sequence[str | Path], page: Path) -> Path:
    """Writes the page of runs as they are now, with the demos' sound in it.

    Raises
    ------
    UserError
        A path that is neither a run nor an experiment.
    StorageError
        The page cannot be written.
    """
    write_text(page, _watch_html(find_runs(paths), None, live=False))
    return page


def _embedded(states: Sequence[RunState]) -> Source:
    clips: list[DemoClip | WeighedClip] = []
    for state in states:
        clips += [clip for demos in state.demos.values() for clip in demos]
        clips += state.clips
    sounds = dict(zip([clip.path for clip in clips], embed_all([clip.path for clip in clips]), strict=True))
    return lambda _run, _step, clip: sounds[clip.path].uri


def _run(index: int, state: RunState, source: Source) -> dict[str, Any]:
    share = state.step / state.steps if state.steps else 0.0
    return {
        "id": f"run-{index}",
        "name": state.name,
        "status": state.status,
        "step": state.step,
        "steps": state.steps,
        "share": min(1.0, share),
        "left": _duration(state.seconds_left),
        "troubles": state.troubles,
        "notes": state.notes,
        "charts": [
            {"title": title, "svg": svg}
            for title, label, columns in (_CHARTS if state.weighs else _CHARTS[:3])
            if (svg := _chart(state, label, columns))
        ],
        "steps_heard": list(state.demos),
        "rows": _demo_rows(index, state, source),
        "weighs": state.weighs,
        "clips": [
            {
                "caption": clip.caption or clip.id,
                "id": clip.id,
                "weight": f"{clip.weight:.2f}",
                "looks": clip.looks,
                "source": source(index, TRAINS, clip),
            }
            for clip in state.clips
        ],
    }


def _chart(state: RunState, label: str, columns: Sequence[tuple[str, str]]) -> str:
    series = []
    for colour, (column, name) in enumerate(columns):
        steps, values = state.curve(column)
        if len(steps) > 1:
            series.append(Series(name, steps, values, colour))
    return curves_chart(series, "step", label)


def _demo_rows(index: int, state: RunState, source: Source) -> list[dict[str, Any]]:
    """A row a prompt and seed, a cell a checkpoint; None where a checkpoint did not play it."""
    rows: dict[str, dict[str, Any]] = {}
    for step, clips in state.demos.items():
        for clip in clips:
            row = rows.setdefault(clip.key, {"id": f"demo-{index}-{len(rows)}", "caption": clip.caption, "cells": {}})
            said = ", ".join(filter(None, (clip.judged, f"form {clip.form}" if clip.form else "")))
            row["cells"][step] = (source(index, step, clip), said)
    return [
        {**row, "cells": [(step, *row["cells"].get(step, (None, ""))) for step in state.demos]} for row in rows.values()
    ]


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes = seconds / 60.0
    if minutes < 1.5:
        return "about a minute left"
    return f"about {minutes:.0f} minutes left" if minutes < 100 else f"about {minutes / 60.0:.1f} hours left"


# --- the page, served while trainings run


def watch_app(paths: Sequence[str | Path]) -> Any:
    """An ASGI application with the page at `/`, the demos' sound below `/demo` and the shown training clips' below
    `/clip`; it writes nothing anywhere.

    Runs that begin later in an experiment appear; only files that a run's own manifests name are sent.

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

    def address(run: int, step: int, clip: DemoClip | WeighedClip) -> str:
        if isinstance(clip, WeighedClip):
            return f"clip/{run}/{quote(clip.id, safe='')}"
        return f"demo/{run}/{step}/{quote(clip.path.name)}"

    def page(_: Request) -> Response:
        try:
            return HTMLResponse(
                _watch_html(find_runs(paths), address, live=True), headers={"Cache-Control": "no-store"}
            )
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

    def clip(request: Request) -> Response:
        runs = list(find_runs(paths).items())
        if request.path_params["run"] < len(runs):
            for shown in read_run(*runs[request.path_params["run"]]).clips:
                if shown.id == request.path_params["name"] and shown.path.is_file():
                    return FileResponse(shown.path)
        return PlainTextResponse("there is no such clip", 404)

    routes = [
        Route("/", page),
        Route("/demo/{run:int}/{step:int}/{name}", demo),
        Route("/clip/{run:int}/{name:path}", clip),
    ]
    return Starlette(routes=routes)
