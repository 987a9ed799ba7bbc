"""`eisbach analyze`: the structure of any audio, as a table, records, pictures and a page that sets sets side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eisbach.errors import UserError

if TYPE_CHECKING:
    from eisbach.report.structure.compare import Sets
    from eisbach.structure.batch import Clip
    from eisbach.types import Record, SkipReport

DEFAULT_OUT = Path("analysis")
_SKIPS_SAID = 20


def analyze(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="Audio files, folders (searched through) or manifests; NAME=PATH names a set. Several are compared.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the page, records and comparison; a rerun continues it.",
            show_default="analysis; none with --json or --no-page",
        ),
    ] = None,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Write index.html, to see and hear the sets.")] = True,
    by: Annotated[
        str | None, typer.Option(help="What makes a set: a manifest's label, 'folder' or 'argument'.")
    ] = None,
    pair: Annotated[
        str,
        typer.Option(help="Match clips by labels, the first being the unit: prompt_id,seed; or auto, name, none."),
    ] = "auto",
    baseline: Annotated[str | None, typer.Option(help="The set that the others are compared with; the first.")] = None,
    metrics: Annotated[str | None, typer.Option(help="Comma-separated metrics; all unless named.")] = None,
    primary: Annotated[
        str | None, typer.Option(help="Comma-separated metrics that decide (corrected by Holm).")
    ] = None,
    embedding: Annotated[
        list[str] | None,
        typer.Option(
            help="Compare sets on a model's embeddings too: clap:FOLDER or mert:FOLDER; repeat.", show_default="texture"
        ),
    ] = None,
    training: Annotated[
        Path | None, typer.Option(help="Training audio: how near each clip is to its nearest piece of it.")
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="Audio that was not trained on: the yardstick for --training.")
    ] = None,
    listen: Annotated[int, typer.Option(help="Clips that the page embeds; an even sample of larger sets.", min=0)] = 24,
    clip: Annotated[
        list[str] | None, typer.Option(help="Id of a clip to embed in place of the sample; repeat.", show_default=False)
    ] = None,
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Also write a PNG of every clip: spectrogram, similarity, path.")
    ] = False,
    jobs: Annotated[int, typer.Option(help="Processes.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the resampling.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print records, means and comparison as JSON.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be analysed and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Measure the musical structure of audio, and how sets of it differ: sections, textures, motifs, dynamics, loops.

    One folder is described; several are compared: eisbach analyze A/ B/ writes analysis/index.html.
    """
    if out is None and page and not as_json:
        out = DEFAULT_OUT
    if pictures and out is None:
        raise UserError("--pictures needs a folder to put them in; add --out FOLDER.")
    if (held_out is None) != (training is None):
        raise UserError("memorisation needs --training and --held-out: without unseen clips, genre looks like copying.")
    clips = collect(paths, by)
    settings: dict[str, Any] = {
        "clips": [str(one.path) for one in clips],
        "sets": _sizes(clips),
        "out": out and str(out),
        "page": bool(out) and page,
        "pair": pair,
        "baseline": baseline,
        "embeddings": ["texture", *(embedding or [])],
        "training": training and str(training),
        "held_out": held_out and str(held_out),
        "listen": listen,
        "pictures": pictures,
        "jobs": jobs,
    }
    if dry_run:
        typer.echo(json.dumps(settings, indent=2, ensure_ascii=False))
        return
    from eisbach.report.structure.compare import check_pairing, compare
    from eisbach.report.structure.set_tables import measure_sets
    from eisbach.structure.batch import analyze_files
    from eisbach.structure.summary import format_summary, summarise
    from eisbach.types import SkipReport

    _check_names(clips, baseline, [*_split(metrics), *_split(primary)])
    check_pairing([one.keys for one in clips], pair, [str(one.path) for one in clips])
    _check_ids(clips, clip or ())
    models = _models(embedding or [])
    skips = SkipReport()
    captions = {str(one.keys.get("prompt_id") or ""): str(one.keys.get("caption") or "") for one in clips}
    details: dict[str, str] = {}
    records = analyze_files(clips, jobs=jobs, out=out, skips=skips, quiet=quiet, details=details)
    if not records:
        reasons = "; ".join(item.reason for item in skips.skipped[:3])
        raise UserError(f"none of the {len(clips)} files could be analysed: {reasons}")
    if pictures and out is not None:
        _draw(records, out / "pictures", skips, quiet)
    means = summarise(records)
    sets = compare(records, pair=pair, baseline=baseline, metrics=_split(metrics), primary=_split(primary), seed=seed)
    wholes = measure_sets(
        sets, prompts={str(one.path): str(one.keys.get("prompt_id") or "") for one in clips}, details=details, embeddings=models,
        training=training, held_out=held_out, seed=seed, jobs=jobs, skips=skips, quiet=quiet,
    )  # fmt: skip
    skipped = [{"item": item.item, "reason": item.reason} for item in skips.skipped]
    comparison = {**sets.to_json(), "sets_as_wholes": wholes.values, "set_notes": wholes.notes, "skipped": skipped}
    if out is not None:
        _save(out, sets, comparison)
    written = None
    if page and out is not None:
        from eisbach.report.structure.page import StructurePage, write_structure_page

        written = write_structure_page(
            out,
            StructurePage(
                sets, _command(paths, out), title or "", wholes.tables, wholes.notes, skips.skipped, captions, listen, clip or (),
                files=_files(pictures),
            ),
            quiet=quiet,
        )  # fmt: skip
    if as_json:
        result = {"groups": means, "records": records, "skipped": skipped, "comparison": comparison}
        typer.echo(json.dumps(result | {"page": written and str(written)}, ensure_ascii=False, indent=2))
        return
    typer.echo(format_summary(means))
    _print(sets)
    for item in skips.skipped[:_SKIPS_SAID]:
        typer.echo(f"skipped: {item.reason}", err=True)
    if len(skips.skipped) > _SKIPS_SAID:
        where = f"; all stand in {out / 'comparison.json'}" if out is not None else "; --json names all"
        typer.echo(f"skipped: {len(skips.skipped) - _SKIPS_SAID} more{where}", err=True)
    if out is not None:
        typer.echo(
            f"records of {len(records)} clips in {out}" + (f", pictures in {out / 'pictures'}" if pictures else "")
        )
    if written is not None:
        typer.echo(f"page: {written}")


