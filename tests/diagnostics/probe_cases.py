"""Probe results whose truth is known: what a weight follows is written down here, and the explanation has to find
it."""

from __future__ import annotations

from typing import Any

import numpy as np

from eisbach.diagnostics.probe.result import ProbeResult

LEVELS = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
KINDS = ("developing", "developing", "drone", "loop")


def make_result(
    follows: str = "loudness",
    *,
    clips: int = 48,
    levels: tuple[float, ...] = LEVELS,
    sample: str = "entropy_barrier",
    noise_level: str = "none",
    reduction: str = "sample",
    strength: float = 1.0,
    level_slope: float = 0.0,
    spread: float = 0.4,
    acts_below: float = 1.1,
    noise: float = 0.25,
    seed: int = 0,
    kinds: bool = True,
    update_angle: float = 0.4,
    options: dict[str, Any] | None = None,
) -> ProbeResult:
    """A probe in which ln(sample weight) = spread x cause(clip) x [t < acts_below] + level_slope x t + a little chance.

    `follows`: "loudness", "quiet", "middle" (loudness near the mean), "structure", "both", "confounded" (structure is
    loudness), "nested" (the weight follows loudness, and structure follows loudness loosely), "nothing" or "equal" (no
    difference between clips).
    """
    rng = np.random.default_rng(seed)
    loud, structure, chance = rng.standard_normal((3, clips))
    if follows == "confounded":
        structure = loud + 0.05 * rng.standard_normal(clips)
    if follows == "nested":
        structure = 0.8 * loud + 0.6 * structure
    cause = {
        "loudness": loud, "quiet": -loud, "middle": -(loud**2), "structure": structure,
        "both": (loud + structure) / 2**0.5,
        "confounded": loud, "nested": loud, "nothing": chance, "equal": np.zeros(clips),
    }[follows]  # fmt: skip
    others = rng.standard_normal((clips, 4))
    rows: list[dict[str, Any]] = []
    for clip in range(clips):
        kind = KINDS[clip % len(KINDS)]
        for t in levels:
            inside = float(t < acts_below)
            jitter = noise * rng.standard_normal() if follows != "equal" else 0.0
            log_weight = np.log(0.3) + spread * inside * (cause[clip] + jitter) + level_slope * t
            weight = float(np.exp(log_weight)) if sample != "none" else 1.0
            noise_weight = (1 - t) ** 2 + 0.05 if noise_level != "none" else 1.0
            mix = (1 - strength) + strength * weight
            loss = float(np.exp(0.3 * others[clip, 3] + 0.2 * rng.standard_normal()))
            row: dict[str, Any] = {
                "clip": f"clip-{clip:03d}", "t": t, "log_snr": float(2 * np.log((1 - t) / t)), "draw": 0,
                "belief": float(np.clip(1 - weight / 2, 0, 1)) if sample != "none" else None,
                "sample_weight": weight, "noise_weight": noise_weight, "weight": noise_weight * mix,
                "loss": loss, "x0_loss": loss * t**2,
                "output_energy_db": float(0.5 * others[clip, 2] + rng.standard_normal()),
                "x0_energy_db": float(others[clip, 2] + rng.standard_normal()),
                "latent_db": float(-3 + 2 * loud[clip]),
                "loudness_db": float(-20 + 6 * loud[clip] + 1.5 * others[clip, 0]),
                "structure.textural_vendi": float(5 + 1.5 * structure[clip]),
                "structure.level_range": float(20 + 5 * others[clip, 1]),
                "structure.flux_gini": float(0.6 + 0.05 * others[clip, 2]),
                "structure.closure": None if clip % 2 else 1.0 + 0.1 * clip,
            }  # fmt: skip
            if kinds:
                row["label.kind"] = kind
                row["label.flat"] = "false" if kind == "developing" else "true"
            rows.append(row)
    setup = {
        "sample": sample, "noise_level": noise_level, "reduction": reduction, "normalisation": "none",
        "strength": strength,
        "weighting_options": options or {}, "batch_size": 8, "accumulation": 1, "model": "embedded", "clips": clips,
        "levels": list(levels), "draws": 1, "path": "linear", "target": "u", "density": "uniform", "skipped": [],
        "crop_seconds": 30.0, "seed": 0, "split": "train", "precision": "fp32", "device": "cpu", "versions": {},
        "seconds": {},
    }  # fmt: skip
    return ProbeResult(
        setup, rows, _batches(rows, reduction, rng), _gradients(levels, update_angle), _means(rows, levels, sample)
    )


def _batches(rows: list[dict[str, Any]], reduction: str, rng: np.random.Generator) -> list[dict[str, Any]]:
    found = []
    for batch in range(16):
        drawn = [rows[int(index)] for index in rng.integers(0, len(rows), 8)]
        sample = np.array([row["sample_weight"] for row in drawn])
        weights = np.array([row["weight"] for row in drawn]) if reduction == "sample" else np.full(8, sample.mean())
        found.append(
            {"batch": batch, "samples": 8, "cv": float(weights.std() / weights.mean()),
             "ess_share": float(weights.sum() ** 2 / (8 * (weights**2).sum())), "mean_weight": float(weights.mean()),
             "mean_sample_weight": float(sample.mean()), "cv_sample_weight": float(sample.std() / sample.mean())}
        )  # fmt: skip
    return found


def _means(rows: list[dict[str, Any]], levels: tuple[float, ...], sample: str) -> list[list[float | None]]:
    if sample == "none":
        return [[t, None] for t in levels]
    return [[t, float(np.mean([row["sample_weight"] for row in rows if row["t"] == t]))] for t in levels]


def summary(mean: float) -> dict[str, float]:
    return {"mean": mean, "sd": 0.1 * mean, "low": 0.9 * mean, "high": 1.1 * mean, "n": 12}


def _gradients(levels: tuple[float, ...], angle: float) -> dict[str, Any]:
    point = {
        "angle": summary(angle * 3), "cosine": summary(0.99), "norm_ratio": summary(0.5), "plain_norm": summary(2.0),
        "weighted_norm": summary(1.0), "between_batches_angle": summary(80.0), "plain_clipped": summary(0.0),
        "weighted_clipped": summary(0.0), "clipped_norm_ratio": summary(0.5), "update_angle": summary(angle),
        "update_norm_ratio": summary(0.99), "per_batch": [],
    }  # fmt: skip
    rows = [
        {"t": t, "plain_norm": 3 - 2 * t, "weighted_norm": 1.5 - t, "norm_ratio": 0.5, "cosine": 0.99, "batches": 2}
        for t in levels
    ]
    return {
        "trained": "dora",
        "scalars": 1000,
        "batches": 12,
        "batch_size": 8,
        "points": {"start": point},
        "levels": rows,
    }
