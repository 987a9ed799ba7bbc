"""Fits the embedded codec to audio: the basis by principal components, the synthesis map by non-negative regression.

`python -m eisbach.codecs.fit CLIPS… --out FILE` fits, and `--check CLIPS…` measures on clips that took no part.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from eisbach.audio import read_audio, resample, to_mono
from eisbach.codecs.bands import BandCodec, SpectrumConfig, band_filters, band_levels, magnitudes, triangles
from eisbach.errors import UserError
from eisbach.files import write_json
from eisbach.progress import Progress


def _samples(path: str | Path, config: SpectrumConfig) -> torch.Tensor:
    waveform = resample(to_mono(read_audio(path)), config.sample_rate)
    return torch.from_numpy(waveform.samples[0])


def fit_codec(
    paths: Sequence[str | Path], *, channels: int = 96, stack: int = 16, config: SpectrumConfig | None = None,
    whitening: float = 0.5, synthesis_paths: int = 60,
) -> BandCodec:  # fmt: skip
    """A codec fitted to audio files.

    Parameters
    ----------
    paths : sequence of paths
        Audio; a few hundred clips of 30 s are plenty.
    channels : int
        Latent channels C.
    whitening : float
        0 leaves the components their own variances, 1 makes them equal. At 0.5 the audible ones stay larger, so that
        a diffusion model resolves them first and the loss counts them more.
    synthesis_paths : int
        How many of the files the synthesis map is fitted to.

    Raises
    ------
    UserError
        Fewer stacked frames than latent channels.
    """
    config = config or SpectrumConfig()
    filters = band_filters(config)
    width = stack * config.n_bands
    total = torch.zeros(width, dtype=torch.float64)
    second = torch.zeros(width, width, dtype=torch.float64)
    count = 0
    numerator = torch.zeros(config.n_fft // 2 + 1, config.n_bands)
    gram = torch.zeros(config.n_bands, config.n_bands)
    with Progress(len(paths), "fit codec") as bar:
        for number, path in enumerate(paths):
            samples = _samples(path, config)
            levels = band_levels(samples, config, filters)
            levels = levels[:, : levels.shape[1] // stack * stack]
            vectors = levels.reshape(config.n_bands, -1, stack).movedim(1, 0).flatten(1).double()
            total += vectors.sum(0)
            second += vectors.T @ vectors
            count += vectors.shape[0]
            if number < synthesis_paths:
                spectrum = magnitudes(samples, config)[:, : levels.shape[1]]
                # Quiet frames count as much as loud ones, up to 40 dB below the clip's loudest.
                loudness = spectrum.norm(dim=0)
                unit = 1.0 / loudness.clamp_min(0.01 * float(loudness.max()) + 1e-9)
                bands = 10.0 ** (levels / 20.0) * unit
                numerator += (spectrum * unit) @ bands.T
                gram += bands @ bands.T
            bar.advance()
    if count <= channels:
        raise UserError(f"{count} latent frames cannot fix {channels} channels; give more audio or fewer channels.")
    mean = total / count
    basis, scale = _principal(second / count - torch.outer(mean, mean), channels, whitening)
    return BandCodec(
        mean.float(), basis.float(), scale.float(), _synthesis(numerator, gram, filters), stack=stack, config=config
    )


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


def measure_codec(codec: BandCodec, paths: Iterable[str | Path]) -> dict[str, float]:
    """Reconstruction error on audio files.

    Returns
    -------
    dict
        `band_rmse_db`: log-band levels after the latents, against before (dB): the codec's own loss. `mel_rmse_db`:
        80-band log-mel levels of the decoded *sound* against the original's (dB, floored 50 dB below each clip's
        maximum), so with what the way back to sound adds; `mel_rmse_80_db`: the same floored 80 dB below, which reaches
        under the codec's own floor.
    """
    mel = SpectrumConfig(n_fft=2048, n_bands=80, low_hz=30.0, floor_db=-200.0)
    mel_filters = _mel_filters(mel)
    band_error = 0.0
    mel_error = {50.0: 0.0, 80.0: 0.0}
    number = 0
    for path in paths:
        samples = _samples(path, codec.config)
        samples = samples[: samples.shape[0] // codec.samples_per_frame * codec.samples_per_frame]
        levels = band_levels(samples, codec.config, codec.filters)
        latents = codec.levels_to_latents(levels)
        band_error += float((codec.latents_to_levels(latents) - levels).square().mean())
        decoded = torch.from_numpy(codec.decode(latents)[0].samples[0])
        before, after = (band_levels(x, mel, mel_filters) for x in (samples, decoded))
        for depth in mel_error:
            floor = float(before.max()) - depth
            mel_error[depth] += float((after.clamp_min(floor) - before.clamp_min(floor)).square().mean())
        number += 1
    if not number:
        raise UserError("no audio to measure the codec on; name at least one file.")
    return {
        "band_rmse_db": (band_error / number) ** 0.5,
        "mel_rmse_db": (mel_error[50.0] / number) ** 0.5,
        "mel_rmse_80_db": (mel_error[80.0] / number) ** 0.5,
        "clips": number,
    }


def _mel_filters(config: SpectrumConfig) -> torch.Tensor:
    """Triangles evenly spaced on the HTK mel scale [shape=(n_bands, bins)], each of unit sum."""

    def mel(hertz: torch.Tensor) -> torch.Tensor:
        return 2595.0 * torch.log10(1.0 + hertz / 700.0)

    ends = mel(torch.tensor([config.low_hz, config.high_hz], dtype=torch.float64))
    points = torch.linspace(float(ends[0]), float(ends[1]), config.n_bands + 2, dtype=torch.float64)
    edges = 700.0 * (10.0 ** (points / 2595.0) - 1.0)
    return triangles(edges, config)


def main(arguments: Sequence[str] | None = None) -> None:
    """The maintainer's command behind recipes/base/."""
    parser = argparse.ArgumentParser(description="Fit the embedded codec and measure it on held-out clips.")
    parser.add_argument("clips", nargs="+", type=Path, help="audio files to fit on")
    parser.add_argument("--check", nargs="*", type=Path, default=[], help="audio files to measure on")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--channels", type=int, default=96)
    parser.add_argument("--report", type=Path, help="JSON file for the measurement")
    parser.add_argument("--keep", action="store_true", help="measure the codec that is already in --out")
    options = parser.parse_args(arguments)
    codec = BandCodec.load(options.out) if options.keep else fit_codec(options.clips, channels=options.channels)
    if not options.keep:
        codec.save(options.out)
    result = {"codec": codec.identity(), "channels": codec.channels, "fitted_on": len(options.clips)}
    if options.check:
        result |= measure_codec(codec, options.check)
    if options.report:
        write_json(options.report, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
