"""What an embedding is, and how clips longer than a model's window are embedded: the mean over windows, in bounded
memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from eisbach import pretrained
from eisbach.audio import SILENCE_PEAK, check_samples, read_audio, resample, to_mono
from eisbach.errors import AudioError, CheckpointError, UserError
from eisbach.progress import Progress
from eisbach.structure.features import SAMPLE_RATE
from eisbach.structure.frechet import EMBEDDING_SIZE, texture_embedding
from eisbach.tensor_files import has_weights
from eisbach.types import Waveform

MAX_SECONDS = 600.0
"""What is embedded of a longer file."""
_MIN_SECONDS = 0.5


@runtime_checkable
class Embedding(Protocol):
    """Turns clips into vectors."""

    @property
    def name(self) -> str:
        """Short, for tables: "texture", "clap", "mert"."""
        ...

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    @property
    def sample_rate(self) -> int:
        """Hz that the model hears; clips of other rates are resampled."""
        ...

    def embed(self, waveforms: Iterable[Waveform]) -> np.ndarray:
        """One row a clip, [shape=(clips, dim), float64]; clips are taken one after the other."""
        ...


def window_starts(samples: int, length: int) -> list[int]:
    """Where windows of `length` begin: side by side, the last one moved back to end with the clip; one for a short
    clip."""
    if samples <= length:
        return [0]
    return [*range(0, samples - length, length), samples - length]


def mean_over_windows(
    waveforms: Iterable[Waveform],
    embed_batch: Callable[[np.ndarray], np.ndarray],
    *,
    sample_rate: int,
    window: int,
    dim: int,
    batch_size: int,
) -> np.ndarray:
    """Mean embedding of every clip's windows, [shape=(clips, dim), float64].

    Parameters
    ----------
    waveforms : iterable of Waveform
        Mixed down and resampled here; at most one clip and one batch are in memory.
    embed_batch : callable (np.ndarray [shape=(n, samples), float32]) -> np.ndarray [shape=(n, dim)]
        Windows of one length at a time.
    window : int
        Samples a window; shorter clips are passed as they are.

    Raises
    ------
    AudioError
        Empty, non-finite or silent audio, or under half a second of it.
    """
    sums: list[np.ndarray] = []
    counts: list[int] = []

    def windows() -> Iterator[tuple[int, np.ndarray]]:
        for index, waveform in enumerate(waveforms):
            samples = prepare(waveform, sample_rate, f"clip {index + 1}")
            sums.append(np.zeros(dim))
            counts.append(0)
            for start in window_starts(len(samples), window):
                yield index, samples[start : start + window]

    for _, run in groupby(windows(), key=lambda item: len(item[1])):
        batch: list[tuple[int, np.ndarray]] = []
        for item in run:
            batch.append(item)
            if len(batch) == batch_size:
                _add(batch, embed_batch, sums, counts)
                batch = []
        if batch:
            _add(batch, embed_batch, sums, counts)
    if not sums:
        return np.zeros((0, dim))
    return np.stack(sums) / np.array(counts)[:, None]


def _add(
    batch: Sequence[tuple[int, np.ndarray]],
    embed_batch: Callable[[np.ndarray], np.ndarray],
    sums: list[np.ndarray],
    counts: list[int],
) -> None:
    rows = np.asarray(embed_batch(np.stack([samples for _, samples in batch])), dtype=np.float64)
    for (index, _), row in zip(batch, rows, strict=True):
        sums[index] += row
        counts[index] += 1


def prepare(waveform: Waveform, sample_rate: int, name: str) -> np.ndarray:
    """Mono at `sample_rate`, [shape=(samples,), float32]; AudioError for what cannot be embedded."""
    check_samples(waveform.samples, name)
    mixed = to_mono(waveform)
    if float(np.abs(mixed.samples).max()) < min(SILENCE_PEAK, 0.1 * float(np.abs(waveform.samples).max())):
        raise AudioError(
            f"{name} is silent when mixed to mono: its channels cancel each other; turn the phase of one of them round."
        )
    samples = resample(mixed, sample_rate).samples[0]
    if len(samples) < _MIN_SECONDS * sample_rate:
        raise AudioError(
            f"{name} lasts {len(samples) / sample_rate:.2f} s; an embedding needs at least {_MIN_SECONDS:g} s."
        )
    return np.ascontiguousarray(samples, dtype=np.float32)


def embed_files(embedding: Embedding, paths: Sequence[str | Path], *, quiet: bool = False) -> np.ndarray:
    """One row a file, [shape=(files, dim)], in the order given; files are read one after the other, ten minutes of each
    at most.

    Raises
    ------
    UserError
        No path, or a file that cannot be read or embedded (named).
    """
    if not paths:
        raise UserError("there is no file to embed; give at least one.")
    rows = []
    with Progress(len(paths), f"embed ({embedding.name})", quiet=quiet) as bar:
        for path in paths:
            waveform = read_audio(path, duration=MAX_SECONDS)
            try:
                rows.append(embedding.embed([waveform])[0])
            except UserError as error:
                raise UserError(f"{path} cannot be embedded: {error}") from error
            bar.advance()
    return np.stack(rows)


class TextureEmbedding:
    """`frechet.texture_embedding` as an `Embedding`: 64 numbers in dB, invariant to gain; needs no weights."""

    name = "texture"
    dim = EMBEDDING_SIZE
    sample_rate = SAMPLE_RATE

    def embed(self, waveforms: Iterable[Waveform]) -> np.ndarray:
        """One row a clip, [shape=(clips, 64), float64].

        Raises
        ------
        AudioError
            Empty, non-finite or silent audio, or less than 2 s of it.
        """
        rows = [texture_embedding(waveform) for waveform in waveforms]
        return np.stack(rows) if rows else np.zeros((0, self.dim))


# --- opening a transformers checkpoint for reading only: no code, no pickles, every weight accounted for


def model_folder(source: str) -> Path:
    """The folder of a model: `source` itself, or the hub's "owner/name" or "owner/name@revision", fetched into its
    cache.

    Raises
    ------
    UserError
        No such folder or hub id.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if not pretrained.is_hub_id(source):
        raise UserError(
            f"{source} is not a folder; give a model folder with config.json and model.safetensors, or a hub id such "
            "as "
            "laion/clap-htsat-unfused."
        )
    return pretrained.fetch(source, pretrained.EMBEDDING_FILES)


