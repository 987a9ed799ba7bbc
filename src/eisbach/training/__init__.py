"""Training: a strict configuration, a pure step, a loop that stops and continues exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eisbach.training.config import TrainConfig

if TYPE_CHECKING:
    from eisbach.training.loop import train

__all__ = ["TrainConfig", "train"]


def __getattr__(name: str) -> Any:
    # The loop needs torch, and a command that only checks a recipe does not.
    if name == "train":
        from eisbach.training.loop import train

        return train
    raise AttributeError(f"module 'eisbach.training' has no attribute '{name}'")
