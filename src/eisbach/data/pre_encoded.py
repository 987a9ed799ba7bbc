"""Folders of latents as Stable Audio's own tools write and read them.

A clip is `NAME.npy` (channels, frames) and `NAME.json` beside it: `prompt`, `seconds_start`, `seconds_total`,
`padding_mask` (a 0 or 1 a frame, 1 = audio), `sample_rate`, `path`, `relpath`, `timestamps`. `silence.npy` (1,
channels, frames) is what padding is made of. Files may lie in folders below (stable-audio-tools keeps one for each
process). What `pre_encode` writes also carries an `eisbach` entry: id, labels, split and the hash of the audio.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eisbach.data.latents import LatentCache, LatentEntry, read_latent_array
from eisbach.data.manifest import MANIFEST_NAME, SPLITS, Manifest, ManifestRow, Split, fault_list, row_faults
from eisbach.data.splits import assign_split
from eisbach.errors import ManifestError, UserError, is_out_of_memory
from eisbach.files import find_files, read_json, read_object, walk_files
from eisbach.progress import in_threads
from eisbach.tensor_files import read_array
from eisbach.types import SkipReport, Waveform

if TYPE_CHECKING:
    import torch

    from eisbach.codecs.base import Codec

SILENCE_NAME, DETAILS_NAME = "silence.npy", "details.json"
OURS = "eisbach"
"""The entry of a clip's JSON, and of details.json, that other tools ignore."""

_SAME_SAMPLES_PER_FRAME = 4096
_SILENCE_SECONDS = 6.0
_SIZED, _OTHER_SCALE = 32, 20.0  # clips whose size is looked at, and the factor from which they are scaled
_FOREIGN = 0.5  # relative distance of silence's latents from which they are of another autoencoder


@dataclass(frozen=True)
class PreEncodedClip:
    """One clip of a folder, its JSON checked and its array's header read.

    Attributes
    ----------
    path : Path
        The `.npy`.
    channels : int
    first, frames : int
        The longest unbroken stretch of the padding mask.
    masked : int
        Valid frames outside that stretch: 0 for every mask that Stability's tools write.
    prompt : str
    sample_rate : int or None
    values : dict
        The whole JSON.
    """

    path: Path
    channels: int
    first: int
    frames: int
    masked: int
    prompt: str
    sample_rate: int | None
    values: dict[str, Any]


def latent_files(folder: str | Path) -> list[Path]:
    """The `.npy` of clips in a folder and below it (hidden ones and silence left out), sorted."""
    folder = Path(folder)
    return [path for path in find_files(folder, (".npy",)) if path.name != SILENCE_NAME]


def is_pre_encoded(path: str | Path) -> bool:
    """Whether a path is a folder of latents: without a manifest, with `silence.npy` or any other `.npy`."""
    path = Path(path)
    if not path.is_dir() or (path / MANIFEST_NAME).exists():
        return False
    return (path / SILENCE_NAME).is_file() or any(file.suffix == ".npy" for file in walk_files(path))


def read_clip(path: Path) -> PreEncodedClip:
    """One clip, from its JSON and its array's header; the latents themselves are not read.

    Raises
    ------
    ManifestError
        One sentence: a missing or malformed JSON, no prompt, a mask that does not fit, or an array that is not latents.
    """
    array = read_latent_array(path)
    beside = path.with_suffix(".json")
    if not beside.is_file():
        raise ManifestError(f"{path} has no {beside.name} beside it; restore it, or remove the latents.")
    values = read_object(beside, "description of latents", error=ManifestError)
    prompt = values.get("prompt")
    if not isinstance(prompt, str):
        raise ManifestError(f"{beside} has no text under 'prompt'; add the caption, or remove the clip.")
    rate = values.get("sample_rate")
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, (int, float)) or not rate > 0):
        raise ManifestError(f"{beside} has the sample_rate {rate!r}; it must be a positive number of Hz.")
    first, frames, masked = _valid_stretch(values.get("padding_mask"), int(array.shape[1]), beside)
    rate = None if rate is None else int(rate)
    return PreEncodedClip(path, int(array.shape[0]), first, frames, masked, prompt, rate, values)


def _valid_stretch(mask: object, frames: int, source: Path) -> tuple[int, int, int]:
    """First frame and length of the longest run of ones, and the ones outside it; no mask is all ones."""
    if mask is None:
        return 0, frames, 0
    if isinstance(mask, list) and len(mask) == 1 and isinstance(mask[0], list):
        mask = mask[0]
    if not isinstance(mask, list) or any(item not in (0, 1) for item in mask):
        raise ManifestError(f"{source} has a padding_mask that is not a list of 0 and 1; encode the clip again.")
    if len(mask) != frames:
        raise ManifestError(
            f"{source} has a padding_mask of {len(mask)} frames and latents of {frames}; encode the clip again."
        )
    edges = np.diff(np.concatenate([[0], np.asarray(mask, dtype=int), [0]]))
    starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    if not len(starts):
        raise ManifestError(f"{source} has a padding_mask without a valid frame; remove the clip.")
    best = int((ends - starts).argmax())
    length = int(ends[best] - starts[best])
    return int(starts[best]), length, int((ends - starts).sum()) - length


