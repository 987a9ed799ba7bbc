"""How far adapters' magnitudes lie from those of plain training: `python -m eisbach.studies.barrier_swaps.magnitudes
FOLDER` reads the trained adapters of an experiment (`arms/ARM/seed-N/train/adapter`) and prints `magnitudes.json`."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from eisbach.adapters.formats.low_rank import LowRankAdapter
from eisbach.adapters.formats.peft import read_adapter
from eisbach.backbones import load_backbone
from eisbach.errors import EisbachError, UserError

ARMS = ("plain", "batch-50", "development", "recurrence")
PLAIN = ARMS[0]


def measure_magnitudes(folder: Path, model: str = "embedded") -> dict[str, object]:
    """Means over draws.

    Returns
    -------
    dict
        `numbers` and `layers` of one adapter's magnitudes; `draws`; mean |log ratio| (`log_ratio`) of an arm's
        magnitudes to plain training's of the same draw (`from_plain`), of plain training's on two draws, over all pairs
        of draws (`another_draw`), and to the base's row norms (`from_base`); `turned`: ‖s BA‖ / ‖W‖, Frobenius, the
        mean over layers; `below_zero`: how many magnitudes have passed through zero, of all draws.

    Raises
    ------
    UserError
        An arm is missing, or its draws are not plain training's.
    """
    adapters = {arm: _read(folder, arm) for arm in ARMS}
    draws = list(adapters[PLAIN])
    if any(list(of_arm) != draws for of_arm in adapters.values()) or len(draws) < 2:
        raise UserError(
            f"{folder} has not two draws or more of each of {', '.join(ARMS)}; name an experiment's folder."
        )
    weights = load_backbone(model).module.state_dict()
    names = list(adapters[PLAIN][draws[0]].layers)
    base = [weights[f"{name}.weight"].double().flatten(1).numpy() for name in names]
    norms = np.concatenate([np.linalg.norm(weight, axis=1) for weight in base])
    of = {arm: [_magnitudes(adapter, names) for adapter in by_draw.values()] for arm, by_draw in adapters.items()}
    turned = {arm: [_turned(adapter, names, base) for adapter in by_draw.values()] for arm, by_draw in adapters.items()}
    return {
        "numbers": len(norms),
        "layers": len(names),
        "draws": len(draws),
        "from_plain": {arm: _mean([log_ratio(*pair) for pair in zip(of[arm], of[PLAIN], strict=True)])
                       for arm in ARMS if arm != PLAIN},
        "another_draw": _mean([log_ratio(*pair) for pair in itertools.combinations(of[PLAIN], 2)]),
        "from_base": {arm: _mean([log_ratio(own, norms) for own in of[arm]]) for arm in ARMS},
        "turned": {arm: _mean(turned[arm]) for arm in ARMS},
        "below_zero": {arm: int(sum((own < 0).sum() for own in of[arm])) for arm in ARMS},
    }  # fmt: skip


def log_ratio(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Mean |log(|m| / |m'|)| over rows: a magnitude below zero is taken by its length, as long rows are."""
    return float(np.abs(np.log(np.abs(ours) / np.abs(theirs))).mean())


def _read(folder: Path, arm: str) -> dict[str, LowRankAdapter]:
    paths = sorted((folder / "arms" / arm).glob("seed-*/train/adapter"))
    return {path.parts[-3]: read_adapter(path) for path in paths}


def _magnitudes(adapter: LowRankAdapter, names: Sequence[str]) -> np.ndarray:
    parts = [adapter.layers[name].magnitude for name in names]
    if any(part is None for part in parts):
        raise UserError("an adapter is LoRA's, which has no magnitudes; train it as DoRA.")
    return np.concatenate([part.double().flatten().numpy() for part in parts if part is not None])


def _turned(adapter: LowRankAdapter, names: Sequence[str], base: Sequence[np.ndarray]) -> float:
    """Mean over layers of ‖s BA‖ / ‖W‖."""
    shares = []
    for name, weight in zip(names, base, strict=True):
        factors = adapter.layers[name]
        change = adapter.scale * (factors.b.double() @ factors.a.double()).numpy()
        shares.append(float(np.linalg.norm(change) / np.linalg.norm(weight)))
    return _mean(shares)


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m eisbach.studies.barrier_swaps.magnitudes FOLDER")
    try:
        print(json.dumps(measure_magnitudes(Path(sys.argv[1])), indent=1))
    except EisbachError as error:
        sys.exit(f"eisbach: {error}")
