"""What leaves memory, and what is said when memory runs out."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import own_process
import pytest
import torch
import yaml
from safetensors.torch import load_file

from eisbach.audio import audio_hash, write_audio
from eisbach.backbones import load_backbone
from eisbach.backbones.stable_audio3 import StableAudio3Backbone
from eisbach.backbones.text_encoder import TextEncoder
from eisbach.config import build_config
from eisbach.data.manifest import Manifest, ManifestRow, save_manifest
from eisbach.errors import OutOfMemory, UserError, is_out_of_memory
from eisbach.training import train
from eisbach.training.config import TrainConfig
from eisbach.training.data import ConditioningCache
from eisbach.training.devices import out_of_memory_explained, remedies
from eisbach.training.trainer import Trainer
from eisbach.types import LatentBatch, Waveform

NATIVE = Path(__file__).parent.parent / "fixtures" / "sa3_native_tiny"
CPU = torch.device("cpu")


def batch(captions: list[str], seconds: list[float]) -> LatentBatch:
    return LatentBatch(torch.zeros(len(captions), 16, 4), captions, captions, torch.tensor(seconds))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The captions of each call of the text encoder."""
    calls: list[list[str]] = []
    encode = TextEncoder.encode

    def recording(self: TextEncoder, captions: Any, device: torch.device) -> Any:
        calls.append(list(captions))
        return encode(self, captions, device)

    monkeypatch.setattr(TextEncoder, "encode", recording)
    return calls


def native() -> StableAudio3Backbone:
    backbone = load_backbone(NATIVE)
    assert isinstance(backbone, StableAudio3Backbone)
    return backbone


def test_captions_are_encoded_once_whatever_their_duration_and_the_encoder_leaves(encoded: list[list[str]]) -> None:
    backbone = native()
    cache = ConditioningCache(backbone, CPU)
    assert cache.fill(["celesta", "slow strings and bassoon in a minor key", "celesta"])
    assert encoded == [["celesta", "slow strings and bassoon in a minor key"]]
    assert not backbone.text_encoder.loaded
    got = cache(batch(["slow strings and bassoon in a minor key", "celesta", "celesta"], [2.0, 3.5, 1.25]))
    assert len(encoded) == 1
    assert not backbone.text_encoder.loaded
    expected = native().condition(["slow strings and bassoon in a minor key", "celesta", "celesta"], [2.0, 3.5, 1.25])
    assert torch.equal(got.global_embed, expected.global_embed)
    assert got.token_mask is not None
    assert expected.token_mask is not None
    assert torch.equal(got.token_mask, expected.token_mask)
    mask = expected.token_mask[..., None]
    assert torch.allclose(got.tokens * mask, expected.tokens * mask, atol=1e-5)


def test_a_caption_that_was_not_foreseen_is_read_all_the_same(encoded: list[list[str]]) -> None:
    backbone = native()
    cache = ConditioningCache(backbone, CPU)
    cache.fill(["celesta"])
    cache(batch(["a new one"], [1.0]))
    assert encoded == [["celesta"], ["a new one"]]


def test_captions_beyond_the_cache_s_size_keep_the_encoder() -> None:
    backbone = native()
    cache = ConditioningCache(backbone, CPU, limit_bytes=1)
    assert not cache.fill(["celesta", "slow strings"])
    assert backbone.text_encoder.loaded


def test_a_backbone_without_a_text_encoder_has_none_to_release(tiny_model: Path) -> None:
    assert not ConditioningCache(load_backbone(tiny_model), CPU).fill(["calm cello"])


def test_a_duration_beyond_the_model_is_refused_from_the_cache_too() -> None:
    cache = ConditioningCache(native(), CPU)
    cache.fill(["celesta"])
    with pytest.raises(UserError, match=r"a duration of 400 s arrived; this model knows durations of up to 384 s"):
        cache(batch(["celesta"], [400.0]))


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    root, rng, rows = tmp_path / "clips", np.random.default_rng(0), []
    for index, seconds in enumerate((0.5, 0.3, 0.2, 0.45)):
        write_audio(
            root / f"{index}.wav",
            Waveform((0.1 * rng.standard_normal((2, round(44100 * seconds)))).astype(np.float32), 44100),
        )
        rows.append(
            ManifestRow(
                id=str(index),
                path=f"{index}.wav",
                caption=["slow strings and bassoon", "celesta", "a choir"][index % 3],
                duration=seconds,
                labels={},
                audio_hash=audio_hash(root / f"{index}.wav"),
                split="train",
            )
        )
    save_manifest(Manifest(rows, root))
    return root


