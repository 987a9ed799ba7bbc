"""Cached latents of a manifest, and batches of them as a pure function of seed and index."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from eisbach.audio import read_audio
from eisbach.codecs.base import Codec
from eisbach.data.manifest import Manifest, ManifestRow
from eisbach.errors import AudioError, ManifestError, UserError
from eisbach.files import atomic_write
from eisbach.progress import Progress
from eisbach.types import LatentBatch, SkipReport

SECTION_SECONDS = 300.0
"""Audio is read and encoded in sections of at most this length, so that an hour-long file needs little memory."""


@dataclass(frozen=True)
class CachedLatents:
    """Where the latents of one clip are.

    Attributes
    ----------
    row : ManifestRow
    path : Path
        Safetensors file with `latents` [shape=(C, T), float16].
    frames : int
        T, counting only frames that hold audio.
    """

    row: ManifestRow
    path: Path
    frames: int


@dataclass(frozen=True)
class LatentCache:
    """The encoded clips of a manifest.

    Attributes
    ----------
    items : list of CachedLatents
        In the manifest's order.
    latent_rate : float
        Frames per second.
    report : SkipReport
        Clips left out, and why.
    """

    items: list[CachedLatents]
    latent_rate: float
    report: SkipReport

    def __len__(self) -> int:
        return len(self.items)


def cache_key(audio_hash: str, codec_identity: str, start: float = 0.0, duration: float | None = None) -> str:
    """The name of a cache entry: a hash of the audio's bytes, the codec and the crop."""
    text = f"{audio_hash}|{codec_identity}|{start:.6f}|{'end' if duration is None else f'{duration:.6f}'}|v1"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def encode_manifest(
    manifest: Manifest,
    codec: Codec,
    cache_dir: str | Path,
    *,
    crop_seconds: float | None = None,
    strict: bool = False,
    quiet: bool = False,
) -> LatentCache:
    """Encodes what is not yet encoded, and returns where everything is.

    Whole clips are encoded, since a crop of latents costs nothing later; the key holds the crop all the same, so
    that a cache of sections can live in the same folder. The same call continues an interrupted one.

    Parameters
    ----------
    manifest : Manifest
    codec : Codec
    cache_dir : str or Path
        Holds one safetensors file a clip, written atomically.
    crop_seconds : float or None
        The crop that training will take; clips that do not fill one latent frame of it are reported.
    strict : bool
        Raise on the first clip that cannot be read, instead of reporting it.

    Raises
    ------
    ManifestError
        No clip could be encoded.
    AudioError
        With `strict`, a clip that cannot be read.
    StorageError
        The disk is full; entries already written stay valid.
    """
    folder, identity = Path(cache_dir), codec.identity()
    report, items = SkipReport(), []
    with Progress(len(manifest.rows), "encode", quiet=quiet) as bar:
        for row in manifest.rows:
            path = folder / f"{cache_key(row.audio_hash, identity)}.safetensors"
            try:
                frames = _cached_frames(path, codec.channels)
                if frames is None:
                    frames = _encode_one(manifest.root / row.path, path, codec, row)
                items.append(CachedLatents(row, path, frames))
            except AudioError as error:
                if strict:
                    raise
                report.add(row.id, str(error))
            bar.advance()
    if not items:
        reasons = f" (first: {report.skipped[0].reason})" if report.skipped else ""
        raise ManifestError(
            f"none of the {len(manifest.rows)} clips could be encoded{reasons}; run 'eisbach data doctor'."
        )
    return LatentCache(items, codec.latent_rate, report)


def _cached_frames(path: Path, channels: int) -> int | None:
    """T of a valid entry; None when there is none or it is damaged (it is then made again)."""
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt") as handle:
            shape = handle.get_slice("latents").get_shape()
    except (SafetensorError, OSError):
        return None
    return int(shape[1]) if len(shape) == 2 and shape[0] == channels else None


