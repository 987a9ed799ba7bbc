"""Latents of a manifest, encoded once and kept by content: in this process, or in several with a copy of the codec
each."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np

from eisbach.audio import SILENCE_PEAK, KnownHashes, read_audio
from eisbach.codecs.base import heard, place_codec
from eisbach.data.manifest import Manifest, ManifestRow, check_unchanged
from eisbach.errors import AudioError, CheckpointError, ManifestError, UserError
from eisbach.executors import Executor, open_executor
from eisbach.files import write_json
from eisbach.progress import in_threads
from eisbach.tensor_files import read_array, read_header, write_tensors
from eisbach.types import SkipReport

if TYPE_CHECKING:
    import torch

    from eisbach.codecs.base import Codec

Made = TypeVar("Made")


@dataclass(frozen=True)
class EncodedSection:
    """The latents of a stretch of audio.

    Attributes
    ----------
    latents : np.ndarray [shape=(C, T), float32]
        Finite.
    peak : float
        Largest absolute sample that the codec is given: mixed, and at its rate.
    seconds : float
        Length of the audio that was read.
    """

    latents: np.ndarray
    peak: float
    seconds: float


class SectionEncoder:
    """`encoder(path, start, seconds)` gives the latents of a section; a context manager.

    Parameters
    ----------
    codec : Codec
    source : str or None
        What `codecs.load_codec` makes the same codec from. With it and `jobs` above 1 the work is done by `jobs`
        processes, or on a cluster.
    jobs : int
        Once it is open, from how many threads the encoder is called.
    device : str or None
        Where processes put the codec's network ("cuda"); None leaves it on the CPU.
    """

    def __init__(self, codec: Codec, *, source: str | None = None, jobs: int = 1, device: str | None = None) -> None:
        self._codec, self._source, self._device, self.jobs = codec, source, device, max(1, jobs)
        self._identity = codec.identity()
        self._pool: Executor | None = None

    def __enter__(self) -> Self:
        if self._source is not None:  # processes start with the first section, not before
            pool = open_executor(self.jobs, 2 * self.jobs, network=self._codec.model is not None)
            if not pool.here:
                self._pool, self.jobs = pool.__enter__(), pool.jobs
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.__exit__(kind, error, trace)

    def __call__(self, path: Path, start: float = 0.0, seconds: float | None = None) -> EncodedSection:
        """The latents of `seconds` (None: up to the end) of a file from `start`.

        Raises
        ------
        AudioError
            Audio that cannot be read, or latents that are not finite.
        UserError
            A process died, or its copy of the codec is another one.
        """
        if self._pool is None or self._source is None:
            return _encode(self._codec, path, start, seconds)
        return self._pool.call(
            _encode_in_process, self._source, self._identity, self._device, self._pool.threads, path, start, seconds
        )


def encode_clips(
    manifest: Manifest,
    codec: Codec,
    encode: Callable[[ManifestRow, SectionEncoder], Made],
    report: SkipReport,
    *,
    source: str | None,
    jobs: int,
    device: str | None,
    quiet: bool,
    title: str = "encode",
) -> Generator[tuple[ManifestRow, Made], None, None]:
    """Calls `encode(row, encoder)` for every clip, in threads, and gives (row, what it made) in the manifest's order.

    Clips whose audio cannot be used (`AudioError`) go to `report`; the other arguments are those of `SectionEncoder`.

    Raises
    ------
    UserError
        No clip could be encoded.
    """

    def encode_row(row: ManifestRow) -> Made | AudioError:
        try:
            return encode(row, encoder)
        except AudioError as error:
            return error

    encoded = 0
    with (
        steady_threads(codec),
        SectionEncoder(codec, source=source, jobs=jobs, device=device) as encoder,
        in_threads(manifest.rows, encode_row, jobs=encoder.jobs, title=title, quiet=quiet) as results,
    ):
        for row, made in results:
            if isinstance(made, AudioError):
                report.add(row.id, str(made))
                continue
            encoded += 1
            yield row, made
    if not encoded:
        why = f" ({report.skipped[0].reason})" if report.skipped else ""
        raise UserError(f"none of the {len(manifest)} clips could be encoded{why}; run 'eisbach data doctor' on them.")


@contextmanager
def steady_threads(codec: Codec) -> Iterator[None]:
    """Lets a codec without a network compute in one thread: how a product is divided over threads shows in its last
    bit.

    So the latents are equal bit for bit whatever the number of processors and of `jobs`. A network keeps its threads;
    its latents are equal for equal numbers of threads.
    """
    import torch

    before = torch.get_num_threads()
    if codec.model is None:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _encode(codec: Codec, path: Path, start: float, seconds: float | None) -> EncodedSection:
    waveform = read_audio(path, start=start, duration=seconds, allow_silent=True)
    try:
        # A codec without a network is one of the embedded ones, which mix.
        given = heard(waveform, codec.sample_rate, codec.audio_channels, mixes=codec.model is None)
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from error
    latents = codec.encode(given).detach().float().cpu().contiguous().numpy()
    if not bool(np.isfinite(latents).all()):
        raise AudioError(f"{path} gives non-finite latents; re-export it, or remove it.")
    return EncodedSection(latents, float(np.abs(given.samples).max(initial=0.0)), waveform.duration)


@lru_cache(maxsize=1)
def _codec_of_process(source: str, identity: str, device: str | None, threads: int) -> Codec:
    import torch

    from eisbach.codecs import load_codec

    codec = load_codec(source)
    torch.set_num_threads(1 if codec.model is None else threads)
    if codec.identity() != identity:
        raise UserError(f"the codec '{source}' changed while it was being used; run the same command again.")
    if device is not None:
        place_codec(codec, torch.device(device))
    return codec


def _encode_in_process(
    source: str, identity: str, device: str | None, threads: int, path: Path, start: float, seconds: float | None
) -> EncodedSection:
    return _encode(_codec_of_process(source, identity, device, threads), path, start, seconds)


MAX_SECTIONS = 8
"""Sections kept of one clip, spread evenly over it: what bounds memory and disk for hour-long audio."""

_HASHES_NAME = ".audio-hashes"
"""Where a folder of latents remembers the hashes of the audio (`KnownHashes`)."""

_ROUNDING_SECONDS = 1.0
_SECTION_CROPS = 4.0  # a section holds this many crops, so that crops fall anywhere within it


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
    manifest: Manifest, codec: Codec, cache_dir: str | Path, *, crop_seconds: float, jobs: int = 1,
    source: str | None = None, device: str | None = None, quiet: bool = False,
) -> LatentCache:  # fmt: skip
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
    known = KnownHashes(Path(cache_dir) / _HASHES_NAME)

    def encode(row: ManifestRow, encoder: SectionEncoder) -> LatentEntry:
        audio = check_unchanged(manifest, row, known)
        name = f"{row.audio_hash[:2]}/{row.audio_hash}.safetensors"
        frames = _read_frames(folder / name)
        if frames is None and len(sections_of(row.duration, crop_seconds)) == 1:
            for place in others:  # a clip that is encoded whole is the same for every crop
                if len(whole := _read_frames(place / name) or ()) == 1:
                    return LatentEntry(row, place / name, whole)
        return LatentEntry(
            row, folder / name, frames or _encode_row(audio, row, codec, encoder, folder / name, crop_seconds)
        )

    title = f"encode for crops of {crop_seconds:g} s"
    clips = encode_clips(
        manifest, codec, encode, report, source=source, jobs=jobs, device=device, title=title, quiet=quiet
    )
    try:
        for row, entry in clips:  # what it gives back (threads, processes) it gives back when it is closed
            entries.append(entry)
            used = sum(entry.frames) / codec.latent_rate
            if used < row.duration - 1.0:
                report.add(row.id, f"only {len(entry.frames)} sections ({used:.0f} of {row.duration:.0f} s) are used")
    finally:
        clips.close()
        known.save()
    write_json(folder / "report.json", [{"id": item.item, "reason": item.reason} for item in report.skipped])
    return LatentCache(tuple(entries), codec.channels, codec.latent_rate, report)


def _encode_row(
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
            "again, or remove it with its .json."
        )
    return array
