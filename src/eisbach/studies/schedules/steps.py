"""Quality against number of steps on digits and on music: rescaled entropic time beside uniform, log-SNR, karras and
Stable Audio 3's.

Cells that are finished already are kept, so a stopped run continues. Intervals resample sampling seeds (digits) or
clips (music).

**Sets of decoded music**: distance of their texture to held-out music. Each sample has the caption of a held-out clip,
and the same noise under every schedule and number of steps (Euler, guidance 3). The reference is other held-out clips,
so the two sets are independent, encoded and decoded by the model's codec, so the codec is on both sides. The middle 9 s
of each are decoded (decoding is most of the cost) and described by the texture embedding. Intervals: 2.5 to 97.5% over
random halves of the captions and of the reference. A half drawn without repetition varies about the whole as much as
the whole about the truth (delete-half jackknife, Shao & Wu 1989), and no item meets itself in a kernel sum. Distances
are centred on the whole's, because a half's Fréchet distance is biased more. Where a half never reaches uniform's
quality its ratio counts as 0, and where the fewest steps do as 16 over those; an interval that reaches such an end is
open there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from eisbach.audio import read_audio
from eisbach.backbones import load_backbone
from eisbach.codecs import load_codec
from eisbach.data.manifest import load_manifest
from eisbach.diffusion.guidance import guided
from eisbach.diffusion.samplers import sample_ode
from eisbach.diffusion.schedules import get_schedule
from eisbach.errors import UserError
from eisbach.generation.images import ImageSampling, sample_images
from eisbach.generation.prompts import load_prompts
from eisbach.generation.takes import starting_noise
from eisbach.output_folder import Finished
from eisbach.progress import Progress
from eisbach.structure.frechet import texture_embedding
from eisbach.structure.sets.distances import frechet_distance, kernel_distance, median_distance
from eisbach.studies.contract import PlacedSettings


class Settings(PlacedSettings):
    """Models, curves and how many samples.

    Attributes
    ----------
    digits_model : str
        Folder of a model of digits; "" trains one here, for `training_steps`.
    digits_curve, music_curve : str
        Files of `eisbach signature entropy`. "" measures the digits' here; music without a curve is left out.
    held_out : str
        Manifest of rendered music with a held-out split; "" leaves the sets of decoded music out.
    steps : list of int
        Numbers of sampling steps; 16 sets the quality that the others are asked for.
    seeds, images, heun_steps
        Sampling seeds and images of digits; the most steps of EDM's Heun.
    clips, many
        Clips of music, and Heun steps of their many-step solution.
    set_clips, reference, set_many, draws
        Of the sets of decoded music: samples, held-out clips, Heun steps, and halves behind the intervals.
    """

    digits_model: str = ""
    digits_curve: str = ""
    music_curve: str = ""
    held_out: str = ""
    training_steps: int = Field(240, ge=1)
    curve_samples: int = Field(128, ge=2)
    steps: list[int] = Field(default=[4, 6, 8, 12, 16, 24, 32], min_length=2)
    seeds: int = Field(5, ge=2)
    images: int = Field(200, ge=20)
    heun_steps: int = Field(16, ge=1)
    clips: int = Field(8, ge=2)
    many: int = Field(64, ge=2)
    guidance: float = 3.0
    set_clips: int = Field(24, ge=4)
    reference: int = Field(48, ge=4)
    set_many: int = Field(24, ge=2)
    draws: int = Field(500, ge=10)


LEVEL = 16  # uniform at this many steps sets the quality that the others are asked for
_MEASURED = "rescaled_entropic"
_DIGITS_SCHEDULES = ("uniform", "log_snr", "karras", _MEASURED)
_MUSIC_SCHEDULES = ("uniform", "log_snr", "sa3", _MEASURED)
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
        extra = {"curve": str(curve), "sigma_max": 80.0} if schedule == _MEASURED else None
        sampling = ImageSampling(
            num_inference_steps=steps,
            schedule=schedule,
            schedule_options=extra,
            method=method,  # type: ignore[arg-type]
            clip=True,
            batch_size=512,
        )
        return sample_images(backbone, names, sampling, seed=seed, placement=settings.placement())

    grid = [
        (method, schedule, steps)
        for method, most in (("euler", max(settings.steps)), ("edm_heun", settings.heun_steps))
        for schedule in _DIGITS_SCHEDULES
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
    device = settings.placement().device
    backbone.module.to(device).eval()
    prompts = load_prompts("demo")[: settings.clips]
    frames = round(30.0 * backbone.latent_rate)
    noise = torch.stack([starting_noise(prompt.id, 0, backbone.latent_channels, frames) for prompt in prompts])
    condition = backbone.condition([prompt.text for prompt in prompts], [30.0] * len(prompts)).to(device)
    predict = guided(backbone.predict, condition, backbone.null_condition(condition), settings.guidance)

    def draw(schedule: str, steps: int, method: str = "euler") -> torch.Tensor:
        extra = {"curve": str(curve)} if schedule == _MEASURED else {}
        times = get_schedule(schedule, steps, backbone.path, **extra)
        shared: Any = {"path": backbone.path, "target": backbone.target, "times": times, "method": method}
        return sample_ode(predict, noise=noise.to(device), **shared).cpu()

    grid = [(schedule, steps) for steps in settings.steps for schedule in _MUSIC_SCHEDULES]
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


SCHEDULES = ("uniform", "rescaled_entropic", "log_snr", "sa3")
STEPS = (8, 12, 16, 24)
DURATION, MIDDLE = 30.0, slice(28, 52)  # seconds asked for; latent frames decoded, 8.9 s
_BATCH = 8
REAL, MANY = "held out", "many"  # cells that are no schedule


class Sets:
    """Makes cells: samples or clips to latents to decoded texture embeddings, kept row by row."""

    def __init__(self, settings: Settings, curve: Path, cells: Cells) -> None:
        self.settings, self.curve, self.cells = settings, curve, cells
        self.backbone: Any = load_backbone("embedded")
        self.device = settings.placement().device
        self.backbone.module.to(self.device).eval()
        self.codec = load_codec(self.backbone.codec)
        self.frames = round(DURATION * self.backbone.latent_rate)
        self.held_out = load_manifest(settings.held_out).select(split="held_out")

    def missing(self, name: str, steps: int, ids: list[str]) -> list[int]:
        """Places of the items that a cell lacks."""
        return [place for place, item in enumerate(ids) if not self.cells.has("music sets", "euler", name, steps, item)]

    def keep(self, name: str, steps: int, ids: list[str], latents: torch.Tensor, error: torch.Tensor | None) -> None:
        """Decodes, embeds and writes those items of a cell that it lacks."""
        places = self.missing(name, steps, ids)
        for place, clip in zip(places, self.codec.decode(latents[places][..., MIDDLE]), strict=True):
            self.cells.add(
                {
                    "set": "music sets", "method": "euler", "schedule": name, "steps": steps, "seed": ids[place],
                    "embedding": texture_embedding(clip).tolist(),
                    "error": None if error is None else float(error[place]),
                }
            )  # fmt: skip

    def reference(self, rows: Any) -> None:
        """Held-out clips through the codec."""
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            ids = [row.id for row in part]
            if self.missing(REAL, 0, ids):
                rate = self.codec.sample_rate
                files = [self.held_out.root / row.path for row in part]
                clips = [read_audio(file, duration=DURATION, mono=True, sample_rate=rate) for file in files]
                latents = torch.stack([self.codec.encode(clip)[:, : self.frames] for clip in clips])
                self.keep(REAL, 0, ids, latents, None)

    def samples(self, rows: Any, bar: Progress) -> None:
        """Samples of every schedule and number of steps, and of the many-step solution, for each row's caption."""
        backbone, settings = self.backbone, self.settings
        for start in range(0, len(rows), _BATCH):
            part = rows[start : start + _BATCH]
            ids = [row.id for row in part]
            wanted = [(MANY, settings.set_many), *((name, steps) for steps in STEPS for name in SCHEDULES)]
            missing = [cell for cell in wanted if self.missing(*cell, ids)]
            bar.advance(len(wanted) - len(missing), "kept")
            if not missing:
                continue
            noise = torch.stack([starting_noise(row_id, 0, backbone.latent_channels, self.frames) for row_id in ids])
            condition = backbone.condition([row.caption for row in part], [DURATION] * len(part)).to(self.device)
            draw = partial(
                sample_ode,
                guided(backbone.predict, condition, backbone.null_condition(condition), settings.guidance),
                path=backbone.path,
                target=backbone.target,
                noise=noise.to(self.device),
            )
            many = draw(times=get_schedule("uniform", settings.many, backbone.path), method="heun")
            for name, steps in missing:
                made = many
                if name != MANY:
                    extra = {"curve": str(self.curve)} if name == "rescaled_entropic" else {}
                    made = draw(times=get_schedule(name, steps, backbone.path, **extra), method="euler")
                error = (made - many).flatten(1).norm(dim=1) / many.flatten(1).norm(dim=1)
                self.keep(name, steps, ids, made, error)
                bar.advance(1, f"{name}, {steps} steps")


