"""A person's own folder of audio with captions beside it, as a manifest."""

from __future__ import annotations

from pathlib import Path

from eisbach.audio import AUDIO_SUFFIXES, audio_hash
from eisbach.data.audio_check import AudioFacts, inspect_audio
from eisbach.data.manifest import Manifest, ManifestRow, assign_split, save_manifest
from eisbach.data.threads import in_threads
from eisbach.errors import AudioError, UserError
from eisbach.files import JsonError, files_of_kind, parse_json, read_text
from eisbach.types import SkipReport

_JSON_KEYS = ("caption", "prompt")


def find_audio(folder: str | Path) -> list[Path]:
    """The audio files below a folder (hidden ones left out), sorted.

    Raises
    ------
    UserError
        The folder does not exist or holds no audio.
    """
    wanted = f"a folder that holds {', '.join(AUDIO_SUFFIXES)} files"
    return files_of_kind(folder, AUDIO_SUFFIXES, "audio", wanted)


_CAPTION_LIMIT = 2**20  # bytes; a caption has some hundred


def read_caption(audio: Path, caption_from: str = "files") -> str | None:
    """The caption of an audio file, kept as it is written; None when there is none.

    Parameters
    ----------
    audio : Path
    caption_from : str
        ``files`` (the `.txt` or `.json` of the same name beside the audio), ``name`` (the file's name, with
        underscores and dashes as spaces), ``none`` (an empty caption, on purpose) or ``text:...`` (these words for all).

    Raises
    ------
    UserError
        A caption file that cannot be understood, a mode that does not exist, or both files with different words.
    """
    if caption_from == "none":
        return ""
    if caption_from == "name":
        return " ".join(audio.stem.replace("_", " ").replace("-", " ").split())
    if caption_from.startswith("text:"):
        return caption_from.removeprefix("text:").strip()
    if caption_from != "files":
        raise UserError(f"captions cannot come from '{caption_from}'; choose files, name, none or text:your words.")
    found = [
        caption
        for caption in (_from_text(audio.with_suffix(".txt")), _from_json(audio.with_suffix(".json")))
        if caption is not None
    ]
    if len(found) == 2 and found[0] != found[1]:
        raise UserError(f"{audio.stem}.txt and {audio.stem}.json say different things; keep one of them.")
    return found[0] if found else None


def _from_text(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        return read_text(path, "caption", limit=_CAPTION_LIMIT).strip()
    except UserError as error:
        raise UserError(f"the caption {path.name} is not UTF-8 text ({error}); save it as UTF-8.") from error


def _from_json(path: Path) -> str | None:
    if not path.is_file():
        return None
    try:
        values = parse_json(read_text(path, "caption", limit=_CAPTION_LIMIT))
    except (JsonError, UserError) as error:
        raise UserError(f'the caption {path.name} is not valid JSON ({error}); write {{"caption": "..."}}.') from error
    present = [key for key in _JSON_KEYS if isinstance(values, dict) and key in values]
    if len(present) != 1 or not isinstance(values[present[0]], str):
        raise UserError(
            f"the caption {path.name} must be an object with one text under 'caption' or 'prompt', "
            f'such as {{"caption": "slow cello"}}.'
        )
    return str(values[present[0]]).strip()


def read_folder(
    folder: str | Path, *, caption_from: str = "files", labels: dict[str, str] | None = None, jobs: int = 4,
    save: bool = True, quiet: bool = False,
) -> tuple[Manifest, SkipReport]:  # fmt: skip
    """The manifest of a folder, written into it as ``manifest.jsonl``, and what was left out and why.

    Audio that is unreadable, empty, silent or holds NaN is left out and reported; so is audio whose caption is
    missing, empty or malformed. Nothing is made up in their place.

    Parameters
    ----------
    folder : str or Path
        Searched with all folders below it.
    caption_from : str
        See `read_caption`.
    labels : dict or None
        Given to every row.
    jobs : int
        Threads that read and hash.

    Raises
    ------
    UserError
        No folder, no audio, or nothing usable in it.
    """
    folder = Path(folder)
    paths = find_audio(folder)
    read_caption(Path("probe"), caption_from)  # refuses a mode that does not exist before any file is read
    report = SkipReport()
    rows: list[ManifestRow] = []

    def one(path: Path) -> tuple[str, AudioFacts, str] | str:
        try:
            caption = read_caption(path, caption_from)
            facts = inspect_audio(path)
            if facts.problem:
                return facts.problem
            if caption is None:
                return "has no caption; add a .txt or .json of the same name, or choose --caption-from"
            if not caption and caption_from != "none":
                return "has an empty caption; write one, or choose --caption-from"
            return caption, facts, audio_hash(path)
        except (AudioError, UserError) as error:
            return str(error)

    with in_threads(paths, one, jobs=jobs, title="read", quiet=quiet) as results:
        for path, made in results:
            name = path.relative_to(folder).as_posix()
            if isinstance(made, str):
                report.add(name, made)
                continue
            caption, facts, digest = made
            rows.append(
                ManifestRow(name, name, caption, facts.duration, dict(labels or {}), digest, assign_split(digest))
            )
    if not rows:
        first = report.skipped[0]
        raise UserError(
            f"none of the {len(paths)} files in {folder} can be used (the first, {first.item}: {first.reason})."
        )
    manifest = Manifest(rows, folder)
    if save:
        save_manifest(manifest)
    return manifest, report
