from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from eisbach.config import build_config, dump_yaml
from eisbach.errors import ConfigError
from eisbach.training.config import TrainConfig

DATA = {"manifest": "clips"}


def fault(**values: object) -> str:
    with pytest.raises(ConfigError) as caught:
        build_config(TrainConfig, {"data": DATA, **values})
    return str(caught.value)


def test_all_faults_are_reported_together() -> None:
    message = fault(
        data={"manifest": "clips", "crop_seconds": -1, "shuffle": True},
        adapter={"type": "none", "rank": 4},
        weighting={"reduction": "batch", "normalisation": "mean1"},
        optimiser={"lr": 0},
        steps=10,
        warmup_steps=20,
        momentum=0.9,
    )
    assert "7 faults" in message
    for part in (
        "crop_seconds",
        "shuffle",
        "adapter.rank",
        "normalisation",
        "optimiser.lr",
        "warmup_steps",
        "momentum",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"adapter": {"type": "none", "alpha": 8}}, "adapter.alpha"),
        ({"weighting": {"options": {"gamma": 2}}}, "weighting.options"),
        ({"noise_levels": {"options": {"m": 1}}}, "noise_levels.options"),
        ({"model": {"create": {"width": 32}}}, "adapter.type"),
        ({"model": {"width": 32}, "adapter": {"type": "none"}}, "create"),
        ({"data": {"manifest": "x", "split": "all"}}, "held_out.every"),
        ({"data": {"manifest": []}}, "data.manifest"),
        ({"data": {"manifest": "x", "crop_seconds": [{"seconds": 5}, {"seconds": 5}]}}, "once"),
        ({"held_out": {"noise_levels": [0.5, 1.5]}}, "(0, 1]"),
        ({"optimiser": {"betas": [0.9, 1.0]}}, "[0, 1)"),
        ({"batch_size": 0}, "batch_size"),
        ({"precision": "fp16"}, "precision"),
        ({"ema_decay": 1.0}, "ema_decay"),
    ],
)
def test_contradictions_and_ranges_name_their_key(values: dict[str, object], part: str) -> None:
    assert part in fault(**values)


def test_the_resolved_configuration_can_be_read_again() -> None:
    for adapter in ({}, {"type": "none"}, {"type": "lora", "rank": 3}):
        config = build_config(TrainConfig, {"data": DATA, "adapter": adapter})
        assert build_config(TrainConfig, yaml.safe_load(dump_yaml(config))) == config


def test_short_forms() -> None:
    config = build_config(TrainConfig, {"data": {"manifest": "a", "crop_seconds": 12, "select": {"flat": False}}})
    assert config.data.manifest == ["a"]
    assert [(crop.seconds, crop.share) for crop in config.data.crop_seconds] == [(12.0, 1.0)]
    assert config.data.select == {"flat": "false"}
    assert (config.adapter.type, config.adapter.rank, config.adapter.alpha) == ("dora", 16, 16.0)


def test_the_papers_recipe_says_what_the_paper_says() -> None:
    values = yaml.safe_load((Path(__file__).parents[2] / "recipes" / "paper.yaml").read_text(encoding="utf-8"))
    config = build_config(TrainConfig, values)
    assert (config.adapter.type, config.adapter.rank, config.adapter.alpha) == ("dora", 16, 16.0)
    assert (config.steps, config.batch_size, config.accumulation, config.optimiser.lr) == (1000, 4, 1, 5e-5)
    assert (config.weighting.strength, config.weighting.reduction) == (0.5, "batch")
    assert config.precision == "auto"
