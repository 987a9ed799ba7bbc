"""The scores of music21's corpus: which pieces there are, and their note tables, cached."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from eisbach.data.licences import LicenceNote, piece_licence
from eisbach.data.manifest_files import user_cache
from eisbach.data.score_parsing import PARSER_VERSION, NoteTable, ScoreError, ScoreTimeout, parse_score
from eisbach.errors import UserError
from eisbach.files import atomic_write, read_object, write_json
from eisbach.processes import Processes
from eisbach.progress import Progress
from eisbach.tensor_files import read_arrays
from eisbach.types import SkipReport

PARSE_TIMEOUT = 60.0
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


def corpus_folder() -> Path:
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
        Leave out those whose file restricts passing on (see `licences`).

    Raises
    ------
    UserError
        A name in `select` that matches nothing.
    """
    pieces = _all_pieces(str(corpus_folder()))
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
    found: dict[str, Path] = {}
    for collection in sorted(_FAMILY_OF):
        for path in sorted((root / collection).rglob("*")):
            if path.suffix not in _SUFFIXES or path.stem.endswith("_old"):
                continue
            key = path.relative_to(root).with_suffix("").as_posix()
            if key not in found or _SUFFIXES.index(path.suffix) < _SUFFIXES.index(found[key].suffix):
                found[key] = path
    pieces = []
    for key, path in found.items():
        collection = key.split("/")[0]
        family = _FAMILY_OF[collection]
        tunes = len(_tune_texts(str(path))) if path.suffix == ".abc" else 1
        if tunes > 1:
            pieces += [Piece(f"{key}#{n + 1:04d}", str(path), collection, family, n) for n in range(tunes)]
        else:
            pieces.append(Piece(key, str(path), collection, family))
    return tuple(sorted(pieces))


@lru_cache(maxsize=64)
def _tune_texts(path: str) -> tuple[str, ...]:
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    starts = [match.start() for match in re.finditer(r"^X:", text, re.MULTILINE)]
    return tuple(text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True))


def load_table(piece: Piece, cache: Path | None = None, *, timeout: float | None = PARSE_TIMEOUT) -> NoteTable:
    """The note table of a piece, from the cache or parsed and cached.

    Raises
    ------
    ScoreError
        The piece cannot be parsed (remembered in the cache) or took longer than `timeout` (not remembered).
    """
    cache = user_cache("scores") if cache is None else cache
    name = re.sub(r"[^\w.#-]+", "~", piece.id)
    target = cache / f"v{PARSER_VERSION}" / f"{name}.npz"
    failure = target.with_suffix(".json")
    if target.is_file():
        table = _read_table(target, piece.id)
        if table is not None:
            return table
    if failure.is_file():
        with contextlib.suppress(UserError):  # a damaged note is no reason: the score is parsed again
            reason = read_object(failure, "note of a score").get("reason")
            if isinstance(reason, str):
                raise ScoreError(reason)
    try:
        if piece.tune is None:
            table = parse_score(piece.path, piece.id, timeout=timeout)
        else:
            table = parse_score(_tune_texts(piece.path)[piece.tune], piece.id, text=True, timeout=timeout)
    except ScoreError as error:
        if not isinstance(error, ScoreTimeout):
            write_json(failure, {"piece": piece.id, "reason": str(error)})
        raise
    _write_table(target, table)
    return table


_ARRAYS = ("part", "onset", "duration", "pitch", "velocity", "tempo")


def _write_table(path: Path, table: NoteTable) -> None:
    def write(partial: Path) -> None:
        with partial.open("wb") as handle:
            arrays = {name: getattr(table, name) for name in _ARRAYS}
            np.savez_compressed(handle, repeats=np.array(table.repeats), title=np.array(table.title), **arrays)

    atomic_write(path, write)


def _read_table(path: Path, piece: str) -> NoteTable | None:
    """A cached table; None when the file is damaged, so that it is parsed again."""
    try:
        data = read_arrays(path, "cached score")
    except UserError:
        return None
    arrays = {name: data.get(name) for name in _ARRAYS}
    notes = len(data["onset"]) if "onset" in data and data["onset"].ndim == 1 else -1
    for name, array in arrays.items():
        numeric = array is not None and array.dtype.kind in "iuf" and bool(np.isfinite(array).all())
        if not numeric or (name != "tempo" and array.shape != (notes,)):  # type: ignore[union-attr]
            return None
    texts = [data.get(name) for name in ("repeats", "title")]
    if any(text is None or text.dtype.kind != "U" or text.shape for text in texts):
        return None
    return NoteTable(piece=piece, repeats=str(texts[0]), title=str(texts[1]), **arrays)  # type: ignore[arg-type]


def parse_all(
    pieces: Sequence[Piece], *, cache: Path | None = None, jobs: int = 1, timeout: float = PARSE_TIMEOUT,
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
    if jobs <= 1:
        for piece in pieces:
            yield piece, _try_parse(piece, cache, timeout)
        return
    with Processes(min(jobs, max(1, len(pieces)))) as processes:
        for index, reason in processes.each(_try_parse, [(piece, cache, timeout) for piece in pieces]):
            yield pieces[index], reason


def _try_parse(piece: Piece, cache: Path | None, timeout: float) -> str | None:
    try:
        load_table(piece, cache, timeout=timeout)
    except ScoreError as error:
        return str(error)
    return None


def licence_rows(pieces: Sequence[Piece]) -> list[dict[str, str | bool]]:
    """One row a piece: its id, file, what the file states about its licence, and the decision."""
    root = corpus_folder()
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
