"""A tiny random Stable Audio Open in diffusers' layout, against what diffusers' own pipeline and scheduler do with
it."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import CAPTIONS, fetched_from_the_hub, same_on_a_second_device, trains_and_plays

from eisbach.backbones import load_backbone, load_codec_of
from eisbach.backbones.base import Backbone
from eisbach.backbones.stable_audio_open import StableAudioOpenBackbone, load_stable_audio_open
from eisbach.diffusion.guidance import guided
from eisbach.diffusion.paths import get_path
from eisbach.diffusion.samplers import sample_ode
from eisbach.diffusion.schedules import get_schedule
from eisbach.diffusion.targets import add_noise, make_target, to_x0
from eisbach.errors import CheckpointError, UserError
from eisbach.training.data import ConditioningCache
from eisbach.types import LatentBatch

PROMPTS = list(CAPTIONS)
FRAMES = 640


@pytest.fixture(scope="module")
def scheduler_class() -> Iterator[Any]:
    """diffusers' scheduler of this model; it draws fresh noise with torchsde, which is replaced by no noise at all."""

    class Quiet:
        def __init__(self, *_: Any, **options: Any) -> None:
            self.zeros = torch.zeros(options["size"]) if "size" in options else torch.zeros_like(options["w0"])

        def __call__(self, *_: Any, **__: Any) -> torch.Tensor:
            return self.zeros

    class QuietTree(Quiet):
        def __init__(self, _: float, w0: torch.Tensor, *__: Any, **___: Any) -> None:
            super().__init__(w0=w0)

    fake: Any = ModuleType("torchsde")
    fake.BrownianTree, fake.BrownianInterval = QuietTree, Quiet
    import diffusers.schedulers  # noqa: F401 - before the replacement, whose version it would ask for

    names = [f"diffusers.schedulers.scheduling_{name}" for name in ("dpmsolver_sde", "cosine_dpmsolver_multistep")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchsde", fake)
        for name in names:
            patch.delitem(sys.modules, name, raising=False)
        from diffusers.schedulers.scheduling_cosine_dpmsolver_multistep import CosineDPMSolverMultistepScheduler

        yield CosineDPMSolverMultistepScheduler
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def pipeline(scheduler_class: Any, tiny_tokenizer: Callable[..., Any], tiny_oobleck: Callable[..., Any]) -> Any:
    from diffusers import StableAudioDiTModel, StableAudioPipeline, StableAudioProjectionModel
    from transformers import T5Config, T5EncoderModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = StableAudioDiTModel(
            sample_size=FRAMES,
            in_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            num_key_value_attention_heads=1,
            out_channels=4,
            cross_attention_dim=8,
            time_proj_dim=8,
            global_states_input_dim=24,
            cross_attention_input_dim=12,
        )
        # Another width than the text encoder's, so that the projection has weights and a bias.
        projection = StableAudioProjectionModel(text_encoder_dim=16, conditioning_dim=12, min_value=0, max_value=64)
        text: Any = T5EncoderModel(
            T5Config(vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, pad_token_id=0)
        )
    made = StableAudioPipeline(
        vae=tiny_oobleck(4),
        text_encoder=text.eval(),
        projection_model=projection.eval(),
        tokenizer=tiny_tokenizer(8),
        transformer=transformer.eval(),
        scheduler=scheduler_class(),
    )
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def folder(pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("stable_audio_open")
    pipeline.save_pretrained(place)
    return place


@pytest.fixture(scope="module")
def backbone(folder: Path) -> StableAudioOpenBackbone:
    return load_stable_audio_open(folder)


def recorded(pipeline: Any, **options: Any) -> list[tuple[dict[str, torch.Tensor], torch.Tensor]]:
    """The inputs and outputs of the transformer while diffusers' pipeline runs."""
    calls = []

    def note(_: Any, args: Any, kwargs: Any, output: Any) -> None:
        calls.append(({"x_t": args[0], "t": args[1], **kwargs}, output[0]))

    handle = pipeline.transformer.register_forward_hook(note, with_kwargs=True)
    try:
        pipeline(output_type="latent", generator=torch.Generator().manual_seed(0), **options)
    finally:
        handle.remove()
    return calls


def test_it_is_a_backbone(backbone: StableAudioOpenBackbone, folder: Path) -> None:
    assert isinstance(backbone, Backbone)
    assert (backbone.path.name, backbone.target) == ("gvp", "v")
    assert (backbone.latent_channels, backbone.latent_rate, backbone.max_seconds) == (4, 20, 32)
    assert isinstance(load_backbone(folder), StableAudioOpenBackbone)
    codec = load_codec_of(backbone)
    assert (codec.name, codec.sample_rate, codec.samples_per_frame) == ("oobleck", 160, 8)


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_predict_is_the_pipelines_own_call(backbone: StableAudioOpenBackbone, pipeline: Any, guidance: float) -> None:
    calls = recorded(pipeline, prompt=PROMPTS, audio_end_in_s=20.0, num_inference_steps=3, guidance_scale=guidance)
    conditioning = backbone.condition(PROMPTS, [20.0, 20.0])
    null = backbone.null_condition(conditioning)
    assert len(calls) == 3
    for inputs, output in calls:
        x_t, t = inputs["x_t"], inputs["t"]
        branches = [null, conditioning] if guidance > 1 else [conditioning]
        for rows, theirs, branch in zip(x_t.split(2), output.split(2), branches, strict=True):
            ours = backbone.predict(rows, t.expand(2), branch)
            assert float((ours - theirs).abs().max()) < 1e-5 * float(theirs.abs().max())
    assert float((output[:1] - output[1:2]).abs().max()) > 1e-3  # captions make a difference


def test_v_and_the_cosine_path_are_the_schedulers(scheduler_class: Any) -> None:
    scheduler = scheduler_class()
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 5, 4, 6, generator=generator)
    for sigma in (0.3, 1.0, 7.0, 500.0):
        t = torch.atan(torch.tensor(sigma)).expand(5) * 2 / torch.pi
        assert torch.allclose(scheduler.precondition_noise(torch.tensor(sigma)), t[0])
        noisy = scheduler.precondition_inputs(x0 + sigma * noise, sigma)
        assert torch.allclose(add_noise("gvp", x0, noise, t), noisy, atol=1e-5)
        v = make_target("gvp", "v", x0, noise, t)
        theirs = scheduler.precondition_outputs(x0 + sigma * noise, v, sigma)
        assert torch.allclose(theirs, x0, atol=2e-4)
        output = torch.randn(v.shape, generator=generator)
        theirs = scheduler.precondition_outputs(x0 + sigma * noise, output, sigma)
        assert torch.allclose(to_x0("gvp", "v", output, noisy, t), theirs, atol=2e-4)


def test_conditioning_does_not_depend_on_its_batch(backbone: StableAudioOpenBackbone) -> None:
    both, alone = backbone.condition(PROMPTS, [20.0, 5.0]), backbone.condition(PROMPTS[1:], [5.0])
    x_t = torch.randn(1, 4, 9, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.4])
    with torch.no_grad():
        first = backbone.predict(x_t, t, both.select([1]))
        assert torch.allclose(first, backbone.predict(x_t, t, alone), atol=1e-6)
        other = backbone.predict(x_t, t, backbone.with_durations(alone, [20.0]))
    assert not torch.allclose(first, other, atol=1e-5)


