"""`--executor ray`: the options that say where a command's cells run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from eisbach.errors import UserError

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
