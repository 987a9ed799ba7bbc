"""A page served from this computer until it is stopped."""

from __future__ import annotations

import socket
from typing import Any

import typer

from eisbach.errors import UserError

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
