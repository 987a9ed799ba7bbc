"""`eisbach data`: make, check and encode training data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from eisbach.cli.common import AsJson, DryRun, Jobs, print_json, say_skipped, worker_count
from eisbach.cli.data_encode import encode, latents
from eisbach.cli.data_folder import doctor, folder, musiccaps
from eisbach.cli.executing import Address, CellCpus, CellGpus, ExecutorName, where

if TYPE_CHECKING:
    from eisbach.data.render import RenderSpec

app = typer.Typer(help="Make, check and encode training data.", no_args_is_help=True)

_OUT = typer.Option(..., "--out", "-o", help="Folder for the clips and manifest.jsonl.")
_CLIPS = typer.Option(60, "--clips", "-n", help="How many clips the folder shall hold.")
_SECONDS = typer.Option("32", "--seconds", "-s", help="Length of a clip, or a range such as 30-60.")
_SEED = typer.Option(0, "--seed", help="Equal seeds give equal audio.")
_RATE = typer.Option(22050, "--sample-rate", help="Hz, 8000 to 48000.")
_STEREO = typer.Option(False, "--stereo/--mono", help="Two channels, or one.")
_FORMAT = typer.Option("flac", "--format", help="flac, wav or ogg.")
_PIECES = typer.Option(None, "--pieces", help="Score ids, collections, families or patterns; repeat for more.")
_FREE = typer.Option(False, "--redistributable-only", help="Leave out scores whose file restricts passing on.")
_CACHE = typer.Option(None, "--cache", help="Folder of parsed scores (default: the user's cache).")


def _spec(
    seconds: str, seed: int, sample_rate: int, stereo: bool, audio_format: str, pieces: Sequence[str] | None,
    redistributable_only: bool, styles: Sequence[str] | None = None, fonts: Sequence[str] | None = None,
    room: bool = False,
) -> RenderSpec:  # fmt: skip
    from eisbach.data.render import RenderSpec
    from eisbach.errors import UserError

    try:
        lengths = tuple(float(part) for part in seconds.split("-"))
    except ValueError as error:
        raise UserError(f"--seconds '{seconds}' must be a number or a range such as 30-60.") from error
    return RenderSpec(
        seed=seed,
        seconds=lengths,
        sample_rate=sample_rate,
        channels=2 if stereo else 1,
        format=audio_format,
        pieces=tuple(pieces) if pieces else None,
        redistributable=redistributable_only,
        styles=tuple(styles) if styles else None,
        fonts=tuple("" if font == "pretty_midi" else font for font in fonts or ["pretty_midi"]),
        room=room,
    )


@app.command()
def render(
    out: Path = _OUT, clips: int = _CLIPS, seconds: str = _SECONDS, seed: int = _SEED, sample_rate: int = _RATE,
    stereo: bool = _STEREO, audio_format: str = _FORMAT, pieces: list[str] = _PIECES,
    styles: list[str] = typer.Option(None, "--styles", help="Only these ensembles (such as 'celesta'); repeat for "
                                                            "more."),
    fonts: list[str] = typer.Option(None, "--font", help="A sound font file (.sf2, .sf3); one of those given is drawn "
                                                         "for each clip (default: pretty_midi, its packaged one)."),
    room: bool = typer.Option(False, "--room/--dry", help="Each clip in a drawn room, or without one."),
    redistributable_only: bool = _FREE, jobs: Jobs = 0, executor: ExecutorName = "local", address: Address = None,
    cell_cpus: CellCpus = None, cell_gpus: CellGpus = None, cache: Path = _CACHE, dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Render developing music: sections of real scores, performed by many ensembles, with captions.

    The same command again makes only what is missing; a larger --clips adds to the folder.
    """
    from dataclasses import asdict

    from eisbach.data.render import render as run

    spec = _spec(seconds, seed, sample_rate, stereo, audio_format, pieces, redistributable_only, styles, fonts, room)
    if dry_run:
        print_json({"out": str(out), "clips": clips, "jobs": worker_count(jobs), **asdict(spec)})
        return
    with where(executor, address, cell_cpus, cell_gpus, shared=out, jobs=jobs):
        manifest, report = run(out, clips=clips, spec=spec, jobs=worker_count(jobs), cache=cache)
    typer.echo(f"{len(manifest)} clips: {out / 'manifest.jsonl'}")
    say_skipped(report, "(see skipped.json)")


@app.command()
def flat(
    out: Path = _OUT, clips: int = _CLIPS, seconds: str = _SECONDS, seed: int = _SEED, sample_rate: int = _RATE,
    stereo: bool = _STEREO, audio_format: str = _FORMAT, pieces: list[str] = _PIECES,
    kinds: list[str] = typer.Option(None, "--kinds", help="drone, pad, loop, texture (noise or a cloud of notes), "
                                                          "noise or cloud; repeat for more (default: the first four)."),
    redistributable_only: bool = _FREE, jobs: Jobs = 0, cache: Path = _CACHE, dry_run: DryRun = False,
) -> None:  # fmt: skip
    """Make structurally flat material of the same sound world: drones, pads, loops of 1-16 s and textures.

    Captions never reveal the label; it stands in the manifest's labels.
    """
    from dataclasses import asdict

    from eisbach.data.flat_material import KINDS, render_flat

    spec = _spec(seconds, seed, sample_rate, stereo, audio_format, pieces, redistributable_only)
    chosen = tuple(kinds) if kinds else KINDS
    if dry_run:
        print_json({"out": str(out), "clips": clips, "jobs": worker_count(jobs), **asdict(spec), "kind": list(chosen)})
        return
    manifest, report = render_flat(out, clips=clips, spec=spec, kinds=chosen, jobs=worker_count(jobs), cache=cache)
    typer.echo(f"{len(manifest)} clips: {out / 'manifest.jsonl'}")
    say_skipped(report, "(see skipped.json)")


app.command()(folder)
app.command()(doctor)
app.command()(encode)
app.command()(latents)
app.command()(musiccaps)


@app.command()
def scores(
    pieces: list[str] = typer.Argument(None, help="Ids, collections, families or patterns (default: all)."),
    list_all: bool = typer.Option(False, "--list", help="Print every piece with what its file states, and stop."),
    redistributable_only: bool = _FREE,
    out: Path = typer.Option(None, "--out", "-o", help="Write the list of pieces and licences to this JSON file."),
    jobs: Jobs = 0,
    cache: Path = _CACHE,
    as_json: AsJson = False,
) -> None:
    """List the scores and the licence that each file states, or parse them into the cache ahead of rendering."""
    from dataclasses import asdict

    from eisbach.data.scores import licence_rows, list_pieces, parse_all
    from eisbach.files import write_json

    chosen = list_pieces(pieces or None, redistributable=redistributable_only)
    if list_all or out is not None:
        rows = licence_rows(chosen)
        if out is not None:
            write_json(out, rows)
            typer.echo(f"{len(rows)} pieces: {out}")
        elif as_json:
            print_json(rows)
        else:
            for row in rows:
                mark = "yes" if row["redistributable"] else "no "
                typer.echo(f"{mark}  {row['piece']}  {row['reason']}")
        return
    good, report = parse_all(chosen, cache=cache, jobs=worker_count(jobs))
    if as_json:
        print_json({"parsed": len(good), "skipped": [asdict(item) for item in report.skipped]})
        return
    typer.echo(f"{len(good)} of {len(chosen)} scores can be played.")
    say_skipped(report, "scores were skipped")
