"""Do entropic sampling steps bring the embedded model's sound nearer to music? Distance of decoded sets to held-out music by step count.

    python bench/entropic_music.py --held-out runs/base/short --curve bench/results/entropic_curve_music.json

Each sample has the caption of a held-out clip, and the same noise under every schedule and number of steps (Euler, guidance 3). The reference is other
held-out clips, so the two sets are independent, encoded and decoded by the model's codec, so the codec is on both sides. The middle 9 s
of each are decoded (decoding is most of the cost) and described by the texture embedding.

Declared before looking. Primary: the unbiased kernel distance (Gaussian, the median distance of the reference clips as bandwidth), by which
rescaled_entropic needs fewer steps than uniform for the distance that uniform has at 16. No direction for log_snr and sa3. Secondary:
Fréchet distance (Ledoit-Wolf covariances; sets of equal size, so its bias of small sets is alike in all), and the distance to each
sample's own many-step solution.

Intervals: 2.5 to 97.5% over random halves of the captions and of the reference. A half drawn without repetition varies about the whole as
much as the whole about the truth (delete-half jackknife, Shao & Wu 1989), and no item meets itself in a kernel sum. Distances are centred
on the whole's, because a half's Fréchet distance is biased more. Where a half
never reaches uniform's quality its ratio counts as 0, and where the fewest steps do as 16 over those; an interval that reaches such an end is open there.
Batches of captions that are in the work folder already are kept, so a stopped run continues.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from entropic_steps import LEVEL, Cells, needed, picture

from eisbach.audio import read_audio
from eisbach.backbones import load_backbone
from eisbach.codecs import load_codec
from eisbach.data.manifest import load_manifest
from eisbach.diffusion.guidance import guided
from eisbach.diffusion.samplers import sample_ode
from eisbach.diffusion.schedules import get_schedule
from eisbach.files import write_json
from eisbach.generation.noise import starting_noise
from eisbach.progress import Progress
from eisbach.structure.frechet import texture_embedding
from eisbach.structure.sets.distances import frechet_distance, kernel_distance, median_distance

DECLARED = "rescaled_entropic needs fewer steps than uniform for the kernel distance that uniform has at 16 steps"
SCHEDULES = ("uniform", "rescaled_entropic", "log_snr", "sa3")
STEPS = (8, 12, 16, 24)
DURATION, MIDDLE = 30.0, slice(28, 52)  # seconds asked for; latent frames decoded, 8.9 s
BATCH = 8
REAL, MANY = "held out", "many"  # cells that are no schedule


class Sets:
    """Makes cells: samples or clips to latents to decoded texture embeddings, kept row by row."""

    def __init__(self, options: argparse.Namespace, cells: Cells) -> None:
        self.options, self.cells = options, cells
        self.backbone: Any = load_backbone("embedded")
        self.backbone.module.eval()
        self.codec = load_codec(self.backbone.codec)
        self.frames = round(DURATION * self.backbone.latent_rate)
        self.held_out = load_manifest(options.held_out).select(split="held_out")

    def missing(self, name: str, steps: int, ids: list[str]) -> list[int]:
        """Places of the items that a cell lacks."""
        return [
            place for place, one in enumerate(ids) if ("music sets", "euler", name, steps, one) not in self.cells.keys
        ]

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
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            ids = [row.id for row in part]
            if self.missing(REAL, 0, ids):
                rate = self.codec.sample_rate
                files = [self.held_out.root / row.path for row in part]
                clips = [read_audio(file, duration=DURATION, mono=True, sample_rate=rate) for file in files]
                latents = torch.stack([self.codec.encode(clip)[:, : self.frames] for clip in clips])
                self.keep(REAL, 0, ids, latents, None)

    def samples(self, rows: Any, bar: Progress) -> None:
        """Samples of every schedule and number of steps, and of the many-step solution, for each row's caption."""
        backbone, options = self.backbone, self.options
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            ids = [row.id for row in part]
            wanted = [(MANY, options.many), *((name, steps) for steps in STEPS for name in SCHEDULES)]
            missing = [cell for cell in wanted if self.missing(*cell, ids)]
            bar.advance(len(wanted) - len(missing), "kept")
            if not missing:
                continue
            noise = torch.stack([starting_noise(one, 0, backbone.latent_channels, self.frames) for one in ids])
            condition = backbone.condition([row.caption for row in part], [DURATION] * len(part))
            draw = partial(
                sample_ode,
                guided(backbone.predict, condition, backbone.null_condition(condition), options.guidance),
                path=backbone.path,
                target=backbone.target,
                noise=noise,
            )
            many = draw(times=get_schedule("uniform", options.many, backbone.path), method="heun")
            for name, steps in missing:
                made = many
                if name != MANY:
                    extra = {"curve": str(options.curve)} if name == "rescaled_entropic" else {}
                    made = draw(times=get_schedule(name, steps, backbone.path, **extra), method="euler")
                error = (made - many).flatten(1).norm(dim=1) / many.flatten(1).norm(dim=1)
                self.keep(name, steps, ids, made, error)
                bar.advance(1, f"{name}, {steps} steps")


Measure = Callable[[str, int, np.ndarray, np.ndarray], float]


