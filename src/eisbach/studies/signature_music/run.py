"""Are instrument and register decided before tempo in generation? The embedded model, over wordings of the prompts and
seeds.

Eight prompts (register x instrument x tempo) in four wordings, `music*.yaml` beside this file. Own chains of the model
without guidance, on the levels of a uniform grid of 40 steps down to t = 0.7: a half time above that does not depend on
the rest. Noise is independent between wordings and seeds, and none of it is that of the first measurement, of one
wording (seed 0; `records/first_wording.json`).

Declared before looking, on the chain reading: half of the instrument and half of the register is decided at a higher t
(earlier in generation) than half of the tempo. No direction between instrument and register.

Two intervals of each difference. `over_wordings`: Student's t over the wordings' estimates, each from all seeds
together; what another wording would give. `these_wordings`: bootstrap of trajectories within class and wording; what
other noise would give.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field

from eisbach.backbones import load_backbone
from eisbach.diagnostics.signature.chain import Trajectories, follow, trajectory_seed
from eisbach.diagnostics.signature.config import SignatureConfig, read_prompts
from eisbach.diagnostics.signature.curve import finite_or_none
from eisbach.diagnostics.signature.model import ClassSet, backbone_model
from eisbach.diagnostics.signature.run import load_piece, save_piece
from eisbach.diagnostics.signature.summary import curves
from eisbach.diffusion.paths import get_path
from eisbach.files import write_json
from eisbach.progress import Progress
from eisbach.structure.sets.intervals import t_quantile
from eisbach.studies.contract import PlacedSettings

DECLARED = (
    "half of the instrument, and half of the register, is decided at a higher t than half of the tempo (chain reading)"
)
_DIFFERENCES = (("instrument", "tempo"), ("register", "tempo"), ("instrument", "register"))
PARTITIONS = ("instrument", "register", "tempo", "classes")
_WORDINGS = ("music-captions", "music-italian", "music-pairs", "music")
RESULT = "wordings.json"
GRID, LOWEST = 40, 0.7
_OWN_NOISE = 10_000  # trajectories of one wording and seed are numbered from a multiple of this


class Settings(PlacedSettings):
    """Which wordings (files of prompts, or names of those here), and how many trajectories.

    Attributes
    ----------
    prompts : list of str
        Their order decides their noise.
    trajectories : int
        Of each class, for each wording and seed.
    draws : int
        Of the bootstrap.
    seconds : float
        Length of what is generated.
    """

    prompts: list[str] = Field(default=list(_WORDINGS), min_length=1)
    seeds: list[int] = Field(default=[1, 2], min_length=1)
    trajectories: int = Field(3, ge=2)
    draws: int = Field(500, ge=2)
    seconds: float = Field(30.0, gt=0)


QUICK: dict[str, Any] = {
    "prompts": ["music-captions", "music"], "seeds": [1], "trajectories": 2, "draws": 8, "seconds": 8.0
}  # fmt: skip


def levels() -> torch.Tensor:
    """The uniform grid from 1 down to `LOWEST`, and 0, which is not read."""
    grid = torch.linspace(1, 0, GRID + 1, dtype=torch.float64)
    return torch.cat([grid[grid >= LOWEST - 1e-9], torch.zeros(1, dtype=torch.float64)])


def measure(
    settings: Settings, wordings: dict[str, SignatureConfig], work: Path, quiet: bool
) -> dict[tuple[str, int], Trajectories]:
    """Trajectories of every wording and seed, from the work folder where they are kept already."""
    backbone: Any = load_backbone("embedded")
    backbone.module.to(settings.placement().device).eval()
    frames = round(settings.seconds * backbone.latent_rate)
    identity = backbone.identity()
    trajectories = {}
    times = levels()
    with Progress(
        len(wordings) * len(settings.seeds) * (len(times) - 1), "signature", unit=" levels", quiet=quiet
    ) as bar:
        for seed in settings.seeds:
            for place, (name, config) in enumerate(wordings.items()):
                file = work / f"{identity}-{name}-{seed}-{settings.trajectories}.safetensors"
                if not file.is_file():
                    texts = [str(prompt.text) for prompt in config.classes]
                    condition = backbone.condition(texts, [settings.seconds] * len(texts))
                    model = backbone_model(backbone, condition, (backbone.latent_channels, frames))
                    label = torch.arange(len(texts)).repeat_interleave(settings.trajectories)
                    seeds = [trajectory_seed(seed, place * _OWN_NOISE + index) for index in range(len(label))]
                    work.mkdir(parents=True, exist_ok=True)
                    made = follow(
                        model, config.class_set(), times, label, seeds, on_level=lambda: bar.advance(1, "followed")
                    )
                    save_piece(file, made)
                else:
                    bar.advance(len(times) - 1, "kept")
                trajectories[name, seed] = load_piece(file)
    return trajectories


def _half_times(trajectories: Trajectories, classes: ClassSet) -> dict[str, dict[str, float]]:
    """Half time t of each partition by each reading; nan where less than half is decided at the lowest level."""
    halves: dict[str, dict[str, float]] = {"chain": {}, "rate": {}}
    for curve in curves(trajectories, classes, get_path("linear"), resamples=0):
        halves[curve.estimator][curve.partition] = float("nan") if curve.half.t is None else curve.half.t
    return halves


def resampled(trajectories: Trajectories, rng: np.random.Generator) -> Trajectories:
    """One trajectory of each class fewer than there are, drawn with replacement, as `summary.Resamples` does."""
    label = trajectories.label.numpy()
    own = [np.flatnonzero(label == own_class) for own_class in np.unique(label)]
    pick = torch.from_numpy(np.concatenate([rng.choice(rows, len(rows) - 1) for rows in own]))
    return Trajectories(
        trajectories.t,
        trajectories.label[pick],
        trajectories.fine[:, pick],
        trajectories.coarse[:, pick],
        trajectories.gap[:, pick],
        None,
    )


def t_interval(values: Sequence[float]) -> list[float] | None:
    """95% Student's t interval of the mean; None with fewer than two values, or where one is missing."""
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    half = t_quantile(0.975, len(values) - 1) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return [float(np.mean(values)) - half, float(np.mean(values)) + half]


