"""Does a weight tell developing clips from flat ones, by kind and noise level, on the embedded model's own predictions?

    eisbach data render --out runs/auc/developing --clips 200 --seconds 32 --seed 41 --sample-rate 22050
    eisbach data flat   --out runs/auc/flat       --clips 200 --seconds 32 --seed 42 --sample-rate 22050
    python bench/belief_auc.py --developing runs/auc/developing --flat runs/auc/flat --out bench/results/belief_auc.json

For each weighting, kind and noise level: AUC = the share of (developing, flat) pairs in which the developing clip gets the larger weight (0.5 is
chance), with a 95% bootstrap interval over clips. Also the coefficient of variation of the weight over all clips of that noise level, and
how its mean moves with the noise level, since a weight that depends on t acts as a noise-level weight too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from eisbach.backbones import load_backbone
from eisbach.codecs import load_codec
from eisbach.data.latents import all_crops, encode_manifest
from eisbach.data.manifest import load_manifest
from eisbach.diffusion.targets import make_sample
from eisbach.files import write_json
from eisbach.weighting import EntropyBarrier, RecurrenceBarrier

LEVELS = (0.1, 0.2, 0.4, 0.6, 0.8, 0.95)


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    difference = positive[:, None] - negative[None]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def interval(positive: np.ndarray, negative: np.ndarray, resamples: int = 400) -> list[float]:
    rng = np.random.default_rng(0)
    draws = [auc(rng.choice(positive, len(positive)), rng.choice(negative, len(negative))) for _ in range(resamples)]
    return [float(value) for value in np.percentile(draws, [2.5, 97.5])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--developing", type=Path, required=True)
    parser.add_argument("--flat", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=Path("bench/results/belief_auc.json"))
    options = parser.parse_args()
    backbone = load_backbone(options.model)
    codec = load_codec(backbone.codec)
    frames = codec.frames_for(options.seconds)
    weightings = {
        "entropy barrier": EntropyBarrier(),
        "recurrence R^4, 3 s": RecurrenceBarrier(window_frames=8, form="power", sharpness=4.0),
        "recurrence R^4, 1.5 s": RecurrenceBarrier(window_frames=4, form="power", sharpness=4.0),
        "recurrence Renyi-2, 3 s": RecurrenceBarrier(window_frames=8, entropy="renyi2", form="power", sharpness=4.0),
    }
    weights: dict[str, dict[float, list[float]]] = {name: {t: [] for t in LEVELS} for name in weightings}
    kinds: list[str] = []
    generator = torch.Generator().manual_seed(0)
    for folder in (options.developing, options.flat):
        cache = encode_manifest(load_manifest(folder), codec, folder / "latents", crop_seconds=options.seconds)
        for row, x0 in all_crops(cache, frames):
            if x0.shape[-1] < frames:
                continue
            kinds.append(row.labels["kind"])
            x0 = x0[None].float()
            noise = torch.randn(x0.shape, generator=generator)
            # The same noise at every level; the clip's own caption, as in training.
            conditioning = backbone.condition([row.caption] * len(LEVELS), [frames / codec.latent_rate] * len(LEVELS))
            sample = make_sample(
                backbone.path,
                backbone.target,
                x0.expand(len(LEVELS), -1, -1),
                noise.expand(len(LEVELS), -1, -1),
                torch.tensor(LEVELS),
            )
            with torch.no_grad():
                output = backbone.predict(sample.x_t, sample.t, conditioning)
                for name, weighting in weightings.items():
                    result = weighting(output, x_t=sample.x_t, t=sample.t, path=backbone.path, target=backbone.target)
                    for t, value in zip(LEVELS, result.weight.tolist(), strict=True):
                        weights[name][t].append(value)
    kind_of = np.array(kinds)
    table = []
    for name in weightings:
        for t in LEVELS:
            values = np.array(weights[name][t])
            developing = values[kind_of == "developing"]
            row = {
                "weighting": name,
                "t": t,
                "mean": float(values.mean()),
                "cv": float(values.std() / max(values.mean(), 1e-12)),
                "mean_developing": float(developing.mean()),
            }
            for kind in sorted(set(kinds) - {"developing"}):
                flat = values[kind_of == kind]
                row[kind] = {
                    "auc": auc(developing, flat),
                    "interval": interval(developing, flat),
                    "mean": float(flat.mean()),
                }
            table.append(row)
    counts = {kind: int((kind_of == kind).sum()) for kind in sorted(set(kinds))}
    write_json(options.out, {"model": backbone.identity(), "clips": counts, "table": table})
    for row in table:
        cells = "  ".join(f"{kind} {cell['auc']:.2f}" for kind, cell in row.items() if isinstance(cell, dict))
        print(f"{row['weighting']:26s} t={row['t']:<5g} cv {row['cv']:.2f}  mean {row['mean']:.4f}  {cells}")


if __name__ == "__main__":
    main()
