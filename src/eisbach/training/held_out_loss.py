"""The held-out loss of a finished training on clips that are chosen afterwards, such as those of one label."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from eisbach.data.manifest import Manifest
from eisbach.training.config import TrainConfig
from eisbach.types import LatentBatch

NOISE_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
_FIXED_SEED = 0
_MOST_AT_ONCE = 16


def held_out_loss(config: TrainConfig, adapter: str | Path | None, rows: Manifest, cache: Path) -> float:
    """Mean unweighted loss of the model with its adapter on clips, over five noise levels and noise that is the same
    for every model.

    Parameters
    ----------
    config : TrainConfig
        Of the training: model, crop and device.
    adapter : str, Path or None
        None for the model as it is.
    rows : Manifest
        At least one clip; a remainder that fills no batch is left out.
    cache : Path
        Folder of the clips' latents; what is missing is encoded.
    """
    from eisbach.adapters import load_adapter
    from eisbach.backbones import load_codec_of
    from eisbach.codecs.base import place_codec
    from eisbach.devices import place
    from eisbach.training.assembly import build_objective, load_model
    from eisbach.training.data import ConditioningCache, load_data
    from eisbach.training.step import HeldOut

    device = place(config.device, config.precision).device
    backbone = load_model(config)
    codec = load_codec_of(backbone)
    place_codec(codec, device)
    crop = max(config.data.crop_seconds, key=lambda item: item.share)
    data = load_data(rows, codec, [crop], cache, _FIXED_SEED, quiet=True)
    batches = -(-data.clips // _MOST_AT_ONCE)
    held_out = HeldOut.of(data, NOISE_LEVELS, batches, data.clips // batches)
    if adapter is not None:
        load_adapter(backbone, adapter)
    backbone.module.to(device).eval()
    conditioning = ConditioningCache(backbone, device)
    objective = build_objective(config, backbone)

    def to_device(batch: LatentBatch) -> LatentBatch:
        mask = None if batch.mask is None else batch.mask.to(device)
        return replace(batch, latents=batch.latents.to(device), mask=mask)

    losses = held_out.losses(backbone.predict, objective, conditioning, to_device)
    return float(losses["held_out_loss"])  # type: ignore[arg-type]