def _percentiles(drawn: np.ndarray) -> list[float] | None:
    """2.5 and 97.5% of resamples; None where one of them has no half time."""
    return np.percentile(drawn, [2.5, 97.5]).tolist() if np.isfinite(drawn).all() else None


def summarise(
    trajectories: dict[tuple[str, int], Trajectories],
    wordings: dict[str, SignatureConfig],
    seeds: Sequence[int],
    draws: int,
) -> dict[str, Any]:
    """Half times and their differences by reading: by wording, by cell, with both intervals."""
    sets = {name: config.class_set() for name, config in wordings.items()}
    cells = {key: _half_times(cell, sets[key[0]]) for key, cell in trajectories.items()}
    pooled = {name: Trajectories.join([trajectories[name, seed] for seed in seeds]) for name in wordings}
    whole = {name: _half_times(pooled[name], sets[name]) for name in wordings}
    rng = np.random.default_rng(0)
    resamples = [
        {name: _half_times(resampled(pooled[name], rng), sets[name]) for name in wordings} for _ in range(draws)
    ]

    def quantity(halves: dict[str, dict[str, float]], reading: str, what: tuple[str, ...]) -> float:
        values = [halves[reading][part] for part in what]
        return values[0] if len(values) == 1 else values[0] - values[1]

    report: dict[str, Any] = {}
    for reading in ("chain", "rate"):
        rows = {}
        for what in (*((part,) for part in PARTITIONS), *_DIFFERENCES):
            by_wording = {name: quantity(whole[name], reading, what) for name in wordings}
            drawn = np.array(
                [np.mean([quantity(halves[name], reading, what) for name in wordings]) for halves in resamples]
            )
            by_cell = {f"{name}, seed {seed}": quantity(cell, reading, what) for (name, seed), cell in cells.items()}
            rows[" minus ".join(what)] = {
                "mean": finite_or_none(float(np.mean(list(by_wording.values())))),
                "over_wordings": t_interval(list(by_wording.values())),
                "these_wordings": _percentiles(drawn),
                "resamples_with_a_half_time": float(np.isfinite(drawn).mean()),
                "by_wording": {key: finite_or_none(value) for key, value in by_wording.items()},
                "by_cell": {key: finite_or_none(value) for key, value in by_cell.items()},
                "cells_above_0": int(sum(value > 0 for value in by_cell.values())),
            }
        report[reading] = rows
    return report


def run(settings: Settings, out: Path, *, jobs: int = 1, quiet: bool = False) -> None:
    """Writes `wordings.json`; trajectories that are there already are kept."""
    wordings = {}
    for name in settings.prompts:
        file = Path(__file__).parent / f"{name}.yaml" if name in _WORDINGS else Path(name)
        prompts = read_prompts(file)
        wordings[file.stem] = SignatureConfig(classes=prompts.classes, partitions=prompts.partitions)
    trajectories = measure(settings, wordings, out / "trajectories", quiet)
    report = summarise(trajectories, wordings, settings.seeds, settings.draws)
    shown = {
        "wordings": {name: [prompt.text for prompt in config.classes] for name, config in wordings.items()},
        "seeds": settings.seeds,
        "trajectories_a_class": settings.trajectories,
        "levels": levels()[:-1].tolist(),
    }
    write_json(out / RESULT, {"declared": DECLARED, "settings": shown, "half_t": report})
