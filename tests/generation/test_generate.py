from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_process import eisbach, start_eisbach
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from eisbach import adapters, audio
from eisbach.adapters.formats import peft as peft_format
from eisbach.audio import audio_hash, read_audio
from eisbach.backbones import load_backbone
from eisbach.backbones.stable_audio3 import StableAudio3Backbone
from eisbach.config import build_config
from eisbach.data.manifest import load_manifest
from eisbach.errors import CheckpointError, ConfigError, InterruptedRun, StorageError, UserError
from eisbach.generation import GenerateConfig, generate, prompts_from_texts
from eisbach.generation.generate import sampled_seconds, settle_sampling

PROMPTS = prompts_from_texts(["slow low cello", "fast high celesta"])


def config_of(model: Path, out: Path, **changes: Any) -> GenerateConfig:
    values: dict[str, Any] = {
        "model": str(model),
        "out": str(out),
        "prompts": [prompt.model_dump() for prompt in PROMPTS],
        "seeds": [0, 1],
        "num_inference_steps": 3,
        "batch_size": 4,
    }
    return build_config(GenerateConfig, values | changes)


@pytest.fixture(scope="module")
def made(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made")
    generate(config_of(tiny_model, out), quiet=True)
    return out


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: audio_hash(path) for path in sorted(folder.glob("*.flac"))}


def make_adapter(model: Path, folder: Path, size: float) -> Path:
    backbone = load_backbone(model)
    stamp = {"base_identity": backbone.identity()}
    config = adapters.adapter_config(backbone, kind="dora", rank=2, alpha=2.0)
    adapters.inject(backbone, config, seed=1)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in backbone.module.named_parameters():
        if "lora_B" in name:
            parameter.data = size * torch.randn(parameter.shape, generator=generator)
    peft_format.save(folder, backbone.module, config, stamp)
    return folder


def test_manifest_names_what_was_played(made: Path) -> None:
    manifest = load_manifest(made)
    assert {(row.labels["arm"], row.labels["prompt_id"], row.labels["seed"]) for row in manifest} == {
        ("base", prompt, seed) for prompt in ("prompt-1", "prompt-2") for seed in ("0", "1")
    }
    for row in manifest:
        audio = read_audio(manifest.audio_path(row))
        assert audio.sample_rate == 8000
        assert audio.duration == pytest.approx(row.duration)
        assert abs(audio.duration - 30.0) < 1.0
        assert row.split == "held_out"
    assert {row.caption for row in manifest} == {prompt.text for prompt in PROMPTS}
    stamp = json.loads((made / "generation.json").read_text())
    assert stamp["seeds"] == [0, 1]
    assert stamp["num_inference_steps"] == 3


def test_batching_changes_only_the_rounding(tiny_model: Path, made: Path, tmp_path: Path) -> None:
    generate(config_of(tiny_model, tmp_path, batch_size=1), quiet=True)
    for path in made.glob("*.flac"):
        together, alone = read_audio(path).samples, read_audio(tmp_path / path.name).samples
        assert np.corrcoef(together[0], alone[0])[0, 1] > 0.99


def test_clips_differ_between_prompts_and_seeds(made: Path) -> None:
    assert len(set(hashes(made).values())) == 4


def test_what_is_missing_is_made_again_and_the_rest_is_kept(tiny_model: Path, made: Path, tmp_path: Path) -> None:
    whole = hashes(made)
    config = config_of(tiny_model, tmp_path)
    generate(config, quiet=True)
    kept = tmp_path / "prompt-1_seed-0.flac"
    before = kept.stat().st_mtime_ns
    (tmp_path / "prompt-2_seed-1.flac").unlink()
    truncated = tmp_path / "prompt-2_seed-0.flac"
    truncated.write_bytes(truncated.read_bytes()[:40])
    cut = tmp_path / "prompt-1_seed-1.flac"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])  # its header is whole
    generate(config, quiet=True)
    assert hashes(tmp_path) == whole
    assert kept.stat().st_mtime_ns == before


