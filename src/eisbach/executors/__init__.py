"""Where cells run: in this process, in processes of their own, or on a Ray cluster, behind one interface.

A cell is a call of a module function that leaves its work in files. Whoever has many opens an executor:

    with open_executor(jobs, len(calls)) as executor:
        for index, made in executor.each(function, calls):
            ...

and whoever starts the work says where it runs: `with on_ray(address="auto"): run_experiment(spec)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from eisbach.executors.base import DeadProcessError, Executor, InThisProcess, available_cpus, send

__all__ = ["DeadProcessError", "Executor", "available_cpus", "on_ray", "open_executor", "send"]

_elsewhere: ContextVar[Callable[[bool], Executor] | None] = ContextVar("elsewhere", default=None)


def open_executor(jobs: int, calls: int, *, network: bool = False) -> Executor:
    """What runs `calls` calls: the cluster within `on_ray`; else `jobs` processes, or this one where one would do.

    Parameters
    ----------
    jobs : int
        Processes, at least 1; on a cluster its processors decide.
    calls : int
        How many there will be.
    network : bool
        They compute with a network, so that each of them gets a GPU where the cluster has any.
    """
    elsewhere = _elsewhere.get()
    if elsewhere is not None:
        return elsewhere(network)
    if jobs <= 1 or calls < 2:
        return InThisProcess()
    from eisbach.executors.local import Processes

    return Processes(min(jobs, calls), threads=max(1, available_cpus() // jobs))


@contextmanager
def on_ray(
    address: str | None = None,
    *,
    cell_cpus: float = 1.0,
    cell_gpus: float | None = None,
    shared: str | Path | None = None,
) -> Iterator[None]:
    """While it is open, executors that are opened in this thread run their calls on a Ray cluster.

    Parameters
    ----------
    address : str or None
        "auto" (the cluster that this machine is a node of) or HOST:PORT; None also starts a Ray of this machine alone
        where there is none.
    cell_cpus : float
        Processors of a call, which computes with as many threads.
    cell_gpus : float or None
        GPUs of a call that computes with a network, 0.5 for two on each; None is 1 where the cluster has any, else 0.
    shared : str or Path or None
        A folder that every node must see, such as the one that the work is written into.

    Raises
    ------
    UserError
        Ray is not installed, no cluster answers, or none of its nodes has so many processors and GPUs.
    """
    from eisbach.executors.ray import connect

    with connect(address, cell_cpus=cell_cpus, cell_gpus=cell_gpus, shared=shared) as cluster:
        token = _elsewhere.set(cluster.executor)
        try:
            yield
        finally:
            _elsewhere.reset(token)
