"""`eisbach recoverability`: the name that studies of recoverability weighting had; it says the new one."""

from __future__ import annotations

import typer

from eisbach.errors import UserError

ANY_WORDS = {"allow_extra_args": True, "ignore_unknown_options": True}


def recoverability(context: typer.Context) -> None:
    """Gone: `recoverability toy` and `digits` are now `study run erd_toy` and `study run erd_digits`."""
    words = context.args
    study = f"erd_{words[0]}" if words and words[0] in ("toy", "digits") else "erd_toy or erd_digits"
    raise UserError(f"'recoverability' is now `eisbach study run {study}`, with the same options.")
