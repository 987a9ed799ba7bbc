"""Fits the embedded codec to audio (the basis by principal components, the synthesis maps by non-negative regression),
and measures both versions of it.

`recipes/base/fit_codec.py` fits, `bench/codec_quality.py` measures on clips that took no part.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from eisbach.audio import read_audio, resample, to_mono
from eisbach.codecs.bands import BandCodec, SpectrumConfig, band_levels, triangles
from eisbach.codecs.wide import WideBandCodec, WideConfig, level_weights
from eisbach.errors import UserError
from eisbach.progress import Progress
from eisbach.types import Waveform


def fit_codec(
    paths: Sequence[str | Path], *, channels: int = 128, config: WideConfig | None = None, whitening: float = 0.5,
    seconds: float = 50.0, depth: float = 75.0,
) -> WideBandCodec:  # fmt: skip
    """A codec fitted to audio files.

    Parameters
    ----------
    paths : sequence of paths
        Audio; a few hundred clips, of all kinds of music that shall be coded.
    channels : int
        Latent channels C, those of the side information among them.
    whitening : float
        0 leaves the components their own variances, 1 makes them equal. At 0.5 the audible ones stay larger, so that
        a diffusion model resolves them first and the loss counts them more.
    seconds : float
        How much of each file's beginning is used.
    depth : float
        Levels further below a clip's loudest (dB) count as so far below: the basis has better things to keep.

    Raises
    ------
    UserError
        Fewer latent frames than channels.
    """
    config = config or WideConfig()
    codec = _analysis_only(config)
    width = codec.mean.shape[0]
    total = torch.zeros(width, dtype=torch.float64)
    second = torch.zeros(width, width, dtype=torch.float64)
    count = 0
    sums = [
        (torch.zeros_like(m), torch.zeros(m.shape[1], m.shape[1])) for m in (codec.synthesis_low, codec.synthesis_high)
    ]
    with Progress(len(paths), "fit codec") as bar:
        for path in paths:
            spectra = codec.spectra(read_audio(path, duration=seconds))
            levels = codec.levels_of(spectra)
            vectors = (levels.clamp_min(float(levels.max()) - depth) * codec.weights).double()
            total += vectors.sum(0)
            second += vectors.T @ vectors
            count += vectors.shape[0]
            for part, spectrum, (numerator, gram) in zip(codec.parts, spectra, sums, strict=True):
                magnitude = spectrum.abs().square().mean(0).sqrt() * part.inside[:, None]
                _regress(magnitude, (part.filters @ magnitude.square()).sqrt(), numerator, gram)
            bar.advance()
    if count <= channels:
        raise UserError(f"{count} latent frames cannot fix {channels} channels; give more audio or fewer channels.")
    mean = total / count
    covariance = second / count - torch.outer(mean, mean)
    basis, scale = _principal(covariance, channels - WideBandCodec.side_channels, whitening)
    maps = [_synthesis(*pair, part.filters) for pair, part in zip(sums, codec.parts, strict=True)]
    return WideBandCodec((mean / codec.weights).float(), basis.float(), scale.float(), *maps, config=config)


def _analysis_only(config: WideConfig) -> WideBandCodec:
    """A codec without a basis, whose spectra and levels can be had."""
    weights = level_weights(config)
    bins, high = config.n_fft // 2 + 1, config.middle_bands + config.wide_bands
    maps = torch.zeros(bins, config.low_bands), torch.zeros(bins, high)
    return WideBandCodec(torch.zeros_like(weights), torch.zeros(1, len(weights)), torch.ones(1), *maps, config=config)


def _regress(magnitude: torch.Tensor, bands: torch.Tensor, numerator: torch.Tensor, gram: torch.Tensor) -> None:
    """Adds frames [shape=(bins, n)] and their bands [shape=(bands, n)] to the sums that a synthesis map is found from.

    Quiet frames count as much as loud ones, up to 40 dB below the clip's loudest.
    """
    loudness = magnitude.norm(dim=0)
    unit = 1.0 / loudness.clamp_min(0.01 * float(loudness.max()) + 1e-9)
    numerator += (magnitude * unit) @ (bands * unit).T
    gram += (bands * unit) @ (bands * unit).T


def _principal(covariance: torch.Tensor, channels: int, whitening: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The strongest components [shape=(channels, width)] and their scales, after whitening by a share."""
    values, vectors = torch.linalg.eigh(covariance)
    order = values.argsort(descending=True)[:channels]
    basis = vectors[:, order].T
    # The sign of an eigenvector is arbitrary: fix it, so that a refit gives the same latents.
    basis = basis * basis.gather(1, basis.abs().argmax(dim=1, keepdim=True)).sign()
    deviation = values[order].clamp_min(1e-9).sqrt()
    scale = deviation**whitening
    return basis, scale * ((deviation / scale).square().mean().sqrt())


def _synthesis(numerator: torch.Tensor, gram: torch.Tensor, filters: torch.Tensor, steps: int = 300) -> torch.Tensor:
    """Non-negative least squares by multiplicative updates (Lee & Seung 2001), started from the filters themselves,
    so that a bin which no band hears keeps nothing.
    """
    shape = filters.T / filters.T.amax(dim=0, keepdim=True)
    weights = shape.clone()
    for _ in range(steps):
        weights = weights * numerator / (weights @ gram).clamp_min(1e-12)
    return torch.where(torch.isfinite(weights), weights, shape)


