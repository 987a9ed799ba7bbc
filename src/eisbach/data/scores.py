"""The scores of music21's corpus: which pieces there are, what their files state about their licence, and their note
tables, cached.

Nothing about licences is legal advice: the text is quoted from the file, and the rule is mechanical. A score marked
non-commercial, not to be redistributed, or with rights reserved is not redistributable; so is one whose rights field
names a copyright holder and grants nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from eisbach.audio import audio_hash, stamp
from eisbach.data.score_parsing import (
    PARSER_VERSION,
    NoteTable,
    ScoreError,
    ScoreTimeout,
    parse_score,
    read_table,
    write_table,
)
from eisbach.errors import UserError
from eisbach.executors import open_executor
from eisbach.files import read_object, write_json
from eisbach.output_folder import user_cache
from eisbach.progress import Progress
from eisbach.types import SkipReport

_BLOCK = re.compile(
    r"non[\s-]?commercial|not\s+(?:to\s+)?be\s+(?:re)?distributed|(?:do|may)\s+not\s+(?:re)?distribut|"
    r"not\s+for\s+(?:re)?distribution|rights\b.{0,60}\breserved|personal\s+use\s+only|educational\s+use\s+only|"
    r"no\s+commercial|\bCC[\s-]?BY[\s-]?NC\b|\bBY-NC|\bBY-ND|permission\s+(?:is\s+)?required",
    re.IGNORECASE | re.DOTALL,
)
_GRANT = re.compile(
    r"public\s+domain|\bCC0\b|creative\s+commons|\bCC[\s-](?:BY|SA)|P\.\s?D\.|freely\s+distributed|"
    r"GNU\s+General\s+Public|you\s+can\s+redistribute|released\s+to",
    re.IGNORECASE,
)
_MENTION = re.compile(
    r"copyright|©|\(c\)\s*\d{4}|licen[cs]|commercial|redistribut|reserved|public domain|creative commons|permission",
    re.I,
)
_NAMED = re.compile(
    r"(?:copyright|©|\(c\))[\W\d_]*[^\W\d_]{3,}|[A-Z]{4,}.*\b(?:19|20)\d\d\b", re.IGNORECASE | re.DOTALL
)


@dataclass(frozen=True)
class LicenceNote:
    """What a file states.

    Attributes
    ----------
    stated : str
        The words in the file (and in a licence file beside it), or "" when it states nothing.
    redistributable : bool
        False when the words restrict passing on, or claim a copyright and grant nothing.
    reason : str
        Which rule decided.
    """

    stated: str
    redistributable: bool
    reason: str


@lru_cache(maxsize=4096)
def piece_licence(path: str | Path) -> LicenceNote:
    """What the score file at `path`, and a `license.txt` in its own folder, state about their licence; a file that
    cannot be read states nothing and may not be passed on."""
    path = Path(path)
    beside = path.parent / "license.txt"
    try:
        rights, notices = _statements(path)
        if beside.is_file():
            notices.append(_squeeze(beside.read_text(encoding="utf-8", errors="replace")))
    except _DAMAGED as error:
        return LicenceNote("", False, f"the file cannot be read ({type(error).__name__})")
    stated = " | ".join(dict.fromkeys(rights + notices))
    if match := _BLOCK.search(stated):
        return LicenceNote(stated, False, f"restricted: '{_squeeze(match.group(0))}'")
    if match := _GRANT.search(stated):
        return LicenceNote(stated, True, f"granted: '{_squeeze(match.group(0))}'")
    if any(_NAMED.search(text) for text in rights):
        return LicenceNote(stated, False, "a copyright holder is named and nothing is granted")
    if stated:
        return LicenceNote(stated, True, "a notice without restriction on the encoding")
    return LicenceNote("", True, "the file states no licence")


def _statements(path: Path) -> tuple[list[str], list[str]]:
    """The file's rights statements (binding for the encoding) and its other notices."""
    if path.suffix == ".mxl":
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.endswith("xml") and not n.startswith("META-INF")]
            return _xml_statements("".join(archive.read(name).decode("utf-8", "replace") for name in names))
    text = path.read_text(encoding="utf-8", errors="replace")
    if path.suffix in (".xml", ".musicxml"):
        return _xml_statements(text)
    if path.suffix == ".krn":
        records = re.findall(r"^!!!(?:YEC|YEM|YOO|ENC|EED|ONB|RWB|RNB)[^:\n]*:\s*(.*)$", text, re.MULTILINE)
        legal = re.findall(r"^!!!(?:YEC|YEM)[^:\n]*:\s*(.*)$", text, re.MULTILINE)
        return [_squeeze(item) for item in legal], [_squeeze(r) for r in records if r not in legal and _speaks(r)]
    if path.suffix == ".abc":
        head = re.findall(r"^%(?!%)\s*(.*)$", text, re.MULTILINE)
        block = _squeeze(" ".join(head)) if any(_speaks(line) for line in head) else ""
        # N: and Z: fields speak about the tune or its transcription
        fields = [_squeeze(f) for f in re.findall(r"^[NZSH]:\s*(.*)$", text, re.MULTILINE) if _speaks(f)]
        return ([block] if block else []), fields
    return [], []


