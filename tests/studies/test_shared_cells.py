"""Arms of one name are one training, one set and one way of playing in the studies over draws, so that the store makes
them once."""

from __future__ import annotations

import pytest

from eisbach.config import build_config
from eisbach.errors import ConfigError
from eisbach.experiments.recipes import load_spec
from eisbach.experiments.spec import ExperimentSpec, arm_training, check_spec
from eisbach.training.run_folder import recipe_hash

SHARING = {
    "barrier_complements": {"plain", "sample-100", "recurrence", "oracle"},
    "clip_and_level": {"plain", "development", "clip-and-level", "oracle"},
    "barrier_strength": {"plain", "batch-50", "sample-50", "sample-100"},
    "barrier_adherence": {"plain", "batch-50", "sample-50", "sample-100"},
    "barrier_dora": {"plain", "batch-50", "sample-100", "development", "recurrence"},
    "signature_control": {"plain"},
    "barrier_swaps": {"plain", "batch-50", "development", "recurrence"},
    "barrier_heard": {
        *("plain", "batch-50", "sample-50", "sample-100", "recurrence", "development", "clip-and-level", "oracle")
    },
}


def cell(spec: ExperimentSpec, arm: str) -> tuple[object, ...]:
    """What decides a model and its clips, apart from the draw and from paths."""
    training = arm_training(spec, arm, 100, out="out", manifest="set/manifest.jsonl", cache=None)
    assert spec.material is not None
    play = spec.generation.model_dump(mode="json")
    return training, recipe_hash(training), spec.material.of_draw(100), play, spec.store


@pytest.mark.parametrize("study", SHARING)
def test_arms_of_one_name_are_the_same_cells(study: str) -> None:
    main, other = load_spec("barrier_short"), load_spec(study)
    shared = main.arms.keys() & other.arms.keys()
    assert shared == SHARING[study]
    for arm in shared:
        assert cell(main, arm) == cell(other, arm), arm
    assert set(other.train_seeds) <= set(main.train_seeds)
    trainings = [cell(other, name)[:2] for name, arm in other.arms.items() if arm.trains]
    hashes = [(made, str(training.data.weights)) for training, made in trainings]
    assert len(set(hashes)) == len(hashes)  # every arm is a training of its own


def test_an_arm_set_to_null_is_left_out_of_a_recipe() -> None:
    whole, without = load_spec("barrier_complements"), load_spec("barrier_complements", ["arms.erd=null"])
    assert set(whole.arms) - set(without.arms) == {"erd"}
    quick = load_spec("barrier_complements", quick=True)
    assert {"plain", "sample-100", "min-snr", "min-snr-sample-100"} <= quick.arms.keys() < whole.arms.keys()
    check_spec(quick)
    with pytest.raises(ConfigError, match="baseline is 'plain', and the arms are"):
        load_spec("barrier_complements", ["arms.plain=null"])
    assert build_config(ExperimentSpec, whole.model_dump()) == whole


def test_within_a_design_arms_differ_in_the_weight_on_samples_alone() -> None:
    spec = load_spec("barrier_complements")

    def other(arm: str) -> dict[str, object]:
        """What is left of its training without the weight on samples; where all weights are 1, a mean of 1 is none."""
        values = arm_training(spec, arm, 110, out="out", manifest="m", cache=None).model_dump(mode="json")
        weighting = {key: values["weighting"].pop(key) for key in ("sample", "strength", "normalisation")}
        values["weighting"]["options"] = {
            key: value for key, value in (values["weighting"]["options"] or {}).items() if key == "correct_density"
        }
        if values["weighting"]["noise_level"] != "none":
            assert weighting["normalisation"] == "mean1", arm
        return values

    for partner in ("", "oracle", "min-snr", "erd"):
        arms = [partner or "plain", *(f"{partner}-{weight}".strip("-") for weight in ("sample-100", "recurrence"))]
        assert other(arms[0]) == other(arms[1]) == other(arms[2]), partner
    assert [other("erd")["weighting"]["options"], other("plain")["weighting"]["options"]] == [
        {"correct_density": True}, {},
    ]  # fmt: skip


def test_the_second_judge_hears_the_memory_of_clip_and_level() -> None:
    assert cell(load_spec("barrier_heard"), "memory") == cell(load_spec("clip_and_level"), "memory")


def test_the_swaps_of_barrier_dora_are_played_again_by_nobody() -> None:
    dora, swaps = load_spec("barrier_dora"), load_spec("barrier_swaps")
    for arm in ("magnitude-recurrence", "magnitude-development"):
        assert dora.arms[arm].swap == swaps.arms[arm].swap
