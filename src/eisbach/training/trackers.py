"""The rows of the log and the demos, sent to TensorBoard, trackio and wandb through accelerate.

`metrics.jsonl` is the record of a run and trackers are windows on it: one that fails later is let go with a sentence,
and the training goes on. What a tracker says of itself goes to standard error.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eisbach.errors import ConfigError, UserError, one_line
from eisbach.files import read_json, write_json
from eisbach.training.run_folder import note

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

    from eisbach.training.config import TrainConfig
    from eisbach.types import Waveform

_NAMES = "trackers.json"
_PICTURE_COLUMNS = 480


@dataclass(frozen=True)
class Heard:
    """A demo for a tracker: `name` tells it from the others of its step and stays from step to step."""

    name: str
    caption: str
    audio: Waveform
    picture: np.ndarray
    """Mel spectrogram, low frequencies below [shape=(height, width, 3), uint8]."""


class Trackers:
    """The trackers of one run, in its main process.

    Parameters
    ----------
    config : TrainConfig or None
        None has no trackers: a process that writes nothing.
    first_step : int
        Where the run begins or continues.
    quiet : bool

    Raises
    ------
    ConfigError
        A package is missing.
    UserError
        A tracker cannot start: no login, no network.
    """

    def __init__(self, config: TrainConfig | None, first_step: int, quiet: bool) -> None:
        self._quiet = quiet
        self._open: dict[str, GeneralTracker] = {}
        if config is None:
            return
        root = Path(config.out)
        names = _names(root, config.trackers)
        for name in config.trackers:
            try:
                with _own_words(quiet):
                    tracker = _START[name](root, names.get(name, ""), first_step, quiet)
                    tracker.start()
                    if name != "tensorboard":  # its table of settings lacks what is not a number
                        tracker.store_init_configuration(config.model_dump(mode="json"))
            except Exception as error:
                self.close()
                raise UserError(
                    f"the tracker {name} could not start ({one_line(str(error) or type(error).__name__)}); "
                    f"{_WAY_OUT[name]}, or leave it out of trackers."
                ) from error
            self._open[name] = tracker

    def add(self, row: dict[str, Any]) -> None:
        """Sends the numbers of a row of the log; nested keys become `group/key`."""
        numbers = _numbers(row)
        self._each(lambda name, tracker: tracker.log(numbers, step=row["step"]))

    def add_demos(self, step: int, folder: Path) -> None:
        """Sends sound and picture of each demo in a step's folder."""
        if not self._open:
            return
        try:
            demos = heard(folder)
        except Exception as error:
            note(f"the demos of step {step} were not sent to trackers ({one_line(str(error))}).", self._quiet)
            return
        self._each(lambda name, tracker: _SEND[name](tracker, step, demos))

    def close(self) -> None:
        """Sends what is waiting."""
        self._each(lambda name, tracker: _CLOSE.get(name, _finish)(tracker))
        self._open.clear()

    def _each(self, act: Callable[[str, GeneralTracker], object]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                with _own_words(self._quiet):
                    act(name, tracker)
            except Exception as error:  # a window on the run must not end it
                del self._open[name]
                reason = one_line(str(error) or type(error).__name__)
                note(f"the tracker {name} failed ({reason}); metrics.jsonl goes on without it.", self._quiet)


def check_trackers(names: Sequence[str]) -> None:
    """`ConfigError` where a tracker's package, or Pillow for its pictures, is missing."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if names and importlib.util.find_spec("PIL") is None:
        missing.append("pillow")
    if missing:
        raise ConfigError(
            f"trackers need {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed; "
            "run: pip install 'eisbach[trackers]'"
        )


def heard(folder: Path) -> list[Heard]:
    """The demos of a step's folder with their pictures."""
    from eisbach.audio import read_audio
    from eisbach.data.manifest import load_manifest

    manifest = load_manifest(folder, check_files=False)
    demos = []
    for row in manifest:
        audio = read_audio(manifest.audio_path(row))
        demos.append(Heard(row.id, row.caption, audio, spectrogram_picture(audio)))
    return demos


def spectrogram_picture(audio: Waveform) -> np.ndarray:
    """A mel spectrogram over 60 dB, low frequencies below [shape=(height, width, 3), uint8]."""
    from matplotlib import colormaps

    from eisbach.structure.features import extract_features

    mel = extract_features(audio).mel_db.T[::-1]  # bands × frames
    if mel.shape[1] == 0:
        return np.zeros((2, 2, 3), np.uint8)
    columns = np.linspace(0, mel.shape[1] - 1, min(_PICTURE_COLUMNS, mel.shape[1])).round().astype(int)
    shade = np.clip((mel[:, columns] - mel.max()) / 60.0 + 1.0, 0.0, 1.0).repeat(3, axis=0)
    return np.asarray(np.round(colormaps["magma"](shade)[:, :, :3] * 255), np.uint8)


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    numbers = {}
    for key, value in row.items():
        for name, number in value.items() if isinstance(value, dict) else [("", value)]:
            if key != "step" and isinstance(number, (int, float)) and np.isfinite(number):
                numbers[f"{key}/{name}" if name else key] = float(number)
    return numbers


def _names(root: Path, trackers: Sequence[str]) -> dict[str, str]:
    """What a run is called in each tracker that keeps many, so that a continued run is the same one there."""
    path = root / _NAMES
    before = read_json(path, "names of a run in its trackers") if path.is_file() else {}
    names = before if isinstance(before, dict) else {}
    missing = [name for name in trackers if name not in names and name != "tensorboard"]
    if missing:
        names |= {name: f"{root.absolute().name}-{secrets.token_hex(4)}" for name in missing}
        write_json(path, names)
    return names


@contextlib.contextmanager
def _own_words(quiet: bool) -> Iterator[None]:
    """What a package prints goes to standard error, or nowhere: standard output is for the run's folder."""
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(open(os.devnull, "w", encoding="utf-8")) if quiet else sys.stderr
        stack.enter_context(contextlib.redirect_stdout(stream))
        yield


def _tensorboard(root: Path, name: str, first_step: int, quiet: bool) -> GeneralTracker:
    from accelerate.tracking import TensorBoardTracker

    return TensorBoardTracker("tensorboard", str(root), purge_step=first_step)


def _trackio(root: Path, name: str, first_step: int, quiet: bool) -> GeneralTracker:
    from accelerate.tracking import TrackioTracker

    project = os.environ.get("TRACKIO_PROJECT", "eisbach")
    still = {"auto_log_cpu": False, "auto_log_gpu": False, "embed": False}
    return TrackioTracker(project, name=name, resume="allow", **still)


def _wandb(root: Path, name: str, first_step: int, quiet: bool) -> GeneralTracker:
    import wandb
    from accelerate.tracking import WandBTracker

    # The run's own progress stays on the terminal; wandb's redirection of it would garble the bar.
    settings = wandb.Settings(console="off", silent=quiet, disable_git=True, disable_code=True, x_disable_stats=True)
    project = os.environ.get("WANDB_PROJECT", "eisbach")
    return WandBTracker(project, name=name, id=name, resume="allow", dir=str(root), settings=settings)


def _demos_to_tensorboard(tracker: Any, step: int, demos: Sequence[Heard]) -> None:
    writer = tracker.tracker
    for demo in demos:
        mono = demo.audio.samples.mean(axis=0, keepdims=True)  # a SummaryWriter takes one channel
        writer.add_audio(f"demos/{demo.name}", mono, step, sample_rate=int(demo.audio.sample_rate))
        writer.add_image(f"demos/{demo.name}", demo.picture, step, dataformats="HWC")
        writer.add_text(f"demos/{demo.name}", demo.caption, step)
    writer.flush()


def _media(demos: Sequence[Heard], audio: Callable[..., Any], image: Callable[..., Any]) -> dict[str, Any]:
    values = {}
    for demo in demos:
        samples = demo.audio.samples.T if len(demo.audio.samples) > 1 else demo.audio.samples[0]
        values[f"demos/{demo.name}"] = audio(samples, sample_rate=int(demo.audio.sample_rate), caption=demo.caption)
        values[f"demos/{demo.name}/spectrogram"] = image(demo.picture, caption=demo.caption)
    return values


def _demos_to_trackio(tracker: Any, step: int, demos: Sequence[Heard]) -> None:
    import trackio

    tracker.log(_media(demos, trackio.Audio, trackio.Image), step=step)


def _demos_to_wandb(tracker: Any, step: int, demos: Sequence[Heard]) -> None:
    import wandb

    tracker.log(_media(demos, wandb.Audio, wandb.Image), step=step)


def _finish(tracker: GeneralTracker) -> None:
    tracker.finish()


def _finish_trackio(tracker: GeneralTracker) -> None:
    import trackio

    trackio.finish()  # which also forgets the run: as the process ends, it would finish it again and say so


_START = {"tensorboard": _tensorboard, "trackio": _trackio, "wandb": _wandb}
_SEND = {"tensorboard": _demos_to_tensorboard, "trackio": _demos_to_trackio, "wandb": _demos_to_wandb}
_CLOSE = {"trackio": _finish_trackio}
_WAY_OUT = {
    "tensorboard": "make the run's folder writable",
    "trackio": "see TRACKIO_DIR, where it keeps its runs",
    "wandb": "log in with `wandb login`, or set WANDB_MODE=offline",
}