def _xml_statements(text: str) -> tuple[list[str], list[str]]:
    rights = [_squeeze(_untag(item)) for item in re.findall(r"<rights[^>]*>(.*?)</rights>", text, re.DOTALL)]
    words = re.findall(
        r"<(?:credit-words|words|miscellaneous-field|encoding-description)[^>]*>(.*?)</", text, re.DOTALL
    )
    notices = [_squeeze(_untag(item)) for item in words if _speaks(item)]
    # "Copyright ©" with nothing behind it is an unfilled template of the notation program
    return [r for r in rights if r], [n for n in notices if n]


def _speaks(text: str) -> bool:
    """Whether a text is about rights at all."""
    return bool(_MENTION.search(text) or _BLOCK.search(text) or _GRANT.search(text))


def _untag(text: str) -> str:
    for entity, character in (("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&#169;", "©")):
        text = text.replace(entity, character)
    return text


def _squeeze(text: str) -> str:
    return " ".join(text.split())


_PARSE_TIMEOUT = 60.0
"""Seconds after which a piece is given up, skipped and reported."""

_FAMILIES = {
    "quartet": ("beethoven", "haydn", "mozart", "schubert"),
    "chorale": ("bach",),
    "mass": ("palestrina",),
    "madrigal": ("monteverdi", "lusitano", "josquin", "luca", "ciconia", "trecento"),
    "tune": ("airdsAirs", "ryansMammoth", "oneills1850", "nottingham-dataset", "miscFolk", "essenFolksong"),
    "rag": ("joplin", "johnson_j_r"),
    "song": (
        "schumann_robert", "schumann_clara", "chopin", "corelli", "handel", "cpebach", "beach", "verdi", "weber",
        "liliuokalani", "leadSheet", "webern", "schoenberg",
    ),
}  # fmt: skip
_FAMILY_OF = {collection: family for family, names in _FAMILIES.items() for collection in names}
_DAMAGED = (OSError, ValueError, KeyError, RuntimeError, NotImplementedError, EOFError, zipfile.BadZipFile, zlib.error)
_SUFFIXES = (".mxl", ".musicxml", ".xml", ".krn", ".abc")  # in order of preference when a piece is there twice


@dataclass(frozen=True, order=True)
class Piece:
    """One piece of the corpus.

    Attributes
    ----------
    id : str
        Path below the corpus without its ending; tunes of a book have ``#number`` behind it.
    path : str
        The score file.
    collection : str
        First folder, such as ``haydn``.
    family : str
        quartet, chorale, mass, madrigal, tune, rag or song.
    tune : int or None
        Position (from 0) inside a file that holds several tunes.
    """

    id: str
    path: str
    collection: str
    family: str
    tune: int | None = None

    @property
    def licence(self) -> LicenceNote:
        """What the file states."""
        return piece_licence(self.path)


def _corpus_folder() -> Path:
    """Where music21 keeps its corpus; `UserError` when it is not installed."""
    spec = find_spec("music21")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("music21, whose scores are rendered, is not installed; run: pip install music21.")
    folder = Path(next(iter(spec.submodule_search_locations))) / "corpus"
    if not (folder / "bach").is_dir():
        raise UserError(f"the installed music21 has no scores in {folder}; install the full package from PyPI.")
    return folder


def list_pieces(select: Sequence[str] | None = None, *, redistributable: bool = False) -> list[Piece]:
    """The pieces of the corpus, sorted by id.

    Parameters
    ----------
    select : sequence of str or None
        Ids, collections (``haydn``), families (``quartet``) or patterns (``bach/bwv2*``); None takes all.
    redistributable : bool
        Leave out those whose file restricts passing on (see `piece_licence`).

    Raises
    ------
    UserError
        A name in `select` that matches nothing.
    """
    pieces = _all_pieces(str(_corpus_folder()))
    if select is not None:
        chosen: set[Piece] = set()
        for name in select:
            hits = [p for p in pieces if name in (p.id, p.collection, p.family) or fnmatchcase(p.id, name)]
            if not hits:
                raise UserError(
                    f"no score matches '{name}'; give an id, a collection such as haydn, a family "
                    f"({', '.join(_FAMILIES)}) or a pattern such as 'bach/bwv2*'; 'eisbach data scores --list' shows "
                    "all."
                )
            chosen.update(hits)
        pieces = tuple(sorted(chosen))
    return [piece for piece in pieces if not redistributable or piece.licence.redistributable]


