"""Running out of memory, said in one sentence: what was needed, what there is, and three things to change."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from eisbach.errors import UserError, is_out_of_memory

if TYPE_CHECKING:
    import torch

    from eisbach.training.config import TrainConfig

_UNITS = {"bytes": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_REQUEST = re.compile(r"allocate ([\d.]+) ?(bytes|KiB|MiB|GiB|TiB|B)\b", re.IGNORECASE)


class OutOfMemory(UserError):
    """The device or the machine has less memory than the recipe needs."""


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
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(sentence(config, device, error)) from error


def sentence(config: TrainConfig, device: torch.device, error: BaseException) -> str:
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
    found = []
    if not config.gradient_checkpointing:
        found.append("gradient_checkpointing: true (same result, slower)")
    if config.batch_size > 1:
        half = config.batch_size // 2
        accumulation = config.accumulation * -(-config.batch_size // half)
        found.append(f"batch_size: {half} with accumulation: {accumulation} ({half * accumulation} clips a step)")
    if config.adapter.type == "none":
        found.append("adapter.type: lora (trains an adapter instead of every weight)")
    elif config.precision == "fp32" or config.frozen == "fp32":
        found.append("precision: bf16 and frozen: bf16 (half the memory for frozen weights)")
    if config.data.crop_seconds:
        longest = max(crop.seconds for crop in config.data.crop_seconds)
        found.append(f"data.crop_seconds: {longest / 2:g} (now {longest:g})")
    if (config.adapter.rank or 1) > 4:
        found.append(f"adapter.rank: {(config.adapter.rank or 1) // 2}")
    found.append("adapter.targets: fewer layers" if config.adapter.type != "none" else "a smaller model")
    found.append("a device with more memory")
    return found


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
