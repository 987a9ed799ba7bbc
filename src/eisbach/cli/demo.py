"""`eisbach demo`."""

from __future__ import annotations

from eisbach.errors import UserError


def demo() -> None:
    """(being built)."""
    raise UserError("this command is being built.")