@lru_cache(maxsize=2)
def _all_pieces(folder: str) -> tuple[Piece, ...]:
    root = Path(folder)
    files: dict[str, Path] = {}
    for collection in sorted(_FAMILY_OF):
        for path in sorted((root / collection).rglob("*")):
            if path.suffix not in _SUFFIXES or path.stem.endswith("_old"):
                continue
            key = path.relative_to(root).with_suffix("").as_posix()
            if key not in files or _SUFFIXES.index(path.suffix) < _SUFFIXES.index(files[key].suffix):
                files[key] = path
    pieces = []
    for key, path in files.items():
        collection = key.split("/")[0]
        family = _FAMILY_OF[collection]
        tunes = len(_tune_texts(str(path))) if path.suffix == ".abc" else 1
        if tunes > 1:
            pieces += [Piece(f"{key}#{n + 1:04d}", str(path), collection, family, n) for n in range(tunes)]
        else:
            pieces.append(Piece(key, str(path), collection, family))
    return tuple(sorted(pieces))


def _tune_texts(path: str) -> tuple[str, ...]:
    """The tunes of an abc book."""
    state = stamp(path)
    return _read_tunes(path, state["size"], state["mtime_ns"])


@lru_cache(maxsize=64)
def _read_tunes(path: str, size: int, mtime_ns: int) -> tuple[str, ...]:
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"the score {path} cannot be read ({error.strerror or error}); restore it.") from error
    starts = [match.start() for match in re.finditer(r"^X:", text, re.MULTILINE)]
    return tuple(text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True))


def load_table(piece: Piece, cache: Path | None = None, *, timeout: float | None = _PARSE_TIMEOUT) -> NoteTable:
    """The note table of a piece, from the cache or parsed and cached.

    A table belongs to the score's bytes: an edited score is parsed again.

    Raises
    ------
    ScoreError
        The piece cannot be parsed (remembered in the cache) or took longer than `timeout` (not remembered).
    """
    cache = user_cache("scores") if cache is None else cache
    try:
        tune = None if piece.tune is None else _tune_of(piece)
        source = audio_hash(piece.path) if tune is None else hashlib.sha256(tune.encode()).hexdigest()
    except UserError as error:
        raise ScoreError(str(error)) from error
    name = re.sub(r"[^\w.#-]+", "~", piece.id)
    target = cache / f"v{PARSER_VERSION}" / f"{name}.npz"
    failure = target.with_suffix(".json")
    if target.is_file():
        table = read_table(target, piece.id, source)
        if table is not None:
            return table
    if failure.is_file():
        with contextlib.suppress(UserError):  # a damaged note is no reason: the score is parsed again
            note = read_object(failure, "note of a score")
            if note.get("source") == source and isinstance(note.get("reason"), str):
                raise ScoreError(str(note["reason"]))
    try:
        table = parse_score(tune or piece.path, piece.id, text=tune is not None, timeout=timeout)
    except ScoreError as error:
        if not isinstance(error, ScoreTimeout):
            write_json(failure, {"piece": piece.id, "source": source, "reason": str(error)})
        raise
    write_table(target, table, source)
    return table


def _tune_of(piece: Piece) -> str:
    texts = _tune_texts(piece.path)
    if piece.tune is None or piece.tune >= len(texts):
        raise ScoreError(f"the file holds {len(texts)} tunes and this is number {(piece.tune or 0) + 1}")
    return texts[piece.tune]


def parse_all(
    pieces: Sequence[Piece], *, cache: Path | None = None, jobs: int = 1, timeout: float = _PARSE_TIMEOUT,
    quiet: bool = False,
) -> tuple[list[Piece], SkipReport]:  # fmt: skip
    """Fills the cache for `pieces`; returns those that can be played, in order, and what was skipped and why."""
    good: set[str] = set()
    report = SkipReport()
    with Progress(len(pieces), "parse scores", quiet=quiet) as bar:
        for piece, reason in _outcomes(pieces, cache, jobs, timeout):
            bar.advance(note=piece.id)
            if reason is None:
                good.add(piece.id)
            else:
                report.add(piece.id, reason)
    report.skipped.sort(key=lambda item: item.item)
    return [piece for piece in pieces if piece.id in good], report


def _outcomes(
    pieces: Sequence[Piece], cache: Path | None, jobs: int, timeout: float
) -> Iterator[tuple[Piece, str | None]]:
    with open_executor(jobs, len(pieces)) as executor:
        for index, reason in executor.each(_try_parse, [(piece, cache, timeout) for piece in pieces]):
            yield pieces[index], reason


def _try_parse(piece: Piece, cache: Path | None, timeout: float) -> str | None:
    try:
        load_table(piece, cache, timeout=timeout)
    except ScoreError as error:
        return str(error)
    return None


def licence_rows(pieces: Sequence[Piece]) -> list[dict[str, str | bool]]:
    """One row a piece: its id, file, what the file states about its licence, and the decision."""
    root = _corpus_folder()
    return [
        {
            "piece": piece.id,
            "file": Path(piece.path).relative_to(root).as_posix(),
            "family": piece.family,
            "stated_licence": piece.licence.stated,
            "redistributable": piece.licence.redistributable,
            "reason": piece.licence.reason,
        }
        for piece in pieces
    ]
