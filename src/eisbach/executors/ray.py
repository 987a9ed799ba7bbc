"""Calls as tasks of a Ray cluster: each asks for processors and GPUs, and is run again where its worker or node dies.

Ray's own retries are off: this file counts them, so that one that kills whatever runs it ends with a sentence. Files go
through a folder that all nodes see; what calls return comes back over Ray, and what they send goes by a mailbox.
"""

from __future__ import annotations

import importlib
import itertools
import math
import os
import secrets
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from eisbach.errors import UserError, counted
from eisbach.executors.base import DeadProcessError, Executor, Made
from eisbach.executors.ray_worker import (
    DIED,
    LISTEN_EVERY,
    MADE,
    RAISED,
    Mailbox,
    Outcome,
    Place,
    run_call,
    versions_here,
)

_TRIES = 4  # of one call, where its workers or nodes die
_AHEAD = 2  # calls that wait for each that runs: enough that no worker waits for the driver
_LOOK_EVERY = 2.0  # seconds between two looks at what the cluster has
_STOP_SECONDS = 60.0  # given to calls that were told to stop, to save what they have


@contextmanager
def connect(
    address: str | None, *, cell_cpus: float, cell_gpus: float | None, shared: str | Path | None
) -> Iterator[Cluster]:
    """A cluster to run calls on, left as it was found; arguments and errors as `executors.on_ray`."""
    ray = _import_ray()
    if not (math.isfinite(cell_cpus) and cell_cpus > 0) or (cell_gpus is not None and not 0 <= cell_gpus < math.inf):
        raise UserError(
            f"a cell takes more than 0 processors and at least 0 GPUs (got {cell_cpus:g} and {cell_gpus}); "
            "give --cell-cpus 1."
        )
    started = not ray.is_initialized()
    if started:
        _initialise(ray, address)
    try:
        with _token_in(shared) as token:
            ours = {name: value for name, value in os.environ.items() if name.startswith("EISBACH_")}
            place = Place(str(Path.cwd()), str(token) if token else None, versions_here(), max(1, int(cell_cpus)), ours)
            cluster = Cluster(ray, place, cell_cpus, cell_gpus)
            cluster.executor(network=True)  # refuses at once what no node can run
            yield cluster
    finally:
        if started:
            ray.shutdown()


def _import_ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody's work is counted for others
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UserError("--executor ray needs the package ray; run: pip install 'eisbach[ray]'.") from error


