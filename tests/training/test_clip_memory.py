"""The memory of clips, given weights and the log of samples in real runs: crops, accumulation, resumption, held-out."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from eisbach.data.manifest import load_manifest, save_manifest
from eisbach.errors import CheckpointError, UserError
from eisbach.training import loop
from eisbach.training.logging import MetricsFile

MEMORY = {"sample": "entropy_barrier", "memory": {"below": 0.7, "decay": 0.8}, "act_above": 0.4, "strength": 1.0}


def state(folder: Path, name: str, step: int = 6) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoints" / f"step-{step:06d}" / name)


def logged(folder: Path) -> list[dict[str, Any]]:
    return MetricsFile(folder / "sample_log.jsonl").rows()


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize(
    "data",
    [
        {"crop_seconds": 4},
        {"crop_seconds": [{"seconds": 2, "share": 1}, {"seconds": 4, "share": 1}]},
        {"crop_seconds": {"seconds": 6, "buckets": 2, "fit": "pad"}},
        {"crop_seconds": 8},
    ],
    ids=["one length", "two lengths", "buckets", "padded"],
)
@pytest.mark.parametrize("noise_level", ["none", "edm2"])
@pytest.mark.whole
def test_a_run_that_stops_and_goes_on_remembers_the_same(configure, clips, data, noise_level):
    def run(out: str):
        return configure(
            out, data={"manifest": str(clips), **data}, weighting={**MEMORY, "noise_level": noise_level},
            checkpoint={"every": 3, "keep": 9}, accumulation=2, log_samples=True,
        )  # fmt: skip

    whole, half = (loop.train(run(name), quiet=True) for name in ("whole", "half"))
    for name in ("checkpoints/step-000006", "adapter"):
        shutil.rmtree(half / name)
    (half / "result.json").unlink()
    loop.train(run("half"), quiet=True)
    for name in ("weighting.safetensors", "adapter_model.safetensors"):
        assert equal(state(whole, name), state(half, name)), name
    assert state(whole, "weighting.safetensors")["memory.counts"].numel() > 4
    assert logged(whole) == logged(half)
    assert len(logged(whole)) == 6 * 2 * 2
    assert not equal(state(whole, "weighting.safetensors", 3), state(whole, "weighting.safetensors"))


def test_the_memory_acts_and_the_held_out_loss_does_not_read_it(configure):
    plain = loop.train(configure("plain", weighting={"sample": "none"}, held_out={"every": 0}), quiet=True)
    often = loop.train(configure("often", weighting=MEMORY, held_out={"every": 1, "batches": 1}), quiet=True)
    never = loop.train(configure("never", weighting=MEMORY, held_out={"every": 0}), quiet=True)
    for name in ("weighting.safetensors", "adapter_model.safetensors"):
        assert equal(state(often, name), state(never, name)), name
    assert not equal(state(plain, "adapter_model.safetensors"), state(never, "adapter_model.safetensors"))
    ids = bytes(state(often, "weighting.safetensors")["memory.ids"].tolist()).decode()
    assert "clip8" not in ids  # held out
    assert "clip9" not in ids


def test_a_checkpoint_without_its_memory_is_refused(configure):
    folder = loop.train(configure("run", weighting=MEMORY, checkpoint={"every": 3, "keep": 9}), quiet=True)
    (folder / "result.json").unlink()
    shutil.rmtree(folder / "checkpoints" / "step-000006")
    (folder / "checkpoints" / "step-000003" / "weighting.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"weighting\.safetensors is missing"):
        loop.train(configure("run", weighting=MEMORY, checkpoint={"every": 3, "keep": 9}), quiet=True)


def test_a_recipe_may_name_the_memory_beside_the_weighting_or_among_its_options(configure):
    beside = configure("a", weighting=MEMORY).weighting
    options = {key: MEMORY[key] for key in ("memory", "act_above")}
    among = configure("a", weighting={"sample": "entropy_barrier", "strength": 1.0, "options": options}).weighting
    assert beside == among
    assert beside.options == options
    unset = configure("a", weighting={"sample": "entropy_barrier", "memory": None}).weighting
    assert unset == configure("a", weighting={"sample": "entropy_barrier"}).weighting
    for wrong, said in (
        ({"memory": {"below": 2}}, r"below must lie in \(0, 1\]"),
        ({"memory": {"below": 0.5}, "reduction": "batch"}, "use reduction 'sample'"),
        ({"memory": {"below": 0.5}, "options": {"memory": {"below": 0.5}}}, "not in both"),
        ({"act_above": 0.5}, "give memory with it"),
    ):
        with pytest.raises(UserError, match=said):
            configure("a", weighting={"sample": "entropy_barrier", **wrong})


@pytest.fixture
def weighed(clips: Path, tmp_path: Path):
    """`weighed(weight, above)`: the clips, with this weight on those that are labelled flat."""

    def copy(weight: float | None, above: float | None = None) -> Path:
        folder = tmp_path / f"weighed-{weight}-{above}"
        shutil.copytree(clips, folder, ignore=shutil.ignore_patterns("latents"))
        manifest = load_manifest(folder)
        rows = [
            replace(row, weight=weight, weight_above=above) if row.labels["flat"] == "true" else row for row in manifest
        ]
        save_manifest(manifest.with_rows(rows))
        return folder

    return copy


def test_a_weight_in_the_manifest_holds_from_its_noise_level_on(configure, weighed):
    def run(out: str, folder: Path, **weighting: Any):
        data = {"manifest": str(folder), "crop_seconds": 4}
        config = configure(
            out, data=data, weighting=weighting or {"sample": "none"}, log_samples=True, accumulation=2,
            held_out={"every": 0},
        )  # fmt: skip
        return loop.train(config, quiet=True)

    plain = run("plain", weighed(None))
    assert {row["weight"] for row in logged(plain)} == {1.0}
    above = run("above", weighed(0.0, 0.5))
    for row in logged(above):
        flat = int(row["id"].removeprefix("clip")) % 2
        # four of the eight clips that train are flat
        expected = 1.0 if row["t"] < 0.5 else 0.0 if flat else 2.0
        assert row["weight"] == pytest.approx(expected, rel=1e-6)
    assert not equal(state(plain, "adapter_model.safetensors"), state(above, "adapter_model.safetensors"))
    same = run("same", weighed(0.5), sample="entropy_barrier", reduction="batch")
    ratios = {int(row["id"].removeprefix("clip")) % 2: row["weight"] for row in logged(same) if row["step"] == 1}
    assert ratios[0] / ratios[1] == pytest.approx(2.0)


def test_a_recipe_gives_weights_by_labels(configure, weighed, clips):
    def run(out: str, folder: Path, **data: Any):
        config = configure(
            out, data={"manifest": str(folder), "crop_seconds": 4, **data}, log_samples=True, held_out={"every": 0}
        )
        return loop.train(config, quiet=True)

    weights = [{"select": {"flat": True}, "weight": 3.0}, {"select": {"flat": "true"}, "weight": 0.0, "above": 0.5}]
    by_label, by_row = run("label", clips, weights=weights), run("row", weighed(0.0, 0.5))
    assert logged(by_label) == logged(by_row)
    assert equal(state(by_label, "adapter_model.safetensors"), state(by_row, "adapter_model.safetensors"))
    with pytest.raises(UserError, match="has the label kind; mark clips first"):
        run("none", clips, weights=[{"select": {"kind": "bell"}, "weight": 2}])
    (by_label / "result.json").unlink()
    with pytest.raises(UserError, match="training set"):
        run("label", clips)


def test_other_weights_are_another_training_set(configure, weighed):
    folder = weighed(0.5, 0.5)
    config = configure("run", data={"manifest": str(folder), "crop_seconds": 4}, held_out={"every": 0})
    run = loop.train(config, quiet=True)
    manifest = load_manifest(folder)
    save_manifest(manifest.with_rows(replace(row, weight=None, weight_above=None) for row in manifest))
    (run / "result.json").unlink()
    with pytest.raises(UserError, match="training set"):
        loop.train(config, quiet=True)


def test_weights_that_leave_nothing_are_refused_before_training(configure, clips, tmp_path):
    folder = tmp_path / "zero"
    shutil.copytree(clips, folder)
    manifest = load_manifest(folder)
    save_manifest(manifest.with_rows(replace(row, weight=0.0, weight_above=0.6) for row in manifest))
    with pytest.raises(UserError, match=r"every clip that trains has weight 0 at noise levels from 0\.6 on"):
        loop.train(configure("run", data={"manifest": str(folder), "crop_seconds": 4}), quiet=True)


def test_the_log_of_samples_has_each_ones_gradient(configure):
    config = configure(
        "run", weighting={"sample": "entropy_barrier", "noise_level": "min_snr", "strength": 1.0}, batch_size=1,
        accumulation=1, log_every=1, max_grad_norm=None, held_out={"every": 0},
        log_samples={"every": 2, "gradient_norms": True},
    )  # fmt: skip
    folder = loop.train(config, quiet=True)
    rows, metrics = logged(folder), MetricsFile(folder / "metrics.jsonl").rows()
    assert [row["step"] for row in rows] == [2, 4, 6]
    for row in rows:
        whole = next(item for item in metrics if item["step"] == row["step"])
        assert row["loss"] == pytest.approx(whole["loss"], rel=1e-6)
        assert row["belief"] == pytest.approx(whole["belief_mean"], rel=1e-5)
        # a batch of one: what is clipped is this sample's gradient times its weight
        assert row["weight"] * row["gradient_norm"] == pytest.approx(whole["grad_norm"], rel=1e-4)
    bare = loop.train(configure("bare", **{**config.model_dump(exclude={"out", "log_samples"})}), quiet=True)
    assert equal(state(bare, "adapter_model.safetensors"), state(folder, "adapter_model.safetensors"))
    assert not (bare / "sample_log.jsonl").exists()


@pytest.mark.parametrize(("steps", "said"), [(11, True), (13, False)])
def test_a_memory_that_will_hardly_read_a_clip_is_said_at_the_start(configure, capsys, steps, said):
    """Of 8 clips in batches of 2, logit-normal levels, 65.7% of them below .6: 1.8 and 2.1 readings a clip."""
    weighting = {**MEMORY, "memory": {"below": 0.6}}
    loop.train(configure("run", weighting=weighting, steps=steps, batch_size=2, held_out={"every": 0}))
    found = "the memory will read the form of a clip" in capsys.readouterr().err
    assert found == said


@pytest.mark.parametrize(
    ("crop", "said"),
    [
        ({"seconds": 6, "buckets": 2, "fit": "pad"}, False),
        ([{"seconds": 2, "share": 1}, {"seconds": 6, "share": 1}], True),  # half of the steps are too short to judge
        (2, "the crops are too short to be judged"),
    ],
    ids=["buckets", "two lengths", "too short"],
)
def test_crops_that_no_barrier_judges_are_no_readings(configure, clips, capsys, crop, said):
    """Two windows of 2 s: crops of 4 s and longer are judged; 13 steps are 2.1 readings a clip."""
    weighting = {"sample": "recurrence_barrier", "memory": {"below": 0.6}, "options": {"window_seconds": 2.0}}
    data = {"manifest": str(clips), "crop_seconds": crop}
    loop.train(configure("run", weighting=weighting, data=data, steps=13, batch_size=2, held_out={"every": 0}))
    told = capsys.readouterr().err
    assert ("the memory will read the form of a clip" in told) == bool(said)
    assert not isinstance(said, str) or said in told
