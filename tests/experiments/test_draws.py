"""Draws: a set for each training seed; a store in which equal sets, trainings and generations are made once; and how
near clips come to music that no draw trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_run import spec_of

from eisbach import studies
from eisbach.audio import audio_hash, write_audio
from eisbach.config import build_config
from eisbach.data.manifest import Manifest, ManifestRow, load_manifest, save_manifest
from eisbach.errors import ConfigError, UserError
from eisbach.experiments import material, yardsticks
from eisbach.experiments import run as module
from eisbach.experiments.recipes import load_spec
from eisbach.experiments.spec import ExperimentSpec, MaterialConfig
from eisbach.statistics.records import load_records
from eisbach.structure import Clip
from eisbach.studies.judging import Draws
from eisbach.types import Record, Waveform

MATERIAL = {"clips": 8, "flat_share": 0.25, "duration": 5.0, "seed": 3, "redraw": True}


def rendered(part: material.Part, config: MaterialConfig, settings: object, out: Path) -> Manifest:
    """Noise in place of rendered music: a function of the set's seed alone, as rendering is."""
    name, rng = part.name, np.random.default_rng([config.seed, len(part.name)])
    rows = []
    for number in range(part.clips):
        path = out / f"{number}.wav"
        write_audio(path, Waveform(0.1 * rng.standard_normal((1, 40_000)).astype(np.float32), 8000))
        labels = {"flat": str(part.flat).lower(), "piece": f"{config.seed} {number}"}
        split = "held_out" if number == 0 else "train"
        rows.append(ManifestRow(f"{name}-{number}", path.name, "slow cello", 5.0, labels, audio_hash(path), split))
    save_manifest(Manifest(rows, out))
    return Manifest(rows, out)


def measured(clips: list[Clip], root: Path, details: dict[str, str] | None = None) -> list[Record]:
    """Records that know the bytes of a clip, without an analysis."""
    return [
        {**clip.keys, "path": clip.path.relative_to(root).as_posix(), "is_flat": False, "level_range": float(number),
         "audio_hash": audio_hash(clip.path)}
        for number, clip in enumerate(clips)
    ]  # fmt: skip


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., module.ExperimentResult]:
    """`run(name, **changes)`: two arms over two draws of short clips; nothing trains for long."""
    monkeypatch.setattr(material, "_render", rendered)
    monkeypatch.setattr(module, "measure", measured)

    def go(name: str, **changes: Any) -> module.ExperimentResult:
        whole = spec_of(tiny_model, tmp_path / "none.jsonl", tmp_path / name)
        training = {**whole.training, "data": {"crop_seconds": 4}, "steps": 2}
        arms = {arm: whole.arms[arm].model_dump() for arm in ("plain", "oracle")}
        values = {"material": MATERIAL, "train_seeds": [5, 6], "training": training, "arms": arms}
        return module.run_experiment(build_config(ExperimentSpec, whole.model_dump() | values | changes), quiet=True)

    return go


def sounds(result: module.ExperimentResult) -> list[Any]:
    return [(row["arm"], row["train_seed"], row["prompt_id"], row["audio_hash"]) for row in result.records]


def test_a_draw_is_a_function_of_both_seeds() -> None:
    one = build_config(MaterialConfig, MATERIAL)
    seeds = {one.model_copy(update={"seed": seed}).of_draw(draw).seed for seed in (3, 4) for draw in (0, 1, 2)}
    assert len(seeds) == 6
    assert one.of_draw(1) == one.of_draw(1)
    fixed = one.model_copy(update={"redraw": False})
    assert fixed.of_draw(1) == fixed


