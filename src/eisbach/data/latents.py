"""Latents of a manifest: encoded once, kept by content, and drawn as batches that depend only on (seed, step)."""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eisbach.audio import SILENCE_PEAK
from eisbach.data.codec_workers import SectionEncoder, encode_clips
from eisbach.data.manifest import Manifest, ManifestRow
from eisbach.data.manifest_files import KnownHashes, check_unchanged
from eisbach.errors import AudioError, CheckpointError, ManifestError, UserError
from eisbach.files import write_json
from eisbach.tensor_files import read_array, read_header, read_tensors, write_tensors
from eisbach.types import LatentBatch, SkipReport

if TYPE_CHECKING:
    import torch

    from eisbach.codecs.base import Codec

MAX_SECTIONS = 8
"""Sections kept of one clip, spread evenly over it: what bounds memory and disk for hour-long audio."""

HASHES_NAME = ".audio-hashes"
"""Where a folder of latents remembers the hashes of the audio (`KnownHashes`)."""

_ROUNDING_SECONDS = 1.0
_SECTION_CROPS = 4.0  # a section holds this many crops, so that crops fall anywhere within it
_KEPT_BYTES = 2e9  # latents held in memory by one dataset
_ORDER, _CROP = 0, 1  # streams of random numbers


@dataclass(frozen=True)
class LatentEntry:
    """The latents of one clip.

    Attributes
    ----------
    row : ManifestRow
    path : Path
        safetensors with one tensor (C, T) for each section, or a pre-encoded `.npy` (C, T).
    frames : tuple of int
        T of each section.
    first : int
        First valid frame of a `.npy`, whose padding is left out.
    """

    row: ManifestRow
    path: Path
    frames: tuple[int, ...]
    first: int = 0


@dataclass(frozen=True)
class LatentCache:
    """Encoded clips, in the manifest's order, and what could not be encoded.

    Attributes
    ----------
    entries : tuple of LatentEntry
    channels : int
    latent_rate : float
        Frames a second.
    report : SkipReport
        Clips left out, and clips of which only sections are used.
    silence : torch.Tensor [shape=(C, N), float32] or None
        What clips shorter than a crop are padded with, repeated; None pads with zeros.
    """

    entries: tuple[LatentEntry, ...]
    channels: int
    latent_rate: float
    report: SkipReport
    silence: torch.Tensor | None = field(default=None, compare=False)


def sections_of(duration: float, crop_seconds: float) -> list[tuple[float, float]]:
    """(start, length) in seconds of the sections that are encoded of a clip.

    A clip of up to four crops is one section; a longer one is cut into sections of four crops, at most
    `MAX_SECTIONS` of them, spread evenly from its beginning to its end.
    """
    length = _SECTION_CROPS * crop_seconds
    if duration <= length:
        return [(0.0, duration)]
    count = min(MAX_SECTIONS, math.ceil(duration / length))
    return [(float(start), length) for start in np.linspace(0.0, duration - length, count)]


def encode_manifest(
    manifest: Manifest,
    codec: Codec,
    cache_dir: str | Path,
    *,
    crop_seconds: float,
    jobs: int = 1,
    source: str | None = None,
    device: str | None = None,
    quiet: bool = False,
) -> LatentCache:
    """Encodes what is not in the cache yet; the same call again, or with more clips, continues.

    Parameters
    ----------
    manifest : Manifest
    codec : Codec
    cache_dir : str or Path
        Files lie under ``<codec identity>/<crop>s/``, named by the hash of the audio.
    crop_seconds : float
        Length of the crops that will train; decides which sections of long clips are kept.
    jobs : int
        Threads, or processes when `source` is given.
    source : str or None
        What `codecs.load_codec` makes this codec from: processes load their own copy.
    device : str or None
        Where those copies compute.

    Raises
    ------
    ManifestError
        A file whose content is not what the manifest's hash says.
    UserError
        Nothing could be encoded, or `crop_seconds` is not positive.
    """
    if not (math.isfinite(crop_seconds) and crop_seconds > 0):
        raise UserError(f"crop_seconds must be positive (got {crop_seconds}); give seconds such as 30.")
    folder = Path(cache_dir) / codec.identity() / f"{crop_seconds:g}s"
    others = [place for place in sorted(folder.parent.glob("*s")) if place != folder]
    report = SkipReport()
    entries: list[LatentEntry] = []
    known = KnownHashes(Path(cache_dir) / HASHES_NAME)

    def encode(row: ManifestRow, encoder: SectionEncoder) -> LatentEntry:
        audio = check_unchanged(manifest, row, known)
        name = f"{row.audio_hash[:2]}/{row.audio_hash}.safetensors"
        frames = _read_frames(folder / name)
        if frames is None and len(sections_of(row.duration, crop_seconds)) == 1:
            for place in others:  # a clip that is encoded whole is the same for every crop
                if len(whole := _read_frames(place / name) or ()) == 1:
                    return LatentEntry(row, place / name, whole)
        return LatentEntry(
            row, folder / name, frames or _encode_one(audio, row, codec, encoder, folder / name, crop_seconds)
        )

    def keep(row: ManifestRow, made: LatentEntry) -> None:
        entries.append(made)
        used = sum(made.frames) / codec.latent_rate
        if used < row.duration - 1.0:
            report.add(row.id, f"only {len(made.frames)} sections ({used:.0f} of {row.duration:.0f} s) are used")

    title = f"encode for crops of {crop_seconds:g} s"
    try:
        encode_clips(
            manifest, codec, encode, keep, report, source=source, jobs=jobs, device=device, title=title, quiet=quiet
        )
    finally:
        known.save()
    write_json(folder / "report.json", [{"id": item.item, "reason": item.reason} for item in report.skipped])
    return LatentCache(tuple(entries), codec.channels, codec.latent_rate, report)


