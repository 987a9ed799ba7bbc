"""`eisbach data folder`, `doctor` and `musiccaps`: a person's own audio, what is wrong with it, and MusicCaps."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from eisbach.cli.common import AsJson, DryRun, Jobs, print_json, print_note, say_skipped, worker_count
from eisbach.cli.next_steps import NextStep

if TYPE_CHECKING:
    from eisbach.backbones.base import Backbone
    from eisbach.data.audio_facts import CodecInput
    from eisbach.data.doctor import DoctorReport
    from eisbach.data.selection import TrainingRule

_CAPTIONS = typer.Option(
    "auto",
    "--caption-from",
    help="files (.txt, .caption or .json beside the audio), table (metadata.jsonl, metadata.csv or captions.csv), tags "
    "(or tags:{artist} - {title}), name, none, or text:your words; auto: files, else a table, else none.",
)
_SHOWN_OF_A_KIND = 10


def folder(
    path: Path = typer.Argument(
        ..., help="Folder of audio files; folders below it are searched. WebDataset shards (.tar) need --out."
    ),
    caption_from: str = _CAPTIONS,
    label: list[str] = typer.Option(None, "--label", help="A label for every clip, such as kind=developing."),
    out: Path = typer.Option(None, "--out", "-o", help="Folder for the manifest (default: the audio's own)."),
    fresh: bool = typer.Option(False, "--fresh", help="Keep nothing of a manifest that is there."),
    strict: bool = typer.Option(False, "--strict", help="Exit with code 2 when anything is left out."),
    jobs: Jobs = 0,
    as_json: AsJson = False,
) -> None:
    """Make the manifest of your own folder of audio; it is written into the folder, or into --out.

    Made again, it keeps the labels, weights, ids and splits that you set in it. Further columns of metadata.csv or
    metadata.jsonl become labels.
    """
    from dataclasses import asdict

    from eisbach.data.audio_folder import read_folder
    from eisbach.data.label_names import is_measured
    from eisbach.data.selection import TrainingRule, choose_clips
    from eisbach.errors import UserError, counted

    labels = {}
    for item in label or []:
        key, separator, value = item.partition("=")
        if not (separator and key and value):
            raise UserError(f"--label '{item}' must look like key=value, for example kind=developing.")
        if is_measured(key):
            raise UserError(f"--label '{item}': records of clips have a column {key}; choose another name.")
        labels[key] = value
    unpacked = _unpack(path, out)
    if unpacked is not None:
        path = unpacked
    manifest, report = read_folder(
        path, caption_from=caption_from, labels=labels, out=out, jobs=worker_count(jobs), fresh=fresh, notify=print_note
    )
    choice = choose_clips(manifest, TrainingRule())
    skipped = [*report.skipped, *choice.left_out]
    if as_json:
        counts = {"clips": len(manifest), "train": len(choice.train), "held_out": len(choice.held_out)}
        print_json({**counts, "skipped": [asdict(item) for item in skipped]})
    else:
        total = sum(row.duration for row in manifest)
        typer.echo(f"{counted(len(manifest), 'clip')}, {total / 60:.1f} minutes: {manifest.root / 'manifest.jsonl'}")
        typer.echo(f"{choice.sentence()}.")
        if report.skipped:
            typer.echo(f"{counted(len(report.skipped), 'file')} left out:")
        say_skipped(report, "files were left out (--json lists all)")
    if strict and skipped:
        raise typer.Exit(2)


def _unpack(path: Path, out: Path | None) -> Path | None:
    """Where the audio of WebDataset shards was unpacked to; None where there are none."""
    from eisbach.data.caption_files import find_shards, unpack_shards
    from eisbach.errors import UserError, counted

    shards = find_shards(path)
    if not shards:
        return None
    if out is None:
        raise UserError(f"{path} holds WebDataset shards ({shards[0].name}); say with --out where to unpack them.")
    skips = unpack_shards(shards, out / "audio")
    typer.echo(f"{counted(len(shards), 'shard')} unpacked into {out / 'audio'}", err=True)
    for skip in skips.skipped[:_SHOWN_OF_A_KIND]:
        typer.echo(f"  skipped {skip.item}: {skip.reason}", err=True)
    if len(skips.skipped) > _SHOWN_OF_A_KIND:
        typer.echo(f"  and {len(skips.skipped) - _SHOWN_OF_A_KIND} more members were left out.", err=True)
    return out / "audio"


def doctor(
    path: Path = typer.Argument(..., help="A manifest, or a folder of audio."),
    recipe: Path = typer.Option(
        None, "--recipe", "-r", help="Judge by this recipe: crops, split, labels, batch and model."
    ),
    crop_seconds: float = typer.Option(
        None, "--crop-seconds", help="Length of the training crops (default: the recipe's)."
    ),
    model: str = typer.Option(
        None, "--model", "-m", help="The model that will train (default: the recipe's, else embedded)."
    ),
    caption_from: str = _CAPTIONS,
    same_audio: bool = typer.Option(False, "--same-audio", help="Also compare the sound itself, not only the bytes."),
    strict: bool = typer.Option(False, "--strict", help="Exit with code 2 when anything is found."),
    show: int = typer.Option(20, "--show", help="How many samples the table of what trains shows; 0 shows all."),
    jobs: Jobs = 0,
    as_json: AsJson = False,
) -> NextStep | None:
    """Report what is wrong with the data, and the text and audio that each sample will really train on."""
    from eisbach.data.doctor import examine

    rule, of_recipe = _rule(recipe, path, crop_seconds)
    name = model or of_recipe
    report = examine(
        path, rule=rule, caption_from=caption_from, same_audio=same_audio, heard=_codec_input(name),
        reader=_Reader(name or "embedded"), jobs=worker_count(jobs),
    )  # fmt: skip
    if as_json:
        print_json(report.as_json())
    else:
        _print_doctor(report, show)
    if not report.trained and not strict:
        raise typer.Exit(0)  # there is nothing to train on, hence no next step
    if strict and not report.healthy:
        raise typer.Exit(2)
    return NextStep(_mend(path, report)) if report.refused else None


def _mend(path: Path, report: DoctorReport) -> str:
    """What to do about a set that training refuses."""
    from eisbach.data.manifest import MANIFEST_NAME, load_manifest

    if any(problem.kind == "changed" for problem in report.problems) and (path.is_dir() or path.name == MANIFEST_NAME):
        manifest = load_manifest(path, check_files=False)
        line = f"eisbach data folder {shlex.quote(str(manifest.audio_root))}"
        if manifest.audio_root != manifest.root:
            line += f" --out {shlex.quote(str(manifest.root))}"
        return f"{line} makes the manifest again"
    return "mend what training refuses; the same command looks again"


def _rule(recipe: Path | None, path: Path, crop_seconds: float | None) -> tuple[TrainingRule, str | None]:
    """What decides which clips train, and the recipe's model where it names one."""
    from eisbach.data.selection import TrainingRule

    if recipe is None:
        return TrainingRule(((30.0 if crop_seconds is None else crop_seconds, None),)), None
    from eisbach.config import build_config, read_recipe
    from eisbach.training.config import TrainConfig
    from eisbach.training.data import rule_of

    values = read_recipe(recipe)
    data = values.get("data")
    data = {**(data if isinstance(data, dict) else {}), "manifest": [str(path)]}
    if crop_seconds is not None:
        data["crop_seconds"] = crop_seconds
    config = build_config(TrainConfig, {**values, "data": data}, str(recipe))
    return rule_of(config.data, config.batch_size), config.model if isinstance(config.model, str) else None


