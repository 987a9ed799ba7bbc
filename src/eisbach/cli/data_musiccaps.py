"""`eisbach data musiccaps`: clips and a manifest from MusicCaps' CSV and the audio that a person has."""

from __future__ import annotations

from pathlib import Path

import typer

from eisbach.cli.data_common import AS_JSON, DRY_RUN, JOBS, print_json, worker_count


def musiccaps(
    table: Path = typer.Argument(..., metavar="CSV", help="musiccaps-public.csv."),
    audio: Path = typer.Argument(
        ..., help="Folder of the audio you fetched: ID.ext, ID_30_40.ext, title [ID].ext, ..."
    ),
    out: Path = typer.Option(..., "--out", "-o", help="Folder for the clips and manifest.jsonl."),
    caption: str = typer.Option(
        "{caption}", "--caption", help="Template of the captions, of {caption} and {aspects}: '{caption} {aspects}'."
    ),
    held_out: str = typer.Option(
        "hash",
        "--held-out",
        help="hash (a tenth of the videos), eval (AudioSet's), balanced (the balanced subset) or none.",
    ),
    strict: bool = typer.Option(False, "--strict", help="Refuse a CSV with malformed or repeated rows."),
    jobs: int = JOBS,
    dry_run: bool = DRY_RUN,
    as_json: bool = AS_JSON,
) -> None:
    """Make clips and a manifest from MusicCaps' CSV and the audio you have; nothing is downloaded.

    Says what is missing (missing.csv), unreadable, too short or ambiguous (report.json). The same command again adds
    what was fetched since.
    """
    from eisbach.data.musiccaps import build_musiccaps, preview

    if dry_run:
        seen = preview(table, audio, out, template=caption, held_out=held_out, strict=strict)
        options = {"template": caption, "held_out": held_out, "strict": strict, "jobs": worker_count(jobs)}
        print_json({"csv": str(table), "audio": str(audio), "out": str(out), **options, **seen})
        return
    manifest, report = build_musiccaps(
        table, audio, out, template=caption, held_out=held_out, strict=strict, jobs=worker_count(jobs)
    )
    if as_json:
        print_json({**report.as_json(), "manifest": str(out / "manifest.jsonl")})
        return
    typer.echo(f"{len(manifest)} clips, {report.seconds / 60:.1f} minutes: {out / 'manifest.jsonl'}")
    for name, count in report.summary().items():
        typer.echo(f"{count:6d}  {name.replace('_', ' ')}")
    for item in [item for item in report.findings if item.kind != "missing"][:10]:
        typer.echo(f"  {item.kind.replace('_', ' ')}: {item.reason}")
    typer.echo(f"What is missing: {out / 'missing.csv'}; everything that was left out: {out / 'report.json'}")