def _encode_one(
    audio: Path, row: ManifestRow, codec: Codec, encoder: SectionEncoder, path: Path, crop_seconds: float
) -> tuple[int, ...]:
    import torch

    tensors: dict[str, torch.Tensor] = {}
    peak = 0.0
    sections = sections_of(row.duration, crop_seconds)
    for number, (start, length) in enumerate(sections):
        # a whole clip is read to the end of the file, whatever rounding the manifest has (but no hour where it says a
        # second)
        made = encoder(audio, start, length + _ROUNDING_SECONDS if len(sections) == 1 else length)
        peak = max(peak, made.peak)
        tensors[f"section-{number}"] = torch.from_numpy(made.latents)
    if peak < SILENCE_PEAK:
        raise AudioError(f"{audio} is silent (peak below -80 dBFS); remove it or record it again.")
    metadata = {"audio_hash": row.audio_hash, "codec": codec.identity(), "crop_seconds": f"{crop_seconds:g}"}
    write_tensors(path, tensors, metadata)
    return tuple(int(tensor.shape[1]) for tensor in tensors.values())


def _read_frames(path: Path) -> tuple[int, ...] | None:
    """Frames of each cached section; None when there is no file or it is damaged, so that it is made again."""
    if not path.is_file():
        return None
    try:
        shapes = read_header(path).shapes
        return tuple(shapes[f"section-{n}"][1] for n in range(len(shapes))) or None
    except (CheckpointError, KeyError, IndexError):
        return None


