"""The study of stopping: what it trains, how it scores a clip, and what its judge says where the truth is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eisbach.config import build_config
from eisbach.studies.stop_rule import judge as judge_module
from eisbach.studies.stop_rule import run as module
from eisbach.studies.stop_rule.judge import judge
from eisbach.training.config import StopConfig

STEPS = [20 * number for number in range(1, 11)]
TURNS = np.concatenate([np.linspace(0.6, 0.1, 4), np.linspace(0.75, 0.95, 6)])
GAINS = np.linspace(0.9, 0.2, 10)


def write(folder: Path, levels: np.ndarray, *, held_out: np.ndarray, noise: float = 0.05, sets: int = 8) -> Path:
    """Records of `sets` × 2 trainings around known levels, 4 seeds × 8 prompts a checkpoint."""
    rng = np.random.default_rng(5)
    rows = []
    for draw in range(sets):
        for seed in range(2):
            scores = np.clip(levels[:, None, None] + rng.normal(0, noise, (10, 4, 8)), 0, 1)
            loss = [[step, 1.0 - step / 1000] for step in range(5, 201, 5)]
            rows.append(
                {"draw": draw, "seed": seed, "steps": STEPS, "scores": scores.tolist(), "loss": loss,
                 "held_out_loss": held_out.tolist()}
            )  # fmt: skip
    (folder / module.RESULT).write_text(json.dumps({"every": 20, "trainings": rows}))
    return folder


def test_a_rule_that_stops_in_time_is_told_from_rivals_that_do_not(tmp_path: Path) -> None:
    regret, false, clips, rivals = judge(write(tmp_path, TURNS, held_out=np.linspace(1, 0.5, 10)))
    assert regret.effects[0].value < 20  # the best window ends at the best checkpoint or one after it
    assert [effect.value > 90 for effect in regret.effects[1:4]] == [True, True, True]
    assert (false.effects[0].value, false.note) == (0.0, "16 of 16 trainings were stopped.")
    assert false.verdict == "inconclusive"  # 16 trainings cannot show 5%, as the declaration says
    assert false.effects[0].high == pytest.approx(20.6, abs=0.1)
    assert (clips.verdict, clips.effects[0].value < 40) == ("supported", True)
    by_rival = {effect.name.split(" − ")[1]: effect for effect in rivals.effects}
    assert by_rival["last"].value < -70
    assert by_rival["last"].p == pytest.approx(4 * 2 / 256)
    assert by_rival["fixed step"].value >= 0  # one step is best in every set here
    assert rivals.verdict != "supported"


def test_a_training_that_gains_to_its_end_is_let_go_on(tmp_path: Path) -> None:
    regret, false, clips, _ = judge(write(tmp_path, GAINS, held_out=np.linspace(0.5, 1, 10)))
    assert (regret.verdict, false.note) == ("supported", "0 of 16 trainings were stopped.")
    assert clips.effects[0].value == 25.0  # the pilot alone
    assert regret.effects[2].value > 95  # the held-out loss misleads here


def test_a_false_stop_is_one_before_a_better_checkpoint() -> None:
    truth = np.array([0.5, 0.2, 0.6, 0.7, 0.1])
    training = judge_module.Training(0, truth, {"rule": 1}, 3, 50.0)
    assert training.false_stop
    assert training.regret(1) == pytest.approx(100 / 6)
    assert not judge_module.Training(0, truth, {"rule": 1}, None, 50.0).false_stop
    assert not judge_module.Training(0, truth, {"rule": 1}, 4, 50.0).false_stop
    assert not judge_module.Training(0, np.array([0.5, 0.2, 0.6, 0.7, 0.18]), {"rule": 1}, 3, 50.0).false_stop
    assert judge_module.Training(0, np.full(3, 0.5), {"rule": 1}, 1, 50.0).regret(2) == 0.0


def test_the_smoothed_loss_follows_its_course_and_not_one_step() -> None:
    losses = [[step, 1.0 if step != 100 else 0.0] for step in range(5, 205, 5)]
    losses = [[step, loss - step / 100] if step <= 150 else [step, loss] for step, loss in losses]
    assert STEPS[judge_module._smoothed_place(losses, STEPS)] in (140, 160)


def test_the_judge_uses_the_rule_of_recipes() -> None:
    chosen = StopConfig()
    rule = judge_module.RULE
    assert (rule.alpha, rule.margin, rule.patience, rule.window) == (
        chosen.alpha, chosen.margin, chosen.patience, chosen.window,
    )  # fmt: skip


def test_a_training_plays_the_same_clips_at_every_checkpoint_on_draws_of_its_own(tmp_path: Path) -> None:
    settings = build_config(module.Settings, {})
    spec = module._spec(settings, tmp_path)
    assert spec.train_seeds == tuple(range(300, 308))
    first, second = (module.training(spec, tmp_path, 300, seed) for seed in (0, 1))
    assert first.seed != second.seed
    assert first.data == second.data
    assert first.demos is not None
    assert first.demos.content() == second.demos.content()
    assert len(first.demos.resolve_prompts()) * len(first.demos.seeds) == 32
    assert (first.steps, first.demos.every, first.held_out.every) == (200, 20, 20)
    assert module._spec(build_config(module.Settings, module.QUICK), tmp_path).training["steps"] == 3


def test_a_clip_is_scored_by_its_parts() -> None:
    trained, held_out = np.array([[0.0, 0.0]]), np.array([[10.0, 0.0]])
    row: dict[str, Any] = {"flat_probability": 0.3}
    assert module._parts(row, {"embedding": [1.0, 0.0]}, trained, held_out, 20.0) == [0.3, 1.0, 0.45]
    assert module._parts(row, {"embedding": [9.0, 0.0]}, trained, held_out, 20.0) == [0.3, 0.0, 0.05]
    assert module._parts(row, {"embedding": None}, trained, held_out, 20.0) == [1.0, 0.0, 1.0]