Measure = Callable[[str, int, np.ndarray, np.ndarray], float]


def measures(cells: Cells) -> tuple[int, int, dict[str, Measure]]:
    """How many captions every cell has and how many clips the reference, and three qualities (lower is better) of a
    cell on some of both."""
    table = {(row["schedule"], row["steps"], row["seed"]): row for row in cells.rows if row["set"] == "music sets"}
    kinds = {key[:2] for key in table if key[0] != REAL}
    ids = dict.fromkeys(key[2] for key in table if key[0] != REAL)
    captions = [caption for caption in ids if all((*kind, caption) in table for kind in kinds)]
    embedded = {kind: np.array([table[(*kind, caption)]["embedding"] for caption in captions]) for kind in kinds}
    errors = {kind: np.array([table[(*kind, caption)]["error"] for caption in captions]) for kind in kinds}
    real = np.array([row["embedding"] for key, row in table.items() if key[0] == REAL])
    bandwidth = median_distance(real)

    def kernel(name: str, steps: int, pick: np.ndarray, clips: np.ndarray) -> float:
        return kernel_distance(embedded[name, steps][pick], real[clips], bandwidth=bandwidth)

    def frechet(name: str, steps: int, pick: np.ndarray, clips: np.ndarray) -> float:
        return frechet_distance(embedded[name, steps][pick], real[clips], shrink=True)

    def error(name: str, steps: int, pick: np.ndarray, clips: np.ndarray) -> float:
        return float(errors[name, steps][pick].mean())

    return len(captions), len(real), {"kernel distance": kernel, "Fréchet distance": frechet, "error": error}


