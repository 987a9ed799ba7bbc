"""Does a weight tell developing clips from flat ones, by kind and noise level, on the embedded model's own predictions?

For each weighting, cell and noise level: AUC = the share of (developing, flat) pairs in which the developing clip gets
the larger weight (ties count half; 0.5 is chance). The 95% intervals come from a bootstrap over pieces, not clips,
since clips of one piece are alike. Noise level 0 is the clean latent, as a perfect model would give it back. Also,
among developing clips: the mean weight by noise level, since a weight whose mean moves acts as a noise-level weight
too; its coefficient of variation; its rank correlation with the loudness of the audio and with the energy of the
latents. Each run writes its section of the JSON file and leaves the others. The model's outputs are kept beside the
material, so that another weighting takes seconds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from scipy.stats import spearmanr

from eisbach.audio import read_audio
from eisbach.backbones import load_backbone
from eisbach.backbones.base import Backbone
from eisbach.codecs import load_codec
from eisbach.codecs.base import place_codec
from eisbach.data.batches import all_crops
from eisbach.data.latents import encode_manifest
from eisbach.data.manifest import load_manifest
from eisbach.diffusion.targets import make_sample
from eisbach.errors import UserError
from eisbach.files import read_json, write_json
from eisbach.progress import Progress
from eisbach.statistics.effect_size import auc, auc_replicates
from eisbach.studies.contract import PlacedSettings
from eisbach.studies.ground_truth.flat_cells import render_cells
from eisbach.weighting.sample import DevelopmentBarrier, EntropyBarrier, RecurrenceBarrier, SampleBarrier

LEVELS = (0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95)
_FOLDERS = ("developing", "flat", "late")
DEVELOPING = "developing"
_POOLED = {
    "texture": ("texture noise", "texture cloud"),
    "loop 1.5-12 s": ("loop 1.5-3 s", "loop 3-6 s", "loop 6-12 s"),
}
RESAMPLES = 1000
RESULT = "belief_auc.json"


class Settings(PlacedSettings):
    """One section of the table: which material, heard at which length.

    Attributes
    ----------
    material : str
        Folder of labelled clips as `ground_truth.flat_cells` renders them; "" renders it here, from the next five keys.
    section : str
        Name of the section in the file of records.
    seconds : float
        Length of the crops that the weightings see.
    weightings : list of str
        Only these, by name; all where empty.
    """

    model: str = "embedded"
    material: str = ""
    side: Literal["train", "held_out"] = "held_out"
    seed: int = Field(72, ge=0)
    clips: int = Field(200, ge=1)
    developing: int = Field(400, ge=2)
    rendered_seconds: float = Field(32.0, gt=0)
    section: str = "test set, 30 s"
    seconds: float = Field(30.0, gt=0)
    weightings: list[str] = Field(default_factory=list)


QUICK: dict[str, Any] = {
    "clips": 1, "developing": 4, "rendered_seconds": 20.0, "seconds": 10.0, "section": "quick, 10 s",
    "weightings": ["entropy (paper)", "recurrence R^4, 3 s", "development"],
}  # fmt: skip
FREE = ("section", "seconds", "weightings")


@dataclass(frozen=True)
class Clips:
    """What the weightings see of every clip, and what is known about it; clean, noise (n, C, T), output (n, levels, C,
    T)."""

    clean: torch.Tensor
    noise: torch.Tensor
    output: torch.Tensor
    cells: np.ndarray
    pieces: np.ndarray
    loudness: np.ndarray


def weightings(rate: float) -> dict[str, SampleBarrier]:
    """Name to weighting. Powers, where there is a choice: AUC is the same for every rising function of a statistic."""
    return {
        "entropy (paper)": EntropyBarrier(),
        "entropy of x0_hat": EntropyBarrier(source="x0"),
        "entropy of x0_hat, gain-invariant": EntropyBarrier(source="x0", energy="relative"),
        "recurrence R^4, 3 s": RecurrenceBarrier(3.0, rate, form="power", sharpness=4.0),
        "recurrence R^4, 1.5 s": RecurrenceBarrier(1.5, rate, form="power", sharpness=4.0),
        "recurrence R^4, 6 s": RecurrenceBarrier(6.0, rate, form="power", sharpness=4.0),
        "recurrence Renyi-2^4, 3 s": RecurrenceBarrier(3.0, rate, entropy="renyi2", form="power", sharpness=4.0),
        "development": DevelopmentBarrier(3.0, rate, form="power"),
        "development, log-barrier": DevelopmentBarrier(3.0, rate),
        "development, against x0_hat": DevelopmentBarrier(3.0, rate, form="power", against="estimate"),
        "development, 1.5 s": DevelopmentBarrier(1.5, rate, form="power"),
        "development, 2.25 s": DevelopmentBarrier(2.25, rate, form="power"),
        "development, 4.5 s": DevelopmentBarrier(4.5, rate, form="power"),
        "development, 6 s": DevelopmentBarrier(6.0, rate, form="power"),
    }


def _load_clips(backbone: Backbone, material: Path, seconds: float) -> Clips:
    """All clips of the material's folders, with the model's outputs, from the cache beside it where that fits."""
    codec = load_codec(backbone.codec)
    place_codec(codec, next(backbone.module.parameters()).device)
    frames = codec.frames_for(seconds)
    parts: list[dict[str, np.ndarray]] = []
    for folder in (material / name for name in _FOLDERS if (material / name).is_dir()):
        manifest = load_manifest(folder)
        digest = hashlib.sha256("".join(row.audio_hash for row in manifest).encode()).hexdigest()[:12]
        cached = folder / "outputs" / f"{backbone.identity()}-{seconds:g}s-{digest}.npz"
        if not cached.is_file():
            cache = encode_manifest(manifest, codec, folder / "latents", crop_seconds=max(seconds, 30.0))
            crops = [(row, x0) for row, x0 in all_crops(cache, frames) if x0.shape[-1] == frames]
            arrays = predict(backbone, [row.caption for row, _ in crops], torch.stack([x0 for _, x0 in crops]).float())
            arrays["cells"] = np.array([row.labels.get("cell", row.labels["kind"]) for row, _ in crops])
            arrays["pieces"] = np.array([row.labels["piece"] for row, _ in crops])
            paths = [manifest.audio_path(row) for row, _ in crops]
            arrays["loudness"] = np.array(
                [10 * np.log10(np.square(read_audio(p).samples).mean() + 1e-12) for p in paths]
            )
            cached.parent.mkdir(exist_ok=True)
            np.savez(cached, **arrays)  # type: ignore[arg-type]
        with np.load(cached, allow_pickle=False) as stored:
            parts.append({key: stored[key] for key in stored.files})
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    clean, noise, output = (torch.from_numpy(joined[key]) for key in ("clean", "noise", "output"))
    return Clips(clean, noise, output, joined["cells"], joined["pieces"], joined["loudness"])


def predict(backbone: Backbone, captions: Sequence[str], latents: torch.Tensor) -> dict[str, np.ndarray]:
    """The model's output for every clip at `LEVELS`, with one draw of noise a clip and the clip's own caption; half
    precision."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(latents.shape, generator=generator)
    levels, seconds = len(LEVELS), latents.shape[2] / backbone.latent_rate
    outputs = []
    with Progress(len(captions), "predict") as bar:
        device = next(backbone.module.parameters()).device
        for caption, x0, eps in zip(captions, latents, noise, strict=True):
            conditioning = backbone.condition([caption] * levels, [seconds] * levels).to(device)
            repeated = (x0.expand(levels, -1, -1).to(device), eps.expand(levels, -1, -1).to(device))
            sample = make_sample(backbone.path, backbone.target, *repeated, torch.tensor(LEVELS, device=device))
            with torch.no_grad():
                outputs.append(backbone.predict(sample.x_t, sample.t, conditioning).half().cpu())
            bar.advance()
    return {"clean": latents.half().numpy(), "noise": noise.half().numpy(), "output": torch.stack(outputs).numpy()}


