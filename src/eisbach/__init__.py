"""Eisbach decides where a diffusion model's training effort goes, and measures what that did."""

from eisbach.errors import EisbachError, UserError

__version__ = "0.1.0"
__all__ = ["EisbachError", "UserError", "__version__"]
