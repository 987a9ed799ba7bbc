"""Does rescaled entropic time need fewer steps than uniform? On digits, on the embedded model's own solution, and on
decoded music."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from eisbach.config import build_config
from eisbach.diagnostics.signature.entropic import EntropicConfig, measure_entropic
from eisbach.files import write_json
from eisbach.report.fonts import figure_png, new_figure
from eisbach.studies.erd_digits.run import train_networks
from eisbach.studies.schedules.steps import LEVEL, QUALITIES, Cells, Settings, digits, music, music_sets, needed

_CELL = "unet-v-constant"
STEPS_RESULT, MUSIC_RESULT = "entropic_steps.json", "entropic_music.json"


QUICK: dict[str, Any] = {
    "training_steps": 60, "curve_samples": 32, "steps": [4, 8, 16], "seeds": 2, "images": 60, "heun_steps": 8
}  # fmt: skip
OPTIONS = {"seeds": "seeds"}
FREE = ("seeds", "music_curve", "held_out", "clips", "many", "set_clips", "reference", "set_many", "draws")


def _digits_model(settings: Settings, out: Path, quiet: bool) -> Path:
    """The folder of the model of digits: a class-conditional UNet with v on the cosine path, as `erd_digits` trains
    it."""
    if settings.digits_model:
        return Path(settings.digits_model)
    return train_networks(_CELL, out / "digits", seeds=1, steps=settings.training_steps, quiet=quiet)[0]


def _digits_curve(settings: Settings, model: Path, out: Path, quiet: bool) -> Path:
    """The file of the digits' entropic curve, measured now where none is named."""
    if settings.digits_curve:
        return Path(settings.digits_curve)
    file = out / "entropic_curve_digits.json"
    if not file.is_file():
        values = {
            "model": str(model),
            "data": {"images": {"source": "digits", "held_out_share": 0.25}},
            "samples": settings.curve_samples,
            "device": settings.device,
        }
        measure_entropic(build_config(EntropicConfig, values), file, quiet=quiet)
    return file


def run(settings: Settings, out: Path, *, jobs: int = 1, quiet: bool = False) -> None:
    """Writes `entropic_steps.json` and, with held-out music, `entropic_music.json`, each with its picture."""
    cells = Cells(out / "cells.jsonl")
    model = _digits_model(settings, out, quiet)
    digits(settings, model, _digits_curve(settings, model, out, quiet), cells, quiet)
    if settings.music_curve:
        music(settings, Path(settings.music_curve), cells, quiet)
    comparisons = {}
    for name, column, material, method in QUALITIES:
        rows = [row for row in cells.rows if row["set"] == material and row["method"] == method]
        comparisons[name] = compare(rows, column) if rows else {}
    _write(settings, comparisons, out / STEPS_RESULT)
    if settings.held_out and settings.music_curve:
        _write(settings, music_sets(settings, Path(settings.music_curve), cells, quiet), out / MUSIC_RESULT)


def compare(rows: list[dict[str, Any]], what: str, draws: int = 2000) -> dict[str, Any]:
    """For each schedule: mean quality by steps with intervals, steps for uniform's quality at 16, and the ratio to
    uniform's 16."""
    seeds = sorted({row["seed"] for row in rows})
    schedules = list(dict.fromkeys(row["schedule"] for row in rows))
    steps = np.array(sorted({row["steps"] for row in rows}))
    table = {(row["schedule"], row["steps"], row["seed"]): row[what] for row in rows}
    values = {
        schedule: np.array([[table[schedule, int(step), seed] for seed in seeds] for step in steps])
        for schedule in schedules
        if all((schedule, int(step), seed) in table for step in steps for seed in seeds)
    }
    if "uniform" not in values:
        return {}
    rng = np.random.default_rng(0)
    picks = [np.arange(len(seeds)), *(rng.integers(0, len(seeds), len(seeds)) for _ in range(draws))]
    place = int(np.flatnonzero(steps == min(LEVEL, steps.max()))[0])
    report: dict[str, Any] = {"seeds": len(seeds), "at_steps": int(steps[place]), "schedules": {}}
    for name, value in values.items():
        ratios = np.array(
            [
                steps[place] / needed(steps, value[:, pick].mean(1), values["uniform"][place, pick].mean())
                for pick in picks
            ]
        )
        means = np.array([value[:, pick].mean(1) for pick in picks[1:]])
        known = np.isfinite(ratios[1:])
        report["schedules"][name] = {
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
    return report


def _write(settings: Settings, comparisons: dict[str, Any], file: Path) -> None:
    write_json(file, {"settings": settings.model_dump(mode="json", exclude={"device"}), "comparisons": comparisons})
    _steps_picture(comparisons, file.with_suffix(".png"))


COLOURS = {
    "uniform": "C0", "log_snr": "C1", "karras": "C2", "entropic": "C3", "rescaled_entropic": "C4", "sa3": "C5"
}  # fmt: skip


def _steps_picture(comparisons: dict[str, Any], out: Path) -> None:
    """Draws the comparisons that have numbers into a PNG; `entropic` is in records from before it left."""
    shown = [(key, comparison) for key, comparison in comparisons.items() if comparison]
    figure = new_figure(4.2 * len(shown), 3.6)
    for axes, (key, comparison) in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        for name, curve in comparison["schedules"].items():
            colour = COLOURS[name]
            axes.plot(curve["steps"], curve["mean"], marker="o", markersize=3, label=name, color=colour)
            axes.fill_between(curve["steps"], curve["low"], curve["high"], alpha=0.15, color=colour, lw=0)
        above_0 = all(
            min(curve["low"]) > 0 for curve in comparison["schedules"].values()
        )  # an unbiased distance may not be
        axes.set(xscale="log", yscale="log" if above_0 else "linear", xlabel="steps", title=key)
        axes.set_xticks(curve["steps"], [str(step) for step in curve["steps"]], minor=False)
        axes.minorticks_off()
        axes.legend(fontsize=7)
    figure_png(figure, out, dpi=110)
