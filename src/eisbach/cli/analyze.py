"""`eisbach analyze`."""

from __future__ import annotations

from eisbach.errors import UserError


def analyze() -> None:
    """(being built)."""
    raise UserError("this command is being built.")
