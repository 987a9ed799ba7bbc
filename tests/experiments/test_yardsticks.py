"""Sets of groups and of single kinds; and each model held against held-out clips of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_draws import rendered
from test_run import spec_of

from eisbach.config import build_config
from eisbach.data.manifest import Manifest, load_manifest
from eisbach.data.render import RenderSpec
from eisbach.errors import ConfigError, UserError
from eisbach.experiments import material
from eisbach.experiments import run as module
from eisbach.experiments.material_config import MaterialConfig
from eisbach.experiments.spec import ExperimentSpec, check_spec
from eisbach.experiments.yardsticks import MODELS_FILE, held_out_loss

MATERIAL: dict[str, Any] = {
    "clips": 20, "flat_share": 0.5, "duration": 5.0, "seed": 3, "redraw": True,
    "groups": {
        "common": {"share": 0.7, "mode": "major"},
        "rare": {"share": 0.3, "styles": ["marimba"], "mode": "minor"},
    },
}  # fmt: skip


def test_groups_and_kinds_decide_what_is_rendered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[tuple[str, int, RenderSpec, Any]] = []

    def render(out: Path, *, clips: int, spec: RenderSpec, kinds: Any = None, **_: object) -> tuple[Manifest, None]:
        calls.append((out.name, clips, spec, kinds))
        return Manifest([], tmp_path), None

    monkeypatch.setattr("eisbach.data.render.render", render)
    monkeypatch.setattr("eisbach.data.flat_material.render_flat", render)
    whole = build_config(MaterialConfig, MATERIAL | {"kinds": ["noise"]})
    for part in material._parts(whole):
        material._render(part, whole, RenderSpec(seed=9), tmp_path / part.name)
    assert [(name, clips, spec.mode, spec.styles, kinds) for name, clips, spec, kinds in calls] == [
        ("developing-common", 7, "major", None, None),
        ("developing-rare", 3, "minor", ("marimba",), None),
        ("flat-common", 7, "major", None, ("noise",)),
        ("flat-rare", 3, "minor", ("marimba",), ("noise",)),
    ]
    seeds = [spec.seed for _, _, spec, _ in calls]
    assert seeds[0] == seeds[2] != seeds[1] == seeds[3] != 9
    assert "kinds" not in build_config(MaterialConfig, {}).values()  # the store knows old sets by the same key


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"kinds": ["rain"]}, "kinds must be among drone, pad"),
        ({"groups": {"a": {"share": 0.5}, "b": {"share": 0.4}}}, r"must sum to 1 \(got 0.9\)"),
        ({"groups": {"a": {"share": 1.0, "mode": "dorian"}}}, "mode"),
    ],
)
def test_sets_that_cannot_be(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises((ConfigError, UserError), match=sentence):
        build_config(MaterialConfig, MATERIAL | change)


@pytest.fixture
def spec(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ExperimentSpec]:
    def grouped(part: material.Part, *rest: Any) -> Manifest:
        made = rendered(part, *rest)
        # two of each part are held out, and each group has a level of its own
        return made.with_rows([
            material.replace(row, labels={**row.labels, "group": str(part.group)},
                             split="held_out" if index < 2 else "train")
            for index, row in enumerate(made)
        ])  # fmt: skip

    monkeypatch.setattr(material, "_render", grouped)

    def build(**changes: Any) -> ExperimentSpec:
        whole = spec_of(tiny_model, tmp_path / "none.jsonl", tmp_path / "run")
        training = {**whole.training, "data": {"crop_seconds": 4}, "steps": 2, "log_samples": True}
        arms = {"plain": {"label": "plain"}, "base": {"label": "base", "trained": False}}
        values: dict[str, Any] = {
            "material": MATERIAL, "train_seeds": [5, 6], "training": training, "arms": arms, "oracle": None,
            "held_out_loss": True,
            "yardsticks": {
                "common": {"labels": {"group": "common"}}, "rare": {"labels": {"group": "rare"}, "prompts": ["b"]},
            },
        }  # fmt: skip
        return build_config(ExperimentSpec, whole.model_dump() | values | changes)

    return build


@pytest.mark.whole
def test_each_model_is_held_against_the_held_out_clips_of_all_draws(
    spec: Callable[..., ExperimentSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = module.run_experiment(spec(), quiet=True)
    lines = (result.folder / MODELS_FILE).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [(row["arm"], row["train_seed"], row["yardstick"]) for row in rows] == [
        (*model, group) for group in ("common", "rare") for model in (("plain", 5), ("base", None), ("plain", 6))
    ]
    assert [row.get("mean_weight") for row in rows[:3]] == [1, None, 1]
    for row in rows:
        assert row["held_out_clips"] == 2 * 2 * 2  # two of each of two parts, in two draws
        assert row["clips"] == (2 if row["yardstick"] == "common" else 1)
        assert np.isfinite(row["held_out_loss"])
        both = row["yardstick"] == "common"  # one clip is no set
        assert all(
            (row[f"{name}_{how}"] is not None) == both
            for name in ("texture", "musicnn")
            for how in ("frechet", "kernel")
        )
    assert len({row["held_out_loss"] for row in rows}) == 6

    # What a training weighed its rare clips: the log says it by their ids.
    weighed = [[1.0] * 4, [0.25, 0.5, 2.0, 3.0]]
    for draw, weights in zip((5, 6), weighed, strict=True):
        log = next(result.folder.glob(f"arms/plain/seed-{draw}/train/sample_log.jsonl"))
        manifest = load_manifest(result.folder / f"data/draw-{draw}/manifest.jsonl")
        ids = [row.id for row in manifest.select(labels={"group": "rare"})]
        log.write_text("".join(json.dumps({"id": ids[0], "step": 1, "weight": weight}) + "\n" for weight in weights))
    module.run_experiment(spec(), quiet=True)
    again = [json.loads(line) for line in (result.folder / MODELS_FILE).read_text().splitlines()]
    assert [row.get("mean_weight") for row in again] == [None, None, None, 1.0, None, 1.4375]
    lines = (result.folder / MODELS_FILE).read_text().splitlines()

    def fail(*_: object) -> float:
        raise AssertionError("a loss is measured again")

    monkeypatch.setattr("eisbach.experiments.yardsticks.held_out_loss", fail)
    module.run_experiment(spec(), quiet=True)
    assert (result.folder / MODELS_FILE).read_text().splitlines() == lines


@pytest.mark.whole
def test_the_loss_of_a_model_is_that_which_its_training_logs(
    spec: Callable[..., ExperimentSpec], tmp_path: Path
) -> None:
    """At its end training measures the same clips, of its own draw, with other batches: near, and the base's is not."""
    from eisbach.training.config import TrainConfig
    from eisbach.training.loop import train

    whole = spec(train_seeds=[5], held_out_loss=False, yardsticks={})
    result = module.run_experiment(whole, quiet=True)
    manifest = result.folder / "data/draw-5/manifest.jsonl"
    held_out = load_manifest(manifest).select(split="held_out")
    values = {**whole.training, "data": {"manifest": str(manifest), "crop_seconds": 4}, "seed": 5,
              "out": str(tmp_path / "logged"), "steps": 40, "optimiser": {"lr": 3e-2},
              "held_out": {"every": 40, "batches": 1}, "batch_size": 8}  # fmt: skip
    config = build_config(TrainConfig, values)
    folder = train(config, quiet=True)
    logged = json.loads((folder / "result.json").read_text())["held_out_loss"]
    trained, base = (
        held_out_loss(config, adapter, held_out, tmp_path / "latents") for adapter in (folder / "adapter", None)
    )
    assert trained == pytest.approx(logged, rel=1e-4)
    assert abs(base - trained) > 10 * abs(logged - trained)


@pytest.mark.whole
def test_yardsticks_that_cannot_be(spec: Callable[..., ExperimentSpec]) -> None:
    with pytest.raises(ConfigError, match="yardstick 'rare' names prompts that nobody plays: nobody"):
        check_spec(spec(yardsticks={"rare": {"labels": {"group": "rare"}, "prompts": ["nobody"]}}))
    with pytest.raises(ConfigError, match="held_out_loss is measured on the clips of yardsticks: name them"):
        spec(yardsticks={})
    with pytest.raises(ConfigError, match="add material"):
        spec(material=None)
    with pytest.raises(
        UserError, match=r"yardstick 'odd' needs held-out clips with the labels \{group: odd\} .* hold 0"
    ):
        module.run_experiment(spec(yardsticks={"odd": {"labels": {"group": "odd"}}}), quiet=True)