def test_more_seeds_join_the_folder(tiny_model: Path, tmp_path: Path) -> None:
    generate(config_of(tiny_model, tmp_path, seeds=[0]), quiet=True)
    before = hashes(tmp_path)
    manifest = generate(config_of(tiny_model, tmp_path, seeds=[7]), quiet=True)
    assert {row.labels["seed"] for row in manifest} == {"7"}
    assert {row.labels["seed"] for row in load_manifest(tmp_path)} == {"0", "7"}
    assert {name: value for name, value in hashes(tmp_path).items() if name in before} == before


def test_other_settings_or_words_need_another_folder(tiny_model: Path, tmp_path: Path) -> None:
    generate(config_of(tiny_model, tmp_path, seeds=[0]), quiet=True)
    with pytest.raises(UserError, match=r"num_inference_steps was 3 and is now 4;"):
        generate(config_of(tiny_model, tmp_path, seeds=[0], num_inference_steps=4), quiet=True)
    other = [{"id": "prompt-1", "text": "piano music"}]
    with pytest.raises(UserError, match="'prompt-1' with other words"):
        generate(config_of(tiny_model, tmp_path, seeds=[0], prompts=other), quiet=True)


def test_strength_zero_is_the_base_and_one_is_not(tiny_model: Path, made: Path, tmp_path: Path) -> None:
    adapter = str(make_adapter(tiny_model, tmp_path / "adapter", 1.0))
    off = config_of(tiny_model, tmp_path / "off", adapter=adapter, adapter_strength=0.0)
    on = config_of(tiny_model, tmp_path / "on", adapter=adapter)
    generate(off, quiet=True)
    generate(on, quiet=True)
    assert hashes(tmp_path / "off") == hashes(made)
    assert not set(hashes(tmp_path / "on").values()) & set(hashes(made).values())


