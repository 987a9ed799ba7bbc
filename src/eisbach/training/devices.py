"""The processes of a run on the device and in the precision that `eisbach.devices` decides, its frozen weights and its
memory; running out of memory said in one sentence."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import nn

from eisbach.adapters.quantised import QUANTISED, QuantisedFormat
from eisbach.devices import place
from eisbach.errors import ConfigError, OutOfMemory, is_out_of_memory
from eisbach.training.config import TrainConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


_ACCELERATE_DEVICE = "ACCELERATE_TORCH_DEVICE"


def build_accelerator(config: TrainConfig) -> Accelerator:
    """accelerate's view of the device, the precision and the processes.

    Raises
    ------
    ConfigError
        A launch mode that shards the model, which checkpoints here do not cover; a device that contradicts how
        processes were launched; or `compile` without a compiler.
    UserError
        A device that is not there, or bf16 on one that does not have it.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType, parse_flag_from_env

    # Several processes on CPUs form one run only when accelerate is told that the CPU is meant.
    placement = place(_launched_device(config, parse_flag_from_env("ACCELERATE_USE_CPU")), config.precision)
    precision = "bf16" if placement.bf16 else "no"
    device = placement.device
    if AcceleratorState._shared_state:  # of an earlier run in this process
        before = AcceleratorState()
        if before.device.type != device.type or (device.index is not None and before.device != device):
            AcceleratorState._reset_state(reset_partial_state=True)
        elif before.mixed_precision != precision:
            AcceleratorState._reset_state()
    # Layers without a gradient in some step (an unused embedding) must not make the other processes wait; the trainer
    # takes this back where it finds that there are none.
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)]
    with _device_of_accelerate(config, device):
        accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=precision, kwargs_handlers=handlers)
    simple = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if accelerator.distributed_type not in simple:
        raise ConfigError(
            f"accelerate was launched with {accelerator.distributed_type.value}, and training supports one process or "
            "data-parallel processes (MULTI_CPU, MULTI_GPU); change the launch options."
        )
    compile_mode(config, accelerator.device)  # refuses what cannot be had before anything is loaded
    return accelerator


def compile_mode(config: TrainConfig, device: torch.device) -> Literal["off", "regional", "whole", "graphs"]:
    """What `compile` means on a device.

    Quantised frozen weights are left alone by `auto`: compiled over torchao's tensors on a GPU has not been tried.

    Raises
    ------
    ConfigError
        Compiled code on a CPU without a C++ compiler, which torch would find out in a long traceback; or CUDA graphs
        without CUDA.
    """
    if config.compile == "auto":
        from torch.utils._triton import has_triton

        automatic = device.type == "cuda" and has_triton() and quantised_format(config) is None
        return "regional" if automatic else "off"
    if config.compile == "graphs" and device.type != "cuda":
        raise ConfigError(
            f"compile is graphs, which needs a CUDA GPU, and this run is on {device.type}; use regional or off."
        )
    compilers = (os.environ.get("CXX") or "g++", "clang++")
    if config.compile != "off" and device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise ConfigError(
            f"compile is {config.compile}, and on the CPU that needs a C++ compiler (g++ or clang++); set it to off."
        )
    return config.compile


def compile_blocks(module: nn.Module, *, required: bool = True, **options: Any) -> int:
    """Compiles the repeated blocks of a network in place, names and parameters unchanged, and returns how many: equal
    blocks share their code, so it takes the time of one.

    Parameters
    ----------
    required : bool
        Whether a network without two blocks of one kind in a list is an error; else it stays as it is.
    options : as `torch.compile` takes them

    Raises
    ------
    ConfigError
        There are no such blocks, and they are required.
    """
    blocks: list[nn.Module] = []
    for part in module.modules():
        members = list(part) if isinstance(part, nn.ModuleList) else []
        alike = len(members) > 1 and len({type(member) for member in members}) == 1
        if alike and not any(members[0] is inner for block in blocks for inner in block.modules()):
            blocks += members
    if not blocks and required:
        raise ConfigError("compile is regional, and this model has no repeated blocks; use whole or off.")
    for block in blocks:
        block.compile(**options)
    return len(blocks)


def _launched_device(config: TrainConfig, on_cpus: bool) -> str:
    """The device that a recipe names, as the launch of processes allows it.

    Raises
    ------
    ConfigError
        The two contradict each other.
    """
    if on_cpus and config.device not in ("auto", "cpu"):
        raise ConfigError(f"accelerate was launched for the CPU and device is {config.device}; set device to auto.")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1 and ":" in config.device:
        raise ConfigError(
            f"device is {config.device}, and accelerate was launched with {processes} processes, to which it deals the "
            "devices out; set device to auto."
        )
    return "cpu" if on_cpus else config.device


