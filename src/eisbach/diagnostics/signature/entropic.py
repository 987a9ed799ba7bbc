"""Entropic time of a model: E|x0 - D|^2 over the noise level on data, the curve that `rescaled_entropic` schedules are
built from.

Stancevic et al. 2025 (arXiv 2504.13612); the formulas are in `diffusion.rate_curve`. Every sample meets the same noise
at every level, so the curve is smoother than its interval; the interval is over samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from eisbach.config import StrictModel, build_config
from eisbach.devices import DeviceName, Placement, PrecisionName, place
from eisbach.diffusion.paths import Path as NoisePath
from eisbach.diffusion.rate_curve import MIN_POINTS, save_entropic_curve
from eisbach.diffusion.targets import add_noise, convert
from eisbach.errors import UserError
from eisbach.progress import Progress
from eisbach.training.config import DataConfig, TrainConfig

_Z = 1.959964  # of a 95% interval of a mean


class EntropicConfig(StrictModel):
    """One measurement.

    Attributes
    ----------
    model : str
        "embedded" or a folder of a model, of music or of images.
    adapter : str or None
    data : DataConfig
        As training takes it: `manifest`, or `images`.
    samples : int
        Clips or images of the training split, chosen by seed, each met once at every level.
    levels : int
        Noise levels, evenly spaced in log-SNR.
    sigma_min, sigma_max : float
        Ends as ``sigma / alpha``, cut to what the path has.
    conditional : bool
        With the captions or classes of the data; otherwise with none.
    batch_size : int
        Memory alone.
    coupling : "independent" or "optimal_transport"
        How noise was paired with data in training; the second is refused.
    device, precision : str
        As in `SignatureConfig`.
    """

    model: str = "embedded"
    adapter: str | None = None
    data: DataConfig
    samples: int = Field(default=64, ge=4)
    levels: int = Field(default=24, ge=MIN_POINTS, le=512)
    sigma_min: float = Field(default=0.01, gt=0)
    sigma_max: float = Field(default=80.0, gt=0)
    conditional: bool = True
    batch_size: int = Field(default=16, ge=1)
    seed: int = 0
    coupling: Literal["independent", "optimal_transport"] = "independent"
    device: DeviceName = "auto"
    precision: PrecisionName = "fp32"


def measured_levels(path: NoisePath, count: int, sigma_min: float, sigma_max: float) -> Tensor:
    """`count` levels t [float64], falling, evenly spaced in log-SNR between the ends, within what the path has.

    Raises
    ------
    UserError
        Ends that leave nothing of the path between them.
    """
    if not 0 < sigma_min < sigma_max < math.inf:
        raise UserError(
            f"sigma_min {sigma_min!r} and sigma_max {sigma_max!r} must be finite with 0 < sigma_min < sigma_max."
        )
    low, high = torch.exp(-path.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64)) / 2).tolist()
    first, last = max(low, sigma_min), min(high, sigma_max)
    if not first < last:
        raise UserError(
            f"the {path.name} path has sigma/alpha from {low:.3g} to {high:.3g}, and {sigma_min:g} to {sigma_max:g} "
            "lies outside it."
        )
    log_snr = torch.linspace(-2 * math.log(last), -2 * math.log(first), count, dtype=torch.float64)
    return path.t_from_log_snr(log_snr).clamp(0, 1)


@torch.no_grad()
def squared_errors(
    predict: Callable[[Tensor, Tensor], Tensor],
    path: NoisePath | str,
    target: str,
    x0: Tensor,
    noise: Tensor,
    levels: Tensor,
    mask: Tensor | None = None,
    on_level: Callable[[], object] | None = None,
) -> Tensor:
    """|x0 - D(x_t)|^2 of each sample at each level, summed over its (valid) numbers: [shape=(levels, B), float64].

    Parameters
    ----------
    predict : callable
        ``(x_t (B, ...), t (B,)) -> output (B, ...)``.
    x0, noise : Tensor [shape=(B, ...)]
    levels : Tensor [shape=(levels,)]
    mask : Tensor [shape=(B, T...), bool] or None
        True on valid frames.
    """
    squares = []
    for level in levels:
        t = level.to(device=x0.device, dtype=torch.float32).expand(len(x0))
        x_t = add_noise(path, x0, noise, t)
        output = predict(x_t, t)
        if output.shape != x0.shape:
            raise UserError(
                f"the network returned {tuple(output.shape)} for x_t of {tuple(x0.shape)}; they must match."
            )
        error = (convert(path, target, "x0", output.to(x_t.dtype), x_t, t) - x0).square()
        if mask is not None:
            error = error * mask.unsqueeze(1)
        squares.append(error.flatten(1).to(torch.float64).sum(1).cpu())
        if on_level is not None:
            on_level()
    errors = torch.stack(squares)
    if not bool(errors.isfinite().all()):
        raise UserError("the model's data estimates are not finite; check the checkpoint.")
    return errors


def measure_entropic(
    config: EntropicConfig, out: str | Path, *, quiet: bool = False, notify: Callable[[str], object] | None = None
) -> dict[str, Any]:
    """Measures E|x0 - D|^2 over the noise level and writes it as a curve (`diffusion.rate_curve`). Returns the file's
    content; `notify` is told where it computes.

    Raises
    ------
    UserError
        A device that is not there, a model trained with optimal-transport pairing, data that does not
        fit the model, or fewer than `samples` of it.
    """
    from eisbach.diagnostics.signature.run import refuse_coupled

    placement = place(config.device, config.precision)
    if notify is not None:
        notify(f"{placement.sentence()}.")
    refuse_coupled(cast(Any, config))
    backbone, data, levels = _subject(config, placement, quiet)
    every, dims = _all_errors(config, backbone, placement, data, levels, quiet)
    mean, half = every.mean(1), _Z * every.std(1) / math.sqrt(every.shape[1])
    return save_entropic_curve(
        out,
        path=backbone.path,
        t=levels.tolist(),
        mse=mean.tolist(),
        mse_lo=(mean - half).clamp(min=0).tolist(),
        mse_hi=(mean + half).tolist(),
        dims=round(dims / every.shape[1]),
        meta={
            **config.model_dump(mode="json", exclude={"device", "precision"}),
            **placement.stamp(),
            "model_identity": str(backbone.identity()),
        },
    )


def _subject(config: EntropicConfig, placement: Placement, quiet: bool) -> tuple[Any, Any, torch.Tensor]:
    """The backbone, with its adapter, as many latents as are measured, and the noise levels."""
    from eisbach.training.assembly import AudioMaterial, load_model
    from eisbach.training.image_data import ImageMaterial

    training = build_config(
        TrainConfig,
        {
            "model": config.model,
            "data": config.data.model_dump(mode="json", exclude_defaults=True),
            "adapter": {"type": "none"},
            "batch_size": min(config.batch_size, config.samples),
            "held_out": {"every": 0},
            "seed": config.seed,
        },
        "the measurement",
    )
    material = _few(
        AudioMaterial.open(training, quiet) if training.data.images is None else ImageMaterial.open(training),
        config.samples,
        config.seed,
    )
    backbone: Any = load_model(training)
    if config.adapter is not None:
        from eisbach.adapters import load_adapter

        load_adapter(backbone, config.adapter)
    backbone.module.to(placement.device).eval()
    levels = measured_levels(backbone.path, config.levels, config.sigma_min, config.sigma_max)
    data, _ = material.load(training, backbone, placement.device, quiet)
    if data.clips < config.samples:  # some could not be read
        raise UserError(
            f"{config.samples} samples were asked for and {data.clips} can be used; ask for fewer, or give more data."
        )
    return backbone, data, levels


def _all_errors(
    config: EntropicConfig, backbone: Any, placement: Placement, data: Any, levels: torch.Tensor, quiet: bool
) -> tuple[torch.Tensor, float]:
    """|x0 - D|^2 of every sample at each level [shape=(levels, samples)], and the samples' numbers in all."""
    device, network = placement.device, placement.predict(backbone.predict)
    batches = -(-config.samples // config.batch_size)
    errors, dims = [], 0.0
    with Progress(batches * config.levels, "entropic time", unit=" levels", quiet=quiet) as bar:
        for number in range(batches):
            batch = data.batch(number, number, config.batch_size)
            count = min(config.batch_size, config.samples - number * config.batch_size)
            condition = backbone.condition(batch.captions[:count], batch.durations[:count].tolist()).to(device)
            if not config.conditional:
                condition = backbone.null_condition(condition)
            x0 = batch.latents[:count].to(device)
            mask = None if batch.mask is None else batch.mask[:count].to(device)
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + number)
            noise = torch.randn(x0.shape, generator=generator).to(device)
            errors.append(
                squared_errors(
                    lambda x_t, t, condition=condition: network(x_t, t, condition),  # type: ignore[misc]
                    backbone.path,
                    backbone.target,
                    x0,
                    noise,
                    levels,
                    mask,
                    bar.advance,
                )
            )
            dims += x0[0].numel() * count if mask is None else int(mask.sum()) * x0.shape[1]
    return torch.cat(errors, dim=1), dims


def _few(material: Any, count: int, seed: int) -> Any:
    """The material with as many clips or images as are measured, chosen by seed: no more than those are encoded."""
    from dataclasses import replace

    from eisbach.training.assembly import AudioMaterial

    whole: Any = material.rows if isinstance(material, AudioMaterial) else material.train
    if len(whole) < count:
        raise UserError(
            f"{count} samples were asked for and the data has {len(whole)}; ask for fewer, or give more data."
        )
    chosen = sorted(torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))[:count].tolist())
    if isinstance(material, AudioMaterial):
        return replace(material, rows=whole.with_rows([whole.rows[place] for place in chosen]))
    return replace(material, train=replace(whole, items=tuple(whole.items[place] for place in chosen)))