def measure_codec(codec: BandCodec | WideBandCodec, paths: Iterable[str | Path]) -> dict[str, float]:
    """What is lost between audio files and their decoded sound, root mean squares over files, all of them mixed down.

    Returns
    -------
    dict
        `band_rmse_db`: the codec's own levels after the latents, against before (dB). `mel_rmse_db`, `mel_rmse_80_db`:
        80-band log-mel levels to 10 kHz of the decoded *sound* against the original's (dB), floored 50 and 80 dB below
        each clip's maximum. `mel_14k_rmse_db`, `mel_14k_rmse_80_db`: the same with bands to 14 kHz.
        `flux_gini`, `flux_gini_decoded`: how unevenly the original's and the decoded sound's spectral flux is spread
        over time (0 to 1, high where onsets are sharp and what lies between them is still); `flux_correlation`: of the
        two fluxes. `bandwidth_hz`: up to where the decoded spectrum is within 6 dB of the original's.
        `seconds_to_decode_30_s`: of processor time. `clips`.

    Raises
    ------
    UserError
        No file.
    """
    rows = [_measure(codec, read_audio(path)) for path in paths]
    if not rows:
        raise UserError("no audio to measure the codec on; name at least one file.")
    result = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        result[name] = float(np.sqrt(np.mean(values**2)) if "rmse" in name else np.mean(values))
    return {**result, "clips": len(rows)}


def _measure(codec: BandCodec | WideBandCodec, waveform: Waveform) -> dict[str, float]:
    given = resample(waveform, codec.sample_rate)
    whole = given.samples.shape[1] // codec.samples_per_frame * codec.samples_per_frame
    given = Waveform(given.samples[:, :whole], codec.sample_rate)
    latents = codec.encode(given)
    levels = codec.levels(given)
    started = time.process_time()
    decoded = codec.decode(latents)[0]
    spent = time.process_time() - started
    whole_original = Waveform(waveform.samples[:, : round(given.duration * waveform.sample_rate)], waveform.sample_rate)
    return {
        "band_rmse_db": float((codec.latents_to_levels(latents) - levels).square().mean()) ** 0.5,
        **sound_errors(whole_original, decoded),
        "seconds_to_decode_30_s": spent * 30.0 / decoded.duration,
    }


def sound_errors(original: Waveform, decoded: Waveform) -> dict[str, float]:
    """What `measure_codec` says of a sound and what became of it, both mixed to mono."""
    result = {}
    mono = to_mono(original), to_mono(decoded)
    for name, config in _MEL.items():
        before, after = (_mel_levels(wave, config) for wave in mono)
        frames = min(before.shape[1], after.shape[1])
        before, after = before[:, :frames], after[:, :frames]
        for depth, suffix in ((50.0, ""), (80.0, "_80")):
            floor = float(before.max()) - depth
            error = (after.clamp_min(floor) - before.clamp_min(floor)).square().mean()
            result[f"{name}_rmse{suffix}_db"] = float(error) ** 0.5
    flux = [_flux(levels.numpy()) for levels in (before, after)]
    result |= {"flux_gini": _gini(flux[0]), "flux_gini_decoded": _gini(flux[1])}
    result["flux_correlation"] = float(np.corrcoef(flux[0], flux[1])[0, 1])
    result["bandwidth_hz"] = _bandwidth(*mono)
    return result


_MEL = {
    "mel": SpectrumConfig(22050, 2048, 512, 80, 30.0, 10000.0, -200.0),
    "mel_14k": SpectrumConfig(32000, 2048, 512, 80, 30.0, 14000.0, -200.0),
}


def _mel_levels(mono: Waveform, config: SpectrumConfig) -> torch.Tensor:
    samples = torch.from_numpy(resample(mono, config.sample_rate).samples[0])
    return band_levels(samples, config, _mel_filters(config))


def _flux(levels: np.ndarray) -> np.ndarray:
    """Mean rise over the bands from frame to frame [shape=(frames - 1,)], of the top 60 dB."""
    return np.maximum(np.diff(np.maximum(levels, levels.max() - 60.0), axis=1), 0.0).mean(axis=0)


def _gini(values: np.ndarray) -> float:
    ordered, n = np.sort(values), len(values)
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / max(n * ordered.sum(), 1e-12))


def _bandwidth(before: Waveform, after: Waveform, step: float = 500.0) -> float:
    """The end in Hz of the last band, counted from below, whose level is no more than 6 dB under the original's."""
    levels = []
    for wave in (before, after):
        samples = resample(wave, 32000).samples[0].astype(np.float64)
        power = np.abs(np.fft.rfft(samples)) ** 2
        edges = np.searchsorted(np.fft.rfftfreq(len(samples), 1 / 32000), np.arange(0.0, 16000.0, step))
        levels.append(10 * np.log10(np.add.reduceat(power, edges) / len(samples) ** 2 + 1e-12))
    audible = levels[0] > levels[0].max() - 90.0
    lost = np.flatnonzero(audible & (levels[1] < levels[0] - 6.0))
    last = lost[0] if len(lost) else int(np.flatnonzero(audible)[-1]) + 1
    return float(last * step)


def _mel_filters(config: SpectrumConfig) -> torch.Tensor:
    """Triangles evenly spaced on the HTK mel scale [shape=(n_bands, bins)], each of unit sum."""

    def mel(hertz: torch.Tensor) -> torch.Tensor:
        return 2595.0 * torch.log10(1.0 + hertz / 700.0)

    ends = mel(torch.tensor([config.low_hz, config.high_hz], dtype=torch.float64))
    points = torch.linspace(float(ends[0]), float(ends[1]), config.n_bands + 2, dtype=torch.float64)
    edges = 700.0 * (10.0 ** (points / 2595.0) - 1.0)
    return triangles(edges, config)