def ratio(quality: dict[str, np.ndarray], name: str) -> float:
    """Uniform's 16 steps over those that a schedule needs for the same quality; 0 where it never gets there.

    Between measured step counts the quality is interpolated in the logarithm of the steps, itself as it is: a kernel
    distance may be negative, so `needed`, which takes logarithms, is given its exponential.
    """
    place = STEPS.index(LEVEL)
    steps = needed(np.array(STEPS), np.exp(quality[name]), float(np.exp(quality["uniform"][place])))
    return LEVEL / steps if np.isfinite(steps) else 0.0


def _compare_sets(measure: Measure, count: int, clips: int, draws: int, many: int) -> dict[str, Any]:
    """One quality: curves, ratios of steps and differences from uniform at equal steps, with intervals over halves."""
    rng = np.random.default_rng(0)
    halves = [(rng.permutation(count)[: count // 2], rng.permutation(clips)[: clips // 2]) for _ in range(draws)]
    picks = [(np.arange(count), np.arange(clips)), *halves]
    quality = [{name: np.array([measure(name, step, *pick) for step in STEPS]) for name in SCHEDULES} for pick in picks]
    # Scaled by uniform's range, so that exponentials of a Fréchet distance in dB^2 stay finite.
    scale = float(np.abs(quality[0]["uniform"]).max())
    scaled = [{name: values / scale for name, values in drawn.items()} for drawn in quality]
    floor = np.array([measure(MANY, many, *pick) for pick in picks])
    report: dict[str, Any] = {
        "captions": count,
        "reference_clips": clips,
        "many_steps": float(floor[0]),
        "many_steps_interval": interval(floor[1:] - floor[1:].mean() + floor[0]),
        "schedules": {},
    }
    for name in SCHEDULES:
        values = np.array([drawn[name] for drawn in quality])
        apart = values - np.array([drawn["uniform"] for drawn in quality])
        ratios = np.array([ratio(drawn, name) for drawn in scaled])
        low, high = np.percentile(values[1:] - values[1:].mean(0) + values[0], [2.5, 97.5], axis=0)
        report["schedules"][name] = {
            "steps": list(STEPS),
            "mean": values[0].tolist(),
            "low": low.tolist(),
            "high": high.tolist(),
            "minus_uniform": apart[0].tolist(),
            "minus_uniform_interval": [interval(column) for column in (apart[1:] - apart[1:].mean(0) + apart[0]).T],
            "uniform_over_this": float(ratios[0]),
            "uniform_over_this_interval": interval(ratios[1:]),
            "halves_that_reach_it": float((ratios[1:] > 0).mean()),
            "fewest_steps_suffice": bool(ratios[0] >= LEVEL / STEPS[0]),
        }
    return report


def interval(values: np.ndarray) -> list[float]:
    """2.5 and 97.5%."""
    return [float(value) for value in np.percentile(values, [2.5, 97.5])]


def music_sets(settings: Settings, curve: Path, cells: Cells, quiet: bool) -> dict[str, Any]:
    """Comparisons of decoded sets of music with held-out music, by kernel distance, Fréchet distance and error."""
    sets = Sets(settings, curve, cells)
    rows = sets.held_out.rows
    if settings.set_clips + settings.reference > len(rows):
        raise UserError(
            f"{settings.held_out} has {len(rows)} held-out clips, fewer than set_clips and reference together "
            f"({settings.set_clips} + {settings.reference}); name a larger manifest or ask for fewer."
        )
    sets.reference(rows[-settings.reference :])
    batches = -(-settings.set_clips // _BATCH)
    with Progress(batches * (1 + len(STEPS) * len(SCHEDULES)), "sets", unit=f" sets of {_BATCH}", quiet=quiet) as bar:
        sets.samples(rows[: settings.set_clips], bar)
    captions, clips, qualities = measures(cells)
    return {
        f"music, {name}": _compare_sets(measure, captions, clips, settings.draws, settings.set_many)
        for name, measure in qualities.items()
    }
