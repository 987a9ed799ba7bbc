from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_audio import tone, write
from typer.testing import CliRunner

from eisbach.audio import read_audio
from eisbach.cli.data import app
from eisbach.codecs import load_codec
from eisbach.codecs.base import Codec
from eisbach.config import build_config
from eisbach.data.audio_folder import read_folder
from eisbach.data.batches import LatentDataset
from eisbach.data.latents import encode_manifest
from eisbach.data.manifest import Manifest, ManifestRow, save_manifest
from eisbach.data.pre_encode import pre_encode
from eisbach.data.pre_encoded import is_pre_encoded, latent_entries, read_pre_encoded
from eisbach.data.pre_encoded_report import inspect_folder
from eisbach.errors import ManifestError, UserError
from eisbach.training import train
from eisbach.training.config import TrainConfig
from eisbach.training.data import load_data, load_manifests


@pytest.fixture(scope="module")
def codec(tiny_model: Path) -> Codec:
    return load_codec(str(tiny_model.parent / "codec.safetensors"))


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    root = tmp_path / "audio"
    for number, seconds in enumerate([6.0, 7.5, 9.0, 20.0]):
        write(root / f"{number}.wav", tone(seconds, frequency=200.0 + 90 * number))
    made, _ = read_folder(root, caption_from="name", labels={"kind": "developing"}, quiet=True)
    rows = [
        ManifestRow(row.id, row.path, row.caption, row.duration, row.labels, row.audio_hash, "train") for row in made
    ]
    return Manifest(rows, root)


@pytest.fixture
def folder(manifest: Manifest, codec: Codec, tmp_path: Path) -> Path:
    pre_encode(manifest, codec, tmp_path / "latents", quiet=True)
    return tmp_path / "latents"


def edit(path: Path, **changes: Any) -> None:
    values = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            values.pop(key)
        else:
            values[key] = value
    path.write_text(json.dumps(values))


def foreign_reader(folder: Path, length: int) -> list[tuple[torch.Tensor, list[int], dict[str, Any]]]:
    """What Stability's trainer does with a folder, in words of our own: every .npy but silence, its .json by the same
    stem, cut or continued with the folder's silence to `length` frames.
    """
    silence = np.load(folder / "silence.npy").squeeze(0)
    items = []
    for path in sorted(folder.glob("*.npy")):
        if path.name == "silence.npy":
            continue
        latents = torch.from_numpy(np.load(path))
        info = json.loads(Path(str(path).replace(".npy", ".json")).read_text())
        mask, missing = list(info["padding_mask"]), length - latents.shape[1]
        if missing > 0:
            repeats = missing // silence.shape[1] + 1
            latents = torch.cat([latents, torch.from_numpy(np.tile(silence, (1, repeats))[:, :missing])], dim=1)
            mask += [0] * missing
        last = len(mask) - 1 - mask[::-1].index(1)
        assert last >= 0
        items.append((latents[:, :length], mask[:length], info))
    return items


def test_what_is_written_is_what_the_codec_gives_and_others_can_read_it(
    folder: Path, manifest: Manifest, codec: Codec
) -> None:
    names = sorted(path.name for path in folder.iterdir())
    stems = [f"{number:06d}0000" for number in range(4)]
    assert names == sorted(
        [f"{stem}{end}" for stem in stems for end in (".npy", ".json")] + ["details.json", "silence.npy"]
    )
    for row, stem in zip(manifest, stems, strict=True):
        array = np.load(folder / f"{stem}.npy", allow_pickle=False)
        expected = codec.encode(read_audio(manifest.audio_path(row))).numpy()
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, expected)
        values = json.loads((folder / f"{stem}.json").read_text())
        assert values["prompt"] == row.caption
        assert values["seconds_start"] == 0
        assert values["seconds_total"] == int(np.ceil(row.duration))
        assert values["padding_mask"] == [1] * array.shape[1]
        assert values["sample_rate"] == codec.sample_rate
        assert values["path"] == values["relpath"] == row.path
        assert values["timestamps"] == [0.0, 1.0]
    silence = np.load(folder / "silence.npy")
    assert silence.shape[:2] == (1, codec.channels)
    for latents, mask, _ in foreign_reader(folder, 30):
        assert latents.shape == (codec.channels, 30)
        assert len(mask) == 30


