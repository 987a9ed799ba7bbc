"""A person's own folder of audio with captions beside it, as a manifest; and what each file is like.

Files are read in blocks: memory stays bounded whatever their length. Silence and clipping are judged on what a codec is
given (mixed, and for silence resampled, as it does), because that is what trains: channels that cancel each other, or
sound above the codec's band, are silence to it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from eisbach.audio import AUDIO_SUFFIXES, SILENCE_PEAK, audio_hash, check_scale, list_audio
from eisbach.audio_file import AudioFile
from eisbach.data.caption_files import CaptionSource, clean_caption, find_captions, find_shards
from eisbach.data.manifest import Manifest, ManifestRow, afford_held_out, assign_split, save_manifest
from eisbach.errors import AudioError, UserError
from eisbach.progress import in_threads
from eisbach.types import Skipped, SkipReport

CLIPPED_SHARE = 1e-4
"""Share of samples at full scale from which a file counts as clipped (isolated peaks do not)."""
SHORT_SECONDS, LONG_SECONDS = 1.0, 1800.0
CANCELLED_DB = 13.0
"""Level lost by mixing from which channels count as cancelling each other: unrelated channels lose 3 dB."""

_FULL_SCALE = 0.999


@dataclass(frozen=True)
class CodecInput:
    """What a codec is given: its rate (Hz), its number of channels, and whether it mixes audio of more to mono. Rate
    and channels by default are those of the embedded codec, which mixes.
    """

    sample_rate: int = 32000
    channels: int = 2
    mixes: bool = False


@dataclass(frozen=True)
class AudioFacts:
    """What was found.

    Attributes
    ----------
    duration : float
        Seconds that were read, whatever the header says.
    sample_rate, channels : int
    peak : float
        Largest absolute sample of the channels, mixed as the codec mixes them.
    clipped : float
        Share of the samples, mixed as the codec mixes them, at or above 0.999 of full scale in runs of at least three.
    problem : str or None
        Why the file cannot be used at all; None when it can.
    missing : str or None
        What the file lacks of what its header says.
    lost_db : float
        Level that mixing the channels loses.
    complaints : tuple of str
        Errors that the decoder reported while it went on.
    """

    duration: float
    sample_rate: int
    channels: int
    peak: float
    clipped: float
    problem: str | None = None
    missing: str | None = None
    lost_db: float = 0.0
    complaints: tuple[str, ...] = ()


def unusable(problem: str) -> AudioFacts:
    """The facts of a file that cannot be read."""
    return AudioFacts(0.0, 0, 0, 0.0, 0.0, problem)


def inspect_audio(path: str | Path, heard: CodecInput | None = None) -> AudioFacts:
    """The facts of one file as a codec hears it; a file that cannot be used has `problem` set, nothing is raised."""
    heard = CodecInput(mixes=True) if heard is None else heard
    try:
        file = AudioFile(path)
        mixed = heard.channels == 1 and file.channels > 1
        given = _Given(file.sample_rate, heard.sample_rate)
        tally = _Tally()
        for block in file.blocks():
            tally.add(block)
            if mixed:
                block = block.mean(axis=1, keepdims=True)
            tally.add_given(block)
            given.add(block)
        given.finish()
        check_scale(tally.peak, "it")
    except AudioError as error:
        return unusable(_without_name(error, path))
    duration = tally.frames / file.sample_rate
    errors = tuple(line for line in file.complaints if "error:" in line)
    return AudioFacts(
        duration, file.sample_rate, file.channels, tally.given_peak, tally.clipped / max(1, tally.given_samples),
        _problem(tally, given, file.channels, heard), file.missing(tally.frames), tally.lost_db() if mixed else 0.0,
        errors,
    )  # fmt: skip


def _problem(tally: _Tally, given: _Given, channels: int, heard: CodecInput) -> str | None:
    if tally.frames == 0:
        return "holds no samples"
    if tally.bad:
        return f"holds {tally.bad} NaN or infinite samples"
    if tally.peak < SILENCE_PEAK:
        return "is silent (peak below -80 dBFS)"
    if tally.frames < 2:
        return "holds a single frame"
    if 1 < heard.channels < channels and not heard.mixes:
        return f"has {channels} channels and the codec codes {heard.channels}; mix it down first"
    if tally.given_peak < SILENCE_PEAK:
        return "is silent once its channels are mixed: they cancel each other; turn one of them around, or keep one"
    if not given.sounds:
        return (
            f"is silent at the codec's {heard.sample_rate} Hz: all of its sound lies above "
            f"{heard.sample_rate / 2000:g} kHz"
        )
    return None


class _Tally:
    """Running facts of the samples as they are in the file."""

    def __init__(self) -> None:
        self.frames = self.bad = self.clipped = self.given_samples = 0
        self.peak = self.given_peak = 0.0
        self._energy = self._mixed_energy = 0.0

    def add(self, block: np.ndarray) -> None:
        self.frames += len(block)
        finite = np.isfinite(block)
        self.bad += int(block.size - finite.sum())
        size = np.abs(np.where(finite, block, 0.0))
        self.peak = max(self.peak, float(size.max(initial=0.0)))
        self._energy += float(np.square(size, dtype=np.float64).sum()) / block.shape[1]

    def add_given(self, block: np.ndarray) -> None:
        """Adds the block as it is mixed for the codec [shape=(n, channels)]."""
        if self.bad:
            return
        size = np.abs(block)
        self.given_peak = max(self.given_peak, float(size.max(initial=0.0)))
        self._mixed_energy += float(np.square(block, dtype=np.float64).sum())
        full = size >= _FULL_SCALE
        if len(full) > 2 and full.any():
            self.clipped += int((full[:-2] & full[1:-1] & full[2:]).sum())
        self.given_samples += block.size

    def lost_db(self) -> float:
        """How much quieter the mean of the channels is than the channels."""
        if not self._energy or not self._mixed_energy:
            return 0.0
        return max(0.0, 10 * float(np.log10(self._energy / self._mixed_energy)))


class _Given:
    """Whether anything sounds at the codec's rate; nothing is resampled any more once something did."""

    def __init__(self, rate: int, codec_rate: int) -> None:
        self.sounds = False
        self._rates = (rate, codec_rate)
        self._stream: object = None

    def add(self, block: np.ndarray) -> None:
        self._push(block, last=False)

    def finish(self) -> None:
        if self._stream is not None:
            self._push(np.zeros((0, self._channels), np.float32), last=True)

    def _push(self, block: np.ndarray, *, last: bool) -> None:
        if self.sounds:
            return
        if self._rates[0] > self._rates[1]:  # at a higher rate than the file's own nothing is lost
            import soxr

            if self._stream is None:
                self._channels = block.shape[1]
                self._stream = soxr.ResampleStream(*self._rates, self._channels, dtype="float32", quality="HQ")
            block = self._stream.resample_chunk(np.ascontiguousarray(block), last=last)  # type: ignore[attr-defined]
        self.sounds = bool((np.abs(block) >= SILENCE_PEAK).any())


