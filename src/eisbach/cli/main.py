"""The `eisbach` command: collects the subcommands and turns a user's mistakes into one sentence and exit code 2."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import NoReturn, TextIO

import typer

from eisbach import __version__
from eisbach.cli import (
    allocation,
    analyze,
    compare,
    data,
    demo,
    experiment,
    export,
    figure,
    generate,
    images,
    probe,
    recoverability,
    recoverability_digits,
    signature,
    signature_entropy,
    train,
)
from eisbach.errors import EisbachError, InterruptedRun

app = typer.Typer(
    name="eisbach",
    help="Decide where a diffusion model's training effort goes, and measure what that did.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.add_typer(data.app, name="data")
app.command("train")(train.train)
app.command("generate")(generate.generate)
app.command("export")(export.export)
app.command("probe")(probe.probe)
app.command("allocation")(allocation.allocation)
app.command("analyze")(analyze.analyze)
app.command("figure")(figure.figure)
app.command("compare")(compare.compare)
app.add_typer(experiment.app, name="experiment")
for command in (signature_entropy.entropy, signature_entropy.structure, signature_entropy.gate):
    signature.app.command(command.__name__)(command)
app.add_typer(signature.app, name="signature")
recoverability.app.command("digits")(recoverability_digits.digits)
app.add_typer(recoverability.app, name="recoverability")
app.add_typer(images.app, name="images")


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def _say_warnings() -> None:
    """Shows the package's own warnings as the notes they are; those of other libraries keep their form."""
    usual, home = warnings.showwarning, str(Path(__file__).parents[1])

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if filename.startswith(home) and file is None:
            typer.echo(f"note: {message}", err=True)
        else:
            usual(message, category, filename, lineno, file, line)

    warnings.showwarning = show


def main() -> NoReturn:
    """Runs the command line: exit code 0, 1 (a defect of ours), 2 (a user's mistake) or 130 (stopped by the user)."""
    _say_warnings()
    try:
        app(standalone_mode=True)
    except InterruptedRun as error:
        typer.echo(f"eisbach: stopped: {error}", err=True)
        sys.exit(130)
    except EisbachError as error:
        typer.echo(f"eisbach: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("eisbach: stopped.", err=True)
        sys.exit(130)
    except OSError as error:
        if error.errno in (28, 122):  # ENOSPC, EDQUOT
            typer.echo(
                f"eisbach: the disk is full ({error.filename or error}); free some space and run the same command again.",
                err=True,
            )
            sys.exit(2)
        if error.errno in (1, 13, 30) and error.filename:  # EPERM, EACCES, EROFS
            typer.echo(f"eisbach: {error.filename} is out of reach ({error.strerror}); choose another place.", err=True)
            sys.exit(2)
        raise
    sys.exit(0)
