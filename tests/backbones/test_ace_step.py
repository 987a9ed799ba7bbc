"""A tiny random ACE-Step 1.5 in diffusers' layout, against what diffusers' own pipeline does with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import CAPTIONS, fetched_from_the_hub, run_of, same_on_a_second_device, trains_and_plays

from eisbach.adapters.formats.low_rank import LowRankAdapter
from eisbach.backbones import load_backbone, load_codec_of
from eisbach.backbones.ace_step import AceStepBackbone, load_ace_step
from eisbach.backbones.base import Backbone
from eisbach.diffusion.samplers import sample_ode
from eisbach.errors import CheckpointError, UserError
from eisbach.training import train
from eisbach.training.data import stack

PROMPTS = list(CAPTIONS)


def make_pipeline(tiny_tokenizer: Callable[..., Any], tiny_oobleck: Callable[..., Any], *, turbo: bool = False) -> Any:
    from diffusers import AceStepPipeline, AceStepTransformer1DModel, FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.ace_step import AceStepConditionEncoder
    from transformers import Qwen3Config, Qwen3Model

    shape: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "sliding_window": 3,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = AceStepTransformer1DModel(
            **shape, num_hidden_layers=2, in_channels=12, audio_acoustic_hidden_dim=4, is_turbo=turbo
        )
        encoder = AceStepConditionEncoder(
            **shape,
            text_hidden_dim=12,
            timbre_hidden_dim=4,
            num_lyric_encoder_hidden_layers=2,
            num_timbre_encoder_hidden_layers=1,
        )
        encoder.silence_latent = torch.randn(1, 40, 4).repeat(1, 375, 1)  # in practice the latents of silence
        text: Any = Qwen3Model(
            Qwen3Config(
                vocab_size=32,
                hidden_size=12,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=6,
            )
        )
    return AceStepPipeline(
        vae=tiny_oobleck(4),
        text_encoder=text.eval(),
        tokenizer=tiny_tokenizer(512, padding_side="left"),
        transformer=transformer.eval(),
        condition_encoder=encoder.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1, shift=1.0),
    )


@pytest.fixture(scope="module")
def pipeline(tiny_tokenizer: Callable[..., Any], tiny_oobleck: Callable[..., Any]) -> Any:
    made = make_pipeline(tiny_tokenizer, tiny_oobleck)
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def folder(pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("ace_step")
    pipeline.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def backbone(folder: Path) -> AceStepBackbone:
    return load_ace_step(folder)


def recorded(pipeline: Any, **options: Any) -> tuple[list[tuple[dict[str, torch.Tensor], torch.Tensor]], torch.Tensor]:
    """The inputs and outputs of the transformer while diffusers' pipeline runs, and the latents that it makes."""
    calls = []
    handle = pipeline.transformer.register_forward_hook(
        lambda _, __, kwargs, output: calls.append((kwargs, output[0])), with_kwargs=True
    )
    try:
        made = pipeline(output_type="latent", generator=torch.Generator().manual_seed(0), **options).audios
    finally:
        handle.remove()
    return calls, made


def test_it_is_a_backbone(folder: Path) -> None:
    backbone = load_backbone(folder)
    assert isinstance(backbone, AceStepBackbone)
    assert isinstance(backbone, Backbone)
    assert (backbone.path.name, backbone.target, backbone.distilled) == ("linear", "u", False)
    assert (backbone.latent_channels, backbone.latent_rate) == (4, 20)
    assert load_codec_of(backbone).name == "oobleck"


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_predict_is_the_pipelines_own_call(
    backbone: AceStepBackbone, pipeline: Any, guidance: float, prompt: str
) -> None:
    # 13 frames: an odd number, which the transformer pads to whole patches.
    calls, _ = recorded(
        pipeline, prompt=[prompt], lyrics=[""], audio_duration=0.65, num_inference_steps=3, guidance_scale=guidance
    )
    conditioning = backbone.condition([prompt], [0.65])
    branches = [conditioning, backbone.null_condition(conditioning)]
    assert len(calls) == 3
    for inputs, output in calls:
        rows = inputs["hidden_states"].split(1)
        assert len(rows) == (2 if guidance > 1 else 1)
        for row, theirs, branch in zip(rows, output.split(1), branches, strict=False):
            assert (
                torch.allclose(branch.tokens, inputs["encoder_hidden_states"][: len(branch)], atol=1e-5) or guidance > 1
            )
            ours = backbone.predict(row.transpose(1, 2), inputs["timestep"][:1], branch).transpose(1, 2)
            assert float((ours - theirs).abs().max()) < 1e-5 * float(theirs.abs().max())


