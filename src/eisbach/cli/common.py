"""Options and output that subcommands share."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eisbach.errors import UserError, one_line

if TYPE_CHECKING:
    from eisbach.types import SkipReport


PROMPT_SETS = ", ".join(sorted(path.stem for path in (Path(__file__).parents[1] / "assets/prompts").glob("*.yaml")))
"""The names of the package's prompt sets, for help: `generation.prompts` would load torch."""

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the settings, such as group.key=1 (repeatable)."),
]
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
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=0, help="Processes; 0 takes one for each processor.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings and stop.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no notes.")]


def placement_changes(device: str | None, precision: str | None) -> list[str]:
    """`--device` and `--precision` as changes of a recipe's keys of these names."""
    from eisbach.config import override

    given = (("device", device), ("precision", precision))
    return [override(key, value) for key, value in given if value is not None]


def typed_line(command: str) -> str:
    """The shell line that was typed, so that a page can be made again with every option of it; "" where none was."""
    if Path(sys.argv[0]).name.startswith(("eisbach", "__main__")) and command in sys.argv[1:2]:
        return shlex.join(["eisbach", *sys.argv[1:]])
    return ""


def worker_count(jobs: int) -> int:
    """`jobs`, or the number of processors when it is 0."""
    return jobs or os.cpu_count() or 1


def numbers(text: str, option: str, example: str = "0.1,0.5,0.9") -> list[float]:
    """Numbers separated by commas.

    Raises
    ------
    UserError
        Names the option and an example.
    """
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UserError(f"{option} is '{text}'; give numbers separated by commas, for example {example}.") from error


def print_json(value: object) -> None:
    """Prints a value as indented JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_note(text: str) -> None:
    """A sentence on standard error."""
    typer.echo(f"note: {text}", err=True)


def say_skipped(report: SkipReport, what: str) -> None:
    """Prints the first ten items that were left out, and how many more there are."""
    for item in report.skipped[:10]:
        typer.echo(f"  skipped {one_line(item.item)}: {item.reason}")
    if len(report.skipped) > 10:
        typer.echo(f"  and {len(report.skipped) - 10} more {what}.")


# --- `--executor ray`: where a command's cells run


ExecutorName = Annotated[
    str, typer.Option("--executor", metavar="NAME", help="local (processes of this machine), or ray (a cluster).")
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        metavar="HOST:PORT",
        help="ray: the cluster; auto is the one that this machine is a node of.",
        show_default="auto; without one, a Ray of this machine",
    ),
]
CellCpus = Annotated[
    float | None, typer.Option("--cell-cpus", metavar="N", help="ray: processors of a cell.", show_default="1")
]
CellGpus = Annotated[
    float | None,
    typer.Option(
        "--cell-gpus",
        metavar="N",
        help="ray: GPUs of a cell that computes with a network; 0.5 puts two on each.",
        show_default="1 where the cluster has any",
    ),
]


@contextmanager
def where(
    executor: str,
    address: str | None,
    cell_cpus: float | None,
    cell_gpus: float | None,
    *,
    shared: str | Path | None,
    jobs: int | None,
) -> Iterator[None]:
    """Runs what is inside where these options say.

    Parameters
    ----------
    shared : str, Path or None
        The folder that the command writes into, which all nodes of a cluster must see.
    jobs : int or None
        `--jobs` where it was given.

    Raises
    ------
    UserError
        An unknown executor, or an option that the other one does not have.
    """
    of_ray = {"--address": address, "--cell-cpus": cell_cpus, "--cell-gpus": cell_gpus}
    given = [option for option, value in of_ray.items() if value is not None]
    if executor not in ("local", "ray"):
        raise UserError(f"there is no executor '{executor}'; choose local or ray.")
    if executor == "local":
        if given:
            raise UserError(f"{given[0]} is an option of --executor ray; add that, or leave {given[0]} out.")
        yield
        return
    if jobs:
        raise UserError(
            f"--jobs {jobs} counts processes of this machine; with --executor ray leave it out: the cluster runs as "
            "many cells at once as it has processors for (--cell-cpus), and GPUs (--cell-gpus)."
        )
    from eisbach.executors import on_ray

    with on_ray(address, cell_cpus=1.0 if cell_cpus is None else cell_cpus, cell_gpus=cell_gpus, shared=shared):
        yield


def is_folder_of_audio(source: str | Path) -> bool:
    """Whether this is a folder of recordings that has no manifest yet, nor latents that were encoded elsewhere."""
    from eisbach.audio import list_audio
    from eisbach.data.manifest import MANIFEST_NAME
    from eisbach.data.pre_encoded import is_pre_encoded

    folder = Path(source)
    if not folder.is_dir() or (folder / MANIFEST_NAME).is_file() or is_pre_encoded(folder):
        return False
    return bool(list_audio(folder).files)


def make_manifests(sources: str | list[str] | None, quiet: bool) -> None:
    """Makes the manifest of every folder of audio that is named in a manifest's place and has none, as `eisbach data
    folder` does, and says what trains."""
    from eisbach.data.manifest import MANIFEST_NAME

    for source in [sources] if isinstance(sources, str) else sources or []:
        if not is_folder_of_audio(source):  # whoever loads the manifest says what there is instead
            continue
        from eisbach.data.audio_folder import read_folder
        from eisbach.data.selection import TrainingRule, choose_clips

        folder = Path(source)
        speaks = not quiet and os.environ.get("RANK", "0") == "0"  # of the processes of torchrun, one
        manifest, report = read_folder(folder, quiet=quiet, notify=print_note if speaks else None)
        if speaks:
            left_out = f"; {len(report.skipped)} left out, see eisbach data doctor {folder}" if report.skipped else ""
            chosen = choose_clips(manifest, TrainingRule()).sentence()
            print_note(f"{folder} had no manifest, so {folder / MANIFEST_NAME} was made: {chosen}{left_out}.")
