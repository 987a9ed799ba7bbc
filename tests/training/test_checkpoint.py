from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch

from eisbach.config import build_config, read_recipe
from eisbach.errors import CheckpointError, StorageError
from eisbach.tensor_files import copy_named, read_tensors, write_tensors
from eisbach.training import checkpoint as checkpoints
from eisbach.training.checkpoint import (
    CheckpointWriter,
    list_checkpoints,
    newest_checkpoint,
    open_checkpoint,
    prune,
    step_of,
    to_host,
    write_checkpoint,
)
from eisbach.training.config import TrainConfig


def write(root: Path, step: int, keep: int = 2) -> Path:
    tensors = {"model.safetensors": {"w": torch.arange(step + 4.0), "b": torch.ones(2)}}
    return write_checkpoint(root, step, tensors, {"note.json": {"a": 1}}, {"origin": "x"}, keep)


def test_what_is_written_comes_back_and_old_ones_go(tmp_path: Path) -> None:
    for step in (5, 10, 1_000_000):
        write(tmp_path, step)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000010", "step-1000000"]
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert (newest.step, newest.state["origin"]) == (1_000_000, "x")
    assert read_tensors(tmp_path / "step-000010" / "model.safetensors")["w"].tolist() == list(range(14))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_tensors_of_any_type_and_shape_come_back(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"scalar": torch.tensor(3).to(dtype), "turned": torch.arange(6).view(2, 3).T.to(dtype)}
    write_tensors(tmp_path / "x.safetensors", tensors)
    back = read_tensors(tmp_path / "x.safetensors")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[key], tensors[key]) and back[key].dtype == dtype for key in tensors)


def test_folders_without_a_marker_are_passed_over_and_leftovers_removed(tmp_path: Path) -> None:
    good = write(tmp_path, 5)
    (tmp_path / "step-000009").mkdir()
    (tmp_path / ".step-000010.partial").mkdir()
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert newest.folder == good
    prune(tmp_path, keep=9)
    assert not (tmp_path / ".step-000010.partial").exists()
    assert good.exists()


def test_chosen_steps_stay_for_good_and_what_a_kill_left_is_pruned(tmp_path: Path) -> None:
    for step in (500, 1000, 1100, 1200, 1300):
        write(tmp_path, step, keep=9)
    prune(tmp_path, keep=2, permanent=(500, 1000))
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        f"step-00{step:04d}" for step in (500, 1000, 1200, 1300)
    ]
    write_checkpoint(tmp_path, 1400, {}, {}, {}, 1, (500, 1000))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000500", "step-001000", "step-001400"]


RECIPES = Path(__file__).parents[2] / "recipes"
SHOWN = {"barrier": (500, 1000), "erd": (100_000, 200_000, 300_000, 400_000)}
"""The steps that Figure 5 of the barrier paper and Tables 6 and 7 of ERD show."""


@pytest.mark.parametrize(
    ("recipe", "paper"),
    [
        ("paper.yaml", "barrier"),
        ("sa3-medium-paper.yaml", "barrier"),
        *((f"erd/table3/{file.name}", "erd") for file in sorted((RECIPES / "erd/table3").glob("*.yaml"))),
    ],
)
def test_recipes_never_lose_the_steps_that_their_paper_shows(recipe: str, paper: str, tmp_path: Path) -> None:
    config = build_config(TrainConfig, read_recipe(RECIPES / recipe))
    chosen, last = config.checkpoint, config.steps
    grid = {*range(chosen.every, last + 1, chosen.every), *chosen.steps, last}
    for step in sorted(step for step in grid if chosen.due(step, last)):
        folder = tmp_path / f"step-{step:06d}"
        folder.mkdir()
        (folder / "state.json").touch()
        prune(tmp_path, chosen.keep, chosen.steps)
    kept = [step_of(folder) for folder in list_checkpoints(tmp_path)]
    assert set(SHOWN[paper]) <= set(kept)
    assert len(kept) == len(chosen.steps) + chosen.keep


