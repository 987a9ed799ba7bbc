"""`eisbach compare`: folders of audio against one another, with statistics and a page to hear them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eisbach.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eisbach.experiments.folders import ArmSource, Measured
    from eisbach.statistics.metric_info import MetricInfo
    from eisbach.statistics.results import Results


def compare(
    arms: Annotated[
        list[str],
        typer.Argument(help="Two or more arms: FOLDER, NAME=FOLDER or manifest.jsonl.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the records, the statistics and the page.")] = Path(
        "comparison"
    ),
    baseline: Annotated[
        str | None, typer.Option(help="The arm that the others are compared with; the first one unless named.")
    ] = None,
    oracle: Annotated[
        str | None, typer.Option(help="The arm that is the upper bound: recovered shares of its gain are reported.")
    ] = None,
    metrics: Annotated[str | None, typer.Option(help="Comma-separated metrics; all unless named.")] = None,
    primary: Annotated[
        str | None, typer.Option(help="Comma-separated metrics that decide; the first one is the headline.")
    ] = None,
    pairing: Annotated[
        str, typer.Option(help="How clips are matched: auto, prompt (manifests), name (equal file names) or none.")
    ] = "auto",
    title: Annotated[str | None, typer.Option(help="Heading of the page.")] = None,
    jobs: Annotated[int, typer.Option(help="Processes for the analysis.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the resampling.", min=0)] = 0,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Write report/index.html.")] = True,
    pictures: Annotated[bool, typer.Option("--pictures/--no-pictures", help="Draw every clip on the page.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the statistics as JSON.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be compared and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Compare the musical structure of two or more folders of audio, with intervals, tests and a page to listen."""
    from eisbach.experiments.folders import choose_pairing, measure_arms, parse_arms
    from eisbach.experiments.measures import check_measures

    check_measures([*_split(metrics), *_split(primary)])
    sources = parse_arms(arms)
    names = [source.name for source in sources]
    for role, name in (("--baseline", baseline), ("--oracle", oracle)):
        if name is not None and name not in names:
            raise UserError(f"{role} is '{name}', and the arms are {', '.join(names)}; name one of them.")
    base = baseline or names[0]
    if oracle == base:
        raise UserError(f"--oracle and the baseline are both '{base}'; they must be different arms.")
    how, unmatched = choose_pairing(sources, base, pairing)
    settings: dict[str, Any] = {
        "arms": {source.name: {"clips": len(source.clips), "from": _origin(source)} for source in sources},
        "baseline": base,
        "oracle": oracle,
        "metrics": _split(metrics) or "all",
        "primary": _split(primary) or "default",
        "pairing": how,
        "unmatched": unmatched if how != "none" else [],
        "seed": seed,
        "out": str(out),
    }
    if dry_run:
        typer.echo(json.dumps(settings, indent=2, ensure_ascii=False))
        return
    measured = measure_arms(sources, how, out=out, jobs=jobs, quiet=quiet)
    results = _evaluate(measured, _split(metrics), _split(primary), base, oracle, names, settings["unmatched"], seed)
    results.save(out / "statistics.json")
    written = _write_page(out, measured, results, settings, title, arms, pictures, quiet) if page else None
    if as_json:
        typer.echo(json.dumps(_as_json(measured, results, written), indent=2, ensure_ascii=False))
        return
    _print(measured, results, written)