def test_euler_steps_are_the_pipelines(backbone: AceStepBackbone, pipeline: Any) -> None:
    """Sign, time's scale and direction of the flow at once: the same latents from the same noise in four Euler
    steps."""
    noise = torch.randn(1, 13, 4, generator=torch.Generator().manual_seed(3))
    _, theirs = recorded(
        pipeline,
        prompt=PROMPTS[:1],
        lyrics=[""],
        audio_duration=0.65,
        num_inference_steps=4,
        guidance_scale=1.0,
        shift=1.0,
        latents=noise,
    )
    conditioning = backbone.condition(PROMPTS[:1], [0.65])
    ours = sample_ode(
        lambda x, t: backbone.predict(x, t, conditioning),
        path=backbone.path,
        target=backbone.target,
        noise=noise.transpose(1, 2),
        times=torch.linspace(1, 0, 5),
        method="euler",
    )
    assert torch.allclose(ours.transpose(1, 2), theirs, atol=1e-4)


def test_the_flow_goes_from_noise_to_data(pipeline: Any) -> None:
    """diffusers' scheduler turns noise into data when it is given noise - x0, which is this package's target u."""
    x0, noise = torch.randn(2, 1, 6, 4, generator=torch.Generator().manual_seed(0))
    pipeline.scheduler.set_timesteps(sigmas=[1.0, 0.6, 0.2])
    x = noise
    for t in pipeline.scheduler.timesteps:
        assert torch.allclose(x, (1 - t) * x0 + t * noise, atol=1e-5)
        x = pipeline.scheduler.step(noise - x0, t, x, return_dict=False)[0]
    assert torch.allclose(x, x0, atol=1e-5)


@torch.no_grad()
def test_a_row_does_not_depend_on_its_batch(backbone: AceStepBackbone) -> None:
    both = backbone.condition(PROMPTS, [0.5, 0.5])
    alone = [backbone.condition([prompt], [0.5]) for prompt in PROMPTS]
    assert alone[0].tokens.shape[1] != alone[1].tokens.shape[1]
    x_t = torch.randn(2, 4, 12, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.3, 0.8])
    together = backbone.predict(x_t, t, both)
    assert torch.allclose(together, backbone.predict(x_t, t, stack(alone)), atol=1e-5)
    for row in range(2):
        one = backbone.predict(x_t[row : row + 1], t[row : row + 1], alone[row])
        assert torch.allclose(together[row : row + 1], one, atol=1e-5)


def test_gradient_checkpointing_changes_nothing(folder: Path) -> None:
    backbone = load_ace_step(folder)
    conditioning = backbone.condition(PROMPTS, [0.5, 0.5])
    x_t = torch.randn(2, 4, 12, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.3, 0.8])
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            backbone.transformer.enable_gradient_checkpointing()
        backbone.module.train().zero_grad()
        first = backbone.predict(x_t, t, conditioning)
        backbone.predict(x_t[:1], t[:1], conditioning.select([1]))  # another call in between
        first.square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in backbone.module.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.allclose(gradients[0][name], gradients[1][name], atol=1e-6) for name in gradients[0])


def test_no_condition_is_the_learned_one(backbone: AceStepBackbone) -> None:
    conditioning = backbone.condition(PROMPTS, [0.5, 0.5])
    null = backbone.null_condition(conditioning)
    assert torch.equal(null.tokens[1, 3], backbone.condition_encoder.null_condition_emb[0, 0])
    assert null.tokens.shape == conditioning.tokens.shape


def test_encoders_leave_and_come_back(folder: Path) -> None:
    backbone = load_ace_step(folder)
    assert not backbone.text_encoder.loaded
    before = backbone.condition(PROMPTS, [0.01, 0.01]).tokens
    backbone.release_text_encoder()
    assert not backbone.text_encoder.loaded
    assert torch.equal(backbone.condition(PROMPTS, [0.01, 0.01]).tokens, before)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_two_steps_of_training_then_playing(folder: Path, clips: Path, tmp_path: Path, kind: str) -> None:
    trains_and_plays(folder, clips, tmp_path, kind)


