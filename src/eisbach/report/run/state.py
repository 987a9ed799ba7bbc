"""What a run's folder says at this moment, read without touching it: half-written files are passed over, not errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.config import read_yaml
from eisbach.errors import UserError
from eisbach.files import read_journal, read_json
from eisbach.report.run.clips import WeighedClip, caption_notes, weighed_clips
from eisbach.report.wording import format_flatness

_ENOUGH_ROWS = 10  # logged losses, under which nothing is said about their course
_LITTLE = 0.001  # change of the held-out loss, as a share, under which an adapter does nothing to speak of
_WORSE = 0.01  # rise of the held-out loss over its lowest, as a share, worth a word
_FEW = 0.2  # effective sample share under which few clips carry the training


@dataclass(frozen=True)
class DemoClip:
    """A piece that was generated from a checkpoint.

    Attributes
    ----------
    key, caption : str
    path : Path
    judged : str
        What the judge of flatness says of it; "" where it was not measured.
    form : str
        Its sections' letters, such as "A B A′".
    """

    key: str
    caption: str
    path: Path
    judged: str = ""
    form: str = ""


@dataclass(frozen=True)
class RunState:
    """One training run.

    Attributes
    ----------
    name : str
        What tells it from the others on the page.
    folder : Path
    status : 'running', 'stopped', 'finished' or 'not begun'
    step, steps : int
        Done and planned.
    seconds_left : float or None
    rows : list of dict
        Of `metrics.jsonl`, ascending.
    weighs : bool
        The recipe weights samples.
    troubles : list of str
        What looks wrong, a sentence each.
    notes : list of str
        What is worth knowing, such as where the held-out loss was lowest.
    demos : dict of int to list of DemoClip
        By step of the checkpoint that played them.
    clips : list of WeighedClip
        Those that weigh most and least, where the run weighs and logs samples.
    """

    name: str
    folder: Path
    status: str
    step: int
    steps: int
    seconds_left: float | None
    rows: list[dict[str, Any]] = field(repr=False)
    weighs: bool
    troubles: list[str]
    notes: list[str]
    demos: dict[int, list[DemoClip]]
    clips: list[WeighedClip] = field(default_factory=list)

    def curve(self, column: str) -> tuple[list[float], list[float]]:
        """Steps and values of a logged column where it is known; `a/b` is entry b of column a."""
        name, _, entry = column.partition("/")
        points = []
        for row in self.rows:
            value = row.get(name)
            if entry:
                value = value.get(entry) if isinstance(value, dict) else None
            if isinstance(value, (int, float)) and math.isfinite(value):
                points.append((float(row["step"]), float(value)))
        return [x for x, _ in points], [y for _, y in points]


def find_runs(paths: Sequence[str | Path]) -> dict[str, Path]:
    """Run folders by name: those given, and the runs of experiments given.

    Raises
    ------
    UserError
        A path that is neither a run nor an experiment.
    """
    folders: list[Path] = []
    for path in map(Path, paths):
        if (path / "config.yaml").is_file():
            folders.append(path)
        elif (path / "experiment.yaml").is_file():
            folders += sorted(path.glob("arms/*/seed-*/train"))
        else:
            raise UserError(
                f"{path} is neither a training run (config.yaml) nor an experiment (experiment.yaml); give the folder "
                "that --out named."
            )
    if not folders:
        raise UserError(f"{paths[0]} has not begun any training yet; watch it when it has.")
    return _named(folders)


def _named(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders by the parts of their paths that tell them apart."""
    parts = {folder: [part for part in folder.parts if part != "train"] for folder in dict.fromkeys(folders)}
    names: dict[str, Path] = {}
    for folder, own in parts.items():
        others = [other for key, other in parts.items() if key != folder]
        count = next((n for n in range(1, len(own)) if all(other[-n:] != own[-n:] for other in others)), len(own))
        names["/".join(own[-count:])] = folder
    return names


def read_run(name: str, folder: Path) -> RunState:
    """The state of a run.

    Raises
    ------
    UserError
        Its configuration cannot be read.
    """
    config = read_yaml(folder / "config.yaml", "configuration of the run")
    steps = config.get("steps")
    steps = steps if isinstance(steps, int) else 0
    log = folder / "metrics.jsonl"
    rows = (
        [row for row in read_journal(log, "log of the training") if isinstance(row.get("step"), int)]
        if log.is_file()
        else []
    )
    step = max((row["step"] for row in rows), default=0)
    finished = _finished(folder)
    status = "finished" if finished else "running" if _is_held(folder) else "stopped" if rows else "not begun"
    weighting = config.get("weighting")
    weighs = isinstance(weighting, dict) and weighting.get("sample", "none") != "none"
    state = RunState(name, folder, status, step, steps, None, rows, weighs, [], [], _demos(folder))
    speed = next((value for value in reversed(state.curve("steps_per_second")[1]) if value > 0), None)
    left = (steps - step) / speed if speed and status == "running" else None
    notes = _stop_notes(state) + _held_out_notes(state) + caption_notes(config)
    clips = weighed_clips(folder, config) if weighs else []
    return replace(state, seconds_left=left, troubles=_troubles(state), notes=notes, clips=clips)


def _finished(folder: Path) -> bool:
    try:
        return (folder / "result.json").is_file() and isinstance(read_json(folder / "result.json", "result"), dict)
    except UserError:
        return False


