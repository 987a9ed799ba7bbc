"""Writes a manifest's audio as a folder of latents that Stable Audio's own trainer reads too (see `pre_encoded`).

A clip gets a number that it keeps: `{clip:06d}{section:04d}.npy` and `.json`. Interrupted, extended or re-captioned,
the same command does only what is missing; what does not belong to the manifest is never mixed in.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from eisbach.audio import SILENCE_PEAK, KnownHashes
from eisbach.data.latents import SectionEncoder, encode_clips, read_latent_array, steady_threads
from eisbach.data.manifest import MANIFEST_NAME, Manifest, ManifestRow, check_unchanged
from eisbach.data.pre_encoded import DETAILS_NAME, OURS, SILENCE_NAME, latent_files
from eisbach.errors import AudioError, ManifestError, UserError
from eisbach.files import atomic_write, read_json, write_text
from eisbach.output_folder import refuse_other_settings, user_cache
from eisbach.types import SkipReport, Waveform

if TYPE_CHECKING:
    from eisbach.codecs.base import Codec

Precision = Literal["float32", "float16"]
MAX_SECONDS = 380.0
"""Longest stretch in one file: what Stability's own script crops to."""

_SILENCE_SECONDS = 30.0  # its reader repeats it where more is needed
_LAST_CLIP, _LAST_SECTION = 999_999, 9_999


@dataclass(frozen=True)
class WrittenFolder:
    """What a folder holds now.

    Attributes
    ----------
    clips, files, frames : int
        Clips of the manifest, their files, and all their frames.
    fresh : int
        Files that this call encoded.
    report : SkipReport
        Clips left out, and why.
    """

    clips: int
    files: int
    frames: int
    fresh: int
    report: SkipReport


@dataclass(frozen=True)
class _Section:
    """One file to be: its place, and the stretch of the clip that it holds."""

    stem: str
    number: int
    of: int
    start: float
    seconds: float | None


def pre_encode(
    manifest: Manifest, codec: Codec, out: str | Path, *, max_seconds: float = MAX_SECONDS,
    precision: Precision = "float32", jobs: int = 1, source: str | None = None, device: str | None = None,
    quiet: bool = False,
) -> WrittenFolder:  # fmt: skip
    """Encodes what `out` does not hold yet; the same call again, or with more clips, continues.

    Parameters
    ----------
    manifest : Manifest
    codec : Codec
    out : str or Path
    max_seconds : float
        Longer clips are cut into equal sections of at most this, one file each.
    precision : "float32" or "float16"
        Of the arrays.
    jobs, source, device
        As in `encode_manifest`.

    Raises
    ------
    ManifestError
        A file whose content is not what the manifest's hash says.
    UserError
        The folder holds a manifest, latents of other settings, or latents of clips that are not in this manifest; or
        nothing could be encoded.
    """
    out = Path(out)
    if not (math.isfinite(max_seconds) and max_seconds > 0):
        raise UserError(f"the longest section must be a positive number of seconds (got {max_seconds}).")
    if precision not in ("float32", "float16"):
        raise UserError(f"latents are kept as float32 or float16, not as '{precision}'.")
    settings = {
        "codec": codec.identity(),
        "channels": codec.channels,
        "sample_rate": codec.sample_rate,
        "samples_per_frame": codec.samples_per_frame,
        "precision": precision,
        "max_seconds": max_seconds,
    }
    existing = _existing(out, settings)
    plan = _plan(manifest, max_seconds, existing, out)
    report = SkipReport()
    known = KnownHashes(_hashes_of(manifest))
    write_text(out / DETAILS_NAME, _json({OURS: settings}))
    _write_silence(out / SILENCE_NAME, codec, max_seconds, precision)

    def encode(row: ManifestRow, encoder: SectionEncoder) -> tuple[int, int, int]:
        audio = check_unchanged(manifest, row, known)
        return _write_clip(audio, row, plan[row.id], out, existing, encoder, codec, precision)

    try:
        clips = encode_clips(manifest, codec, encode, report, source=source, jobs=jobs, device=device, quiet=quiet)
        done = [counts for _, counts in clips]
    finally:
        known.save()
    files, frames, fresh = (sum(counts) for counts in zip(*done, strict=True))
    return WrittenFolder(len(done), files, frames, fresh, report)


def _hashes_of(manifest: Manifest) -> Path:
    """Where the hashes of a manifest's audio are remembered: not in the folder of latents, which is handed on."""
    return user_cache("hashes") / f"{hashlib.sha256(str(manifest.audio_root.resolve()).encode()).hexdigest()[:16]}.json"