def test_saved_and_loaded_again_is_equal(folder: Path, tmp_path: Path) -> None:
    backbone = load_ace_step(folder)
    backbone.save(tmp_path / "copy")
    again = load_backbone(tmp_path / "copy")
    assert again.identity() == backbone.identity()
    first, second = backbone.condition(PROMPTS, [0.02, 0.03]), again.condition(PROMPTS, [0.02, 0.03])
    assert torch.equal(first.tokens, second.tokens)
    assert load_codec_of(again).identity() == load_codec_of(backbone).identity()


def test_turbo_is_distilled_and_not_trained(
    tiny_tokenizer: Callable[..., Any], tiny_oobleck: Callable[..., Any], clips: Path, tmp_path: Path
) -> None:
    make_pipeline(tiny_tokenizer, tiny_oobleck, turbo=True).save_pretrained(tmp_path / "turbo")
    with pytest.raises(UserError, match="is distilled"):
        train(run_of(tmp_path / "turbo", clips, tmp_path / "run"))


def test_all_of_it_is_fetched_from_the_hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(fetched_from_the_hub(folder, tmp_path, monkeypatch), AceStepBackbone)


def damaged(folder: Path, place: Path, what: str) -> Path:
    shutil.copytree(folder, place)
    weights = place / "condition_encoder" / "diffusion_pytorch_model.safetensors"
    if what == "a tensor":
        tensors = load_file(weights)
        del tensors["null_condition_emb"]
        save_file(tensors, weights)
    elif what == "a part":
        shutil.rmtree(place / "condition_encoder")
    elif what == "the time":
        file = place / "scheduler" / "scheduler_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "num_train_timesteps": 1000}))
    elif what == "an option":
        file = place / "transformer" / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "use_magic": True}))
    elif what == "the text encoder":
        file = place / "text_encoder" / "config.json"
        file.write_text('{"model_type": "bert"}')
    return place


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("a tensor", "the condition encoder in .* 1 are missing and 0 unknown"),
        ("a part", "not complete: condition_encoder is missing"),
        ("the time", "num_train_timesteps 1000; models of this kind are read with num_train_timesteps 1 only"),
        ("an option", "does not know: use_magic"),
        ("the text encoder", "of the type 'bert'; t5 and qwen3 are read"),
    ],
)
def test_damage_is_named(folder: Path, tmp_path: Path, what: str, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        load_backbone(damaged(folder, tmp_path / "damaged", what)).condition(["celesta"], [0.01])


# --- adapters where they are played

INNER = (
    r"transformer\.(layers\.\d+\..*(to_q|to_k|to_v|to_out\.0|_proj)|condition_embedder|"
    r"time_embed(_r)?\.(linear_[12]|time_proj))"
)
COMFYUI_BLOCK = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "cross_attn.q_proj",
    "cross_attn.k_proj",
    "cross_attn.v_proj",
    "cross_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
]
COMFYUI_OUTER = [
    "condition_embedder",
    "time_embed.linear_1",
    "time_embed.linear_2",
    "time_embed.time_proj",
    "time_embed_r.linear_1",
    "time_embed_r.linear_2",
    "time_embed_r.time_proj",
]


def comfyui_keys(blocks: int) -> set[str]:
    """The linear layers of ComfyUI's AceStepDiTModel (comfy/ldm/ace/ace_step15.py), as model_lora_keys_unet lists
    them."""
    inner = {f"decoder.layers.{n}.{name}" for n in range(blocks) for name in COMFYUI_BLOCK}
    return {f"diffusion_model.{name}" for name in inner | {f"decoder.{name}" for name in COMFYUI_OUTER}}


