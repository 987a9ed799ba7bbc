"""The embedded codec, second version: stereo at 32 kHz to 15 kHz, in two parts with a window for each.

Below 2 kHz a window of 128 ms tells semitones apart; above, one of 32 ms (a frame every 8 ms) keeps transients. Both
are one transform of 1,024 samples, at 8 kHz and at 32 kHz. Levels in dB of 384 ms, 48 bands below and 27 above (7 of
them beyond 6.5 kHz), are one vector; a fixed orthonormal basis turns it into latent channels. Where the sound lies
between left and right is coarse side information: level difference and coherence in four wide bands.

As in the first version (`eisbach.codecs.bands`) encoding is linear in dB and deterministic both ways: a gain is a shift
of the latents, and decoding has no habits of its own that a weighting could be credited with.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from eisbach.audio import resample, to_mono
from eisbach.codecs.bands import SpectrumConfig, band_centres, search_phases, synthesise, transform, triangles
from eisbach.codecs.base import batch_of_latents, frames_in, heard
from eisbach.errors import CheckpointError
from eisbach.tensor_files import read_header, read_metadata_object, read_tensors, write_tensors
from eisbach.types import Waveform

FORMAT = "eisbach-wide-band-codec"
_TENSORS = ("mean", "basis", "scale", "synthesis_low", "synthesis_high")
_SIDE_EDGE_HZ = (400.0, 6000.0)  # the wide bands of the side information, two in each part
_SIDE_FLOOR = 1e-9  # power below which a wide band counts as silent, and silence lies in the middle
_MOST_DIFFERENCE_DB = 20.0
_DIFFERENCE_UNIT, _ANGLE_UNIT = 6.0, 1.0  # dB and radians per latent unit
_SHARPENING_ROUNDS, _SHARPENING_POWER = 8, 1.5
_ITERATIONS = (2, 1)  # phase refinements below and above the split: more of them make held notes flutter
_LIMITER_BLOCKS = 3  # of a hop (8 ms) before and after
_ECHO_FRAMES = (1, 3)  # delay of the copy that stands for incoherent sound: 32 and 24 ms


@dataclass(frozen=True)
class WideConfig:
    """Analysis settings.

    Attributes
    ----------
    sample_rate, low_rate : int
        Hz of the audio, and of the part below the split.
    n_fft, hop : int
        Samples, at either rate.
    frames : int
        Frames of the lower part in one latent frame.
    low_hz, split_hz, wide_hz, high_hz : float
        Where bands begin, where the parts meet, where the few wide bands begin, where bands end.
    low_bands, middle_bands, wide_bands : int
    floor_db : float
        Levels below this (dB relative to a full-scale sine) are raised to it.
    """

    sample_rate: int = 32000
    low_rate: int = 8000
    n_fft: int = 1024
    hop: int = 256
    frames: int = 12
    low_hz: float = 40.0
    split_hz: float = 2000.0
    wide_hz: float = 6500.0
    high_hz: float = 15000.0
    low_bands: int = 48
    middle_bands: int = 20
    wide_bands: int = 7
    floor_db: float = -100.0


class _Part:
    """One of the two transforms: its bands, how many of its frames a latent frame holds, its wide bands."""

    def __init__(self, config: WideConfig, *, high: bool) -> None:
        self.rate = config.sample_rate if high else config.low_rate
        self.frames = config.frames * (config.sample_rate // config.low_rate if high else 1)
        self.bands = config.middle_bands + config.wide_bands if high else config.low_bands
        self.spectrum = SpectrumConfig(
            self.rate, config.n_fft, config.hop, self.bands, config.low_hz, config.split_hz, config.floor_db
        )
        bins = torch.arange(config.n_fft // 2 + 1, dtype=torch.float64) * self.rate / config.n_fft
        self.centres = centres = _high_centres(config) if high else band_centres(self.spectrum)
        edges = (config.split_hz, config.high_hz) if high else (0.0, config.split_hz)
        self.inside = (bins >= edges[0]) & (bins < edges[1])
        # The outermost filters reach to the part's edges, far beyond which a triangle's side is as good as level.
        reach = (
            torch.cat([centres[:1] - 1e5, centres, centres[-1:] + 1e5])
            if high
            else torch.cat([centres[:1] - 22.0, centres, centres[-1:] + 1e5])
        )
        filters = triangles(reach, self.spectrum).double() * self.inside
        self.filters = (filters / filters.sum(-1, keepdim=True)).float()
        # Wide bands meet over an octave, so that a partial between them is moved as one.
        weight = (0.5 + torch.log2(bins.clamp_min(1.0) / _SIDE_EDGE_HZ[high])).clamp(0.0, 1.0)
        self.wide = (torch.stack([1.0 - weight, weight]) * self.inside).float()


def _high_centres(config: WideConfig) -> torch.Tensor:
    def within(low: float, high: float, count: int) -> torch.Tensor:
        return low * (high / low) ** ((torch.arange(count, dtype=torch.float64) + 0.5) / count)

    return torch.cat(
        [
            within(config.split_hz, config.wide_hz, config.middle_bands),
            within(config.wide_hz, config.high_hz, config.wide_bands),
        ]
    )


class WideBandCodec:
    """Stereo audio at 32 kHz to latents `(C, T)` at 2.60 frames/s, and back.

    Parameters
    ----------
    mean : torch.Tensor [shape=(W,)]
        Mean level vector, dB; W is `frames * low_bands` and four times as many frames of the bands above.
    basis : torch.Tensor [shape=(C - 8, W)]
        Orthonormal rows, of levels weighted by the share of time and frequency that each stands for.
    scale : torch.Tensor [shape=(C - 8,)]
        dB per latent unit.
    synthesis_low, synthesis_high : torch.Tensor [shape=(n_fft // 2 + 1, bands)]
        Non-negative maps from band magnitudes to the magnitudes of transform bins, where the search for them begins.
    config : WideConfig

    Raises
    ------
    CheckpointError
        Tensors that do not fit each other.
    """

    name = "wide-bands"
    audio_channels = 2
    model: torch.nn.Module | None = None
    side_channels = 8

    def __init__(
        self, mean: torch.Tensor, basis: torch.Tensor, scale: torch.Tensor, synthesis_low: torch.Tensor,
        synthesis_high: torch.Tensor, *, config: WideConfig | None = None,
    ) -> None:  # fmt: skip
        self.config = config or WideConfig()
        self.parts = (_Part(self.config, high=False), _Part(self.config, high=True))
        width = sum(part.bands * part.frames for part in self.parts)
        bins = self.config.n_fft // 2 + 1
        maps = ((synthesis_low, self.parts[0]), (synthesis_high, self.parts[1]))
        fits = basis.ndim == 2 and basis.shape[1] == width and mean.shape == (width,) and scale.shape == basis.shape[:1]
        if not fits or any(tensor.shape != (bins, part.bands) for tensor, part in maps):
            shapes = [tuple(tensor.shape) for tensor in (mean, basis, scale, synthesis_low, synthesis_high)]
            raise CheckpointError(
                f"the codec's tensors do not fit each other: {', '.join(_TENSORS)} have the shapes {shapes}, but its "
                f"settings make vectors of {width} levels and spectra of {bins} bins."
            )
        # The file holds half precision: rounding here makes a fitted codec equal to itself after saving.
        self.mean, self.basis, self.scale, self.synthesis_low, self.synthesis_high = (
            tensor.half().float() for tensor in (mean, basis, scale, synthesis_low, synthesis_high)
        )
        self.weights = level_weights(self.config)
        self.channels = int(basis.shape[0]) + self.side_channels
        self.sample_rate = self.config.sample_rate
        self.samples_per_frame = self.parts[1].frames * self.config.hop
        self.latent_rate = self.sample_rate / self.samples_per_frame

    def identity(self) -> str:
        """A 16-digit hash of settings and tensors that change the latents."""
        digest = hashlib.sha256(json.dumps(vars(self.config), sort_keys=True).encode())
        for tensor in (self.mean, self.basis, self.scale):
            digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
        return f"{self.name}-{digest.hexdigest()[:16]}"

    def frames_for(self, seconds: float) -> int:
        """Latent frames in `seconds` of audio, rounded down, at least 1; `UserError` for NaN and infinity."""
        return frames_in(seconds, self.latent_rate)

    def spectra(self, waveform: Waveform) -> list[torch.Tensor]:
        """Complex spectra of both parts [shape=(1 or 2, bins, T * frames)], a full-scale sine on a bin at magnitude 1;
        the waveform padded with silence to whole latent frames.

        Raises
        ------
        AudioError
            NaN or infinite samples.
        """
        given = waveform if waveform.channels <= 2 else to_mono(waveform)
        samples = heard(given, self.sample_rate, given.channels).samples
        missing = -samples.shape[1] % self.samples_per_frame or (self.samples_per_frame if not samples.shape[1] else 0)
        padded = Waveform(np.pad(samples, ((0, 0), (0, missing))).astype(np.float32), self.sample_rate)
        spectra = []
        for part in self.parts:
            count = padded.samples.shape[1] // self.samples_per_frame * part.frames * self.config.hop
            at_rate = torch.from_numpy(_of_length(resample(padded, part.rate).samples, count))
            window = torch.hann_window(self.config.n_fft)
            spectrum = transform(at_rate, part.spectrum, window)[..., : count // self.config.hop]
            spectra.append(spectrum * (2.0 / float(window.sum())))
        return spectra

    def levels(self, waveform: Waveform) -> torch.Tensor:
        """Level vectors in dB [shape=(T, W)] of a waveform: of the mean power of its channels."""
        return self.levels_of(self.spectra(waveform))

    def levels_of(self, spectra: list[torch.Tensor]) -> torch.Tensor:
        """`levels` of what `spectra` gave."""
        vectors = []
        for part, spectrum in zip(self.parts, spectra, strict=True):
            power = part.filters @ spectrum.abs().square().mean(0)
            levels = (10.0 * torch.log10(power.clamp_min(1e-14))).clamp_min(self.config.floor_db)
            vectors.append(levels.unflatten(1, (-1, part.frames)).movedim(1, 0).flatten(1))
        return torch.cat(vectors, dim=1)

    def _side(self, spectra: list[torch.Tensor]) -> torch.Tensor:
        """Level difference (left less right, latent units) and angle between left and right [shape=(8, T)]."""
        frames = spectra[0].shape[-1] // self.parts[0].frames
        if spectra[0].shape[0] == 1:
            return torch.zeros(self.side_channels, frames)
        differences, angles = [], []
        for part, (left, right) in zip(self.parts, spectra, strict=True):

            def wide(values: torch.Tensor, part: _Part = part) -> torch.Tensor:
                return (part.wide @ values).unflatten(1, (-1, part.frames)).mean(2) + _SIDE_FLOOR

            powers = wide(left.abs().square()), wide(right.abs().square())
            coherence = wide((left * right.conj()).real) / (powers[0] * powers[1]).sqrt()
            differences.append(10.0 * torch.log10(powers[0] / powers[1]))
            angles.append(torch.acos(coherence.clamp(-1.0, 1.0)))
        difference = torch.cat(differences).clamp(-_MOST_DIFFERENCE_DB, _MOST_DIFFERENCE_DB)
        return torch.cat([difference / _DIFFERENCE_UNIT, torch.cat(angles) / _ANGLE_UNIT])

    def encode(self, waveform: Waveform) -> torch.Tensor:
        """Latents [shape=(C, T), float32]; the last frame is padded with silence, mono and more than two channels
        (mixed to mono) lie in the middle.

        Raises
        ------
        AudioError
            NaN or infinite samples.
        """
        spectra = self.spectra(waveform)
        return torch.cat([self.levels_to_latents(self.levels_of(spectra)), self._side(spectra)])

    def levels_to_latents(self, levels: torch.Tensor) -> torch.Tensor:
        """Latents without those of the side [shape=(..., C - 8, T)] of level vectors [shape=(..., T, W)]."""
        return (((levels - self.mean) * self.weights) @ self.basis.T / self.scale).movedim(-1, -2)

    def latents_to_levels(self, latents: torch.Tensor) -> torch.Tensor:
        """Level vectors in dB [shape=(..., T, W)] of latents [shape=(..., C, T)], at or above the floor."""
        components = latents[..., : self.basis.shape[0], :].float().movedim(-1, -2) * self.scale
        return (components @ self.basis / self.weights + self.mean).clamp(self.config.floor_db, 6.0)

    def magnitudes(self, levels: torch.Tensor) -> list[torch.Tensor]:
        """Magnitudes of transform bins of both parts [shape=(bins, T * frames)] that have these level vectors.

        The fitted maps spread each band; what the encoder would hear of that is then brought to the levels by
        Richardson-Lucy rounds, which also gather a partial into the few bins that its neighbouring bands point to.
        """
        found = []
        widths = [part.bands * part.frames for part in self.parts]
        for part, vectors, spread in zip(
            self.parts, levels.split(widths, dim=1), (self.synthesis_low, self.synthesis_high), strict=True
        ):
            bands = vectors.unflatten(1, (part.bands, part.frames)).movedim(0, 1).flatten(1)
            # Levels at the floor stand for silence: fade them out rather than sound them as hiss.
            power = (10.0 ** (bands / 20.0) * ((bands - self.config.floor_db) / 10.0).clamp(0.0, 1.0)).square()
            bins = (spread @ power.sqrt()).square()
            back = part.filters.T / part.filters.T.sum(dim=1, keepdim=True).clamp_min(1e-9)
            for _ in range(_SHARPENING_ROUNDS):
                ratio = (power / (part.filters @ bins).clamp_min(1e-14)).clamp(1e-4, 1e4)
                bins = bins * (back @ ratio) ** _SHARPENING_POWER
            found.append(bins.sqrt())
        return found

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> list[Waveform]:
        """Waveforms (stereo) of latents [shape=(C, T) or (B, C, T)]; `T * samples_per_frame` samples each.

        Raises
        ------
        UserError
            Latents of another channel count, without frames, or with NaN.
        """
        return [self._decode(item) for item in batch_of_latents(latents, self.channels).detach().cpu().float()]

    def _decode(self, latents: torch.Tensor) -> Waveform:
        magnitudes = self.magnitudes(self.latents_to_levels(latents))
        difference, angle = latents[-self.side_channels :].unflatten(0, (2, 2, 2)).unbind(0)
        samples = np.zeros((2, latents.shape[1] * self.samples_per_frame), dtype=np.float32)
        for number, (part, magnitude) in enumerate(zip(self.parts, magnitudes, strict=True)):
            spectrum = search_phases(magnitude[None], part.spectrum, iterations=_ITERATIONS[number])[0]
            both = _placed(spectrum, part, difference[number], angle[number], _ECHO_FRAMES[number])
            made = Waveform(synthesise(both, part.spectrum).numpy(), part.rate)
            samples += _of_length(resample(made, self.sample_rate).samples, samples.shape[1])
        return Waveform(_limited(samples, self.config.hop), self.sample_rate)

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file (settings in its metadata), atomically."""
        tensors = {name: getattr(self, name).half() for name in _TENSORS}
        write_tensors(path, tensors, {"format": FORMAT, "settings": json.dumps(vars(self.config))})

    @classmethod
    def load(cls, path: str | Path) -> WideBandCodec:
        """The codec saved in `path`.

        Raises
        ------
        CheckpointError
            Not a file of this codec, truncated, or with missing, misshapen or non-finite tensors.
        """
        header = read_header(path)
        tensors = {name: tensor.float() for name, tensor in read_tensors(path, lambda name: name in _TENSORS).items()}
        if header.metadata.get("format") != FORMAT or set(tensors) != set(_TENSORS):
            names = ", ".join(sorted(header.shapes)) or "none"
            raise CheckpointError(f"{path} is not a file of the codec '{cls.name}' (tensors {names}).")
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise CheckpointError(f"the codec file {path} holds NaN or infinite values; fit the codec again.")
        try:
            config = WideConfig(**read_metadata_object(header.metadata, "settings", path))
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"the settings in the codec file {path} cannot be understood ({error}); fit the codec again."
            ) from error
        return cls(**tensors, config=config)  # type: ignore[arg-type]

    @classmethod
    def from_package(cls) -> WideBandCodec:
        """The codec that the package carries."""
        with resources.as_file(resources.files("eisbach") / "assets" / "codec" / "wide_bands.safetensors") as path:
            return cls.load(path)


def level_weights(config: WideConfig) -> torch.Tensor:
    """Square roots of the weights of a level vector's entries [shape=(W,)]: of the time that a frame stands for, and a
    third more above the split, where transients are.
    """
    parts = [_Part(config, high=high) for high in (False, True)]
    each = [math.sqrt((1.3 if high else 1.0) * config.frames / part.frames) for high, part in enumerate(parts)]
    return torch.cat([torch.full((part.bands * part.frames,), w) for part, w in zip(parts, each, strict=True)])


def _placed(
    spectrum: torch.Tensor, part: _Part, difference: torch.Tensor, angle: torch.Tensor, echo: int
) -> torch.Tensor:
    """Left and right [shape=(2, bins, frames)] of a spectrum [shape=(bins, frames)]: a level difference and an angle
    for each wide band and latent frame [shape=(2, T)]; mean power is kept.

    What does not agree between the channels is a delayed copy, added on one side and taken away on the other.
    """

    def over_bins(values: torch.Tensor) -> torch.Tensor:
        frames = torch.nn.functional.interpolate(
            values[None], scale_factor=float(part.frames), mode="linear", align_corners=False
        )[0]
        frames = torch.cat([frames, frames[:, -1:]], dim=1)
        return part.wide.T @ frames[:, : spectrum.shape[1]]

    half = 0.5 * over_bins((angle * _ANGLE_UNIT).clamp(0.0, math.pi))
    ratio = 10.0 ** (over_bins((difference * _DIFFERENCE_UNIT).clamp(-_MOST_DIFFERENCE_DB, _MOST_DIFFERENCE_DB)) / 10.0)
    agreeing = spectrum * half.cos()
    other = torch.nn.functional.pad(spectrum, (echo, 0))[:, : spectrum.shape[1]] * half.sin()
    gains = (2.0 * ratio / (1.0 + ratio)).sqrt(), (2.0 / (1.0 + ratio)).sqrt()
    return torch.stack([gains[0] * (agreeing + other), gains[1] * (agreeing - other)])


def _of_length(samples: np.ndarray, count: int) -> np.ndarray:
    """Samples [shape=(channels, count)]: cut, or filled up with silence."""
    cut = samples[:, :count]
    return np.ascontiguousarray(np.pad(cut, ((0, 0), (0, count - cut.shape[1]))), dtype=np.float32)


def _limited(samples: np.ndarray, block: int) -> np.ndarray:
    """Samples [shape=(channels, n), n a multiple of `block`] turned down around the moments that exceed full scale.

    Phases other than the original's make higher peaks: on dense loud music by 6 dB, which one gain for the whole clip
    would take from everything in it.
    """
    peaks = np.abs(samples).max(0).reshape(-1, block).max(1)
    if peaks.max(initial=0.0) <= 1.0:
        return samples
    from scipy.ndimage import minimum_filter1d, uniform_filter1d

    needed = minimum_filter1d(np.minimum(1.0, 1.0 / np.maximum(peaks, 1.0)), 2 * _LIMITER_BLOCKS + 3, mode="nearest")
    gain = uniform_filter1d(needed, 2 * _LIMITER_BLOCKS + 1, mode="nearest")
    centres = (np.arange(len(gain)) + 0.5) * block
    limited = samples * np.interp(np.arange(samples.shape[1]), centres, gain)
    return limited.astype(np.float32)
