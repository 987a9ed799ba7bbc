"""`eisbach analyze`: the structure of any audio, as a table, records and pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eisbach.errors import UserError

if TYPE_CHECKING:
    from eisbach.structure.batch import Clip
    from eisbach.types import Record, SkipReport


def analyze(
    paths: Annotated[
        list[Path], typer.Argument(help="Audio files, folders (searched through) or manifests.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for records.jsonl, records.parquet and pictures; a rerun continues it.")
    ] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Also draw every clip (needs --out): spectrogram, similarity, path.")
    ] = False,
    jobs: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print records, means and skipped files as JSON.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be analysed and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Measure the musical structure of audio: sections, textures, motifs, dynamics, loops, and whether it is flat."""
    if pictures and out is None:
        raise UserError("--pictures needs a folder to put them in; add --out FOLDER.")
    clips = collect(paths)
    if dry_run:
        plan = {
            "clips": [str(clip.path) for clip in clips],
            "out": out and str(out),
            "pictures": pictures,
            "jobs": jobs,
        }
        typer.echo(json.dumps(plan, indent=2, ensure_ascii=False))
        return
    from eisbach.structure.batch import analyze_files
    from eisbach.structure.summary import format_summary, summarise
    from eisbach.types import SkipReport

    skips = SkipReport()
    records = analyze_files(clips, jobs=jobs, out=out, skips=skips, quiet=quiet)
    if not records:
        reasons = "; ".join(item.reason for item in skips.skipped[:3])
        raise UserError(f"none of the {len(clips)} files could be analysed: {reasons}")
    if pictures and out is not None:
        _draw(records, out / "pictures", skips, quiet)
    means = summarise(records)
    if as_json:
        skipped = [{"item": item.item, "reason": item.reason} for item in skips.skipped]
        typer.echo(json.dumps({"groups": means, "records": records, "skipped": skipped}, ensure_ascii=False, indent=2))
        return
    typer.echo(format_summary(means))
    for item in skips.skipped:
        typer.echo(f"skipped: {item.reason}", err=True)
    if out is not None:
        typer.echo(
            f"records of {len(records)} clips in {out}" + (f", pictures in {out / 'pictures'}" if pictures else "")
        )


def collect(paths: Sequence[Path]) -> list[Clip]:
    """The clips that paths name, each file once, with `id`, `group` (its folder or manifest) and its manifest's labels.

    A folder that holds a ``manifest.jsonl`` is read through it; any other folder is searched for audio, subfolders included.

    Raises
    ------
    UserError
        A path that does not exist, a folder without audio, or a manifest that cannot be read.
    """
    from eisbach.data.manifest import MANIFEST_NAME
    from eisbach.structure.batch import Clip, find_audio

    clips: dict[str, Clip] = {}
    for path in paths:
        if path.suffix == ".jsonl":
            found = _from_manifest(path)
        elif path.is_dir() and (path / MANIFEST_NAME).is_file():
            found = _from_manifest(path / MANIFEST_NAME)
        elif path.is_dir():
            found = [Clip(file, {"id": file.stem, "group": str(file.parent)}) for file in find_audio(path)]
        elif path.exists():
            found = [Clip(path, {"id": path.stem, "group": str(path.parent)})]
        else:
            raise UserError(f"{path} does not exist; give an audio file, a folder or a manifest.jsonl.")
        for clip in found:
            clips.setdefault(str(clip.path), clip)
    return list(clips.values())


def _from_manifest(path: Path) -> list[Clip]:
    from eisbach.data.manifest import load_manifest
    from eisbach.structure.batch import Clip

    manifest = load_manifest(path, check_files=False)  # a missing file is skipped and reported like a broken one
    return [
        Clip(
            manifest.audio_path(row),
            {"id": row.id, "group": row.labels.get("arm") or str(path.parent), "split": row.split, **row.labels},
        )
        for row in manifest
    ]


def _draw(records: Sequence[Record], folder: Path, skips: SkipReport, quiet: bool) -> None:
    """One picture a clip, named by its id and content, so that a rerun draws only what is new."""
    from eisbach.progress import Progress
    from eisbach.report.figures import clip_picture

    with Progress(len(records), "draw", quiet=quiet) as bar:
        for record in records:
            name = "".join(c if c.isalnum() or c in "-_." else "_" for c in str(record["id"]))[:80]
            file = folder / f"{name}-{str(record['audio_hash'])[:8]}.png"
            if not file.is_file():
                try:
                    clip_picture(str(record["path"]), out=file, title=str(record["id"]))
                except UserError as error:
                    skips.add(str(record["path"]), str(error))
            bar.advance()
