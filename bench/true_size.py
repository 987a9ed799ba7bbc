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
squared error, backward, clipping and fused AdamW.

Each adapter and form is traced at two depths, once for all frames and batches (`shape_trace.py`), and carried to 24
blocks, which are all alike: every sum is a straight line in the depth, and the peak is the highest of such lines, one
for each stretch of the step (before the blocks, their first and last one forward and backward, after them). ``--check``
counts some rows directly, at their own size or with all 24 blocks, and writes how far the derived numbers lie from
them. Both write each row as it ends and go on from there.
"""

from __future__ import annotations

import argparse
import gc
import textwrap
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import train_step
from shape_trace import BATCH, DEVICES, FRAMES, Trace, peaks, sums
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_iter

from eisbach.adapters.quantised import quantise, quantise_frozen
from eisbach.files import read_json, write_json

RESULTS = Path(__file__).parent / "results" / "true_size.json"
DEPTH, RANK = 24, 16
DEPTHS = (2, 3)
MODEL: dict[str, int] = {}  # what differs from Medium: nothing
SECONDS = {108: 10, 323: 30, 1292: 120}
SHAPES = [(frames, batch) for frames in SECONDS for batch in (1, 4, 8)]
CASES = {
    "LoRA": "lora",
    "DoRA detached": "ours, detached",
    "DoRA full": "ours, full",
    "rebuilt weight": "rebuilt",
    "peft": "peft",
}
FORMS = ("plain", "checkpointing", "int8", "int8 + checkpointing", "nf4", "nf4 + checkpointing")
NOT_THERE = {("peft", "nf4"): "peft calls dequantize() without arguments, and torchao's nf4 has none such"}


def fake_network(case: str, form: str, depth: int, mode: FakeTensorMode) -> tuple[nn.Module, list[nn.Parameter]]:
    """Medium's transformer of `depth` blocks with an adapter, frozen weights as `form` says, and what trains."""
    train_step.PRESETS["true size"] = {"model": {**MODEL, "depth": depth}}
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
        bits: Any = form.split(" + ")[0]
        if bits in ("int8", "nf4"):
            quantise_frozen(module, bits)
            for layer in module.modules():
                if parametrize.is_parametrized(layer, "weight"):
                    held: Any = layer.parametrizations.weight
                    held.original = nn.Parameter(quantise(held.original.detach(), bits), requires_grad=False)
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
    module: nn.Module, optimiser: torch.optim.Optimizer, trained: list[nn.Parameter], inputs: Any, trace: Trace
) -> None:
    """Forward, loss, backward, clipping, AdamW."""
    with torch.autocast("cpu", torch.bfloat16):
        output = module(**inputs)[0]
    trace.enter("loss")
    (output.float() - inputs["hidden_states"]).square().mean().backward()
    trace.enter("after")
    gradients = [parameter.grad for parameter in trained]
    norm = nn.utils.get_total_norm(gradients, foreach=True)
    torch._foreach_mul_(gradients, (1.0 / (norm + 1e-6)).clamp(max=1.0))
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def step_of(case: str, form: str, depth: int, mode: FakeTensorMode) -> tuple[nn.Module, Any]:
    """The network and its optimiser as they are after a first step; without a case nothing trains (sampling)."""
    module, trained = fake_network(case, form, depth, mode)
    if not trained:
        return module, None
    optimiser = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    with mode:
        for parameter in trained:
            parameter.grad = torch.zeros_like(parameter)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if case.startswith("DoRA"):  # the norms of the frozen rows are taken in the first step alone
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                module(**inputs_of(module, 8, 1))
    return module, optimiser


def name_segments(module: Any, trace: Trace) -> None:
    """Has a trace enter a segment at each block, forward and backward; recomputation belongs to the backward's."""
    backward: list[int] = []

    def ahead(index: int) -> Any:
        return lambda block, given: None if backward else trace.enter(f"forward {index}")

    def behind(index: int) -> Any:
        def back(gradient: torch.Tensor) -> None:
            backward.append(index)
            trace.enter(f"backward {index}")

        def hook(block: nn.Module, given: Any, output: torch.Tensor) -> None:
            if not backward and output.requires_grad:
                output.register_hook(back)

        return hook

    for index, block in enumerate(module.transformer_blocks):
        block.register_forward_pre_hook(ahead(index))
        block.register_forward_hook(behind(index))


