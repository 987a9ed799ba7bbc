"""A listening test in the browsers of a network: the page, its sounds, and a place for the votes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from eisbach.errors import UserError
from eisbach.files import parse_object, read_text, write_text
from eisbach.report.listen.votes import check_votes, load_key

_MOST_BYTES = 2 << 20  # of one listener's votes


def listening_app(test: str | Path) -> Any:
    """An ASGI application that serves `test/page` and writes what is sent to it into `test/votes`.

    Only votes on this very test are taken, each listener's into a file of its own, whole or not at all; nothing else in
    the test's folder can be reached.

    Raises
    ------
    UserError
        The folder holds no listening test.
    """
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, PlainTextResponse, Response
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    test = Path(test)
    key = load_key(test)
    page = test / "page"
    html = read_text(page / "index.html", "page of the test")
    html = html.replace('id="program"', 'id="program" data-post="votes"', 1)

    async def index(_: Request) -> Response:
        return HTMLResponse(html)

    async def take(request: Request) -> Response:
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _MOST_BYTES:
                return PlainTextResponse("too long", 413)
        try:
            values = parse_object(body.decode("utf-8"), "the votes")
            votes = check_votes(values, "what was sent", key)
        except (UserError, UnicodeDecodeError) as error:
            return PlainTextResponse(str(error), 400)
        name = re.sub(r"[^0-9A-Za-z]", "", votes.listener)[:32] or "listener"
        write_text(test / "votes" / f"votes-{name}.json", json.dumps(values, indent=1, ensure_ascii=False) + "\n")
        return PlainTextResponse("thank you", 201)

    return Starlette(
        routes=[
            Route("/", index),
            Route("/votes", take, methods=["POST"]),
            Mount("/sounds", StaticFiles(directory=page / "sounds")),
        ]
    )