def read_config(folder: Path) -> dict[str, Any]:
    """The checkpoint's config.json.

    Raises
    ------
    CheckpointError
        No configuration, or weights that are not safetensors.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} holds no config.json; give the folder of a transformers checkpoint.")
    config = pretrained.read_object(folder / "config.json", "model's configuration")
    pretrained.check_sizes(config, folder / "config.json")
    if not has_weights(folder):
        pickled = (folder / "pytorch_model.bin").is_file()
        has = "only pytorch_model.bin, a pickle, which is not opened" if pickled else "no weights"
        raise CheckpointError(f"{folder} holds {has}; put model.safetensors there (save_pretrained writes it).")
    return config


def load_model(model_class: Any, folder: Path, config: Any, *, heads: Sequence[str] = ()) -> Any:
    """A transformers model with every weight from the checkpoint, in float32, in evaluation mode.

    Parameters
    ----------
    model_class : a class of transformers
    heads : sequence of str
        Prefixes of weights that the checkpoint may hold beyond the model (heads of its pretraining).

    Raises
    ------
    CheckpointError
        Unreadable weights, a missing weight, or one that is neither the model's nor a head's.
    """
    model, info = pretrained.audio_model(model_class, folder, config)
    missing = sorted(info["missing_keys"])
    unknown = sorted(key for key in info["unexpected_keys"] if not key.startswith(tuple(heads)))
    if missing or unknown:
        first = f"'{missing[0]}' is missing" if missing else f"'{unknown[0]}' has no place"
        raise CheckpointError(
            f"{folder} is not a {model_class.__name__}: {len(missing)} weights are missing and {len(unknown)} unknown "
            f"({first})."
        )
    return model.eval()
