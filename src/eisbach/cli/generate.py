"""`eisbach generate`."""

from __future__ import annotations

from eisbach.errors import UserError


def generate() -> None:
    """(being built)."""
    raise UserError("this command is being built.")