def collect(paths: Sequence[Path], by: str | None = None) -> list[Clip]:
    """The clips that paths name; see `report.structure_inputs.collect_clips`."""
    from eisbach.report.structure.inputs import collect_clips

    return collect_clips(paths, by)


def _check_names(clips: Sequence[Clip], baseline: str | None, metrics: Sequence[str]) -> None:
    """Refuses names that nothing can have before hours of analysis are spent on them."""
    from eisbach.experiments.measures import check_measures
    from eisbach.report.structure.inputs import short_names

    check_measures(metrics)
    names = short_names(list(_sizes(clips)))
    if baseline is not None and baseline not in (*names, *names.values()):
        raise UserError(
            f"the baseline '{baseline}' is not among the sets {', '.join(names.values())}; name one of them."
        )


def _check_ids(clips: Sequence[Clip], chosen: Sequence[str]) -> None:
    known = {str(one.keys["id"]) for one in clips}
    wrong = next((one for one in chosen if one not in known), None)
    if wrong is not None:
        raise UserError(
            f"no clip has the id '{wrong}' to embed; ids are like '{min(known)}' (--dry-run lists the files)."
        )


def _models(specs: Sequence[str]) -> list[Any]:
    """The embeddings, loaded before anything is analysed, so that a wrong folder costs no hour; textures need none."""
    if not specs:
        return []
    from eisbach.structure.embeddings import load_embedding

    return [load_embedding(spec) for spec in dict.fromkeys(specs) if spec != "texture"]


def _split(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _sizes(clips: Sequence[Clip]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for one in clips:
        group = str(one.keys["group"])
        sizes[group] = sizes.get(group, 0) + 1
    return sizes


def _command(paths: Sequence[Path], out: Path) -> str:
    """The line that was typed, so that the page can be made again with every option of it."""
    import shlex
    import sys

    if Path(sys.argv[0]).name.startswith("eisbach") and "analyze" in sys.argv[1:2]:
        return shlex.join(["eisbach", *sys.argv[1:]])
    return shlex.join(["eisbach", "analyze", *map(str, paths), "--out", str(out)])


def _files(pictures: bool) -> list[tuple[str, str]]:
    return [
        ("records.jsonl, records.parquet", "a row a clip, a column a measure"),
        ("details.jsonl", "each clip's sections, onsets and embedding"),
        ("comparison.json, comparison.csv", "every number of this page, with intervals, effect sizes and p"),
        *([("pictures/", "a picture a clip")] if pictures else []),
    ]


def _save(out: Path, sets: Sets, comparison: dict[str, Any]) -> None:
    import csv
    import io

    from eisbach.files import write_json, write_text

    write_json(out / "comparison.json", comparison)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["metric", "unit", "primary", "set", "mean", "sd", "clips", "reference", "difference", "low", "high", "hedges_g", "p",
         "p_corrected", "unit_of_inference", "units", "verdict"]
    )  # fmt: skip
    for info in (*sets.metrics, *sets.printed):
        for name in sets.names:
            summary, one = sets.summaries[name, info.name], sets.comparison(name, info.name)
            row: list[Any] = [
                info.name,
                info.unit,
                info.primary,
                name,
                summary.mean,
                sets.spreads[name, info.name],
                summary.n_clips,
            ]
            if one is not None:
                low, high = one.shown_interval or (None, None)
                row += [
                    sets.names[0],
                    one.difference,
                    low,
                    high,
                    one.g,
                    one.p,
                    one.p_adjusted,
                    one.unit,
                    one.n_units,
                    one.verdict,
                ]
            writer.writerow(["" if value is None else value for value in row])
    write_text(out / "comparison.csv", text.getvalue())


def _print(sets: Sets) -> None:
    """The comparison by primary measures, below the table of means."""
    if sets.results is None:
        return
    from eisbach.report.tables import MARKS
    from eisbach.report.wording import format_difference, format_interval, format_p

    for name in sets.names[1:]:
        typer.echo(f"\n{name} against {sets.names[0]} (difference, 95% interval, Hedges g, p corrected):")
        for info in sets.metrics:
            one = sets.comparison(name, info.name)
            if one is None or not info.primary:
                continue
            g = "" if one.g is None else f", g {one.g:+.2f}"
            typer.echo(
                f"  {info.label}: {format_difference(info, one.difference)} ({format_interval(info, one.shown_interval)}){g}, "
                f"{format_p(one.decisive_p)}  {MARKS[one.verdict]}"
            )
    typer.echo(sets.how)
    for note in sets.notes:
        typer.echo(f"note: {note}")


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
