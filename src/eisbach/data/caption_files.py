"""Captions of a person's own audio: from files beside it, from a table of the folder, from its tags, or from its name.

A folder's `CaptionSource` is made once: it finds what the folder offers, reads its tables, and then answers for each
file. Captions are kept as they are written; `clean_caption` takes out what cannot be seen.
"""

from __future__ import annotations

import shutil
import string
import tarfile
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from eisbach.audio import AUDIO_SUFFIXES, UNREAD_SUFFIXES
from eisbach.audio_file import is_file
from eisbach.data.folder_tables import CAPTION_COLUMNS, TABLES, FolderTables, composed, read_tables
from eisbach.errors import UserError, one_line
from eisbach.files import JsonError, atomic_write, parse_json, read_text
from eisbach.progress import Progress
from eisbach.types import SkipReport

SUFFIXES = (".txt", ".json", ".caption.txt", ".caption")
"""Endings of caption files of the same name beside the audio."""
MODES = ("auto", "files", "table", "tags", "name", "none")
_TAGS = ("title", "artist", "album", "genre", "composer", "year", "comment")
_TAG_TEMPLATE = "{genre}, {title}, {artist}"
_UNREADABLE = "\ufffd"  # what a decoder writes for bytes that it cannot read
_MOST_BYTES = 1 << 16  # a caption is a sentence; longer files are something else
_UNSEEN = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2060, 0x2070), 0x200B, 0x200E, 0x200F, 0xFEFF])
"""Characters without a width, which no caption needs: they split words that look whole. Joiners of scripts and emoji
stay."""


@dataclass(frozen=True)
class CaptionSource:
    """Where the captions of a folder come from.

    Attributes
    ----------
    mode : str
        As `find_captions` takes it, never ``auto``.
    offers : dict of str to int
        What the folder has, by mode: caption files beside audio, rows of tables, audio with tags.
    unmatched : tuple of str
        Files that a table names, for captions that are used or for labels, and that are not in the folder.
    tables : FolderTables
        What the folder's tables say, whether or not captions come from them: labels and weights do.
    """

    mode: str
    offers: dict[str, int] = field(default_factory=dict)
    unmatched: tuple[str, ...] = ()
    tables: FolderTables = field(default_factory=FolderTables, repr=False)

    def read(self, audio: Path) -> str | None:
        """The caption of an audio file as it is written; None when there is none.

        Raises
        ------
        UserError
            A caption file that cannot be understood, or several with different words.
        """
        if self.mode == "none":
            return ""
        if self.mode == "table":
            return self.tables.row(audio).caption
        if self.mode == "name":
            return " ".join(audio.stem.replace("_", " ").replace("-", " ").split())
        if self.mode.startswith("text:"):
            return self.mode.removeprefix("text:").strip()
        if self.mode.startswith("tags"):
            return _of_tags(audio, self.mode.partition(":")[2] or _TAG_TEMPLATE)
        return _of_files(audio)

    def wanting(self) -> str:
        """What a file without a caption lacks, and what to do."""
        if self.mode == "table":
            return "is in no table of captions; add a row, or choose --caption-from"
        if self.mode.startswith("tags"):
            return "has none of the tags that captions are made of; tag it, or choose --caption-from"
        return "has no caption; add a .txt or .json of the same name, or choose --caption-from"

    def mend(self) -> str:
        """What gives a file a caption."""
        if self.mode == "table":
            return "add a row for each"
        if self.mode.startswith("tags"):
            return "tag each"
        return "add a .txt or .json of its name for each"

    def sentence(self) -> str:
        """What the folder offers and what is used."""
        words = {"files": "beside the audio", "table": "in a table", "tags": "in tags"}
        held = [f"{count} {words[mode]}" for mode, count in self.offers.items() if count]
        used = {"none": "none are used", "name": "names of files are used", "table": "the table is used"}
        text = used.get(self.mode.partition(":")[0], f"{self.mode.partition(':')[0]} are used")
        return f"captions: {', '.join(held) or 'none found'}; {text} (--caption-from)"


def find_captions(folder: Path, paths: Sequence[Path], caption_from: str = "auto") -> CaptionSource:
    """The captions of a folder's audio.

    Parameters
    ----------
    folder : Path
        Its tables (`folder_tables`) lie in it and in folders below it.
    paths : sequence of Path
        The audio.
    caption_from : str
        ``files`` (`SUFFIXES` of the same name beside the audio), ``table``, ``tags`` (genre, title and artist, or
        ``tags:{artist} - {title}``), ``name`` (the file's name, with underscores and dashes as spaces), ``none`` (an
        empty caption, on purpose), ``text:...`` (these words for all), or ``auto``: files where there is one, else a
        table, else none.

    Raises
    ------
    UserError
        A mode that does not exist, a table that cannot be understood, or none where ``table`` was asked for.
    """
    kind, _, words = caption_from.partition(":")
    if (kind not in MODES and kind != "text") or (words and kind not in ("text", "tags")):
        raise UserError(
            f"captions cannot come from '{one_line(caption_from)}'; choose auto, files, table, tags, name, none or "
            "text:your words."
        )
    if kind == "tags" and words:
        _check_template(words)
    tables = read_tables(folder, strict=kind in ("auto", "table")) if folder.is_dir() else FolderTables()
    known = {composed(path) for path in paths}
    strangers = {path: row for path, row in tables.rows.items() if path not in known}

    def source(mode: str, offers: dict[str, int]) -> CaptionSource:
        unmatched = [path.name for path, row in strangers.items() if mode == "table" or row.labels]
        return CaptionSource(mode, offers, tuple(sorted(unmatched)), tables)

    if kind not in ("auto", "files", "table", "tags"):
        return source(caption_from, {})
    beside = sum(any(_beside(path, ending) for ending in SUFFIXES) for path in paths)
    offers = {"files": beside}
    if kind in ("auto", "table"):
        offers["table"] = tables.captions
    if kind in ("auto", "tags"):
        offers["tags"] = sum(bool(_tags(path)) for path in paths)
    if kind == "table" and not tables.captions:
        if tables.wordless:
            raise UserError(f"{tables.wordless[0]}.")
        raise UserError(f"{folder} holds no table of captions; name it {' or '.join(TABLES)}.")
    mode = caption_from
    if kind == "auto":
        mode = "files" if beside else "table" if tables.captions else "none"
    return source(mode, offers)


