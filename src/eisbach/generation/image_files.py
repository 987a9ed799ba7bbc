"""Images drawn from a saved model, as PNG files in a folder for each class."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from eisbach.errors import InterruptedRun, UserError
from eisbach.files import atomic_write
from eisbach.generation.images import ImageSampling, sample_images
from eisbach.generation.times import curve_stamp, sampling_times
from eisbach.output_folder import claim
from eisbach.progress import Progress
from eisbach.signals import stop_signal


def write_images(
    model: str,
    sampling: ImageSampling,
    out: str | Path,
    *,
    count: int,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> int:
    """Writes `count` PNG files and samples.json into `out`; images that are there already are kept. Returns how many
    there are.

    Parameters
    ----------
    model : str
        Folder of a saved image model.
    classes : sequence of str or None
        Drawn in turn; None takes all of the model's.

    Raises
    ------
    UserError
        No image model, unknown classes, or a folder that holds images drawn otherwise.
    """
    from PIL import Image

    from eisbach.backbones import load_backbone
    from eisbach.codecs import load_image_codec
    from eisbach.data.images_read import to_bytes

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
    made_with = {"model": backbone.identity(), "seed": seed, "classes": names, **settings}
    out = Path(out)
    claim(out, "samples.json", "images", made_with)
    wanted = [names[number % len(names)] for number in range(count)]
    files = [out / _folder(name) / f"{number:06d}.png" for number, name in enumerate(wanted)]
    with stop_signal() as stop, Progress(count, "draw", unit=" images", quiet=quiet) as bar:
        for start in range(0, count, sampling.batch_size):
            if stop.is_set():
                raise InterruptedRun(
                    f"{sum(file.is_file() for file in files)} of {count} images are finished and stay in {out}; the "
                    "same command "
                    "draws the others."
                )
            part = slice(start, min(start + sampling.batch_size, count))
            if all(file.is_file() for file in files[part]):
                bar.advance(len(files[part]))
                continue
            latents = sample_images(backbone, wanted[part], sampling, seed=seed, first=start)
            for file, pixels in zip(files[part], to_bytes(codec.decode(latents).numpy()), strict=True):
                image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
                atomic_write(file, lambda partial, image=image: image.save(partial, format="PNG"))  # type: ignore[misc]
            bar.advance(len(files[part]))
    return count


def _folder(name: str) -> str:
    """A class as a folder's name."""
    return re.sub(r"[^\w.-]+", "_", name) or "no_class"
