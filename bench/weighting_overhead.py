"""What each weighting costs, as a share of a training step: ``python bench/weighting_overhead.py --help``.

One training step (forward, loss, backward, AdamW) of the embedded model's architecture is timed with the plain mean
loss. Each weighting is timed alone on tensors of the same shape, alternating with the plain reduction, and what it
takes beyond that is its overhead. A second table gives absolute times at a large model's latent shape. Medians, with
the middle half of the repetitions; results go to a JSON file with the device's name.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from eisbach.backbones import create_backbone
from eisbach.files import write_json
from eisbach.progress import Progress
from eisbach.weighting import NOISE_WEIGHTINGS, SAMPLE_WEIGHTINGS, Weighting, build_weighting, per_sample_mse

LARGE_SHAPE = (4, 256, 1292)  # batch, channels and frames of 120 s in Stable Audio 3
LARGE_RATE = 10.77
CASES: dict[str, dict[str, object]] = {
    "plain": {},
    "entropy barrier, batch (Eq. 5)": {"sample": "entropy_barrier", "reduction": "batch"},
    "entropy barrier, sample": {"sample": "entropy_barrier"},
    "entropy barrier of x0, relative": {"sample": "entropy_barrier", "source": "x0", "energy": "relative"},
    "entropy barrier, gated, level means": {
        "sample": "entropy_barrier",
        "gate_below": 0.5,
        "gate_width": 0.1,
        "level_means": [[0.1 * level, 0.1 + 0.01 * level] for level in range(1, 10)],
    },
    "recurrence barrier, von Neumann": {"sample": "recurrence_barrier"},
    "recurrence barrier, Renyi-2": {"sample": "recurrence_barrier", "entropy": "renyi2"},
    **{
        f"noise level: {name}": {
            "noise_level": name,
            **({"points": [[0.1, 1.0], [0.9, 0.1]]} if name == "tabulated" else {}),
        }
        for name in NOISE_WEIGHTINGS
    },
    "recurrence barrier x soft min-SNR, mean 1": {
        "sample": "recurrence_barrier",
        "noise_level": "soft_min_snr",
        "normalisation": "mean1",
    },
}
CASES |= {
    f"{name}": {"sample": name} for name in SAMPLE_WEIGHTINGS if name not in ("entropy_barrier", "recurrence_barrier")
}


@dataclass(frozen=True)
class Timing:
    """Milliseconds: median and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, seconds: list[float]) -> Timing:
        """Of repeated measurements in seconds."""
        low, median, high = statistics.quantiles(seconds, n=4)
        return cls(1e3 * median, 1e3 * low, 1e3 * high)


def stopwatch(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, with the device's work finished."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def time_step(args: argparse.Namespace, device: torch.device) -> tuple[Timing, int, float]:
    """(one training step, parameters, latent rate) of a randomly initialised model of the embedded architecture."""
    values = {"width": args.width, "depth": args.depth, "latent_channels": args.channels}
    backbone = create_backbone({**values, "vocabulary": ["music"]})
    module = backbone.module.to(device).train()
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(0)
    shape = (args.batch_size, args.channels, args.frames)
    x_t, goal = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    t = torch.rand(args.batch_size, generator=generator).to(device)
    durations = torch.full((args.batch_size,), args.frames / backbone.latent_rate)
    conditioning = backbone.condition(["music"] * args.batch_size, durations).to(device)
    plain = Weighting()

    def step() -> None:
        output = backbone.predict(x_t, t, conditioning)
        plain(per_sample_mse(output, goal), output).loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    seconds = []
    with Progress(args.steps + 2, "training steps") as bar:
        for index in range(args.steps + 2):
            elapsed = stopwatch(step, device)
            if index >= 2:  # the first two warm caches and allocate the optimiser's state
                seconds.append(elapsed)
            bar.advance()
    return Timing.of(seconds), sum(p.numel() for p in module.parameters()), float(backbone.latent_rate)


def time_weightings(
    shape: tuple[int, int, int], rate: float, repeats: int, device: torch.device
) -> tuple[Timing, dict[str, Timing]]:
    """(plain reduction, what each weighting takes beyond it) at one latent shape."""
    generator = torch.Generator().manual_seed(1)
    output, x_t = (torch.randn(shape, generator=generator).to(device) for _ in range(2))
    losses = torch.rand(shape[0], generator=generator).to(device)
    t = torch.rand(shape[0], generator=generator).to(device)
    cases = {
        name: build_weighting(latent_rate=rate, path="linear", **options).to(device) for name, options in CASES.items()
    }  # type: ignore[arg-type]

    def call(weighting: Weighting) -> float:
        return stopwatch(lambda: weighting(losses, output, x_t=x_t, t=t, path="linear", target="u"), device)

    for weighting in cases.values():
        call(weighting)
    plain: list[float] = []
    extra: dict[str, list[float]] = {name: [] for name in cases if name != "plain"}
    with Progress(repeats, f"weightings at {shape}") as bar:
        for _ in range(repeats):
            for name, seconds in extra.items():
                base = call(cases["plain"])
                plain.append(base)
                seconds.append(call(cases[name]) - base)
            bar.advance()
    return Timing.of(plain), {name: Timing.of(seconds) for name, seconds in extra.items()}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=Path("bench/results/weighting_overhead.json"))
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ...")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: torch's own choice)")
    parser.add_argument("--steps", type=int, default=10, help="training steps that are timed")
    parser.add_argument("--repeats", type=int, default=30, help="repetitions of each weighting")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--channels", type=int, default=96)
    parser.add_argument("--frames", type=int, default=80)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--depth", type=int, default=6)
    args = parser.parse_args()
    if min(args.steps, args.repeats) < 2:
        parser.error("--steps and --repeats must be at least 2")
    return args


def main() -> None:
    args = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    step, parameters, rate = time_step(args, device)
    shape = (args.batch_size, args.channels, args.frames)
    _, small = time_weightings(shape, rate, args.repeats, device)
    _, large = time_weightings(LARGE_SHAPE, LARGE_RATE, args.repeats, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"training step of {parameters / 1e6:.1f} M parameters at {shape}: {step.median:.0f} ms")
    print(f"\n{'weighting':45s} {'ms':>8s} {'of a step':>10s} {'ms at ' + str(LARGE_SHAPE):>22s}")
    for case, timing in small.items():
        share = 100 * timing.median / step.median
        print(f"{case:45s} {timing.median:8.2f} {share:9.2f}% {large[case].median:22.2f}")
    write_json(
        args.output,
        {
            "device": name,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "step": {"shape": shape, "parameters": parameters, "ms": vars(step)},
            "large_shape": LARGE_SHAPE,
            "weightings": {
                case: {
                    "ms": vars(timing),
                    "share_of_step": timing.median / step.median,
                    "ms_at_large_shape": vars(large[case]),
                }
                for case, timing in small.items()
            },
        },
    )
    print(f"\nwritten to {args.output}")


if __name__ == "__main__":
    main()
