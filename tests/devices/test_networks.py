"""Whole paths on a second device, value for value against the CPU: every entry of every table of things that compute.

The names come from the tables themselves, so an entry that is added is tested here, or fails for want of a case.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from second_device import NAME, second_device
from torch import Tensor, nn

from eisbach.adapters.inject import adapter_config, inject
from eisbach.backbones import BACKBONES, create_backbone
from eisbach.codecs import CODECS, IMAGE_CODECS, load_codec, load_image_codec
from eisbach.codecs.base import place_codec
from eisbach.config import build_config
from eisbach.devices import Placement, place
from eisbach.diagnostics.ntk import backbone_ntk
from eisbach.diffusion.guidance import Projection, guided
from eisbach.diffusion.noise_levels import DENSITIES
from eisbach.diffusion.paths import PATHS, get_path
from eisbach.diffusion.samplers import METHODS, sample_ode, sample_pingpong, sample_stochastic
from eisbach.diffusion.schedules import SCHEDULES, get_schedule
from eisbach.diffusion.targets import TARGETS
from eisbach.errors import UserError
from eisbach.generation.images import ImageSampling, sample_images
from eisbach.structure import analyze
from eisbach.training.assembly import build_objective
from eisbach.training.config import AdapterConfig, TrainConfig
from eisbach.training.noising import step_generator
from eisbach.training.step import micro_step
from eisbach.types import Conditioning, LatentBatch, Waveform
from eisbach.weighting.noise_level import NOISE_WEIGHTINGS
from eisbach.weighting.sample import SAMPLE_WEIGHTINGS

FIXTURES = Path(__file__).parent.parent / "fixtures"
AUDIO_MODEL = {
    "width": 16,
    "depth": 1,
    "heads": 2,
    "memory_tokens": 2,
    "text_width": 8,
    "vocabulary": ["calm", "cello"],
}
IMAGE_MODELS: dict[str, dict[str, Any]] = {
    "dit": {"width": 16, "depth": 1, "heads": 2},
    "uvit": {"width": 16, "depth": 1, "heads": 2},
    "unet": {"channels": 8, "multipliers": [1, 2], "blocks": 1, "attention": [4], "head_width": 8, "groups": 8},
    "edm2": {
        "model_channels": 8,
        "channel_mult": [1, 2],
        "num_blocks": 1,
        "attn_resolutions": [4],
        "channels_per_head": 8,
        "logvar_channels": 8,
    },
}
IMAGES = {"latent_channels": 1, "latent_size": 8, "classes": ["a", "b"]}
ADAPTERS = [
    (kind, norm) for kind in get_args(AdapterConfig.model_fields["type"].annotation)
    for norm in (("detached", "full") if kind == "dora" else (None,))
]  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "log_snr_uniform": {"low": -10.0, "high": 10.0},
    "tabulated": {"points": [[0.0, 1.0], [1.0, 2.0]]},
}


def both(compute: Callable[[torch.device], Any], *, atol: float = 1e-5, rtol: float = 1e-4) -> None:
    """`compute(device)` gives on the second device, brought to the host, what it gives on the CPU."""
    expected = compute(torch.device("cpu"))
    with second_device():
        made = compute(torch.device(NAME))
    if isinstance(expected, str):
        assert made == expected
        return
    torch.testing.assert_close(made, expected, atol=atol, rtol=rtol)


def awake(module: nn.Module) -> None:
    """Moves every weight off zero, so that everything reaches the output."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def model(kind: str = "eisbach-tiny-music") -> Any:
    """A tiny model with the same weights each time."""
    audio = kind == "eisbach-tiny-music"
    backbone: Any = create_backbone(AUDIO_MODEL if audio else {**IMAGES, **IMAGE_MODELS[kind]}, kind=kind)
    awake(backbone.module)
    return backbone


