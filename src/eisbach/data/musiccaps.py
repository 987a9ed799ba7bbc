"""MusicCaps: its CSV and whatever audio a person could fetch, as a manifest of clips with captions and aspects.

Nothing is downloaded. Files are found by the video's id in their name (`musiccaps_files`); a whole video is cut to the
row's start and end, a clip that is already cut is taken as it is. Which of the two a file is, its name and its length
tell (`musiccaps_cuts.place_clip`); a file for which they do not is reported and not used.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eisbach.data.manifest import MANIFEST_NAME, Manifest, ManifestRow, Split, assign_split, save_manifest
from eisbach.data.musiccaps_csv import MusicCapsRow, MusicCapsTable, read_rows, write_missing
from eisbach.data.musiccaps_cuts import CLIPS, JOURNAL_NAME, Cut, Journal, NotUsed, cut_clip
from eisbach.data.musiccaps_files import Matches, find_fetched, match_files
from eisbach.errors import AudioError, UserError
from eisbach.files import write_json
from eisbach.progress import in_threads

HELD_OUT = ("hash", "eval", "balanced", "none")
KINDS = ("missing", "unreadable", "too_short", "ambiguous", "silent", "malformed", "duplicate")
"""Why a row or a file is not used."""

REPORT_NAME, MISSING_NAME = "report.json", "missing.csv"


@dataclass(frozen=True)
class Finding:
    """A row or a file that is not used.

    Attributes
    ----------
    kind : one of `KINDS`
    row : int or None
        Its number in the CSV, from 1.
    item : str
        Id of the clip, or name of the file.
    reason : str
    """

    kind: str
    row: int | None
    item: str
    reason: str


@dataclass(frozen=True)
class MusicCapsReport:
    """What became of the CSV and the files.

    Attributes
    ----------
    rows, found : int
        Rows of the CSV, and clips in the manifest.
    seconds : float
        Length of all clips.
    fresh : int
        Clips that this call cut.
    findings : tuple of Finding
        All that is not used.
    unmatched : tuple of str
        Files that name no video of the CSV.
    """

    rows: int
    found: int
    seconds: float
    fresh: int
    findings: tuple[Finding, ...]
    unmatched: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """Number of findings of each kind, in the order of `KINDS`; 0 included."""
        return {kind: sum(item.kind == kind for item in self.findings) for kind in KINDS}

    def as_json(self) -> dict[str, Any]:
        """Everything, for report.json."""
        values = asdict(self)
        return {"rows": self.rows, "found": self.found, "counts": self.counts(), **values}


def check_template(template: str) -> None:
    """Nothing, when a caption can be made of `template`; `UserError` otherwise."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(
            f"the caption template '{template}' cannot be read ({error}); write {{{{ for a brace."
        ) from error
    fields = [(name, spec, how) for _, name, spec, how in parts if name is not None]
    if not fields or any(name not in ("caption", "aspects") or spec or how for name, spec, how in fields):
        raise UserError(
            f"the caption template '{template}' must hold {{caption}} or {{aspects}}, or both, and no other field."
        )


def build_musiccaps(
    table: str | Path,
    audio: str | Path,
    out: str | Path,
    *,
    template: str = "{caption}",
    held_out: str = "hash",
    strict: bool = False,
    jobs: int = 4,
    quiet: bool = False,
) -> tuple[Manifest, MusicCapsReport]:
    """Writes the clips, `manifest.jsonl`, `missing.csv` and `report.json`; the same call again cuts only what is new.

    Parameters
    ----------
    table : str or Path
        musiccaps-public.csv.
    audio : str or Path
        Folder of the files that could be fetched; folders below it too.
    out : str or Path
        Clips go to `clips/` in it, as FLAC at the file's own rate and channels.
    template : str
        A caption, with `{caption}` and `{aspects}` (joined by commas) filled in.
    held_out : "hash", "eval", "balanced" or "none"
        Which clips are held out: about a tenth, by hash of the video; AudioSet's evaluation part; the balanced subset;
        none.
    strict : bool
        Refuse a CSV with malformed or repeated rows.
    jobs : int
        Threads.

    Raises
    ------
    UserError
        The CSV or the folder cannot be used, the option does not exist, `out` holds another manifest, or no clip was
        found.
    """
    out = Path(out)
    read, matches = _read(Path(table), Path(audio), out, template, held_out, strict)
    findings = [Finding(fault.kind, fault.number, f"row {fault.number}", fault.reason) for fault in read.faults]
    findings += [
        Finding("ambiguous", None, path.name, f"{path.name} names {len(ids)} videos of the CSV ({', '.join(ids)})")
        for path, ids in matches.ambiguous
    ]
    videos: dict[str, int] = {}
    for row in read.rows:
        videos[row.ytid] = videos.get(row.ytid, 0) + 1
    journal = Journal(out)
    rows: list[ManifestRow] = []
    fresh = 0

    def one(row: MusicCapsRow) -> tuple[Cut | None, list[Finding]]:
        return _find_clip(row, matches, videos[row.ytid], out, journal)

    with in_threads(read.rows, one, jobs=jobs, title="cut", quiet=quiet) as results:
        for row, (cut, found) in results:
            findings += found
            if cut is None:
                continue
            if not cut.kept:
                fresh += 1
                journal.add(cut)
            made = _manifest_row(row, cut, template, held_out)
            if made.caption:
                rows.append(made)
            else:
                findings.append(
                    Finding("malformed", row.number, row.id, f"row {row.number} has no aspects to caption it")
                )
    missing = [item.row for item in findings if item.kind == "missing" and item.row is not None]
    names = tuple(path.name for path in matches.unmatched)
    total = len(read.rows) + len(read.faults)
    report = MusicCapsReport(total, len(rows), sum(row.duration for row in rows), fresh, tuple(findings), names)
    if not rows:
        first = next((item for item in findings if item.kind not in ("missing", "malformed", "duplicate")), None)
        why = f"the first: {first.reason}" if first else "no file's name holds a ytid of the CSV"
        raise UserError(f"none of the {len(read.rows)} rows of {table} has usable audio in {audio} ({why}).")
    write_missing(out / MISSING_NAME, read, missing)
    write_json(out / REPORT_NAME, report.as_json())
    manifest = Manifest(rows, out)
    save_manifest(manifest)
    return manifest, report


