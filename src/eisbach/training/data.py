"""From manifests to batches: which clips, which crop length in which step, and the latents behind them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from eisbach.data.latents import LatentDataset, encode_manifest
from eisbach.data.manifest import Manifest, common_root, load_manifest, merge
from eisbach.errors import ManifestError
from eisbach.training.config import CropShare, DataConfig
from eisbach.training.run_folder import note
from eisbach.training.step import step_generator
from eisbach.types import LatentBatch

if TYPE_CHECKING:
    from eisbach.codecs.base import Codec

_LENGTH_STREAM = 1  # keeps the draw of the length apart from the draws of noise
_SHOWN = 5


@dataclass(frozen=True)
class TrainingData:
    """Batches as a pure function of the step.

    Attributes
    ----------
    datasets : one for each crop length, in the order of the configuration.
    shares : torch.Tensor [shape=(n,), float64]
        Probability of each length; sums to 1.
    seed : int
    clips : int
        Number of clips.
    """

    datasets: Sequence[LatentDataset]
    shares: torch.Tensor
    seed: int
    clips: int

    def batch(self, step: int, index: int, batch_size: int) -> LatentBatch:
        """Micro-batch `index` (counted over the whole run and all processes), of the length that `step` draws."""
        chosen = 0
        if len(self.datasets) > 1:
            draw = torch.rand((), generator=step_generator(self.seed, step, 0, _LENGTH_STREAM), dtype=torch.float64)
            chosen = min(int((draw >= self.shares.cumsum(0)).sum()), len(self.datasets) - 1)
        return self.datasets[chosen].batch(index, batch_size)


def load_manifests(paths: Sequence[str]) -> Manifest:
    """One manifest from several files or folders."""
    manifests = [load_manifest(path) for path in paths]
    return manifests[0] if len(manifests) == 1 else merge(manifests, common_root(manifests))


def training_rows(manifest: Manifest, config: DataConfig, batch_size: int) -> Manifest:
    """The clips that train.

    Raises
    ------
    ManifestError
        Nothing is left after the filter, or fewer clips than a batch holds.
    """
    chosen = manifest.select(split=None if config.split == "all" else config.split, labels=config.select)
    wanted = f"split '{config.split}'" + (f" and labels {dict(config.select)}" if config.select else "")
    if len(chosen) == 0:
        raise ManifestError(
            f"none of the {len(manifest)} clips of {', '.join(config.manifest)} has {wanted}; change data.select or "
            "data.split, or add clips."
        )
    if len(chosen) < batch_size:
        count = f"{len(chosen)} clip{'s' if len(chosen) > 1 else ''}"
        raise ManifestError(
            f"the training set has {count} ({wanted}) and batch_size is {batch_size}; set batch_size to at most "
            f"{len(chosen)}, or add clips."
        )
    return chosen


def cache_folder(config: DataConfig, manifest: Manifest) -> Path:
    """Where latents are kept: `data.cache`, or `latents/` beside the manifest."""
    return Path(config.cache) if config.cache is not None else manifest.root / "latents"


def load_data(
    manifest: Manifest,
    codec: Codec,
    crops: Sequence[CropShare],
    cache: Path,
    seed: int,
    *,
    batch_size: int = 1,
    quiet: bool,
) -> TrainingData:
    """Encodes what is not in the cache yet and returns the batches of `manifest`.

    Clips that cannot be encoded are left out and named on standard error.

    Raises
    ------
    ManifestError
        Fewer clips than a batch holds are left.
    """
    datasets = []
    for crop in crops:
        latents = encode_manifest(manifest, codec, cache, crop_seconds=crop.seconds, quiet=quiet)
        usable, skipped = len(latents.entries), latents.report.skipped
        if skipped:
            shown = "; ".join(f"{item.item}: {item.reason}" for item in skipped[:_SHOWN])
            more = f"; and {len(skipped) - _SHOWN} more" if len(skipped) > _SHOWN else ""
            note(
                f"{usable} of {len(manifest)} clips are used; of these clips some or all is left out: {shown}{more}",
                quiet,
            )
        if usable < batch_size:
            raise ManifestError(
                f"only {usable} of {len(manifest)} clips could be encoded ({skipped[0].item}: {skipped[0].reason}), and "
                f"batch_size is {batch_size}; repair them, add clips, or lower batch_size."
            )
        datasets.append(LatentDataset(latents, codec.frames_for(crop.seconds), seed))
    shares = torch.tensor([crop.share for crop in crops], dtype=torch.float64)
    return TrainingData(datasets, shares / shares.sum(), seed, min(len(dataset) for dataset in datasets))


def manifest_hash(manifest: Manifest) -> str:
    """SHA-256 over what trains: id, caption and audio of every row; the order and the folder do not matter."""
    rows = sorted([row.id, row.caption, row.audio_hash] for row in manifest)
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()
