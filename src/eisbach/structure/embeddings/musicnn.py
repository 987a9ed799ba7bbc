"""musicnn: fifty tags and a 200-dimensional embedding of any music, by a network that nobody here trained.

Pons and Serra, "musicnn: Pre-trained convolutional neural networks for music audio tagging" (2019): the model trained
on MagnaTagATune, whose weights come with the Python package of that name (ISC licence). The network is written here in
torch and reads them as safetensors (`recipes/judges/convert_musicnn.py`); its outputs equal the original's
(tests/structure/test_musicnn.py).

What goes in, as in the original's `extractor.batch_data` with its defaults: mono, 16 kHz, 96 mels, windows of 187
frames (3 s) side by side; what is left at the end, shorter than a window, is not heard. Differences to musicnn 0.1.0:

- a clip of less than a window (47,616 samples, 2.976 s), on which the original fails, is repeated until it fills one;
- loud frames, whose logarithm is infinite in the original's half precision, stay finite (`log_mels`);
- the mean of the penultimate layer is over all windows (the original's loop repeats the first window's).

Before a clip and behind it there is silence, as with librosa from 0.10 on. Older ones mirrored the clip, which moves
the first and the last frame, and tags by up to .03.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from importlib import resources

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from eisbach.devices import place
from eisbach.structure.embeddings.base import prepare
from eisbach.structure.spectra import hann, mel_filterbank
from eisbach.tensor_files import copy_named, read_tensors
from eisbach.types import Waveform

TAGS = (
    *("guitar", "classical", "slow", "techno", "strings", "drums", "electronic", "rock", "fast", "piano"),
    *("ambient", "beat", "violin", "vocal", "synth", "female", "indian", "opera", "male", "singing"),
    *("vocals", "no vocals", "harpsichord", "loud", "quiet", "flute", "woman", "male vocal", "no vocal", "pop"),
    *("soft", "sitar", "solo", "man", "classic", "choir", "voice", "new age", "dance", "male voice"),
    *("female vocal", "beats", "harp", "cello", "no voice", "weird", "country", "metal", "female voice", "choral"),
)
"""What the network hears, in the order of its outputs."""

TAG_COLUMNS = tuple(f"tag_{tag.replace(' ', '_')}" for tag in TAGS)
"""What the tags' probabilities are called in records."""

SAMPLE_RATE = 16_000
_N_FFT, _HOP, _MELS, _FRAMES = 512, 256, 96, 187
_LEVEL, _QUIET = 0.05, 0.0316  # root mean square, of `change`: -26 dB of full scale, and -30 dB of a clip's own
_TEMPORAL = (128, 64, 32)  # frames of the front end's horizontal filters
_INFINITE = 65_520.0  # the least that half precision rounds to infinity


