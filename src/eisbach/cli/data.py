"""`eisbach data`: make, check and encode training data."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from eisbach.codecs.base import Codec
    from eisbach.data.doctor import DoctorReport
    from eisbach.data.render import RenderSpec
    from eisbach.types import SkipReport

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
_JOBS = typer.Option(0, "--jobs", "-j", min=0, help="Processes; 0 takes one for each processor.")
_CACHE = typer.Option(None, "--cache", help="Folder of parsed scores (default: the user's cache).")
_DRY = typer.Option(False, "--dry-run", help="Print the resolved options and stop.")
_JSON = typer.Option(False, "--json", help="Print JSON instead of text.")


def _spec(
    seconds: str, seed: int, sample_rate: int, stereo: bool, audio_format: str, pieces: Sequence[str] | None,
    redistributable_only: bool, styles: Sequence[str] | None = None,
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
    )


def _jobs(jobs: int) -> int:
    return jobs or os.cpu_count() or 1


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _say_skipped(report: SkipReport, what: str) -> None:
    for item in report.skipped[:10]:
        typer.echo(f"  skipped {item.item}: {item.reason}")
    if len(report.skipped) > 10:
        typer.echo(f"  and {len(report.skipped) - 10} more {what}.")


@app.command()
def render(
    out: Path = _OUT, clips: int = _CLIPS, seconds: str = _SECONDS, seed: int = _SEED, sample_rate: int = _RATE,
    stereo: bool = _STEREO, audio_format: str = _FORMAT, pieces: list[str] = _PIECES,
    styles: list[str] = typer.Option(None, "--styles", help="Only these ensembles (such as 'celesta'); repeat for more."),
    redistributable_only: bool = _FREE, jobs: int = _JOBS, cache: Path = _CACHE, dry_run: bool = _DRY,
) -> None:  # fmt: skip
    """Render developing music: sections of real scores, performed by many ensembles, with captions.

    The same command again makes only what is missing; a larger --clips adds to the folder.
    """
    from dataclasses import asdict

    from eisbach.data.render import render as run

    spec = _spec(seconds, seed, sample_rate, stereo, audio_format, pieces, redistributable_only, styles)
    if dry_run:
        _print_json({"out": str(out), "clips": clips, "jobs": _jobs(jobs), **asdict(spec)})
        return
    manifest, report = run(out, clips=clips, spec=spec, jobs=_jobs(jobs), cache=cache)
    typer.echo(f"{len(manifest)} clips: {out / 'manifest.jsonl'}")
    _say_skipped(report, "(see skipped.json)")


@app.command()
def flat(
    out: Path = _OUT, clips: int = _CLIPS, seconds: str = _SECONDS, seed: int = _SEED, sample_rate: int = _RATE,
    stereo: bool = _STEREO, audio_format: str = _FORMAT, pieces: list[str] = _PIECES,
    kinds: list[str] = typer.Option(None, "--kinds", help="drone, pad, loop or texture; repeat for more (default: all)."),
    redistributable_only: bool = _FREE, jobs: int = _JOBS, cache: Path = _CACHE, dry_run: bool = _DRY,
) -> None:  # fmt: skip
    """Make structurally flat material of the same sound world: drones, pads, loops of 1-16 s and textures.

    Captions never reveal the label; it stands in the manifest's labels.
    """
    from dataclasses import asdict

    from eisbach.data.flat_material import KINDS, render_flat

    spec = _spec(seconds, seed, sample_rate, stereo, audio_format, pieces, redistributable_only)
    chosen = tuple(kinds) if kinds else KINDS
    if dry_run:
        _print_json({"out": str(out), "clips": clips, "jobs": _jobs(jobs), **asdict(spec), "kind": list(chosen)})
        return
    manifest, report = render_flat(out, clips=clips, spec=spec, kinds=chosen, jobs=_jobs(jobs), cache=cache)
    typer.echo(f"{len(manifest)} clips: {out / 'manifest.jsonl'}")
    _say_skipped(report, "(see skipped.json)")


@app.command()
def folder(
    path: Path = typer.Argument(..., help="Folder of wav, flac, mp3 or ogg files; folders below it are searched."),
    caption_from: str = typer.Option(
        "files", "--caption-from", help="files (.txt or .json beside the audio), name, none, or text:your words."
    ),
    label: list[str] = typer.Option(None, "--label", help="A label for every clip, such as kind=developing."),
    jobs: int = _JOBS,
    as_json: bool = _JSON,
) -> None:
    """Make the manifest of your own folder of audio; it is written into the folder."""
    from dataclasses import asdict

    from eisbach.data.audio_folder import read_folder
    from eisbach.errors import UserError

    labels = {}
    for item in label or []:
        key, separator, value = item.partition("=")
        if not (separator and key and value):
            raise UserError(f"--label '{item}' must look like key=value, for example kind=developing.")
        labels[key] = value
    manifest, report = read_folder(path, caption_from=caption_from, labels=labels, jobs=_jobs(jobs))
    if as_json:
        _print_json({"clips": len(manifest), "skipped": [asdict(item) for item in report.skipped]})
        return
    total = sum(row.duration for row in manifest)
    typer.echo(f"{len(manifest)} clips, {total / 60:.1f} minutes: {path / 'manifest.jsonl'}")
    _say_skipped(report, "files were left out (--json lists all)")


@app.command()
def doctor(
    path: Path = typer.Argument(..., help="A manifest, or a folder of audio."),
    crop_seconds: float = typer.Option(30.0, "--crop-seconds", help="Length of the training crops."),
    caption_from: str = typer.Option("files", "--caption-from", help="As in 'eisbach data folder'."),
    same_audio: bool = typer.Option(False, "--same-audio", help="Also compare the sound itself, not only the bytes."),
    strict: bool = typer.Option(False, "--strict", help="Exit with code 2 when anything is found."),
    show: int = typer.Option(20, "--show", help="How many samples the table of what trains shows; 0 shows all."),
    jobs: int = _JOBS,
    as_json: bool = _JSON,
) -> None:
    """Report what is wrong with the data, and the text and audio that each sample will really train on."""
    from eisbach.data.doctor import examine

    report = examine(
        path, crop_seconds=crop_seconds, caption_from=caption_from, same_audio=same_audio, jobs=_jobs(jobs)
    )
    if as_json:
        _print_json(report.as_json())
    else:
        _print_doctor(report, show)
    if strict and not report.healthy:
        raise typer.Exit(2)


def _print_doctor(report: DoctorReport, show: int) -> None:
    from eisbach.data.doctor import PROBLEMS

    for name, count in report.formats.items():
        typer.echo(f"{count:6d}  {name}")
    for kind, count in report.counts().items():
        typer.echo(f"\n{count} x {kind.replace('_', ' ')} ({PROBLEMS[kind]}):")
        of_kind = [problem for problem in report.problems if problem.kind == kind]
        for problem in of_kind[:10]:
            typer.echo(f"  {problem.sample}: {problem.detail}")
        if count > 10:
            typer.echo(f"  and {count - 10} more (--json lists all)")
    typer.echo(f"\nWhat trains, in crops of {report.crop_seconds:g} s:")
    for item in report.trained[: show or None]:
        spans = ", ".join(f"{start:g}-{start + length:g} s" for start, length in item.sections)
        padding = f" + {item.padding:g} s padding" if item.padding else ""
        typer.echo(f"  {item.sample} [{spans}{padding}]: {item.caption or '(no words)'}")
    if show and len(report.trained) > show:
        typer.echo(f"  and {len(report.trained) - show} more (--show 0 shows all)")
    found = f"{len(report.problems)} problems found" if report.problems else "no problems found"
    typer.echo(f"\n{report.samples} samples, {len(report.trained)} of them will train; {found}.")


@app.command()
def encode(
    manifest: Path = typer.Argument(..., help="A manifest, or the folder that holds it."),
    codec: str = typer.Option(None, "--codec", help="Name, file or folder of a codec (default: bands)."),
    model: str = typer.Option(None, "--model", "-m", help="Instead of --codec: the model whose codec is taken."),
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
    device: str = typer.Option("auto", "--device", help="auto, cpu, cuda: where a codec with a network computes."),
    jobs: int = _JOBS,
    dry_run: bool = _DRY,
    as_json: bool = _JSON,
) -> None:
    """Encode a manifest's audio; the same command continues an interrupted one. A recipe's data.manifest may name an sa3 folder."""
    from dataclasses import asdict

    from eisbach.data.codec_workers import place_codec
    from eisbach.data.manifest import load_manifest
    from eisbach.errors import UserError

    if layout not in ("cache", "sa3"):
        raise UserError(f"there is no format '{layout}'; choose cache or sa3.")
    if layout == "sa3" and out is None:
        raise UserError("the format sa3 needs a folder of its own; give --out FOLDER.")
    rows = load_manifest(manifest)
    target = out or rows.root / "latents"
    source, chosen = _codec(codec, model)
    where = _device(device, chosen)
    jobs = (
        1 if where != "cpu" else min(_jobs(jobs), len(rows))
    )  # one network on one accelerator is fed best by one process
    if dry_run:
        shown = {
            "clips": len(rows),
            "codec": source,
            "identity": chosen.identity(),
            "format": layout,
            "out": str(target),
        }
        lengths = {"crop_seconds": crop_seconds} if layout == "cache" else {"max_seconds": max_seconds, "half": half}
        _print_json({**shown, **lengths, "device": where, "jobs": jobs})
        return
    place_codec(chosen, where)
    if layout == "cache":
        from eisbach.data.latents import encode_manifest

        cache = encode_manifest(rows, chosen, target, crop_seconds=crop_seconds, jobs=jobs, source=source)
        clips, report = len(cache.entries), cache.report
        frames = sum(sum(entry.frames) for entry in cache.entries)
    else:
        from eisbach.data.pre_encode import pre_encode

        made = pre_encode(
            rows, chosen, target, max_seconds=max_seconds, precision="float16" if half else "float32", jobs=jobs,
            source=source,
        )  # fmt: skip
        clips, frames, report = made.clips, made.frames, made.report
    if as_json:
        skipped = [asdict(item) for item in report.skipped]
        _print_json({"clips": clips, "frames": frames, "cache": str(target), "format": layout, "skipped": skipped})
        return
    minutes = frames / chosen.latent_rate / 60
    typer.echo(f"{clips} clips, {frames} frames ({minutes:.1f} minutes) in {target}")
    _say_skipped(report, "notes")


def _codec(codec: str | None, model: str | None) -> tuple[str, Codec]:
    """A codec, and what `load_codec` makes it from (in other processes too)."""
    from eisbach.codecs import load_codec
    from eisbach.errors import UserError

    if model is None:
        source = codec or "bands"
    elif codec is not None:
        raise UserError("--codec and --model both name a codec; give one of the two.")
    else:
        from eisbach.backbones import LAYOUTS, load_backbone
        from eisbach.backbones.hub import fetch, is_hub_id

        folder = fetch(model) if not Path(model).is_dir() and is_hub_id(model) else Path(model)
        brings_codec = any((folder / marker).is_file() for marker in LAYOUTS)
        source = str(folder) if brings_codec else load_backbone(model).codec
    return source, load_codec(source)


def _device(device: str, codec: Codec) -> str:
    if device != "auto":
        return device
    import torch

    has_network = isinstance(getattr(codec, "model", None), torch.nn.Module)
    return "cuda" if has_network and torch.cuda.is_available() else "cpu"


@app.command()
def latents(
    folder: Path = typer.Argument(..., help="A folder of pre-encoded latents (.npy and .json)."),
    codec: str = typer.Option(None, "--codec", help="Also check that the latents fit this codec."),
    model: str = typer.Option(None, "--model", "-m", help="Also check that the latents fit this model's codec."),
    buckets: int = typer.Option(8, "--buckets", help="How many lengths batches may have."),
    batch_size: int = typer.Option(4, "--batch-size", help="For the shares of padding."),
    jobs: int = _JOBS,
    as_json: bool = _JSON,
) -> None:
    """Check a folder of pre-encoded latents: what can be used, what cannot and why, and how lengths would be batched."""
    from dataclasses import asdict

    from eisbach.data.pre_encoded import inspect_folder

    chosen = None if codec is None and model is None else _codec(codec, model)[1]
    found = inspect_folder(folder, chosen, buckets=buckets, batch_size=batch_size, jobs=_jobs(jobs))
    if as_json:
        _print_json(asdict(found))
        return
    typer.echo(
        f"{found.clips} clips of {found.channels} channels, {found.frames} frames: {found.shortest} to {found.longest} each"
    )
    for fit, share in (("cut", found.cut_share), ("pad", found.padding_share)):
        typer.echo(
            f"  in {len(found.lengths[fit])} lengths, fit {fit}: {share:.1%} {'cut' if fit == 'cut' else 'padding'}"
        )
    typer.echo(f"  padded to the longest: {found.padded_share:.1%} padding")
    _say_skipped(found.report, "clips cannot be used (--json lists all)")


@app.command()
def musiccaps(
    table: Path = typer.Argument(..., metavar="CSV", help="musiccaps-public.csv."),
    audio: Path = typer.Argument(
        ..., help="Folder of the audio you fetched: ID.ext, ID_30_40.ext, title [ID].ext, ..."
    ),
    out: Path = _OUT,
    caption: str = typer.Option(
        "{caption}", "--caption", help="Template of the captions, of {caption} and {aspects}: '{caption} {aspects}'."
    ),
    held_out: str = typer.Option(
        "hash",
        "--held-out",
        help="hash (a tenth of the videos), eval (AudioSet's), balanced (the balanced subset) or none.",
    ),
    strict: bool = typer.Option(False, "--strict", help="Refuse a CSV with malformed or repeated rows."),
    jobs: int = _JOBS,
    dry_run: bool = _DRY,
    as_json: bool = _JSON,
) -> None:
    """Make clips and a manifest from MusicCaps' CSV and the audio you have; nothing is downloaded.

    Says what is missing (missing.csv), unreadable, too short or ambiguous (report.json). The same command again adds
    what was fetched since.
    """
    from eisbach.data.musiccaps import build_musiccaps, preview, summary

    options = {"template": caption, "held_out": held_out, "strict": strict}
    if dry_run:
        seen = preview(table, audio, out, **options)
        _print_json({"csv": str(table), "audio": str(audio), "out": str(out), **options, "jobs": _jobs(jobs), **seen})
        return
    manifest, report = build_musiccaps(table, audio, out, jobs=_jobs(jobs), **options)
    if as_json:
        _print_json({**report.as_json(), "manifest": str(out / "manifest.jsonl")})
        return
    typer.echo(f"{len(manifest)} clips, {report.seconds / 60:.1f} minutes: {out / 'manifest.jsonl'}")
    for name, count in summary(report).items():
        typer.echo(f"{count:6d}  {name.replace('_', ' ')}")
    for item in [item for item in report.findings if item.kind != "missing"][:10]:
        typer.echo(f"  {item.kind.replace('_', ' ')}: {item.reason}")
    typer.echo(f"What is missing: {out / 'missing.csv'}; everything that was left out: {out / 'report.json'}")


@app.command()
def scores(
    pieces: list[str] = typer.Argument(None, help="Ids, collections, families or patterns (default: all)."),
    list_all: bool = typer.Option(False, "--list", help="Print every piece with what its file states, and stop."),
    redistributable_only: bool = _FREE,
    out: Path = typer.Option(None, "--out", "-o", help="Write the list of pieces and licences to this JSON file."),
    jobs: int = _JOBS,
    cache: Path = _CACHE,
    as_json: bool = _JSON,
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
            _print_json(rows)
        else:
            for row in rows:
                mark = "yes" if row["redistributable"] else "no "
                typer.echo(f"{mark}  {row['piece']}  {row['reason']}")
        return
    good, report = parse_all(chosen, cache=cache, jobs=_jobs(jobs))
    if as_json:
        _print_json({"parsed": len(good), "skipped": [asdict(item) for item in report.skipped]})
        return
    typer.echo(f"{len(good)} of {len(chosen)} scores can be played.")
    _say_skipped(report, "scores were skipped")
