"""WebDataset shards: tar files whose members of one stem are a sample, unpacked into a folder of audio and captions."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO

from eisbach.audio import AUDIO_SUFFIXES, UNREAD_SUFFIXES
from eisbach.data.caption_files import SUFFIXES
from eisbach.errors import UserError, one_line
from eisbach.files import atomic_write
from eisbach.progress import Progress
from eisbach.types import SkipReport

_MOST_BYTES = 4 << 30  # of one member
_MOST_MEMBERS = 10_000_000


def find_shards(path: Path) -> list[Path]:
    """The tar files that a path names: itself, or those directly in a folder; none for everything else."""
    if path.is_dir():
        return sorted(item for item in path.iterdir() if item.suffix == ".tar" and item.is_file())
    return [path] if path.suffix == ".tar" and path.is_file() else []


def unpack_shards(shards: list[Path], folder: Path, *, quiet: bool = False) -> SkipReport:
    """Writes the audio and caption files of shards into `folder/SHARD/`, and says what was left out.

    A member's folders within the shard become part of its name, and only regular files are written: no link, device or
    path out of the folder can come of a shard. A file that is there with its size is kept, so a stopped run goes on.

    Raises
    ------
    UserError
        A file that is no tar.
    StorageError
        The disk is full or the folder cannot be written.
    """
    skips = SkipReport()
    with Progress(len(shards), "unpack", quiet=quiet) as bar:
        for shard in shards:
            try:
                with tarfile.open(shard, "r:") as tar:
                    _unpack(tar, shard, folder / shard.stem, skips)
            except (tarfile.TarError, EOFError) as error:
                raise UserError(f"{shard} is not a whole tar file ({error}); fetch it again.") from error
            bar.advance()
    return skips


def _unpack(tar: tarfile.TarFile, shard: Path, folder: Path, skips: SkipReport) -> None:
    for number, member in enumerate(tar):
        if number >= _MOST_MEMBERS:
            raise UserError(f"{shard} holds more than {_MOST_MEMBERS:,} files; split it.")
        if member.isdir():
            continue
        name = f"{shard.name}/{one_line(member.name)}"
        reason = _why_left_out(member)
        if reason is not None:
            skips.add(name, reason)
            continue
        parts = [part for part in PurePosixPath(member.name).parts if part not in ("/", ".", "..")]
        target = folder / "-".join(parts)
        if target.is_file() and target.stat().st_size == member.size:
            continue
        source = tar.extractfile(member)
        if source is None:
            skips.add(name, "holds nothing")
            continue
        with source:
            atomic_write(target, lambda partial, source=source: _copy(source, partial))  # type: ignore[misc]


def _copy(source: IO[bytes], partial: Path) -> None:
    with partial.open("wb") as target:
        shutil.copyfileobj(source, target)


def _why_left_out(member: tarfile.TarInfo) -> str | None:
    ending = PurePosixPath(member.name).suffix.lower()
    if not member.isreg():
        return "is a link or a device, which no shard needs"
    if member.size > _MOST_BYTES:
        return f"is larger than {_MOST_BYTES >> 30} GiB"
    if len(PurePosixPath(member.name).name.encode("utf-8", "surrogateescape")) > 200:
        return "has a name of more than 200 bytes"
    if ending in UNREAD_SUFFIXES:
        return f"is {ending} audio, which is not read; convert it to FLAC"
    if ending not in AUDIO_SUFFIXES and not member.name.endswith(SUFFIXES):
        return "is neither audio nor a caption"
    return None
