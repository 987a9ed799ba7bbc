"""Time and memory of one adapter training step: ``python bench/train_step.py --help``.

A Stable Audio 3 transformer with random weights takes steps (forward, mean squared error, backward, AdamW) with each
kind of adapter:

- ours: DoRA with the closed-form row norm (`eisbach.adapters`), the norm detached or part of the gradient;
- rebuilt: DoRA's weight formed at every step, as Stability's trainer does (`reference_dora.py`);
- peft: peft's own DoRA; lora: plain LoRA in peft; floor: forward pass and input gradients only, nothing trained.

All cases share one set of frozen weights and the same adapter values, and their outputs are compared before anything is
timed. Steps of the cases alternate; medians and quartiles are over repetitions. Memory is the peak over one step after
two others, frozen weights included: on CUDA what the allocator handed out, on the CPU the peak resident size of a fresh
process above its size before the model was built.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from reference_dora import inject_rebuilt
from torch import nn

from eisbach import adapters
from eisbach.adapters.inject import store_frozen
from eisbach.files import read_json, write_json
from eisbach.progress import Progress

PRESETS: dict[str, dict[str, Any]] = {
    "medium": {
        "model": {},
        "frames": [108, 323, 1292],
        "batches": [1, 4, 8],
    },  # diffusers' defaults are SA3-medium's shape
    "cpu": {"model": {"embed_dim": 768, "num_heads": 12, "depth": 4}, "frames": [108, 323, 1292], "batches": [1]},
    "cpu-wide": {"model": {"depth": 2}, "frames": [323], "batches": [1]},  # medium's own layers, two of them
    "tiny": {
        "model": {"embed_dim": 64, "num_heads": 2, "depth": 2, "num_memory_tokens": 4},
        "frames": [16],
        "batches": [2],
    },
}
CASES = ("ours, detached", "ours, full", "rebuilt", "peft", "lora", "floor")
BASELINES = ("rebuilt", "peft", "lora", "floor")
TARGETS = r"transformer_blocks\.\d+\.(self_attn|cross_attn|ff)\.(to_qkv|to_q|to_kv|to_out|proj_in|proj_out)"
TOKENS = 257  # 256 caption tokens and the duration


@dataclass(frozen=True)
class Setting:
    """One line of the table: everything but the kind of adapter."""

    preset: str
    frames: int
    batch: int
    frozen: str
    precision: str
    rank: int
    checkpointing: bool
    compile: bool


class Model:
    """What `adapters.inject` asks of a model."""

    adapter_targets = TARGETS

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def identity(self) -> str:
        """Random weights have no name."""
        return "random"


def build_transformer(preset: str, frozen: str, device: torch.device) -> nn.Module:
    """The transformer with random weights."""
    from diffusers import StableAudio3DiTModel

    torch.manual_seed(0)
    with device:
        module = StableAudio3DiTModel(**PRESETS[preset]["model"]).requires_grad_(False)
    if frozen == "bf16":
        store_frozen(module, torch.bfloat16)
    return module


def share_weights(module: nn.Module) -> nn.Module:
    """A copy of the structure that holds the same parameters."""
    return copy.deepcopy(module, {id(value): value for value in [*module.parameters(), *module.buffers()]})


def adapt(module: nn.Module, case: str, rank: int) -> list[nn.Parameter]:
    """Puts in the adapter of a case, with the same values in every case; returns what trains."""
    if case == "floor":
        return []
    if case == "rebuilt":
        inject_rebuilt(module, TARGETS, rank, float(rank))
    else:
        config = adapters.adapter_config(
            Model(module), kind="lora" if case == "lora" else "dora", rank=rank, alpha=rank
        )
        if case == "peft":
            from peft import inject_adapter_in_model

            inject_adapter_in_model(config, module)
        else:
            detached = "detached" if case == "ours, detached" else "full"
            adapters.inject(Model(module), config, norm_gradient=detached)
    trained = []
    for name, parameter in module.named_parameters():
        part = re.search(r"lora_A|lora_B|magnitude", name)
        parameter.requires_grad_(part is not None)
        if part is not None:
            layer = re.split(r"\.parametrizations|\.lora_", name)[0]
            parameter.data = same_values(module.get_submodule(layer), layer, part[0], parameter)
            trained.append(parameter)
    return trained


def same_values(layer: nn.Module, name: str, part: str, parameter: torch.Tensor) -> torch.Tensor:
    """fp32 values of an adapter's parameter that depend on the layer and the part alone."""
    if part == "magnitude":
        weight = layer.base_layer.weight if hasattr(layer, "base_layer") else layer.parametrizations.weight.original
        return torch.linalg.vector_norm(weight.float(), dim=1).view_as(parameter)
    noise = torch.Generator().manual_seed(zlib.crc32(f"{name}.{part}".encode()))
    return 0.02 * torch.randn(parameter.shape, generator=noise).to(parameter.device)


