"""What passes through a network whose tensors have no storage, as functions of the number of frames and the batch.

A step is traced once, at sizes that no constant of the network shares (`FRAMES`, `BATCH`: primes). Each dimension that
is met is then (c · frames + k) · batch^e with one c, k and e, and so launches, FLOPs, bytes and what lives at one time
can be computed for any frames and batch from the one trace. Where a trace is taken at true sizes, all is constant.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from eisbach.adapters.quantised import is_quantised

FRAMES, BATCH = 2_147_483_647, 10_007
_LARGEST = 100_000_000  # elements of a weight; no constant of a dimension comes near the frames' mark
DEVICES = {"H100": (989e12, 3.35e12), "RTX 4070": (58.3e12, 0.504e12)}
"""Dense bf16 FLOP/s with fp32 sums, and bytes/s, by their makers' data sheets (H100 SXM)."""

_FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh"}
_FREE |= {"detach", "alias", "_reshape_alias", "set_", "record_stream"}


@dataclass(frozen=True)
class Dim:
    """A dimension: (frames · `slope` + `rest`) · batch ** `power`."""

    slope: int
    rest: int
    power: int

    def at(self, frames: int, batch: int) -> int:
        """Its value."""
        return int((frames * self.slope + self.rest) * batch**self.power)


def shape_of(tensor: torch.Tensor) -> tuple[int | Dim, ...]:
    """A tensor's dimensions, those that hold a mark as `Dim`."""
    return tuple(dimension(int(size)) for size in tensor.shape)


def dimension(size: int) -> int | Dim:
    """A size as what it is made of.

    Raises
    ------
    ValueError
        It holds a mark in a way that is not told apart.
    """
    if size < BATCH:
        return size
    power, rest = 0, size
    while rest % BATCH == 0:
        power, rest = power + 1, rest // BATCH
    slope, rest = divmod(rest, FRAMES)
    if rest > _LARGEST or slope > _LARGEST:
        raise ValueError(f"a dimension of {size:,} is no (c · frames + k) · batch^e; choose other marks")
    return Dim(slope, rest, power) if slope or power else rest


def at(value: Any, frames: int, batch: int) -> Any:
    """The same structure with every `Dim` at its value."""
    if isinstance(value, Dim):
        return value.at(frames, batch)
    if isinstance(value, (tuple, list)):
        return type(value)(at(item, frames, batch) for item in value)
    return value


@dataclass
class Launch:
    """An operation that starts a kernel.

    Attributes
    ----------
    formula : function or None
        FLOPs from the arguments' shapes.
    args, kwargs, out : shapes and plain values
    tensors : list of (shape, bytes of an element)
        What is read and written, once each.
    """

    formula: Any
    args: Any
    kwargs: dict[str, Any]
    out: Any
    tensors: list[tuple[tuple[int | Dim, ...], int]]


@dataclass
class Segment:
    """A stretch of the step: what it launches and, in order, what comes to life (> 0) and is let go (< 0).

    An event is the place of a storage in `Trace.storages`, plus one, negative when it goes.
    """

    name: str
    launches: list[Launch] = field(default_factory=list)
    events: list[int] = field(default_factory=list)


class Trace(TorchDispatchMode):
    """Records what passes while it is active, in segments that the caller names with `enter`."""

    def __init__(self) -> None:
        super().__init__()
        self.segments = [Segment("before")]
        self.storages: list[tuple[tuple[int | Dim, ...], int]] = []
        self._known: set[int] = set()

    def enter(self, name: str) -> None:
        """Starts a segment."""
        self.segments.append(Segment(name))

    def hold(self, tensor: torch.Tensor) -> None:
        """Counts a tensor's storage until it is let go."""
        for part in plain_parts(tensor):
            storage = part.untyped_storage()
            key = storage._cdata
            if key in self._known:
                continue
            shape, size = shape_of(part), part.element_size()
            if prod(part.shape) * size != storage.nbytes():  # a view of it came first
                shape, size = (dimension_of_bytes(storage.nbytes()),), 1
            self.storages.append((shape, size))
            self._known.add(key)
            self.segments[-1].events.append(len(self.storages))
            weakref.finalize(storage, self._drop, key, len(self.storages))

    def _drop(self, key: int, place: int) -> None:
        self._known.discard(key)
        self.segments[-1].events.append(-place)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        results = [value for value in tree_iter(out) if isinstance(value, torch.Tensor)]
        for value in results:
            self.hold(value)
        if launches(func):
            read = [value for value in tree_iter((args, kwargs)) if isinstance(value, torch.Tensor)]
            moved = {id(value): value for value in (*read, *results)}.values()
            formula = formula_of(func)
            shapes = tree_map(_plain, (args, kwargs, out)) if formula else ((), {}, ())
            tensors = [(shape_of(value), value.element_size()) for value in moved]
            self.segments[-1].launches.append(Launch(formula, *shapes, tensors))
        return out


