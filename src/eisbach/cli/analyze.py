"""`eisbach analyze`: the structure of any audio, as a table, records, pictures and a page that sets sets side by
side."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eisbach.cli.common import Address, CellCpus, CellGpus, ExecutorName, print_note, typed_line, where
from eisbach.errors import UserError

if TYPE_CHECKING:
    from eisbach.experiments.analysis import AnalysedSets, AnalysisPlan
    from eisbach.report.listen.votes import ListeningScore

_DEFAULT_OUT = Path("analysis")
_SKIPS_SAID = 20


_Paths = Annotated[
    list[Path],
    typer.Argument(
        help="Audio files, folders (searched through) or manifests; NAME=PATH names a set. Several are compared.",
        show_default=False,
    ),
]
_Out = Annotated[
    Path | None,
    typer.Option(
        help="Folder for the page, records and comparison; a rerun continues it.",
        show_default="analysis; none with --json or --no-page",
    ),
]
_Page = Annotated[bool, typer.Option("--page/--no-page", help="Write index.html, to see and hear the sets.")]
_By = Annotated[str | None, typer.Option(help="What makes a set: a manifest's label, 'folder' or 'argument'.")]
_Pair = Annotated[
    str,
    typer.Option(help="Match clips by auto, prompt, name, none, or labels, the first being the unit."),
]
_Baseline = Annotated[str | None, typer.Option(help="The set that the others are compared with; the first.")]
_Oracle = Annotated[str | None, typer.Option(help="The set that knew the material: shares of its gain are reported.")]
_Metrics = Annotated[str | None, typer.Option(help="Comma-separated metrics; all unless named.")]
_Primary = Annotated[
    str | None,
    typer.Option(help="Comma-separated metrics that decide; METRIC:higher or METRIC:lower says what is better."),
]
_Reference = Annotated[
    list[Path] | None,
    typer.Option(
        help="Music to hold the sets against: a folder, file or manifest (its held-out clips); repeat. The page then "
        "says which set lies nearer to it.",
        show_default=False,
    ),
]
_Seconds = Annotated[float | None, typer.Option(help="Cut every clip to this length; shorter ones are left out.")]
_Start = Annotated[str, typer.Option("--from", help="What --seconds keeps: start, middle or loudest.")]
_Embedding = Annotated[
    list[str] | None,
    typer.Option(
        help="Compare sets on a model's embeddings too: musicnn (its tags become columns, and whether captions are "
        "followed), clap:FOLDER or mert:FOLDER; repeat.",
        show_default="texture",
    ),
]
_Notes = Annotated[
    bool, typer.Option("--notes", help="Transcribe the clips too: how many notes are a motif heard before.")
]
_Training = Annotated[
    Path | None, typer.Option(help="Training audio: how near each clip is to its nearest piece of it.")
]
_HeldOut = Annotated[Path | None, typer.Option(help="Audio that was not trained on: the yardstick for --training.")]
_Listen = Annotated[int, typer.Option(help="Clips that the page embeds; an even sample of larger sets.", min=0)]
_Clip = Annotated[
    list[str] | None, typer.Option(help="Id of a clip to embed in place of the sample; repeat.", show_default=False)
]
_Votes = Annotated[
    Path | None,
    typer.Option(
        help="Folder of a listening test between these sets: what its votes say is on the page.", show_default=False
    ),
]
_Title = Annotated[str | None, typer.Option(help="Heading of the page.")]
_Pictures = Annotated[
    bool | None,
    typer.Option(
        "--pictures/--no-pictures",
        help="Also write a PNG of every clip; or draw none, not even on the page.",
        show_default="on the page",
    ),
]
_Device = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        help="Where the embeddings' networks compute: auto, cpu, cuda …; a device that is named also measures the "
        "spectra.",
    ),
]
_Jobs = Annotated[int, typer.Option(help="Processes.", min=1)]
_Seed = Annotated[int, typer.Option(help="Seed of the resampling.", min=0)]
_AsJson = Annotated[bool, typer.Option("--json", help="Print records, means and comparison as JSON.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="List what would be analysed and stop.")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]


def analyze(
    paths: _Paths,
    out: _Out = None,
    page: _Page = True,
    by: _By = None,
    pair: _Pair = "auto",
    baseline: _Baseline = None,
    oracle: _Oracle = None,
    metrics: _Metrics = None,
    primary: _Primary = None,
    reference: _Reference = None,
    seconds: _Seconds = None,
    start: _Start = "start",
    embedding: _Embedding = None,
    notes: _Notes = False,
    training: _Training = None,
    held_out: _HeldOut = None,
    listen: _Listen = 24,
    clip: _Clip = None,
    votes: _Votes = None,
    title: _Title = None,
    pictures: _Pictures = None,
    device: _Device = "auto",
    jobs: _Jobs = 1,
    executor: ExecutorName = "local",
    address: Address = None,
    cell_cpus: CellCpus = None,
    cell_gpus: CellGpus = None,
    seed: _Seed = 0,
    as_json: _AsJson = False,
    dry_run: _DryRun = False,
    quiet: _Quiet = False,
) -> None:
    """Measure the musical structure of audio, and how sets of it differ: sections, textures, motifs, dynamics, loops.

    One folder is described; several are compared: eisbach analyze A/ B/ writes analysis/index.html.
    """
    if out is None and page and not as_json:
        out = _DEFAULT_OUT
    if pictures and out is None:
        raise UserError("--pictures needs a folder to put them in; add --out FOLDER.")
    from eisbach.devices import place
    from eisbach.experiments.analysis import analyze_sets, plan_analysis
    from eisbach.report.comparison.terminal import summary_json, summary_lines

    plan = plan_analysis(
        paths, by=by, out=out, pair=pair, baseline=baseline, oracle=oracle, metrics=tuple(_split(metrics)),
        primary=_directions(primary), notes=notes, training=training, held_out=held_out, seconds=seconds,
        start=start, jobs=jobs, seed=seed, device=device, reference=tuple(reference or ()),
    )  # fmt: skip
    _check_ids(plan, clip or ())
    heard = _heard(votes, plan, seed)
    if dry_run:
        shown = plan.settings() | {"embeddings": ["texture", *(embedding or [])], "page": bool(out) and page}
        typer.echo(json.dumps(shown | {"listen": listen, "pictures": bool(pictures)}, indent=2, ensure_ascii=False))
        return
    if not quiet and (embedding or device != "auto"):
        print_note(f"{place(device, 'fp32').sentence()}.")
    with where(executor, address, cell_cpus, cell_gpus, shared=out, jobs=jobs if jobs > 1 else None):
        analysed = analyze_sets(_with_embeddings(plan, embedding or []), quiet=quiet)
    if not as_json:  # before the page, whose pictures take a while
        for line in summary_lines(analysed, heard):
            typer.echo(line)
    written = None
    if out is not None and (page or pictures):
        from eisbach.report.structure.analysis import PageOptions, draw_clips, write_page

        if page:
            embedded, typed = tuple(clip or ()), typed_line("analyze")
            options = PageOptions(title or "", listen, embedded, pictures is not False, bool(pictures), typed, heard)
            written = write_page(analysed, options, [str(path) for path in paths], quiet=quiet)
        else:
            draw_clips(analysed, out / "pictures", quiet=quiet)
    if as_json:
        typer.echo(json.dumps(summary_json(analysed, written, heard), ensure_ascii=False, indent=2))
        return
    _print_files(analysed, out, written, bool(pictures), heard)


def compare(context: typer.Context) -> None:
    """The former command, which `analyze` has taken in: says what to type."""
    arguments = ["--pair" if word == "--pairing" else word for word in context.args]
    typed = shlex.join(["eisbach", "analyze", *(arguments or ["A/", "B/"])])
    raise UserError(f"'eisbach compare' is part of 'eisbach analyze' now; type {typed} .")


def _split(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _directions(text: str | None) -> dict[str, Any]:
    """`level_range:higher,is_flat` as {'level_range': 'higher', 'is_flat': None}."""
    declared: dict[str, Any] = {}
    for part in _split(text):
        name, colon, way = part.partition(":")
        if colon and way not in ("higher", "lower"):
            raise UserError(f"--primary has '{part}'; write METRIC, METRIC:higher or METRIC:lower.")
        declared[name] = way or None
    return declared


def _check_ids(plan: AnalysisPlan, chosen: Sequence[str]) -> None:
    known = {str(clip.keys["id"]) for clip in plan.sets.clips}
    wrong = next((name for name in chosen if name not in known), None)
    if wrong is not None:
        raise UserError(
            f"no clip has the id '{wrong}' to embed; ids are like '{min(known)}' (--dry-run lists the files)."
        )


def _heard(test: Path | None, plan: AnalysisPlan, seed: int) -> ListeningScore | None:
    """The votes, read before anything is analysed, so that a wrong folder costs no hour."""
    if test is None:
        return None
    from eisbach.report.listen.votes import votes_about

    return votes_about(test, list(plan.names.values()), seed=seed)


def _with_embeddings(plan: AnalysisPlan, names: Sequence[str]) -> AnalysisPlan:
    """The embeddings, loaded before anything is analysed, so that a wrong folder costs no hour; textures need none."""
    if not names:
        return plan
    from dataclasses import replace

    from eisbach.structure.embeddings import load_embedding

    models = tuple(load_embedding(name, device=plan.device) for name in dict.fromkeys(names) if name != "texture")
    return replace(plan, embeddings=models)


def _print_files(
    analysed: AnalysedSets, out: Path | None, written: Path | None, pictures: bool, heard: ListeningScore | None
) -> None:
    """What was skipped, and where everything lies."""
    skipped = [*analysed.skips.skipped, *(() if heard is None else heard.skips.skipped)]
    for item in skipped[:_SKIPS_SAID]:
        typer.echo(f"skipped: {item.reason}", err=True)
    if len(skipped) > _SKIPS_SAID:
        place = f"; all stand in {out / 'comparison.json'}" if out is not None else "; --json names all"
        typer.echo(f"skipped: {len(skipped) - _SKIPS_SAID} more{place}", err=True)
    if out is not None:
        drawn = f", pictures in {out / 'pictures'}" if pictures else ""
        typer.echo(f"records of {len(analysed.records)} clips in {out}{drawn}")
    if written is not None:
        typer.echo(f"page: {written}")
