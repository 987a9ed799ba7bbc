"""Captions beside audio: which file holds them, and what is wrong with it."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

from eisbach.audio_file import is_file
from eisbach.errors import UserError, one_line
from eisbach.files import JsonError, parse_json, read_text

CAPTION_SUFFIXES = (".txt", ".json")
_JSON_KEYS = ("caption", "prompt")
_MOST_BYTES = 1 << 16  # a caption is a sentence; longer files are something else
_UNSEEN = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2060, 0x2070), 0x200B, 0x200E, 0x200F, 0xFEFF])
"""Characters without a width, which no caption needs: they split words that look whole. Joiners of scripts and emoji
stay."""


def resolve_captions(paths: Sequence[Path], caption_from: str) -> str:
    """Where captions come from when that is ``auto``: the files beside the audio, or nowhere when there is not one.

    Raises
    ------
    UserError
        A mode that does not exist.
    """
    if caption_from == "auto":
        return "files" if any(_beside(path, ending) for path in paths for ending in CAPTION_SUFFIXES) else "none"
    if caption_from not in ("files", "name", "none") and not caption_from.startswith("text:"):
        raise UserError(
            f"captions cannot come from '{one_line(caption_from)}'; choose auto, files, name, none or text:your words."
        )
    return caption_from


def read_caption(audio: Path, caption_from: str = "files") -> str | None:
    """The caption of an audio file, kept as it is written; None when there is none.

    Parameters
    ----------
    audio : Path
    caption_from : str
        ``files`` (the `.txt` or `.json` of the same name beside the audio), ``name`` (the file's name, with
        underscores and dashes as spaces), ``none`` (an empty caption, on purpose) or ``text:...`` (these words for
        all).

    Raises
    ------
    UserError
        A caption file that cannot be understood, a mode that does not exist, or both files with different words.
    """
    resolve_captions([], caption_from)
    if caption_from == "none":
        return ""
    if caption_from == "name":
        return " ".join(audio.stem.replace("_", " ").replace("-", " ").split())
    if caption_from.startswith("text:"):
        return caption_from.removeprefix("text:").strip()
    text, values = (_beside(audio, ending) for ending in CAPTION_SUFFIXES)
    captions = []
    if text is not None:
        captions.append(_checked(_read(text).strip(), text))
    if values is not None:
        captions.append(_checked(_from_json(values), values))
    if len(captions) == 2 and captions[0] != captions[1]:
        raise UserError(f"{audio.stem}.txt and {audio.stem}.json say different things; keep one of them.")
    return captions[0] if captions else None


def clean_caption(caption: str) -> str:
    """The caption without characters that cannot be seen; controls and line breaks become spaces."""
    seen = caption.translate(_UNSEEN)
    return "".join(" " if unicodedata.category(item) == "Cc" else item for item in seen).strip()


def _beside(audio: Path, ending: str) -> Path | None:
    """The file of the same name, in whatever way the disk composes its accents."""
    path = audio.with_suffix(ending)
    if is_file(path):
        return path
    if path.name.isascii() or not audio.parent.is_dir():
        return None
    wanted = unicodedata.normalize("NFC", path.name)
    names = (item for item in audio.parent.iterdir() if item.suffix == ending)
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
    try:
        values = parse_json(_read(path))
    except JsonError as error:
        raise UserError(f'the caption {path.name} is not valid JSON ({error}); write {{"caption": "..."}}.') from error
    present = [key for key in _JSON_KEYS if isinstance(values, dict) and key in values]
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