def _plain(value: Any) -> Any:
    return shape_of(value) if isinstance(value, torch.Tensor) else value


def dimension_of_bytes(size: int) -> int:
    """A number of bytes that no shape explains, which can only be a constant.

    Raises
    ------
    ValueError
        It is not.
    """
    if size < FRAMES and size % BATCH:
        return size
    raise ValueError(f"a storage of {size:,} bytes is explained by no shape; trace at true sizes")


def launches(func: Any) -> bool:
    """Whether an operation starts a kernel."""
    name = func._schema.name.split("::")[1]
    return func.namespace not in ("prim", "profiler") and not func.is_view and name not in _FREE


def formula_of(func: Any) -> Any:
    """FLOPs of matrix products, convolutions and attention, as torch counts them; None elsewhere."""
    aten = torch.ops.aten
    packet = func.overloadpacket
    if packet is aten._scaled_dot_product_flash_attention_for_cpu:
        return _attention
    if packet is aten._scaled_dot_product_flash_attention_for_cpu_backward:
        return _attention_backward
    packet = {aten.addmm_: aten.addmm, aten.baddbmm_: aten.baddbmm}.get(packet, packet)
    return flop_registry.get(packet)


def _attention(*args: Any, **kwargs: Any) -> int:
    return int(sdpa_flop_count(*args[:3]))


def _attention_backward(*args: Any, **kwargs: Any) -> int:
    return int(sdpa_backward_flop_count(*args[:4]))


def plain_parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The tensors that hold a tensor's bytes: itself, or what a quantised one is made of."""
    if is_quantised(tensor):
        for name in tensor.__tensor_flatten__()[0]:  # type: ignore[attr-defined]
            yield getattr(tensor, name)
    else:
        yield tensor


def sums(trace: Trace, frames: int, batch: int) -> dict[str, float]:
    """Launches, FLOPs and roofline seconds of a trace at a size."""
    count = flops = 0
    seconds = dict.fromkeys(DEVICES, 0.0)
    for segment in trace.segments:
        count += len(segment.launches)
        for launch in segment.launches:
            work = 0
            if launch.formula is not None:
                shapes, keywords, out = (at(part, frames, batch) for part in (launch.args, launch.kwargs, launch.out))
                work = int(launch.formula(*shapes, **{k: v for k, v in keywords.items() if k != "out"}, out_val=out))
            moved = sum(prod(at(shape, frames, batch)) * size for shape, size in launch.tensors)
            flops += work
            for name, (peak, bandwidth) in DEVICES.items():
                seconds[name] += max(work / peak, moved / bandwidth)
    return {"launches": count, "flops": flops, **{f"seconds {name}": value for name, value in seconds.items()}}


def peaks(trace: Trace, frames: int, batch: int) -> dict[str, int]:
    """The most bytes that live at one time in each segment, every storage rounded up to 512 bytes as torch's
    allocator does."""
    sizes = [-(-prod(at(shape, frames, batch)) * size // 512) * 512 for shape, size in trace.storages]
    now, most = 0, {}
    for segment in trace.segments:
        peak = now
        for event in segment.events:
            now += sizes[event - 1] if event > 0 else -sizes[-event - 1]
            peak = max(peak, now)
        most[segment.name] = max(peak, most.get(segment.name, 0))
    return most