class LatentDataset:
    """Batches of crops, drawn without any state: a batch is a pure function of (seed, step).

    Every epoch is its own permutation of the clips; where a crop begins is drawn for each position on its own.
    Clips shorter than the crop are padded (with the cache's silence, else zeros) and masked.

    Parameters
    ----------
    cache : LatentCache
    crop_frames : int
    seed : int
    rank, world_size : int
        With several processes, `batch_size` is that of one process and process `rank` gets its own part.
    """

    def __init__(self, cache: LatentCache, crop_frames: int, seed: int, *, rank: int = 0, world_size: int = 1) -> None:
        if crop_frames < 1:
            raise UserError(f"crop_frames must be at least 1 (got {crop_frames}).")
        if not 0 <= rank < world_size:
            raise UserError(f"rank must be within 0 to world_size - 1 (got {rank} of {world_size}).")
        self.cache, self.crop_frames, self.seed = cache, crop_frames, seed
        self.rank, self.world_size = rank, world_size
        self._loaded: OrderedDict[int, list[torch.Tensor]] = OrderedDict()
        self._bytes = 0
        self._permutation: tuple[int, np.ndarray] = (-1, np.zeros(0, dtype=int))
        self._warned = False

    def __len__(self) -> int:
        return len(self.cache.entries)

    @property
    def captions(self) -> list[str]:
        """The caption of every clip."""
        return [entry.row.caption for entry in self.cache.entries]

    def positions(self, step: int, batch_size: int) -> range:
        """The positions, counted over all epochs, that this process draws in `step`."""
        first = (step * self.world_size + self.rank) * batch_size
        return range(first, first + batch_size)

    def index_at(self, position: int) -> int:
        """The clip at a position: epoch `position // len`, in that epoch's order."""
        epoch, place = divmod(position, len(self))
        if self._permutation[0] != epoch:
            order = np.random.default_rng([self.seed, _ORDER, epoch]).permutation(len(self))
            self._permutation = (epoch, order)
        return int(self._permutation[1][place])

    def crop_at(self, position: int) -> tuple[int, int, int]:
        """(clip, section, first frame) of a position; a section is drawn by the crops it holds."""
        clip = self.index_at(position)
        return clip, *self._draw_crop(clip, position, self.crop_frames)

    def _draw_crop(self, clip: int, position: int, crop_frames: int) -> tuple[int, int]:
        rng = np.random.default_rng([self.seed, _CROP, position])
        starts = np.array([max(1, frames - crop_frames + 1) for frames in self.cache.entries[clip].frames])
        draw = int(rng.integers(int(starts.sum())))
        section = int(np.searchsorted(np.cumsum(starts), draw, side="right"))
        return section, draw - int(starts[:section].sum())

    def batch(self, step: int, batch_size: int) -> LatentBatch:
        """The batch of `step` [latents (batch_size, C, crop_frames)]; with fewer clips than that, clips come twice."""
        self._check_batch(step, batch_size)
        return self._collate(
            [self.crop_at(position) for position in self.positions(step, batch_size)], self.crop_frames
        )

    def _check_batch(self, step: int, batch_size: int) -> None:
        if batch_size < 1 or step < 0:
            raise UserError(f"step must be at least 0 and batch_size at least 1 (got {step} and {batch_size}).")
        if batch_size * self.world_size > len(self) and not self._warned:
            self._warned = True
            warnings.warn(
                f"{len(self)} clips fill batches of {batch_size * self.world_size}: some clips come more than once "
                "in a batch; add clips or lower the batch size.",
                stacklevel=3,
            )

    def _collate(self, crops: Sequence[tuple[int, int, int]], crop_frames: int) -> LatentBatch:
        """The crops (clip, section, first frame) as a batch, padded to `crop_frames`."""
        import torch

        latents = torch.zeros(len(crops), self.cache.channels, crop_frames)
        mask = torch.zeros(len(crops), crop_frames, dtype=torch.bool)
        rows = []
        for place, (clip, section, start) in enumerate(crops):
            piece = self._sections(clip)[section][:, start : start + crop_frames]
            valid = piece.shape[1]
            latents[place, :, :valid] = piece
            mask[place, :valid] = True
            silence = self.cache.silence
            if valid < crop_frames and silence is not None:
                missing = crop_frames - valid
                latents[place, :, valid:] = silence.repeat(1, -(-missing // silence.shape[1]))[:, :missing]
            rows.append(self.cache.entries[clip].row)
        return LatentBatch(
            latents=latents,
            ids=[row.id for row in rows],
            captions=[row.caption for row in rows],
            durations=mask.sum(dim=1).float() / self.cache.latent_rate,
            mask=None if bool(mask.all()) else mask,
        )

    def padding_share(self) -> float:
        """The share of an epoch's frames that are padding."""
        longest = [min(self.crop_frames, max(entry.frames)) for entry in self.cache.entries]
        return 1.0 - sum(longest) / (len(longest) * self.crop_frames)

    def _sections(self, clip: int) -> list[torch.Tensor]:
        if clip in self._loaded:
            self._loaded.move_to_end(clip)
            return self._loaded[clip]
        sections = _load_sections(self.cache.entries[clip])
        self._loaded[clip] = sections
        self._bytes += _size(sections)
        while self._bytes > _KEPT_BYTES and len(self._loaded) > 1:
            self._bytes -= _size(self._loaded.popitem(last=False)[1])
        return sections


def _load_sections(entry: LatentEntry) -> list[torch.Tensor]:
    if entry.path.suffix == ".npy":
        import torch

        array = np.array(read_latent_array(entry.path)[:, entry.first : entry.first + entry.frames[0]], np.float32)
        if not np.isfinite(array).all():
            raise ManifestError(f"{entry.path} holds NaN or infinite values; encode it again, or remove it.")
        return [torch.from_numpy(array)]
    try:
        tensors = read_tensors(entry.path)
        return [tensors[f"section-{number}"] for number in range(len(entry.frames))]
    except (CheckpointError, KeyError) as error:
        raise UserError(
            f"the cached latents {entry.path} cannot be read ({error}); delete the file and run the same command again."
        ) from error


def read_latent_array(path: Path) -> np.ndarray:
    """A pre-encoded `.npy` [shape=(C, T), floating], mapped and not read.

    Raises
    ------
    ManifestError
        Truncated, of another format, or not latents.
    """
    try:
        array = read_array(path, "latents")
    except UserError as error:
        raise ManifestError(
            f"{path} is truncated or not a NumPy array ({str(error).rstrip('.')}); encode it again, or remove it with "
            "its .json."
        ) from error
    if array.ndim != 2 or array.size == 0 or array.dtype.kind != "f":
        raise ManifestError(
            f"{path} holds {array.dtype} {array.shape} and not floating-point latents (channels, frames); encode it "
            "again, or remove it with "
            "its .json."
        )
    return array


def _size(sections: Sequence[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in sections)


def all_crops(cache: LatentCache, crop_frames: int) -> Iterator[tuple[ManifestRow, torch.Tensor]]:
    """The first crop of every clip, unpadded [shape=(C, <= crop_frames)]: for fixed evaluation sets."""
    for entry in cache.entries:
        yield entry.row, _load_sections(entry)[0][:, :crop_frames]
