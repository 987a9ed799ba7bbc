"""Does rescaled entropic time need fewer steps than uniform? On digits, on the embedded model's own solution, and on
decoded music."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from eisbach.config import build_config
from eisbach.diagnostics.signature.entropic import EntropicConfig, measure_entropic
from eisbach.files import write_json
from eisbach.studies.contract import PlacedSettings
from eisbach.studies.erd_digits.run import train_networks
from eisbach.studies.schedules.steps import QUALITIES, Cells, compare, digits, music, music_sets

_CELL = "unet-v-constant"
STEPS_RESULT, MUSIC_RESULT = "entropic_steps.json", "entropic_music.json"


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


QUICK: dict[str, Any] = {
    "training_steps": 60, "curve_samples": 32, "steps": [4, 8, 16], "seeds": 2, "images": 60, "heun_steps": 8
}  # fmt: skip
OPTIONS = {"seeds": "seeds"}
FREE = ("seeds", "music_curve", "held_out", "clips", "many", "set_clips", "reference", "set_many", "draws")


def digits_model(settings: Settings, out: Path, quiet: bool) -> Path:
    """The folder of the model of digits: a class-conditional UNet with v on the cosine path, as `erd_digits` trains
    it."""
    if settings.digits_model:
        return Path(settings.digits_model)
    return train_networks(_CELL, out / "digits", seeds=1, steps=settings.training_steps, quiet=quiet)[0]


def digits_curve(settings: Settings, model: Path, out: Path, quiet: bool) -> Path:
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
    model = digits_model(settings, out, quiet)
    digits(settings, model, digits_curve(settings, model, out, quiet), cells, quiet)
    if settings.music_curve:
        music(settings, Path(settings.music_curve), cells, quiet)
    comparisons = {}
    for name, column, material, method in QUALITIES:
        rows = [row for row in cells.rows if row["set"] == material and row["method"] == method]
        comparisons[name] = compare(rows, column) if rows else {}
    _write(settings, comparisons, out / STEPS_RESULT)
    if settings.held_out and settings.music_curve:
        _write(settings, music_sets(settings, Path(settings.music_curve), cells, quiet), out / MUSIC_RESULT)


def _write(settings: Settings, comparisons: dict[str, Any], file: Path) -> None:
    write_json(file, {"settings": settings.model_dump(mode="json", exclude={"device"}), "comparisons": comparisons})
    _steps_picture(comparisons, file.with_suffix(".png"))


COLOURS = {
    "uniform": "C0", "log_snr": "C1", "karras": "C2", "entropic": "C3", "rescaled_entropic": "C4", "sa3": "C5"
}  # fmt: skip


def _steps_picture(comparisons: dict[str, Any], out: Path) -> None:
    """Draws the comparisons that have numbers into a PNG; `entropic` is in records from before it left."""
    from matplotlib.figure import Figure

    shown = [(key, comparison) for key, comparison in comparisons.items() if comparison]
    figure = Figure(figsize=(4.2 * len(shown), 3.6), layout="constrained")
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
    figure.savefig(out, dpi=110)
