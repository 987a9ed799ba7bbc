"""What a step reads: batches of latents from manifests, and the conditioning of their captions."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from eisbach.data.batches import BucketedDataset, LatentDataset
from eisbach.data.latents import LatentCache, encode_manifest
from eisbach.data.manifest import Manifest, load_manifest
from eisbach.data.pre_encoded import is_pre_encoded, latent_entries, read_pre_encoded
from eisbach.data.selection import TrainingChoice, TrainingRule, choose_clips, merged, missing_label
from eisbach.errors import ConfigError, ManifestError, UserError
from eisbach.progress import Progress
from eisbach.training.config import CropShare, DataConfig, LabelWeight
from eisbach.training.noising import step_generator
from eisbach.training.run_folder import note
from eisbach.types import Conditioning, LatentBatch, Skipped, SkipReport
from eisbach.weighting.clips import GivenWeights

if TYPE_CHECKING:
    from eisbach.backbones.base import Backbone
    from eisbach.codecs.base import Codec

_LENGTH_STREAM = 1  # keeps the draw of the length apart from the draws of noise
_SHOWN = 5
_PADDING_WORTH_SAYING = 0.05


class Batches(Protocol):
    """Batches as a pure function of their number: `LatentDataset` of clips, `ImageDataset` of images."""

    def batch(self, step: int, batch_size: int) -> LatentBatch:
        """The batch of `step`."""
        ...

    @property
    def captions(self) -> list[str]:
        """The caption of every sample."""
        ...


@dataclass(frozen=True)
class TrainingData:
    """Batches as a pure function of the step.

    Attributes
    ----------
    datasets : one for each crop length, in the order of the configuration; a `BucketedDataset` where it has buckets.
    One for images.
    shares : torch.Tensor [shape=(n,), float64]
        Probability of each length; sums to 1.
    seed : int
    clips : int
        Number of clips.
    """

    datasets: Sequence[Batches]
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


def load_manifests(paths: Sequence[str], quiet: bool = False) -> Manifest:
    """One manifest from several files or folders; a folder of pre-encoded latents is one too (its rows name `.npy`
    files).

    Clips of such a folder that cannot be used are left out and named on standard error.

    Raises
    ------
    ConfigError
        There is no path: the recipe trains on images.
    """
    if not paths:
        raise ConfigError("this needs audio, and the recipe names none (it trains on images); name data.manifest.")
    manifests = []
    for path in paths:
        if not is_pre_encoded(path):
            manifests.append(load_manifest(path))
            continue
        manifest, report = read_pre_encoded(path, quiet=quiet)
        if report.skipped:
            note(f"{path}: {len(manifest)} pre-encoded clips are used; {shown(report.skipped)}", quiet)
        manifests.append(manifest)
    return merged(manifests)


def shown(skipped: Sequence[Skipped]) -> str:
    """The first few of what was left out, and how many more there are."""
    more = f"; and {len(skipped) - _SHOWN} more" if len(skipped) > _SHOWN else ""
    return "; ".join(f"{item.item}: {item.reason}" for item in skipped[:_SHOWN]) + more


def rule_of(config: DataConfig, batch_size: int) -> TrainingRule:
    """What of a recipe decides which clips train, as the doctor takes it too."""
    crops = tuple((crop.seconds, crop.min_seconds) for crop in config.crop_seconds)
    return TrainingRule(crops, config.split, config.select, batch_size)


def training_clips(manifest: Manifest, config: DataConfig, batch_size: int) -> TrainingChoice:
    """Which clips train and which are held out.

    Raises
    ------
    ManifestError
        Nothing is left after the filter, or fewer clips than a batch holds.
    """
    choice = choose_clips(manifest, rule_of(config, batch_size))
    fault = choice.fault()
    if fault is not None:
        raise ManifestError(fault)
    return choice


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
    """Encodes what is not in the cache yet and returns the batches of `manifest`; pre-encoded clips need no encoding.

    Clips that cannot be encoded, or are shorter than a crop's `min_seconds`, are left out and named on standard error.

    Raises
    ------
    ManifestError
        Fewer clips than a batch holds are left, or pre-encoded latents of another codec.
    """
    datasets = []
    for crop in crops:
        latents = _latents(manifest, codec, crop, cache, quiet)
        usable, skipped = len(latents.entries), latents.report.skipped
        if skipped:
            note(
                f"{usable} of {len(manifest)} clips are used; of these clips some or all is left out: {shown(skipped)}",
                quiet,
            )
        if usable < batch_size:
            left = "could be encoded" if crop.min_seconds is None else "are long enough and can be used"
            raise ManifestError(
                f"only {usable} of {len(manifest)} clips {left} ({skipped[0].item}: {skipped[0].reason}), and "
                f"batch_size is {batch_size}; repair them, add clips, or lower batch_size."
            )
        datasets.append(_dataset(latents, codec.frames_for(crop.seconds), crop, seed, batch_size, quiet))
    shares = torch.tensor([crop.share for crop in crops], dtype=torch.float64)
    return TrainingData(datasets, shares / shares.sum(), seed, min(len(dataset) for dataset in datasets))


def _latents(manifest: Manifest, codec: Codec, crop: CropShare, cache: Path, quiet: bool) -> LatentCache:
    """The latents of audio (encoded now, or before) and of pre-encoded clips, in the manifest's order."""
    report = SkipReport()
    stored = manifest.with_rows(row for row in manifest if row.path.endswith(".npy"))
    audio = manifest.with_rows(row for row in manifest if not row.path.endswith(".npy"))
    parts = [latent_entries(stored, codec)] if len(stored) else []
    if crop.min_seconds is not None:
        wanted = crop.min_seconds
        for row in (entry.row for part in parts for entry in part.entries):
            if row.duration < wanted:
                report.add(row.id, f"{row.duration:.1f} s is shorter than min_seconds")
        for row in audio:
            if row.duration < wanted:
                report.add(row.id, f"{row.duration:.1f} s is shorter than min_seconds")
        audio = audio.with_rows(row for row in audio if row.duration >= wanted)
        parts = [replace(part, entries=tuple(e for e in part.entries if e.row.duration >= wanted)) for part in parts]
    if len(audio):
        parts.append(encode_manifest(audio, codec, cache, crop_seconds=crop.seconds, quiet=quiet))
    place = {row.id: number for number, row in enumerate(manifest)}
    entries = sorted((entry for part in parts for entry in part.entries), key=lambda entry: place[entry.row.id])
    report.skipped.extend(item for part in parts for item in part.report.skipped)
    silence = next((part.silence for part in parts if part.silence is not None), None)
    return LatentCache(tuple(entries), codec.channels, codec.latent_rate, report, silence)