@pytest.mark.parametrize("recipe", sorted(str(file.relative_to(RECIPES)) for file in RECIPES.rglob("*.yaml")))
def test_every_recipe_may_be_shortened_by_its_steps_alone(recipe: str) -> None:
    """The first that anyone tries of a recipe of thousands of steps."""
    values = read_recipe(RECIPES / recipe)
    if "steps" not in values:
        pytest.skip("no training recipe")
    warmup = values.get("warmup_steps", 0)
    shortened = max(3, warmup)
    config = build_config(TrainConfig, {**values, "steps": shortened})  # refuses nothing
    saved = [step for step in range(1, shortened + 1) if config.checkpoint.due(step, shortened)]
    assert saved[-1] == config.steps == shortened
    assert set(saved) <= {shortened, *range(0, shortened, config.checkpoint.every), *config.checkpoint.steps}


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing", "marker"])
def test_damage_is_named_with_the_last_good_one(tmp_path: Path, damage: str) -> None:
    good, bad = write(tmp_path, 5), write(tmp_path, 10)
    file = bad / "model.safetensors"
    content = file.read_bytes()
    if damage == "truncated":
        file.write_bytes(content[:-5])
    elif damage == "altered":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "missing":
        file.unlink()
    else:
        (bad / "state.json").write_text("{")
    with pytest.raises(CheckpointError) as caught:
        newest_checkpoint(tmp_path)
    message = str(caught.value)
    assert str(bad) in message
    assert f"continue from {good}" in message
    assert ("model.safetensors" if damage != "marker" else "state.json") in message


def test_a_lone_damaged_checkpoint_offers_no_way_back_that_is_not_there(tmp_path: Path) -> None:
    bad = write(tmp_path, 5)
    (bad / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="start from the beginning"):
        newest_checkpoint(tmp_path)


def test_a_full_disk_leaves_the_earlier_checkpoint_and_no_broken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = write(tmp_path, 5)

    def full(path: Path, *rest: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_tensors", full)
    with pytest.raises(StorageError, match="No space left"):
        write(tmp_path, 10)
    assert [path.name for path in tmp_path.iterdir()] == [good.name]
    assert open_checkpoint(good).step == 5


def test_copy_named_is_all_or_nothing() -> None:
    parameters = {"a": torch.zeros(2), "b": torch.zeros(3)}
    with pytest.raises(
        CheckpointError, match=r"1 of 2 tensors match, 1 are missing and 1 unknown \(the file lacks 'b'\)"
    ):
        copy_named(parameters, {"a": torch.ones(2), "c": torch.ones(3)}, Path("x"))
    with pytest.raises(CheckpointError, match=r"'b' has shape \[4\], the model needs \[3\]"):
        copy_named(parameters, {"a": torch.ones(2), "b": torch.ones(4)}, Path("x"))
    assert parameters["a"].sum() == 0
    copy_named(parameters, {"a": torch.ones(2), "b": torch.ones(3)}, Path("x"))
    assert parameters["b"].sum() == 3


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text(json.dumps({"not": "tensors"}))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        read_tensors(tmp_path / "model.safetensors")


# In a thread -------------------------------------------------------------------------------------------------------


def tensors_of(value: float) -> dict[str, dict[str, torch.Tensor]]:
    return {"a.safetensors": {"x": torch.full((3,), value)}}


def test_what_is_written_in_a_thread_is_what_it_was_when_it_was_handed_over(tmp_path: Path) -> None:
    weights = torch.zeros(3)
    with CheckpointWriter() as writer:
        for step in (1, 2):
            weights.fill_(step)
            writer.write(tmp_path, step, to_host({"a.safetensors": {"x": weights}}), {}, {}, 5)
            weights.fill_(-1.0)
    assert [step_of(folder) for folder in list_checkpoints(tmp_path)] == [1, 2]
    for step in (1, 2):
        read = read_tensors(open_checkpoint(tmp_path / f"step-{step:06d}").folder / "a.safetensors")["x"]
        assert read.tolist() == [step] * 3


def test_an_error_of_the_thread_comes_out_at_the_next_call_and_at_the_end(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    writer = CheckpointWriter()
    writer.write(blocked, 1, tensors_of(1.0), {}, {}, 1)
    with pytest.raises(StorageError, match="could not be written"):
        writer.write(tmp_path, 2, tensors_of(2.0), {}, {}, 1)
    writer.check()  # said once
    with pytest.raises(StorageError, match="could not be written"), writer:
        writer.write(blocked, 3, tensors_of(3.0), {}, {}, 1)
    assert list_checkpoints(tmp_path) == []


def test_what_ended_a_run_is_said_before_what_its_last_checkpoint_met(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")

    def run() -> None:
        with CheckpointWriter() as writer:
            writer.write(blocked, 1, tensors_of(1.0), {}, {}, 1)
            raise ValueError("the loss")

    with pytest.raises(ValueError, match="the loss") as ended:
        run()
    assert any("could not be written" in note for note in ended.value.__notes__)
