"""`eisbach data`: make, check and encode training data."""

from __future__ import annotations

import json
import os
from pathlib import Path

import typer

app = typer.Typer(help="Make, check and encode training data.", no_args_is_help=True)


def _lengths(text: str) -> tuple[float, ...]:
    from eisbach.errors import UserError

    try:
        return tuple(float(part) for part in text.split("-"))
    except ValueError as error:
        raise UserError(f"--seconds '{text}' must be a number or a range such as 30-60.") from error


@app.command()
def render(
    out: Path = typer.Option(..., "--out", "-o", help="Folder for the clips and manifest.jsonl."),
    clips: int = typer.Option(60, "--clips", "-n", help="How many clips the folder shall hold."),
    seconds: str = typer.Option("32", "--seconds", "-s", help="Length of a clip, or a range such as 30-60."),
    seed: int = typer.Option(0, "--seed", help="Equal seeds give equal audio."),
    sample_rate: int = typer.Option(44100, "--sample-rate", help="Hz."),
    stereo: bool = typer.Option(False, "--stereo/--mono", help="Two channels, or one."),
    audio_format: str = typer.Option("flac", "--format", help="flac, wav or ogg."),
    pieces: list[str] = typer.Option(
        None, "--pieces", help="Score ids, collections, families or patterns; repeat the option for more."
    ),
    styles: list[str] = typer.Option(None, "--styles", help="Only these ensembles; repeat the option for more."),
    redistributable_only: bool = typer.Option(
        False, "--redistributable-only", help="Leave out scores whose file restricts passing on."
    ),
    jobs: int = typer.Option(0, "--jobs", "-j", help="Processes; 0 takes one for each processor."),
    cache: Path = typer.Option(None, "--cache", help="Folder of parsed scores (default: the user's cache)."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Print the resolved options and stop."),
) -> None:
    """Render developing music from real scores, with captions."""
    from dataclasses import asdict

    from eisbach.data.render import RenderSpec
    from eisbach.data.render import render as run

    spec = RenderSpec(
        seed=seed,
        seconds=_lengths(seconds),
        sample_rate=sample_rate,
        channels=2 if stereo else 1,
        format=audio_format,
        pieces=tuple(pieces) if pieces else None,
        redistributable=redistributable_only,
        styles=tuple(styles) if styles else None,
    )
    if dry_run:
        typer.echo(json.dumps({"out": str(out), "clips": clips, **asdict(spec)}, indent=2))
        return
    manifest, report = run(out, clips=clips, spec=spec, jobs=jobs or os.cpu_count() or 1, cache=cache)
    typer.echo(f"{len(manifest)} clips in {out}; {len(report.skipped)} scores skipped (see {out / 'skipped.json'}).")
