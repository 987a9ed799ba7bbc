"""`eisbach recoverability`: experiments on what can be recovered at each noise level; one subcommand a problem."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eisbach.errors import UserError

if TYPE_CHECKING:
    from eisbach.studies.erd_toy.config import ToyConfig

app = typer.Typer(
    name="recoverability",
    help="Recoverability weighting (ERD) on problems whose truth is known.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _group() -> None:
    pass  # keeps `toy` a subcommand even while it is the only one


@app.command("toy")
def toy(
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Result folder.")] = Path("runs/toy"),
    quick: Annotated[bool, typer.Option("--quick", help="About a minute: short trainings, three seeds.")] = False,
    seeds: Annotated[
        int | None,
        typer.Option(metavar="N", help="Training seeds of the comparison (10; at least 2, 0 leaves it out)."),
    ] = None,
    path: Annotated[
        list[str] | None, typer.Option(help="Noising path (repeatable).", show_default="linear, vp, gvp")
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option(help="What networks predict (repeatable).", show_default="eps, x0, v, u")
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help="Weighting to compare (repeatable).", show_default="constant, min_snr, p2, erd, erd_corrected"
        ),
    ] = None,
    batch: Annotated[int | None, typer.Option(metavar="N", help="Batch of the comparison's trainings (64).")] = None,
    recipe: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="YAML of all settings, as --dry-run prints it.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. --set data.standardise=true (repeatable)."),
    ] = None,
    jobs: Annotated[int, typer.Option(metavar="N", help="Processes, of one thread each.", min=1)] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Reproduce the ERD paper's 2D experiments with exact Bayes floors, and compare weightings at equal steps.

    The folder holds toy.json, records.parquet, figures.npz, figures/*.png and index.html. The same command continues a run that
    was cut short and repeats nothing that is done.
    """
    from eisbach.config import dump_yaml

    config = _configure(recipe, overrides or [], quick, seeds, path, target, arm, batch)
    if dry_run:
        typer.echo(dump_yaml(config), nl=False)
        return
    from eisbach.progress import Progress
    from eisbach.studies.erd_toy import run_toy
    from eisbach.studies.erd_toy.page import PAGE, write_toy

    run = run_toy(config, out, jobs=jobs, quiet=quiet)
    with Progress(1, "draw", quiet=quiet) as bar:
        report = write_toy(run, out, command=shlex.join(["eisbach", *sys.argv[1:]]))
        bar.advance()
    if as_json:
        typer.echo(json.dumps(report.to_json(run), indent=2, ensure_ascii=False))
        return
    typer.echo(report.headline)
    for text in report.findings:
        typer.echo(f"- {text}")
    typer.echo(f"page: {out / PAGE}")


def _configure(
    recipe: Path | None,
    overrides: list[str],
    quick: bool,
    seeds: int | None,
    paths: list[str] | None,
    targets: list[str] | None,
    arms: list[str] | None,
    batch: int | None,
) -> ToyConfig:
    from eisbach.config import apply_overrides, build_config, read_yaml
    from eisbach.studies.erd_toy.config import ToyConfig, quick_values

    values: dict[str, Any] = read_yaml(recipe) if recipe is not None else {}
    if quick:
        values = quick_values(values)

    def put(group: str | None, key: str, value: object) -> None:
        if value is None:
            return
        if group is None:
            values[key] = value
            return
        held = values.get(group)
        if held is not None and not isinstance(held, dict):
            raise UserError(f"'{group}' must be a group of keys; got {held!r}.")
        values[group] = {**(held or {}), key: value}

    put(None, "paths", paths)
    put(None, "targets", targets)
    put("comparison", "arms", arms)
    put("comparison", "seeds", seeds)
    put("comparison", "batch", batch)
    return build_config(ToyConfig, apply_overrides(values, overrides), str(recipe) if recipe else "the configuration")