def _dataset(
    latents: LatentCache, crop_frames: int, crop: CropShare, seed: int, batch_size: int, quiet: bool
) -> LatentDataset:
    """Crops of one length, or buckets; says how much is padded."""
    if crop.buckets is not None:
        bucketed = BucketedDataset(latents, crop_frames, seed, count=crop.buckets, fit=crop.fit)
        note(f"{bucketed.report(batch_size).sentence()}.", quiet)
        return bucketed
    dataset = LatentDataset(latents, crop_frames, seed)
    padding = dataset.padding_share()
    if padding > _PADDING_WORTH_SAYING:
        note(
            f"{padding:.1%} of the frames of the {crop.seconds:g} s crops are padding; data.crop_seconds 'full' "
            "batches clips "
            "by length instead.",
            quiet,
        )
    return dataset


def weigh_by_labels(manifest: Manifest, weights: Sequence[LabelWeight]) -> Manifest:
    """The clips with the weights that a recipe gives them by their labels.

    Raises
    ------
    ManifestError
        A weight that no clip has the labels for.
    """
    rows = {row.id: row for row in manifest}
    for chosen in weights:
        found = manifest.select(labels=chosen.select)
        if not len(found):
            raise ManifestError(
                missing_label(manifest, chosen.select)
                or f"data.weights names clips with {chosen.select} and none of the {len(manifest)} clips that train "
                "has these labels; mend the labels, or leave that weight out."
            )
        for row in found:
            rows[row.id] = replace(row, weight=chosen.weight, weight_above=chosen.above)
    return manifest.with_rows(rows.values())


def given_weights(data: TrainingData) -> GivenWeights | None:
    """The weights that the manifest gives the clips that train; None where it gives none."""
    rows = {
        entry.row.id: entry.row
        for dataset in data.datasets
        if isinstance(dataset, LatentDataset)
        for entry in dataset.cache.entries
    }
    clips = {
        name: (row.weight, 0.0 if row.weight_above is None else row.weight_above)
        for name, row in rows.items()
        if row.weight is not None
    }
    return GivenWeights(clips, len(rows)) if clips else None


def manifest_hash(manifest: Manifest) -> str:
    """SHA-256 over what trains: id, caption, audio and given weight of every row; the order and the folder do not
    matter."""
    rows: list[list[Any]] = sorted(
        [row.id, row.caption, row.audio_hash, *([] if row.weight is None else [row.weight, row.weight_above])]
        for row in manifest
    )
    return hashlib.sha256(json.dumps(rows, ensure_ascii=False).encode()).hexdigest()


_LIMIT_BYTES = 2**30
_CHUNK = 16  # captions encoded together when all are


