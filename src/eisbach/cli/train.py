"""`eisbach train`."""

from __future__ import annotations

from eisbach.errors import UserError


def train() -> None:
    """(being built)."""
    raise UserError("this command is being built.")
