from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from eisbach.config import build_config
from eisbach.errors import ConfigError, UserError
from eisbach.experiments.recipes import BUILT_IN_RECIPES, demo_spec, load_spec
from eisbach.experiments.spec import ExperimentSpec, arm_training, check_spec, merge


def values(**changes: Any) -> dict[str, Any]:
    base: dict[str, Any] = {
        "title": "t",
        "training": {"data": {"manifest": "m.jsonl"}, "steps": 5},
        "arms": {
            "plain": {"label": "plain"},
            "other": {"label": "other", "overrides": {"weighting.sample": "entropy_barrier"}},
        },
        "primary_metrics": {"flat": "lower"},
    }
    return base | changes


def spec_of(**changes: Any) -> ExperimentSpec:
    return build_config(ExperimentSpec, values(**changes))


def test_merge_lays_groups_over_groups_and_reads_dots() -> None:
    base = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert merge(base, {"a": {"c": {"d": 5}}, "e": 4}) == {"a": {"b": 1, "c": {"d": 5}}, "e": 4}
    assert merge(base, {"a.c.d": 5, "a.x": 1}) == {"a": {"b": 1, "c": {"d": 5}, "x": 1}, "e": 3}
    assert merge(base, {"e": {"f": 1}}) == {"a": {"b": 1, "c": {"d": 2}}, "e": {"f": 1}}
    assert base == {"a": {"b": 1, "c": {"d": 2}}, "e": 3}


def test_an_arm_changes_only_its_own_keys() -> None:
    spec = spec_of()
    plain = arm_training(spec, "plain", 4, out="x", manifest=None, cache=None)
    other = arm_training(spec, "other", 4, out="x", manifest=None, cache=None)
    assert plain.weighting.sample == "none"
    assert other.weighting.sample == "entropy_barrier"
    assert plain.model_copy(update={"weighting": other.weighting}) == other
    assert plain.seed == 4