def make_step(module: nn.Module, case: str, setting: Setting, device: torch.device) -> Callable[[], torch.Tensor]:
    """One training step of a case as a function that returns the network's output."""
    trained = adapt(module, case, setting.rank)
    module.train()
    if setting.checkpointing:
        module.enable_gradient_checkpointing()
    noise = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=noise).to(device)

    config = module.config
    x_t, goal = (draw(setting.batch, config.io_channels, setting.frames) for _ in range(2))
    x_t.requires_grad_(case == "floor")
    inputs = {
        "timestep": torch.rand(setting.batch, generator=noise).to(device),
        "encoder_hidden_states": draw(setting.batch, TOKENS, config.cond_token_dim),
        "global_hidden_states": draw(setting.batch, config.global_cond_dim),
        "local_add_cond": torch.zeros(setting.batch, config.local_add_cond_dim, setting.frames, device=device),
        "return_dict": False,
    }
    optimiser = torch.optim.AdamW(trained, lr=1e-6, fused=True) if trained else None
    network = torch.compile(module) if setting.compile else module

    def step() -> torch.Tensor:
        mixed = torch.autocast(device.type, torch.bfloat16) if setting.precision == "bf16" else nullcontext()
        with mixed:
            output = network(x_t, **inputs)[0]
        (output.float() - goal).square().mean().backward()
        if optimiser is not None:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        x_t.grad = None
        return output.detach()

    return step


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_cases(
    base: nn.Module,
    cases: list[str],
    setting: Setting,
    repeats: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[dict[str, list[float]], dict[str, float]]:
    """(seconds of each step by case, largest relative difference of each case's first output from the rebuilt
    weight's)."""
    steps, outputs, seconds = {}, {}, {case: [] for case in cases}
    for case in cases:
        steps[case] = make_step(share_weights(base), case, setting, device)
        outputs[case] = steps[case]()
        steps[case]()
    with Progress(repeats, f"T = {setting.frames}, batch {setting.batch}, frozen {setting.frozen}") as bar:
        for repeat in range(repeats):
            for case in cases if repeat % 2 == 0 else cases[::-1]:
                synchronise(device)
                start = clock()
                steps[case]()
                synchronise(device)
                seconds[case].append(clock() - start)
            bar.advance()
    reference = outputs.get("rebuilt")
    apart = {
        case: float((value - reference).abs().max() / reference.abs().max())
        for case, value in outputs.items()
        if reference is not None and case in ("ours, detached", "ours, full", "peft")
    }
    return seconds, apart


def peak_on_cuda(base: nn.Module, case: str, setting: Setting, device: torch.device) -> int:
    """Bytes at the peak of a step, frozen weights included."""
    step = make_step(share_weights(base), case, setting, device)
    step()
    step()
    torch.cuda.reset_peak_memory_stats(device)
    step()
    synchronise(device)
    peak = torch.cuda.max_memory_allocated(device)
    del step
    gc.collect()
    torch.cuda.empty_cache()
    return int(peak)


def resident(field: str) -> int:
    """Bytes of a field of /proc/self/status (VmRSS: now, VmHWM: the peak since it was last cleared)."""
    text = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", text)[1]) * 1024  # type: ignore[index]


def peak_of_this_process(case: str, setting: Setting) -> int:
    """Bytes at the peak of a step above the process before the model; a process of its own measures one case."""
    device = torch.device("cpu")
    share_weights(nn.Linear(2, 2))  # imports what the first model would
    import diffusers.models.transformers.transformer_stable_audio3  # noqa: F401
    import peft  # noqa: F401

    torch.nn.functional.linear(torch.randn(64, 512), torch.randn(512, 512))  # starts the threads and their buffers
    before = resident("VmRSS")
    step = make_step(build_transformer(setting.preset, setting.frozen, device), case, setting, device)
    step()
    step()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from now
    step()
    return resident("VmHWM") - before


def peak_on_cpu(case: str, setting: Setting, threads: int) -> int | None:
    """`peak_of_this_process` in a fresh process; None where the system does not tell."""
    if not Path("/proc/self/clear_refs").exists():
        return None
    command = [sys.executable, __file__, "--memory-of", case, "--setting", json.dumps(asdict(setting))]
    # Every larger tensor in pages of its own, given back when it is freed: the peak is of what lives at one time.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
    result = subprocess.run(
        [*command, "--threads", str(threads)], capture_output=True, text=True, check=True, env=environment
    )
    return int(result.stdout)


def measure(setting: Setting, cases: list[str], args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """One setting's rows, by case."""
    base = build_transformer(setting.preset, setting.frozen, device)
    rows: dict[str, dict[str, Any]] = {case: {} for case in cases}
    peaks: dict[str, int | None] = dict.fromkeys(cases)
    try:
        if not args.no_memory:
            for case in cases:
                if device.type == "cuda":
                    peaks[case] = peak_on_cuda(base, case, setting, device)
                elif device.type == "cpu":
                    peaks[case] = peak_on_cpu(case, setting, torch.get_num_threads())
        clock = time.process_time if args.processor_time else time.perf_counter
        seconds, apart = time_cases(base, cases, setting, args.repeats, device, clock)
    except torch.OutOfMemoryError as error:
        return {**asdict(setting), "error": f"out of memory: {str(error).splitlines()[0]}"}
    for case in cases:
        low, median, high = statistics.quantiles(seconds[case], n=4)
        rows[case] = {
            "seconds": {"median": median, "low": low, "high": high},
            "steps_per_second": 1 / median,
            "peak_bytes": peaks[case],
            "output_apart_from_rebuilt": apart.get(case),
        }
    for case in cases:
        for other in BASELINES:
            if other in cases:
                # Steps of one repetition met the same load of the machine: the ratio is taken within it.
                pairs = [mine / theirs for mine, theirs in zip(seconds[case], seconds[other], strict=True)]
                low, median, high = statistics.quantiles(pairs, n=4)
                rows[case][f"time_over_{other}"] = {"median": median, "low": low, "high": high}
                if peaks[case] and peaks[other]:
                    rows[case][f"memory_over_{other}"] = peaks[case] / peaks[other]  # type: ignore[operator]
    weights = sum(value.nbytes for value in base.parameters())
    return {
        **asdict(setting),
        "threads": torch.get_num_threads(),
        "clock": "processor" if args.processor_time else "wall",
        "torch": torch.__version__,
        "repeats": args.repeats,
        "parameters": sum(value.numel() for value in base.parameters()),
        "weight_bytes": weights,
        "cases": rows,
    }


def show(result: dict[str, Any]) -> None:
    title = (
        f"T = {result['frames']}, batch {result['batch']}, frozen {result['frozen']}, precision {result['precision']}"
    )
    print(
        f"\n{title}"
        + (", checkpointing" if result["checkpointing"] else "")
        + (", compiled" if result["compile"] else "")
    )
    if "error" in result:
        print(result["error"])
        return
    print(f"{result['parameters'] / 1e6:.0f} M parameters, {result['weight_bytes'] / 2**30:.2f} GiB of weights")
    print(
        f"{'':16s}{'ms (quartiles)':>24s}{'steps/s':>9s}{'GiB':>7s}   time and memory over"
        + "".join(f"{name:>14s}" for name in BASELINES)
    )
    for case, row in result["cases"].items():
        ms = {key: 1e3 * value for key, value in row["seconds"].items()}
        peak = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**30:.2f}"
        line = f"{case:16s}{ms['median']:9.1f} ({ms['low']:.1f}–{ms['high']:.1f})".ljust(40)
        line += f"{row['steps_per_second']:9.2f}{peak:>7s}{'':23s}"
        for other in BASELINES:
            ratio = row.get(f"time_over_{other}")
            memory = row.get(f"memory_over_{other}")
            line += f"{'' if ratio is None else format(ratio['median'], '.2f'):>8s}"
            line += f"{'' if memory is None else format(memory, '.2f'):>6s}"
        print(line)


def add_result(output: Path, device: str, result: dict[str, Any]) -> None:
    """Writes a setting's rows beside those of earlier runs on the same kind of device, in place of its own earlier
    ones."""
    kept = read_json(output, "benchmark results")["results"] if output.is_file() else []
    names = list(Setting.__dataclass_fields__)
    others = [row for row in kept if any(row[name] != result[name] for name in names)]
    write_json(output, {"device": device, "results": [*others, result]})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    parser.add_argument("--preset", choices=PRESETS, default=None, help="default: medium on cuda, cpu elsewhere")
    parser.add_argument("--frames", type=int, nargs="+", default=None)
    parser.add_argument("--batches", type=int, nargs="+", default=None)
    parser.add_argument("--cases", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default=None, help="default: bf16 on cuda")
    parser.add_argument("--frozen", choices=("fp32", "bf16"), nargs="+", default=None, help="default: both on cuda")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing, in every case")
    parser.add_argument("--compile", action="store_true", help="torch.compile, in every case")
    parser.add_argument("--repeats", type=int, default=None, help="default: 20 on cuda, 8 elsewhere")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: torch's own choice)")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="the process's own time on the processor, for one thread on a machine that others use",
    )
    parser.add_argument("--no-memory", action="store_true", help="time only")
    parser.add_argument("--output", type=Path, default=None, help="default: bench/results/train_step_DEVICE.json")
    parser.add_argument("--memory-of", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--setting", help=argparse.SUPPRESS)
    args = parser.parse_args()
    cuda = args.device.startswith("cuda")
    args.preset = args.preset or ("medium" if cuda else "cpu")
    args.precision = args.precision or ("bf16" if cuda else "fp32")
    args.frozen = args.frozen or (["fp32", "bf16"] if cuda else ["fp32"])
    args.repeats = args.repeats or (20 if cuda else 8)
    if args.repeats < 2:
        parser.error("--repeats must be at least 2")
    if "bf16" in args.frozen and args.precision != "bf16":
        parser.error("--frozen bf16 needs --precision bf16")
    return args


def main() -> None:
    args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.memory_of:
        print(peak_of_this_process(args.memory_of, Setting(**json.loads(args.setting))))
        return
    device = torch.device(args.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    if device.type == "cpu" and (info := Path("/proc/cpuinfo")).is_file():
        name = re.search(r"model name\s*: (.+)", info.read_text())[1]  # type: ignore[index]
    print(
        f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}, preset {args.preset}, rank {args.rank}"
    )
    output = args.output or Path(f"bench/results/train_step_{re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_')}.json")
    for frozen in args.frozen:
        for frames in args.frames or PRESETS[args.preset]["frames"]:
            for batch in args.batches or PRESETS[args.preset]["batches"]:
                setting = Setting(
                    preset=args.preset,
                    frames=frames,
                    batch=batch,
                    frozen=frozen,
                    precision=args.precision,
                    rank=args.rank,
                    checkpointing=args.checkpointing,
                    compile=args.compile,
                )
                result = measure(setting, args.cases, args, device)
                show(result)
                add_result(output, name, result)
                gc.collect()
                if device.type == "cuda":
                    torch.cuda.empty_cache()
    print(f"\nwritten to {output}")


if __name__ == "__main__":
    main()