def read_pre_encoded(folder: str | Path, *, jobs: int = 4, quiet: bool = True) -> tuple[Manifest, SkipReport]:
    """The clips of a folder as manifest rows whose paths are `.npy`, and what was left out and why.

    Every array is read once: a clip that is truncated, holds NaN or has no usable JSON is left out and reported. A
    row's `audio_hash` is that of the `.npy`. Clips that `pre_encode` wrote keep their id, labels and split; others are
    named by their file, have no labels, and are split by the file they were encoded from.

    Raises
    ------
    ManifestError
        No latents, none usable, latents of several channel counts, or an id that comes twice.
    """
    folder = Path(folder)
    paths = latent_files(folder)
    if not paths:
        raise ManifestError(
            f"{folder} holds no latents (.npy with a .json beside each); write some with 'eisbach data encode MANIFEST "
            "--format sa3 --out FOLDER'."
        )
    report = SkipReport()
    rows: list[ManifestRow] = []
    channels: dict[int, str] = {}

    def read(path: Path) -> tuple[PreEncodedClip, str] | str:
        try:
            clip = read_clip(path)
            _check_finite(path)
            return clip, hashlib.sha256(path.read_bytes()).hexdigest()
        except ManifestError as error:
            return str(error)
        except OSError as error:
            if is_out_of_memory(error):  # no fault of the clip
                raise
            return f"{path} cannot be read ({error.strerror or error}); check the disk, or remove the clip."

    with in_threads(paths, read, jobs=jobs, title="check latents", quiet=quiet) as results:
        for path, made in results:
            name = path.relative_to(folder).as_posix()
            if isinstance(made, str):
                report.add(name, made)
                continue
            clip, digest = made
            channels.setdefault(clip.channels, name)
            if clip.masked:
                valid = clip.frames + clip.masked
                report.add(name, f"only {clip.frames} of {valid} valid frames are one stretch and used")
            rows.append(_row(clip, name, digest))
    if not rows:
        first = report.skipped[0]
        raise ManifestError(f"none of the {len(paths)} clips in {folder} can be used (the first: {first.reason})")
    if len(channels) > 1:
        kinds = ", ".join(f"{count} channels ({name})" for count, name in sorted(channels.items()))
        raise ManifestError(f"{folder} holds latents of different codecs: {kinds}; keep one kind in a folder.")
    ids = [row.id for row in rows]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise ManifestError(f"{folder} holds two clips with the id '{twice}'; encode into an empty folder.")
    return Manifest(rows, folder), report


def _check_finite(path: Path) -> None:
    if not np.isfinite(read_latent_array(path)).all():
        raise ManifestError(f"{path} holds NaN or infinite values; encode it again, or remove it with its .json.")


def _row(clip: PreEncodedClip, name: str, digest: str) -> ManifestRow:
    values = clip.values
    ours = values[OURS] if isinstance(values.get(OURS), dict) else {}
    identity, labels, split = ours.get("id"), ours.get("labels"), ours.get("split")
    if not isinstance(labels, dict) or not all(isinstance(item, str) for item in labels.values()):
        labels = {}
    chosen: Split
    source = values.get("relpath", values.get("path"))
    by_source = {"piece": source} if isinstance(source, str) and source else None
    chosen = split if split in SPLITS else assign_split(digest, by_source)
    if not isinstance(identity, str) or not identity:
        identity = name.removesuffix(".npy")
    elif ours.get("sections", 1) != 1:
        identity = f"{identity}#{ours.get('section')}"
    # SAME's frames, until `latent_entries` knows the codec
    seconds = clip.frames * _SAME_SAMPLES_PER_FRAME / (clip.sample_rate or 44100)
    row = ManifestRow(identity, name, clip.prompt, seconds, dict(labels), digest, chosen)
    weights = {key: ours[key] for key in ("weight", "weight_above") if ours.get(key) is not None}
    if not weights:
        return row
    row = replace(row, **weights)
    if faults := row_faults(row):
        raise ManifestError(f"{name} {fault_list(faults)}")
    return row


