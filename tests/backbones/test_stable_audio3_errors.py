"""What a person can do wrong with a Stable Audio 3 checkpoint: one clear sentence each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from eisbach import pretrained as hub
from eisbach.backbones import load_backbone
from eisbach.backbones.stable_audio3 import StableAudio3Backbone
from eisbach.backbones.stable_audio3_native import read_native, transformer_key
from eisbach.errors import CheckpointError, UserError

NATIVE = Path(__file__).parent.parent / "fixtures" / "sa3_native_tiny"
TEXT = "t5gemma-b-b-ul2"


@pytest.fixture
def native(tmp_path: Path) -> Path:
    """A copy of the native folder that a test may break; the weights are links until they are written anew."""
    folder = tmp_path / "native"
    (folder / TEXT).mkdir(parents=True)
    for path in [*NATIVE.glob("model*"), *(NATIVE / TEXT).iterdir()]:
        (folder / path.relative_to(NATIVE)).symlink_to(path)
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes the native configuration."""
    values = json.loads((NATIVE / "model_config.json").read_text())
    change(values)
    (folder / "model_config.json").unlink()
    (folder / "model_config.json").write_text(json.dumps(values))


def reweigh(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], file: str = "model.safetensors") -> None:
    """Changes the weights."""
    tensors = load_file(NATIVE / file)
    change(tensors)
    (folder / file).unlink()
    save_file(tensors, str(folder / file))


def dit(values: dict[str, Any]) -> dict[str, Any]:
    return values["model"]["diffusion"]["config"]


def prompt(values: dict[str, Any]) -> dict[str, Any]:
    return values["model"]["conditioning"]["configs"][0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v.update(model_type="autoencoder"), "of the type 'autoencoder'.*diffusion_cond_inpaint"),
        (lambda v: v["model"]["diffusion"].update(diffusion_objective="v"), "objective 'v'.*rectified_flow"),
        (lambda v: v["model"].pop("diffusion"), "does not describe a diffusion model"),
        (lambda v: v["model"].pop("conditioning"), "does not describe its conditioning"),
        (lambda v: prompt(v).update(type="t5"), "'prompt': 't5'"),
        (lambda v: prompt(v)["config"].update(padding_mode="none"), "padding mode 'none'"),
        (lambda v: v["model"]["diffusion"].update(global_cond_ids=[]), r"global \[\]"),
        (lambda v: dit(v).update(global_cond_type="prepend"), "global_cond_type = 'prepend'"),
        (lambda v: dit(v).update(timestep_features_logsnr=True), "timestep_features_logsnr = True"),
        (lambda v: dit(v)["attn_kwargs"].update(qk_norm="ln"), "qk_norm = 'ln'"),
        (lambda v: dit(v)["ff_kwargs"].update(sinusoidal=True), "ff_kwargs.sinusoidal"),
        (lambda v: dit(v).pop("depth"), "lacks 'depth'"),
        (lambda v: dit(v).update(local_add_cond_dim=16), "local_add_cond_dim = 16"),
        (lambda v: v.pop("sample_rate"), "rate"),
        (
            lambda v: v["model"]["diffusion"].update(sampling_distribution_shift_options={"type": "flux"}),
            "sampling schedule",
        ),
    ],
)
def test_another_kind_of_model_is_refused(native: Path, change: Callable[[dict[str, Any]], Any], said: str) -> None:
    rewrite(native, change)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_backbone(native)
    assert "\n" not in str(caught.value)