class Musicnn(nn.Module):
    """The network: log-mel windows (B, 187, 96) → tag logits (B, 50) and the penultimate layer (B, 200).

    Front end: vertical filters (timbre; 40% and 70% of the mels high, at any pitch) beside horizontal ones (time; 128,
    64 and 32 frames long); middle: three convolutions over time with shortcuts; back end: maximum and mean over time,
    two dense layers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = _norm(nn.BatchNorm2d, 1)
        self.timbral = nn.ModuleList(_Layer(1, 204, (7, int(share * _MELS))) for share in (0.4, 0.7))
        self.temporal = nn.ModuleList(_Layer(1, 51, (frames, 1)) for frames in _TEMPORAL)
        front = 2 * 204 + 3 * 51
        self.middle = nn.ModuleList(_Layer(1, 64, (7, width)) for width in (front, 64, 64))
        pooled = 2 * (front + 3 * 64)
        self.pool_norm = _norm(nn.BatchNorm1d, pooled)
        self.dense = nn.Linear(pooled, 200)
        self.dense_norm = _norm(nn.BatchNorm1d, 200)
        self.output = nn.Linear(200, len(TAGS))

    def forward(self, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, 50) and the penultimate layer (B, 200) of windows (B, 187, 96)."""
        x = self.norm(windows[:, None])  # (B, 1, time, mel)
        # Every filter's maximum over all pitches: a timbre is the same wherever it sounds.
        parts = [layer(functional.pad(x, (0, 0, 3, 3))).amax(3) for layer in self.timbral]
        for frames, layer in zip(_TEMPORAL, self.temporal, strict=True):
            # TensorFlow's 'same': an even filter has one frame more behind than before.
            parts.append(layer(functional.pad(x, (0, 0, (frames - 1) // 2, frames // 2))).amax(3))
        levels = [torch.cat(parts, 1)]  # each (B, channels, time)
        for layer in self.middle:
            image = functional.pad(levels[-1].transpose(1, 2)[:, None], (0, 0, 3, 3))
            made = layer(image).squeeze(3)
            levels.append(made if len(levels) == 1 else made + levels[-1])
        features = torch.cat(levels, 1)
        # The original's order: maximum and mean of a channel side by side.
        pooled = torch.stack([features.amax(2), features.mean(2)], 2).flatten(1)
        penultimate = self.dense_norm(self.dense(self.pool_norm(pooled)).relu())
        return self.output(penultimate), penultimate


class _Layer(nn.Module):
    """Convolution, then ReLU, then batch normalisation: in this order in the original."""

    def __init__(self, channels: int, filters: int, kernel: tuple[int, int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, filters, kernel)
        self.norm = _norm(nn.BatchNorm2d, filters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(self.conv(x).relu())
        return normed


def _norm(kind: type[nn.BatchNorm1d] | type[nn.BatchNorm2d], channels: int) -> nn.Module:
    return kind(channels, eps=1e-3)


class MusicnnEmbedding:
    """The penultimate layer, averaged over a clip's windows: an `Embedding`, and a listener that nobody here trained.

    Parameters
    ----------
    device : str
        "cpu", "cuda", "mps" or "auto".
    batch_size : int
        Windows at once.

    Examples
    --------
    >>> import numpy as np
    >>> from eisbach.types import Waveform
    >>> hiss = Waveform(0.1 * np.random.default_rng(0).standard_normal((1, 64_000), dtype=np.float32), 16_000)
    >>> listener = MusicnnEmbedding()
    >>> listener.embed([hiss]).shape, listener.tags([hiss]).shape
    ((1, 200), (1, 50))
    """

    name = "musicnn"
    dim = 200
    sample_rate = SAMPLE_RATE

    def __init__(self, *, device: str = "cpu", batch_size: int = 8) -> None:
        self._device = place(device).device
        self._batch_size = batch_size
        network = Musicnn().eval().requires_grad_(False)
        with resources.as_file(resources.files("eisbach").joinpath("assets/judges/musicnn.safetensors")) as path:
            tensors = read_tensors(path)
            copy_named(network.state_dict(), tensors, path)
        self._network = network.to(self._device)

    def embed(self, waveforms: Iterable[Waveform]) -> np.ndarray:
        """One row a clip, [shape=(clips, 200), float64].

        Raises
        ------
        AudioError
            Empty, non-finite or silent audio, or under half a second of it.
        """
        return self._rows(waveforms, 1, self.dim)

    def tags(self, waveforms: Iterable[Waveform]) -> np.ndarray:
        """Probability of every tag in `TAGS`, the mean over windows, [shape=(clips, 50), range 0 to 1, float64]; raises
        as `embed`."""
        return self._rows(waveforms, 0, len(TAGS))

    def change(self, waveforms: Iterable[Waveform]) -> np.ndarray:
        """How much what is heard varies over each clip, [shape=(clips,), float64]: the standard deviation of the
        penultimate layer over the windows, in whatever order (with n − 1, so that a longer clip of the same music has
        the same), the mean of its 200 features; NaN under two windows (6 s).

        Every window is brought to one level first, which the network would hear, too: neither a clip's level nor a
        fade counts as change, down to 30 dB under the clip's own level. A window below that stays quieter, so that a
        piece that stops half-way does change, as does one whose level jumps within a window. Of a held chord, a drone
        or a short loop it is about half of what it is of music (`studies/barrier_heard`). Raises as `embed`.
        """
        spreads = []
        for number, waveform in enumerate(waveforms, 1):
            samples = _levelled(prepare(waveform, SAMPLE_RATE, f"clip {number}"))
            rows = np.concatenate([features for _, features in self._windows(samples)])
            spreads.append(rows.std(0, ddof=1).mean() if len(rows) > 1 else math.nan)
        return np.array(spreads, dtype=np.float64)

    def _rows(self, waveforms: Iterable[Waveform], output: int, dim: int) -> np.ndarray:
        rows = [
            np.concatenate(
                [results[output] for results in self._windows(prepare(waveform, SAMPLE_RATE, f"clip {number}"))]
            ).mean(0)
            for number, waveform in enumerate(waveforms, 1)
        ]
        return np.stack(rows) if rows else np.zeros((0, dim))

    def _windows(self, samples: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        mels = log_mels(samples)
        if len(mels) < _FRAMES:  # the original hears no such clip
            mels = np.tile(mels, (-(-_FRAMES // len(mels)), 1))[:_FRAMES]
        count = len(mels) // _FRAMES  # a part at the end is left out, as in the original
        windows = mels[: count * _FRAMES].reshape(count, _FRAMES, _MELS)
        with torch.inference_mode():
            for batch in torch.from_numpy(windows).split(self._batch_size):
                logits, penultimate = self._network(batch.to(self._device))
                yield logits.sigmoid().double().cpu().numpy(), penultimate.double().cpu().numpy()


def _levelled(samples: np.ndarray) -> np.ndarray:
    """Every window at one level, without a constant offset; what is more than 30 dB under the clip's level is raised as
    if it were 30 dB under it, so that silence stays silence."""
    samples = samples - samples.mean(dtype=np.float64)
    whole = math.sqrt(float(np.mean(np.square(samples, dtype=np.float64))))
    levelled = np.zeros(len(samples), np.float32)
    for start in range(0, len(samples), _FRAMES * _HOP):
        part = samples[start : start + _FRAMES * _HOP]
        level = math.sqrt(float(np.mean(np.square(part, dtype=np.float64))))
        levelled[start : start + len(part)] = _LEVEL / max(level, _QUIET * whole, 1e-12) * part
    return levelled


def log_mels(samples: np.ndarray) -> np.ndarray:
    """What the network hears: log10(1 + 10,000 power) of 96 mels, 62.5 frames a second, [shape=(frames, 96), float32].

    All of it is rounded to half precision at every step, as in the original and in what the network was trained on.
    Where 10,000 times a power is infinite there (from 6.55 on: a tone of a tenth of full scale), only the power is
    rounded.
    """
    window = torch.from_numpy(hann(_N_FFT))
    spectrum = torch.stft(
        torch.from_numpy(samples), _N_FFT, _HOP, window=window, center=True, pad_mode="constant", return_complex=True
    )
    power = (spectrum.real.square() + spectrum.imag.square()).numpy()
    mels = mel_filterbank(SAMPLE_RATE, _N_FFT, _MELS, 0.0, SAMPLE_RATE / 2) @ power
    half = np.minimum(mels.T, np.finfo(np.float16).max).astype(np.float16)
    scaled = np.float32(10_000.0) * half.astype(np.float32)
    loud = scaled >= _INFINITE
    quiet = np.where(loud, 0.0, scaled).astype(np.float16)
    rounded = np.log10(quiet + np.float16(1.0)).astype(np.float32)
    return np.ascontiguousarray(np.where(loud, np.log10(scaled + np.float32(1.0)), rounded))