def _encode_one(audio: Path, path: Path, codec: Codec, row: ManifestRow) -> int:
    section = max(1, int(SECTION_SECONDS * codec.latent_rate))
    frame_seconds = 1.0 / codec.latent_rate
    total = max(1, int(np.ceil(row.duration * codec.latent_rate - 1e-6)))
    pieces = []
    for first in range(0, total, section):
        # One frame of context on either side keeps the seams free of edge effects.
        before = 1 if first else 0
        wanted = min(section, total - first)
        start = (first - before) * frame_seconds
        waveform = read_audio(
            audio, start=start, duration=(before + wanted + 1) * frame_seconds, allow_silent=total > section
        )
        latents = codec.encode(waveform)[:, before : before + wanted]
        if latents.shape[1]:
            pieces.append(latents)
    if not pieces:
        raise AudioError(f"{audio} gave no latents; it may be shorter than its manifest says.")
    latents = torch.cat(pieces, dim=1)
    if not bool(torch.isfinite(latents).all()):
        raise AudioError(f"{audio} gave NaN or infinite latents; re-export it from its source.")
    tensors = {"latents": latents.half().contiguous()}
    metadata = {"audio_hash": row.audio_hash, "codec": codec.identity()}
    atomic_write(path, lambda partial: save_file(tensors, str(partial), metadata=metadata))
    return int(latents.shape[1])


def load_latents(item: CachedLatents) -> torch.Tensor:
    """One clip's latents [shape=(C, T), float32].

    Raises
    ------
    UserError
        The entry vanished or was damaged after the cache was checked.
    """
    try:
        with safe_open(str(item.path), framework="pt") as handle:
            return handle.get_tensor("latents").float()
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"the cached latents {item.path} cannot be read ({error}); delete the file and run again."
        ) from error


class LatentDataset:
    """Crops of cached latents.

    Batch `index` is a pure function of the seed: each epoch is its own permutation, and crop positions come from a
    generator seeded by (seed, position in the stream). Nothing has to be saved to resume.

    Parameters
    ----------
    cache : LatentCache
    crop_frames : int
        T of every batch.
    seed : int
    keep_in_memory : bool
        Hold every clip's latents (a clip of 30 s takes about 31 kB in the embedded codec's half precision).
    """

    def __init__(self, cache: LatentCache, crop_frames: int, seed: int = 0, *, keep_in_memory: bool = True) -> None:
        if crop_frames < 1:
            raise UserError(f"a crop must hold at least one latent frame (got {crop_frames}); ask for longer crops.")
        self.cache, self.crop_frames, self.seed = cache, crop_frames, seed
        self._held: list[torch.Tensor | None] = [None] * len(cache.items)
        self._keep = keep_in_memory
        self._epoch: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.cache.items)

    def batch(self, index: int, batch_size: int) -> LatentBatch:
        """Batch number `index` of an endless stream; `mask` is None when every crop is full."""
        return self.gather(range(index * batch_size, (index + 1) * batch_size))

    def gather(self, positions: Sequence[int]) -> LatentBatch:
        """The crops at these positions of the stream."""
        latents, masks, ids, captions, seconds = [], [], [], [], []
        for position in positions:
            item_index = self._item_at(position)
            item = self.cache.items[item_index]
            whole = self._load(item_index)
            frames = whole.shape[1]
            length = min(frames, self.crop_frames)
            slack = frames - length
            first = 0
            if slack:
                first = int(np.random.default_rng([self.seed, 1, position]).integers(0, slack + 1))
            crop = whole[:, first : first + length].float()
            latents.append(torch.nn.functional.pad(crop, (0, self.crop_frames - length)))
            masks.append(torch.arange(self.crop_frames) < length)
            ids.append(item.row.id)
            captions.append(item.row.caption)
            seconds.append(length / self.cache.latent_rate)
        mask = torch.stack(masks)
        return LatentBatch(
            latents=torch.stack(latents),
            ids=ids,
            captions=captions,
            durations=torch.tensor(seconds, dtype=torch.float32),
            mask=None if bool(mask.all()) else mask,
        )

    def _item_at(self, position: int) -> int:
        epoch, place = divmod(position, len(self.cache.items))
        if self._epoch is None or self._epoch[0] != epoch:
            order = np.random.default_rng([self.seed, 0, epoch]).permutation(len(self.cache.items))
            self._epoch = (epoch, order)
        return int(self._epoch[1][place])

    def _load(self, index: int) -> torch.Tensor:
        held = self._held[index]
        if held is None:
            held = load_latents(self.cache.items[index]).half()
            if self._keep:
                self._held[index] = held
        return held