def _initialise(ray: Any, address: str | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    named = address or os.environ.get("RAY_ADDRESS")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        try:
            ray.init(address=named or "auto", **quiet)
        except ConnectionError:
            if named is not None:
                raise
            ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
    except (ConnectionError, ValueError, RuntimeError, OSError, TimeoutError) as error:
        raise UserError(
            f"no Ray cluster answers at '{named or 'auto'}' ({_first_line(error)}); start one with `ray start --head`, "
            "and run this command on one of its nodes."
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():  # Ray sets its own, which end the driver without a sentence
                signal.signal(number, handler or signal.SIG_DFL)


def _first_line(error: Exception) -> str:
    """What an error of Ray's says first; the rest is for its developers."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


@contextmanager
def _token_in(shared: str | Path | None) -> Iterator[Path | None]:
    """A file in the shared folder that every node must find there."""
    if shared is None:
        yield None
        return
    folder = Path(shared).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    token = folder / f".shared-{secrets.token_hex(6)}"
    token.touch()
    try:
        yield token
    finally:
        token.unlink(missing_ok=True)


class Cluster:
    """A connected cluster, and what calls ask of it."""

    def __init__(self, ray: Any, place: Place, cell_cpus: float, cell_gpus: float | None) -> None:
        self.ray, self.place = ray, place
        self._cpus, self._gpus = cell_cpus, cell_gpus
        self._task = ray.remote(run_call)
        self._mailbox: Any = None
        self._letters = itertools.count()

    def executor(self, network: bool = False) -> RayExecutor:
        """For calls that compute with a network, or without.

        Raises
        ------
        UserError
            No node has what one call asks for.
        """
        gpus = 0.0 if not network else self._gpus
        if gpus is None:
            gpus = 1.0 if any(node.get("GPU", 0.0) >= 1 for node in self._nodes()) else 0.0
        if not self.slots(gpus):
            most = max((node.get("CPU", 0.0) for node in self._nodes()), default=0.0)
            raise UserError(
                f"no node of the cluster has {self._cpus:g} processors and {gpus:g} GPUs for a cell (the largest has "
                f"{counted(int(most), 'processor')}); lower --cell-cpus or --cell-gpus, or start a larger node first."
            )
        return RayExecutor(self, gpus)

    def slots(self, gpus: float) -> int:
        """Calls that the nodes which are up can run at once."""
        return sum(
            int(min(node.get("CPU", 0.0) / self._cpus, node.get("GPU", 0.0) / gpus if gpus else math.inf))
            for node in self._nodes()
        )

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...], gpus: float, letter: int | None,
               again: bool) -> Any:  # fmt: skip
        """Asks for one call; gives what its outcome is asked for with."""
        task = self._task.options(
            num_cpus=self._cpus, num_gpus=gpus, max_retries=0, scheduling_strategy="SPREAD",
            name=getattr(function, "__name__", "cell"),
        )  # fmt: skip
        mailbox = None if letter is None else self._mailbox
        return task.remote(function, args, self.place, mailbox, letter or 0, again)

    def open_letter(self) -> int:
        """A number for messages; the mailbox starts with the first."""
        if self._mailbox is None:
            from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

            beside = NodeAffinitySchedulingStrategy(self.ray.get_runtime_context().get_node_id(), soft=True)
            self._mailbox = self.ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=beside).remote()
        return next(self._letters)

    def read(self, letter: int) -> list[Any]:
        """What was sent since the last look; nothing while the mailbox cannot be reached, as when a node has died."""
        try:
            return cast(list[Any], self.ray.get(self._mailbox.take.remote(letter)))
        except self.ray.exceptions.ActorUnavailableError:
            return []

    def outcome(self, reference: Any) -> Outcome:
        """What came of a call that has ended.

        Raises
        ------
        UserError
            Its worker cannot even begin: another Python, or no Eisbach.
        """
        errors = self.ray.exceptions
        try:
            return cast(Outcome, self.ray.get(reference))
        except (errors.RayTaskError, errors.RuntimeEnvSetupError) as error:
            last = str(error).strip().splitlines()[-1]
            raise UserError(
                f"a node of the cluster could not begin a cell ({last}); install the same Python and "
                "'eisbach[ray]' on all nodes."
            ) from error
        except errors.RayError as error:  # its worker or node died, or took what it returned along
            return DIED, error


class RayExecutor(Executor):
    """Calls as tasks; see the module."""

    def __init__(self, cluster: Cluster, gpus: float) -> None:
        self._cluster, self._gpus = cluster, gpus
        self.threads = cluster.place.threads
        self.jobs = max(1, cluster.slots(gpus))
        self._looked = time.monotonic()
        self._told = False
        self._open: set[Any] = set()
        self._opening = threading.Lock()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cancel()

    def call(self, function: Callable[..., Made], *args: Any) -> Made:
        """See `Executor.call`."""
        for attempt in range(_TRIES):
            reference = self._submit(function, args, None, attempt > 0)
            kind, value = self._cluster.outcome(reference)
            self._open.discard(reference)
            if kind == MADE:
                return cast(Made, value)
            if kind == RAISED:
                raise value
        raise self._dead(value)

    def each(
        self,
        function: Callable[..., Made],
        calls: Sequence[tuple[Any, ...]],
        *,
        dead: Callable[[int], Made] | None = None,
        listen: Callable[[Any], None] | None = None,
    ) -> Iterator[tuple[int, Made]]:
        """See `Executor.each`; where one raises, those that run are told to stop, and save what they have."""
        letter = None if listen is None else self._cluster.open_letter()
        rest = iter(range(len(calls)))
        running: dict[Any, int] = {}
        deaths: Counter[int] = Counter()

        def submit(index: int) -> None:
            running[self._submit(function, calls[index], letter, deaths[index] > 0)] = index

        try:
            while True:
                for index in itertools.islice(rest, max(0, self._window() - len(running))):
                    submit(index)
                if not running:
                    return
                done = self._wait(list(running), None if listen is None else LISTEN_EVERY)
                outcomes = [(running.pop(reference), self._cluster.outcome(reference)) for reference in done]
                self._open.difference_update(done)
                if listen is not None and letter is not None:
                    for message in self._cluster.read(letter):
                        listen(message)
                for index, (kind, value) in outcomes:
                    if kind == RAISED:
                        raise value
                    if kind == DIED:
                        deaths[index] += 1
                        if deaths[index] < _TRIES:
                            submit(index)
                            continue
                        if dead is None:
                            raise self._dead(value)
                        value = dead(index)
                    yield index, value
        except BaseException:
            self._cancel()
            raise

    def _submit(self, function: Callable[..., Any], args: tuple[Any, ...], letter: int | None, again: bool) -> Any:
        reference = self._cluster.submit(function, args, self._gpus, letter, again)
        with self._opening:
            self._open.add(reference)
        return reference

    def _wait(self, references: list[Any], listen_every: float | None) -> list[Any]:
        """Those of the calls that have ended: at least one, or none after a while."""
        ray = self._cluster.ray
        try:
            first, _ = ray.wait(references, num_returns=1, timeout=listen_every or _LOOK_EVERY, fetch_local=False)
            if not first:
                return []
            done, _ = ray.wait(references, num_returns=len(references), timeout=0, fetch_local=False)
        except ray.exceptions.RayError as error:
            raise UserError(
                f"the Ray cluster does not answer any more ({_first_line(error)}); run the same command again when it "
                "does: what is done is kept."
            ) from error
        return list(done)

    def _window(self) -> int:
        """Calls that may be asked for at once, by the nodes that are up now."""
        if time.monotonic() - self._looked > _LOOK_EVERY:
            self._looked = time.monotonic()
            slots = self._cluster.slots(self._gpus)
            if not slots and not self._told:
                self._told = True
                warnings.warn("no node of the cluster that could run a cell is up; waiting for one.", stacklevel=2)
            self.jobs = max(1, slots)
        return self.jobs * _AHEAD

    def _dead(self, error: Exception) -> DeadProcessError:
        return DeadProcessError(
            f"a worker or node died {_TRIES} times over the same work ({_first_line(error)}); give a cell more memory "
            "(fewer at once by --cell-cpus) and run the same command again: what is done is kept."
        )

    def _cancel(self) -> None:
        """Drops the calls that wait, lets those that run save what they have, and waits for them; the rest is ended."""
        ray = self._cluster.ray
        with self._opening:
            references = list(self._open)
            self._open.clear()
        for reference in references:
            with suppress(Exception):
                ray.cancel(reference, force=False)
        if references and ray.is_initialized():
            _, late = ray.wait(references, num_returns=len(references), timeout=_STOP_SECONDS, fetch_local=False)
            for reference in late:
                with suppress(Exception):
                    ray.cancel(reference, force=True)
