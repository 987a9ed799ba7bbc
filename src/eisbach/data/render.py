"""Developing material: sections of real scores performed by the sound font's orchestra, captioned, as a manifest."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from eisbach.audio import audio_hash, write_audio
from eisbach.config import check_values
from eisbach.data.captions import build_caption
from eisbach.data.manifest import Manifest, ManifestRow, row_values, save_manifest
from eisbach.data.performance import Performance, in_room, perform, take_excerpt
from eisbach.data.score_parsing import PARSER_VERSION, NoteTable, ScoreError
from eisbach.data.scores import Piece, list_pieces, load_table
from eisbach.data.splits import assign_split
from eisbach.data.synth import synthesise
from eisbach.errors import UserError
from eisbach.executors import open_executor
from eisbach.files import read_journal, write_json, write_jsonl
from eisbach.output_folder import claim
from eisbach.progress import Progress
from eisbach.types import SkipReport, Waveform

_RENDER_VERSION = 4
"""Raise it whenever the same seed gives other sound; rendered folders of another version are not continued."""

_FAMILY_WEIGHTS = {
    "quartet": 0.42, "chorale": 0.14, "mass": 0.1, "madrigal": 0.12, "tune": 0.1, "rag": 0.02, "song": 0.1
}  # fmt: skip
"""Share of the clips that each family of scores gives (renormalised over those present)."""

DEVELOPING = "developing"
_BETWEEN = " | "  # between the ids of pieces that follow one another in a clip; ids may hold spaces
_ATTEMPTS = 20  # pieces tried for one clip before it is given up
_FADE = 0.02  # seconds
_SPEC, _JOURNAL, _SKIPPED = "render.json", ".journal.jsonl", "skipped.json"


@dataclass(frozen=True)
class RenderSpec:
    """Everything that decides how clip number i sounds; equal specs give equal bytes.

    Attributes
    ----------
    seed : int
    seconds : tuple of float
        Length of a clip; two values give a range to draw from.
    sample_rate : int
        Hz.
    channels : int
        1 or 2.
    format : {"flac", "wav", "ogg"}
    pieces : tuple of str or None
        Selection of scores, see `scores.list_pieces`.
    redistributable : bool
        Only scores whose file does not restrict passing on.
    styles : tuple of str or None
        Only these ensembles.
    kind : str
        What is made: "developing", or a kind of `flat_material`.
    fonts : tuple of str
        Sound font files, one drawn for each clip; "" stands for pretty_midi's. Developing clips only.
    room : bool
        Whether each clip sounds in a room of its own (`room.in_room`). Developing clips only.
    mode : {"major", "minor"} or None
        Only performances whose pitches fit this mode, as captions say it.
    """

    seed: int = 0
    seconds: tuple[float, ...] = (32.0,)
    sample_rate: int = 22050
    channels: int = 1
    format: str = "flac"
    pieces: tuple[str, ...] | None = None
    redistributable: bool = False
    styles: tuple[str, ...] | None = None
    kind: str = DEVELOPING
    parser_version: int = PARSER_VERSION
    render_version: int = _RENDER_VERSION
    fonts: tuple[str, ...] = ("",)
    room: bool = False
    mode: Literal["major", "minor"] | None = None

    def __post_init__(self) -> None:
        faults = []
        if not 1 <= len(self.seconds) <= 2 or not all(1 <= length <= 600 for length in self.seconds):
            faults.append(f"seconds must be one length or a range within 1 to 600 (got {self.seconds})")
        elif self.seconds[0] > self.seconds[-1]:
            faults.append(f"a range of seconds goes from the shorter to the longer length (got {self.seconds})")
        if not 8000 <= self.sample_rate <= 48000:
            faults.append(f"sample_rate must be within 8000 to 48000 Hz (got {self.sample_rate})")
        if self.channels not in (1, 2):
            faults.append(f"channels must be 1 or 2 (got {self.channels})")
        if self.format not in ("flac", "wav", "ogg"):
            faults.append(f"format must be flac, wav or ogg (got '{self.format}')")
        faults += [f"there is no sound font {font}" for font in self.fonts if font and not Path(font).is_file()]
        if self.mode not in (None, "major", "minor"):
            faults.append(f"mode must be major or minor (got '{self.mode}')")
        if (self.room or self.fonts != ("",)) and self.kind != DEVELOPING:
            faults.append("flat material is made with the packaged sound font and without a room")
        if faults:
            raise UserError("cannot render: " + "; ".join(faults) + ".")


def spec_values(spec: RenderSpec) -> dict[str, Any]:
    """The spec as plain values; a mode that is not asked for is left out, as in folders of before it."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(spec)))
    return {key: value for key, value in values.items() if key != "mode" or value is not None}