def test_writing_and_reading_keep_everything(folder: Path, manifest: Manifest, codec: Codec, tmp_path: Path) -> None:
    assert is_pre_encoded(folder)
    assert not is_pre_encoded(manifest.root / "nothing")
    assert not is_pre_encoded(manifest.root)
    again, report = read_pre_encoded(folder)
    assert not report.skipped
    assert [(row.id, row.caption, row.labels, row.split) for row in again] == [
        (row.id, row.caption, row.labels, row.split) for row in manifest
    ]
    cache = latent_entries(again, codec)
    direct = encode_manifest(manifest, codec, tmp_path / "cache", crop_seconds=6.0, quiet=True)
    ours, audio = LatentDataset(cache, 10, seed=4), LatentDataset(direct, 10, seed=4)
    for step in range(6):
        a, b = ours.batch(step, 2), audio.batch(step, 2)
        assert a.ids == b.ids
        assert a.captions == b.captions
        assert torch.equal(a.latents, b.latents)


def test_the_same_call_continues_and_never_mixes(
    folder: Path, manifest: Manifest, codec: Codec, tmp_path: Path
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert pre_encode(manifest, codec, folder, quiet=True).fresh == 0
    changed = {path.name for path in folder.iterdir() if before[path.name] != path.stat().st_mtime_ns}
    assert changed == {"details.json"}
    whole = (folder / "0000010000.npy").read_bytes()
    (folder / "0000010000.npy").write_bytes(whole[:-40])  # as after a crash of the machine
    (folder / "0000020000.json").unlink()  # as after a death between the two files
    rows = [*manifest.rows[2:], *manifest.rows[:2]]  # numbers belong to clips, whatever their order
    renamed = [
        ManifestRow(row.id, row.path, f"new {row.caption}", row.duration, row.labels, row.audio_hash, row.split)
        for row in rows
    ]
    made = pre_encode(Manifest(renamed, manifest.root), codec, folder, quiet=True)
    assert (made.clips, made.files, made.fresh) == (4, 4, 2)
    assert (folder / "0000010000.npy").read_bytes() == whole
    assert json.loads((folder / "0000030000.json").read_text())["prompt"] == "new 3"
    assert len(list(folder.glob("*.npy"))) == 5
    with pytest.raises(UserError, match=r"holds latents of '3.wav' .*not in this manifest"):
        pre_encode(Manifest(manifest.rows[:3], manifest.root), codec, folder, quiet=True)
    with pytest.raises(UserError, match="other settings: precision was 'float32' and is now 'float16';"):
        pre_encode(manifest, codec, folder, precision="float16", quiet=True)
    save_manifest(manifest)
    with pytest.raises(UserError, match="holds a manifest"):
        pre_encode(manifest, codec, manifest.root, quiet=True)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    shutil.copy(folder / "0000000000.npy", foreign)
    with pytest.raises(UserError, match="another tool wrote"):
        pre_encode(manifest, codec, foreign, quiet=True)
    shutil.copy(folder / "0000000000.npy", folder / "extra.npy")
    with pytest.raises(UserError, match="1 files that are not of this manifest"):
        pre_encode(Manifest(renamed, manifest.root), codec, folder, quiet=True)


def test_long_clips_are_cut_into_equal_sections(manifest: Manifest, codec: Codec, tmp_path: Path) -> None:
    out = tmp_path / "cut"
    made = pre_encode(manifest, codec, out, max_seconds=8.0, precision="float16", quiet=True)
    assert (made.clips, made.files) == (4, 1 + 1 + 2 + 3)
    last = json.loads((out / "0000030002.json").read_text())
    assert (last["seconds_start"], last["seconds_total"]) == (13, 20)
    assert last["timestamps"] == [pytest.approx(2 / 3), 1.0]
    assert np.load(out / "0000030002.npy").dtype == np.float16
    rows, _ = read_pre_encoded(out)
    assert [row.id for row in rows][-3:] == ["3.wav#0", "3.wav#1", "3.wav#2"]
    batch = LatentDataset(latent_entries(rows, codec), 4, seed=0).batch(0, 2)
    assert batch.latents.dtype == torch.float32


def native_folder(root: Path, folder: Path) -> Path:
    """The folder as another tool would have written it: no entry of ours, padded to 60 frames, one folder a process."""
    place = root / "native" / "0"
    place.mkdir(parents=True)
    silence = np.load(folder / "silence.npy")
    np.save(root / "native" / "silence.npy", silence)
    for path in folder.glob("*.json"):
        if path.name == "details.json":
            continue
        array = np.load(path.with_suffix(".npy"))[:, :60]
        values = json.loads(path.read_text())
        values.pop("eisbach")
        valid = array.shape[1]
        padded = np.concatenate([array, np.tile(silence[0], (1, 3))[:, : 60 - valid]], axis=1)
        values["padding_mask"] = [1] * valid + [0] * (60 - valid)
        np.save(place / f"000{path.stem}.npy", padded)
        (place / f"000{path.stem}.json").write_text(json.dumps(values))
    return root / "native"


def test_what_others_wrote_is_read_with_its_padding_left_out(folder: Path, codec: Codec, tmp_path: Path) -> None:
    rows, report = read_pre_encoded(native_folder(tmp_path, folder))
    assert not report.skipped
    assert [row.id for row in rows] == [f"0/000{number:06d}0000" for number in range(4)]
    assert all(not row.labels for row in rows)
    cache = latent_entries(rows, codec)
    for number, entry in enumerate(cache.entries):
        valid = np.load(folder / f"{number:06d}0000.npy").shape[1]
        assert entry.frames == (min(60, valid),)
        assert entry.row.duration == pytest.approx(min(60, valid) / codec.latent_rate)
    shortest = min(entry.frames[0] for entry in cache.entries)
    batch = LatentDataset(cache, shortest + 5, seed=0).batch(0, 4)
    assert batch.mask is not None
    row = [entry.frames[0] for entry in cache.entries].index(shortest)
    place = batch.ids.index(rows.rows[row].id)
    assert batch.mask[place].tolist() == [True] * shortest + [False] * 5
    silence = torch.from_numpy(np.load(folder / "silence.npy")[0])
    assert torch.equal(batch.latents[place][:, shortest:], silence[:, :5])  # the padding that the model knows


def test_a_mask_with_holes_uses_its_longest_stretch_and_says_so(folder: Path, codec: Codec) -> None:
    frames = np.load(folder / "0000000000.npy").shape[1]
    edit(folder / "0000000000.json", padding_mask=[1, 0, 0] + [1] * (frames - 4) + [0])
    rows, report = read_pre_encoded(folder)
    assert [item.reason for item in report.skipped] == [
        f"only {frames - 4} of {frames - 3} valid frames are one stretch and used"
    ]
    entry = latent_entries(rows, codec).entries[0]
    assert (entry.first, entry.frames) == (3, (frames - 4,))
    batch = LatentDataset(latent_entries(rows, codec), frames - 4, seed=0)
    drawn = next(batch.batch(step, 1) for step in range(4) if batch.batch(step, 1).ids == [entry.row.id])
    assert torch.equal(drawn.latents[0], torch.from_numpy(np.load(entry.path)[:, 3:-1]))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (lambda f: truncate(f / "0000000000.npy"), "is truncated or not a NumPy array"),
    "empty file": (lambda f: (f / "0000000000.npy").write_bytes(b""), "is truncated or not a NumPy array"),
    "pickle": (
        lambda f: np.save(f / "0000000000.npy", np.array([{}], dtype=object), allow_pickle=True),
        "is truncated or not a NumPy array",
    ),
    "tokens": (lambda f: np.save(f / "0000000000.npy", np.zeros((8, 9), np.int64)), "not floating-point latents"),
    "one row": (lambda f: np.save(f / "0000000000.npy", np.zeros(9, np.float32)), "not floating-point latents"),
    "nan": (lambda f: np.save(f / "0000000000.npy", np.full((8, 12), np.nan, np.float32)), "holds NaN or infinite"),
    "no json": (lambda f: (f / "0000000000.json").unlink(), "has no 0000000000.json beside it"),
    "broken json": (lambda f: (f / "0000000000.json").write_text("{"), "is not valid JSON"),
    "a list": (lambda f: (f / "0000000000.json").write_text("[]"), "must be one JSON object"),
    "no prompt": (lambda f: edit(f / "0000000000.json", prompt=None), "has no text under 'prompt'"),
    "a number": (lambda f: edit(f / "0000000000.json", prompt=5), "has no text under 'prompt'"),
    "short mask": (lambda f: edit(f / "0000000000.json", padding_mask=[1, 1]),
    "padding_mask of 2 frames and latents of 12"),
    "no frame": (lambda f: edit(f / "0000000000.json", padding_mask=[0] * 12), "without a valid frame"),
    "odd mask": (lambda f: edit(f / "0000000000.json", padding_mask="all"), "not a list of 0 and 1"),
    "odd rate": (lambda f: edit(f / "0000000000.json", sample_rate="44k"), "positive number of Hz"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_clip_is_left_out_with_one_sentence(folder: Path, fault: str) -> None:
    harm, said = FAULTS[fault]
    array = np.load(folder / "0000000000.npy")[:, :12]
    np.save(folder / "0000000000.npy", array)
    edit(folder / "0000000000.json", padding_mask=[1] * 12)
    assert not read_pre_encoded(folder)[1].skipped
    harm(folder)
    rows, report = read_pre_encoded(folder)
    assert len(rows) == 3
    assert [item.item for item in report.skipped] == ["0000000000.npy"]
    assert said in report.skipped[0].reason
    assert "\n" not in report.skipped[0].reason
    assert report.skipped[0].reason.endswith(".")


@pytest.mark.parametrize(
    "fault", [SystemError("AST constructor recursion depth mismatch"), OSError(errno.ENOMEM, "Cannot allocate memory")]
)
def test_what_fails_in_the_machine_leaves_no_clip_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    load = np.load

    def fail_once(path: Path, *arguments: Any, **options: Any) -> Any:
        if Path(path).name == "0000020000.npy":
            raise fault
        return load(path, *arguments, **options)

    monkeypatch.setattr(np, "load", fail_once)
    with pytest.raises(type(fault)):
        read_pre_encoded(folder)


def test_folders_that_cannot_be_used(folder: Path, codec: Codec, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match=r"holds no latents .*eisbach data encode"):
        read_pre_encoded(tmp_path / "empty")
    rows, _ = read_pre_encoded(folder)
    np.save(folder / "0000000000.npy", np.zeros((codec.channels + 1, 12), np.float32))
    edit(folder / "0000000000.json", padding_mask=[1] * 12)
    with pytest.raises(ManifestError, match=r"holds latents of different codecs: 8 channels .*9 channels"):
        read_pre_encoded(folder)
    with pytest.raises(ManifestError, match="latents of 9 channels and the model reads 8"):
        latent_entries(rows, codec)
    edit(folder / "0000010000.json", sample_rate=44100)
    with pytest.raises(ManifestError, match="encoded at 44100 Hz and the model's codec works at 8000 Hz"):
        latent_entries(Manifest(rows.rows[1:], rows.root), codec)
    for path in folder.glob("0*.json"):
        path.unlink()
    with pytest.raises(ManifestError, match=r"none of the 4 clips .*has no 0000000000.json"):
        read_pre_encoded(folder)


def test_latents_of_another_autoencoder_are_refused(folder: Path, codec: Codec, tmp_path: Path) -> None:
    details = json.loads((folder / "details.json").read_text())
    details["eisbach"]["codec"] = "bands-other"
    (folder / "details.json").write_text(json.dumps(details))
    rows, _ = read_pre_encoded(folder)
    with pytest.raises(ManifestError, match="are of the codec bands-other and the model's is"):
        latent_entries(rows, codec)
    (folder / "details.json").unlink()  # another tool's folder: silence tells
    assert latent_entries(rows, codec).silence is not None
    silence = np.load(folder / "silence.npy")
    np.save(folder / "silence.npy", silence[:, ::-1])
    with pytest.raises(ManifestError, match="is not the silence of this model's codec"):
        latent_entries(rows, codec)
    np.save(folder / "silence.npy", silence[:, :3])
    with pytest.raises(ManifestError, match=r"not finite latents \(1, 8, frames\)"):
        latent_entries(rows, codec)
    (folder / "silence.npy").unlink()
    assert latent_entries(rows, codec).silence is None


def config(folder: Path, tiny_model: Path, out: Path, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "model": str(tiny_model),
        "data": {"manifest": str(folder), "crop_seconds": 4},
        "adapter": {"type": "lora", "rank": 2},
        "steps": 3, "batch_size": 2, "held_out": {"every": 0}, "tensorboard": False, "out": str(out),
    }  # fmt: skip
    return build_config(TrainConfig, {**values, **changes})


def test_a_folder_trains_without_its_audio_as_the_audio_does(
    folder: Path, manifest: Manifest, tiny_model: Path, tmp_path: Path
) -> None:
    save_manifest(manifest)
    crop = {"crop_seconds": 6.0}  # whole clips are one section each way
    train(config(folder, tiny_model, tmp_path / "a", data={"manifest": str(manifest.root), **crop}), quiet=True)
    shutil.rmtree(manifest.root)
    train(config(folder, tiny_model, tmp_path / "b", data={"manifest": str(folder), **crop}), quiet=True)
    first, second = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in "ab")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("crop", ["full", "7-12", {"seconds": 12, "buckets": 2, "fit": "pad"}])
def test_training_in_buckets(
    folder: Path, tiny_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], crop: object
) -> None:
    train(config(folder, tiny_model, tmp_path / "run", data={"manifest": str(folder), "crop_seconds": crop}))
    said = capfd.readouterr().err
    assert "clips by length: " in said
    assert ("s is shorter than min_seconds" in said) == (crop == "7-12")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert np.isfinite(rows[-1]["loss"])