def _without_name(error: AudioError, path: str | Path) -> str:
    """The sentence without the file's name, which stands beside it wherever facts are shown."""
    return str(error).removeprefix(f"{path} ").rstrip(".")


@dataclass(frozen=True)
class Sample:
    """One file of a folder, or one row of a manifest, looked at.

    Attributes
    ----------
    name : str
        The path relative to the folder, or the id.
    path : Path
    caption : str or None
        None where there is none.
    written : str or None
        The caption as it is written, before `clean_caption`.
    facts : AudioFacts
    audio_hash : str
        "" where the file cannot be read.
    refused : str or None
        Why it cannot be used; None when it can.
    caption_fault : str or None
        What is wrong with the caption's file.
    """

    name: str
    path: Path
    caption: str | None
    written: str | None
    facts: AudioFacts
    audio_hash: str = ""
    refused: str | None = None
    caption_fault: str | None = None


@dataclass(frozen=True)
class FolderScan:
    """What a folder holds.

    Attributes
    ----------
    folder : Path
    samples : tuple of Sample
        Every file that was tried, in the order of their names.
    left_out : tuple of Skipped
        Audio that was not tried, and why.
    captions : CaptionSource
        Where the captions came from.
    """

    folder: Path
    samples: tuple[Sample, ...]
    left_out: tuple[Skipped, ...]
    captions: CaptionSource

    def manifest(self, labels: Mapping[str, str] | None = None) -> Manifest:
        """The samples that can be used, split."""
        rows = [
            ManifestRow(
                sample.name, sample.name, sample.caption or "", sample.facts.duration, dict(labels or {}),
                sample.audio_hash,
                assign_split(sample.audio_hash, labels),
            )
            for sample in self.samples
            if sample.refused is None
        ]  # fmt: skip
        return Manifest(afford_held_out(rows), self.folder)

    def skipped(self) -> SkipReport:
        """Everything that is not used, and why."""
        refused = [Skipped(sample.name, sample.refused) for sample in self.samples if sample.refused is not None]
        return SkipReport([*refused, *self.left_out])


