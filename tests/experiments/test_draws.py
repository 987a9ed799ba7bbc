"""Draws: a set for each training seed; and a store in which equal sets, trainings and generations are made once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_run import spec_of

from eisbach.config import build_config
from eisbach.data.manifest import load_manifest
from eisbach.errors import ConfigError
from eisbach.experiments import material as module
from eisbach.experiments.run import run_experiment
from eisbach.experiments.spec import ExperimentSpec, MaterialConfig

MATERIAL = {"clips": 16, "flat_share": 0.25, "duration": 5.0, "seed": 3, "redraw": True}


def drawn(model: Path, out: Path, **changes: Any) -> ExperimentSpec:
    """Two arms over two draws of short clips; nothing trains for long."""
    whole = spec_of(model, out / "manifest.jsonl", out)
    training = {**whole.training, "data": {"crop_seconds": 4}, "steps": 2}
    arms = {name: whole.arms[name].model_dump() for name in ("plain", "oracle")}
    values = {"material": MATERIAL, "train_seeds": [5, 6], "training": training, "arms": arms}
    return build_config(ExperimentSpec, whole.model_dump() | values | changes)


def test_a_draw_is_a_function_of_both_seeds() -> None:
    one = build_config(MaterialConfig, MATERIAL)
    seeds = {one.model_copy(update={"seed": seed}).of_draw(draw).seed for seed in (3, 4) for draw in (0, 1, 2)}
    assert len(seeds) == 6
    assert one.of_draw(1) == one.of_draw(1)
    fixed = one.model_copy(update={"redraw": False})
    assert fixed.of_draw(1) == fixed


def test_each_seed_trains_on_its_own_set_and_a_store_makes_equal_things_once(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = run_experiment(drawn(tiny_model, tmp_path / "alone", nearness=True), quiet=True)
    sets = [load_manifest(alone.folder / f"data/draw-{seed}") for seed in (5, 6)]
    hashes = [{row.audio_hash for row in rows} for rows in sets]
    assert [len(found) for found in hashes] == [16, 16]
    assert not hashes[0] & hashes[1]
    for row in alone.records:
        assert float(row["held_out_distance"] or 0) > 0
        assert float(row["training_distance"] or 0) > 0

    store = str(tmp_path / "store")
    first = run_experiment(drawn(tiny_model, tmp_path / "first", store=store, nearness=True), quiet=True)
    assert [{**row, "path": ""} for row in first.records] == [{**row, "path": ""} for row in alone.records]
    made: list[str] = []
    monkeypatch.setattr(module, "_render", lambda *args: made.append("set") or _rendered(*args))
    monkeypatch.setattr("eisbach.training.loop._train", lambda *args: made.append("training"))
    monkeypatch.setattr("eisbach.generation.generate._play", lambda *args: made.append("clip"), raising=False)
    other = {"plain": {"label": "the same"}, "oracle": {**first.spec.arms["oracle"].model_dump(), "label": "other"}}
    second = run_experiment(drawn(tiny_model, tmp_path / "second", store=store, arms=other), quiet=True)
    assert "training" not in made
    assert [row["is_flat"] for row in second.records] == [row["is_flat"] for row in first.records]
    cell = second.folder / "arms" / "plain" / "seed-5"
    assert (cell / "train").resolve() == (first.folder / "arms" / "plain" / "seed-5" / "train").resolve()
    assert (cell / "samples").resolve().is_relative_to(Path(store).resolve())


_rendered = module._render


def test_nearness_needs_sets_that_the_experiment_makes(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nearness needs clips whose labels say which develop"):
        drawn(tiny_model, tmp_path, material=None, nearness=True)