def _codec_input(model: str | None) -> CodecInput | None:
    """What the codec of a model is given; None (the embedded codec's) where no model is named."""
    if model is None:
        return None
    from eisbach.backbones import load_backbone, load_codec_of
    from eisbach.data.audio_facts import CodecInput

    codec = load_codec_of(load_backbone(model))
    return CodecInput(codec.sample_rate, codec.audio_channels, mixes=codec.model is None)


class _Reader:
    """What a model makes of captions; the model is loaded with the first one that has any words."""

    def __init__(self, model: str) -> None:
        self._model = model

    @cached_property
    def _backbone(self) -> Backbone:
        from eisbach.backbones import load_backbone

        return load_backbone(self._model)

    def unknown_words(self, caption: str) -> Sequence[str]:
        return self._backbone.unknown_words(caption) if caption.strip() else []

    def text_length(self, caption: str) -> tuple[int, int] | None:
        return self._backbone.text_length(caption) if caption.strip() else None


def _print_doctor(report: DoctorReport, show: int) -> None:
    from eisbach.data.doctor import PROBLEMS
    from eisbach.errors import counted, one_line

    for note in report.first:
        typer.echo(f"{note}.\n")
    for name, count in report.formats.items():
        typer.echo(f"{count:6d}  {name}")
    for kind, count in report.counts().items():
        typer.echo(f"\n{count} x {kind.replace('_', ' ')} ({PROBLEMS[kind]}):")
        of_kind = [problem for problem in report.problems if problem.kind == kind]
        for problem in of_kind[:_SHOWN_OF_A_KIND]:
            typer.echo(f"  {one_line(problem.sample)}: {problem.detail}" if problem.sample else f"  {problem.detail}")
        if count > _SHOWN_OF_A_KIND:
            typer.echo(f"  and {count - _SHOWN_OF_A_KIND} more (--json lists all)")
    typer.echo(f"\nWhat trains, in crops of {report.crop_seconds:g} s:")
    for item in report.trained[: show or None]:
        spans = ", ".join(f"{start:g}-{start + length:g} s" for start, length in item.sections)
        padding = f" + {item.padding:g} s padding" if item.padding else ""
        typer.echo(f"  {one_line(item.sample)} [{spans}{padding}]: {one_line(item.caption) or '(no words)'}")
    if show and len(report.trained) > show:
        typer.echo(f"  and {len(report.trained) - show} more (--show 0 shows all)")
    for note in report.notes:
        typer.echo(f"\nnote: {note}.")
    verdict = f"{counted(len(report.problems), 'problem')} found" if report.problems else "no problems found"
    if report.refused:
        verdict += ", of which training refuses some"
    typer.echo(f"\n{counted(report.samples, 'sample')} looked at. {report.selection}; {verdict}.")


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
    jobs: Jobs = 0,
    dry_run: DryRun = False,
    as_json: AsJson = False,
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
