"""Eisbach decides where a diffusion model's training effort goes, and measures what that did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eisbach.errors import EisbachError, UserError

if TYPE_CHECKING:
    from eisbach.weighting import Weighting, build_weighting

__version__ = "0.1.0"
__all__ = ["EisbachError", "UserError", "Weighting", "__version__", "build_weighting"]


def __getattr__(name: str) -> object:
    # The weighting library needs torch, and importing torch takes seconds that `eisbach --help` does not have.
    if name in ("Weighting", "build_weighting"):
        from eisbach import weighting

        return getattr(weighting, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