@pytest.mark.whole
def test_each_seed_trains_on_its_own_set_and_a_store_makes_equal_things_once(
    run: Callable[..., module.ExperimentResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = run("alone")
    sets = [{row.audio_hash for row in load_manifest(alone.folder / f"data/draw-{seed}")} for seed in (5, 6)]
    assert [len(found) for found in sets] == [8, 8]
    assert not sets[0] & sets[1]

    store = str(tmp_path / "store")
    first = run("first", store=store)
    assert sounds(first) == sounds(alone)
    made: list[str] = []
    monkeypatch.setattr("eisbach.training.loop._train", lambda config, *rest: made.append(config.out))
    labels = {arm.label: {**arm.model_dump(), "label": f"other {name}"} for name, arm in first.spec.arms.items()}
    arms = {name: labels[arm.label] for name, arm in first.spec.arms.items()}
    second = run("second", store=store, arms=arms)  # another experiment with the same cells
    assert made == []
    assert sounds(second) == sounds(first)
    for name in ("train", "samples"):
        places = [(result.folder / "arms/plain/seed-5" / name).resolve() for result in (first, second)]
        assert places[0] == places[1]
        assert places[0].is_relative_to(Path(store).resolve())
    monkeypatch.undo()


@pytest.mark.whole
def test_an_arm_is_made_of_two_trained_ones_of_its_draw(
    run: Callable[..., module.ExperimentResult], tiny_model: Path, tmp_path: Path
) -> None:
    """Its adapter is the directions of one and the magnitudes of the other, whatever order the arms are written in."""
    swap = {"label": "swap", "swap": {"direction": "heavy", "magnitude": "plain"}}
    heavy = {"label": "heavy", "overrides": {"weighting": {"sample": "entropy_barrier", "strength": 1.0}}}
    arms = {"mine": swap, "plain": {"label": "plain"}, "heavy": heavy}
    training = spec_of(tiny_model, tmp_path / "none.jsonl", tmp_path).training
    training |= {"data": {"crop_seconds": 4}, "steps": 2, "adapter": {"type": "dora", "rank": 2, "alpha": 2}}
    result = run("swapped", arms=arms, oracle=None, training=training, store=str(tmp_path / "store"))
    assert [row["arm"] for row in result.records][::2] == 2 * ["mine", "plain", "heavy"]
    for seed in (5, 6):
        adapters = [
            load_file(result.folder / "arms" / place / "adapter/adapter_model.safetensors")
            for place in (f"mine/seed-{seed}", f"heavy/seed-{seed}/train", f"plain/seed-{seed}/train")
        ]
        for name, value in adapters[0].items():
            source = adapters[2] if name.endswith("lora_magnitude_vector") else adapters[1]
            np.testing.assert_array_equal(value, source[name])
    assert not (result.folder / "arms/mine/seed-5/train").exists()


def test_other_settings_lie_elsewhere_in_a_store(run: Callable[..., module.ExperimentResult], tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    arms = {
        "plain": {"label": "plain"},
        "oracle": {"label": "the same again", "overrides": {"weighting": {"sample": "none"}}},
    }
    changed = {"plain": {"label": "plain"}, "oracle": {"label": "faster", "overrides": {"optimiser": {"lr": 2e-3}}}}
    first = run("first", store=store, arms=arms, train_seeds=[5], oracle=None)
    second = run("second", store=store, arms=changed, train_seeds=[5], oracle=None)
    cells = [(result.folder / "arms" / arm / "seed-5") for result in (first, second) for arm in ("plain", "oracle")]
    places = [(cell / "train").resolve() for cell in cells]
    assert places[0] == places[1] == places[2]  # two arms with one configuration are one training
    assert places[3] != places[0]


def test_columns_hold_the_distance_to_what_is_held_out_and_to_what_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"draw-0": {"train": [[0.0, 0.0]], "held_out": [[3.0, 4.0]]},
              "draw-1": {"train": [[6.0, 8.0]], "held_out": [[30.0, 40.0]]}}  # fmt: skip
    manifests = {}
    for seed, name in enumerate(places):
        rendered(
            material.Part("developing", 2, flat=False), build_config(MaterialConfig, MATERIAL), None, tmp_path / name
        )
        manifests[seed] = tmp_path / name / "manifest.jsonl"

    def textures(rows: Manifest, root: Path) -> np.ndarray:
        assert all(row.labels["flat"] == "false" for row in rows)
        return np.array([place for row in rows for place in places[rows.root.name][row.split]]).reshape(-1, 2)

    monkeypatch.setattr(yardsticks, "_textures", textures)
    records: list[Record] = [{"train_seed": seed, "path": f"{seed}.wav"} for seed in (0, 1)] + [
        {"train_seed": 0, "path": "short.wav"}
    ]
    details = {str(tmp_path / f"{seed}.wav"): json.dumps({"embedding": [3.0, 4.0 + seed]}) for seed in (0, 1)}
    details[str(tmp_path / "short.wav")] = json.dumps({"embedding": None})
    rows = yardsticks.distance_columns(records, details, manifests, tmp_path)
    assert [row["held_out_distance"] for row in rows] == [pytest.approx(0), pytest.approx(1), None]
    assert [row["training_distance"] for row in rows] == [pytest.approx(5), pytest.approx(18**0.5), None]
    places["draw-0"]["held_out"] = places["draw-1"]["held_out"] = []
    with pytest.raises(UserError, match="no developing clip is held out"):
        yardsticks.distance_columns(records, details, manifests, tmp_path)


def test_distances_to_training_need_sets_that_the_experiment_makes(run: Callable[..., module.ExperimentResult]) -> None:
    with pytest.raises(ConfigError, match="training_distance needs clips whose labels say which develop"):
        run("none", material=None, training_distance=True)


def test_recipes_that_say_nearness_still_ask_for_these_columns() -> None:
    assert load_spec(Path(studies.__file__).parent / "clip_and_level" / "recipe.yaml").training_distance
    assert not load_spec("demo").training_distance
    assert load_spec("demo", ["nearness=true"]).training_distance


def test_a_page_over_draws_says_what_the_judge_of_its_study_says() -> None:
    """Models of one draw are a pair on both; the judge corrects nothing of what it reads here."""
    study = Path(studies.__file__).parent / "barrier_gentle"
    spec = load_spec("barrier_gentle", ["arms.sample-100=null", "arms.oracle=null", "oracle=null"])
    kept = {"arm", "train_seed", "prompt_id", "seed", "path", *spec.primary_metrics}
    rows = load_records(study / "records/records.parquet")
    page = module.summarise(spec, [{key: row[key] for key in row if key in kept} for row in rows]).results
    judged = Draws(rows, "barrier_gentle")
    for metric in spec.primary_metrics:
        (found,) = (each for each in page.comparisons if (each.arm, each.metric) == ("recurrence", metric))
        effect, scale = judged.effect("recurrence", metric), 100 if metric == "is_flat" else 1
        assert (found.unit, found.n_units, found.p) == ("draw", effect.n, effect.p)
        assert [scale * end for end in found.shown_interval or ()] == pytest.approx([effect.low, effect.high])
