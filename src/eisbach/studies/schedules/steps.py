"""Quality against number of steps on digits and on music: rescaled entropic time beside uniform, log-SNR, karras and
Stable Audio 3's.

Cells that are finished already are kept, so a stopped run continues. Intervals resample sampling seeds (digits) or
clips (music).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from eisbach.backbones import load_backbone
from eisbach.diffusion.guidance import guided
from eisbach.diffusion.samplers import sample_ode
from eisbach.diffusion.schedules import get_schedule
from eisbach.generation.images import ImageSampling, sample_images
from eisbach.generation.prompts import load_prompts
from eisbach.generation.sampling import starting_noise
from eisbach.progress import Progress
from eisbach.studies.finished import Finished

if TYPE_CHECKING:
    from eisbach.studies.schedules.run import Settings

LEVEL = 16  # uniform at this many steps sets the quality that the others are asked for
MEASURED = "rescaled_entropic"
DIGITS_SCHEDULES = ("uniform", "log_snr", "karras", MEASURED)
MUSIC_SCHEDULES = ("uniform", "log_snr", "sa3", MEASURED)
QUALITIES = (
    ("digits, euler: Fréchet", "frechet", "digits", "euler"),
    ("digits, edm_heun: Fréchet", "frechet", "digits", "edm_heun"),
    ("digits, euler: error", "error", "digits", "euler"),
    ("digits, edm_heun: error", "error", "digits", "edm_heun"),
    ("music, euler: error", "error", "music", "euler"),
)
"""Comparison, column, material and sampler."""


class Cells:
    """Finished cells of the grid: one a material, sampler, schedule, number of steps and seed (or clip)."""

    def __init__(self, file: Path) -> None:
        self.done = Finished(file)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All cells."""
        return list(self.done.rows.values())

    def has(self, *key: object) -> bool:
        """Whether the cell (material, sampler, schedule, steps, seed) is there."""
        return " | ".join(map(str, key)) in self.done

    def add(self, row: dict[str, Any]) -> None:
        """Keeps a cell, at once."""
        self.done.add(" | ".join(str(row[name]) for name in ("set", "method", "schedule", "steps", "seed")), row)


def digits(settings: Settings, model: Path, curve: Path, cells: Cells, quiet: bool) -> None:
    """Fréchet distance and error of digits by schedule, sampler and steps."""
    from eisbach.data.images import load_digits, to_bytes
    from eisbach.image_quality.digits_classifier import pixels_and_labels, train_classifier
    from eisbach.structure.sets.distances import frechet_distance

    backbone: Any = load_backbone(str(model))
    train, held_out = load_digits().split(0.25)
    classifier = train_classifier(train, held_out)
    real = classifier(pixels_and_labels(held_out)[0])["pooled"]
    names = [backbone.classes[number % len(backbone.classes)] for number in range(settings.images)]

    def draw(method: str, schedule: str, steps: int, seed: int) -> torch.Tensor:
        extra = {"curve": str(curve), "sigma_max": 80.0} if schedule == MEASURED else None
        sampling = ImageSampling(
            num_inference_steps=steps,
            schedule=schedule,
            schedule_options=extra,
            method=method,  # type: ignore[arg-type]
            clip=True,
            batch_size=512,
        )
        return sample_images(backbone, names, sampling, seed=seed)

    grid = [
        (method, schedule, steps)
        for method, most in (("euler", max(settings.steps)), ("edm_heun", settings.heun_steps))
        for schedule in DIGITS_SCHEDULES
        for steps in settings.steps
        if steps <= most
    ]
    with Progress(settings.seeds * len(grid), "digits by schedule", quiet=quiet) as bar:
        for seed in range(settings.seeds):
            missing = [cell for cell in grid if not cells.has("digits", *cell, seed)]
            bar.advance(len(grid) - len(missing), "kept")
            best = draw("edm_heun", "karras", 64, seed) if missing else torch.empty(0)
            for method, schedule, steps in missing:
                images = draw(method, schedule, steps, seed)
                cells.add(
                    {
                        "set": "digits", "method": method, "schedule": schedule, "steps": steps, "seed": seed,
                        "frechet": frechet_distance(real, classifier(to_bytes(images.numpy()))["pooled"]),
                        "error": float((images - best).square().mean().sqrt()),
                    }
                )  # fmt: skip
                bar.advance(1, schedule)


def music(settings: Settings, curve: Path, cells: Cells, quiet: bool) -> None:
    """Distance of the embedded model's clips to their own many-step solution, by schedule and steps."""
    backbone: Any = load_backbone("embedded")
    backbone.module.eval()
    prompts = load_prompts("demo")[: settings.clips]
    frames = round(30.0 * backbone.latent_rate)
    noise = torch.stack([starting_noise(prompt.id, 0, backbone.latent_channels, frames) for prompt in prompts])
    condition = backbone.condition([prompt.text for prompt in prompts], [30.0] * len(prompts))
    predict = guided(backbone.predict, condition, backbone.null_condition(condition), settings.guidance)

    def draw(schedule: str, steps: int, method: str = "euler") -> torch.Tensor:
        extra = {"curve": str(curve)} if schedule == MEASURED else {}
        times = get_schedule(schedule, steps, backbone.path, **extra)
        return sample_ode(predict, path=backbone.path, target=backbone.target, noise=noise, times=times, method=method)

    grid = [(schedule, steps) for steps in settings.steps for schedule in MUSIC_SCHEDULES]
    missing = [cell for cell in grid if not cells.has("music", "euler", *cell, 0)]
    if not missing:
        return
    with Progress(len(missing) + 1, "music by schedule", quiet=quiet) as bar:
        best = draw("uniform", settings.many, "heun")
        bar.advance(1, "many steps")
        size = best.flatten(1).square().mean(1).sqrt()
        for schedule, steps in missing:
            error = (draw(schedule, steps) - best).flatten(1).square().mean(1).sqrt() / size
            row = {"set": "music", "method": "euler", "schedule": schedule, "steps": steps}
            for number, value in reversed(list(enumerate(error.tolist()))):  # clip 0 last: it says that all are there
                cells.add({**row, "seed": number, "error": value})
            bar.advance(1, schedule)


def needed(steps: np.ndarray, quality: np.ndarray, level: float) -> float:
    """Steps at which a falling quality (lower is better) reaches `level`, log-log between the measured ones; nan beyond
    them."""
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
    """For each schedule: mean quality by steps with intervals, steps for uniform's quality at 16, and the ratio to
    uniform's 16."""
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
