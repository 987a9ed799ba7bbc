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

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "phantom"
_aten = torch.ops.aten
_COPIES = {_aten._to_copy, _aten.copy_, _aten.copy, _aten._copy_from}
_HOST_INDICES = {_aten.index, _aten.index_put, _aten.index_put_, _aten._unsafe_index}
_HOST_SCALARS = {_aten.masked_fill, _aten.masked_fill_, _aten.fill_, _aten.index_put, _aten.index_put_, _aten.where}


_PRODUCTS = {_aten.mm, _aten.addmm, _aten.bmm, _aten.baddbmm, _aten.convolution}
_PRODUCTS |= {_aten.linear, _aten.matmul, _aten.conv1d, _aten.conv2d}  # as they come where no gradient is recorded


class MixedDevices(RuntimeError):
    """What a GPU says in the same place: expected all tensors to be on the same device."""


class _State:
    """Whether the device is there now, and what it can."""

    active = False
    float64 = True
    count = 2
    products: ClassVar[dict[str, int]] = {}


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

    @property
    def data(self) -> Phantom:  # type: ignore[override]
        return Phantom(self.inner)

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        if not isinstance(value, Phantom):
            raise MixedDevices("a tensor of the device was given the content of one of the host")
        torch.Tensor.data.__set__(self, value)  # type: ignore[attr-defined]
        self.inner = value.inner

    # With these two a module that is moved keeps its parameters' objects, as it does on a GPU: optimisers hold them.
    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], context: None, size: Any, stride: Any) -> Phantom:
        return Phantom(inner["inner"])

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
    if packet in _PRODUCTS:
        kind = NAME if given else "cpu"
        _State.products[kind] = _State.products.get(kind, 0) + 1
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

    with torch.inference_mode(False):  # a view's wrapper shares the history of what it is a view of
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


# On import, which is before any test runs: the autograd engine counts the devices at its first backward pass.
_setup_privateuseone_for_python_backend(NAME, _Backend())
_register_autocast()


def _let_go_and_apply(apply: Any) -> Any:
    """`Module._apply`, which exchanges a moved parameter's content within the same object (see `__tensor_flatten__`).

    That needs the only hold of it: what a layer computed from its parameters when it was made (weight_norm's weight) is
    computed again before it is used, and its history is dropped.
    """

    def applied(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        for module in self.modules():
            for name, value in vars(module).items():
                if isinstance(value, torch.Tensor) and value.grad_fn is not None:
                    vars(module)[name] = value.detach()
        return apply(self, *args, **kwargs)

    return applied


@contextmanager
def _here() -> Iterator[None]:
    """The device, in this thread."""
    lifts = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(…, device=…) makes it on the host and moves it
    try:
        with _Mode():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(lifts)


def _seeing(run: Any) -> Any:
    """`Thread.run` in which the device is there too."""

    def running(self: threading.Thread) -> None:
        with _here():
            run(self)

    return running


def products(kind: str) -> int:
    """How many products of matrices and convolutions were computed on "cpu" or on the device, in the last
    `second_device`: where a network was."""
    return _State.products.get(kind, 0)


@contextmanager
def second_device(*, float64: bool = True, count: int = 2) -> Iterator[str]:
    """The device is there inside, as the machine's accelerator; gives its name, for `--device`."""
    _State.active, _State.float64, _State.count = True, float64, count
    _State.products.clear()
    apply, run, synchronise = nn.Module._apply, threading.Thread.run, torch.accelerator.synchronize
    torch.accelerator.synchronize = lambda device=None: None  # everything has been done when it is asked for
    nn.Module._apply = _let_go_and_apply(apply)  # type: ignore[method-assign]
    threading.Thread.run = _seeing(run)  # type: ignore[method-assign]
    try:
        with _here():
            yield NAME
    finally:
        nn.Module._apply = apply  # type: ignore[method-assign]
        threading.Thread.run = run  # type: ignore[method-assign]
        torch.accelerator.synchronize = synchronise
        _State.active, _State.float64, _State.count = False, True, 2
