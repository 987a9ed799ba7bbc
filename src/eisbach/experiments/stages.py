"""One progress bar over many stages, with an estimate of the time left from the speed of each kind of stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eisbach.config import check_values
from eisbach.errors import UserError
from eisbach.files import read_json, write_json
from eisbach.progress import Progress, redirect_progress

OpenStage = Callable[[str], AbstractContextManager[Any]]
"""`with stage(key): ...` runs the body as that stage of a plan."""

_TRUST = 2.0  # seconds of work after which a measured speed replaces the guess


@dataclass
class Stage:
    """A piece of the whole.

    Attributes
    ----------
    key : str
        Unique name, `train/plain/seed-0`.
    kind : str
        Stages of one kind share a speed: `train`.
    units : float
        How much there is to do: steps, clips.
    seconds_per_unit : float
        First guess; the speed that is measured replaces it.
    label : str
        What the bar shows while it runs.
    done : bool
        Made by an earlier run.
    """

    key: str
    kind: str
    units: float
    seconds_per_unit: float
    label: str = ""
    done: bool = False
    fraction: float = 0.0

    @property
    def left(self) -> float:
        """Units still to do."""
        return 0.0 if self.done else self.units * (1.0 - self.fraction)


class SpeedBook:
    """Seconds a unit by kind: measured here, remembered from an earlier run, or guessed."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._seconds: dict[str, float] = {}
        self._units: dict[str, float] = {}
        self._remembered: dict[str, float] = {}
        self._guesses: dict[str, float] = {}
        if path is not None and path.is_file():
            with suppress(UserError):  # a convenience: guesses do without it
                speeds = check_values(dict[str, float], read_json(path, "record of speeds"), str(path))
                self._remembered = {kind: seconds for kind, seconds in speeds.items() if seconds > 0}

    def add(self, stage: Stage, seconds: float, units: float) -> None:
        """Counts `units` of `stage` that took `seconds`."""
        self._guesses[stage.kind] = stage.seconds_per_unit
        self._seconds[stage.kind] = self._seconds.get(stage.kind, 0.0) + seconds
        self._units[stage.kind] = self._units.get(stage.kind, 0.0) + units

    def seconds_per_unit(self, stage: Stage) -> float:
        """Measured when enough was seen; else remembered; else the guess, scaled by how this machine did elsewhere."""
        kind = stage.kind
        if self._seconds.get(kind, 0.0) >= _TRUST and self._units[kind] > 0:
            return self._seconds[kind] / self._units[kind]
        if kind in self._remembered:
            return self._remembered[kind]
        guessed = sum(self._guesses[other] * units for other, units in self._units.items())
        spent = sum(self._seconds.values())
        scale = spent / guessed if spent >= _TRUST and guessed > 0 else 1.0
        return stage.seconds_per_unit * scale

    def save(self) -> None:
        """Remembers the measured speeds for the next run in this folder."""
        if self.path is None:
            return
        measured = {
            kind: round(self._seconds[kind] / units, 6)
            for kind, units in self._units.items()
            if units > 0 and self._seconds[kind] >= _TRUST
        }
        write_json(self.path, self._remembered | measured)


class OverallProgress(Progress):
    """A bar in per cent over `stages`; bars that start inside a stage move it instead of drawing themselves."""

    def __init__(self, stages: Sequence[Stage], description: str, speeds: SpeedBook, *, quiet: bool = False) -> None:
        super().__init__(100, description, unit="%", quiet=quiet)
        self.stages = {stage.key: stage for stage in stages}
        self.speeds = speeds
        self._last_report: float | None = None

    def remaining(self) -> float | None:
        """Estimated seconds left over all stages."""
        return sum(stage.left * self.speeds.seconds_per_unit(stage) for stage in self.stages.values())

    def refresh(self, note: str = "") -> None:
        """Redraws with the share of the estimated time that is behind; the share never goes back."""
        left = self.remaining() or 0.0
        total = sum(stage.units * self.speeds.seconds_per_unit(stage) for stage in self.stages.values())
        percent = int(100 * (1 - left / total)) if total > 0 else 100
        self.advance(max(0, min(100, percent) - self.done), note)

    @contextmanager
    def stage(self, key: str) -> Iterator[Stage]:
        """Runs the body as the stage `key`; its time and units teach the estimate."""
        stage = self.stages[key]
        label = stage.label or key
        last = time.monotonic()

        def listen(bar: Progress) -> None:
            nonlocal last
            # A stage may open several bars (hashing, encoding, training): the one that counts is named like its kind.
            if bar.total <= 0:
                return
            now = time.monotonic()
            if bar.description.split(" ")[0] == stage.kind:
                fraction = min(1.0, bar.done / bar.total)
                if bar.fresh > 0 and fraction > stage.fraction:
                    self.speeds.add(stage, now - last, stage.units * (fraction - stage.fraction))
                stage.fraction = max(stage.fraction, fraction)
                last = now
            self.refresh(f"{label}: {bar.description} {bar.done}/{bar.total}{bar.unit}")

        self.refresh(label)
        with redirect_progress(listen):
            yield stage
        if stage.fraction < 1.0:
            self.speeds.add(stage, time.monotonic() - last, stage.units * (1.0 - stage.fraction))
        stage.fraction, stage.done = 1.0, True
        self.speeds.save()
        self.refresh(label)

    def report(self, key: str, fraction: float, note: str) -> None:
        """Moves a stage that runs in another process.

        The wall time since the last report is credited to this one: over many reports from processes side by side, the
        speed that is learnt is that of all of them together, which is what the estimate needs.
        """
        stage = self.stages[key]
        now = time.monotonic()
        fresh = min(1.0, fraction) - stage.fraction
        if fresh > 0:
            if self._last_report is not None:
                self.speeds.add(stage, now - self._last_report, stage.units * fresh)
            self._last_report = now
            stage.fraction += fresh
        self.refresh(note)
