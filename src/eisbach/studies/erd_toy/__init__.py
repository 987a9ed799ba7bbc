"""Recoverability experiments on a 2D mixture whose truth is exact (Elucidated Representation Diffusion, appendix F)."""

from eisbach.studies.erd_toy.config import ToyConfig, quick_values
from eisbach.studies.erd_toy.run import ToyRun, gather, run_toy

__all__ = ["ToyConfig", "ToyRun", "gather", "quick_values", "run_toy"]