def _existing(out: Path, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The JSON of each clip already in the folder, by stem."""
    if (out / MANIFEST_NAME).exists():
        raise UserError(
            f"{out} holds a manifest, and a folder of latents must not; choose another --out, such as a folder in it."
        )
    details = out / DETAILS_NAME
    if details.is_file():
        values = read_json(details, "description of the folder")
        ours = values.get(OURS) if isinstance(values, dict) else None
        refuse_other_settings(out, "latents", ours if isinstance(ours, dict) else {}, settings)
    elif out.is_dir() and latent_files(out):
        raise UserError(
            f"{out} already holds latents that another tool wrote; choose another --out, and name both folders in "
            "data.manifest."
        )
    existing = {}
    for path in sorted(out.glob("*.json")) if out.is_dir() else []:
        if path.name == DETAILS_NAME:
            continue
        values = read_json(path, "description of latents")
        if not isinstance(values, dict) or not isinstance(values.get(OURS), dict):
            raise UserError(f"{path} is not of this folder's clips; remove it, or choose another --out.")
        existing[path.stem] = values
    return existing


def _plan(
    manifest: Manifest, max_seconds: float, existing: Mapping[str, Mapping[str, Any]], out: Path
) -> dict[str, list[_Section]]:
    """The sections of each clip, by id: clips that have a number keep it, the others take the free ones in order."""
    ids = {row.id for row in manifest}
    numbers: dict[str, int] = {}
    for stem, values in existing.items():
        owner = str(values[OURS].get("id"))
        if owner not in ids or not stem.isdigit() or len(stem) != 10:
            raise UserError(
                f"{out} holds latents of '{owner}' ({stem}.json), which is not in this manifest; choose another --out, "
                "or remove those files."
            )
        numbers[owner] = int(stem[:6])
    taken = set(numbers.values())
    free = (number for number in range(_LAST_CLIP + 1) if number not in taken)
    plan = {}
    for row in manifest:
        number = numbers[row.id] if row.id in numbers else next(free, None)
        count = max(1, math.ceil(row.duration / max_seconds - 1e-6))
        if number is None or count > _LAST_SECTION + 1:
            raise UserError("the names of SA3's folders end at 1,000,000 clips of 10,000 sections; split the manifest.")
        length = row.duration / count
        plan[row.id] = [
            _Section(f"{number:06d}{index:04d}", index, count, index * length, None if index == count - 1 else length)
            for index in range(count)
        ]
    planned = {section.stem for sections in plan.values() for section in sections}
    stray = [stem for stem in existing if stem not in planned]
    stray += [path.stem for path in latent_files(out) if path.parent != out or path.stem not in planned]
    if stray:
        raise UserError(
            f"{out} holds {len(stray)} files that are not of this manifest (the first: {stray[0]}); choose another "
            "--out, or remove them."
        )
    return plan


def _write_clip(
    audio: Path,
    row: ManifestRow,
    sections: list[_Section],
    out: Path,
    existing: Mapping[str, Mapping[str, Any]],
    encoder: SectionEncoder,
    codec: Codec,
    precision: Precision,
) -> tuple[int, int, int]:
    """Files, frames and freshly encoded files of one clip."""
    frames_there = {section.stem: _kept_frames(out, section, row, existing, precision) for section in sections}
    made: dict[str, np.ndarray] = {}
    if not all(frames_there.values()):
        peak = 0.0
        for section in sections:
            encoded = encoder(audio, section.start, section.seconds)
            peak = max(peak, encoded.peak)
            made[section.stem] = encoded.latents.astype(precision)
            if not np.isfinite(made[section.stem]).all():
                raise AudioError(f"{audio} gives latents beyond float16; leave --half out.")
        if peak < SILENCE_PEAK:
            raise AudioError(f"{audio} is silent (peak below -80 dBFS); remove it or record it again.")
    frames = 0
    for section in sections:
        array = made.get(section.stem)
        if array is not None:
            _save(out / f"{section.stem}.npy", array)
        count = int(array.shape[1]) if array is not None else frames_there[section.stem]
        values = _description(row, section, count, codec)
        if existing.get(section.stem) != values:
            write_text(out / f"{section.stem}.json", _json(values))
        frames += count
    return len(sections), frames, len(made)


def _kept_frames(
    out: Path, section: _Section, row: ManifestRow, existing: Mapping[str, Mapping[str, Any]], precision: Precision
) -> int:
    """Frames of a file that an earlier call wrote whole and of the same audio; 0 otherwise."""
    ours = existing.get(section.stem, {}).get(OURS, {})
    if (ours.get("audio_hash"), ours.get("section"), ours.get("sections")) != (
        row.audio_hash,
        section.number,
        section.of,
    ):
        return 0
    path = out / f"{section.stem}.npy"
    if not path.is_file():
        return 0
    try:
        array = read_latent_array(path)
    except ManifestError:
        return 0  # damaged: made again
    return int(array.shape[1]) if array.dtype == np.dtype(precision) else 0


def _description(row: ManifestRow, section: _Section, frames: int, codec: Codec) -> dict[str, Any]:
    """What stands beside the latents: the fields of Stability's own script, and ours."""
    end = row.duration if section.seconds is None else section.start + section.seconds
    return {
        "path": row.path,
        "relpath": row.path,
        "timestamps": [section.start / row.duration, end / row.duration],
        "seconds_start": math.floor(section.start),
        "seconds_total": math.ceil(row.duration),
        "padding_mask": [1] * frames,
        "sample_rate": codec.sample_rate,
        "prompt": row.caption,
        OURS: {
            "id": row.id,
            "labels": dict(row.labels),
            "split": row.split,
            **{key: value for key in ("weight", "weight_above") if (value := getattr(row, key)) is not None},
            "audio_hash": row.audio_hash,
            "section": section.number,
            "sections": section.of,
        },
    }


def _write_silence(path: Path, codec: Codec, max_seconds: float, precision: Precision) -> None:
    if path.is_file():
        return
    seconds = min(max_seconds, _SILENCE_SECONDS)
    samples = np.zeros((1, max(codec.samples_per_frame, round(seconds * codec.sample_rate))), dtype=np.float32)
    with steady_threads(codec):
        latents = codec.encode(Waveform(samples, codec.sample_rate)).detach().float().cpu().numpy()
    _save(path, latents[None].astype(precision))


def _save(path: Path, array: np.ndarray) -> None:
    def write(partial: Path) -> None:
        with open(partial, "wb") as handle:  # np.save would add .npy to the partial name
            np.save(handle, array, allow_pickle=False)

    atomic_write(path, write)


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, allow_nan=False)
