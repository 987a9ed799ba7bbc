from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from eisbach.audio import audio_hash, write_audio
from eisbach.backbones import load_backbone
from eisbach.codecs import load_codec
from eisbach.data.manifest import load_manifest
from eisbach.data.pre_encode import pre_encode
from eisbach.errors import (
    CheckpointError,
    ConfigError,
    InterruptedRun,
    ManifestError,
    NonFiniteLossError,
    StorageError,
    UserError,
)
from eisbach.output_folder import exclusive
from eisbach.training import assembly, train
from eisbach.training import checkpoint as checkpoints
from eisbach.training.checkpoint import list_checkpoints
from eisbach.training.config import TrainConfig
from eisbach.training.trainer import Trainer
from eisbach.types import Waveform


class Killed(BaseException):
    """Stands for a death of the process: nothing may clean up after it."""


def die_after(monkeypatch: pytest.MonkeyPatch, step: int, error: BaseException | None = None) -> None:
    """Kills the run when `step` steps have been taken."""
    take_step = Trainer.take_step

    def dying(self: Trainer) -> None:
        if self.step == step:
            raise error or Killed
        take_step(self)

    monkeypatch.setattr(Trainer, "take_step", dying)


def rows(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in found:
        row.pop("steps_per_second", None)
    return found


def weights(folder: Path, name: str = "adapter/adapter_model.safetensors") -> dict[str, torch.Tensor]:
    return load_file(folder / name)


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


VARIANTS: dict[str, dict[str, Any]] = {
    "lora with dropout inside": {"adapter": {"type": "lora", "rank": 2, "dropout": 0.3}},
    "dora, average, warm-up, cosine": {
        "adapter": {"type": "dora", "rank": 2},
        "ema_decay": 0.5,
        "warmup_steps": 2,
        "schedule": "cosine",
    },
    "accumulation and a recurrence barrier": {
        "accumulation": 2,
        "weighting": {"sample": "recurrence_barrier", "reduction": "sample", "normalisation": "mean1"},
    },
    "every parameter, two lengths": {"adapter": {"type": "none"}, "optimiser": {"lr": 1e-3}},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_killed_run_continues_bit_for_bit(
    name: str, configure: Any, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, Any] = dict(VARIANTS[name])
    if "two lengths" in name:
        lengths = [{"seconds": 3, "share": 1}, {"seconds": 5, "share": 2}]
        changes["data"] = {"manifest": str(clips), "crop_seconds": lengths}
    straight = train(configure("straight", **changes), quiet=True)
    killed = configure("killed", **changes)
    with monkeypatch.context() as patch:
        die_after(patch, 5)  # two steps beyond the checkpoint at 3, one beyond the row at 4
        with pytest.raises(Killed):
            train(killed, quiet=True)
    assert [path.name for path in list_checkpoints(Path(killed.out) / "checkpoints")] == ["step-000003"]
    assert [row["step"] for row in rows(Path(killed.out))] == [0, 2, 3, 4]
    resumed = train(killed, quiet=True)
    published = "model/model.safetensors" if "every" in name else "adapter/adapter_model.safetensors"
    assert equal(weights(straight, published), weights(resumed, published))
    last = "checkpoints/step-000006"
    for file in (straight / last).glob("*.safetensors"):
        assert equal(load_file(file), load_file(resumed / last / file.name)), file.name
    assert rows(straight) == rows(resumed)
    assert [row["step"] for row in rows(resumed)] == [0, 2, 3, 4, 6]


def test_training_learns_and_writes_what_it_promises(configure: Any, tiny_model: Path) -> None:
    config = configure(
        steps=60,
        adapter={"type": "none"},
        log_every=10,
        held_out={"every": 60, "batches": 1},
        optimiser={"lr": 5e-3},
        tensorboard=True,
    )
    folder = train(config, quiet=True)
    held_out = [row["held_out_loss"] for row in rows(folder) if "held_out_loss" in row]
    assert len(held_out) == 2
    assert held_out[1] < 0.9 * held_out[0]
    row = rows(folder)[-1]
    for key in ("loss", "weighted_loss", "grad_norm", "lr", "weight_mean", "weight_cv", "effective_sample_share"):
        assert isinstance(row[key], float), key
    assert set(row["held_out_loss_by_noise_level"]) == {"0.1", "0.3", "0.5", "0.7", "0.9"}
    result = json.loads((folder / "result.json").read_text())
    assert (result["steps"], result["path"]) == (60, "model")
    assert result["stamp"]["base_identity"] == load_backbone(str(tiny_model)).identity()
    assert result["stamp"]["clips"] == 8
    assert list((folder / "tensorboard").iterdir())
    assert (folder / "versions.json").is_file()


def test_a_new_model_is_created_by_the_seed_and_continued_as_the_same(
    configure: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = {
        key: value for key, value in json.loads((tiny_model / "config.json").read_text()).items() if key != "format"
    }
    changes = {"model": {"create": create}, "adapter": {"type": "none"}, "held_out": {"every": 0}}
    file = "model/model.safetensors"
    straight = weights(train(configure("straight", **changes), quiet=True), file)
    assert not equal(straight, weights(train(configure("other", seed=1, **changes), quiet=True), file))
    with monkeypatch.context() as patch:
        die_after(patch, 4)
        with pytest.raises(Killed):
            train(configure("killed", **changes), quiet=True)
    assert equal(straight, weights(train(configure("killed", **changes), quiet=True), file))
    assert load_backbone(str(Path(configure("straight").out) / "model")).latent_channels == create["latent_channels"]


def test_a_finished_run_is_left_alone_and_says_so(configure: Any, capsys: pytest.CaptureFixture[str]) -> None:
    config = configure(steps=2, checkpoint={"every": 2})
    folder = train(config, quiet=True)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix in (".safetensors", ".jsonl")}
    train(config)
    assert "is finished (2 steps); nothing to do" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_more_steps_of_a_constant_schedule_continue_to_the_same_end(configure: Any) -> None:
    straight = train(configure("straight", steps=4), quiet=True)
    train(configure("longer", steps=2), quiet=True)
    longer = train(configure("longer", steps=4), quiet=True)
    assert equal(weights(straight), weights(longer))


def test_a_changed_configuration_is_refused_key_by_key(configure: Any) -> None:
    train(configure(steps=2), quiet=True)
    with pytest.raises(ConfigError) as caught:
        train(configure(steps=1, seed=7, optimiser={"lr": 1e-3}, log_every=1), quiet=True)
    message = str(caught.value)
    assert "seed was 0 and is now 7" in message
    assert "optimiser.lr was 0.01 and is now 0.001" in message
    assert "steps was 2 and is now 1" in message
    assert "log_every" not in message


@pytest.mark.parametrize(
    ("number", "step"), [(signal.SIGINT, 4), (signal.SIGTERM, 4), (signal.SIGHUP, 4), (signal.SIGTERM, 6)]
)
def test_a_signal_saves_and_the_same_call_continues(
    number: int, step: int, configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the last step, too, after which nothing may begin."""
    before = signal.getsignal(number)  # a shell may start background jobs with SIGINT ignored
    straight = train(configure("straight"), quiet=True)
    config = configure("stopped")
    take_step = Trainer.take_step

    def signalling(self: Trainer) -> None:
        if self.step == step - 1:
            os.kill(os.getpid(), number)
        take_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "take_step", signalling)
        with pytest.raises(InterruptedRun, match=f"saved at step {step} of 6; the same command continues"):
            train(config, quiet=True)
    assert [path.name for path in list_checkpoints(Path(config.out) / "checkpoints")][-1] == f"step-{step:06d}"
    assert signal.getsignal(number) is before
    assert equal(weights(straight), weights(train(config, quiet=True)))


def test_training_in_another_thread_works_without_signals(configure: Any) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            train(configure(steps=1), quiet=True)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert not failures


def test_a_loss_that_is_not_finite_names_the_samples_and_keeps_the_last_checkpoint(
    configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure()
    to_device = Trainer.to_device
    poisoned: list[str] = []

    def poison(self: Trainer, batch: Any) -> Any:
        batch = to_device(self, batch)
        if self.step == 4 and self.predictor.training:
            batch.latents[1] = float("nan")
            poisoned.append(batch.ids[1])
        return batch

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "to_device", poison)
        with pytest.raises(NonFiniteLossError) as caught:
            train(config, quiet=True)
    assert f"step 5: the loss is not finite for {poisoned[0]};" in str(caught.value)
    assert [path.name for path in list_checkpoints(Path(config.out) / "checkpoints")] == ["step-000003"]
    assert all(
        torch.isfinite(value).all()
        for value in load_file(Path(config.out) / "checkpoints/step-000003/optimizer.safetensors").values()
    )
    assert equal(weights(train(config, quiet=True)), weights(train(configure("straight"), quiet=True)))


def test_a_full_disk_at_a_checkpoint_loses_nothing_that_was_saved(
    configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure()
    write_tensors = checkpoints.write_tensors
    calls = []

    def full(path: Any, *rest: Any) -> None:
        calls.append(path)
        if len(calls) > 2:  # the second checkpoint
            raise OSError(28, "No space left on device")
        write_tensors(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_tensors", full)
        with pytest.raises(StorageError, match="No space left on device"):
            train(config, quiet=True)
    assert [path.name for path in (Path(config.out) / "checkpoints").iterdir()] == ["step-000003"]
    assert equal(weights(train(config, quiet=True)), weights(train(configure("straight"), quiet=True)))


def test_a_truncated_checkpoint_is_named_and_the_good_one_before_it(
    configure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(checkpoint={"every": 2})
    with monkeypatch.context() as patch:
        die_after(patch, 5)
        with pytest.raises(Killed):
            train(config, quiet=True)
    file = Path(config.out) / "checkpoints/step-000004/optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(
        CheckpointError, match=r"optimizer\.safetensors has 100 bytes instead of .* continue from .*step-000002"
    ):
        train(config, quiet=True)


def test_a_checkpoint_of_another_model_is_refused(
    configure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure()
    with monkeypatch.context() as patch:
        die_after(patch, 4)
        with pytest.raises(Killed):
            train(config, quiet=True)
    other = load_backbone(config.model)
    with torch.no_grad():
        next(other.module.parameters()).add_(1.0)
    monkeypatch.setattr(assembly, "load_model", lambda config: other)
    with pytest.raises(CheckpointError, match="holds a run on another model: "):
        train(config, quiet=True)


BAD: list[tuple[dict[str, Any], type[UserError], str]] = [
    ({"batch_size": 9}, ManifestError, "8 clips .* set batch_size to at most 8"),
    ({"model": "nowhere"}, UserError, "nowhere"),
    ({"weighting": {"sample": "nothing"}}, UserError, "nothing.*recurrence_barrier"),
    ({"weighting": {"sample": "entropy_barrier", "options": {"gamma": 2}}}, UserError, "gamma"),
    ({"noise_levels": {"density": "nothing"}}, UserError, "nothing.*logit_normal"),
    ({"adapter": {"type": "lora", "rank": 2, "targets": ["query"]}}, ConfigError, "query.*to_qkv"),
    ({"data": {"manifest": "no/such/manifest.jsonl"}}, ManifestError, "does not exist"),
]


@pytest.mark.parametrize(("changes", "kind", "message"), BAD)
def test_bad_input_is_one_sentence(
    configure: Any, changes: dict[str, Any], kind: type[UserError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        train(configure(**changes), quiet=True)


def test_bad_data_is_one_sentence(configure: Any, clips: Path, tmp_path: Path) -> None:
    def data(**values: Any) -> TrainConfig:
        return configure(data={"manifest": str(clips), "crop_seconds": 4, **values})  # type: ignore[no-any-return]

    with pytest.raises(ManifestError, match=r"has flat: 'perhaps'; the clips have 'false' \(5\), 'true' \(5\)"):
        train(data(select={"flat": "perhaps"}), quiet=True)
    with pytest.raises(ManifestError, match="does not exist"):  # the failed start above does not hold the folder
        train(data(manifest=str(tmp_path / "nowhere.jsonl")), quiet=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        train(configure("file"), quiet=True)


def test_a_run_is_continued_by_content_whatever_its_paths_are_called(
    configure: Any, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure()
    with monkeypatch.context() as patch:
        die_after(patch, 4)
        with pytest.raises(Killed):
            train(config, quiet=True)
    moved, model = tmp_path / "moved", tmp_path / "model"
    shutil.copytree(clips, moved, ignore=shutil.ignore_patterns("latents"))
    shutil.copytree(config.model, model)
    monkeypatch.chdir(tmp_path)
    for number, spelled in enumerate(("moved", "./moved", str(moved / "manifest.jsonl"))):
        data = {"manifest": spelled, "crop_seconds": 4}
        train(configure(data=data, model=("model", "./model", str(model))[number]), quiet=True)
    straight = train(configure("straight"), quiet=True)
    ended, expected = (
        load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (Path(config.out), straight)
    )
    assert all(ended[key].equal(expected[key]) for key in expected)
    # other content is refused under the same names as well, before and after the end
    rows_of = (moved / "manifest.jsonl").read_text()
    (moved / "manifest.jsonl").write_text(rows_of.replace("a calm cello", "a wild cello"))
    other = {"manifest": "moved", "crop_seconds": 4}
    with pytest.raises(CheckpointError, match="holds a run on another training set"):
        train(configure(data=other), quiet=True)
    with pytest.raises(CheckpointError, match="holds a run on another training set"):
        train(configure(data=other, steps=8), quiet=True)
    with pytest.raises(ConfigError, match=r"other settings: optimiser\.lr was 0\.01 and is now 0\.02;"):
        train(configure(optimiser={"lr": 0.02}), quiet=True)
    other_model = load_backbone(model)
    with torch.no_grad():
        next(other_model.module.parameters()).add_(1.0)
    shutil.rmtree(model)
    other_model.save(model)
    with pytest.raises(CheckpointError, match="holds a run on another model"):
        train(configure(model="model"), quiet=True)


def test_checkpoints_of_chosen_steps_stay_and_a_killed_prune_is_made_up_for(configure: Any) -> None:
    config = configure(checkpoint={"every": 1, "keep": 1, "steps": [2, 3]})
    folder = train(config, quiet=True) / "checkpoints"
    assert [path.name for path in list_checkpoints(folder)] == ["step-000002", "step-000003", "step-000006"]
    shutil.copytree(folder / "step-000003", folder / "step-000004")
    (folder / ".step-000005.removed").mkdir()
    train(configure(checkpoint={"every": 9, "keep": 1, "steps": [3]}, steps=7), quiet=True)
    assert sorted(path.name for path in folder.iterdir()) == ["step-000003", "step-000007"]


def test_two_runs_cannot_share_a_folder(configure: Any) -> None:
    config = configure(steps=1)
    with exclusive(config.out), pytest.raises(ConfigError, match="another process is at work in"):
        train(config, quiet=True)
    train(config, quiet=True)


def test_clips_that_cannot_be_encoded_are_reported_and_too_few_left_is_an_error(
    configure: Any, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "clips"
    shutil.copytree(clips, root, ignore=shutil.ignore_patterns("latents"))
    write_audio(root / "clip3.wav", Waveform(np.zeros((1, 22050), np.float32), 22050))
    listed = [json.loads(line) for line in (root / "manifest.jsonl").read_text().splitlines()]
    listed[3]["audio_hash"] = audio_hash(root / "clip3.wav")
    (root / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
    data = {"manifest": str(root), "crop_seconds": 4}
    folder = train(configure("seven", data=data, steps=1))
    assert "clip3" in (error := capsys.readouterr().err)
    assert "silent" in error
    assert json.loads((folder / "result.json").read_text())["stamp"]["clips"] == 7
    with pytest.raises(ManifestError, match=r"7 of 8 clips could be encoded .* batch_size is 8"):
        train(configure("eight", data=data, batch_size=8), quiet=True)


def test_the_oracle_arm_trains_on_its_selection_only(
    configure: Any, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    to_device = Trainer.to_device

    def watch(self: Trainer, batch: Any) -> Any:
        if self.predictor.training and self.backbone.module.training:
            seen.update(batch.ids)
        return to_device(self, batch)

    monkeypatch.setattr(Trainer, "to_device", watch)
    train(configure(data={"manifest": str(clips), "crop_seconds": 4, "select": {"flat": False}}), quiet=True)
    assert seen == {"clip0", "clip2", "clip4", "clip6"}


def test_without_held_out_clips_the_run_says_so(
    configure: Any, clips: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(configure(steps=1, held_out={"every": 1, "select": {"flat": "perhaps"}}))
    assert "no clip is held out" in capsys.readouterr().err


@pytest.fixture(autouse=True)
def _no_leftover_state() -> Iterator[None]:
    """Training leaves the global random state alone."""
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_scheme_that_is_undefined_for_the_model_is_refused_before_anything_is_encoded(configure, clips):
    from eisbach.backbones import load_backbone
    from eisbach.diffusion.paths import get_path
    from eisbach.training.assembly import build_objective

    config = configure("undefined", weighting={"noise_level": "sigma_sqrt"})
    backbone = load_backbone(str(config.model))
    build_objective(config, backbone)  # the linear path is where it is defined
    backbone.path = get_path("vp")
    with pytest.raises(UserError, match="undefined on the vp path"):
        build_objective(config, backbone)


def copied(clips: Path, place: Path) -> Path:
    shutil.copytree(clips, place, ignore=shutil.ignore_patterns("latents"))
    return place


def replace_sound(path: Path, seed: int) -> None:
    """Another sound of the same size under the same name, with the times that the file had."""
    before = path.stat()
    sound, rate = soundfile.read(path, dtype="float32")
    noise = np.random.default_rng(seed).normal(0, 0.1, sound.shape).astype(np.float32)
    soundfile.write(path, noise, rate, subtype=soundfile.info(path).subtype)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("split", ["train", "held_out"])
@pytest.mark.parametrize("state", ["another run", "continued"])
def test_audio_that_changed_after_it_was_encoded_stops_training(
    split: str, state: str, configure: Any, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eisbach.audio._RACY_NS", 0)  # the stamps of the first run count from now on
    root = copied(clips, tmp_path / "set")
    data = {"data": {"manifest": str(root), "crop_seconds": 4}}
    folder = train(configure("first", steps=1, **data), quiet=True)
    row = next(row for row in load_manifest(root) if row.split == split)
    time.sleep(0.05)
    replace_sound(root / row.path, seed=1)
    config = configure("second" if state == "another run" else "first", steps=2, **data)
    with pytest.raises(ManifestError, match=rf"{row.path} has changed since its manifest was made \(clip '{row.id}'\)"):
        train(config, quiet=True)
    assert json.loads((folder / "result.json").read_text())["steps"] == 1


def test_latents_that_were_encoded_before_follow_their_audio_and_their_run_follows_them(
    configure: Any, clips: Path, tiny_model: Path, tmp_path: Path
) -> None:
    root, out = copied(clips, tmp_path / "set"), tmp_path / "latents"
    codec = load_codec(str(tiny_model.parent / "codec.safetensors"))
    pre_encode(load_manifest(root), codec, out, quiet=True)
    data = {"data": {"manifest": str(out), "crop_seconds": 4}}
    train(configure("run", steps=1, **data), quiet=True)
    row = next(iter(load_manifest(root)))
    time.sleep(0.05)
    replace_sound(root / row.path, seed=2)
    with pytest.raises(ManifestError, match=rf"{row.path} has changed since its manifest was made"):
        pre_encode(load_manifest(root), codec, out, quiet=True)
    latents = out / "0000000000.npy"
    np.save(latents, np.load(latents)[:, ::-1])
    with pytest.raises(CheckpointError, match=r"holds a run on another training set: .* there, and .* now"):
        train(configure("run", steps=2, **data), quiet=True)


def test_an_unfinished_run_of_the_version_before_is_refused_and_the_sentence_says_why(configure: Any) -> None:
    folder = train(configure(steps=2), quiet=True)
    (folder / "result.json").unlink()
    path = checkpoints.newest_checkpoint(folder / "checkpoints").folder / "state.json"
    state = json.loads(path.read_text())
    assert state.pop("stamp_format") == 2
    path.write_text(json.dumps(state))  # hashes that agree are believed, whoever made them
    train(configure(steps=3), quiet=True)
    (folder / "result.json").unlink()
    for checkpoint in list_checkpoints(folder / "checkpoints"):
        state = json.loads((checkpoint / "state.json").read_text())
        state.pop("stamp_format", None)
        (checkpoint / "state.json").write_text(json.dumps(state | {"recipe_hash": "f" * 64}))
    with pytest.raises(CheckpointError) as caught:
        train(configure(steps=4), quiet=True)
    assert str(caught.value) == (
        f"{folder} holds an unfinished run of an earlier version of eisbach, which stamped its checkpoints by other "
        "rules, so that nothing says whether this is its recipe; finish it with that version, or choose another out."
    )