def trace_of(case: str, form: str, depth: int, frames: int = FRAMES, batch: int = BATCH) -> Trace:
    """One training step (a sampling step without a case), at the marks or at one size of its own."""
    mode = FakeTensorMode()
    module, optimiser = step_of(case, form, depth, mode)
    trace = Trace()
    name_segments(module, trace)
    gc.disable()  # what is let go is let go where the step does so, at every depth alike
    try:
        with mode:
            inputs = inputs_of(module, frames, batch)
            states = [] if optimiser is None else [v for s in optimiser.state.values() for v in s.values()]
            for value in (*module.parameters(), *module.buffers(), *states, *tree_iter(inputs)):
                if isinstance(value, torch.Tensor):
                    trace.hold(value)
            with trace, torch.no_grad() if optimiser is None else nullcontext():
                if optimiser is None:
                    with torch.autocast("cpu", torch.bfloat16):
                        module(**inputs)
                else:
                    training_step(module, optimiser, [p for p in module.parameters() if p.requires_grad], inputs, trace)
    finally:
        gc.enable()
    return trace


def numbers(trace: Trace, frames: int, batch: int) -> dict[str, float]:
    """What a trace says of its own depth at a size."""
    return sums(trace, frames, batch) | {"bytes": max(peaks(trace, frames, batch).values())}


def classes(found: dict[str, int], depth: int) -> dict[str, int]:
    """The peaks of the segments that there are at every depth: blocks from the first on, and from the last back."""
    named = {}
    for name, value in found.items():
        stretch, _, index = name.partition(" ")
        if not index:
            named[name] = value
            continue
        for label, place in (("first", 0), ("last", depth - 1)):
            if int(index) == place:
                named[f"{stretch} {label}"] = value
    return named


def at_full_depth(traces: list[Trace], frames: int, batch: int) -> dict[str, float]:
    """The straight lines through two depths, at 24 blocks; of memory, the highest of the segments' lines."""
    (low, high), (few, more) = DEPTHS, (sums(trace, frames, batch) for trace in traces)

    def line(a: float, b: float) -> float:
        return a + (b - a) * (DEPTH - low) / (high - low)

    one, two = (classes(peaks(t, frames, batch), depth) for t, depth in zip(traces, DEPTHS, strict=True))
    return {key: line(few[key], more[key]) for key in few} | {"bytes": max(line(one[key], two[key]) for key in one)}


def size_of(case: str, batch: int) -> int:
    """Rows of the network's batch: sampling is guided, and doubles them."""
    return batch if case else 2 * batch


