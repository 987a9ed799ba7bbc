"""A native checkpoint of tiny size against what Stability's own code gave for it (`reference.safetensors`)."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from eisbach.backbones import load_backbone, load_codec_of
from eisbach.backbones.base import Backbone
from eisbach.backbones.stable_audio3 import StableAudio3Backbone, StableAudio3Model, load_diffusers, load_native
from eisbach.codecs.same_native import qkv_rows_to_diffusers, qkv_rows_to_native
from eisbach.diffusion.guidance import guided
from eisbach.diffusion.noise_levels import get_density
from eisbach.diffusion.samplers import sample_ode
from eisbach.diffusion.schedules import get_schedule
from eisbach.errors import CheckpointError, UserError
from eisbach.training.data import stack
from eisbach.types import Conditioning

NATIVE = Path(__file__).parent.parent / "fixtures" / "sa3_native_tiny"
REFERENCE = load_file(NATIVE / "reference.safetensors")
TOLD = json.loads((NATIVE / "reference.json").read_text())


@pytest.fixture(scope="module")
def backbone() -> StableAudio3Backbone:
    return load_native(NATIVE)


@pytest.fixture(scope="module")
def conditioning(backbone: StableAudio3Backbone) -> Conditioning:
    return backbone.condition(TOLD["prompts"], TOLD["seconds_total"])


def far(value: torch.Tensor, name: str) -> float:
    """The largest deviation from the reference."""
    assert value.shape == REFERENCE[name].shape
    return float((value.float() - REFERENCE[name]).abs().max())


def context(backbone: StableAudio3Backbone, conditioning: Conditioning) -> tuple[torch.Tensor, torch.Tensor]:
    """The cross-attention sequence and the duration embedding that the transformer gets."""
    module, mask = backbone.module, conditioning.token_mask
    assert isinstance(module, StableAudio3Model)
    assert mask is not None
    sequence, duration = module.context(conditioning.tokens, mask, *conditioning.global_embed.unbind(1))
    return sequence, duration


def test_it_is_a_backbone(backbone: StableAudio3Backbone) -> None:
    assert isinstance(backbone, Backbone)
    assert (backbone.latent_channels, backbone.latent_rate) == (16, 44100 / 256)
    assert not backbone.distilled


@torch.no_grad()
def test_conditioning_agrees(backbone: StableAudio3Backbone, conditioning: Conditioning) -> None:
    sequence, duration = context(backbone, conditioning)
    assert far(sequence[:, :-1], "prompt_tokens") < 1e-5
    assert far(duration[:, None], "seconds_embedding") < 1e-5
    assert torch.equal(sequence[:, -1], duration)
    mask = conditioning.token_mask
    assert mask is not None
    full = torch.nn.functional.pad(mask, (0, REFERENCE["prompt_mask"].shape[1] - mask.shape[1]))
    assert torch.equal(full.int(), REFERENCE["prompt_mask"])


@torch.no_grad()
def test_velocity_agrees(backbone: StableAudio3Backbone, conditioning: Conditioning) -> None:
    assert far(backbone.predict(REFERENCE["x_t"], REFERENCE["t"], conditioning), "velocity") < 1e-5


@torch.no_grad()
def test_velocity_with_inpainting_agrees(backbone: StableAudio3Backbone, conditioning: Conditioning) -> None:
    known = torch.cat([REFERENCE["inpaint_mask"], REFERENCE["inpaint_known"]], dim=1)
    assert far(backbone.predict(REFERENCE["x_t"], REFERENCE["t"], conditioning, known), "velocity_inpaint") < 1e-5


@torch.no_grad()
def test_leaving_the_inpainting_condition_out_would_be_another_model(
    backbone: StableAudio3Backbone, conditioning: Conditioning
) -> None:
    sequence, duration = context(backbone, conditioning)
    without = backbone.transformer(
        REFERENCE["x_t"],
        REFERENCE["t"],
        encoder_hidden_states=sequence,
        global_hidden_states=duration,
        return_dict=False,
    )[0]
    assert far(without, "velocity") > 0.05


@torch.no_grad()
@pytest.mark.parametrize(("guidance", "name"), [(1.0, "sample_euler8"), (3.0, "sample_euler8_cfg3")])
def test_eight_euler_steps_agree(
    backbone: StableAudio3Backbone, conditioning: Conditioning, guidance: float, name: str
) -> None:
    made = sample_ode(
        guided(backbone.predict, conditioning, backbone.null_condition(conditioning), guidance),
        path=backbone.path,
        target=backbone.target,
        noise=REFERENCE["x_t"],
        times=get_schedule(backbone.schedule, 8),
        method="euler",
    )
    assert far(made, name) < 1e-4


def test_schedule_agrees(backbone: StableAudio3Backbone) -> None:
    assert far(get_schedule(backbone.schedule, 8).float(), "sampling_shift") < 1e-6


@pytest.mark.parametrize("frames", [108, 256, 1292, 4096])
def test_training_shift_agrees(backbone: StableAudio3Backbone, frames: int) -> None:
    # The shift multiplies the odds t / (1 - t): the reference gives the factor, the density must show the same one.
    q = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    at_frames = get_density(backbone.density).quantile(q, frames)
    unshifted = get_density(backbone.density, shift_by_length=False).quantile(q)
    grid, shifted = REFERENCE["shift_in"].double(), REFERENCE[f"train_shift_{frames}"].double()
    inner = (grid > 0) & (grid < 1)
    odds = (shifted / (1 - shifted) / (grid / (1 - grid)))[inner]
    ours = at_frames / (1 - at_frames) / (unshifted / (1 - unshifted))
    assert odds.std() < 1e-4 * odds.mean()
    assert torch.allclose(ours, odds.mean().expand_as(ours), rtol=1e-4)


@torch.no_grad()
def test_null_condition_drops_the_text_and_keeps_the_duration(
    backbone: StableAudio3Backbone, conditioning: Conditioning
) -> None:
    null = backbone.null_condition(conditioning)
    sequence, duration = context(backbone, null)
    assert not sequence.any()
    assert far(duration[:, None], "seconds_embedding") < 1e-5


@torch.no_grad()
def test_rows_of_a_batch_may_be_dropped_one_by_one(backbone: StableAudio3Backbone, conditioning: Conditioning) -> None:
    null = backbone.null_condition(conditioning)
    mixed = conditioning.replace_rows(torch.tensor([False, True]), null)
    x_t, t = REFERENCE["x_t"], REFERENCE["t"]
    whole, dropped = (backbone.predict(x_t, t, item) for item in (conditioning, null))
    made = backbone.predict(x_t, t, mixed)
    assert torch.allclose(made[0], whole[0], atol=1e-6)
    assert torch.allclose(made[1], dropped[1], atol=1e-6)
    assert not torch.allclose(whole[1], dropped[1], atol=1e-3)


@torch.no_grad()
def test_cached_rows_of_other_lengths_give_the_same_velocity(
    backbone: StableAudio3Backbone, conditioning: Conditioning
) -> None:
    rows = [backbone.condition([text], [sec]) for text, sec in zip(TOLD["prompts"], TOLD["seconds_total"], strict=True)]
    assert rows[0].tokens.shape[1] < rows[1].tokens.shape[1]
    made = backbone.predict(REFERENCE["x_t"], REFERENCE["t"], stack(rows))
    assert far(made, "velocity") < 1e-5


def test_an_empty_caption_is_not_the_unconditional_one(backbone: StableAudio3Backbone) -> None:
    empty = backbone.condition([""], [2.0])
    x_t, t = REFERENCE["x_t"][:1], REFERENCE["t"][:1]
    with torch.no_grad():
        first, second = (backbone.predict(x_t, t, item) for item in (empty, backbone.null_condition(empty)))
    assert not torch.allclose(first, second, atol=1e-3)


def test_no_captions_give_no_rows(backbone: StableAudio3Backbone) -> None:
    assert len(backbone.condition([], [])) == 0


def test_the_text_encoder_leaves_memory_and_comes_back(backbone: StableAudio3Backbone) -> None:
    before = backbone.condition(["celesta"], [1.0])
    assert backbone.text_encoder.loaded
    backbone.release_text_encoder()
    assert not backbone.text_encoder.loaded
    assert torch.equal(backbone.condition(["celesta"], [1.0]).tokens, before.tokens)


def test_a_caption_beyond_the_models_tokens_is_cut_aloud(backbone: StableAudio3Backbone) -> None:
    with pytest.warns(UserWarning, match="the model reads 32"):
        made = backbone.condition(["strings " * 60], [1.0])
    assert made.tokens.shape[1] == 32
    with warnings.catch_warnings():  # each is said once
        warnings.simplefilter("error")
        backbone.condition(["strings " * 60], [1.0])
    with pytest.warns(UserWarning, match="drums drums"):
        backbone.condition(["drums " * 60], [1.0])


@pytest.mark.parametrize(
    ("captions", "durations", "said"),
    [
        (["a"], [385.0], "up to 384 s"),
        (["a"], [float("nan")], "finite numbers of seconds"),
        (["a", "b"], [1.0], "give each caption one"),
        (["a"], [-1.0], "finite numbers of seconds"),
    ],
)
def test_bad_durations_are_refused(
    backbone: StableAudio3Backbone, captions: list[str], durations: list[float], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        backbone.condition(captions, durations)


@torch.no_grad()
def test_saved_and_loaded_it_is_equal(
    backbone: StableAudio3Backbone, conditioning: Conditioning, tmp_path: Path
) -> None:
    backbone.save(tmp_path)
    again = load_backbone(str(tmp_path))
    assert isinstance(again, StableAudio3Backbone)
    assert again.identity() == backbone.identity()
    assert load_codec_of(again).identity() == load_codec_of(backbone).identity()
    assert (again.latent_rate, again.distilled) == (backbone.latent_rate, backbone.distilled)
    new = again.condition(TOLD["prompts"], TOLD["seconds_total"])
    assert torch.equal(new.tokens, conditioning.tokens)
    assert torch.equal(
        again.predict(REFERENCE["x_t"], REFERENCE["t"], new),
        backbone.predict(REFERENCE["x_t"], REFERENCE["t"], conditioning),
    )
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".bin", ".pt", ".pkl"}]


@torch.no_grad()
def test_diffusers_pipeline_loads_what_was_saved(
    backbone: StableAudio3Backbone, conditioning: Conditioning, tmp_path: Path
) -> None:
    from diffusers import StableAudio3Pipeline

    backbone.save(tmp_path)
    pipeline = StableAudio3Pipeline.from_pretrained(str(tmp_path), local_files_only=True)
    tokens, mask = pipeline.encode_prompt(TOLD["prompts"][:1], torch.device("cpu"), 1)
    duration = pipeline.encode_duration(TOLD["seconds_total"][0], torch.device("cpu"), 1, 1)
    context, mask = pipeline.prepare_cross_attention(tokens, mask, duration)
    x_t = REFERENCE["x_t"][:1]
    made = pipeline.transformer(
        x_t,
        REFERENCE["t"][:1],
        encoder_hidden_states=context,
        encoder_attention_mask=mask,
        global_hidden_states=duration,
        local_add_cond=torch.zeros(1, 17, x_t.shape[2]),
        return_dict=False,
    )[0]
    # diffusers' norms have an epsilon of 1e-6 in place of the native 1e-5
    assert float((made - REFERENCE["velocity"][:1]).abs().max()) < 1e-4


@torch.no_grad()
def test_every_pipeline_of_the_model_loads(
    backbone: StableAudio3Backbone, conditioning: Conditioning, tmp_path: Path
) -> None:
    backbone.save(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"_class_name": "StableAudio3AudioToAudioPipeline"}))
    inputs = REFERENCE["x_t"], REFERENCE["t"], conditioning
    assert torch.equal(load_backbone(str(tmp_path)).predict(*inputs), backbone.predict(*inputs))


def test_identity_follows_the_weights() -> None:
    backbone = load_native(NATIVE)
    first = backbone.identity()
    with torch.no_grad():
        backbone.duration_embedder.linear.bias[0] += 1.0
    assert backbone.identity() != first


def test_adapters_go_into_attention_feed_forward_and_the_duration() -> None:
    from eisbach import adapters

    backbone = load_native(NATIVE)
    config = adapters.adapter_config(backbone, kind="dora", rank=2, alpha=2.0)
    names = adapters.inject(backbone, config)
    layers = {name.partition(".lora_")[0] for name in names}
    per_block = {"self_attn.to_qkv", "self_attn.to_out", "cross_attn.to_q", "cross_attn.to_kv", "cross_attn.to_out"}
    per_block |= {"ff.proj_in", "ff.proj_out"}
    blocks = {f"transformer.transformer_blocks.{index}.{layer}" for index in range(2) for layer in per_block}
    assert layers == {*blocks, "duration_embedder.linear"}
    with pytest.raises(CheckpointError, match="carries an adapter"):
        backbone.identity()
    # Conditioning is cached, so the duration's adapter must see gradients in `predict`.
    conditioning = backbone.condition(TOLD["prompts"], TOLD["seconds_total"])
    backbone.predict(REFERENCE["x_t"], REFERENCE["t"], conditioning).square().mean().backward()
    moved = [name for name, value in names.items() if value.grad is not None and value.grad.abs().max() > 0]
    assert any("duration_embedder" in name for name in moved)


def test_row_orders_are_each_others_inverse() -> None:
    rows = torch.arange(20)
    assert qkv_rows_to_diffusers(rows).tolist()[:8] == [0, 1, 2, 3, 12, 13, 14, 15]
    assert torch.equal(qkv_rows_to_native(qkv_rows_to_diffusers(rows)), rows)


def test_another_pipeline_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableAudioPipeline"}')
    with pytest.raises(CheckpointError, match="describes a StableAudioPipeline"):
        load_diffusers(tmp_path)


def test_the_identity_follows_weights_that_are_changed_behind_its_back(backbone: StableAudio3Backbone) -> None:
    before = backbone.identity()
    weight = next(backbone.module.parameters())
    kept = weight.data.clone()
    weight.data.add_(1.0)  # as merging an adapter does
    assert backbone.identity() != before
    weight.data.copy_(kept)
    assert backbone.identity() == before