def clean_caption(caption: str) -> str:
    """The caption without characters that cannot be seen; controls and line breaks become spaces."""
    seen = caption.translate(_UNSEEN)
    return "".join(" " if unicodedata.category(item) == "Cc" else item for item in seen).strip()


def _of_files(audio: Path) -> str | None:
    captions = {}
    for ending in SUFFIXES:
        path = _beside(audio, ending)
        if path is not None:
            captions[ending] = _checked(_from_json(path) if ending == ".json" else _read(path).strip(), path)
    if len(set(captions.values())) > 1:
        names = " and ".join(f"{audio.stem}{ending}" for ending in captions)
        raise UserError(f"{names} say different things; keep one of them.")
    return next(iter(captions.values()), None)


def _beside(audio: Path, ending: str) -> Path | None:
    """The file of the same name, in whatever way the disk composes its accents."""
    path = audio.with_name(audio.stem + ending)
    if is_file(path):
        return path
    if path.name.isascii() or not audio.parent.is_dir():
        return None
    wanted = unicodedata.normalize("NFC", path.name)
    names = (item for item in audio.parent.iterdir() if item.name.endswith(ending))
    return next((item for item in names if unicodedata.normalize("NFC", item.name) == wanted), None)


def _read(path: Path) -> str:
    try:
        text = read_text(path, "caption", limit=_MOST_BYTES)
    except UserError as error:
        raise UserError(f"the caption {path.name} cannot be used ({error})") from error
    if "\0" in text:
        raise UserError(f"the caption {path.name} holds NUL bytes, so it is no text; write it again as UTF-8.")
    return text


def _from_json(path: Path) -> str:
    keys = CAPTION_COLUMNS[:2]
    try:
        values = parse_json(_read(path))
    except JsonError as error:
        raise UserError(f'the caption {path.name} is not valid JSON ({error}); write {{"caption": "..."}}.') from error
    present = [key for key in keys if isinstance(values, dict) and key in values]
    if len(present) != 1 or not isinstance(values[present[0]], str):
        raise UserError(
            f"the caption {path.name} must be an object with one text under 'caption' or 'prompt', "
            f'such as {{"caption": "slow cello"}}.'
        )
    return str(values[present[0]]).strip()


def _checked(caption: str, path: Path) -> str:
    try:
        caption.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the caption {path.name} holds half a character (a lone surrogate); write it again."
        ) from error
    return caption


def _of_tags(audio: Path, template: str) -> str | None:
    """The template filled with a file's tags; parts between commas whose tags are all missing are left out."""
    tags = _tags(audio)
    if any(_UNREADABLE in value for value in tags.values()):
        raise UserError(
            f"the tags of {audio.name} are in an encoding that cannot be told; save them as UTF-8, or write a .txt."
        )
    parts = []
    for part in template.split(","):
        names = [name for _, name, _, _ in string.Formatter().parse(part) if name]
        if not names or any(tags.get(name) for name in names):
            parts.append(part.format(**{name: tags.get(name, "") for name in names}).strip())
    return ", ".join(part for part in parts if part) or None if tags else None


def _check_template(template: str) -> None:
    try:
        fields = [(name, spec, change) for _, name, spec, change in string.Formatter().parse(template)]
    except ValueError as error:
        raise UserError(f"the template '{one_line(template)}' is not complete ({error}).") from error
    unknown = [name for name, spec, change in fields if name is not None and (name not in _TAGS or spec or change)]
    if unknown or not any(name for name, _, _ in fields):
        raise UserError(
            f"a template of tags names some of {', '.join(f'{{{name}}}' for name in _TAGS)}, as in "
            f"tags:{{artist}} - {{title}} (got '{one_line(template)}')."
        )


def _tags(audio: Path) -> dict[str, str]:
    """A file's tags that are not empty; none where the container has none that can be read."""
    from tinytag import TinyTag, TinyTagException

    try:
        read = TinyTag.get(audio, duration=False)
    except (TinyTagException, OSError, ValueError, IndexError, KeyError, OverflowError):
        return {}  # whether the file is audio at all, the audio reader says
    tags = {name: getattr(read, name, None) for name in _TAGS}
    return {name: clean_caption(str(value)) for name, value in tags.items() if value and clean_caption(str(value))}


# --- webDataset shards: tar files whose members of one stem are a sample, unpacked into audio and captions


_MOST_OF_A_MEMBER = 4 << 30  # of one member
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
    if member.size > _MOST_OF_A_MEMBER:
        return f"is larger than {_MOST_OF_A_MEMBER >> 30} GiB"
    if len(PurePosixPath(member.name).name.encode("utf-8", "surrogateescape")) > 200:
        return "has a name of more than 200 bytes"
    if ending in UNREAD_SUFFIXES:
        return f"is {ending} audio, which is not read; convert it to FLAC"
    if ending not in AUDIO_SUFFIXES and not member.name.endswith(SUFFIXES):
        return "is neither audio nor a caption"
    return None