def batch_of(backbone: Any, device: torch.device) -> LatentBatch:
    """Three samples; of audio, one is shorter than the others and masked."""
    shape = backbone.latent_shape or (backbone.latent_channels, 24)
    latents = torch.randn(3, *shape, generator=torch.Generator().manual_seed(2))
    mask, names = None, ["a", "b", ""]
    durations = torch.ones(3)
    if backbone.latent_shape is None:
        frames = torch.tensor([24, 24, 17])
        mask, names = torch.arange(24) < frames[:, None], ["calm cello", "cello", "calm"]
        durations = frames / backbone.latent_rate
        mask = mask.to(device)
    return LatentBatch(latents=latents.to(device), ids=["1", "2", "3"], captions=names, durations=durations, mask=mask)


def recipe(**changes: Any) -> TrainConfig:
    return build_config(TrainConfig, {"data": {"manifest": "m"}, "condition_dropout": 0.5, **changes})


def step(
    backbone: Any, config: TrainConfig, device: torch.device, adapter: tuple[str, str | None] = ("none", None)
) -> dict[str, Tensor]:
    """Loss, statistics and gradients of a micro-batch, on the host."""
    kind, norm = adapter
    if kind != "none":
        injected = adapter_config(backbone, kind=kind, rank=2, alpha=2.0)
        inject(backbone, injected, seed=0, norm_gradient=norm or "detached")
        awake(nn.ModuleList(layer for name, layer in backbone.module.named_modules() if name.endswith("lora_B")))
    backbone.module.to(device).train()
    objective = build_objective(config, backbone)
    objective.weighting.to(device)
    batch = batch_of(backbone, device)
    conditioning = backbone.condition(batch.captions, batch.durations.tolist()).to(device)
    output = micro_step(backbone.predict, objective, batch, conditioning, step_generator(0, 1))
    output.partial.unscaled.backward()
    found = {"loss": output.partial.unscaled, "stats": output.partial.stats, "t": output.t}
    parameters = [*backbone.module.named_parameters(), *objective.weighting.trainable_parameters().items()]
    found |= {name: value.grad for name, value in parameters if value.grad is not None}
    return {name: value.detach().cpu() for name, value in found.items()}


@pytest.mark.parametrize("adapter", ADAPTERS, ids=str)
@pytest.mark.parametrize("name", SAMPLE_WEIGHTINGS)
def test_training_with_every_sample_weighting_and_adapter(name: str, adapter: tuple[str, str | None]) -> None:
    config = recipe(weighting={"sample": name})
    both(lambda device: step(model(), config, device, adapter))


@pytest.mark.parametrize("adapter", ADAPTERS, ids=str)
@pytest.mark.parametrize("name", NOISE_WEIGHTINGS)
@pytest.mark.whole
def test_training_with_every_noise_level_weighting_and_adapter(name: str, adapter: tuple[str, str | None]) -> None:
    config = recipe(weighting={"noise_level": name, "options": OPTIONS.get(name, {})})
    both(lambda device: step(model(), config, device, adapter))


@pytest.mark.parametrize("name", DENSITIES)
def test_training_with_every_density(name: str) -> None:
    levels = {"density": name, "options": OPTIONS.get(name, {})}
    config = recipe(noise_levels=levels, weighting={"noise_level": "min_snr"})
    both(lambda device: step(model(), config, device))


@pytest.mark.parametrize("objective", [{"pairing": "optimal_transport"}, {"silence_extension": 2.0}], ids=str)
def test_training_with_every_objective(objective: dict[str, Any]) -> None:
    both(lambda device: step(model(), recipe(objective=objective), device))


@pytest.mark.parametrize("kind", BACKBONES)
def test_training_of_every_backbone(kind: str) -> None:
    config = recipe(weighting={"sample": "entropy_barrier"})
    both(lambda device: step(model(kind), config, device))


# --- sampling