def preview(
    table: str | Path, audio: str | Path, out: str | Path, *, template: str = "{caption}", held_out: str = "hash",
    strict: bool = False,
) -> dict[str, int]:  # fmt: skip
    """What the names tell before any audio is read: rows, rows with a file, rows without, faults, files without a
    row."""
    read, matches = _read(Path(table), Path(audio), Path(out), template, held_out, strict)
    return {
        "rows": len(read.rows) + len(read.faults),
        "with_a_file": len(matches.files),
        "without_a_file": len(read.rows) - len(matches.files),
        "malformed_or_repeated": len(read.faults),
        "unmatched_files": len(matches.unmatched),
    }


def _read(
    table: Path, audio: Path, out: Path, template: str, held_out: str, strict: bool
) -> tuple[MusicCapsTable, Matches]:
    """The CSV and the files, after checking every option."""
    check_template(template)
    if held_out not in HELD_OUT:
        raise UserError(f"clips cannot be held out by '{held_out}'; choose {', '.join(HELD_OUT)}.")
    read = read_rows(table, strict=strict)
    _check_flags(read, held_out, table)
    if (out / MANIFEST_NAME).exists() and not (out / JOURNAL_NAME).exists():
        raise UserError(f"{out} holds a manifest that MusicCaps did not make; choose another --out.")
    if audio.resolve().is_relative_to((out / CLIPS).resolve()):
        raise UserError(f"{audio} is where the clips of {out} are written; choose another --out.")
    return read, match_files(read.rows, find_fetched(audio, leave_out=out / CLIPS))


def _check_flags(table: MusicCapsTable, held_out: str, source: Path) -> None:
    column = {"eval": "is_audioset_eval", "balanced": "is_balanced_subset"}.get(held_out)
    if column is None:
        return
    for row in table.rows:
        if (row.evaluation if held_out == "eval" else row.balanced) is None:
            raise UserError(
                f"row {row.number} of {source} has no {column}; hold out by hash, or use the published CSV."
            )


def _find_clip(
    row: MusicCapsRow, matches: Matches, rows_of_video: int, out: Path, journal: Journal
) -> tuple[Cut | None, list[Finding]]:
    """The clip of the first of its files that can be used; the others are duplicates, or have their own reason."""
    files = matches.files.get(row.number, [])
    if not files:
        earlier = journal.clip(row.id)
        if earlier is not None:  # the file it was cut from may be gone; the clip is here
            return earlier, []
        other = matches.mistimed.get(row.number, [])
        reason = "no file's name holds its ytid"
        if other:
            times = f"{other[0].start:g}" + ("" if other[0].end is None else f" to {other[0].end:g}")
            reason = f"{other[0].path.name} says {times} s and the row is {row.start:g} to {row.end:g} s"
        return None, [Finding("missing", row.number, row.id, reason)]
    cut: Cut | None = None
    findings = []
    for audio in files:
        if cut is not None:
            reason = f"{audio.path.name} is not needed: {cut.source} is used"
            findings.append(Finding("duplicate", row.number, audio.path.name, reason))
            continue
        try:
            cut = cut_clip(row, audio, rows_of_video, out, journal)
        except NotUsed as error:
            findings.append(Finding(error.kind, row.number, row.id, error.reason))
        except AudioError as error:
            findings.append(Finding("unreadable", row.number, row.id, str(error)))
    return cut, findings


def _manifest_row(row: MusicCapsRow, cut: Cut, template: str, held_out: str) -> ManifestRow:
    caption = template.format(caption=row.caption, aspects=", ".join(row.aspects)).strip()
    labels = {"piece": row.ytid, "aspects": "; ".join(row.aspects), "audioset": ",".join(row.audioset)}
    labels |= {"author": row.author} if row.author else {}
    split: Split
    if held_out == "hash":
        split = assign_split(cut.audio_hash, labels)
    elif held_out == "none":
        split = "train"
    else:
        split = "held_out" if (row.evaluation if held_out == "eval" else row.balanced) else "train"
    return ManifestRow(row.id, cut.path, caption, cut.duration, labels, cut.audio_hash, split)


def summary(report: MusicCapsReport) -> Mapping[str, int]:
    """The numbers to show: rows, found, each kind of finding, files without a row."""
    return {"rows": report.rows, "found": report.found, **report.counts(), "unmatched files": len(report.unmatched)}