def test_buckets_resume_exactly_and_hold_out(
    manifest: Manifest, codec: Codec, tiny_model: Path, tmp_path: Path
) -> None:
    rows = [replace(row, split="held_out" if row.id == "3.wav" else "train") for row in manifest]
    pre_encode(Manifest(rows, manifest.root), codec, tmp_path / "held", quiet=True)
    more = {
        "data": {"manifest": str(tmp_path / "held"), "crop_seconds": "full"},
        "held_out": {"every": 2, "batches": 1},
        "checkpoint": {"every": 2},
        "log_every": 1,
    }
    train(config(tmp_path / "held", tiny_model, tmp_path / "a", **more, steps=5), quiet=True)
    train(config(tmp_path / "held", tiny_model, tmp_path / "b", **more, steps=2), quiet=True)
    train(config(tmp_path / "held", tiny_model, tmp_path / "b", **more, steps=5), quiet=True)
    logged, continued = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()] for name in "ab"
    )
    for row in logged + continued:
        row.pop("steps_per_second", None)
    assert logged == continued
    first, second = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in "ab")
    apart = {name: float((first[name] - second[name]).abs().max()) for name in first}
    assert apart == dict.fromkeys(first, 0.0), f"{torch.get_num_threads()} threads"
    assert [row["step"] for row in logged if "held_out_loss" in row] == [0, 2, 4, 5]


