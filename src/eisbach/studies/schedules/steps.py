"""Quality against number of steps: entropic schedules beside uniform, log-SNR, karras and Stable Audio 3's.

    eisbach signature entropy --model DIGITS_MODEL --data digits --samples 128 --out digits_curve.json
    eisbach signature entropy --data runs/base/short --samples 8 --levels 14 --out music_curve.json
    python bench/entropic_steps.py --digits DIGITS_MODEL --digits-curve digits_curve.json --music-curve music_curve.json

Declared before looking: with Euler, rescaled_entropic and entropic need fewer steps than uniform for the quality that uniform has at 16
steps (digits: Fréchet distance on a classifier's features to held-out digits; both: distance to each sample's own many-step solution
from the same noise). No direction is declared against karras, log_snr and sa3, nor for the second-order sampler.

Cells that are in the work file already are kept, so a stopped run continues. Intervals resample sampling seeds (digits) or clips (music).
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eisbach.backbones import load_backbone
from eisbach.diffusion.guidance import guided
from eisbach.diffusion.samplers import sample_ode
from eisbach.diffusion.schedules import get_schedule
from eisbach.files import read_jsonl, write_json
from eisbach.generation.images import ImageSampling, sample_images
from eisbach.generation.noise import starting_noise
from eisbach.generation.prompts import load_prompts

STEPS = (4, 6, 8, 12, 16, 24, 32)
LEVEL = 16  # uniform at this many steps sets the quality that the others are asked for
MEASURED = ("entropic", "rescaled_entropic")
COLOURS = {
    "uniform": "C0", "log_snr": "C1", "karras": "C2", "sa3": "C5", "entropic": "C3", "rescaled_entropic": "C4"
}  # fmt: skip
DECLARED = "with Euler, rescaled_entropic and entropic need fewer steps than uniform for uniform's quality at 16 steps"


class Cells:
    """Finished cells in a JSONL file, by key."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows = read_jsonl(path) if path.is_file() else []
        self.keys = {self.key(row) for row in self.rows}

    @staticmethod
    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        """What tells cells apart."""
        return row["set"], row["method"], row["schedule"], row["steps"], row["seed"]

    def add(self, row: dict[str, Any]) -> None:
        """Keeps a row, at once."""
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def digits(options: argparse.Namespace, cells: Cells) -> None:
    from eisbach.data.images_digits import load_digits
    from eisbach.data.images_read import to_bytes
    from eisbach.image_quality.digits_classifier import pixels_and_labels, train_classifier
    from eisbach.structure.sets.distances import frechet_distance

    backbone: Any = load_backbone(options.digits)
    train, held_out = load_digits().split(0.25)
    classifier = train_classifier(train, held_out)
    real = classifier(pixels_and_labels(held_out)[0])["pooled"]
    names = [backbone.classes[number % len(backbone.classes)] for number in range(options.images)]

    def draw(method: str, schedule: str, steps: int, seed: int) -> torch.Tensor:
        curve = {"curve": options.digits_curve, "sigma_max": 80.0} if schedule in MEASURED else None
        sampling = ImageSampling(
            num_inference_steps=steps,
            schedule=schedule,
            schedule_options=curve,
            method=method,
            clip=True,
            batch_size=512,
        )
        return sample_images(backbone, names, sampling, seed=seed)

    for seed in range(options.seeds):
        wanted = [
            (method, schedule, steps)
            for method, most in (("euler", 32), ("edm_heun", options.heun_steps))
            for schedule in ("uniform", "log_snr", "karras", *MEASURED)
            for steps in STEPS
            if steps <= most and ("digits", method, schedule, steps, seed) not in cells.keys
        ]
        if not wanted:
            continue
        best = draw("edm_heun", "karras", 64, seed)
        for method, schedule, steps in wanted:
            images = draw(method, schedule, steps, seed)
            cells.add(
                {
                    "set": "digits", "method": method, "schedule": schedule, "steps": steps, "seed": seed,
                    "frechet": frechet_distance(real, classifier(to_bytes(images.numpy()))["pooled"]),
                    "error": float((images - best).square().mean().sqrt()),
                }
            )  # fmt: skip