def test_a_configuration_that_is_not_json_is_refused(native: Path) -> None:
    (native / "model_config.json").unlink()
    (native / "model_config.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        load_backbone(native)


def test_a_configuration_of_another_size_is_refused(native: Path) -> None:
    rewrite(native, lambda values: dit(values).update(depth=3))
    with pytest.raises(CheckpointError, match=r"the transformer in .* missing.*transformer_blocks\.2"):
        load_backbone(native)


def test_harmless_options_are_read_over(native: Path) -> None:
    rewrite(native, lambda values: dit(values).update(conformer=False, zero_init_branch_outputs=True))
    load_backbone(native)


def test_a_distilled_model_says_so(native: Path) -> None:
    rewrite(native, lambda values: values["model"]["diffusion"].update(diffusion_objective="rf_denoiser"))
    assert read_native(native).distilled


def test_a_truncated_file_is_refused(native: Path) -> None:
    (native / "model.safetensors").unlink()
    (native / "model.safetensors").write_bytes((NATIVE / "model.safetensors").read_bytes()[:4_000_000])
    with pytest.raises(CheckpointError, match="truncated"):
        load_backbone(native)


def test_no_weights_are_named(native: Path) -> None:
    (native / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        load_backbone(native)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("model.model.transformer.memory_tokens"), "1 are missing.*memory_tokens"),
        (lambda t: t.pop("conditioner.conditioners.prompt.padding_embedding"), "prompt_padding_embedding"),
        (
            lambda t: t.pop("conditioner.conditioners.seconds_total.embedder.embedding.1.bias"),
            "the duration embedder in.*1 are missing.*linear.bias",
        ),
        (lambda t: t.update({"model.model.to_new.weight": torch.zeros(2)}), "1 unknown.*to_new.weight"),
        (lambda t: t.update({"model_ema.x": torch.zeros(2)}), "1 of .* belong to no part.*model_ema.x"),
        (
            lambda t: t.update({"model.model.to_cond_embed.0.weight": torch.zeros(2, 2)}),
            r"'to_cond_embed.0.weight' has shape \[2, 2\]",
        ),
        (lambda t: t["model.model.preprocess_conv.weight"].fill_(torch.nan), "NaN.*preprocess_conv"),
    ],
)
def test_tensors_that_do_not_match_are_counted(
    native: Path, change: Callable[[dict[str, torch.Tensor]], Any], said: str
) -> None:
    reweigh(native, change)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_backbone(native)
    assert "\n" not in str(caught.value)


def test_buffers_that_are_recomputed_may_be_missing(native: Path) -> None:
    def drop(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.endswith("inv_freq")]:
            del tensors[name]

    reweigh(native, drop)
    assert load_backbone(native).identity() == load_backbone(NATIVE).identity()


def test_a_missing_text_encoder_is_named_before_anything_is_computed(
    native: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "cached_folder", lambda name: None)
    shutil.rmtree(native / TEXT)
    with pytest.raises(CheckpointError, match=r"the text encoder is not in .*hf download google/t5gemma-b-b-ul2"):
        load_backbone(native)


def test_a_text_encoder_in_the_local_cache_is_found(native: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "cached_folder", lambda name: NATIVE / TEXT)
    shutil.rmtree(native / TEXT)
    assert load_backbone(native).condition(["celesta"], [1.0]).tokens.shape[-1] == 768


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer_config.json"])
def test_an_incomplete_text_encoder_is_refused(native: Path, file: str) -> None:
    (native / TEXT / file).unlink()
    with pytest.raises(CheckpointError, match=f"not complete: {file}"):
        load_backbone(native)


def test_a_text_encoder_that_does_not_fit_is_refused_when_it_is_read(native: Path) -> None:
    reweigh(native, lambda tensors: tensors.pop("encoder.norm.weight"), f"{TEXT}/model.safetensors")
    with pytest.raises(CheckpointError, match=r"the text encoder in .*1 are missing.*encoder.norm.weight"):
        load_backbone(native).condition(["celesta"], [1.0])


def test_the_text_encoder_as_google_publishes_it_is_read(native: Path) -> None:
    def publish(tensors: dict[str, torch.Tensor]) -> None:
        encoder = {f"model.{name}": tensors.pop(name) for name in list(tensors)}
        tensors.update(
            encoder | {"model.decoder.norm.weight": torch.zeros(4), "lm_head.out_proj.weight": torch.zeros(4)}
        )

    reweigh(native, publish, f"{TEXT}/model.safetensors")
    published, plain = (load_backbone(folder).condition(["celesta"], [1.0]).tokens for folder in (native, NATIVE))
    assert torch.equal(published, plain)


def test_narrow_heads_rotate_as_many_channels_as_the_native_ones(native: Path, tmp_path: Path) -> None:
    rewrite(native, lambda values: dit(values).update(num_heads=4))

    def narrow(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("model.") and "_attn." in name and "_norm" in name]:
            tensors[name] = tensors[name][:32].contiguous()

    reweigh(native, narrow)
    backbone = load_backbone(native)
    # Native: at least 32 channels, so all of a head of 32; diffusers alone would rotate 16.
    assert isinstance(backbone, StableAudio3Backbone)
    assert backbone.transformer.rotary_pos_emb.inv_freq.shape == (16,)
    backbone.save(tmp_path / "saved")
    assert load_backbone(tmp_path / "saved").identity() == backbone.identity()


