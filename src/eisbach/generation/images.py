"""Images from an image model: classes in, latents or pixels out, each image's noise its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from eisbach.config import StrictModel
from eisbach.errors import UserError
from eisbach.generation.noise import noise_seed

if TYPE_CHECKING:
    import torch


class ImageSampling(StrictModel):
    """How images are drawn; the defaults are ERD's (section G.1): EDM's Heun with 50 steps, no guidance.

    Attributes
    ----------
    num_inference_steps : int
    schedule : str
        A name of `diffusion.schedules`.
    schedule_options : mapping or None
        Options of that schedule, as ``{curve: FILE}`` of rescaled_entropic; with `edm_heun` it needs a sigma_max as
        well where the path ends in pure noise.
    method : "euler", "heun" or "edm_heun"
        "euler" is DDIM with eta = 0.
    guidance_scale : float
        1 is no guidance.
    guidance_interval : (low, high) in t, or None
        Guide only there; [0, 0.8] is ERD's best (its Table 9).
    clip : bool
        Keep every step's data estimate within [-1, 1], as DDPM and ADM do with pixels: an eps-network's error at the
        first, noisiest levels is otherwise multiplied by up to sigma / alpha = 80. Not for latents, which have no
        bounds.
    batch_size : int
        Images at once; it does not change them beyond rounding.
    """

    num_inference_steps: int = Field(default=50, ge=1)
    schedule: str = "karras"
    schedule_options: dict[str, Any] | None = None
    method: Literal["euler", "heun", "edm_heun"] = "edm_heun"
    guidance_scale: float = Field(default=1.0, allow_inf_nan=False)
    guidance_interval: tuple[float, float] | None = None
    clip: bool = False
    batch_size: int = Field(default=64, ge=1)

    @field_validator("guidance_interval")
    @classmethod
    def _within(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 <= value[0] < value[1] <= 1:
            raise ValueError("must be two noise levels t with 0 <= low < high <= 1 (t = 1 is noise)")
        return value


def sample_images(
    backbone: Any,
    classes: Sequence[str],
    sampling: ImageSampling,
    *,
    seed: int = 0,
    first: int = 0,
    on_batch: Callable[[int], object] | None = None,
) -> torch.Tensor:
    """One image for each entry of `classes`, as latents [shape=(N, C, h, w), float32, CPU].

    Parameters
    ----------
    backbone : an image backbone
        Put into evaluation mode while it samples.
    classes : sequence of str
        Names of the model's classes; "" is no class.
    sampling : ImageSampling
    seed : int
    first : int
        Number of the first image: image n's noise depends on (seed, n) alone, so a long draw can be made in parts.
    on_batch : callable or None
        Called with the number of images of each batch that is done.

    Raises
    ------
    UserError
        A class that the model does not have, guidance of a model without classes, or sampling options that do not fit
        its path.
    """
    import torch

    from eisbach.diffusion.guidance import guided
    from eisbach.diffusion.samplers import sample_ode
    from eisbach.generation.times import sampling_times

    if backbone.modality != "image":
        raise UserError(f"the model '{backbone.name}' makes no images; give an image model.")
    if sampling.guidance_scale != 1 and not backbone.classes:
        raise UserError(
            f"guidance_scale is {sampling.guidance_scale:g} and the model has no classes to guide towards; use "
            "guidance_scale 1."
        )
    if sampling.clip and backbone.codec != "pixels":
        raise UserError(
            f"clip keeps pixels within [-1, 1], and this model draws latents of '{backbone.codec}'; leave it out."
        )
    times = sampling_times(sampling, backbone)
    device = next(backbone.module.parameters()).device
    shape = (backbone.latent_channels, backbone.latent_size, backbone.latent_size)
    training = backbone.module.training
    backbone.module.eval()
    parts = []
    try:
        for start in range(0, len(classes), sampling.batch_size):
            names = list(classes[start : start + sampling.batch_size])
            noise = torch.stack([image_noise(seed, first + start + place, shape) for place in range(len(names))])
            noise = noise.to(device)
            condition = backbone.condition(names, [1.0] * len(names)).to(device)
            null = backbone.null_condition(condition) if sampling.guidance_scale != 1 else None
            predict = guided(backbone.predict, condition, null, sampling.guidance_scale, sampling.guidance_interval)
            if sampling.clip:
                predict = clipped(predict, backbone.path, backbone.target)
            latents = sample_ode(
                predict, path=backbone.path, target=backbone.target, noise=noise, times=times, method=sampling.method
            )
            parts.append(latents.float().cpu())
            if on_batch is not None:
                on_batch(len(names))
    finally:
        backbone.module.train(training)
    return torch.cat(parts) if parts else torch.zeros(0, *shape)


def clipped(
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], path: str, target: str
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """`predict` with its data estimate clamped to [-1, 1], said in the same target again."""
    from eisbach.diffusion.targets import convert

    def inner(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        x0 = convert(path, target, "x0", predict(x_t, t).to(x_t.dtype), x_t, t).clamp(-1, 1)
        return convert(path, "x0", target, x0, x_t, t)

    return inner


def image_noise(seed: int, number: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal noise of image `number`, on the CPU: the same for every model, class and batch."""
    import torch

    generator = torch.Generator().manual_seed(noise_seed(f"image {number}", seed))
    return torch.randn(shape, generator=generator)
