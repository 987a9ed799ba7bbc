"""Where networks compute, and how precisely: decided here for every command, and said in one line.

A device is `auto` (the accelerator that PyTorch finds: CUDA, MPS …; else the CPU), a kind (`cpu`, `cuda`, `mps`) or one
of several (`cuda:1`). What a device is given to compute is drawn on the CPU first, so that noise is the same on all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import AfterValidator

from eisbach.errors import UserError

if TYPE_CHECKING:
    import torch

_FORM = re.compile(r"[a-z]+(:\d{1,3})?")
_BF16_CAPABILITY = (8, 0)  # NVIDIA's Ampere; older ones emulate it, slower than fp32


def _check_form(name: str) -> str:
    if not _FORM.fullmatch(name):
        raise ValueError("must be auto, cpu, a kind of device such as cuda or mps, or one of several such as cuda:1")
    return name


DeviceName = Annotated[str, AfterValidator(_check_form)]
"""The key `device` of a configuration; whether the device is there is found when something is to compute on it."""
PrecisionName = Literal["auto", "fp32", "bf16"]
"""The key `precision` of a configuration."""


@dataclass(frozen=True)
class Placement:
    """What `place` decided.

    Attributes
    ----------
    device : torch.device
    bf16 : bool
        Whether networks compute under bf16 autocast; weights stay as they are stored.
    """

    device: torch.device
    bf16: bool

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which the network is asked."""
        import torch

        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def predict(self, network: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        """The network's function, asked in this precision; what it returns is in its input's dtype."""

        def asked(x_t: torch.Tensor, *rest: Any) -> torch.Tensor:
            with self.autocast():
                return network(x_t, *rest).to(x_t.dtype)

        return asked if self.bf16 else network

    def sentence(self) -> str:
        """
        >>> place("cpu").sentence()
        'computing on the CPU in fp32'
        """
        return f"computing on {device_label(self.device)} in {'bf16' if self.bf16 else 'fp32'}"

    def stamp(self) -> dict[str, str]:
        """What a folder says of the precision that its content was made in; fp32, the precision of folders that say
        nothing, is left out."""
        return {"precision": "bf16"} if self.bf16 else {}


def place(device: str = "auto", precision: str = "auto") -> Placement:
    """The device and the precision to compute with.

    Parameters
    ----------
    device : str
        "auto" takes the accelerator that is there, else the CPU; "cpu", "cuda", "cuda:1", "mps".
    precision : "auto", "fp32" or "bf16"
        "auto" is bf16 on a CUDA device that has it in hardware, fp32 elsewhere.

    Raises
    ------
    UserError
        No such device on this machine, a number beyond the last, another precision, or bf16 on a device that does not
        have it.
    """
    chosen = _find(device)
    if precision not in get_args(PrecisionName):
        raise UserError(f"the precision {precision!r} is not one; choose {', '.join(get_args(PrecisionName))}.")
    able = _has_bf16(chosen)
    if precision == "bf16" and not able:
        raise UserError(
            f"the precision bf16 was asked for and {device_label(chosen)} does not compute in it; choose fp32, or auto."
        )
    return Placement(chosen, precision == "bf16" or (precision == "auto" and chosen.type == "cuda" and able))


def _find(name: str) -> torch.device:
    import torch

    if not _FORM.fullmatch(name):
        raise UserError(f"the device {name!r} is not one; choose auto, cpu, cuda, cuda:1 or mps.")
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if name == "auto":
        return torch.device("cpu") if accelerator is None else accelerator
    counts = {"cpu": 1} | ({} if accelerator is None else {accelerator.type: torch.accelerator.device_count()})
    kind, _, number = name.partition(":")
    if kind not in counts:
        lacking = kind == "cuda" and not torch.backends.cuda.is_built()
        why = f" (this PyTorch, {torch.__version__}, is built without CUDA)" if lacking else ""
        raise UserError(f"the device '{name}' is not on this machine{why}; choose {' or '.join(counts)}, or auto.")
    if number and int(number) >= counts[kind]:
        last = f"{kind}:{counts[kind] - 1}"
        raise UserError(f"the device '{name}' is not on this machine, whose last one is {last}; choose {last} or less.")
    return torch.device("cpu") if kind == "cpu" else torch.device(name)


def _has_bf16(device: torch.device) -> bool:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _BF16_CAPABILITY
    return device.type != "mps" or torch.backends.mps.is_macos_or_newer(14, 0)


def device_label(device: torch.device) -> str:
    """A device for people: "the CPU", "cuda:1 (NVIDIA H100 80GB HBM3)"."""
    import torch

    if device.type == "cpu":
        return "the CPU"
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
