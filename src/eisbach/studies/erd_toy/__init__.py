"""Recoverability experiments on a 2D mixture whose truth is exact (Elucidated Representation Diffusion, appendix F)."""

from eisbach.studies.erd_toy.config import ToyConfig
from eisbach.studies.erd_toy.run import ToyRun, gather, run_toy

__all__ = ["ToyConfig", "ToyRun", "gather", "run_toy"]