def test_weights_of_the_text_encoder_inside_the_checkpoint_are_used(native: Path) -> None:
    text = load_file(NATIVE / TEXT / "model.safetensors")
    prefix = "conditioner.conditioners.prompt.model."
    text["encoder.norm.weight"] = text["encoder.norm.weight"] + 1
    reweigh(native, lambda tensors: tensors.update({prefix + name: tensor for name, tensor in text.items()}))
    inside, outside = (load_backbone(folder).condition(["celesta"], [1.0]).tokens for folder in (native, NATIVE))
    assert not torch.allclose(inside, outside)


def test_a_folder_without_a_model_says_what_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model_config\.json.*model_index\.json"):
        load_backbone(tmp_path)


def test_keys_are_renamed() -> None:
    assert transformer_key("transformer.layers.3.ff.ff.0.proj.bias") == "transformer_blocks.3.ff.proj_in.bias"
    assert transformer_key("transformer.layers.11.ff.ff.2.weight") == "transformer_blocks.11.ff.proj_out.weight"
    assert transformer_key("transformer.project_out.weight") == "proj_out.weight"
    assert transformer_key("to_cond_embed.0.weight") == "to_cond_embed.0.weight"


# --- the hub


@pytest.mark.parametrize(
    ("name", "is_id"),
    [
        ("stabilityai/stable-audio-3-medium-base", True),
        ("a/b/c", False),
        ("./a/b", False),
        ("/a/b", False),
        ("embedded", False),
        ("owner/", False),
    ],
)
def test_names_of_the_hub_are_told_from_paths(name: str, is_id: bool) -> None:
    assert hub.is_hub_id(name) is is_id


def test_a_mistyped_path_is_not_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "fetch", lambda name: pytest.fail("the hub was asked"))
    with pytest.raises(UserError, match="there is no model in 'models/tiny'"):
        load_backbone("models/tiny")


def test_a_fetched_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: dict[str, Any] = {}

    def snapshot(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(NATIVE)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert load_backbone("stabilityai/tiny").identity() == load_backbone(NATIVE).identity()
    assert asked["name"] == "stabilityai/tiny"
    assert not any("bin" in pattern or "ckpt" in pattern for pattern in asked["allow_patterns"])


@pytest.mark.parametrize("error", [OSError("no route"), ValueError("bad name"), "offline"])
def test_without_a_connection_it_says_so_in_one_sentence(monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    raised = LocalEntryNotFoundError("cannot find the snapshot\nand more") if error == "offline" else error

    def snapshot(name: str, **options: Any) -> str:
        raise raised

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(UserError, match="there is no folder 'stabilityai/tiny', and the model") as caught:
        load_backbone("stabilityai/tiny")
    assert "\n" not in str(caught.value)
    assert hub.cached_folder("stabilityai/tiny") is None


@pytest.mark.parametrize(
    "options",
    [
        {"type": "none"},
        {"type": "flux"},
        {"min_length": 256, "max_length": 4096, "max_shift": 2.0},
        {"use_sine": True},
        {"min_length": 1},
        {"an_option_of_tomorrow": 1},
        [1],
    ],
)
def test_a_shift_of_trainings_noise_levels_that_is_not_computed_is_refused(native: Path, options: Any) -> None:
    rewrite(native, lambda values: values["model"]["diffusion"].update(distribution_shift_options=options))
    with pytest.raises(CheckpointError, match="distribution_shift_options") as caught:
        load_backbone(native)
    assert "\n" not in str(caught.value)


def test_every_pipeline_of_diffusers_for_it_is_read(tmp_path: Path) -> None:
    import diffusers

    from eisbach.backbones import PIPELINES

    theirs = {name for name in dir(diffusers) if name.startswith("StableAudio3") and name.endswith("Pipeline")}
    assert len(theirs) == 3
    assert theirs == {name for name in PIPELINES if name.startswith("StableAudio3")}
    backbone = load_backbone(NATIVE)
    backbone.save(tmp_path)
    for name in theirs:
        index = json.loads((tmp_path / "model_index.json").read_text())
        (tmp_path / "model_index.json").write_text(json.dumps({**index, "_class_name": name}))
        assert load_backbone(tmp_path).identity() == backbone.identity()