def scan_folder(
    folder: str | Path,
    *,
    caption_from: str = "auto",
    heard: CodecInput | None = None,
    jobs: int = 4,
    quiet: bool = False,
) -> FolderScan:
    """Looks at every audio file of a folder and at its caption.

    Parameters
    ----------
    folder : str or Path
        Searched with all folders below it.
    caption_from : str
        See `caption_files.find_captions`.
    heard : CodecInput or None
        What the codec is given; None is the embedded codec's.
    jobs : int
        Threads that read and hash.

    Raises
    ------
    UserError
        No folder, or no audio in it.
    """
    folder = Path(folder)
    listing = list_audio(folder)
    captions = find_captions(folder, listing.files, caption_from)
    if not listing.files and not listing.left_out:
        if find_shards(folder):
            raise UserError(
                f"{folder} holds WebDataset shards and no audio; unpack them first: eisbach data folder {folder} --out "
                "my_music."
            )
        raise UserError(f"{folder} holds no audio; put {', '.join(AUDIO_SUFFIXES[:4])}, ... files into it.")
    real_root = os.path.realpath(folder)
    inside, left_out = [], list(listing.left_out)
    left_out += [
        Skipped(name, "is named by a table of captions and is not in the folder") for name in captions.unmatched
    ]
    for path in listing.files:
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(real_root):
            left_out.append(
                Skipped(path.relative_to(folder).as_posix(), "is a link that leaves the folder; copy the file into it")
            )
        else:
            inside.append(path)

    def look(path: Path) -> Sample:
        return _look(path, path.relative_to(folder).as_posix(), captions, heard)

    samples: list[Sample] = []
    first: dict[str, str] = {}
    with in_threads(inside, look, jobs=jobs, title="read", quiet=quiet) as results:
        for _, sample in results:
            if sample.refused is None and sample.audio_hash in first:
                sample = replace(sample, refused=f"has the same bytes as {first[sample.audio_hash]}")
            elif sample.refused is None:
                first[sample.audio_hash] = sample.name
            samples.append(sample)
    return FolderScan(folder, tuple(samples), tuple(sorted(left_out, key=lambda item: item.item)), captions)


def _look(path: Path, name: str, captions: CaptionSource, heard: CodecInput | None) -> Sample:
    written = caption = fault = None
    try:
        written = captions.read(path)
        caption = None if written is None else clean_caption(written)
    except UserError as error:
        fault = str(error)
    facts = inspect_audio(path, heard)
    try:
        digest = audio_hash(path)
    except AudioError as error:
        facts, digest = unusable(str(error)), ""
    refused = facts.problem or fault
    if refused is None and caption is None:
        refused = captions.wanting()
    elif refused is None and not caption and captions.mode != "none":
        refused = "has an empty caption; write one, or choose --caption-from"
    return Sample(name, path, caption, written, facts, digest, refused, fault)


def read_folder(
    folder: str | Path, *, caption_from: str = "auto", labels: dict[str, str] | None = None, jobs: int = 4,
    save: bool = True, out: str | Path | None = None, heard: CodecInput | None = None, quiet: bool = False,
) -> tuple[Manifest, SkipReport]:  # fmt: skip
    """The manifest of a folder, written as ``manifest.jsonl``, and what was left out and why.

    Audio that is unreadable, empty, silent or holds NaN is left out and reported; so is audio whose caption is
    missing, empty or malformed, and the second of two files with the same bytes. Nothing is made up in their place.

    Parameters
    ----------
    folder, caption_from, heard, jobs
        See `scan_folder`.
    labels : dict or None
        Given to every row.
    save : bool
        Write the manifest.
    out : str, Path or None
        The folder that it is written into; None is the audio's own.

    Raises
    ------
    UserError
        No folder, no audio, or nothing usable in it.
    """
    scan = scan_folder(folder, caption_from=caption_from, heard=heard, jobs=jobs, quiet=quiet)
    manifest, report = scan.manifest(labels), scan.skipped()
    if not len(manifest):
        first = report.skipped[0]
        raise UserError(
            f"none of the {len(report.skipped)} files in {folder} can be used (the first, {first.item}: "
            f"{first.reason})."
        )
    manifest = Manifest(manifest.rows, folder if out is None else out, folder)
    if save:
        save_manifest(manifest)
    return manifest, report