def _split(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def _origin(source: ArmSource) -> str:
    from os.path import commonpath

    return commonpath([str(clip.path.parent) for clip in source.clips])


def _evaluate(
    measured: Measured,
    metrics: Sequence[str],
    primary: Sequence[str],
    baseline: str,
    oracle: str | None,
    names: Sequence[str],
    unmatched: Sequence[str],
    seed: int,
) -> Results:
    from eisbach.experiments.measures import known_metrics
    from eisbach.statistics.metric_info import choose_metrics
    from eisbach.statistics.results import evaluate

    known: list[MetricInfo] = known_metrics(measured.records)
    if not known:
        raise UserError("no measure is defined for any of these clips; they need at least a few seconds of sound each.")
    chosen = choose_metrics(known, metrics, primary)
    paired = measured.pairing != "none"
    return evaluate(
        measured.records, chosen, baseline, arms=names, oracle=oracle, paired=paired, unmatched=unmatched, seed=seed
    )


def _write_page(
    out: Path,
    measured: Measured,
    results: Results,
    settings: dict[str, Any],
    title: str | None,
    arms: Sequence[str],
    pictures: bool,
    quiet: bool,
) -> Path:
    import platform
    import shlex

    import yaml

    from eisbach import __version__
    from eisbach.experiments.folders import condition_notes, pairing_sentence
    from eisbach.report.html import ArmText, ReportContext, write_report
    from eisbach.report.thumbnails import thumbnail_maker

    others = [name for name in results.arms if name != results.baseline]
    roles = {results.baseline: "baseline", results.oracle: "oracle"}
    context = ReportContext(
        title=title or f"{' and '.join(others) if len(others) < 4 else 'Several arms'} against {results.baseline}",
        question=f"Does the music in {_list(others)} develop differently from the music in {results.baseline}? "
        "Every clip was analysed as audio, and nothing but its sound was used.",
        records=measured.records,
        results=results,
        audio_root=Path(),
        arms=[
            ArmText(name, name, explanation=_arm_words(measured, name), role=roles.get(name, "arm"))  # type: ignore[arg-type]
            for name in results.arms
        ],
        prompts=measured.prompts,
        configuration=yaml.safe_dump(settings, sort_keys=False, allow_unicode=True),
        versions={"eisbach": __version__, "python": platform.python_version()},
        commands=[shlex.join(["eisbach", "compare", *arms, "--baseline", results.baseline, "--out", str(out)])],
        pairing=pairing_sentence(measured.pairing, results.unmatched_arms),
        listening="Each row holds the clips of one name in every arm." if measured.pairing == "name" else "",
        notes=condition_notes(measured.records),
        skipped=measured.skips.skipped,
        pictures=thumbnail_maker if pictures else None,
    )
    return write_report(out / "report", context, quiet=quiet)


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _arm_words(measured: Measured, name: str) -> str:
    rows = [row for row in measured.records if row["arm"] == name]
    seconds = sum(float(row["duration"] or 0.0) for row in rows if "duration" in row)
    return f"{len(rows)} clip{'' if len(rows) == 1 else 's'}, {seconds / 60:.1f} minutes of audio in all."


def _as_json(measured: Measured, results: Results, written: Path | None) -> dict[str, Any]:
    from eisbach.report.wording import overall_verdict

    headline = results.metrics[0]
    return {
        "verdict": overall_verdict(results.comparisons, headline, apart=[results.oracle] if results.oracle else []),
        "pairing": measured.pairing,
        **results.to_json(),
        "skipped": [{"item": item.item, "reason": item.reason} for item in measured.skips.skipped],
        "page": None if written is None else str(written),
    }


def _print(measured: Measured, results: Results, written: Path | None) -> None:
    from eisbach.experiments.folders import condition_notes, pairing_sentence
    from eisbach.report.tables import arms_table, to_markdown
    from eisbach.report.wording import overall_verdict, recovered_sentence

    headline = results.metrics[0]
    shown = [info for info in results.metrics if info.primary] or results.metrics[:1]
    typer.echo(overall_verdict(results.comparisons, headline, apart=[results.oracle] if results.oracle else []))
    for one in results.recovered:
        typer.echo(recovered_sentence(one))
    typer.echo("")
    typer.echo(to_markdown(arms_table(shown, results.arms, results.summaries, results.comparisons)))
    typer.echo(pairing_sentence(measured.pairing, results.unmatched_arms))
    for note in condition_notes(measured.records):
        typer.echo(f"note: {note}")
    for item in measured.skips.skipped:
        typer.echo(f"skipped: {item.reason}", err=True)
    if written is not None:
        typer.echo(f"page: {written}")