def weigh(weighting: SampleBarrier, backbone: Backbone, clips: Clips, t: float) -> np.ndarray:
    """The weight of every clip at noise level `t`."""
    clean = clips.clean.float()
    if t == 0:  # the clean latent, as the estimate of a model that makes no error
        return weighting(clean, x_t=clean, t=torch.zeros(len(clean)), path="linear", target="x0").weight.numpy()
    level = torch.full((len(clean),), t)
    x_t = make_sample(backbone.path, backbone.target, clean, clips.noise.float(), level).x_t
    output = clips.output[:, LEVELS.index(t)].float()
    return weighting(output, x_t=x_t, t=level, path=backbone.path, target=backbone.target).weight.numpy()


def _multiplicities(pieces: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How often each clip is drawn [shape=(RESAMPLES, clips)] when its pieces are drawn with replacement."""
    names, index = np.unique(pieces, return_inverse=True)
    draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    return draws[:, index].astype(np.float64)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's; None where all weights are alike, as those of clips too short for a weighting are."""
    return None if np.ptp(a) == 0 else float(spearmanr(a, b)[0])


def describe(values: np.ndarray, clips: Clips, times: dict[str, np.ndarray]) -> dict[str, object]:
    """One row of the table: moments and correlations over developing clips, AUC by cell."""
    developing = clips.cells == DEVELOPING
    mine = values[developing]
    energy = clips.clean.float().square().mean((1, 2)).numpy()
    flat_mean = float(values[~developing].mean())
    cells: dict[str, object] = {}
    groups: dict[str, tuple[str, ...]] = {
        str(cell): (str(cell),) for cell in np.unique(clips.cells) if cell != DEVELOPING
    }
    groups |= {name: members for name, members in _POOLED.items() if all(member in groups for member in members)}
    for name, members in groups.items():
        inside = np.isin(clips.cells, members)
        ends = np.percentile(auc_replicates(mine, values[inside], (times[DEVELOPING], times[name])), [2.5, 97.5])
        cells[name] = {
            "auc": round(auc(mine, values[inside]), 4), "interval": [round(float(end), 4) for end in ends],
            "mean": round(float(values[inside].mean()), 4),
        }  # fmt: skip
    return {
        "mean_developing": float(mine.mean()),
        "cv_developing": float(mine.std() / max(mine.mean(), 1e-12)),
        "flat_over_developing": flat_mean / max(float(mine.mean()), 1e-12),
        "loudness_correlation": rank_correlation(mine, clips.loudness[developing]),
        "energy_correlation": rank_correlation(mine, energy[developing]),
        "cells": cells,
    }


def table_of(
    chosen: dict[str, SampleBarrier], backbone: Backbone, clips: Clips, times: dict[str, np.ndarray], quiet: bool
) -> list[dict[str, object]]:
    """A row a weighting and noise level."""
    table: list[dict[str, object]] = []
    with Progress(len(chosen) * (1 + len(LEVELS)), "AUC", quiet=quiet) as bar:
        for name, weighting in chosen.items():
            for t in (0.0, *LEVELS):
                # the output at t = 0 has no counterpart without a model
                if not (t == 0 and name == "entropy (paper)"):
                    values = weigh(weighting, backbone, clips, t)
                    table.append({"weighting": name, "t": t, **describe(values, clips, times)})
                bar.advance(note=name)
    return table


def run(settings: Settings, out: Path, *, jobs: int = 1, quiet: bool = False) -> None:
    """Adds a section to `belief_auc.json`; material and the model's outputs are kept beside it."""
    backbone = load_backbone(settings.model)
    backbone.module.to(settings.placement().device)
    known = weightings(backbone.latent_rate)
    if unknown := sorted(set(settings.weightings) - set(known)):
        raise UserError(
            f"no weighting is called {', '.join(map(repr, unknown))}; choose among {', '.join(map(repr, known))}."
        )
    chosen = {name: known[name] for name in settings.weightings or known}
    material = Path(settings.material) if settings.material else render_cells(
        out / "material", side=settings.side, seed=settings.seed, clips=settings.clips, developing=settings.developing,
        seconds=settings.rendered_seconds, jobs=jobs, quiet=quiet,
    )  # fmt: skip
    clips = _load_clips(backbone, material, settings.seconds)
    rng = np.random.default_rng(0)
    names = [DEVELOPING, *sorted(set(clips.cells.tolist()) - {DEVELOPING})]
    groups: dict[str, tuple[str, ...]] = {**{name: (name,) for name in names}, **_POOLED}
    inside = {name: np.isin(clips.cells, group) for name, group in groups.items()}
    times = {name: _multiplicities(clips.pieces[rows], rng) for name, rows in inside.items()}
    file = out / RESULT
    sections = dict(read_json(file, "records")["sections"]) if file.is_file() else {}
    sections[settings.section] = {
        "seconds": settings.seconds,
        "model": backbone.identity(),
        "material": {f: json.loads((material / f / "render.json").read_text())["seed"] for f in _FOLDERS
                     if (material / f).is_dir()},
        "clips": {name: int(rows.sum()) for name, rows in inside.items()},
        "pieces": {name: len(set(clips.pieces[rows])) for name, rows in inside.items()},
        "table": table_of(chosen, backbone, clips, times, quiet),
    }  # fmt: skip
    write_json(file, {"intervals": f"95%, {RESAMPLES} bootstrap resamples of pieces", "sections": sections})
