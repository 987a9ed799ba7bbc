"""Two ways to train in less memory: frozen weights in bf16, and activations computed twice instead of kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from eisbach.errors import ConfigError
from eisbach.training.config import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


def frozen_dtype(config: TrainConfig, accelerator: Accelerator) -> torch.dtype | None:
    """What frozen layers are stored in; None leaves them as they were loaded.

    Raises
    ------
    ConfigError
        bf16 was asked for and training is not in bf16 on this machine.
    """
    in_bf16 = accelerator.mixed_precision == "bf16"
    if config.frozen == "bf16" and not in_bf16:
        raise ConfigError(
            f"frozen is bf16 and precision {config.precision} means fp32 on this machine; set precision to bf16, or "
            "frozen to "
            "auto."
        )
    wanted = config.frozen == "bf16" or (config.frozen == "auto" and in_bf16 and accelerator.device.type == "cuda")
    return torch.bfloat16 if wanted else None


def checkpoint_activations(module: nn.Module) -> int:
    """Switches gradient checkpointing on in every part of the network that has it, and returns how many parts.

    Parts are diffusers' and transformers' models, which know where their blocks begin.

    Raises
    ------
    ConfigError
        No part of the network has it.
    """
    switched = 0
    for part in module.modules():
        for name in ("enable_gradient_checkpointing", "gradient_checkpointing_enable"):
            supported = getattr(part, "_supports_gradient_checkpointing", True) and getattr(
                part, "supports_gradient_checkpointing", True
            )
            if callable(getattr(part, name, None)) and supported:
                cast(Any, getattr(part, name))()
                switched += 1
                break
    if not switched:
        raise ConfigError(
            "gradient_checkpointing is true, and no part of this model's network can do that; set it to false, and "
            "lower "
            "batch_size or data.crop_seconds to save memory."
        )
    return switched