@contextmanager
def _device_of_accelerate(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """While accelerate looks for its device, it is told the one that the recipe names; one process has a choice."""
    if config.device in ("auto", "cpu") or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        yield
        return
    before = os.environ.get(_ACCELERATE_DEVICE)
    os.environ[_ACCELERATE_DEVICE] = str(device)
    try:
        yield
    finally:
        del os.environ[_ACCELERATE_DEVICE]
        if before is not None:
            os.environ[_ACCELERATE_DEVICE] = before


def frozen_dtype(config: TrainConfig, accelerator: Accelerator) -> torch.dtype | None:
    """What frozen parameters are stored in; None leaves them as they were loaded.

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
    quantised = quantised_format(config) is not None  # what is not quantised follows the training's precision
    automatic = config.frozen == "auto" and accelerator.device.type == "cuda"
    return torch.bfloat16 if config.frozen == "bf16" or ((automatic or quantised) and in_bf16) else None


def quantised_format(config: TrainConfig) -> QuantisedFormat | None:
    """What the weights of frozen linear layers are quantised to; None leaves them in a floating dtype."""
    return next((form for form in QUANTISED if form == config.frozen), None)


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


_UNITS = {"bytes": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_REQUEST = re.compile(r"allocate ([\d.]+) ?(bytes|KiB|MiB|GiB|TiB|B)\b", re.IGNORECASE)


@contextmanager
def out_of_memory_explained(config: TrainConfig, device: torch.device) -> Iterator[None]:
    """Turns running out of memory inside into one sentence.

    Raises
    ------
    OutOfMemory
        Names the measured need, what the device has, and three things to change.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(_sentence(config, device, error)) from error


def _sentence(config: TrainConfig, device: torch.device, error: BaseException) -> str:
    """What `OutOfMemory` says."""
    where, used, there = _measured(device)
    asked = _requested(str(error))
    need = f"{_size(used)} were in use"
    if asked is not None:
        need = f"at least {_size(used + asked)} are needed ({need} and {_size(asked)} more were asked for)"
    changes = "; ".join(f"({number}) {text}" for number, text in enumerate(remedies(config)[:3], 1))
    return (
        f"{where} ran out of memory: {need} and it has {_size(there)}; three things to change, any of them may do: "
        f"{changes}. What "
        "was saved is intact; after any change but gradient_checkpointing, name another out."
    )


def remedies(config: TrainConfig) -> list[str]:
    """What would lower the need of a recipe, the least harmful first; at least three."""
    changes = []
    if not config.gradient_checkpointing:
        changes.append("gradient_checkpointing: true (same result, slower)")
    if config.batch_size > 1:
        half = config.batch_size // 2
        accumulation = config.accumulation * -(-config.batch_size // half)
        changes.append(f"batch_size: {half} with accumulation: {accumulation} ({half * accumulation} clips a step)")
    if config.adapter.type == "none":
        changes.append("adapter.type: lora (trains an adapter instead of every weight)")
    elif config.precision == "fp32" or config.frozen == "fp32":
        changes.append("precision: bf16 and frozen: bf16 (half the memory for frozen weights)")
    if config.data.crop_seconds:
        longest = max(crop.seconds for crop in config.data.crop_seconds)
        changes.append(f"data.crop_seconds: {longest / 2:g} (now {longest:g})")
    if (config.adapter.rank or 1) > 4:
        changes.append(f"adapter.rank: {(config.adapter.rank or 1) // 2}")
    changes.append("adapter.targets: fewer layers" if config.adapter.type != "none" else "a smaller model")
    changes.append("a device with more memory")
    return changes


def _requested(message: str) -> int | None:
    """Bytes that the failed allocation asked for."""
    match = _REQUEST.search(message)
    if match is None:
        return None
    unit = next(value for name, value in _UNITS.items() if name.lower() == match[2].lower())
    return round(float(match[1].rstrip(".")) * unit)


def _measured(device: torch.device) -> tuple[str, int, int]:
    """(what it is called, bytes in use at the peak, bytes there are)."""
    if device.type == "cuda":
        import torch

        there = torch.cuda.get_device_properties(device).total_memory
        return f"the GPU ({torch.cuda.get_device_name(device)})", torch.cuda.max_memory_allocated(device), there
    return "this machine", _peak_of_process(), _host_memory()


def _peak_of_process() -> int:
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _host_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def _size(count: int) -> str:
    """Bytes for people."""
    for unit in ("GiB", "MiB"):
        if count >= _UNITS[unit]:
            return f"{count / _UNITS[unit]:.1f} {unit}"
    return f"{count / 1024:.0f} KiB"
