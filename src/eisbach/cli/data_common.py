"""Options and output that the subcommands of `eisbach data` share."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import typer

from eisbach.errors import one_line

if TYPE_CHECKING:
    from eisbach.types import SkipReport

JOBS = typer.Option(0, "--jobs", "-j", min=0, help="Processes; 0 takes one for each processor.")
DRY_RUN = typer.Option(False, "--dry-run", help="Print the resolved options and stop.")
AS_JSON = typer.Option(False, "--json", help="Print JSON instead of text.")


def worker_count(jobs: int) -> int:
    """`jobs`, or the number of processors when it is 0."""
    return jobs or os.cpu_count() or 1


def print_json(value: object) -> None:
    """Prints a value as indented JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def say_skipped(report: SkipReport, what: str) -> None:
    """Prints the first ten items that were left out, and how many more there are."""
    for item in report.skipped[:10]:
        typer.echo(f"  skipped {one_line(item.item)}: {item.reason}")
    if len(report.skipped) > 10:
        typer.echo(f"  and {len(report.skipped) - 10} more {what}.")
