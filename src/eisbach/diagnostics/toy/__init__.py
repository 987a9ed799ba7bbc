"""Recoverability experiments on a 2D mixture whose truth is exact (Elucidated Representation Diffusion, appendix F)."""

from eisbach.diagnostics.toy.config import ToyConfig, quick_values
from eisbach.diagnostics.toy.run import ToyRun, gather, run_toy

__all__ = ["ToyConfig", "ToyRun", "gather", "quick_values", "run_toy"]
