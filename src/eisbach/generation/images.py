"""Images from an image model: classes in, latents, pixels or a folder of files out, each image's noise its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from eisbach.config import StrictModel
from eisbach.devices import Placement, place
from eisbach.errors import InterruptedRun, UserError
from eisbach.files import atomic_write
from eisbach.generation.takes import noise_seed, sampling_times
from eisbach.interruption import stop_signal
from eisbach.output_folder import claim, curve_stamp
from eisbach.progress import Progress

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
    backbone: Any, classes: Sequence[str], sampling: ImageSampling, *, seed: int = 0, first: int = 0,
    placement: Placement | None = None, on_batch: Callable[[int], object] | None = None,
) -> torch.Tensor:  # fmt: skip
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
    placement : Placement or None
        Where to and how precisely; None leaves the model where it is and computes in fp32.
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
    from eisbach.generation.takes import sampling_times

    _check_sampling(backbone, sampling)
    times = sampling_times(sampling, backbone)
    if placement is None:
        placement = Placement(next(backbone.module.parameters()).device, bf16=False)
    device = placement.device
    backbone.module.to(device)
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
            network = placement.predict(backbone.predict)
            predict = guided(network, condition, null, sampling.guidance_scale, sampling.guidance_interval)
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


def _check_sampling(backbone: Any, sampling: ImageSampling) -> None:
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


def write_images(
    model: str, sampling: ImageSampling, out: str | Path, *, count: int, classes: Sequence[str] | None = None,
    seed: int = 0, device: str = "auto", precision: str = "auto", quiet: bool = False,
    notify: Callable[[str], object] | None = None,
) -> int:  # fmt: skip
    """Writes `count` PNG files and samples.json into `out`; images that are there already are kept. Returns how many
    there are.

    Parameters
    ----------
    model : str
        Folder of a saved image model.
    classes : sequence of str or None
        Drawn in turn; None takes all of the model's.
    device, precision : str
        As `devices.place` reads them.
    notify : callable or None
        Is told, in a sentence, where it computes.

    Raises
    ------
    UserError
        No image model, unknown classes, a device that is not there, or a folder that holds images drawn otherwise.
    """
    from PIL import Image

    from eisbach.backbones import load_backbone
    from eisbach.codecs import load_image_codec
    from eisbach.codecs.base import place_codec
    from eisbach.data.images import to_bytes

    placement = place(device, precision)
    if notify is not None:
        notify(f"{placement.sentence()}.")
    backbone = load_backbone(model)
    if backbone.modality != "image":
        raise UserError(f"the model '{model}' makes no images; give the folder of an image model.")
    codec = load_image_codec(backbone.codec, backbone.latent_channels)
    names = list(classes or backbone.classes or [""])  # type: ignore[attr-defined]
    settings = sampling.model_dump(mode="json", exclude={"batch_size"})
    if settings["schedule_options"] is None:
        del settings["schedule_options"]
    sampling_times(sampling, backbone)  # refuses a schedule or curve that does not fit before anything is written
    backbone.condition(names, [1.0] * len(names))  # and so a class that the model does not have
    settings |= curve_stamp(sampling.schedule_options)
    made_with = {"model": backbone.identity(), "seed": seed, "classes": names, **settings, **placement.stamp()}
    place_codec(codec, placement.device)
    out = Path(out)
    claim(out, "samples.json", "images", made_with)
    wanted = [names[number % len(names)] for number in range(count)]
    files = [out / _folder(name) / f"{number:06d}.png" for number, name in enumerate(wanted)]
    with stop_signal() as stop, Progress(count, "draw", unit=" images", quiet=quiet) as bar:
        for start in range(0, count, sampling.batch_size):
            if stop.is_set():
                done = sum(file.is_file() for file in files)
                raise InterruptedRun(
                    f"{done} of {count} images are finished and stay in {out}; the same command draws the others."
                )
            part = slice(start, min(start + sampling.batch_size, count))
            if all(file.is_file() for file in files[part]):
                bar.advance(len(files[part]))
                continue
            latents = sample_images(backbone, wanted[part], sampling, seed=seed, first=start, placement=placement)
            for file, pixels in zip(files[part], to_bytes(codec.decode(latents).numpy()), strict=True):
                image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
                atomic_write(file, lambda partial, image=image: image.save(partial, format="PNG"))  # type: ignore[misc]
            bar.advance(len(files[part]))
    return count


def _folder(name: str) -> str:
    """A class as a folder's name."""
    return re.sub(r"[^\w.-]+", "_", name) or "no_class"