class ConditioningCache:
    """Rows of conditioning, at most 1 GiB of them, the least recently used forgotten first.

    They are kept by caption and duration; by caption alone where the backbone `retimes`: its `with_durations` gives
    rows other durations without reading their captions again.
    """

    def __init__(self, backbone: Backbone, device: torch.device, limit_bytes: int = _LIMIT_BYTES) -> None:
        self._backbone, self._device, self._limit = backbone, device, limit_bytes
        self._rows: OrderedDict[tuple[str, float], Conditioning] = OrderedDict()
        self._bytes = 0

    @torch.no_grad()
    def __call__(self, batch: LatentBatch) -> Conditioning:
        """The conditioning of a batch, one row a sample, on the training device.

        Raises
        ------
        UserError
            The backbone gives captions different numbers of tokens and no mask to tell padding by.
        """
        durations = [float(seconds) for seconds in batch.durations.tolist()]
        # One duration stands for all of them where rows are kept by caption.
        lengths = durations if not self._backbone.retimes else [0.0] * len(durations)
        keys = list(zip(batch.captions, lengths, strict=True))
        fresh = list(dict.fromkeys(key for key in keys if key not in self._rows))
        rows = {key: self._rows[key] for key in keys if key in self._rows}
        if fresh:
            rows |= self._make(fresh)
        for key in dict.fromkeys(keys):
            self._remember(key, rows[key])
        joined = stack([rows[key] for key in keys])
        return _send(
            joined if not self._backbone.retimes else self._backbone.with_durations(joined, durations), self._device
        )

    def _make(self, keys: Sequence[tuple[str, float]]) -> dict[tuple[str, float], Conditioning]:
        made = self._backbone.condition([caption for caption, _ in keys], [seconds for _, seconds in keys])
        return {key: _row(made, index) for index, key in enumerate(keys)}

    @torch.no_grad()
    def fill(self, captions: Iterable[str], *, quiet: bool = True) -> bool:
        """Encodes every caption in chunks of a fixed size, whatever step training is at, and drops the text encoder.

        What a caption becomes then does not depend, by rounding, on the batch it was first met in: a continued run,
        which encodes again, gets the same numbers.

        Returns
        -------
        bool
            True when all rows are in memory and the encoder (`backbone.release_text_encoder`) has left it. False for a
            backbone that has none to release, or when the rows would outgrow the cache: then the encoder stays.
        """
        if not self._backbone.retimes:
            return False
        keys = [(caption, 0.0) for caption in dict.fromkeys(captions)]
        with Progress(len(keys), "captions", quiet=quiet) as bar:
            for start in range(0, len(keys), _CHUNK):
                chunk = keys[start : start + _CHUNK]
                for key, row in self._make(chunk).items():
                    self._remember(key, row)
                bar.advance(len(chunk))
                if len(self._rows) < start + len(chunk):
                    return False
        self._backbone.release_text_encoder()
        return True

    def _remember(self, key: tuple[str, float], row: Conditioning) -> None:
        if key in self._rows:
            self._rows.move_to_end(key)
            return
        self._rows[key] = row
        self._bytes += _size(row)
        while self._bytes > self._limit and len(self._rows) > 1:
            self._bytes -= _size(self._rows.popitem(last=False)[1])


def _row(conditioning: Conditioning, index: int) -> Conditioning:
    row = conditioning.select([index])
    mask = row.token_mask
    return Conditioning(
        row.tokens.detach().cpu().clone(),
        row.global_embed.detach().cpu().clone(),
        None if mask is None else mask.detach().cpu().clone(),
    )


def _send(rows: Conditioning, device: torch.device) -> Conditioning:
    """Rows on a device; to a GPU without waiting for what it is at."""
    if device.type != "cuda":
        return rows.to(device)
    parts = (rows.tokens, rows.global_embed, rows.token_mask)
    sent = (None if part is None else part.pin_memory().to(device, non_blocking=True) for part in parts)
    return Conditioning(*sent)  # type: ignore[arg-type]


def _size(row: Conditioning) -> int:
    return row.tokens.nbytes + row.global_embed.nbytes


def stack(rows: list[Conditioning]) -> Conditioning:
    """Rows of one batch joined; shorter ones are padded with masked-out tokens."""
    longest = max(row.tokens.shape[1] for row in rows)
    tokens, masks = [], []
    for row in rows:
        missing = longest - row.tokens.shape[1]
        if missing and row.token_mask is None:
            raise UserError("captions have different numbers of tokens and the backbone gives no mask for them.")
        tokens.append(torch.cat([row.tokens, row.tokens.new_zeros(1, missing, *row.tokens.shape[2:])], dim=1))
        if row.token_mask is not None:
            masks.append(torch.nn.functional.pad(row.token_mask, (0, missing)))
    return Conditioning(
        torch.cat(tokens), torch.cat([row.global_embed for row in rows]), torch.cat(masks) if masks else None
    )
