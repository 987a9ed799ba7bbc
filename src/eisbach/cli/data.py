"""`eisbach data`: make, check and encode training data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from eisbach.cli.common import (
    Address,
    AsJson,
    CellCpus,
    CellGpus,
    Device,
    DryRun,
    ExecutorName,
    Jobs,
    print_json,
    print_note,
    say_skipped,
    where,
    worker_count,
)
from eisbach.cli.data_folder import doctor, folder, musiccaps

if TYPE_CHECKING:
    from eisbach.codecs.base import Codec
    from eisbach.data.render import RenderSpec
    from eisbach.devices import Placement


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


_FORMATS = ("cache", "sa3")
_CODEC = typer.Option(None, "--codec", help="Name, file or folder of a codec (default: the embedded model's).")
_MODEL = typer.Option(None, "--model", "-m", help="Instead of --codec: the model whose codec is taken.")
_CLIPS_WORTH_A_PROCESS = 8


def encode(
    manifest: Path = typer.Argument(..., help="A manifest, or the folder that holds it."),
    codec: str = _CODEC,
    model: str = _MODEL,
    layout: str = typer.Option(
        "cache",
        "--format",
        help="cache (Eisbach's own), or sa3 (.npy and .json, which Stable Audio's trainer reads too).",
    ),
    out: Path = typer.Option(
        None, "--out", "-o", "--cache", help="Folder of the latents (default with cache: latents/ beside the manifest)."
    ),
    crop_seconds: float = typer.Option(30.0, "--crop-seconds", help="cache: length of the training crops."),
    max_seconds: float = typer.Option(380.0, "--max-seconds", help="sa3: longer clips are cut into equal sections."),
    half: bool = typer.Option(False, "--half", help="sa3: keep float16."),
    device: Device = "auto",
    jobs: Jobs = 0,
    executor: ExecutorName = "local",
    address: Address = None,
    cell_cpus: CellCpus = None,
    cell_gpus: CellGpus = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Encode a manifest's audio into latents; the same command continues an interrupted one.

    A recipe finds the cache by itself; a folder of the format sa3 is named in data.manifest, and trains without the
    audio.
    """
    from dataclasses import asdict

    from eisbach.codecs.base import place_codec
    from eisbach.data.manifest import load_manifest
    from eisbach.errors import UserError

    if layout not in _FORMATS:
        raise UserError(f"there is no format '{layout}'; choose {' or '.join(_FORMATS)}.")
    if layout == "sa3" and out is None:
        raise UserError("the format sa3 needs a folder of its own; give --out FOLDER.")
    rows = load_manifest(manifest)
    target = out or rows.root / "latents"
    source, chosen = _load_codec(codec, model)
    placement = _place(device, chosen)
    processes = jobs or _useful_jobs(chosen, len(rows))
    if dry_run:
        lengths = {"crop_seconds": crop_seconds} if layout == "cache" else {"max_seconds": max_seconds, "half": half}
        named = {
            "clips": len(rows),
            "codec": source,
            "identity": chosen.identity(),
            "format": layout,
            "out": str(target),
        }
        print_json({**named, **lengths, "device": str(placement.device), "jobs": processes})
        return
    print_note(f"{placement.sentence()}.")
    place_codec(chosen, placement.device)
    there = None if placement.device.type == "cpu" else str(placement.device)
    how: dict[str, Any] = {"jobs": processes, "source": source, "device": there}
    with where(executor, address, cell_cpus, cell_gpus, shared=target, jobs=jobs):
        if layout == "cache":
            from eisbach.data.latents import encode_manifest

            cache = encode_manifest(rows, chosen, target, crop_seconds=crop_seconds, **how)
            clips, report = len(cache.entries), cache.report
            frames = sum(sum(entry.frames) for entry in cache.entries)
        else:
            from eisbach.data.pre_encode import Precision, pre_encode

            of_arrays: Precision = "float16" if half else "float32"
            made = pre_encode(rows, chosen, target, max_seconds=max_seconds, precision=of_arrays, **how)
            clips, frames, report = made.clips, made.frames, made.report
    if as_json:
        skipped = [asdict(item) for item in report.skipped]
        print_json({"clips": clips, "frames": frames, "cache": str(target), "format": layout, "skipped": skipped})
        return
    minutes = frames / chosen.latent_rate / 60
    typer.echo(f"{clips} clips, {frames} frames ({minutes:.1f} minutes) in {target}")
    say_skipped(report, "notes")


def latents(
    folder: Path = typer.Argument(..., help="A folder of pre-encoded latents (.npy and .json)."),
    codec: str = typer.Option(None, "--codec", help="Also check that the latents fit this codec."),
    model: str = typer.Option(None, "--model", "-m", help="Also check that the latents fit this model's codec."),
    buckets: int = typer.Option(16, "--buckets", help="How many lengths batches may have."),
    batch_size: int = typer.Option(4, "--batch-size", help="For the shares of what is cut and padded."),
    jobs: Jobs = 0,
    as_json: AsJson = False,
) -> None:
    """Check a folder of pre-encoded latents: what can be used, what cannot and why, and how lengths would be
    batched."""
    from dataclasses import asdict

    from eisbach.data.pre_encoded_report import inspect_folder

    chosen = None if codec is None and model is None else _load_codec(codec, model)[1]
    report = inspect_folder(folder, chosen, buckets=buckets, batch_size=batch_size, jobs=worker_count(jobs))
    if as_json:
        print_json(asdict(report))
        return
    typer.echo(
        f"{report.clips} clips of {report.channels} channels, {report.shortest} to {report.longest} frames each, "
        f"{report.frames} in all"
    )
    typer.echo(f"  {len(report.lengths['cut'])} lengths, fit cut: {report.cut_share:.1%} of the frames cut")
    typer.echo(f"  {len(report.lengths['pad'])} lengths, fit pad: {report.padding_share:.1%} of the frames padding")
    typer.echo(f"  all padded to the longest: {report.padded_share:.1%} of the frames padding")
    say_skipped(report.report, "clips cannot be used (--json lists all)")


def _load_codec(codec: str | None, model: str | None) -> tuple[str, Codec]:
    """What `load_codec` makes a codec from (in other processes too), and the codec."""
    from eisbach.codecs import DEFAULT_CODEC, load_codec
    from eisbach.errors import UserError

    if model is None:
        source = codec or DEFAULT_CODEC
    elif codec is not None:
        raise UserError("--codec and --model both name a codec; give one of the two.")
    else:
        from eisbach.backbones import LAYOUTS, load_backbone
        from eisbach.pretrained import fetch, is_hub_id

        folder = fetch(model) if not Path(model).is_dir() and is_hub_id(model) else Path(model)
        brings_codec = any((folder / marker).is_file() for marker in LAYOUTS)
        source = str(folder) if brings_codec else load_backbone(model).codec
    return source, load_codec(source)


def _useful_jobs(codec: Codec, clips: int) -> int:
    """Processes: one for a network, which takes every core and much memory by itself; else as many as pay for their
    start."""
    return 1 if codec.model is not None else max(1, min(worker_count(0), clips // _CLIPS_WORTH_A_PROCESS))


def _place(device: str, codec: Codec) -> Placement:
    """Where the codec computes, in fp32: latents are what every later stage is compared by.

    Raises
    ------
    UserError
        A device that is not there, or one that a codec without a network cannot use.
    """
    from eisbach.devices import place
    from eisbach.errors import UserError

    if codec.model is None and device not in ("auto", "cpu"):
        raise UserError(f"the codec '{codec.name}' has no network and computes on the CPU only; leave --device out.")
    return place("cpu" if codec.model is None else device, "fp32")


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