def music(options: argparse.Namespace, cells: Cells) -> None:
    backbone: Any = load_backbone("embedded")
    backbone.module.eval()
    prompts = load_prompts("demo")[: options.clips]
    frames = round(30.0 * backbone.latent_rate)
    noise = torch.stack([starting_noise(prompt.id, 0, backbone.latent_channels, frames) for prompt in prompts])
    condition = backbone.condition([prompt.text for prompt in prompts], [30.0] * len(prompts))
    predict = guided(backbone.predict, condition, backbone.null_condition(condition), options.guidance)

    def draw(schedule: str, steps: int, method: str = "euler") -> torch.Tensor:
        extra = {"curve": options.music_curve} if schedule in MEASURED else {}
        times = get_schedule(schedule, steps, backbone.path, **extra)
        return sample_ode(predict, path=backbone.path, target=backbone.target, noise=noise, times=times, method=method)

    wanted = [
        (schedule, steps)
        for steps in STEPS
        for schedule in ("uniform", "log_snr", "sa3", *MEASURED)
        if ("music", "euler", schedule, steps, 0) not in cells.keys
    ]
    if not wanted:
        return
    best = draw("uniform", options.many, "heun")
    size = best.flatten(1).square().mean(1).sqrt()
    for schedule, steps in wanted:
        error = (draw(schedule, steps) - best).flatten(1).square().mean(1).sqrt() / size
        for number, one in enumerate(error.tolist()):
            cells.add(
                {"set": "music", "method": "euler", "schedule": schedule, "steps": steps, "seed": number, "error": one}
            )


def needed(steps: np.ndarray, quality: np.ndarray, level: float) -> float:
    """Steps at which a falling quality (lower is better) reaches `level`, log-log between the measured ones; nan beyond them."""
    best = np.minimum.accumulate(quality)
    if best[0] <= level:
        return float(steps[0])  # at most
    below = np.flatnonzero(best <= level)
    if len(below) == 0:
        return float("nan")
    i = below[0]
    share = (np.log(best[i - 1]) - np.log(level)) / (np.log(best[i - 1]) - np.log(best[i]))
    return float(np.exp(np.log(steps[i - 1]) + share * (np.log(steps[i]) - np.log(steps[i - 1]))))


def compare(rows: list[dict[str, Any]], what: str, draws: int = 2000) -> dict[str, Any]:
    """For each schedule: mean quality by steps with intervals, steps for uniform's quality at 16, and the ratio to uniform's 16."""
    seeds = sorted({row["seed"] for row in rows})
    schedules = list(dict.fromkeys(row["schedule"] for row in rows))
    steps = np.array(sorted({row["steps"] for row in rows}))
    table = {(row["schedule"], row["steps"], row["seed"]): row[what] for row in rows}
    values = {
        one: np.array([[table[one, int(step), seed] for seed in seeds] for step in steps])
        for one in schedules
        if all((one, int(step), seed) in table for step in steps for seed in seeds)
    }
    if "uniform" not in values:
        return {}
    rng = np.random.default_rng(0)
    picks = [np.arange(len(seeds)), *(rng.integers(0, len(seeds), len(seeds)) for _ in range(draws))]
    place = int(np.flatnonzero(steps == min(LEVEL, steps.max()))[0])
    found: dict[str, Any] = {"seeds": len(seeds), "at_steps": int(steps[place]), "schedules": {}}
    for name, value in values.items():
        ratios = np.array(
            [
                steps[place] / needed(steps, value[:, pick].mean(1), values["uniform"][place, pick].mean())
                for pick in picks
            ]
        )
        means = np.array([value[:, pick].mean(1) for pick in picks[1:]])
        known = np.isfinite(ratios[1:])
        found["schedules"][name] = {
            "steps": steps.tolist(),
            "mean": value.mean(1).tolist(),
            "low": np.percentile(means, 2.5, axis=0).tolist(),
            "high": np.percentile(means, 97.5, axis=0).tolist(),
            "fewest_steps_suffice": bool(np.isfinite(ratios[0]) and ratios[0] >= steps[place] / steps[0]),
            "steps_needed": None if not np.isfinite(ratios[0]) else float(steps[place] / ratios[0]),
            "uniform_over_this": None if not np.isfinite(ratios[0]) else float(ratios[0]),
            "uniform_over_this_interval": np.percentile(ratios[1:][known], [2.5, 97.5]).tolist()
            if known.any()
            else None,
            "resamples_that_reach_it": float(known.mean()),
        }
    return found