def _network(path: str, device: torch.device) -> tuple[Callable[..., Tensor], Conditioning, Conditioning]:
    torch.manual_seed(0)
    layer = nn.Conv1d(5, 4, 3, padding=1)
    layer.to(device)

    def predict(x_t: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        return layer(torch.cat([x_t, t[:, None, None].expand(-1, 1, x_t.shape[2])], 1)) + conditioning.tokens[:, :4]

    rows = Conditioning(torch.ones(2, 4, 8, device=device), torch.ones(2, 1, device=device))
    return predict, rows, Conditioning(torch.zeros_like(rows.tokens), rows.global_embed)


Guidance = tuple[float, tuple[float, float] | None, float | None]
GUIDANCE: tuple[Guidance, ...] = (
    (1.0, None, None),
    (0.0, None, None),
    (3.0, None, None),
    (3.0, (0.2, 0.7), None),
    (3.0, None, 0.8),
)
"""Scale, interval, and the strength of the projection."""
SAMPLERS = (*METHODS, "pingpong", "stochastic")


def draw(
    sampler: str,
    device: torch.device,
    *,
    path: str = "linear",
    target: str = "u",
    schedule: str = "uniform",
    guidance: Guidance = (1.0, None, None),
    placement: Placement | None = None,
) -> Tensor:
    """Samples of a small network, on the host."""
    predict, rows, null = _network(path, device)
    network = predict if placement is None else placement.predict(predict)
    options = {"curve": str(_curve(path))} if schedule == "rescaled_entropic" else {}
    shared: dict[str, Any] = {
        "path": path,
        "target": target,
        "noise": torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(3)).to(device),
        "times": get_schedule(schedule, 4, get_path(path), **options),
    }
    scale, interval, strength = guidance
    projection = None if strength is None else Projection(strength, get_path(path), target)
    asked = guided(network, rows, null, scale, interval, projection=projection)

    def fresh(number: int) -> Tensor:
        return torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(number))

    if sampler == "pingpong":
        made = sample_pingpong(asked, fresh_noise=fresh, **shared)
    elif sampler == "stochastic":
        made = sample_stochastic(asked, generator=torch.Generator().manual_seed(4), **shared)
    else:
        made = sample_ode(asked, method=sampler, **shared)
    assert made.device.type == device.type
    return made.cpu()


@cache
def _curve(path: str) -> Path:
    import tempfile

    from eisbach.diffusion.rate_curve import save_entropic_curve

    file = Path(tempfile.mkdtemp()) / "curve.json"
    t = torch.linspace(0.99, 0.01, 16).tolist()
    mse = torch.linspace(4.0, 0.1, 16).tolist()
    save_entropic_curve(file, path=get_path(path), t=t, mse=mse, mse_lo=mse, mse_hi=mse, dims=4, meta={})
    return file


@pytest.mark.parametrize("guidance", GUIDANCE, ids=str)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampling_with_every_sampler_and_guidance(sampler: str, guidance: Any) -> None:
    chosen = {"schedule": "karras", "path": "edm", "target": "x0"} if sampler == "edm_heun" else {}
    both(lambda device: draw(sampler, device, guidance=guidance, **chosen))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("target", TARGETS)
