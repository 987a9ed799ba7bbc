"""Audio files to latents, section by section: in this process, or in several, each with its own copy of the codec."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np

from eisbach.audio import read_audio
from eisbach.codecs.base import heard
from eisbach.data.manifest import Manifest, ManifestRow
from eisbach.data.threads import in_threads
from eisbach.errors import AudioError, UserError
from eisbach.processes import Processes
from eisbach.types import SkipReport

if TYPE_CHECKING:
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
        processes; call the encoder from as many threads.
    jobs : int
    device : str or None
        Where processes put the codec's network ("cuda"); None leaves it on the CPU.
    """

    def __init__(self, codec: Codec, *, source: str | None = None, jobs: int = 1, device: str | None = None) -> None:
        self._codec, self._source, self._device, self._jobs = codec, source, device, max(1, jobs)
        self._identity = codec.identity()
        self._pool: Processes | None = None

    def __enter__(self) -> Self:
        if self._source is not None and self._jobs > 1:
            self._pool = Processes(self._jobs)  # processes start with the first section, not before
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
            _encode_in_process, self._source, self._identity, self._device, self._jobs, path, start, seconds
        )


def encode_clips(
    manifest: Manifest,
    codec: Codec,
    encode: Callable[[ManifestRow, SectionEncoder], Made],
    keep: Callable[[ManifestRow, Made], None],
    report: SkipReport,
    *,
    source: str | None,
    jobs: int,
    device: str | None,
    quiet: bool,
    title: str = "encode",
) -> None:
    """Calls `encode(row, encoder)` for every clip, in threads, and `keep(row, made)` here, in the manifest's order.

    Clips whose audio cannot be used (`AudioError`) go to `report`; the other arguments are those of `SectionEncoder`.

    Raises
    ------
    UserError
        No clip could be encoded.
    """

    def one(row: ManifestRow) -> Made | AudioError:
        try:
            return encode(row, encoder)
        except AudioError as error:
            return error

    kept = 0
    with (
        steady_threads(codec),
        SectionEncoder(codec, source=source, jobs=jobs, device=device) as encoder,
        in_threads(manifest.rows, one, jobs=jobs, title=title, quiet=quiet) as results,
    ):
        for row, made in results:
            if isinstance(made, AudioError):
                report.add(row.id, str(made))
                continue
            keep(row, made)
            kept += 1
    if not kept:
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


def place_codec(codec: Codec, device: str) -> None:
    """Moves the codec's network to a device; `UserError` when there is no such device or no network to move."""
    if device == "cpu":
        return
    network = codec.model
    if network is None:
        raise UserError(f"the codec '{codec.name}' computes on the CPU only; leave --device out.")
    try:
        network.to(device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).strip().splitlines()[0].rstrip(".")
        raise UserError(f"the codec cannot be put on '{device}' ({first}); choose cpu.") from error


def _encode(codec: Codec, path: Path, start: float, seconds: float | None) -> EncodedSection:
    waveform = read_audio(path, start=start, duration=seconds, allow_silent=True)
    try:
        given = heard(waveform, codec.sample_rate, codec.audio_channels)
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from error
    latents = codec.encode(given).detach().float().cpu().contiguous().numpy()
    if not bool(np.isfinite(latents).all()):
        raise AudioError(f"{path} gives non-finite latents; re-export it, or remove it.")
    return EncodedSection(latents, float(np.abs(given.samples).max(initial=0.0)), waveform.duration)


@lru_cache(maxsize=1)
def _codec_of_process(source: str, identity: str, device: str | None, jobs: int) -> Codec:
    import os

    import torch

    from eisbach.codecs import load_codec

    codec = load_codec(source)
    torch.set_num_threads(1 if codec.model is None else max(1, (os.cpu_count() or 1) // jobs))
    if codec.identity() != identity:
        raise UserError(f"the codec '{source}' changed while it was being used; run the same command again.")
    if device is not None:
        place_codec(codec, device)
    return codec


def _encode_in_process(
    source: str, identity: str, device: str | None, jobs: int, path: Path, start: float, seconds: float | None
) -> EncodedSection:
    return _encode(_codec_of_process(source, identity, device, jobs), path, start, seconds)