def picture(result: dict[str, Any], out: Path) -> None:
    from matplotlib.figure import Figure

    shown = [(key, one) for key, one in result["comparisons"].items() if one]
    figure = Figure(figsize=(4.2 * len(shown), 3.6), layout="constrained")
    for axes, (key, one) in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        for name, curve in one["schedules"].items():
            colour = COLOURS[name]
            axes.plot(curve["steps"], curve["mean"], marker="o", markersize=3, label=name, color=colour)
            axes.fill_between(curve["steps"], curve["low"], curve["high"], alpha=0.15, color=colour, lw=0)
        above_0 = all(min(curve["low"]) > 0 for curve in one["schedules"].values())  # an unbiased distance may not be
        axes.set(xscale="log", yscale="log" if above_0 else "linear", xlabel="steps", title=key)
        axes.set_xticks(curve["steps"], [str(step) for step in curve["steps"]], minor=False)
        axes.minorticks_off()
        axes.legend(fontsize=7)
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", help="folder of a digits model (eisbach train recipes/digits.yaml)")
    parser.add_argument("--digits-curve")
    parser.add_argument("--music-curve")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--heun-steps", type=int, default=16, help="the most steps of edm_heun")
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--many", type=int, default=64, help="Heun steps of the music's reference solution")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--work", type=Path, default=Path("runs/entropic-steps.jsonl"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/entropic_steps.json"))
    options = parser.parse_args()
    cells = Cells(options.work)
    if options.digits:
        digits(options, cells)
    if options.music_curve:
        music(options, cells)
    complete = {}
    for key, what, kind, method in (
        ("digits, euler: Fréchet", "frechet", "digits", "euler"),
        ("digits, edm_heun: Fréchet", "frechet", "digits", "edm_heun"),
        ("digits, euler: error", "error", "digits", "euler"),
        ("digits, edm_heun: error", "error", "digits", "edm_heun"),
        ("music, euler: error", "error", "music", "euler"),
    ):
        rows = [row for row in cells.rows if row["set"] == kind and row["method"] == method]
        complete[key] = compare(rows, what) if rows else {}
    result = {
        "declared": DECLARED,
        "machine": platform.processor() or platform.machine(),
        "settings": {
            key: str(value) if isinstance(value, Path) else value
            for key, value in vars(options).items()
            if key not in ("out", "work")
        },
        "comparisons": complete,
    }
    write_json(options.out, result)
    if any(complete.values()):
        picture(result, options.out.with_suffix(".png"))
    for key, one in complete.items():
        for name, curve in one.get("schedules", {}).items():
            ratio, ends = curve["uniform_over_this"], curve["uniform_over_this_interval"]
            shown = (
                "never reached" if ratio is None or ends is None else f"{ratio:.2f} ({ends[0]:.2f} to {ends[1]:.2f})"
            )
            shown = f"at least {shown}" if curve["fewest_steps_suffice"] else shown
            print(f"{key}: {name}: uniform's steps over its own, for uniform's quality at {one['at_steps']}: {shown}")


if __name__ == "__main__":
    main()
