"""What a folder of latents holds, and how its lengths would be batched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eisbach.data.latents import LatentCache, LatentEntry
from eisbach.data.pre_encoded import latent_entries, read_clip, read_pre_encoded
from eisbach.errors import UserError
from eisbach.types import SkipReport

if TYPE_CHECKING:
    from eisbach.codecs.base import Codec


@dataclass(frozen=True)
class FolderReport:
    """What a folder holds and how its lengths would be batched.

    Attributes
    ----------
    clips, channels, frames, shortest, longest : int
        Clips that can be used, their channels, all their frames, and the frames of the shortest and the longest.
    lengths : dict
        Frames of the buckets, for fit "cut" and fit "pad".
    cut_share, padding_share : float
        Share of the frames that a pass cuts (fit "cut"), or that are padding (fit "pad").
    padded_share : float
        Share of padding where every clip is padded to the longest.
    report : SkipReport
        What cannot be used.
    """

    clips: int
    channels: int
    frames: int
    shortest: int
    longest: int
    lengths: dict[str, tuple[int, ...]]
    cut_share: float
    padding_share: float
    padded_share: float
    report: SkipReport


def inspect_folder(
    folder: str | Path, codec: Codec | None = None, *, buckets: int = 16, batch_size: int = 4, jobs: int = 4,
    quiet: bool = False,
) -> FolderReport:  # fmt: skip
    """What a folder holds; with a codec also whether the latents are that codec's.

    Raises
    ------
    ManifestError
        As `read_pre_encoded` and `latent_entries`.
    UserError
        A batch size below 1.
    """
    from eisbach.data.batches import FITS, BucketedDataset

    if batch_size < 1:
        raise UserError(f"the batch size must be at least 1 (got {batch_size}).")
    manifest, report = read_pre_encoded(folder, jobs=jobs, quiet=quiet)
    if codec is not None:
        latent_entries(manifest, codec)
    clips = [read_clip(manifest.audio_path(row)) for row in manifest]
    frames = [clip.frames for clip in clips]
    entries = [
        LatentEntry(row, clip.path, (clip.frames,), clip.first) for row, clip in zip(manifest, clips, strict=True)
    ]
    cache = LatentCache(tuple(entries), clips[0].channels, 1.0, report)
    made = {fit: BucketedDataset(cache, max(frames), 0, count=buckets, fit=fit) for fit in FITS}
    return FolderReport(
        len(clips), clips[0].channels, sum(frames), min(frames), max(frames),
        lengths={fit: tuple(int(length) for length in data.lengths) for fit, data in made.items()},
        cut_share=made["cut"].report(batch_size).cut_share,
        padding_share=made["pad"].report(batch_size).padding_share,
        padded_share=1.0 - sum(frames) / (len(frames) * max(frames)),
        report=report,
    )  # fmt: skip
