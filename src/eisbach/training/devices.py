"""The device, the precision and the processes of a run, through accelerate."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import torch

from eisbach.errors import ConfigError
from eisbach.training.config import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


def build_accelerator(config: TrainConfig) -> Accelerator:
    """accelerate's view of the device, the precision and the processes.

    Raises
    ------
    ConfigError
        A launch mode that shards the model, which checkpoints here do not cover; or `compile` without a compiler.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType, parse_flag_from_env

    # Several processes on CPUs form one run only when accelerate is told that the CPU is meant.
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    precision = "bf16" if uses_bf16(config.precision, cpu) else "no"
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != precision:
        AcceleratorState._reset_state()  # an earlier run in this process had another precision
    # Layers without a gradient in some step (an unused embedding) must not make the other processes wait.
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    accelerator = Accelerator(cpu=cpu, mixed_precision=precision, kwargs_handlers=handlers)
    simple = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if accelerator.distributed_type not in simple:
        raise ConfigError(
            f"accelerate was launched with {accelerator.distributed_type.value}, and training supports one process or "
            "data-parallel processes (MULTI_CPU, MULTI_GPU); change the launch options."
        )
    if config.compile and accelerator.device.type == "cpu":
        check_compiler()
    return accelerator


def check_compiler() -> None:
    """Refuses `compile: true` on a CPU without a C++ compiler, which torch would find out in a long traceback."""
    if not any(map(shutil.which, (os.environ.get("CXX") or "g++", "clang++"))):
        raise ConfigError(
            "compile is true, and on the CPU that needs a C++ compiler (g++ or clang++); set it to false."
        )


def uses_bf16(precision: str, cpu: bool) -> bool:
    """Whether to compute in bf16: as asked, or with "auto" where a GPU has it in hardware (Ampere and later)."""
    if precision != "auto":
        return precision == "bf16"
    return not cpu and torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