@dataclass(frozen=True)
class Clip:
    """A rendered clip before it is written."""

    waveform: Waveform
    caption: str
    labels: dict[str, str] = field(default_factory=dict)


def _clip_generator(spec: RenderSpec, index: int, attempt: int) -> np.random.Generator:
    """The generator of one clip: a pure function of the spec's seed and kind, the clip's number and the attempt."""
    stream = () if spec.kind == DEVELOPING else tuple(spec.kind.encode())
    return np.random.default_rng([spec.seed, index, attempt, *stream])


def plan_clip(
    spec: RenderSpec, index: int, cache: Path | None, report: SkipReport, *, seconds: float | None = None
) -> tuple[Performance, np.random.Generator]:
    """The performance of clip `index`, and the generator as it stands after planning.

    Pieces that cannot be parsed or are too sparse are noted in `report` and another piece is drawn.

    Raises
    ------
    UserError
        No piece of the selection can be played.
    """
    pool = _pool(spec.pieces, spec.redistributable)
    for attempt in range(_ATTEMPTS):
        rng = _clip_generator(spec, index, attempt)
        length = float(rng.uniform(spec.seconds[0], spec.seconds[-1])) if seconds is None else seconds
        piece = pool.draw(rng)
        excerpt = take_excerpt(_tables(pool, piece, rng, cache, report), length, rng)
        if excerpt.onset.size < max(4, length / 4):
            report.add(piece.id, f"gives only {excerpt.onset.size} notes for {length:g} s")
            continue
        performance = perform(excerpt, length, piece.family, rng, styles=spec.styles)
        if spec.mode is not None and performance.facts.minor != (spec.mode == "minor"):
            report.add(piece.id, f"is not heard in {spec.mode}")
            continue
        return performance, rng
    reasons = "; ".join(f"{item.item}: {item.reason}" for item in report.skipped[-3:])
    raise UserError(f"none of {_ATTEMPTS} pieces drawn could be played ({reasons}); choose other pieces.")