def make_adapter(backbone: Any, folder: Path, kind: str) -> dict[str, torch.Tensor]:
    """Writes an adapter of every linear layer in peft's layout; returns the adapted weights."""
    from eisbach import adapters
    from eisbach.adapters.formats import peft

    config = adapters.adapter_config(backbone, kind=kind, rank=2, alpha=3.0, targets=INNER)
    parameters = adapters.inject(backbone, config, seed=1)
    with torch.no_grad():
        for value in parameters.values():
            value += 0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(2))
    peft.save(folder, backbone.module, config, {"base_identity": "x"})
    adapters.remove_layers(backbone.module)
    adapters.attach(backbone, folder, any_base=True)
    weights = {name: value.clone() for name, value in backbone.module.state_dict().items()}
    adapters.detach(backbone)
    return weights


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.whole
def test_comfyui_maps_every_layer_of_an_export(folder: Path, tmp_path: Path, kind: str) -> None:
    from safetensors.torch import load_file
    from typer.testing import CliRunner

    from eisbach import adapters
    from eisbach.cli.main import app

    backbone = load_ace_step(folder)
    expected = make_adapter(backbone, tmp_path / "adapter", kind)
    file = tmp_path / "comfy.safetensors"
    command = ["export", str(tmp_path / "adapter"), "--to", "comfyui", "--model", str(folder), "--out", str(file)]
    result = CliRunner().invoke(app, [*command, "--check", "--any-base", "--precision", "fp32"])
    assert result.exit_code == 0, result.output
    endings = (".lora_A.weight", ".lora_B.weight", ".alpha") if kind == "lora" else (".diff",)
    written = {name.removesuffix(ending) for name in load_file(file) for ending in endings if name.endswith(ending)}
    blocks = len(backbone.transformer.layers)
    assert written == comfyui_keys(blocks)
    count = len(written)
    assert f"{count} of {count} layers have a name in comfyui's table of ACE-Step 1.5" in result.output
    adapters.attach(backbone, file, any_base=True)
    for name, value in backbone.module.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=2e-6)


def test_the_names_are_those_that_diffusers_maps_from_the_original_code(folder: Path, tmp_path: Path) -> None:
    """diffusers has a table of its own from the original names, which ComfyUI's are under `decoder.`."""
    from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_ace_step_lora_to_diffusers as theirs
    from safetensors.torch import load_file

    from eisbach.adapters import convert

    backbone = load_ace_step(folder)
    make_adapter(backbone, tmp_path / "adapter", "lora")
    adapter = convert.read(tmp_path / "adapter")
    assert isinstance(adapter, LowRankAdapter)
    convert.write(adapter, "comfyui", tmp_path / "comfy.safetensors", precision="fp32")
    prefix = "diffusion_model.decoder."
    original = {
        f"base_model.model.{name.removeprefix(prefix)}": value
        for name, value in load_file(tmp_path / "comfy.safetensors").items()
        if "lora_" in name
    }
    back = theirs(original)
    for layer, factors in adapter.layers.items():
        assert torch.equal(back[f"{layer}.lora_A.weight"], factors.a)
        assert torch.equal(back[f"{layer}.lora_B.weight"], factors.b)
    assert len(back) == 2 * len(adapter.layers)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_diffusers_own_loader_plays_an_export(
    folder: Path, tmp_path: Path, kind: str, tiny_tokenizer: Callable[..., Any], tiny_oobleck: Callable[..., Any]
) -> None:
    from eisbach import adapters
    from eisbach.adapters import convert

    backbone = load_ace_step(folder)
    expected = make_adapter(backbone, tmp_path / "adapter", kind)
    adapter = convert.read(tmp_path / "adapter")
    assert isinstance(adapter, LowRankAdapter)
    convert.write(adapter, "diffusers", tmp_path / "played")
    assert convert.host_layers(tmp_path / "played", "diffusers") == ("ACE-Step 1.5", *[len(adapter.layers)] * 2)
    pipeline = make_pipeline(tiny_tokenizer, tiny_oobleck)
    pipeline.load_lora_weights(str(tmp_path / "played"))
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    state = pipeline.transformer.state_dict()
    changed = 0
    for name, value in state.items():
        torch.testing.assert_close(value, expected[f"transformer.{name}"], rtol=0, atol=2e-6)
        changed += not torch.equal(value, backbone.transformer.state_dict()[name])
    assert changed == len(adapter.layers)
    adapters.attach(backbone, tmp_path / "played", any_base=True)
    for name, value in backbone.module.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=2e-6)


def test_stabilitys_file_has_no_names_for_it(folder: Path, tmp_path: Path) -> None:
    from eisbach.adapters import convert
    from eisbach.errors import UserError

    make_adapter(load_ace_step(folder), tmp_path / "adapter", "lora")
    adapter = convert.read(tmp_path / "adapter")
    assert isinstance(adapter, LowRankAdapter)
    with pytest.raises(UserError, match=r"not Stable Audio 3's .*sa3 has names for no other; use --to peft"):
        convert.write(adapter, "sa3", tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.whole
def test_computes_on_a_second_device(folder: Path) -> None:
    same_on_a_second_device(folder)