def test_the_text_encoder_leaves_and_comes_back(folder: Path) -> None:
    backbone = load_stable_audio_open(folder)
    cache = ConditioningCache(backbone, torch.device("cpu"))
    assert not backbone.text_encoder.loaded
    assert cache.fill(PROMPTS)
    assert not backbone.text_encoder.loaded
    batch = LatentBatch(torch.zeros(1, 4, 8), ["0"], PROMPTS[:1], torch.tensor([2.0]))
    from_cache = cache(batch)
    assert not backbone.text_encoder.loaded
    assert torch.allclose(from_cache.tokens, backbone.condition(PROMPTS[:1], [2.0]).tokens, atol=1e-6)


def test_sampling_equals_the_schedulers_first_order_steps(
    backbone: StableAudioOpenBackbone, pipeline: Any, scheduler_class: Any
) -> None:
    """DDIM on the cosine path, computed here in k-diffusion's sigma, is what `sample_ode` does in four Euler steps."""
    conditioning = backbone.condition(PROMPTS, [1.5, 1.5])
    predict = guided(backbone.predict, conditioning, backbone.null_condition(conditioning), 3.0)
    noise = torch.randn(2, 4, 30, generator=torch.Generator().manual_seed(1))
    times = get_schedule(backbone.schedule, 4)
    made = sample_ode(predict, path=backbone.path, target=backbone.target, noise=noise, times=times, method="euler")
    scheduler, path = scheduler_class(), get_path("gvp")
    x = noise
    with torch.no_grad():
        for t, s in zip(times[:-1].float(), times[1:].float(), strict=True):
            sigma = torch.tan(t.clamp_max(1 - 1e-6) * torch.pi / 2)
            data = scheduler.precondition_outputs(x * (1 + sigma**2).sqrt(), predict(x, t.expand(2)), sigma)
            kept = (x - path.alpha(t) * data) / path.sigma(t)
            x = path.alpha(s) * data + path.sigma(s) * kept
    assert torch.allclose(made, x, atol=1e-3)


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.whole
def test_two_steps_of_training_then_playing(folder: Path, clips: Path, tmp_path: Path, kind: str) -> None:
    trains_and_plays(folder, clips, tmp_path, kind)


