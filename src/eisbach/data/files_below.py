"""The files that a manifest names: below its folder, and in whichever spelling the disk has."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path, PurePosixPath

from eisbach.audio_file import is_file


class FilesBelow:
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


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