def test_an_adapter_of_another_model_is_refused(
    tiny_model: Path, make_tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    other = make_tiny_model(tmp_path / "other", seed=9)
    adapter = make_adapter(other, tmp_path / "adapter", 0.1)
    with pytest.raises(CheckpointError, match="trained on the base model"):
        generate(config_of(tiny_model, tmp_path / "out", adapter=str(adapter)), quiet=True)
    assert not list((tmp_path / "out").glob("*.flac"))


def test_a_full_disk_is_one_sentence_and_keeps_what_was_made(
    tiny_model: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = audio.write_blocks

    def full(path: str, *args: Any, **kwargs: Any) -> None:
        if "prompt-2" in path:
            raise OSError(28, "No space left on device")
        write(path, *args, **kwargs)

    monkeypatch.setattr(audio, "write_blocks", full)
    with pytest.raises(StorageError, match="No space left"):
        generate(config_of(tiny_model, tmp_path), quiet=True)
    assert set(hashes(tmp_path)) == {"prompt-1_seed-0.flac", "prompt-1_seed-1.flac"}
    monkeypatch.undo()
    generate(config_of(tiny_model, tmp_path), quiet=True)
    assert hashes(tmp_path) == hashes(made)


def test_unknown_words_are_told(tiny_model: Path, made: Path, tmp_path: Path) -> None:
    told: list[str] = []
    prompts = [{"id": "x", "text": "slow zebra cello, чайка"}]
    generate(config_of(tiny_model, tmp_path, prompts=prompts, seeds=[0]), quiet=True, notify=told.append)
    assert told == [
        "computing on the CPU in fp32.",
        "prompt 'x': the model does not know zebra, чайка; these words change nothing.",
    ]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"duration": 0.9}, "'duration'"),
        ({"duration": float("inf")}, "'duration'"),
        ({"headroom": -1}, "'headroom'"),
        ({"apg": 1.1}, "'apg'"),
        ({"sampler": "midpoint"}, "'sampler'"),
        ({"seeds": []}, "at least one seed"),
        ({"seeds": [1, 1]}, "seeds must differ"),
        ({"seeds": [-1]}, "a seed is a whole number"),
        ({"prompts": []}, "at least one prompt"),
        ({"num_inference_steps": 0}, "'num_inference_steps'"),
        ({"temperature": 1}, "unknown key 'temperature'"),
    ],
)
def test_faults_of_the_configuration(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config_of(tmp_path, tmp_path, **changes)


def test_a_model_folder_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no model"):
        generate(config_of(tmp_path / "nothing", tmp_path / "out"), quiet=True)


def test_pingpong_draws_each_sample_s_noise_on_its_own(tiny_model: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"sampler": "pingpong", "guidance_scale": 1.0}
    generate(config_of(tiny_model, tmp_path / "together", **settings), quiet=True)
    generate(config_of(tiny_model, tmp_path / "alone", batch_size=1, **settings), quiet=True)
    generate(config_of(tiny_model, tmp_path / "again", **settings), quiet=True)
    assert hashes(tmp_path / "together") == hashes(tmp_path / "again")
    assert len(set(hashes(tmp_path / "together").values())) == 4
    for path in (tmp_path / "together").glob("*.flac"):
        together, alone = read_audio(path).samples, read_audio(tmp_path / "alone" / path.name).samples
        assert np.corrcoef(together[0], alone[0])[0, 1] > 0.99


def test_a_distilled_model_brings_its_own_sampling_and_what_is_set_stands(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = {"model": str(tiny_model), "out": str(tmp_path / "run"), "prompts": [PROMPTS[0].model_dump()]}
    config = build_config(GenerateConfig, plain)
    backbone = load_backbone(tiny_model)
    assert settle_sampling(config, backbone) == config
    monkeypatch.setattr(backbone, "distilled", True, raising=False)
    settled = settle_sampling(config, backbone)
    assert (settled.sampler, settled.num_inference_steps, settled.guidance_scale) == ("pingpong", 8, 1.0)
    chosen = settle_sampling(build_config(GenerateConfig, plain | {"num_inference_steps": 4}), backbone)
    assert (chosen.sampler, chosen.num_inference_steps) == ("pingpong", 4)
    monkeypatch.setattr("eisbach.backbones.load_backbone", lambda name: backbone)
    generate(config, quiet=True)
    stamp = json.loads((tmp_path / "run" / "generation.json").read_text())
    assert (stamp["sampler"], stamp["num_inference_steps"], stamp["guidance_scale"]) == ("pingpong", 8, 1.0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.whole
def test_a_stopped_generation_says_what_is_kept_and_ends_the_same(
    tiny_model: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before = signal.getsignal(number)
    config = config_of(tiny_model, tmp_path / "made", batch_size=2)
    calls = 0

    def signalling(self: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:  # in the second of two batches of three steps
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["eisbach.generation.generate"]._Meter, "step", signalling)
        with pytest.raises(
            InterruptedRun, match=r"2 of 4 clips are finished and stay in .*made; the same command makes the others"
        ):
            generate(config, quiet=True)
    assert signal.getsignal(number) == before
    generate(config, quiet=True)
    straight = config_of(tiny_model, tmp_path / "straight", batch_size=2)
    generate(straight, quiet=True)
    assert tree(tmp_path / "made") == tree(tmp_path / "straight")


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.whole
def test_killed_generations_end_with_the_same_bytes(tiny_model: Path, tmp_path: Path) -> None:
    """Every file, `generation.json` included, whenever the kill came."""
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    adapter = make_adapter(model, tmp_path / "adapter", 0.1)
    command = ["generate", "slow cello", "bright celesta", "--model", model, "--steps", 3, "--batch-size", 1]
    command += ["--seeds", "0,1", "--quiet", "--adapter", adapter, "--out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def run(*words: object) -> None:
        done = eisbach(*words, env=environment)
        assert done.returncode == 0, done.stderr

    run(*command, tmp_path / "straight")
    expected = tree(tmp_path / "straight")
    draw = random.Random(2)
    for kill in range(3):
        process = start_eisbach(*command, tmp_path / "killed", env=environment)
        deadline = time.monotonic() + 120
        while process.poll() is None and len(list((tmp_path / "killed").glob("*.flac"))) <= kill:
            assert time.monotonic() < deadline, "the generation made no progress"
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.05))
        process.kill()
        process.wait()
    # and an adapter of the same content that was written anew, under another name
    moved = shutil.copytree(adapter, tmp_path / "other")
    tensors = load_file(moved / "adapter_model.safetensors")
    save_file(dict(reversed(tensors.items())), moved / "adapter_model.safetensors", metadata=stamp_of(adapter))
    run(*command, tmp_path / "killed")
    assert tree(tmp_path / "killed") == expected
    command[command.index(adapter)] = moved
    run(*command, tmp_path / "killed")


def stamp_of(adapter: Path) -> dict[str, str]:
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        return {"later": "x", **(file.metadata() or {})}


# How long ----------------------------------------------------------------------------------------------------------


def test_a_clip_of_a_second_is_a_second_and_is_finished_only_when_it_is_whole(tiny_model: Path, tmp_path: Path) -> None:
    config = config_of(tiny_model, tmp_path, duration=1, seeds=[0])
    generate(config, quiet=True)
    whole = hashes(tmp_path)
    file = tmp_path / "prompt-1_seed-0.flac"
    waveform = read_audio(file)
    assert waveform.duration == pytest.approx(1.0, abs=0.1)
    audio.write_audio(file, audio.Waveform(waveform.samples[:, : waveform.samples.shape[1] // 2], 8000))
    generate(config, quiet=True)
    assert hashes(tmp_path) == whole


def test_a_clip_longer_than_the_model_plays_is_refused_before_anything_is_written(
    tiny_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"duration of 121 s arrived.*plays up to 120 s"):
        generate(config_of(tiny_model, tmp_path / "out", duration=121), quiet=True)
    assert not (tmp_path / "out").exists()


def test_headroom_is_sampled_and_cut_off(tiny_model: Path, tmp_path: Path) -> None:
    """The clip keeps its length and its noise; what is heard differs, as the model saw a longer clip."""
    plain, longer = tmp_path / "plain", tmp_path / "longer"
    generate(config_of(tiny_model, plain, duration=4, seeds=[0]), quiet=True)
    generate(config_of(tiny_model, longer, duration=4, headroom=2, seeds=[0]), quiet=True)
    durations = {round(read_audio(file).duration, 1) for folder in (plain, longer) for file in folder.glob("*.flac")}
    assert durations == {4.0}
    assert not set(hashes(plain).values()) & set(hashes(longer).values())
    assert json.loads((longer / "generation.json").read_text())["headroom"] == 2
    assert "headroom" not in json.loads((plain / "generation.json").read_text())  # a folder of before goes on
    with pytest.raises(ConfigError, match="headroom was"):
        generate(config_of(tiny_model, longer, duration=4, seeds=[0]), quiet=True)


def test_stable_audio_3_has_six_seconds_of_headroom_up_to_its_own_limit() -> None:
    backbone = load_backbone(Path(__file__).parent.parent / "fixtures" / "sa3_native_tiny")
    limit = backbone.max_seconds
    assert limit == pytest.approx(1_048_576 / 44_100)  # its configuration's sample_size
    medium = StableAudio3Backbone(
        backbone.module,
        backbone.text_encoder,
        backbone.load_codec,
        sample_rate=44100,
        samples_per_frame=4096,
        distilled=False,
    )
    assert medium.max_seconds == pytest.approx(380.4, abs=0.1)
    config = config_of(Path("m"), Path("o"), duration=10)
    assert sampled_seconds(config, backbone) == 16
    assert sampled_seconds(config.model_copy(update={"headroom": 0.0}), backbone) == 10
    assert sampled_seconds(config.model_copy(update={"duration": limit - 1}), backbone) == limit
    with pytest.raises(UserError, match="plays up to"):
        sampled_seconds(config.model_copy(update={"duration": limit + 1}), backbone)


def test_projected_guidance_changes_the_audio_and_the_stamp(tiny_model: Path, tmp_path: Path) -> None:
    plain, projected = tmp_path / "plain", tmp_path / "projected"
    options: dict[str, Any] = {"duration": 2, "seeds": [0], "guidance_scale": 6.0}
    generate(config_of(tiny_model, plain, **options), quiet=True)
    generate(config_of(tiny_model, projected, **options, apg=1.0), quiet=True)
    assert not set(hashes(plain).values()) & set(hashes(projected).values())
    assert json.loads((projected / "generation.json").read_text())["apg"] == 1.0