def measures(cells: Cells) -> tuple[int, int, dict[str, Measure]]:
    """How many captions every cell has and how many clips the reference, and three qualities (lower is better) of a cell on some of both."""
    table = {(row["schedule"], row["steps"], row["seed"]): row for row in cells.rows}
    kinds = {key[:2] for key in table if key[0] != REAL}
    ids = dict.fromkeys(key[2] for key in table if key[0] != REAL)
    captions = [one for one in ids if all((*kind, one) in table for kind in kinds)]
    embedded = {kind: np.array([table[(*kind, one)]["embedding"] for one in captions]) for kind in kinds}
    errors = {kind: np.array([table[(*kind, one)]["error"] for one in captions]) for kind in kinds}
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

    Between measured step counts the quality is interpolated in the logarithm of the steps, itself as it is: a kernel distance may be
    negative, so `needed`, which takes logarithms, is given its exponential.
    """
    place = STEPS.index(LEVEL)
    steps = needed(np.array(STEPS), np.exp(quality[name]), float(np.exp(quality["uniform"][place])))
    return LEVEL / steps if np.isfinite(steps) else 0.0


def compare(measure: Measure, count: int, clips: int, draws: int, many: int) -> dict[str, Any]:
    """One quality: curves, ratios of steps and differences from uniform at equal steps, with intervals over halves."""
    rng = np.random.default_rng(0)
    halves = [(rng.permutation(count)[: count // 2], rng.permutation(clips)[: clips // 2]) for _ in range(draws)]
    picks = [(np.arange(count), np.arange(clips)), *halves]
    quality = [{name: np.array([measure(name, step, *pick) for step in STEPS]) for name in SCHEDULES} for pick in picks]
    # Scaled by uniform's range, so that exponentials of a Fréchet distance in dB^2 stay finite.
    scale = float(np.abs(quality[0]["uniform"]).max())
    scaled = [{name: values / scale for name, values in one.items()} for one in quality]
    floor = np.array([measure(MANY, many, *pick) for pick in picks])
    found: dict[str, Any] = {
        "captions": count,
        "reference_clips": clips,
        "many_steps": float(floor[0]),
        "many_steps_interval": interval(floor[1:] - floor[1:].mean() + floor[0]),
        "schedules": {},
    }
    for name in SCHEDULES:
        values = np.array([one[name] for one in quality])
        apart = values - np.array([one["uniform"] for one in quality])
        ratios = np.array([ratio(one, name) for one in scaled])
        low, high = np.percentile(values[1:] - values[1:].mean(0) + values[0], [2.5, 97.5], axis=0)
        found["schedules"][name] = {
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
    return found


def interval(values: np.ndarray) -> list[float]:
    """2.5 and 97.5%."""
    return [float(value) for value in np.percentile(values, [2.5, 97.5])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--held-out", type=Path, required=True, help="manifest of rendered music with a held-out split")
    parser.add_argument("--curve", type=Path, required=True, help="of `eisbach signature entropy`")
    parser.add_argument(
        "--clips", type=int, default=24, help="samples in every cell, each with a held-out clip's caption"
    )
    parser.add_argument("--reference", type=int, default=48, help="other held-out clips, from the manifest's end")
    parser.add_argument("--many", type=int, default=24, help="Heun steps of the reference solution")
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--draws", type=int, default=500, help="random halves behind the intervals")
    parser.add_argument("--work", type=Path, default=Path("runs/entropic-music.jsonl"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/entropic_music.json")
    options = parser.parse_args()
    cells = Cells(options.work)
    sets = Sets(options, cells)
    rows = sets.held_out.rows
    if options.clips + options.reference > len(rows):
        parser.error(f"{len(rows)} held-out clips are there: fewer than --clips and --reference together.")
    sets.reference(rows[-options.reference :])
    batches = -(-options.clips // BATCH)
    with Progress(batches * (1 + len(STEPS) * len(SCHEDULES)), "sets", unit=f" sets of {BATCH}") as bar:
        sets.samples(rows[: options.clips], bar)
    captions, clips, qualities = measures(cells)
    result = {
        "declared": DECLARED,
        "machine": platform.processor() or platform.machine(),
        "settings": {
            "schedules": list(SCHEDULES), "steps": list(STEPS), "guidance": options.guidance, "samples": captions, "reference": clips,
            "many": options.many, "curve": options.curve.name, "latent_frames_decoded": [MIDDLE.start, MIDDLE.stop],
        },
        "comparisons": {
            f"music, {name}": compare(one, captions, clips, options.draws, options.many) for name, one in qualities.items()
        },
    }  # fmt: skip
    write_json(options.out, result)
    picture(result, options.out.with_suffix(".png"))
    for key, one in result["comparisons"].items():
        print(f"{key}: {one['many_steps']:.4g} at {options.many} Heun steps")
        for name, curve in one["schedules"].items():
            low, high = curve["uniform_over_this_interval"]
            values = " ".join(f"{value:.4g}" for value in curve["mean"])
            print(
                f"  {name}: {values}; uniform's steps over its own {curve['uniform_over_this']:.2f} ({low:.2f} to {high:.2f})"
            )


if __name__ == "__main__":
    main()
