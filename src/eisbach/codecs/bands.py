"""The embedded codec: a linear basis over stacked log-band frames, and a phase-aware way back to sound.

Sixteen consecutive frames of 84 band levels (371 ms) are one vector; a fixed orthonormal basis, fitted once to
rendered music (`bench/codec_fit.py`), turns it into one latent frame. Linear and deterministic, so the latents of any
audio are comparable, a gain is a shift of the latents, and decoding has no mode of its own that a weighting could be
credited with.

Bands are a semitone apart where the transform resolves a semitone and evenly spaced below: a mel scale of the same size
spends its bands on the highest octave and blurs neighbouring notes below 1 kHz.
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

from eisbach.codecs.base import batch_of_latents, frames_in, heard
from eisbach.errors import CheckpointError, UserError
from eisbach.tensor_files import read_header, read_metadata_object, read_tensors, write_tensors
from eisbach.types import Waveform


@dataclass(frozen=True)
class SpectrumConfig:
    """Analysis settings.

    Attributes
    ----------
    sample_rate, n_fft, hop : int
        Hz, samples, samples.
    n_bands : int
    low_hz, high_hz : float
        Centres of the outermost bands.
    floor_db : float
        Levels below this (dB relative to a full-scale sine) are raised to it.
    """

    sample_rate: int = 22050
    n_fft: int = 3072
    hop: int = 512
    n_bands: int = 84
    low_hz: float = 40.0
    high_hz: float = 10000.0
    floor_db: float = -80.0


_CORNER_HZ = 370.0  # below it bands are evenly spaced: a semitone is 22 Hz there, what the transform can tell apart


def band_centres(config: SpectrumConfig) -> torch.Tensor:
    """Band centres in Hz [shape=(n_bands,), float64]: linear, then logarithmic, joined with equal slope."""
    low, high, n, corner = config.low_hz, config.high_hz, config.n_bands, _CORNER_HZ
    # Below the corner f_c the spacing is constant (f_c * r); above it is a constant ratio. Solve for the ratio
    # so that exactly n bands fit between low and high.

    def count(ratio: float) -> float:
        return (corner - low) / (corner * ratio) + math.log(high / corner) / math.log1p(ratio)

    lower, upper = 1e-3, 1.0
    for _ in range(80):
        middle = math.sqrt(lower * upper)
        lower, upper = (middle, upper) if count(middle) > n - 1 else (lower, middle)
    ratio = math.sqrt(lower * upper)
    steps = (corner - low) / (corner * ratio)
    index = torch.arange(n, dtype=torch.float64)
    linear = low + index * corner * ratio
    logarithmic = corner * torch.exp((index - steps) * math.log1p(ratio))
    return torch.where(index < steps, linear, logarithmic)


def band_filters(config: SpectrumConfig) -> torch.Tensor:
    """Triangular filters on power [shape=(n_bands, n_fft // 2 + 1), float32], each of unit sum.

    Raises
    ------
    UserError
        Bands so narrow that one of them holds no bin of the transform.
    """
    centres = band_centres(config)
    step_low, step_high = centres[1] - centres[0], centres[-1] ** 2 / centres[-2]
    edges = torch.cat([centres[:1] - step_low, centres, step_high[None]])
    return triangles(edges, config)


def triangles(edges: torch.Tensor, config: SpectrumConfig) -> torch.Tensor:
    """Triangular filters of unit sum [shape=(n - 2, n_fft // 2 + 1), float32] over edges in Hz [shape=(n,), float64].

    Raises
    ------
    UserError
        Edges so close that a filter holds no bin of the transform.
    """
    bins = torch.arange(config.n_fft // 2 + 1, dtype=torch.float64) * config.sample_rate / config.n_fft
    rise = (bins[None] - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins[None]) / (edges[2:] - edges[1:-1])[:, None]
    filters = torch.minimum(rise, fall).clamp_min(0.0)
    empty = int((filters.sum(-1) == 0).sum())
    if empty:
        raise UserError(
            f"{empty} of {len(filters)} bands between {float(edges[1]):g} and {float(edges[-2]):g} Hz hold no bin of a "
            f"transform of {config.n_fft} samples at {config.sample_rate} Hz; use fewer bands or a longer transform."
        )
    return (filters / filters.sum(-1, keepdim=True)).float()


def transform(samples: torch.Tensor, config: SpectrumConfig, window: torch.Tensor) -> torch.Tensor:
    """Complex STFT [shape=(..., n_fft // 2 + 1, n // hop + 1)], centred, silence beyond the ends."""
    return torch.stft(
        samples, config.n_fft, config.hop, window=window, center=True, pad_mode="constant", return_complex=True
    )


def magnitudes(samples: torch.Tensor, config: SpectrumConfig) -> torch.Tensor:
    """STFT magnitudes [shape=(..., n_fft // 2 + 1, n // hop)]; a full-scale sine on a bin gives 1."""
    window = torch.hann_window(config.n_fft)
    spectrum = transform(samples, config, window)
    return spectrum.abs()[..., : samples.shape[-1] // config.hop] * (2.0 / float(window.sum()))


def band_levels(samples: torch.Tensor, config: SpectrumConfig, filters: torch.Tensor) -> torch.Tensor:
    """Band levels in dB [shape=(..., n_bands, frames)], floored at `config.floor_db`."""
    power = filters @ magnitudes(samples, config).square()
    return (10.0 * torch.log10(power.clamp_min(1e-12))).clamp_min(config.floor_db)


def _peak_phases(magnitude: torch.Tensor, config: SpectrumConfig) -> torch.Tensor:
    """Starting phases [shape=(B, bins, frames)] that let each spectral peak turn at its own frequency (single-pass
    spectrogram inversion, Beauregard et al. 2015): the peak's frequency by parabolic interpolation, its region in
    phase with it.
    """
    spectrum = magnitude.transpose(1, 2).contiguous()  # frames before bins: every scan below runs over memory in order
    batch, frames, bins = spectrum.shape
    left, right = spectrum.roll(1, dims=2), spectrum.roll(-1, dims=2)
    is_peak = (spectrum > left) & (spectrum >= right)
    is_peak[..., 0] = is_peak[..., -1] = False
    curvature = (left - 2 * spectrum + right).clamp_max(-1e-12)
    offset = torch.where(is_peak, 0.5 * (left - right) / curvature, 0.0).clamp(-0.5, 0.5)
    index = torch.arange(bins, device=magnitude.device)
    below = torch.where(is_peak, index, -1).cummax(dim=2).values
    above = torch.where(is_peak, index, 2 * bins).flip(2).cummin(dim=2).values.flip(2)
    nearest = torch.where((index - below <= above - index) & (below >= 0), below, above)
    nearest = torch.where(nearest >= bins, index, nearest)
    turn = (2 * math.pi * config.hop / config.n_fft * (index + offset)).gather(2, nearest)
    phases = torch.empty_like(spectrum)
    phase = spectrum.new_zeros(batch, bins)
    for frame in range(frames):
        phase = torch.remainder(phase.gather(1, nearest[:, frame]) + turn[:, frame], 2 * math.pi)
        phases[:, frame] = phase
    # Within a region the main lobe of a centred Hann window alternates in sign from bin to bin.
    phases += math.pi * ((index - nearest).abs() % 2)
    return phases.transpose(1, 2)


def search_phases(
    magnitude: torch.Tensor, config: SpectrumConfig, *, iterations: int = 8, momentum: float = 0.99
) -> torch.Tensor:
    """Complex spectrum [shape=(B, bins, frames + 1)] with `magnitude` [shape=(B, bins, frames)], of which the last is
    repeated so that the inverse covers `frames * hop` samples.

    Phases start from the peaks' own rotation and are refined by fast Griffin-Lim (Perraudin et al. 2013).
    Deterministic.
    """
    window = torch.hann_window(config.n_fft)
    target = torch.cat([magnitude, magnitude[..., -1:]], dim=-1) / (2.0 / float(window.sum()))
    phases = torch.polar(torch.ones_like(target), _peak_phases(target, config))
    previous = torch.zeros_like(phases)
    for _ in range(iterations):
        rebuilt = transform(synthesise(target * phases, config), config, window)
        step = rebuilt + momentum * (rebuilt - previous)
        phases = torch.sgn(step)
        previous = rebuilt
    return target * phases


def synthesise(spectrum: torch.Tensor, config: SpectrumConfig) -> torch.Tensor:
    """Samples [shape=(B, frames * hop)] of a complex spectrum [shape=(B, bins, frames + 1)]."""
    window = torch.hann_window(config.n_fft)
    length = (spectrum.shape[-1] - 1) * config.hop
    return torch.istft(spectrum, config.n_fft, config.hop, window=window, center=True, length=length)


def invert(
    magnitude: torch.Tensor, config: SpectrumConfig, *, iterations: int = 8, momentum: float = 0.99
) -> torch.Tensor:
    """Samples [shape=(B, frames * hop)] whose STFT magnitudes come near `magnitude` [shape=(B, bins, frames)]; phases
    as in `search_phases`.
    """
    return synthesise(search_phases(magnitude, config, iterations=iterations, momentum=momentum), config)


_TENSORS = ("mean", "basis", "scale", "synthesis")
_DECODE_CHUNK = 8  # waveforms inverted together: bounds memory at about 1 GB for clips of 120 s


class BandCodec:
    """Mono audio at 22.05 kHz to latents `(C, T)` at 2.69 frames/s, and back.

    Parameters
    ----------
    mean : torch.Tensor [shape=(stack * n_bands,)]
        Mean level vector, dB.
    basis : torch.Tensor [shape=(C, stack * n_bands)]
        Orthonormal rows.
    scale : torch.Tensor [shape=(C,)]
        dB per latent unit.
    synthesis : torch.Tensor [shape=(n_fft // 2 + 1, n_bands)]
        Non-negative map from band magnitudes to the magnitudes of transform bins.
    stack : int
        Band frames per latent frame.
    config : SpectrumConfig
    iterations : int
        Griffin-Lim refinements in `decode`.
    """

    name = "bands"
    audio_channels = 1
    model: torch.nn.Module | None = None

    def __init__(
        self,
        mean: torch.Tensor,
        basis: torch.Tensor,
        scale: torch.Tensor,
        synthesis: torch.Tensor,
        *,
        stack: int = 16,
        config: SpectrumConfig | None = None,
        iterations: int = 8,
    ) -> None:
        self.config = config or SpectrumConfig()
        self.stack, self.iterations = stack, iterations
        width = stack * self.config.n_bands
        bins = (self.config.n_fft // 2 + 1, self.config.n_bands)
        fits = basis.ndim == 2 and basis.shape[1] == width and mean.shape == (width,)
        if not fits or scale.shape != basis.shape[:1] or synthesis.shape != bins:
            raise CheckpointError(
                f"the codec's tensors do not fit each other: mean {tuple(mean.shape)}, basis {tuple(basis.shape)}, "
                f"scale {tuple(scale.shape)}, synthesis {tuple(synthesis.shape)}, but {stack} frames of "
                f"{self.config.n_bands} bands make vectors of {width}, and the synthesis map is {bins}."
            )
        # The file holds half precision: rounding here makes a fitted codec equal to itself after saving.
        self.mean, self.basis, self.scale, self.synthesis = (
            tensor.half().float() for tensor in (mean, basis, scale, synthesis)
        )
        self.filters = band_filters(self.config)
        self.channels = int(basis.shape[0])
        self.sample_rate = self.config.sample_rate
        self.samples_per_frame = stack * self.config.hop
        self.latent_rate = self.sample_rate / self.samples_per_frame

    def identity(self) -> str:
        """A 16-digit hash of settings and tensors that change the latents."""
        digest = hashlib.sha256(json.dumps(self._settings(), sort_keys=True).encode())
        for tensor in (self.mean, self.basis, self.scale):
            digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
        return f"bands-{digest.hexdigest()[:16]}"

    def _settings(self) -> dict[str, float | int]:
        return {**vars(self.config), "stack": self.stack}

    def frames_for(self, seconds: float) -> int:
        """Latent frames in `seconds` of audio, rounded down, at least 1; `UserError` for NaN and infinity."""
        return frames_in(seconds, self.latent_rate)

    def levels(self, waveform: Waveform) -> torch.Tensor:
        """Band levels in dB [shape=(n_bands, T * stack)], the waveform padded with silence to whole latent frames."""
        mono = heard(waveform, self.sample_rate, self.audio_channels)
        samples = torch.from_numpy(np.ascontiguousarray(mono.samples[0], dtype=np.float32))
        missing = -samples.shape[0] % self.samples_per_frame or (self.samples_per_frame if samples.shape[0] == 0 else 0)
        return band_levels(torch.nn.functional.pad(samples, (0, missing)), self.config, self.filters)

    def encode(self, waveform: Waveform) -> torch.Tensor:
        """Latents [shape=(C, T), float32]; the last frame is padded with silence."""
        return self.levels_to_latents(self.levels(waveform))

    def levels_to_latents(self, levels: torch.Tensor) -> torch.Tensor:
        """Latents [shape=(..., C, T)] of band levels [shape=(..., n_bands, T * stack)]."""
        *lead, bands, frames = levels.shape
        stacked = levels.reshape(*lead, bands, frames // self.stack, self.stack).movedim(-2, -3)
        vectors = stacked.flatten(-2) - self.mean
        return ((vectors @ self.basis.T) / self.scale).movedim(-1, -2)

    def latents_to_levels(self, latents: torch.Tensor) -> torch.Tensor:
        """Band levels in dB [shape=(..., n_bands, T * stack)] of latents [shape=(..., C, T)], at or above the floor."""
        vectors = (latents.float().movedim(-1, -2) * self.scale) @ self.basis + self.mean
        stacked = vectors.unflatten(-1, (self.config.n_bands, self.stack)).movedim(-3, -2)
        return stacked.flatten(-2).clamp(self.config.floor_db, 6.0)

    def _magnitudes(self, levels: torch.Tensor) -> torch.Tensor:
        """Magnitudes of transform bins [shape=(B, n_fft // 2 + 1, T * stack)] that have these band levels."""
        # Levels at the floor stand for silence: fade them out rather than sound them as hiss.
        audible = ((levels - self.config.floor_db) / 10.0).clamp(0.0, 1.0)
        bands = 10.0 ** (levels / 20.0) * audible
        magnitude = self.synthesis @ bands
        # The map was fitted to magnitudes on average, so a frame's bands come out too loud or too soft: measure them
        # as the encoder would, and spread each band's missing gain over the bins that it hears.
        power = (self.filters @ magnitude.square()).clamp_min(1e-12)
        gain = (bands / power.sqrt()).clamp(0.0, 4.0)
        spread = self.filters.T / self.filters.T.sum(dim=1, keepdim=True).clamp_min(1e-9)
        return magnitude * (spread @ gain)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> list[Waveform]:
        """Waveforms (mono) of latents [shape=(C, T) or (B, C, T)]; `T * samples_per_frame` samples each.

        Raises
        ------
        UserError
            Latents of another channel count, without frames, or with NaN.
        """
        batch = batch_of_latents(latents, self.channels)
        if batch.shape[0] == 0:
            return []
        out: list[Waveform] = []
        for chunk in batch.detach().cpu().split(_DECODE_CHUNK):
            magnitude = self._magnitudes(self.latents_to_levels(chunk))
            samples = invert(magnitude, self.config, iterations=self.iterations)
            # One gain for the whole clip where the inversion overshoots full scale.
            peak = samples.abs().amax(dim=-1, keepdim=True).clamp_min(1.0)
            out += [Waveform(row[None].numpy(), self.sample_rate) for row in (samples / peak)]
        return out

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file (settings in its metadata), atomically."""
        tensors = {name: getattr(self, name).half() for name in _TENSORS}
        metadata = {"format": "eisbach-band-codec", "settings": json.dumps(self._settings())}
        write_tensors(path, tensors, metadata)

    @classmethod
    def load(cls, path: str | Path) -> BandCodec:
        """The codec saved in `path`.

        Raises
        ------
        CheckpointError
            Not a codec file, truncated, or with missing, misshapen or non-finite tensors.
        """
        header = read_header(path)
        metadata, names = header.metadata, set(header.shapes)
        tensors = {name: tensor.float() for name, tensor in read_tensors(path, lambda name: name in _TENSORS).items()}
        if metadata.get("format") != "eisbach-band-codec" or set(tensors) != set(_TENSORS):
            raise CheckpointError(
                f"{path} is not a codec file of this package (tensors {', '.join(sorted(names)) or 'none'})."
            )
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
            raise CheckpointError(f"the codec file {path} holds NaN or infinite values; fit the codec again.")
        try:
            settings = read_metadata_object(metadata, "settings", path)
            stack = int(settings.pop("stack"))
            config = SpectrumConfig(**settings)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"the settings in the codec file {path} cannot be understood ({error}); fit the codec again."
            ) from error
        return cls(**tensors, stack=stack, config=config)  # type: ignore[arg-type]

    @classmethod
    def from_package(cls) -> BandCodec:
        """The codec that the package carries."""
        with resources.as_file(resources.files("eisbach") / "assets" / "codec" / "bands.safetensors") as path:
            return cls.load(path)
