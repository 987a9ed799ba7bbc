"""FLOPs, launches and memory of Stable Audio 3 Medium's training step and sampling, counted without its storage:
``python bench/true_size.py --help``.

The network is built in its true shape with tensors that have none (torch's fake tensors), and every operation that
reaches the device is looked at:

- launches (counted): operations that write a result; views, allocations and what only asks for a size are none.
- FLOPs (counted): of matrix products, convolutions and attention, by torch's own formulas, forward and backward.
- memory (estimated): the peak over a step of what lives at one time, weights and optimiser with it, every storage
  rounded up to 512 bytes as torch's allocator does. Not in it: the CUDA context, libraries' workspaces and
  fragmentation.
- roofline (computed): the sum over operations of the longer of FLOPs over the device's peak and bytes over its
  bandwidth, where an operation reads its arguments and writes its result once; nothing is fused. No step is faster in
  this form; a host that starts an operation in 5 µs needs the launches times that.

Kernels are those of torch's CPU list under its bf16 autocast, attention as one operation. A step is forward, mean
squared error, backward, clipping and fused AdamW. Counts are taken at two depths and drawn as a straight line to 24
blocks; ``--check`` counts all 24 in some cells and compares (memory with checkpointing is not quite on the line).
"""

from __future__ import annotations

import argparse
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import train_step
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from eisbach.adapters.quantised import is_quantised, quantise_frozen
from eisbach.files import write_json
from eisbach.progress import Progress

DEPTH, RANK = 24, 16
DEPTHS = (2, 3)
FRAMES, BATCHES = (108, 323, 1292), (1, 4, 8)
SECONDS = {108: 10, 323: 30, 1292: 120}
CASES = {
    "LoRA": "lora",
    "DoRA detached": "ours, detached",
    "DoRA full": "ours, full",
    "rebuilt weight": "rebuilt",
    "peft": "peft",
}
FORMS = ("plain", "checkpointing", "int8", "nf4", "int8 + checkpointing", "nf4 + checkpointing")
NOT_QUANTISED = ("rebuilt weight", "peft")  # both form the adapted weight from the frozen one, in full
DEVICES = {"H100": (989e12, 3.35e12), "RTX 4070": (58.3e12, 0.504e12)}
"""Dense bf16 FLOP/s with fp32 sums, and bytes/s, by their makers' data sheets (H100 SXM)."""

_FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh"}
_FREE |= {"detach", "alias", "_reshape_alias", "set_", "record_stream"}


def launches(func: Any) -> bool:
    """Whether an operation starts a kernel."""
    name = func._schema.name.split("::")[1]
    return func.namespace not in ("prim", "profiler") and not func.is_view and name not in _FREE


