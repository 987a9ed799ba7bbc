"""`eisbach study`: every claim with its verdict; run a study, judge its records, write the page of all."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from eisbach.cli.common import (
    Address,
    AsJson,
    CellCpus,
    CellGpus,
    DryRun,
    ExecutorName,
    OptionalDevice,
    OptionalPrecision,
    Overrides,
    Quiet,
    print_json,
    where,
)

app = typer.Typer(
    name="study",
    help="Claims of papers and of ours, each decided by a study: list them, read one, run one.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_NARROWEST, _WIDEST = 60, 120  # characters of a line of `list`
_Name = Annotated[str, typer.Argument(metavar="NAME", help="A study, as `eisbach study list` names it.")]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """Every claim under its study: verdict, where it stands in its paper, the effect with its 95% interval, the unit,
    the date and the study's core minutes; studies that are not run last."""
    from eisbach.studies.contract import load_studies
    from eisbach.studies.wording import list_lines, result_row

    studies = load_studies()
    if as_json:
        rows = [(study, *row) for study in studies for row in study.rows()]
        rows.sort(key=lambda row: row[2].verdict == "not run")
        print_json([result_row(*row) for row in rows])
        return
    for line in list_lines(studies, max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size().columns))):
        typer.echo(line)
    typer.echo("† a rule was declared or changed when some of its records were known")
    typer.echo("One study in full: eisbach study show NAME")


@app.command()
def show(name: _Name, as_json: AsJson = False) -> None:
    """One study: what was declared, every effect behind its verdicts, and how to run it."""
    from eisbach.studies.contract import load_study
    from eisbach.studies.wording import study_lines, study_minutes

    study = load_study(name)
    if as_json:
        declaration, result = study.declaration.model_dump(mode="json"), study.result.model_dump(mode="json")
        print_json({"declaration": declaration, "result": result, **study_minutes(study)})
        return
    for line in study_lines(study):
        typer.echo(line)


@app.command()
def run(
    name: _Name,
    quick: Annotated[
        bool, typer.Option("--quick", help="A rehearsal of about a minute; its numbers decide nothing.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Processes, of one thread each (1; erd_toy 2).")
    ] = None,
    executor: ExecutorName = "local",
    address: Address = None,
    cell_cpus: CellCpus = None,
    cell_gpus: CellGpus = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The run's folder (runs/NAME); the same command continues it."),
    ] = None,
    overrides: Overrides = None,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="YAML of settings, as --dry-run prints them.")
    ] = None,
    device: OptionalDevice = None,
    precision: OptionalPrecision = None,
    seeds: Annotated[int | None, typer.Option(metavar="N", help="Seeds (erd_toy, erd_digits and others).")] = None,
    first_seed: Annotated[
        int | None, typer.Option(metavar="N", help="The first of them; another one repeats (erd_toy, erd_digits).")
    ] = None,
    path: Annotated[list[str] | None, typer.Option(help="Noising path (erd_toy; repeatable).")] = None,
    target: Annotated[list[str] | None, typer.Option(help="What networks predict (erd_toy; repeatable).")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="Weighting to compare (erd_toy; repeatable).")] = None,
    batch: Annotated[int | None, typer.Option(metavar="N", help="Batch of the trainings (erd_toy).")] = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Run a study, or continue it, and judge it: its folder then holds the records, result.json and, for most, a
    page."""
    from eisbach.config import dump_yaml, override
    from eisbach.studies.contract import load_study
    from eisbach.studies.running import default_jobs, option_key, placed_changes, resolve_settings, run_study
    from eisbach.studies.wording import before_run_lines, result_lines

    study = load_study(name)
    chosen: dict[str, Any] = {
        "seeds": seeds, "first-seed": first_seed, "path": path, "target": target, "arm": arm, "batch": batch
    }  # fmt: skip
    given = {option: value for option, value in chosen.items() if value is not None}
    changes = [*(overrides or []), *(override(option_key(study, key), value) for key, value in given.items())]
    changes += placed_changes(study, device, precision)
    folder = out or Path("runs") / study.name
    settings = resolve_settings(study, out=folder, jobs=jobs, quick=quick, file=config, changes=changes)
    if dry_run:
        typer.echo(dump_yaml(settings), nl=False)
        return
    placed = ("--device", device), ("--precision", precision)
    processes = jobs or default_jobs(study, settings)
    parts = ["eisbach", "study", "run", study.name, *(["--quick"] if quick else [])]
    parts += [] if config is None else ["--config", str(config)]
    for key, value in given.items():
        for item in value if isinstance(value, list) else [value]:
            parts += [f"--{key}", str(item)]
    parts += [part for name, value in placed if value is not None for part in (name, value)]
    parts += [part for change in overrides or [] for part in ("--set", change)]
    command = shlex.join([*parts, *(["--jobs", str(processes)] if processes > 1 else []), "--out", str(folder)])
    if not quick and not quiet:
        for line in before_run_lines(study):
            typer.echo(line, err=True)
    with where(executor, address, cell_cpus, cell_gpus, shared=folder, jobs=jobs):
        result = run_study(study, settings, folder, command=command, jobs=processes, quick=quick, quiet=quiet)
    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    for line in result_lines(study.declaration, result):
        typer.echo(line)
    typer.echo(f"\n{folder / 'result.json'}; what was declared: eisbach study show {study.name}")


@app.command()
def judge(
    name: _Name,
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="FOLDER", help="Records of a run; those of the last full run unless given."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge the records of a run anew and write FOLDER/result.json; without a folder, the study's own records and
    result."""
    from eisbach.errors import UserError
    from eisbach.studies.contract import RECORDS, load_study
    from eisbach.studies.running import judge_records
    from eisbach.studies.wording import result_lines

    study = load_study(name)
    records = folder or study.folder / RECORDS
    if not records.is_dir():
        raise UserError(
            f"there is no folder {records}; name the folder of a run (the records of full runs are in the repository, "
            "not in an installed package)."
        )
    result = judge_records(study, records, study.folder if folder is None else records)
    if as_json:
        print_json(result.model_dump(mode="json"))
        return
    for line in result_lines(study.declaration, result):
        typer.echo(line)


@app.command()
def page(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Receives index.html.")] = Path("runs/claims"),
    markdown: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The same as Markdown, with pages beside it; docs/claims.md where it is there, else beside the page.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write all claims: one page of HTML, and pages of Markdown."""
    from eisbach.studies.page import write_pages

    documented = Path("docs/claims.md")
    text = markdown or (documented if documented.is_file() else out / "claims.md")
    write_pages(out / "index.html", text)
    if as_json:
        print_json({"page": str(out / "index.html"), "markdown": str(text)})
        return
    typer.echo(f"{out / 'index.html'}\n{text}")


ANY_WORDS = {"allow_extra_args": True, "ignore_unknown_options": True}


def recoverability(context: typer.Context) -> None:
    """Gone: `recoverability toy` and `digits` are now `study run erd_toy` and `study run erd_digits`."""
    from eisbach.errors import UserError

    words = context.args
    study = f"erd_{words[0]}" if words and words[0] in ("toy", "digits") else "erd_toy or erd_digits"
    raise UserError(f"'recoverability' is now `eisbach study run {study}`, with the same options.")
