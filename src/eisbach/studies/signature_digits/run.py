"""When are coarse and fine classes of digits decided, and what does guidance do to that?

Class-conditional entropy of networks trained as the study `erd_digits` trains them (one a training seed), along their
own chains and along held-out digits that noise is added to, and under guidance, everywhere and within t in [0.3, 0.7].
Coarse classes are Ward clusters of the digits' mean images, made before anything was measured: in two (0 4 6 | the
others) and in four (0 | 4 6 | 3 5 9 | 1 2 7 8).

What the paper leads one to expect: the coarser the partition, the higher the noise level at which half of its entropy
is gone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import save_file

from eisbach.data.images import load_digits
from eisbach.diagnostics.signature import load_curve
from eisbach.diagnostics.signature.config import ClassConfig, SignatureConfig
from eisbach.diagnostics.signature.run import run_signature
from eisbach.files import write_json
from eisbach.image_quality.digits_classifier import pixels_and_labels
from eisbach.studies.contract import PlacedSettings
from eisbach.studies.erd_digits.run import train_networks

PARTITIONS = {
    "two": {"046": ["0", "4", "6"], "others": ["1", "2", "3", "5", "7", "8", "9"]},
    "four": {"0": ["0"], "46": ["4", "6"], "359": ["3", "5", "9"], "1278": ["1", "2", "7", "8"]},
}
_GUIDANCE = ({"scale": 3.0}, {"scale": 3.0, "interval": (0.3, 0.7)})
HELD_OUT_SHARE = 0.25  # the split of `erd_digits`
RESULT = "signature_digits.json"


class Settings(PlacedSettings):
    """Which networks, and how many trajectories of each class.

    Attributes
    ----------
    digits : str
        Folder of a run of `erd_digits`; "" trains the networks here.
    cell : str
        Backbone, target and arm of the networks.
    training_steps : int or None
        Of networks trained here; None is `erd_digits`' own number.
    """

    digits: str = ""
    cell: str = Field("unet-v-constant", pattern=r"^[a-z]+-[a-z0-9]+-[a-z0-9_]+$")
    seeds: int = Field(3, ge=1)
    steps: int = Field(64, ge=2)
    trajectories: int = Field(20, ge=2)
    training_steps: int | None = Field(None, ge=1)


QUICK: dict[str, Any] = {"seeds": 2, "steps": 8, "trajectories": 2, "training_steps": 12}
OPTIONS = {"seeds": "seeds"}
FREE = ("seeds",)


def held_out(path: Path, each: int) -> None:
    """`each` held-out digits of every class, as the networks see them."""
    images, labels = pixels_and_labels(load_digits().split(HELD_OUT_SHARE)[1])
    x = torch.from_numpy(np.asarray(images)).reshape(len(images), 1, 8, 8).float() / 127.5 - 1.0
    y = torch.from_numpy(np.asarray(labels)).long()
    chosen = torch.cat([torch.nonzero(y == digit).flatten()[:each] for digit in range(10)])
    save_file({"latents": x[chosen].contiguous(), "labels": y[chosen].contiguous()}, path)


def _networks_of(settings: Settings, out: Path, jobs: int, quiet: bool) -> list[Path]:
    """The networks' folders, one a training seed; trained now where no run of `erd_digits` is named."""
    if settings.digits:
        cells = Path(settings.digits) / "cells"
        return [cells / f"{settings.cell}-{seed}" / "model" for seed in range(settings.seeds)]
    return train_networks(
        settings.cell, out / "digits", seeds=settings.seeds, steps=settings.training_steps, jobs=jobs,
        device=settings.device, quiet=quiet,
    )  # fmt: skip


def readings(settings: Settings, folder: Path, model: Path, data: Path, quiet: bool) -> dict[str, Any]:
    """Half times and last entropies of one network, by source or guidance, partition and estimator."""
    config = SignatureConfig(
        model=str(model),
        classes=[ClassConfig(name=str(digit)) for digit in range(10)],
        partitions=PARTITIONS, sources=["reverse", "forward"], data=str(data),
        guidance=list(_GUIDANCE),  # type: ignore[arg-type]
        steps=settings.steps, trajectories=settings.trajectories, device=settings.device,
    )  # fmt: skip
    run_signature(config, folder, quiet=quiet)
    table = {}
    for file in sorted((folder / "curves").glob("*.json")):
        curve = load_curve(file)
        table[file.stem] = {
            "half_t": curve.half.t,
            "half_t_95": [curve.half.t_lo, curve.half.t_hi],
            "half_log_snr": curve.half.log_snr,
            "at_the_end": curve.entropy[-1],
            "quantity": curve.quantity,
        }
    return table


def run(settings: Settings, out: Path, *, jobs: int = 1, quiet: bool = False) -> None:
    """Writes `signature_digits.json`: the readings of every network and their means."""
    models = _networks_of(settings, out, jobs, quiet)
    data = out / "held_out.safetensors"
    held_out(data, settings.trajectories)
    networks = [readings(settings, out / f"seed-{seed}", model, data, quiet) for seed, model in enumerate(models)]
    means = {
        name: round(float(np.mean([network[name]["half_t"] for network in networks])), 4)
        for name in networks[0]
        if all(network[name]["half_t"] is not None for network in networks)
    }
    shown = {"cell": settings.cell, "steps": settings.steps, "trajectories_a_class": settings.trajectories}
    write_json(out / RESULT, {"settings": shown, "mean_half_t": means, "networks": networks})
