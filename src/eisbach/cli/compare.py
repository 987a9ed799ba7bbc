"""`eisbach compare`."""

from __future__ import annotations

from eisbach.errors import UserError


def compare() -> None:
    """(being built)."""
    raise UserError("this command is being built.")
