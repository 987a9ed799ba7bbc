"""The scripts beside records that make a README's other numbers: equal to what is committed, and to closed forms."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapter_files import make_adapter
from safetensors.torch import load_file, save_file

from eisbach.adapters.formats import peft as peft_format
from eisbach.backbones import load_backbone
from eisbach.errors import UserError
from eisbach.files import read_jsonl
from eisbach.statistics.records import load_records
from eisbach.studies.barrier_gentle.learnt import learnt
from eisbach.studies.barrier_heard import level
from eisbach.studies.barrier_swaps.magnitudes import ARMS, log_ratio, measure_magnitudes

HEARD = Path(level.__file__).parent


@pytest.mark.parametrize("study", level.ASKED)
def test_the_share_of_level_range_is_that_of_the_records(study: str) -> None:
    folder = HEARD.parent / study
    records = load_records(folder / "records" / "records.parquet")
    assert level.by_level(records, study) == json.loads((folder / "level.json").read_text(encoding="utf-8"))
    with pytest.raises(UserError, match="level_range"):
        level.by_level([{**records[0], "level_range": None}])


def test_what_gentle_trainings_learnt_is_that_of_the_records() -> None:
    folder = HEARD.parent / "barrier_gentle"
    models = list(read_jsonl(folder / "records" / "models.jsonl"))
    found = learnt(load_records(folder / "records" / "records.parquet"), models)
    assert found == json.loads((folder / "learnt.json").read_text(encoding="utf-8"))
    losses = {
        arm: [row["held_out_loss"] for row in models if (row["arm"], row["yardstick"]) == (arm, "flat")]
        for arm in ("plain", "untrained")
    }
    gain: Any = found["flat"]
    assert gain["held_out_loss"]["plain"]["value"] == round(np.mean(losses["plain"]) - losses["untrained"][0], 4)


def test_a_gain_that_is_all_level_range_goes_with_it() -> None:
    """Change rises by .001 a dB and nothing else: the recurrence barrier's gain is its 10 dB, development's is its own
    .01."""
    rows = [
        {"arm": arm, "train_seed": draw, "prompt_id": f"p{piece}", "seed": 0, "level_range": decibels,
         "heard_change": 0.1 + 0.001 * decibels + (0.01 if arm == "development" else 0.0)}
        for arm in ("plain", *level.ARMS) for draw in range(110, 118) for piece in range(6)
        for decibels in [2.0 + 3.0 * piece + 0.1 * (draw - 110) + (10.0 if arm == "recurrence" else 0.0)]
    ]  # fmt: skip
    found = level.by_level(rows)
    assert found["slope_of_plain"] == pytest.approx(0.001)
    recurrence, development, oracle = (_values(found[arm]) for arm in ("recurrence", "development", "oracle"))
    assert recurrence["as_heard"] == pytest.approx(0.01)
    assert recurrence["level_out_by_plain"] == pytest.approx(0.0)
    assert development == pytest.approx(dict.fromkeys(development, 0.01))
    assert oracle == pytest.approx(dict.fromkeys(oracle, 0.0))


def _values(effects: Any) -> dict[str, float]:
    return {name: effect["value"] for name, effect in effects.items() if name != "pieces"}


def test_magnitudes_are_measured_against_plain_trainings_draw_by_draw(tiny_model: Path, tmp_path: Path) -> None:
    """Every arm's magnitudes are plain training's times one factor, which differs by draw for plain alone."""
    factors = {"plain": 1.0, "batch-50": 1.1, "development": 0.5, "recurrence": 1.0}
    made = make_adapter(tiny_model, tmp_path / "made", 1)
    tensors = load_file(made / peft_format.WEIGHTS)
    for arm in ARMS:
        for draw, times in (("seed-110", 1.0), ("seed-111", 2.0)):
            folder = tmp_path / "arms" / arm / draw / "train" / "adapter"
            folder.mkdir(parents=True)
            for file in made.iterdir():
                (folder / file.name).write_bytes(file.read_bytes())
            scaled = {name: tensor * times * factors[arm] if "magnitude" in name else tensor
                      for name, tensor in tensors.items()}  # fmt: skip
            save_file(scaled, folder / peft_format.WEIGHTS)
    found = measure_magnitudes(tmp_path, str(tiny_model))
    assert found["from_plain"] == pytest.approx({"batch-50": 0.0953, "development": 0.6931, "recurrence": 0.0})
    assert found["another_draw"] == pytest.approx(math.log(2), abs=1e-4)
    assert found["draws"] == 2
    base = load_backbone(str(tiny_model)).module.state_dict()
    prefix, turned = "base_model.model.", []
    for name in tensors:
        if name.endswith(".lora_A.weight"):
            layer = name.removesuffix(".lora_A.weight")
            product = tensors[f"{layer}.lora_B.weight"].flatten(1) @ tensors[name].flatten(1)
            turned.append(2.0 * product.norm() / base[f"{layer.removeprefix(prefix)}.weight"].norm())  # s = 6 / 3
    assert found["turned"] == pytest.approx(dict.fromkeys(ARMS, float(torch.stack(turned).mean())), abs=1e-3)


def test_magnitudes_need_two_draws_of_every_arm(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two draws or more of each of plain, batch-50"):
        measure_magnitudes(tmp_path)


def test_a_magnitude_below_zero_is_taken_by_its_length() -> None:
    assert log_ratio(np.array([1.0, -math.e]), np.array([1.0, 1.0])) == pytest.approx(0.5)
