"""`eisbach recoverability`: the name that studies of recoverability weighting had; it says the new one."""

from __future__ import annotations

import typer

from eisbach.errors import UserError

ANY_WORDS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def recoverability(context: typer.Context) -> None:
    """Say which study took the place of `recoverability toy` or `digits`."""
    words = context.args
    study = f"erd_{words[0]}" if words and words[0] in ("toy", "digits") else "erd_toy or erd_digits"
    raise UserError(f"'recoverability' is now `eisbach study run {study}`, with the same options.")