def todo(adapters: list[str], forms: list[str]) -> list[tuple[str, str]]:
    """The pairs of adapter and form that are asked for; sampling keeps no activations that could be computed again."""
    return [(case, form) for form in forms for case in adapters if not (case == "sampling" and "checkpointing" in form)]


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row is of."""
    return tuple(row.get(name) for name in ("adapter", "form", "frames", "batch", "depth", "how"))


class Results:
    """The file of rows and checks, written whole after each."""

    def __init__(self, file: Path, fresh: bool) -> None:
        self.file = file
        how = {
            "torch": torch.__version__, "depth": DEPTH, "rank": RANK, "traced_depths": list(DEPTHS),
            "devices": {name: list(values) for name, values in DEVICES.items()},
            "launches": "counted", "flops": "counted", "bytes": "estimated", "seconds": "computed (roofline)",
        }  # fmt: skip
        before = {} if fresh or not file.is_file() else read_json(file, "benchmark results")
        if before.get("how") != how:
            before = {}
        self.content: dict[str, Any] = {"how": how, "rows": [], "checks": [], **before}

    def has(self, kind: str, row: dict[str, Any]) -> bool:
        """Whether it is there already."""
        return any(key_of(row) == key_of(other) for other in self.content[kind])

    def add(self, kind: str, rows: list[dict[str, Any]]) -> None:
        """Puts rows in place of those of the same key, and writes."""
        keys = {key_of(row) for row in rows}
        self.content[kind] = [row for row in self.content[kind] if key_of(row) not in keys] + rows
        write_json(self.file, self.content)


def measure(case: str, form: str) -> list[dict[str, Any]]:
    """The rows of an adapter and a form at every size."""
    rows = [{"adapter": case, "form": form, "frames": frames, "batch": batch} for frames, batch in SHAPES]
    absent = NOT_THERE.get((case, form.split(" + ")[0]))
    if absent is not None:
        return [{**row, "absent": absent} for row in rows]
    name = "" if case == "sampling" else case
    traces = [trace_of(name, form, depth) for depth in DEPTHS]
    return [
        {**row, **at_full_depth(traces, row["frames"], size_of(name, row["batch"]))}  # type: ignore[arg-type]
        for row in rows
    ]


SOME = [(108, 1), (323, 4), (1292, 8)]
CHECKS = [
    # (adapter, form, sizes, how): "all blocks" traces 24 of them; "own size" traces few, at the size itself
    ("DoRA full", "plain", SOME, "own size"),
    ("DoRA full", "plain", SHAPES, "all blocks"),
    ("DoRA detached", "int8 + checkpointing", SHAPES, "all blocks"),
    ("rebuilt weight", "plain", SOME, "own size"),
    ("sampling", "plain", SHAPES, "all blocks"),
    ("LoRA", "checkpointing", SHAPES, "all blocks"),
    ("DoRA detached", "nf4 + checkpointing", SOME, "own size"),
]


def check(case: str, form: str, shapes: list[tuple[int, int]], how: str) -> list[dict[str, Any]]:
    """Rows counted more directly than the table's, and how far those lie from them, in parts of what was counted."""
    name = "" if case == "sampling" else case
    whole = "all blocks" in how
    derived = [trace_of(name, form, depth) for depth in (DEPTHS if whole else DEPTHS[:1])]
    counted = None if "own size" in how else trace_of(name, form, DEPTH)
    rows = []
    for frames, batch in shapes:
        wide = size_of(name, batch)
        own = counted or trace_of(name, form, DEPTH if whole else DEPTHS[0], frames, wide)
        truth = numbers(own, frames, wide)
        said = at_full_depth(derived, frames, wide) if whole else numbers(derived[0], frames, wide)
        row = {"adapter": case, "form": form, "frames": frames, "batch": batch, "how": how, "counted": truth}
        row |= {"depth": DEPTH if whole else DEPTHS[0], "apart": {k: abs(said[k] / v - 1) for k, v in truth.items()}}
        rows.append(row)
    return rows


def table(title: str, rows: list[dict[str, Any]], cell: Any, shapes: list[tuple[int, int]]) -> list[str]:
    """Markdown: a line for each adapter and form, a column for each size."""
    heads = [f"{SECONDS[frames]} s × {batch}" for frames, batch in shapes]
    lines = [
        "",
        f"## {title}",
        "",
        "|".join(["", "adapter", "form", *heads, ""]),
        "|".join(["", *["---"] * (len(heads) + 2), ""]),
    ]
    found = {(row["adapter"], row["form"], row["frames"], row["batch"]): row for row in rows}
    for case in (*CASES, "sampling"):
        for form in FORMS:
            cells = [found.get((case, form, *shape)) for shape in shapes]
            if any(row is not None and "absent" not in row for row in cells):
                lines.append("|".join(["", case, form, *("" if row is None else cell(row) for row in cells), ""]))
    return lines