def _is_held(folder: Path) -> bool:
    """Whether a process is at work in the folder; looking takes no hold of it."""
    try:
        import fcntl

        with (folder / ".lock").open("r") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(handle, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    except (OSError, ImportError):
        return False
    return False


def _troubles(state: RunState) -> list[str]:
    """What looks wrong with a run, from its log."""
    found = []
    losses = state.curve("loss")[1]
    if len(losses) >= _ENOUGH_ROWS:
        part = max(3, len(losses) // 5)
        before, now = np.array(losses[:part]), np.array(losses[-part:])
        error = math.sqrt(before.var(ddof=1) / part + now.var(ddof=1) / part)
        if before.mean() - now.mean() < error:
            risen = now.mean() - before.mean() > 2 * error
            why = "is too high" if risen else "may be too low, or there is little left to learn"
            found.append(
                f"The training loss has {'risen' if risen else 'not fallen'}: {before.mean():.4f} over its first "
                f"steps, {now.mean():.4f} over its last (± {error:.4f}). The learning rate {why}."
            )
    held_steps, held = state.curve("held_out_loss")
    if len(held) > 1 and held_steps[0] == 0 and held_steps[-1] >= 50 and held[0] > 0:
        change = abs(held[-1] / held[0] - 1.0)
        if change < _LITTLE:
            found.append(
                f"The adapter does next to nothing: after {held_steps[-1]:.0f} steps the loss on held-out clips "
                f"differs from the base model's by {change:.2%}. Raise the learning rate, or train longer."
            )
        elif min(held[1:]) > held[0]:
            found.append(
                f"No step was better than the base model on held-out clips: {held[0]:.4f} before training, "
                f"{min(held[1:]):.4f} at best. The learning rate is too high, or they are unlike the clips that train."
            )
    spread = state.curve("weight_cv")[1]
    if state.weighs and len(spread) >= 3 and max(spread[-3:]) < 1e-6:
        found.append("All weights are equal: the weighting changes nothing on this material.")
    share = state.curve("effective_sample_share")[1]
    if share and share[-1] < _FEW:
        found.append(
            f"Few clips carry the training: its weights count as much as {share[-1]:.0%} of the clips would alike."
        )
    if any(row.get("loss", 0.0) is None for row in state.rows[-3:]):
        found.append("The loss was not a number at the last logged step.")
    return found + _failed_demos(state)


def _failed_demos(state: RunState) -> list[str]:
    """The last demo that could not be played, unless one was played after it."""
    logged = [(row["step"], row["demos"]) for row in state.rows if isinstance(row.get("demos"), dict)]
    step, last = logged[-1] if logged else (0, {})
    return [f"The demos of step {step} could not be made: {last['error']}"] if "error" in last else []


def _held_out_notes(state: RunState) -> list[str]:
    """Where the held-out loss was lowest, when it has risen since."""
    steps, held = state.curve("held_out_loss")
    if len(held) < 3:
        return []
    best = int(np.argmin(held))
    if held[-1] / held[best] - 1.0 < _WORSE:
        return []
    return [
        f"The loss on held-out clips was lowest at step {steps[best]:.0f} ({held[best]:.4f}) and is {held[-1]:.4f} "
        "now: the model may be learning its clips by heart. Whether its music is the better for it, listening says."
    ]


def _stop_notes(state: RunState) -> list[str]:
    """What the run's stopping rule says after its newest demos, and what that rests on."""
    logged = [row["stop"] for row in state.rows if isinstance(row.get("stop"), dict)]
    if not logged:
        return []
    last = logged[-1]
    best, clips = last.get("best"), last.get("clips")
    evidence, needed, gain = (last.get(key) for key in ("log_evidence", "needed", "gain"))
    if evidence is None or needed is None or gain is None:
        rest = "whether going on gains anything has not been tested yet"
    else:
        rest = (
            f"against it the newest ones gain {gain:+.3f} of the measure's range, and the evidence that going on gains "
            f"less than the margin is {evidence:.1f} nats of {needed:.1f} that it takes"
        )
    if last.get("stop"):
        verdict = "Its demos say that going on gains less than the margin."
        return [f"{verdict} The best is step {best}; {rest} ({clips} clips)."]
    return [f"By its demos the best so far is step {best}; {rest} ({clips} clips)."]


def _demos(folder: Path) -> dict[int, list[DemoClip]]:
    """Pieces that checkpoints played: `samples/step-N/manifest.jsonl`."""
    demos: dict[int, list[DemoClip]] = {}
    for manifest in sorted((folder / "samples").glob("step-*/manifest.jsonl")):
        number = manifest.parent.name.removeprefix("step-")
        if not number.isdigit():
            continue
        clips, heard = [], _heard(manifest.parent, manifest.stat().st_mtime_ns)
        for row in read_journal(manifest, "manifest of demos"):
            path = manifest.parent / str(row.get("path", ""))
            labels = row.get("labels") if isinstance(row.get("labels"), dict) else {}
            if path.is_file() and path.resolve().is_relative_to(manifest.parent.resolve()):
                key = f"{labels.get('prompt_id') or row.get('id')}-{labels.get('seed', 0)}"  # type: ignore[union-attr]
                clips.append(DemoClip(key, str(row.get("caption") or key), path, *heard.get(path.name, ("", ""))))
        demos[int(number)] = clips
    return dict(sorted(demos.items()))


@lru_cache(maxsize=512)
def _heard(folder: Path, changed: int) -> dict[str, tuple[str, str]]:
    """What was measured beside demos, by file name: the judge's words and the sections' letters. A step's folder
    appears whole, so it is read once."""
    forms = {}
    for row in read_journal(folder / "details.jsonl", "details of demos"):
        labels = row["sections"].get("labels") if isinstance(row.get("sections"), dict) else None
        if isinstance(labels, list):
            forms[Path(str(row.get("path"))).name] = " ".join(map(str, labels))
    judged = {
        Path(str(row.get("path"))).name: format_flatness(row)
        for row in read_journal(folder / "records.jsonl", "records of demos")
    }
    return {name: (judged.get(name, ""), forms.get(name, "")) for name in judged.keys() | forms.keys()}