def values(manifest: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return {
        "model": str(NATIVE),
        "data": {"manifest": str(manifest), "crop_seconds": 0.4},
        "adapter": {"type": "lora", "rank": 2},
        "optimiser": {"lr": 1e-2},
        "batch_size": 2,
        "steps": 4,
        "checkpoint": {"every": 1},
        "held_out": {"every": 0},
        "tensorboard": False,
        "out": str(out),
        **changes,
    }


def configuration(manifest: Path, out: Path, **changes: Any) -> TrainConfig:
    return build_config(TrainConfig, values(manifest, out, **changes), "test")


def test_training_runs_without_the_text_encoder_and_so_does_what_continues_it(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[list[str]]
) -> None:
    loaded: list[bool] = []
    take_step = Trainer.take_step

    def watched(self: Trainer) -> None:
        take_step(self)
        loaded.append(self.backbone.text_encoder.loaded)  # type: ignore[attr-defined]

    monkeypatch.setattr(Trainer, "take_step", watched)
    straight = train(configuration(manifest, tmp_path / "straight"), quiet=True)
    assert encoded == [["slow strings and bassoon", "celesta", "a choir"]]
    train(configuration(manifest, tmp_path / "continued", steps=1), quiet=True)
    continued = train(configuration(manifest, tmp_path / "continued"), quiet=True)
    assert loaded == [False] * 8
    assert encoded == encoded[:1] * 3  # in the same chunks, wherever it is continued
    first, second = (load_file(run / "adapter" / "adapter_model.safetensors") for run in (straight, continued))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_host_s_own_error_is_recognised_and_others_pass(manifest: Path, tmp_path: Path) -> None:
    config = configuration(manifest, tmp_path)
    with pytest.raises(OutOfMemory) as caught, out_of_memory_explained(config, CPU):
        torch.empty(2**55, dtype=torch.uint8)
    said = str(caught.value)
    assert said.startswith("this machine ran out of memory: at least ")
    assert "33554432.0 GiB more were asked for" in said
    for change in (
        "(1) gradient_checkpointing: true",
        "(2) batch_size: 1 with accumulation: 2",
        "(3) data.crop_seconds: 0.2",
    ):
        assert change in said
    assert "\n" not in said
    with pytest.raises(OutOfMemory), out_of_memory_explained(config, CPU):
        np.zeros((2**40, 2**15), dtype=np.uint8)
    with pytest.raises(RuntimeError, match="something else"), out_of_memory_explained(config, CPU):
        raise RuntimeError("something else")
    with pytest.raises(UserError, match="mine"), out_of_memory_explained(config, CPU):
        raise UserError("mine")


def test_a_gpu_s_error_names_the_gpu_its_memory_and_the_need(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=24 * gib))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Test GPU")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 23 * gib)
    error = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 24.00 GiB of which 1 GiB is "
        "free."
    )
    with (
        pytest.raises(OutOfMemory) as caught,
        out_of_memory_explained(configuration(manifest, tmp_path), torch.device("cuda")),
    ):
        raise error
    assert (
        "the GPU (Test GPU) ran out of memory: at least 25.5 GiB are needed (23.0 GiB were in use and 2.5 GiB more "
        "were asked "
        "for) and it has 24.0 GiB" in str(caught.value)
    )


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: out of memory",
        "MPS backend out of memory (MPS allocated: 9.00 GB)",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.",
    ],
)
def test_messages_that_mean_it(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))
    assert not is_out_of_memory(ValueError(message))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gradient_checkpointing": True, "batch_size": 1},
        {"gradient_checkpointing": True, "batch_size": 1, "adapter": {"type": "lora", "rank": 1}, "frozen": "bf16"},
        {"adapter": {"type": "none"}, "batch_size": 1, "gradient_checkpointing": True},
        {"precision": "fp32", "batch_size": 5},
    ],
)
def test_there_are_always_three_things_to_change_and_none_is_in_force_already(
    changes: dict[str, Any], manifest: Path, tmp_path: Path
) -> None:
    config = configuration(manifest, tmp_path, **changes)
    found = remedies(config)
    assert len(found) >= 3
    said = "; ".join(found)
    assert ("gradient_checkpointing" in said) != config.gradient_checkpointing
    assert ("batch_size" in said) == (config.batch_size > 1)
    if config.batch_size == 5:
        assert "batch_size: 2 with accumulation: 3" in said


def _hungry(recipe: str) -> None:
    """`eisbach train`, whose third step asks for a pebibyte."""
    from eisbach.training.trainer import Trainer

    step = Trainer._micro_batch

    def hungry(self: Trainer, *args: Any) -> Any:
        if self.step == 2:
            torch.empty(2**50, dtype=torch.uint8)
        return step(self, *args)

    Trainer._micro_batch = hungry  # type: ignore[method-assign]
    own_process.command(["train", recipe, "--quiet"])


def test_training_that_runs_out_of_memory_is_one_sentence_and_exit_code_2(manifest: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values(manifest, tmp_path / "run")))
    done = own_process.OwnProcess(_hungry, str(recipe)).wait()
    assert done.returncode == 2, done.stderr
    # what was asked for, and the few GiB that a test process holds already
    assert re.match(r"eisbach: this machine ran out of memory: at least 10485(7[6-9]|8\d)\.", done.stderr), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert (tmp_path / "run" / "checkpoints" / "step-000002" / "state.json").is_file()