def test_the_material_of_the_experiment_replaces_the_manifest() -> None:
    training = arm_training(spec_of(), "plain", 0, out="x", manifest="made.jsonl", cache="lat")
    assert training.data.manifest == ["made.jsonl"]
    assert training.data.cache == "lat"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"arms": {"plain": {"label": "plain"}}}, "at least two arms"),
        ({"arms": {"plain": {"label": "a"}, "b": {"label": "a"}}}, "labels of the arms must differ"),
        ({"arms": {"plain": {"label": "a"}, "B/..": {"label": "b"}}}, "arm names"),
        ({"baseline": "nobody"}, "baseline is 'nobody'"),
        ({"oracle": "nobody"}, "oracle is 'nobody'"),
        ({"oracle": "plain"}, "must be different arms"),
        ({"train_seeds": []}, "at least one training seed"),
        ({"train_seeds": [1, 1]}, "distinct"),
        ({"primary_metrics": {}}, "at least one primary metric"),
        ({"primary_metrics": {"flat": "smaller"}}, "primary_metrics.flat"),
        ({"generation": {"duration": 0.5}}, "generation.duration"),
        ({"arm": {}}, "unknown key 'arm'"),
    ],
)
def test_faults_are_named(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        spec_of(**changes)


def test_all_faults_of_all_arms_come_in_one_message() -> None:
    arms = {
        "plain": {"label": "plain", "overrides": {"seed": 3}},
        "wrong": {"label": "wrong", "overrides": {"weighting": {"samples": "x"}}},
        "worse": {"label": "worse", "overrides": {"optimiser": {"lr": -1}}},
        "unknown": {"label": "unknown", "overrides": {"weighting": {"sample": "entrpy"}}},
    }
    with pytest.raises(ConfigError) as caught:
        check_spec(spec_of(arms=arms))
    text = str(caught.value)
    assert "arms.plain.overrides sets 'seed'" in text
    assert "unknown key 'weighting.samples'" in text
    assert "'optimiser.lr'" in text
    assert "arm 'wrong'" in text
    assert "arm 'worse'" in text
    assert "'entrpy' is not known" in text


def test_a_missing_prompt_file_is_found_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        check_spec(spec_of(generation={"prompts": str(tmp_path / "none.yaml")}))


def test_the_manifest_is_the_experiments_own_where_it_makes_material() -> None:
    with pytest.raises(ConfigError, match=r"data\.manifest"):
        check_spec(spec_of(material={}))


@pytest.mark.parametrize(("name", "others"), [("demo", "recommended base"), ("curation", "recurrence")])
def test_the_recipes_of_the_package_are_whole(name: str, others: str) -> None:
    spec = load_spec(name)
    check_spec(spec)
    check_spec(load_spec(name, quick=True))
    assert set(spec.arms) == {"plain", "eq5", "paper-sample", "oracle", *others.split()}
    trainings = {arm: arm_training(spec, arm, 0, out="x", manifest="m", cache=None) for arm in spec.arms}
    assert trainings["eq5"].weighting.reduction == "batch"
    assert trainings["eq5"].weighting.strength == 0.5
    assert trainings["paper-sample"].weighting.reduction == "sample"
    assert trainings["paper-sample"].weighting.normalisation == "mean1"
    assert trainings["oracle"].data.select == {"flat": "false"}
    assert trainings["oracle"].weighting == trainings["plain"].weighting
    assert spec.material is not None
    assert spec.material.flat_clips == round(0.7 * spec.material.clips)
    assert len(spec.generation.resolve_prompts()) == {"demo": 16, "curation": 8}[name]


def test_the_levels_recipe_takes_one_curve_apart() -> None:
    """The arm without noise levels divides by exactly the curve that the arm without clips consists of."""
    spec = load_spec("levels")
    check_spec(spec)
    check_spec(load_spec("levels", quick=True))
    trainings = {arm: arm_training(spec, arm, 0, out="x", manifest="m", cache=None) for arm in spec.arms}
    clips, noise, both = (trainings[arm].weighting for arm in ("clips", "noise", "recurrence"))
    assert clips.options["level_means"] == noise.options["points"]
    assert (clips.sample, noise.noise_level, noise.sample) == ("recurrence_barrier", "tabulated", "none")
    assert {**both.options, "level_means": noise.options["points"]} == clips.options
    assert len(spec.train_seeds) >= 5
    demo = load_spec("curation")
    assert spec.training == demo.training
    assert spec.material == demo.material
    assert spec.generation == demo.generation


def test_an_arm_that_is_not_there_cannot_be_left_out(tmp_path: Path) -> None:
    assert "oracle" not in load_spec("curation", ["arms.oracle=null", "oracle=null"]).arms
    with pytest.raises(ConfigError, match="no arm 'oracel' to leave out; its arms are plain, "):
        load_spec("curation", ["arms.oracel=null"])
    extending = tmp_path / "mine.yaml"
    extending.write_text("extends: curation\narms: {oracle: null}\noracle: null\n")
    assert "oracle" not in load_spec(extending).arms
    with pytest.raises(ConfigError, match="no arm 'oracle' to leave out; its arms are plain, "):
        load_spec(extending, ["arms.oracle=null"])
    extending.write_text("extends: curation\narms: {oracel: null}\n")
    with pytest.raises(ConfigError, match="no arm 'oracel' to leave out"):
        load_spec(extending)


def test_the_longer_run_is_long_enough() -> None:
    spec = load_spec("curation")
    assert len(spec.train_seeds) >= 3
    assert len(spec.generation.seeds) >= 4
    assert len(spec.generation.resolve_prompts()) >= 8
    assert spec.training["steps"] >= load_spec("demo").training["steps"]


@pytest.mark.parametrize("name", ["demo", "curation", "levels", "gated"])
def test_the_repository_shows_the_packages_recipes(name: str) -> None:
    root = Path(__file__).parents[2]
    shown = root / "recipes" / f"{name}.yaml"
    assert shown.resolve() == (root / "src" / "eisbach" / BUILT_IN_RECIPES[name]).resolve()


def test_a_recipe_extends_another_and_overrides_come_last(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: demo\ntitle: mine\ntraining: {steps: 7}\n")
    spec = load_spec(mine, ["training.batch_size=3"])
    demo = load_spec("demo")
    assert (spec.title, spec.training["steps"], spec.training["batch_size"]) == ("mine", 7, 3)
    assert spec.training["optimiser"] == demo.training["optimiser"]
    (tmp_path / "circle.yaml").write_text("extends: circle.yaml\n")
    with pytest.raises(ConfigError, match="circle"):
        load_spec(tmp_path / "circle.yaml")
    with pytest.raises(ConfigError, match=r"built-in recipe: .*curation, demo, .*gated, levels"):
        load_spec(tmp_path / "nothing.yaml")


def test_a_seed_moves_every_draw_of_the_demo() -> None:
    base, moved = demo_spec(), demo_spec(seed=5, out="x y")
    assert base.material is not None
    assert moved.material is not None
    assert moved.material.seed == base.material.seed + 5
    assert moved.train_seeds == tuple(seed + 5 for seed in base.train_seeds)
    assert moved.generation.seeds == tuple(seed + 5 for seed in base.generation.seeds)
    assert moved.out == "x y"
    with pytest.raises(UserError, match="whole number from 0"):
        demo_spec(seed=-1)
