"""What every checkpoint of a training plays: the same prompts and noise, measured, side by side on one page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eisbach.config import read_yaml
from eisbach.errors import CheckpointError, UserError
from eisbach.generation import GenerateConfig, generate
from eisbach.report.structure.analysis import PageOptions, analyze
from eisbach.training.checkpoint import list_checkpoints, step_of
from eisbach.training.publish import publish_checkpoint

BASE = "base"
_HEARD = 48
"""Clips that the page embeds at most."""


@dataclass(frozen=True)
class Compared:
    """What a comparison wrote.

    Attributes
    ----------
    page : Path
    flat : dict of str to (int, int)
        Of each checkpoint, by its name: clips that are judged flat, and clips that are long enough to be judged.
    left_out : list of str
        Why a checkpoint is missing, a sentence each.
    """

    page: Path
    flat: dict[str, tuple[int, int]]
    left_out: list[str]


def compare_checkpoints(
    run: str | Path,
    config: GenerateConfig,
    *,
    quiet: bool = False,
    notify: Callable[[str], object] | None = None,
    command: str = "",
) -> Compared:
    """Plays the base and every checkpoint of a run into `config.out`, measures the clips and writes `index.html` there.

    `config.out` then holds `base/`, `step-N/` with clips and, in `step-N/adapter`, what played them. The same call
    continues what was stopped and adds the checkpoints that came since.

    Parameters
    ----------
    run : str or Path
        Folder of a training, which may still be going on.
    config : GenerateConfig
        What to play; its adapters are the run's, and so is its model unless one is set.
    command : str
        Shell line for the page.

    Raises
    ------
    UserError
        No training's folder, one without checkpoints or of a whole new model, or whatever `generate` refuses.
    """
    run, out = Path(run), Path(config.out)
    settings = read_settings(run)
    model = config.model if "model" in config.model_fields_set else settings["model"]
    found = list_checkpoints(run / "checkpoints")
    if not found:
        raise UserError(f"{run} has no checkpoint yet; compare when it has (`checkpoint.every` says how often).")
    sets, left_out = [out / BASE], []
    play = config.model_copy(update={"model": model})
    _play(play, out / BASE, BASE, None, quiet, notify)
    for folder in found:
        name = f"step-{step_of(folder)}"
        try:
            publish_checkpoint(folder, out / name / "adapter")
        except CheckpointError as error:
            left_out.append(f"{name} was left out: {error}")
            continue
        _play(play, out / name, name, out / name / "adapter", quiet, None)
        sets.append(out / name)
    if len(sets) == 1:
        raise UserError(f"none of the {len(found)} checkpoints of {run} can be read; {left_out[0]}.")
    return Compared(*_page(sets, out, run, quiet, command), left_out)


def read_settings(run: Path) -> dict[str, Any]:
    """The configuration of a run whose checkpoints can be played: of an adapter, or of a model that has a base.

    Raises
    ------
    UserError
        It is no run, or its model was made anew.
    """
    if not (run / "config.yaml").is_file():
        raise UserError(f"{run} is no training run (it has no config.yaml); give the folder that `train --out` named.")
    settings = read_yaml(run / "config.yaml", "configuration of the run")
    if not isinstance(settings.get("model"), str):
        raise UserError(f"{run} trained a model from nothing, so there is no base to compare with; play {run}/model.")
    return settings


def _play(
    config: GenerateConfig,
    out: Path,
    arm: str,
    adapter: Path | None,
    quiet: bool,
    notify: Callable[[str], object] | None,
) -> None:
    chosen = {"out": str(out), "arm": arm, "adapter": None if adapter is None else str(adapter)}
    generate(config.model_copy(update=chosen), quiet=quiet, notify=notify)


def _page(sets: list[Path], out: Path, run: Path, quiet: bool, command: str) -> tuple[Path, dict[str, tuple[int, int]]]:
    options = PageOptions(title=f"Checkpoints of {run.resolve().name}", listen=_HEARD, command=command)
    named = [f"{folder.name}={folder}" for folder in sets]
    analysed = analyze(named, out, page=options, quiet=quiet, baseline=BASE)
    flat = {
        folder.name: [
            bool(row["is_flat"])
            for row in analysed.records
            if row.get("arm") == folder.name and row["is_flat"] is not None
        ]
        for folder in sets
    }
    return out / "index.html", {name: (sum(told), len(told)) for name, told in flat.items()}
