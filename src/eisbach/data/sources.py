"""What lies where a manifest is expected, said to a person who gave something else."""

from __future__ import annotations

from pathlib import Path

from eisbach.audio import AUDIO_SUFFIXES, UNREAD_SUFFIXES, list_audio
from eisbach.errors import ManifestError, counted, one_line


def is_recording(path: str | Path) -> bool:
    """Whether a path is a file whose ending says that it is audio, of a kind that is read or not."""
    return Path(path).suffix.lower() in (*AUDIO_SUFFIXES, *UNREAD_SUFFIXES) and Path(path).is_file()


def no_manifest(given: Path, manifest: Path) -> ManifestError | None:
    """Why there is no manifest to read; None where there is a file that may be one.

    Parameters
    ----------
    given : Path
        A manifest, or the folder that holds it.
    manifest : Path
        The file that would be read: `given`, or the one in it.
    """
    if is_recording(given):
        return ManifestError(f"{given} is a recording; give the folder that holds it ({given.parent}).")
    if manifest.exists():
        return None
    if not given.is_dir():
        return ManifestError(f"the folder or manifest {given} does not exist; give a folder of recordings.")
    listing = list_audio(given)
    if listing.files:
        return ManifestError(
            f"the manifest {manifest} does not exist; make one with 'eisbach data folder' or 'eisbach data render'."
        )
    if not listing.left_out:
        return ManifestError(
            f"{given} holds no audio and no manifest; put {', '.join(AUDIO_SUFFIXES[:4])}, ... files into it."
        )
    first = listing.left_out[0]
    return ManifestError(
        f"none of the audio in {given} can be used: {counted(len(listing.left_out), 'file')}, the first, "
        f"{one_line(first.item)}: {first.reason}."
    )