class _Pool:
    """The pieces to draw from, by family and by split."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        if not pieces:
            raise UserError("no score is left to render; choose other pieces or drop --redistributable-only.")
        self.families: dict[str, list[Piece]] = {}
        for piece in pieces:
            self.families.setdefault(piece.family, []).append(piece)
        self.names = sorted(self.families)
        weights = np.array([_FAMILY_WEIGHTS[name] for name in self.names])
        self.weights = weights / weights.sum()

    def draw(self, rng: np.random.Generator) -> Piece:
        family = self.families[self.names[int(rng.choice(len(self.names), p=self.weights))]]
        return family[int(rng.integers(len(family)))]

    def companions(self, piece: Piece) -> list[Piece]:
        """Pieces that may follow `piece`: of its collection and on its side of the split."""
        side = assign_split("0" * 64, {"piece": piece.id})
        return [
            other
            for other in self.families[piece.family]
            if other.collection == piece.collection and assign_split("0" * 64, {"piece": other.id}) == side
        ]


@lru_cache(maxsize=4)
def _pool(pieces: tuple[str, ...] | None, redistributable: bool) -> _Pool:
    return _Pool(list_pieces(pieces, redistributable=redistributable))


@lru_cache(maxsize=256)
def _cached_table(piece: Piece, cache: Path | None) -> NoteTable:
    return load_table(piece, cache)


def _tables(
    pool: _Pool, piece: Piece, rng: np.random.Generator, cache: Path | None, report: SkipReport
) -> Iterator[NoteTable]:
    companions: list[Piece] = []
    for count in range(12):
        try:
            yield _cached_table(piece, cache)
        except ScoreError as error:
            report.add(piece.id, str(error))
            if count == 0:
                return
        companions = companions or pool.companions(piece)
        piece = companions[int(rng.integers(len(companions)))]


def plan_caption(
    spec: RenderSpec, index: int, cache: Path | None, report: SkipReport
) -> tuple[Performance, str, np.random.Generator]:
    """The performance of clip `index` and its caption: one way for developing and for flat material."""
    performance, rng = plan_clip(spec, index, cache, report)
    return performance, build_caption(performance.facts, rng), rng


def developing_clip(spec: RenderSpec, index: int, cache: Path | None, report: SkipReport) -> Clip:
    """One clip of developing music."""
    performance, caption, rng = plan_caption(spec, index, cache, report)
    # Drawn apart from the performance, so that font and room change the sound and nothing that is played.
    place = np.random.default_rng([spec.seed, index, len(performance.tracks), *b"place"])
    font = spec.fonts[int(place.integers(len(spec.fonts)))] or None
    waveform = synthesise(
        performance.tracks, performance.seconds, spec.sample_rate, stereo=spec.channels == 2, font=font
    )
    if spec.room:
        waveform = in_room(waveform, place)
    labels = {"kind": DEVELOPING, "flat": "false", **piece_labels(performance)}
    return Clip(finish(waveform, rng), caption, labels)


def piece_labels(performance: Performance) -> dict[str, str]:
    """The labels that name the scores of a clip."""
    labels = {"piece": performance.pieces[0]}
    if len(performance.pieces) > 1:
        labels["followed_by"] = _BETWEEN.join(performance.pieces[1:])
    return labels


def finish(waveform: Waveform, rng: np.random.Generator) -> Waveform:
    """The clip at a loudness drawn from -26 to -14 dBFS RMS (peaks kept below full scale), with short fades."""
    samples = waveform.samples
    level = 10 ** (float(rng.uniform(-26.0, -14.0)) / 20)
    loudness = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
    peak = float(np.abs(samples).max())
    samples = samples * np.float32(min(level / max(loudness, 1e-9), 0.97 / max(peak, 1e-9)))
    fade = min(samples.shape[-1] // 2, round(_FADE * waveform.sample_rate))
    ramp = (0.5 - 0.5 * np.cos(np.linspace(0, np.pi, fade))).astype(np.float32)
    samples[:, :fade] *= ramp
    samples[:, samples.shape[-1] - fade :] *= ramp[::-1]
    return Waveform(samples, waveform.sample_rate)


_ClipMaker = Callable[[RenderSpec, int, Path | None, SkipReport], Clip]


def render(
    out: str | Path, *, clips: int, spec: RenderSpec | None = None, jobs: int = 1, cache: str | Path | None = None,
    quiet: bool = False, make: _ClipMaker = developing_clip,
) -> tuple[Manifest, SkipReport]:  # fmt: skip
    """Renders `clips` clips into a folder and writes its manifest.

    The same call again makes only what is missing; a larger `clips` adds to what is there. The audio does not
    depend on `jobs`.

    Parameters
    ----------
    out : str or Path
        Receives ``clips/``, ``manifest.jsonl``, ``render.json`` (the spec) and ``skipped.json``.
    clips : int
        How many clips the folder shall hold.
    jobs : int
        Processes. More than one uses the spawn method: call it under ``if __name__ == "__main__"`` in scripts.
    cache : str or Path or None
        Folder of parsed scores; `scores` of `user_cache` when None.

    Raises
    ------
    UserError
        The folder holds clips of another spec, or nothing in the selection can be played.
    """
    out, spec = Path(out), spec or RenderSpec()
    if clips < 1:
        raise UserError(f"clips must be at least 1 (got {clips}).")
    if spec.styles:
        from eisbach.data.synth import ensembles_for

        ensembles_for("quartet", spec.styles)  # refuses unknown names before anything is written
    if not (out / _SPEC).is_file():
        _pool(spec.pieces, spec.redistributable)  # refuses names of no piece before anything is written
    _claim(out, spec)
    folder = None if cache is None else Path(cache)
    journal = out / _JOURNAL
    done = _read_journal(out, clips)
    todo = [index for index in range(clips) if index not in done]
    report = SkipReport()
    try:
        with journal.open("a", encoding="utf-8") as log, Progress(clips, "render", done=len(done), quiet=quiet) as bar:
            for index, entry in _made(out, spec, todo, folder, jobs, make):
                done[index] = entry
                log.write(json.dumps({"index": index, **entry}, ensure_ascii=False) + "\n")
                log.flush()
                bar.advance()
    finally:
        rows = [ManifestRow(**done[index]["row"]) for index in sorted(done)]
        manifest = Manifest(rows, out)
        if rows:
            save_manifest(manifest)
        for index in sorted(done):
            for item, reason in done[index]["skipped"]:
                report.add(item, reason)
        report.skipped = list(dict.fromkeys(report.skipped))
        write_json(out / _SKIPPED, [asdict(item) for item in report.skipped])
    write_jsonl(journal, ({"index": index, **done[index]} for index in sorted(done)))
    return manifest, report


def pieces_in(manifest: Manifest) -> list[str]:
    """The ids of all scores that sound in rendered clips, those that follow the first one included."""
    pieces: set[str] = set()
    for row in manifest:
        if "piece" in row.labels:
            pieces.add(row.labels["piece"])
            pieces.update(row.labels.get("followed_by", "").split(_BETWEEN))
    return sorted(pieces - {""})


def _claim(out: Path, spec: RenderSpec) -> None:
    if (out / "manifest.jsonl").exists() and not (out / _SPEC).is_file():
        raise UserError(f"{out} holds a manifest that was not rendered here; choose an empty folder.")
    claim(out, _SPEC, "clips", spec_values(spec))


@dataclass(frozen=True)
class _Entry:
    """A line of the journal: one clip that is finished."""

    index: Annotated[int, Field(ge=0)]
    row: ManifestRow
    bytes: int
    skipped: list[tuple[str, str]]


def _read_journal(out: Path, clips: int) -> dict[int, dict[str, Any]]:
    """Entries of clips that are really there, at their full size; a torn last line is ignored."""
    done: dict[int, dict[str, Any]] = {}
    for values in read_journal(out / _JOURNAL, "journal of the rendering"):
        try:
            entry = check_values(_Entry, values, "an entry")
        except UserError:
            continue
        path = out / entry.row.path
        with contextlib.suppress(OSError):  # not there, or no name that a file can have
            if entry.index >= clips or path.stat().st_size != entry.bytes:
                continue
            done[entry.index] = {key: value for key, value in values.items() if key != "index"}
    return done


def _made(
    out: Path, spec: RenderSpec, todo: Sequence[int], cache: Path | None, jobs: int, make: _ClipMaker
) -> Iterator[tuple[int, dict[str, Any]]]:
    calls = [(out, spec, index, cache, make) for index in todo]
    with open_executor(jobs, len(todo)) as executor:
        for number, entry in executor.each(_make_clip, calls):
            yield todo[number], entry


def _make_clip(out: Path, spec: RenderSpec, index: int, cache: Path | None, make: _ClipMaker) -> dict[str, Any]:
    report = SkipReport()
    clip = make(spec, index, cache, report)
    name = f"{index:06d}"
    path = out / "clips" / f"{name}.{spec.format}"
    write_audio(path, clip.waveform)
    digest = audio_hash(path)
    row = ManifestRow(
        id=f"{spec.kind.split('-')[0]}-{name}",
        path=f"clips/{path.name}",
        caption=clip.caption,
        duration=round(clip.waveform.duration, 4),
        labels=clip.labels,
        audio_hash=digest,
        split=assign_split(digest, clip.labels),
    )
    return {
        "row": row_values(row),
        "bytes": path.stat().st_size,
        "skipped": [[item.item, item.reason] for item in report.skipped],
    }
