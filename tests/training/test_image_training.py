"""One TrainConfig trains audio or images; here images: digits and folders, with real backbones of tiny size."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from eisbach.backbones import load_backbone
from eisbach.config import build_config, dump_yaml
from eisbach.errors import ConfigError, UserError
from eisbach.files import read_jsonl
from eisbach.tensor_files import read_tensors
from eisbach.training.config import TrainConfig
from eisbach.training.loop import train

TINY = {
    "kind": "dit",
    "latent_channels": 1,
    "latent_size": 8,
    "patch": 4,
    "width": 16,
    "depth": 1,
    "heads": 2,
    "classes": 10,
}


def configure(out: Path, model: dict[str, Any] | None = None, **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "model": {"create": {**TINY, "target": "v", **(model or {})}},
        "data": {"images": {"source": "digits"}},
        "adapter": {"type": "none"},
        "steps": 4,
        "batch_size": 8,
        "held_out": {"every": 4, "batches": 1, "noise_levels": [0.5]},
        "checkpoint": {"every": 2, "keep": 5},
        "ema_decay": 0.9,
        "tensorboard": False,
        "log_every": 2,
        "out": str(out),
    }
    return build_config(TrainConfig, {**values, **changes})


def weights(folder: Path) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in read_tensors(folder / "model" / "model.safetensors").items()}


def test_digits_train_and_a_stopped_run_continues_exactly(tmp_path):
    whole = train(configure(tmp_path / "whole"), quiet=True)
    rows = read_jsonl(whole / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [2, 4]
    assert rows[-1]["held_out_loss"] > 0
    first = train(configure(tmp_path / "parts", steps=2), quiet=True)
    assert first.name == "parts"
    train(configure(tmp_path / "parts"), quiet=True)
    one, two = weights(whole), weights(tmp_path / "parts")
    assert all((one[name] == two[name]).all() for name in one)
    model = load_backbone(whole / "model")
    assert model.condition(["7"], [1.0]).tokens.tolist() == [[7]]


def test_the_spatial_barrier_and_erd_weigh_images(tmp_path):
    weighting = {"sample": "entropy_barrier", "noise_level": "erd", "options": {"over": "all"}}
    folder = train(configure(tmp_path / "run", weighting=weighting, steps=2), quiet=True)
    row = next(row for row in read_jsonl(folder / "metrics.jsonl") if "belief_mean" in row)
    assert 0 < row["belief_mean"] <= 1
    assert row["weighted_loss"] != row["loss"]


def test_a_memory_of_images_says_that_it_will_hardly_read_them(tmp_path, capsys):
    weighting = {"sample": "entropy_barrier", "options": {"over": "all"}, "memory": {"below": 0.6}}
    folder = train(configure(tmp_path / "run", weighting=weighting, steps=2))
    assert "the memory will read the form of a clip 0.0 times on average (16 samples" in capsys.readouterr().err
    state = read_tensors(folder / "checkpoints" / "step-000002" / "weighting.safetensors")
    assert state["memory.counts"].numel() > 0


@pytest.fixture
def class_folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("oak", "elm"):
        (tmp_path / "trees" / name).mkdir(parents=True)
        for number in range(8):
            size = 8 if number else 11
            image = Image.fromarray(rng.integers(0, 256, (size, size), dtype=np.uint8))
            image.save(tmp_path / "trees" / name / f"{number}.png")
    return tmp_path / "trees"


def test_a_folder_names_the_models_classes_and_caches_its_latents(class_folder, tmp_path, capsys):
    images = {"folder": str(class_folder), "held_out_share": 0, "flip": True}
    config = configure(tmp_path / "run", {"classes": 2}, data={"images": images})
    model = load_backbone(train(config, quiet=True) / "model")
    assert model.classes == ["elm", "oak"]
    assert list((class_folder / ".latents").glob("*.npy"))
    strict = configure(tmp_path / "strict", {"classes": 2}, data={"images": {**images, "resize": "none"}})
    train(strict)
    said = capsys.readouterr().err
    assert "14 of 16 images are used" in said
    assert "11x11 pixels and 8x8 are wanted" in said


def test_a_class_without_a_usable_image_is_refused(class_folder, tmp_path):
    for path in (class_folder / "oak").iterdir():
        Image.fromarray(np.zeros((11, 11, 3), dtype=np.uint8)).save(path)
    images = {"folder": str(class_folder), "held_out_share": 0, "resize": "none"}
    with pytest.raises(ConfigError, match="no image of the class oak can be used"):
        train(configure(tmp_path / "run", {"classes": 2}, data={"images": images}, batch_size=2), quiet=True)


def test_data_and_model_must_fit(class_folder, tmp_path):
    folder = {"images": {"folder": str(class_folder), "held_out_share": 0}}

    def run(model: dict[str, Any], data: dict[str, Any], **changes: Any) -> None:
        train(configure(tmp_path / "run", model, data=data, **changes), quiet=True)

    with pytest.raises(UserError, match="2 classes and the model none"):
        run({"classes": 0}, folder)
    with pytest.raises(UserError, match=r"10 classes .* not elm, oak"):
        run({}, folder)
    with pytest.raises(UserError, match="16 images and batch_size is 64"):
        run({"classes": 2}, folder, batch_size=64)
    with pytest.raises(UserError, match="makes audio"):
        train(configure(tmp_path / "run", data=folder).model_copy(update={"model": "embedded"}), quiet=True)
    with pytest.raises(UserError, match="no class 12"):
        run({}, {"images": {"source": "digits", "only": ["12"]}})
    # an unlabelled image trains the null token
    run({"classes": 0}, {"images": {**folder["images"], "classes": "none"}}, held_out={"every": 0})


def test_an_image_model_refuses_audio(tmp_path, clips):
    with pytest.raises(UserError, match=r"makes images and data\.manifest names audio"):
        train(configure(tmp_path / "run", data={"manifest": str(clips), "crop_seconds": 2}, batch_size=2), quiet=True)


def test_contradictions_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        build_config(
            TrainConfig,
            {
                "data": {"images": "pictures", "manifest": "songs", "crop_seconds": 5, "select": {"a": "b"}},
                "objective": {"inpainting": True, "silence_extension": 4},
            },
        )
    message = str(caught.value)
    assert "5 faults" in message
    for key in (
        "data.manifest",
        "data.crop_seconds",
        "data.select",
        "objective.inpainting",
        "objective.silence_extension",
    ):
        assert key in message
    with pytest.raises(ConfigError, match=r"data\.manifest.* required"):
        build_config(TrainConfig, {"data": {}})
    with pytest.raises(ConfigError, match="needs a folder"):
        build_config(TrainConfig, {"data": {"images": {}}})
    with pytest.raises(ConfigError, match="leave folder out"):
        build_config(TrainConfig, {"data": {"images": {"source": "digits", "folder": "x"}}})
    with pytest.raises(ConfigError, match="lists no length"):
        build_config(TrainConfig, {"data": {"manifest": "x", "crop_seconds": []}})


def test_the_resolved_configuration_can_be_read_again(tmp_path):
    config = configure(tmp_path)
    assert build_config(TrainConfig, yaml.safe_load(dump_yaml(config))) == config
    assert build_config(TrainConfig, {"data": {"images": "x"}}).data.images.folder == "x"