def test_saved_and_loaded_again_is_equal(backbone: StableAudioOpenBackbone, tmp_path: Path, pipeline: Any) -> None:
    backbone.save(tmp_path / "copy")
    again = load_backbone(tmp_path / "copy")
    assert again.identity() == backbone.identity()
    first, second = backbone.condition(PROMPTS, [2.0, 3.0]), again.condition(PROMPTS, [2.0, 3.0])
    assert torch.equal(first.tokens, second.tokens)
    assert load_codec_of(again).identity() == load_codec_of(backbone).identity()
    written = json.loads((tmp_path / "copy" / "model_index.json").read_text())
    assert set(written) >= {"transformer", "projection_model", "text_encoder", "tokenizer", "vae", "scheduler"}


def test_a_native_checkpoint_beside_the_pipeline_does_not_mislead(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "both")
    (tmp_path / "both" / "model_config.json").write_text('{"model_type": "diffusion_cond"}')
    assert isinstance(load_backbone(tmp_path / "both"), StableAudioOpenBackbone)


def test_all_of_it_is_fetched_from_the_hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(fetched_from_the_hub(folder, tmp_path, monkeypatch), StableAudioOpenBackbone)


def damaged(folder: Path, place: Path, what: str) -> Path:
    shutil.copytree(folder, place)
    weights = place / "transformer" / "diffusion_pytorch_model.safetensors"
    if what == "a tensor":
        tensors = load_file(weights)
        del tensors["proj_in.weight"]
        save_file(tensors, weights)
    elif what == "a byte":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif what == "a part":
        shutil.rmtree(place / "projection_model")
    elif what == "the objective":
        file = place / "scheduler" / "scheduler_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "prediction_type": "epsilon"}))
    elif what == "an option":
        file = place / "projection_model" / "config.json"
        file.write_text(json.dumps({"text_encoder_dim": 16}))
    elif what == "the pipeline":
        (place / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    return place


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("a tensor", "1 are missing and 0 unknown"),
        ("a byte", "truncated"),
        ("a part", "not complete: projection_model is missing"),
        ("the objective", "prediction_type 'epsilon'"),
        ("an option", "needs exactly text_encoder_dim, conditioning_dim, min_value, max_value"),
        ("the pipeline", "describes a FluxPipeline; of diffusers' pipelines these are read: .*AceStepPipeline"),
    ],
)
def test_damage_is_named(folder: Path, tmp_path: Path, what: str, sentence: str) -> None:
    with pytest.raises(CheckpointError, match=sentence):
        load_backbone(damaged(folder, tmp_path / "damaged", what))


def test_more_than_the_window_is_refused(backbone: StableAudioOpenBackbone) -> None:
    with pytest.raises(UserError, match=r"a duration of 33 s arrived; this model makes at most 32 s"):
        backbone.condition(PROMPTS[:1], [33.0])
    with pytest.raises(UserError, match="2 captions came with 1 durations"):
        backbone.condition(PROMPTS, [0.01])
    with pytest.raises(UserError, match="641 latent frames arrived and this model makes at most 640"):
        backbone.predict(torch.zeros(1, 4, 641), torch.ones(1), backbone.condition(PROMPTS[:1], [0.01]))


def test_every_long_caption_is_named_once(folder: Path) -> None:
    backbone = load_stable_audio_open(folder)
    first, second, third = "slow strings " * 6, "fast strings " * 7, "slow piano " * 8
    assert backbone.text_length(first) == (13, 8)
    with pytest.warns(UserWarning, match=r"reads 8 tokens of a text, and longer ones lose their end: ") as said:
        backbone.condition([first, "strings", second], [0.01] * 3)
    (warning,) = said
    assert f"'{first[:60]}…' has 13, '{second[:60]}…' has 15." in str(warning.message)
    with pytest.warns(UserWarning, match="has 17") as said:
        backbone.condition([second, third, first], [0.01] * 3)
    assert "fast" not in str(said[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone.condition([first, second, third], [0.01] * 3)


def test_computes_on_a_second_device(folder: Path) -> None:
    same_on_a_second_device(folder)