def flops_of(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Of matrix products, convolutions and attention; 0 elsewhere."""
    aten = torch.ops.aten
    packet = func.overloadpacket
    if packet is aten._scaled_dot_product_flash_attention_for_cpu:
        return sdpa_flop_count(*(value.shape for value in args[:3]))
    if packet is aten._scaled_dot_product_flash_attention_for_cpu_backward:
        return sdpa_backward_flop_count(*(value.shape for value in args[:4]))
    packet = {aten.addmm_: aten.addmm, aten.baddbmm_: aten.baddbmm}.get(packet, packet)
    if packet not in flop_registry:
        return 0
    kwargs = {name: value for name, value in kwargs.items() if name != "out"}
    return int(flop_registry[packet](*args, **kwargs, out_val=out))


class Counter(TorchDispatchMode):
    """Counts what passes while it is active.

    Attributes
    ----------
    launches, flops : int
    peak : int
        Bytes, of what `hold` was given and everything since.
    seconds : dict
        Roofline seconds by device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches = self.flops = self.peak = self._now = 0
        self.seconds = dict.fromkeys(DEVICES, 0.0)
        self._known: set[int] = set()

    def hold(self, tensor: torch.Tensor) -> None:
        """Counts a tensor's storage until it is let go."""
        for part in plain_parts(tensor):
            storage = part.untyped_storage()
            key = storage._cdata
            if key in self._known:
                continue
            size = -(-storage.nbytes() // 512) * 512
            self._known.add(key)
            self._now += size
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        results = [value for value in tree_iter(out) if isinstance(value, torch.Tensor)]
        for value in results:
            self.hold(value)
        if launches(func):
            self.launches += 1
            flops = flops_of(func, args, kwargs, out)
            self.flops += flops
            read = {id(value): value.nbytes for value in tree_iter((args, kwargs)) if isinstance(value, torch.Tensor)}
            moved = sum(read.values()) + sum(value.nbytes for value in results if id(value) not in read)
            for name, (peak, bandwidth) in DEVICES.items():
                self.seconds[name] += max(flops / peak, moved / bandwidth)
        return out


def plain_parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The tensors that hold a tensor's bytes: itself, or what a quantised one is made of."""
    if is_quantised(tensor):
        for name in tensor.__tensor_flatten__()[0]:  # type: ignore[attr-defined]
            yield getattr(tensor, name)
    else:
        yield tensor


def fake_network(case: str, form: str, depth: int, mode: FakeTensorMode) -> tuple[nn.Module, list[nn.Parameter]]:
    """Medium's transformer of `depth` blocks with an adapter, frozen weights as `form` says, and what trains."""
    train_step.PRESETS["true size"] = {"model": {"depth": depth}}
    module = train_step.build_transformer("true size", "bf16", torch.device("meta"))
    if case:
        train_step.adapt(module, CASES[case], RANK)
    for part in module.modules():
        for store in (part._parameters, part._buffers):
            for name, value in store.items():
                if value is not None:
                    fake: Any = FakeTensor(mode, value.detach(), torch.device("cpu"))
                    store[name] = nn.Parameter(fake, value.requires_grad) if isinstance(value, nn.Parameter) else fake
    with mode:
        if form.split(" + ")[0] in ("int8", "nf4"):
            quantise_frozen(module, form.split(" + ")[0])  # type: ignore[arg-type]
    if "checkpointing" in form:
        module.enable_gradient_checkpointing()
    return module, [parameter for parameter in module.parameters() if parameter.requires_grad]


def inputs_of(module: Any, frames: int, batch: int) -> dict[str, Any]:
    """What the transformer reads, in fp32 as training gives it."""
    config = module.config
    return {
        "hidden_states": torch.empty(batch, config.io_channels, frames),
        "timestep": torch.empty(batch),
        "encoder_hidden_states": torch.empty(batch, train_step.TOKENS, config.cond_token_dim),
        "global_hidden_states": torch.empty(batch, config.global_cond_dim),
        "local_add_cond": torch.empty(batch, config.local_add_cond_dim, frames),
        "return_dict": False,
    }


def training_step(
    module: nn.Module, optimiser: torch.optim.Optimizer, trained: list[nn.Parameter], inputs: Any
) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        output = module(**inputs)[0]
    (output.float() - inputs["hidden_states"]).square().mean().backward()
    gradients = [parameter.grad for parameter in trained]
    norm = nn.utils.get_total_norm(gradients, foreach=True)
    torch._foreach_mul_(gradients, (1.0 / (norm + 1e-6)).clamp(max=1.0))
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def count(case: str, form: str, depth: int, shapes: list[tuple[int, int]]) -> list[dict[str, float]]:
    """The numbers of one training step for each (frames, batch); of a sampling step without an adapter."""
    mode = FakeTensorMode()
    module, trained = fake_network(case, form, depth, mode)
    rows = []
    with mode:
        optimiser = torch.optim.AdamW(trained, lr=1e-4, fused=True) if trained else None
        if optimiser is not None:  # the optimiser's state is there from now on
            training_step(module, optimiser, trained, inputs_of(module, 8, 1))
        for frames, batch in shapes:
            counter, inputs = Counter(), inputs_of(module, frames, batch)
            states = [] if optimiser is None else [v for s in optimiser.state.values() for v in s.values()]
            for value in (*module.parameters(), *module.buffers(), *states, *tree_iter(inputs)):
                if isinstance(value, torch.Tensor):
                    counter.hold(value)
            with counter, nullcontext() if trained else torch.no_grad():
                if optimiser is None:
                    with torch.autocast("cpu", torch.bfloat16):
                        module(**inputs)
                else:
                    training_step(module, optimiser, trained, inputs)
            seconds = {f"seconds {name}": value for name, value in counter.seconds.items()}
            rows.append({"launches": counter.launches, "flops": counter.flops, "bytes": counter.peak, **seconds})
    return rows


def at_full_depth(few: dict[str, float], more: dict[str, float]) -> dict[str, float]:
    """The straight line through two depths, at 24 blocks."""
    low, high = DEPTHS
    return {key: few[key] + (more[key] - few[key]) * (DEPTH - low) / (high - low) for key in few}


def measure(case: str, form: str, shapes: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """Rows of one adapter and form, or of sampling (no case), at true size; a batch of sampling is guided: doubled."""
    doubled = shapes if case else [(frames, 2 * batch) for frames, batch in shapes]
    few, more = (count(case, form, depth, doubled) for depth in DEPTHS)
    return [
        {"adapter": case or "sampling", "form": form, "frames": frames, "batch": batch, **at_full_depth(a, b)}
        for (frames, batch), a, b in zip(shapes, few, more, strict=True)
    ]


def check() -> float:
    """The largest relative difference between the line and all 24 blocks, over a few cells; prints each."""
    worst = 0.0
    for case, form in (("DoRA full", "plain"), ("DoRA detached", "int8 + checkpointing"), ("", "plain")):
        shape = (323, 4)
        line = measure(case, form, [shape])[0]
        whole = count(case, form, DEPTH, [shape if case else (shape[0], 2 * shape[1])])[0]
        for key, value in whole.items():
            apart = abs(line[key] / value - 1)
            worst = max(worst, apart)
            print(f"{case or 'sampling':16s}{form:22s}{key:18s}{value:16.6g} apart by {apart:.2e}")
    return worst


def table(rows: list[dict[str, Any]], adapters: list[str], forms: list[str], shapes: list[tuple[int, int]]) -> str:
    """Markdown: a line for each adapter, form and shape."""
    lines = [
        "| adapter | frozen weights | T (s), batch | launches | TFLOP | GiB | H100 ms | RTX 4070 ms |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shape = (row["frames"], row["batch"])
        if row["adapter"] not in adapters or row["form"] not in forms or shape not in shapes:
            continue
        cells = [
            row["adapter"],
            row["form"],
            f"{shape[0]} ({SECONDS[shape[0]]}), {shape[1]}",
            f"{row['launches']:,.0f}",
            f"{row['flops'] / 1e12:.2f}",
            f"{row['bytes'] / 2**30:.2f}",
            *(f"{1e3 * row[f'seconds {name}']:.0f}" for name in DEVICES),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", nargs="+", choices=[*CASES, "sampling"], default=[*CASES, "sampling"])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--frames", type=int, nargs="+", choices=FRAMES, default=list(FRAMES))
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--check", action="store_true", help="compare the line with all 24 blocks, and stop")
    parser.add_argument("--out", type=Path, default=None, help="JSON of all rows, as bench/results/true_size.json")
    args = parser.parse_args()
    if args.check:
        print(f"largest difference: {check():.2e}")
        return
    shapes = [(frames, batch) for frames in args.frames for batch in args.batches]
    todo = [
        (case, form)
        for case in args.adapters
        for form in args.forms
        if not (case in NOT_QUANTISED and form not in ("plain", "checkpointing"))
        and not (case == "sampling" and "checkpointing" in form)
    ]
    rows: list[dict[str, Any]] = []
    with Progress(len(todo), "true size") as bar:
        for case, form in todo:
            rows += measure("" if case == "sampling" else case, form, shapes)
            bar.advance()
    print(table(rows, args.adapters, args.forms, shapes))
    if args.out is not None:
        how = {"depths": DEPTHS, "depth": DEPTH, "rank": RANK, "torch": torch.__version__, "devices": DEVICES}
        write_json(args.out, {"how": how, "rows": rows})
        print(f"\nwritten to {args.out}")


if __name__ == "__main__":
    main()
