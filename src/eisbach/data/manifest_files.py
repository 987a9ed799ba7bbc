"""The files that a manifest names: where they lie, how the disk spells them, and what their bytes are."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from eisbach.audio import audio_hash, proves_unchanged, stamp
from eisbach.audio_file import is_file
from eisbach.data.threads import in_threads
from eisbach.errors import AudioError, ManifestError, StorageError, UserError
from eisbach.files import read_json, write_json

if TYPE_CHECKING:
    from eisbach.data.manifest import Manifest, ManifestRow

_AUDIO_ROOT = ".audio.json"  # beside a manifest whose audio lies elsewhere


def read_audio_root(manifest: Path) -> Path:
    """The folder that the paths of a manifest are relative to: its own, or what `write_audio_root` noted.

    Raises
    ------
    ManifestError
        The note is malformed.
    """
    beside = manifest.with_suffix(_AUDIO_ROOT)
    if not beside.is_file():
        return manifest.parent
    values = read_json(beside, "place of a manifest's audio")
    folder = values.get("audio") if isinstance(values, dict) else None
    if not isinstance(folder, str) or not Path(folder).is_absolute():
        raise ManifestError(f'{beside} must hold {{"audio": "FOLDER"}} with an absolute path; make the manifest again.')
    return Path(folder)


def write_audio_root(manifest: Path, audio_root: Path) -> None:
    """Notes beside a manifest that its audio lies elsewhere, or takes such a note away."""
    beside = manifest.with_suffix(_AUDIO_ROOT)
    if audio_root.resolve() != manifest.parent.resolve():
        write_json(beside, {"audio": str(audio_root.resolve())})
    elif beside.is_file():
        beside.unlink()


class ManifestFiles:
    """The files below a folder: found in another spelling of the same name, and never outside the folder."""

    def __init__(self, root: Path) -> None:
        self._root, self._real_root = root, os.path.realpath(root)
        self._inside: dict[Path, bool] = {}
        self._names: dict[Path, dict[str, str]] = {}

    def find(self, relative: str) -> tuple[str | None, str | None]:
        """A path as the disk spells it (None: there is no such file), and what is wrong with it."""
        path = self._root / relative
        if not is_file(path):
            path = self.spelled(relative)
            if not is_file(path):
                return None, f"file '{relative}' does not exist; restore it or remove the row"
        place = path.relative_to(self._root).as_posix()
        if not self._is_inside(path):
            return (
                place,
                f"'path' is a link that leaves the manifest's folder (got '{relative}'); copy the audio into it",
            )
        return place, None

    def spelled(self, relative: str) -> Path:
        """A path whose parts are the disk's where they differ only in how accents are composed (NFC, NFD)."""
        place = self._root
        for part in PurePosixPath(relative).parts:
            if not part.isascii() and not (place / part).exists():
                if place not in self._names:
                    names = [item.name for item in place.iterdir()] if place.is_dir() else []
                    self._names[place] = {unicodedata.normalize("NFC", name): name for name in names}
                part = self._names[place].get(unicodedata.normalize("NFC", part), part)
            place = place / part
        return place

    def _is_inside(self, path: Path) -> bool:
        if path.is_symlink():
            return _is_below(os.path.realpath(path), self._real_root)
        if path.parent not in self._inside:
            self._inside[path.parent] = _is_below(os.path.realpath(path.parent), self._real_root)
        return self._inside[path.parent]


def user_cache(name: str) -> Path:
    """A folder of the user's own cache: ``$EISBACH_CACHE/NAME``, else ``eisbach/NAME`` in the system's place for
    caches."""
    if chosen := os.environ.get("EISBACH_CACHE"):
        return Path(chosen) / name
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eisbach" / name


class KnownHashes:
    """Hashes of files, remembered with their size and times: a file that nobody touched since is not read again.

    Parameters
    ----------
    path : Path
        Where they are remembered; a file that cannot be understood is forgotten.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, dict[str, Any]] = {}
        self._changed = False
        with contextlib.suppress(UserError):
            values = read_json(path, "list of hashes") if is_file(path) else {}
            self._known = (
                {key: item for key, item in values.items() if isinstance(item, dict)}
                if isinstance(values, dict)
                else {}
            )

    def hash_of(self, path: Path) -> str:
        """`audio_hash`; `AudioError` when the file cannot be read."""
        key, now = str(path.resolve()), stamp(path)
        before = self._known.get(key, {})
        if isinstance(before.get("audio_hash"), str) and proves_unchanged(before, now):
            return str(before["audio_hash"])
        digest = audio_hash(path)
        self._known[key] = {**now, "audio_hash": digest}
        self._changed = True
        return digest

    def save(self) -> None:
        """Writes what was learned."""
        if self._changed:
            with contextlib.suppress(StorageError):  # it only saves time
                write_json(self._path, self._known)


def check_unchanged(manifest: Manifest, row: ManifestRow, known: KnownHashes) -> Path:
    """Where the audio of a row lies; `ManifestError` when its bytes are not those that the manifest was made of."""
    audio = manifest.audio_path(row)
    if known.hash_of(audio) != row.audio_hash:
        raise ManifestError(
            f"{audio} has changed since its manifest was made (clip '{row.id}'); make the manifest again with "
            "'eisbach data folder', or restore the file."
        )
    return audio


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def hash_files(
    paths: Sequence[Path], *, jobs: int = 4, quiet: bool = True, on_error: Callable[[Path, str], None] | None = None
) -> dict[Path, str]:
    """SHA-256 of each file, read in parallel threads; unreadable files go to `on_error` or raise `AudioError`."""

    def one(path: Path) -> str | AudioError:
        try:
            return audio_hash(path)
        except AudioError as error:
            return error

    hashes: dict[Path, str] = {}
    with in_threads(paths, one, jobs=jobs, title="hash", quiet=quiet) as results:
        for path, result in results:
            if isinstance(result, str):
                hashes[path] = result
            elif on_error is not None:
                on_error(path, str(result))
            else:
                raise result
    return hashes