def page(content: dict[str, Any]) -> str:
    """All rows and checks, as docs/true-size-table.md."""
    rows, peak = content["rows"], max((max(row["apart"].values()) for row in content["checks"]), default=None)
    absent = sorted({f"{row['adapter']}, {row['form']}: {row['absent']}" for row in rows if "absent" in row})
    lines = [_PAGE_HEAD.format(torch=content["how"]["torch"], rank=RANK)]
    if peak is not None:
        apart = f"lie at most {peak:.0e} of their value from" if peak else "are equal to"
        lines.append(f"Checked: {len(content['checks'])} rows that were counted directly {apart} what is derived.")
    lines += [f"Not there: {'; '.join(absent)}."] if absent else []
    there = {(row["adapter"], row["form"]) for row in rows}
    missing = [f"{case}, {form}" for case, form in todo([*CASES, "sampling"], list(FORMS)) if (case, form) not in there]
    lines += [f"Not counted yet (the same command without --page goes on): {'; '.join(missing)}."] if missing else []
    paragraphs = "\n".join(lines).split("\n\n")
    lines = ["\n\n".join(textwrap.fill(text, 120, break_on_hyphens=False) for text in paragraphs)]
    clips = [(frames, 1) for frames in SECONDS]
    lines += table("Launches", rows, lambda row: f"{row['launches']:,.0f}", clips[:1])
    lines += table("TFLOP a clip", rows, lambda row: f"{row['flops'] / 1e12:.2f}", clips)
    lines += table("GiB at the peak", rows, lambda row: f"{row['bytes'] / 2**30:.1f}", SHAPES)

    def times(row: dict[str, Any]) -> str:
        return "/".join(f"{1e3 * row[f'seconds {name}']:.0f}" for name in DEVICES)

    lines += table("Least ms a step, H100/RTX 4070", rows, times, SHAPES)
    return "\n".join(lines) + "\n"


_PAGE_HEAD = """# True size: the whole table

Stable Audio 3 Medium, rank {rank}, bf16; written by `python bench/true_size.py --page docs/true-size-table.md` from
`bench/results/true_size.json` (torch {torch}). What it means and what follows: [true size](true-size.md). Launches and
FLOPs are counted at two depths and carried to 24 blocks; memory is estimated; times are computed (roofline). Launches
do not depend on length or batch; FLOPs are those of a batch of one, and in proportion to the batch. Sampling is one
guided step (both branches).
"""


def main() -> None:
    """Counts what is missing, or checks, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", nargs="+", choices=[*CASES, "sampling"], default=[*CASES, "sampling"])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--check", action="store_true", help="count some rows directly and write how far they lie")
    parser.add_argument("--page", type=Path, default=None, help="write all that was counted as a page, and stop")
    parser.add_argument("--minutes", type=float, default=None, help="start nothing after so long; the next run goes on")
    parser.add_argument("--fresh", action="store_true", help="count everything anew")
    parser.add_argument("--out", type=Path, default=RESULTS, help="default: bench/results/true_size.json")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", "Accessing the data pointer")  # a weight without storage has no address
    deadline = time.monotonic() + 60 * (args.minutes or 1e6)
    results = Results(args.out, args.fresh)
    if args.page is not None:
        args.page.write_text(page(results.content), encoding="utf-8")
        return
    jobs: list[tuple[Any, ...]] = CHECKS if args.check else todo(args.adapters, args.forms)  # type: ignore[assignment]
    for job in jobs:
        kind, first = ("checks", job[2][0]) if args.check else ("rows", SHAPES[0])
        depth, how = (DEPTH if "all" in job[3] else DEPTHS[0], job[3]) if args.check else (None, None)
        row = dict(
            zip(("adapter", "form", "frames", "batch", "depth", "how"), (*job[:2], *first, depth, how), strict=True)
        )
        if results.has(kind, row):
            continue
        if time.monotonic() > deadline:
            print(f"stopped at {', '.join(map(str, job[:2]))}; the same command goes on from there")
            return
        start = time.monotonic()
        results.add(kind, check(*job) if args.check else measure(*job))
        print(f"{', '.join(map(str, job[:2]))}: {time.monotonic() - start:.0f} s", flush=True)
    if args.check:
        for row in results.content["checks"]:
            worst = ", ".join(f"{key} {value:.1e}" for key, value in row["apart"].items())
            print(f"{row['adapter']}, {row['form']}, {row['frames']} x {row['batch']}, {row['how']}: {worst}")
        return
    print(page(results.content))
    print(f"\nwritten to {args.out}")


if __name__ == "__main__":
    main()
