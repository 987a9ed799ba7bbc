"""A second device that is not there: its tensors compute for real, on the CPU, and refuse to meet tensors of the CPU.

PyTorch keeps a place for one more kind of device (PrivateUse1). Here it is called `phantom`. A phantom tensor wraps a
CPU tensor; every operation is done with what is wrapped, so values, gradients, optimisers, `.item()` and branches on
data are what they are on the CPU, and whole commands run. What a GPU refuses is refused (`MixedDevices`):

- an operation on tensors of both devices, but for a scalar beside numbers (`x * cpu_scalar`), indices from the host,
  and copies;
- random numbers drawn on the device from a generator of the host;
- a tensor of the device read by numpy.

With `float64=False` it also refuses float64, as Apple's GPUs do. Under autocast, products are computed in bf16.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "phantom"
_aten = torch.ops.aten
_COPIES = {_aten._to_copy, _aten.copy_, _aten.copy, _aten._copy_from}
_HOST_INDICES = {_aten.index, _aten.index_put, _aten.index_put_, _aten._unsafe_index}
_HOST_SCALARS = {_aten.masked_fill, _aten.masked_fill_, _aten.fill_, _aten.index_put, _aten.index_put_, _aten.where}


class MixedDevices(RuntimeError):
    """What a GPU says in the same place: expected all tensors to be on the same device."""


class _State:
    """Whether the device is there now, and what it can."""

    active = False
    float64 = True
    count = 2


class _Backend:
    """What `torch.get_device_module("phantom")` gives."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return _State.active

    def device_count(self) -> int:
        return _State.count if _State.active else 0

    def current_device(self) -> int:
        return 0

    def set_device(self, device: Any) -> None:
        pass

    def synchronize(self, device: Any = None) -> None:
        pass

    def empty_cache(self) -> None:
        pass

    def manual_seed_all(self, seed: int) -> None:
        pass

    def _is_in_bad_fork(self) -> bool:
        return False

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


class Phantom(torch.Tensor):
    """A tensor of the second device."""

    inner: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Phantom:
        made: Phantom = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=torch.device(NAME, 0), requires_grad=False,
        )  # fmt: skip
        made.inner = inner
        return made

    def __init__(self, inner: torch.Tensor) -> None:
        pass

    def tolist(self) -> Any:
        return self.inner.tolist()

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Sees the calls that no phantom tensor takes part in: those that make one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation, on what the tensors wrap; its results are on the device unless it brings them to the host."""
    leaves = tree_leaves((args, kwargs))
    given = [value for value in leaves if isinstance(value, Phantom)]
    asked = [torch.device(value).type for value in (kwargs.get("device"),) if value is not None]
    asked += [value.type for value in leaves if isinstance(value, torch.device)]
    onto, off = NAME in asked, any(kind != NAME for kind in asked)
    packet = func._overloadpacket
    if packet not in _COPIES:
        _refuse_mixing(func, packet, args, leaves, given)
    if onto and isinstance(kwargs.get("generator"), torch.Generator):
        raise MixedDevices(f"{func}: Expected a '{NAME}' device type for generator but found 'cpu'")
    host = torch.device("cpu")

    def unwrap(value: Any) -> Any:
        if isinstance(value, torch.device) and value.type == NAME:
            return host
        return value.inner if isinstance(value, Phantom) else value

    with torch._C._DisableTorchDispatch():
        result = func(*tree_map(unwrap, args), **tree_map(unwrap, kwargs))
    if packet is _aten.copy_:
        return args[0]
    if not onto and (off or not given):
        return result
    same = {id(value.inner): value for value in given}  # in-place operations return the tensor that they were given

    def wrap(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or isinstance(value, Phantom):
            return value
        if value.dtype in (torch.float64, torch.complex128) and not _State.float64:
            raise TypeError(f"{func}: the device has no float64")
        return same[id(value)] if id(value) in same else Phantom(value)

    return tree_map(wrap, result)


def _refuse_mixing(func: Any, packet: Any, args: Any, leaves: list[Any], given: list[Phantom]) -> None:
    if not given:
        return
    strangers = [value for value in leaves if isinstance(value, torch.Tensor) and not isinstance(value, Phantom)]
    if packet in _HOST_INDICES and isinstance(args[0], Phantom):
        indices = [value for value in args[1] if value is not None]
        strangers = [value for value in strangers if all(value is not index for index in indices)]
    if torch.Tag.pointwise in func.tags or packet in _HOST_SCALARS:
        strangers = [value for value in strangers if value.dim() > 0]
    if strangers:
        shapes = ", ".join(str(tuple(value.shape)) for value in strangers)
        raise MixedDevices(
            f"{func}: Expected all tensors to be on the same device, but found {NAME}:0 and cpu (of shape {shapes})"
        )


_IN_BF16 = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "conv1d", "conv2d", "scaled_dot_product_attention")
_autocast = torch.library.Library("aten", "IMPL", "AutocastPrivateUse1")
_others = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")


def _register_autocast() -> None:
    """Under autocast products are computed in its dtype, as on a GPU; everything else as it comes."""
    _others.fallback(torch.library.fallthrough_kernel)
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def casting(name: str) -> Any:
        overload = getattr(_aten, name).default

        def kernel(*args: Any, **kwargs: Any) -> Any:
            dtype = torch.get_autocast_dtype(NAME)

            def cast(value: Any) -> Any:
                floating = isinstance(value, torch.Tensor) and value.dtype == torch.float32
                return value.to(dtype) if floating else value

            with torch._C._ExcludeDispatchKeyGuard(key):
                return overload(*tree_map(cast, args), **tree_map(cast, kwargs))

        return kernel

    for name in _IN_BF16:
        _autocast.impl(name, casting(name))


def _register() -> None:
    if torch._C._get_privateuse1_backend_name() == NAME:
        return
    _setup_privateuseone_for_python_backend(NAME, _Backend())
    _register_autocast()


@contextmanager
def second_device(*, float64: bool = True, count: int = 2) -> Iterator[str]:
    """The device is there inside, as the machine's accelerator; gives its name, for `--device`."""
    _register()
    _State.active, _State.float64, _State.count = True, float64, count
    lifts, swaps = torch._C._only_lift_cpu_tensors(), torch.__future__.get_swap_module_params_on_conversion()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device=…) makes it on the host and moves it
    torch.__future__.set_swap_module_params_on_conversion(True)  # a parameter that moves stays the same object
    try:
        with _Mode():
            yield NAME
    finally:
        torch._C._set_only_lift_cpu_tensors(lifts)
        torch.__future__.set_swap_module_params_on_conversion(swaps)
        _State.active, _State.float64, _State.count = False, True, 2