def latent_entries(manifest: Manifest, codec: Codec) -> LatentCache:
    """The clips of `read_pre_encoded` (or a selection, or a merger of such manifests) as what datasets draw from.

    Raises
    ------
    ManifestError
        Latents of another codec: other channels, another sample rate, another stamp, or, where the folder has no stamp,
        a `silence.npy` that is not this codec's silence.
    """
    entries = []
    folders: set[Path] = set()
    silence: torch.Tensor | None = None
    for row in manifest:
        path = manifest.audio_path(row)
        clip = read_clip(path)
        if clip.channels != codec.channels:
            raise ManifestError(
                f"{path} holds latents of {clip.channels} channels and the model reads {codec.channels}; encode "
                "the audio with its codec ('eisbach data encode MANIFEST --model MODEL --format sa3 --out FOLDER')."
            )
        if clip.sample_rate is not None and clip.sample_rate != codec.sample_rate:
            raise ManifestError(
                f"{path} was encoded at {clip.sample_rate} Hz and the model's codec works at {codec.sample_rate} Hz; "
                "encode the audio with this model's codec."
            )
        if path.parent not in folders:
            folders.add(path.parent)
            own_silence = _check_folder(path.parent, manifest.root, codec)
            silence = own_silence if silence is None else silence
        entries.append(
            LatentEntry(replace(row, duration=clip.frames / codec.latent_rate), path, (clip.frames,), clip.first)
        )
    _check_scale(entries, codec)
    return LatentCache(tuple(entries), codec.channels, codec.latent_rate, SkipReport(), silence)


def _check_scale(entries: Sequence[LatentEntry], codec: Codec) -> None:
    """Refuses latents whose size is nothing like the codec's of noise: somebody multiplied them by a scale of their
    own."""
    sizes = [
        _size(read_latent_array(entry.path)[:, entry.first : entry.first + entry.frames[0]])
        for entry in entries[:_SIZED]
    ]
    noise = 0.1 * np.random.default_rng(0).standard_normal((1, round(_SILENCE_SECONDS * codec.sample_rate)))
    expected = _size(codec.encode(Waveform(noise.astype(np.float32), codec.sample_rate)).float().cpu().numpy())
    ratio = float(np.median(sizes)) / max(expected, 1e-6)
    if ratio > _OTHER_SCALE:
        raise ManifestError(
            f"the latents in {entries[0].path.parent} are {ratio:.0f} times as large as this codec's of noise, so "
            "they are scaled; divide them by their scale, or encode the audio again."
        )


def _size(latents: np.ndarray) -> float:
    return float(np.sqrt(np.square(latents, dtype=np.float64).mean()))


def _check_folder(folder: Path, root: Path, codec: Codec) -> torch.Tensor | None:
    """The folder's silence [shape=(C, N)], after making sure that its latents are this codec's."""
    import torch

    details = _nearest(folder, root, DETAILS_NAME)
    stamp = None
    if details is not None:
        values = read_json(details, "description of the folder")
        ours = values.get(OURS) if isinstance(values, dict) else None
        stamp = ours.get("codec") if isinstance(ours, dict) else None
    if stamp is not None and stamp != codec.identity():
        raise ManifestError(
            f"the latents in {details.parent if details else folder} are of the codec {stamp} and the model's is "
            f"{codec.identity()}; encode the audio with this model's codec."
        )
    path = _nearest(folder, root, SILENCE_NAME)
    if path is None:
        return None
    silence = read_silence(path, codec.channels)
    if stamp is None:
        samples = np.zeros((1, round(_SILENCE_SECONDS * codec.sample_rate)), dtype=np.float32)
        mine = codec.encode(Waveform(samples, codec.sample_rate)).float().cpu().numpy()
        middle, theirs = np.median(mine, axis=1), np.median(silence, axis=1)
        distance = float(np.linalg.norm(theirs - middle) / max(float(np.linalg.norm(middle)), 1e-6))
        if distance > _FOREIGN:
            raise ManifestError(
                f"{path} is not the silence of this model's codec (relative distance {distance:.2g}), so the latents "
                "beside it are another autoencoder's; encode the audio with this model's codec."
            )
    return torch.from_numpy(silence)


def read_silence(path: Path, channels: int) -> np.ndarray:
    """The latents of silence [shape=(C, N), float32]; `ManifestError` when they do not fit."""
    try:
        array = read_array(path, "silence")
    except UserError as error:
        raise ManifestError(
            f"{path} is truncated or not a NumPy array ({error}); remove it, or encode the folder again."
        ) from error
    if array.ndim == 3 and array.shape[0] == 1:
        array = array[0]
    if (
        array.ndim != 2 or array.shape[0] != channels or array.shape[1] == 0
        or array.dtype.kind != "f" or not np.isfinite(array).all()
    ):  # fmt: skip
        raise ManifestError(
            f"{path} holds {array.shape} and not finite latents (1, {channels}, frames); remove it, or encode the "
            "folder again."
        )
    return np.array(array, dtype=np.float32)


def _nearest(folder: Path, root: Path, name: str) -> Path | None:
    """The file in `folder` or in the folders above it, up to `root`."""
    top = root.resolve()
    place = folder.resolve()
    for candidate in (place, *place.parents):
        if (candidate / name).is_file():
            return candidate / name
        if candidate == top:
            break
    return None
