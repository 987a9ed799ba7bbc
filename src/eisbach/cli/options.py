"""Options and output that commands share."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated

import typer

from eisbach.errors import one_line

if TYPE_CHECKING:
    from eisbach.types import SkipReport

Device = Annotated[str, typer.Option(metavar="DEVICE", help="Where networks compute: auto, cpu, cuda, cuda:1 or mps.")]
Precision = Annotated[
    str, typer.Option(help="How they compute: fp32, bf16, or auto: bf16 on a GPU that has it in hardware.")
]
OptionalDevice = Annotated[
    str | None, typer.Option("--device", metavar="DEVICE", help="As the key `device`: auto, cpu, cuda, cuda:1 or mps.")
]
OptionalPrecision = Annotated[
    str | None, typer.Option("--precision", help="As the key `precision`: auto, fp32 or bf16.")
]
FullPrecision = Annotated[
    str | None,
    typer.Option("--precision", help="fp32 unless named; bf16, or auto: bf16 on a GPU that has it in hardware."),
]
JOBS = typer.Option(0, "--jobs", "-j", min=0, help="Processes; 0 takes one for each processor.")
DRY_RUN = typer.Option(False, "--dry-run", help="Print the resolved options and stop.")
AS_JSON = typer.Option(False, "--json", help="Print JSON instead of text.")


def placement_changes(device: str | None, precision: str | None) -> list[str]:
    """`--device` and `--precision` as changes of a recipe's keys of these names."""
    given = (("device", device), ("precision", precision))
    return [f"{key}={json.dumps(value)}" for key, value in given if value is not None]


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
