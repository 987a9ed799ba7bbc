"""`eisbach experiment`: arms × training seeds × prompts × seeds from one recipe."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    placement_changes,
    print_json,
    where,
)
from eisbach.cli.next_steps import NextStep

if TYPE_CHECKING:
    from eisbach.experiments.spec import ExperimentSpec

app = typer.Typer(help="Train, play, measure and compare several arms from one recipe.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A YAML recipe, or a built-in one: curation, demo, gated or levels.")],
    overrides: Overrides = None,
    out: Annotated[str | None, typer.Option(help="The experiment's folder; the recipe's own unless given.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Trainings that run at once.")] = None,
    executor: ExecutorName = "local",
    address: Address = None,
    cell_cpus: CellCpus = None,
    cell_gpus: CellGpus = None,
    device: OptionalDevice = None,
    precision: OptionalPrecision = None,
    quick: Annotated[bool, typer.Option("--quick", help="A rehearsal with hardly any training.")] = False,
    votes: Annotated[
        Path | None, typer.Option(help="Folder of a listening test between the arms: its votes go on the page.")
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> NextStep | None:
    """Run an experiment, or continue it: the same command redoes nothing that is already made."""
    from eisbach.config import override
    from eisbach.experiments.recipes import load_spec

    changes = list(overrides or [])
    changes += [override("out", out)] if out is not None else []
    changes += [f"jobs={jobs}"] if jobs is not None else []
    changes += placement_changes(device, precision)
    spec = load_spec(recipe, changes, quick=quick)
    cluster = where(executor, address, cell_cpus, cell_gpus, shared=spec.out, jobs=jobs)
    with nullcontext() if dry_run else cluster:
        execute(spec, dry_run=dry_run, as_json=as_json, quiet=quiet, votes=votes)
    if dry_run:
        return None
    trained = [spec.baseline, *(name for name, arm in spec.arms.items() if arm.trains and name != spec.baseline)]
    heard = trained[:2] if len(trained) > 1 else [spec.baseline, "ARM"]
    folder = Path(spec.out)
    folders = [str(folder / "arms" / name / f"seed-{spec.train_seeds[0]}" / "samples") for name in heard]
    return NextStep(shlex.join(["eisbach", "listen", "make", *folders, "--out", f"{folder}-listening"]))


def execute(
    spec: ExperimentSpec,
    *,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    votes: Path | None = None,
    prepare: Callable[[], object] | None = None,
) -> None:
    """Checks and runs a specification, writes its page, and prints where it is and what was found.

    `prepare` is called once the folder is known to be this experiment's, see `run_experiment`.
    """
    from eisbach.config import dump_yaml
    from eisbach.experiments.spec import check_spec
    from eisbach.output_folder import check_writable

    check_spec(spec)
    heard = None
    if votes is not None:
        from eisbach.report.listen.votes import votes_about

        heard = votes_about(votes, list(spec.arms))
    if dry_run:
        check_writable(spec.out)
        typer.echo(dump_yaml(spec), nl=False)
        return
    from eisbach.experiments.run import run_experiment
    from eisbach.report.experiment.page import summary_lines, summary_with_words, write_experiment_page

    command = shlex.join(["eisbach", *sys.argv[1:]])
    result = run_experiment(
        spec,
        prepare=prepare,
        finish=lambda done: write_experiment_page(done, [command], votes=heard),
        notify=lambda sentence: typer.echo(f"note: {sentence}", err=True),
        quiet=quiet,
    )
    if as_json:
        print_json(summary_with_words(result))
        return
    for line in summary_lines(result):
        typer.echo(line)
    typer.echo(str(result.folder / "report" / "index.html"))