def test_audio_and_latents_train_together(folder: Path, manifest: Manifest, codec: Codec, tmp_path: Path) -> None:
    save_manifest(Manifest(manifest.rows[:2], manifest.root))
    rows = load_manifests([str(manifest.root), str(folder)])
    assert len(rows) == 6
    data_config = build_config(TrainConfig, {"data": {"manifest": "x", "crop_seconds": 6}}).data
    data = load_data(rows, codec, data_config.crop_seconds, tmp_path / "cache", 0, batch_size=2, quiet=True)
    drawn = [name for step in range(3) for name in data.batch(step, step, 2).ids]
    assert sorted(drawn) == sorted(row.id for row in rows)
    crops = build_config(TrainConfig, {"data": {"manifest": "x", "crop_seconds": "15-40"}}).data.crop_seconds
    with pytest.raises(ManifestError, match=r"only 1 of 6 clips are long enough .*batch_size is 2"):
        load_data(rows, codec, crops, tmp_path / "cache", 0, batch_size=2, quiet=True)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.whole
def test_the_commands(manifest: Manifest, tiny_model: Path, codec: Codec, tmp_path: Path) -> None:
    save_manifest(manifest)
    out = tmp_path / "out"
    common = ["encode", str(manifest.root), "--model", str(tiny_model), "--format", "sa3", "--out", str(out)]
    planned = json.loads(run(*common, "--dry-run"))
    assert (planned["clips"], planned["identity"], planned["device"]) == (4, codec.identity(), "cpu")
    assert not out.exists()
    made = json.loads(run(*common, "--json", "--jobs", "2"))  # in two processes
    assert made["clips"] == 4
    single = tmp_path / "single"
    pre_encode(manifest, codec, single, quiet=True)
    for path in single.iterdir():
        assert path.read_bytes() == (out / path.name).read_bytes()
    seen = json.loads(run("latents", str(out), "--model", str(tiny_model), "--json", "--batch-size", "2"))
    assert seen["clips"] == 4
    assert seen["padded_share"] > seen["padding_share"]
    assert "4 clips of 8 channels" in run("latents", str(out))
    with pytest.raises(UserError, match="give --out FOLDER"):
        run("encode", str(manifest.root), "--format", "sa3")
    with pytest.raises(UserError, match="choose cache or sa3"):
        run("encode", str(manifest.root), "--format", "npz")
    with pytest.raises(UserError, match="give one of the two"):
        run("encode", str(manifest.root), "--codec", "bands", "--model", str(tiny_model))
    with pytest.raises(UserError, match="computes on the CPU only"):
        run("encode", str(manifest.root), "--device", "cuda")
    with pytest.raises(UserError, match="longest section must be a positive"):
        run(*common, "--max-seconds", "0")
    with pytest.raises(ManifestError, match="holds no latents"):
        inspect_folder(manifest.root)