def test_sampling_on_every_path_to_every_target(path: str, target: str) -> None:
    schedule = "log_snr" if target == "eps" else "uniform"  # eps says nothing where there is only noise

    def drawn(device: torch.device) -> Tensor | str:
        try:
            return draw("heun", device, path=path, target=target, schedule=schedule)
        except UserError as error:  # a target that says nothing on this path is refused on every device
            return str(error)

    both(drawn, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_sampling_with_every_schedule(schedule: str) -> None:
    both(lambda device: draw("euler", device, schedule=schedule))


def test_sampling_in_bf16_rounds_in_the_network_alone() -> None:
    expected = draw("euler", torch.device("cpu"))
    with second_device():
        made = draw("euler", torch.device(NAME), placement=place(NAME, "bf16"))
    assert made.dtype == torch.float32
    assert 0 < float((made - expected).abs().max()) < 0.05


@pytest.mark.parametrize("kind", IMAGE_MODELS)
def test_images_of_every_backbone(kind: str) -> None:
    sampling = ImageSampling(num_inference_steps=2, guidance_scale=2.0, guidance_interval=(0.0, 0.8), clip=True)
    both(lambda device: sample_images(model(kind), ["a", "b", ""], sampling, placement=Placement(device, False)))


def test_every_kind_of_image_model_is_drawn() -> None:
    assert {*IMAGE_MODELS, "eisbach-tiny-music"} == set(BACKBONES)


# --- codecs


def _audio(rate: int, channels: int, seconds: float = 0.4) -> Waveform:
    samples = 0.1 * np.random.default_rng(0).standard_normal((channels, round(seconds * rate)))
    return Waveform(samples.astype(np.float32), rate)


@cache
def _saved(kind: str) -> str:
    """Folder of a tiny random autoencoder in diffusers' layout."""
    import tempfile

    import diffusers

    folder = tempfile.mkdtemp()
    torch.manual_seed(0)
    made: Any
    if kind == "oobleck":
        made = diffusers.AutoencoderOobleck(
            encoder_hidden_size=8, downsampling_ratios=[2, 4], channel_multiples=[1, 2], decoder_channels=4,
            decoder_input_channels=4, audio_channels=2, sampling_rate=8000,
        )  # fmt: skip
    else:
        made = diffusers.AutoencoderKL(
            block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=2, norm_num_groups=4,
        )  # fmt: skip
    made.save_pretrained(folder)
    return folder


AUDIO_CODECS = {**{name: lambda name=name: name for name in CODECS},
                "same": lambda: str(FIXTURES / "sa3_native_tiny"), "oobleck": lambda: _saved("oobleck")}  # fmt: skip


@pytest.mark.parametrize("name", AUDIO_CODECS)
def test_every_codec_encodes_and_decodes(name: str) -> None:
    def code(device: torch.device) -> list[Tensor]:
        codec = load_codec(AUDIO_CODECS[name]())
        place_codec(codec, device)
        latents = codec.encode(_audio(codec.sample_rate, codec.audio_channels))
        made = codec.decode(latents)
        assert latents.device.type == "cpu"  # what a codec takes and gives stays on the host
        assert codec.identity() == load_codec(AUDIO_CODECS[name]()).identity()
        return [latents, torch.from_numpy(made[0].samples)]

    both(code, atol=1e-4)


@pytest.mark.parametrize("name", [*IMAGE_CODECS, "autoencoder-kl"])
def test_every_image_codec_encodes_and_decodes(name: str) -> None:
    def code(device: torch.device) -> list[Tensor]:
        codec = load_image_codec(name if name in IMAGE_CODECS else _saved("kl"))
        place_codec(codec, device)
        images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
        latents = codec.encode(images)
        return [latents, codec.decode(latents)]

    both(code)


# --- structure, the kernel


def test_structure_features_of_a_clip() -> None:
    time = np.arange(4 * 22050) / 22050
    clip = Waveform((0.3 * np.sin(2 * np.pi * np.where(time < 2, 220.0, 660.0) * time)).astype(np.float32)[None], 22050)
    expected = analyze(clip, device="cpu")
    with second_device():
        made = analyze(clip, device=NAME)
        np.testing.assert_equal(analyze(clip, device="auto").metrics, made.metrics)  # auto takes the accelerator
    np.testing.assert_allclose(made.features.mel_db, expected.features.mel_db, atol=1e-3)
    np.testing.assert_allclose(made.features.chroma, expected.features.chroma, atol=1e-5)


def test_the_tangent_kernel_of_a_backbone() -> None:
    def kernel(device: torch.device) -> Tensor:
        backbone = model()
        backbone.module.to(device).eval()
        batch = batch_of(backbone, device)
        conditioning = backbone.condition(batch.captions, batch.durations.tolist()).to(device)
        t = torch.tensor([0.2, 0.5, 0.8], device=device)
        return backbone_ntk(
            backbone, batch.latents, t, conditioning, parameters=r"dit\.proj_out.*", outputs="trace"
        ).cpu()

    both(kernel, rtol=1e-3)
