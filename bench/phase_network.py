"""Phases by a small network against phases by search, for the embedded codec:

    python bench/phase_network.py RENDERED RECORDINGS… --minutes 6 --out bench/results/phase_network.json

Declared before the run: both get the same magnitudes (found from clean levels, so that nothing else is compared); the
one with the smaller log-mel error over the top 50 dB on held-out clips, rendered and recorded together, is kept, and of
two within 0.1 dB the faster one. The network (one for each part of the codec: convolutions over frames, the complex
spectrum out) is trained for `--minutes` of processor time a part on training clips with multi-resolution STFT losses
(log magnitude and spectral convergence at three windows), without an adversary.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from codec_fit import sound_errors
from torch import nn

from eisbach.audio import read_audio, resample
from eisbach.codecs.bands import search_phases, synthesise
from eisbach.codecs.wide import WideBandCodec
from eisbach.data.manifest import load_manifest
from eisbach.files import write_json
from eisbach.types import Waveform

_ITERATIONS = {"search": (2, 1), "search, 16 and 8 refinements": (16, 8), "peaks' rotation alone": (0, 0)}
_FRAMES, _BATCH, _SECONDS = 96, 8, 20.0


class PhaseNetwork(nn.Module):
    """Magnitudes [shape=(B, bins, frames)] to a complex spectrum of the same shape."""

    def __init__(self, bins: int, width: int = 192, blocks: int = 4) -> None:
        super().__init__()
        self.inward = nn.Conv1d(bins, width, 5, padding=2)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(width, width, 7, padding=3, groups=width),
                nn.Conv1d(width, 2 * width, 1),
                nn.GELU(),
                nn.Conv1d(2 * width, width, 1),
            )
            for _ in range(blocks)
        )
        self.outward = nn.Conv1d(width, 3 * bins, 1)

    def forward(self, magnitude: torch.Tensor) -> torch.Tensor:
        """The spectrum."""
        hidden = self.inward(torch.log(magnitude + 1e-5) / 4.0 + 1.0)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        gain, real, imaginary = self.outward(hidden).chunk(3, dim=1)
        phase = torch.atan2(imaginary, real + 1e-7)
        return torch.polar(magnitude * torch.exp(0.5 * torch.tanh(gain)), phase)


def _loss(made: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(())
    for n in (256, 512, 2048):
        window = torch.hann_window(n)
        a, b = (torch.stft(x, n, n // 4, window=window, return_complex=True).abs() + 1e-4 for x in (made, true))
        total = total + (a.log() - b.log()).abs().mean() + (a - b).norm() / b.norm()
    return total


def _train(magnitudes: list[torch.Tensor], sounds: list[torch.Tensor], part: Any, minutes: float) -> PhaseNetwork:
    torch.manual_seed(0)
    network = PhaseNetwork(magnitudes[0].shape[0])
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, betas=(0.8, 0.99))
    rng = np.random.default_rng(0)
    started, steps, hop = time.process_time(), 0, part.spectrum.hop
    while (share := (time.process_time() - started) / (60 * minutes)) < 1.0:
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * min(1.0, steps / 50) * (1.0 - share)
        clips = rng.integers(len(sounds), size=_BATCH)
        starts = [int(rng.integers(magnitudes[clip].shape[1] - _FRAMES)) for clip in clips]
        pairs = list(zip(clips, starts, strict=True))
        given = torch.stack([magnitudes[clip][:, start : start + _FRAMES + 1] for clip, start in pairs])
        true = torch.stack([sounds[clip][start * hop : (start + _FRAMES) * hop] for clip, start in pairs])
        loudness = true.square().mean(1).sqrt().clamp_min(1e-4)[:, None]
        spectrum = network(given / loudness[..., None]) * _amplitude(part)
        loss = _loss(synthesise(spectrum, part.spectrum), true / loudness)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        steps += 1
    print(f"{steps} steps, loss {float(loss.detach()):.3f}", flush=True)
    return network.eval()


def _amplitude(part: Any) -> float:
    """What a spectrum with a full-scale sine at 1 is multiplied by before it is inverted."""
    return float(torch.hann_window(part.spectrum.n_fft).sum()) / 2.0


def _parts(codec: WideBandCodec, path: Path) -> tuple[Waveform, list[torch.Tensor], list[torch.Tensor]]:
    """A clip in mono, and of both parts the magnitudes found from its levels, and its sound within the part."""
    waveform = read_audio(path, duration=_SECONDS, mono=True, sample_rate=codec.sample_rate)
    whole = waveform.samples.shape[1] // codec.samples_per_frame * codec.samples_per_frame
    waveform = Waveform(waveform.samples[:, :whole], codec.sample_rate)
    spectra = codec.spectra(waveform)
    sounds = []
    for part, spectrum in zip(codec.parts, spectra, strict=True):
        inside = torch.cat([spectrum[0], spectrum[0, :, -1:]], dim=1) * part.inside[:, None]
        sounds.append(synthesise(inside[None] * _amplitude(part), part.spectrum)[0])
    return waveform, codec.magnitudes(codec.levels_of(spectra)), sounds


@torch.no_grad()
def _sound(codec: WideBandCodec, magnitudes: list[torch.Tensor], networks: list[PhaseNetwork] | None, way: str) -> Any:
    started = time.process_time()
    total = 0.0
    for number, (part, magnitude) in enumerate(zip(codec.parts, magnitudes, strict=True)):
        if networks is None:
            spectrum = search_phases(magnitude[None], part.spectrum, iterations=_ITERATIONS[way][number])
        else:
            samples = magnitude.square().sum(0).mean().sqrt().clamp_min(1e-6)
            padded = torch.cat([magnitude, magnitude[:, -1:]], dim=1)[None]
            spectrum = networks[number](padded / samples) * samples * _amplitude(part)
        made = Waveform(synthesise(spectrum, part.spectrum).numpy(), part.rate)
        total = total + resample(made, codec.sample_rate).samples
    return Waveform(total, codec.sample_rate), time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders with a manifest: rendered, then recorded")
    parser.add_argument("--train-clips", type=int, default=60, help="of the rendered, and of the recorded ones")
    parser.add_argument("--clips", type=int, default=10, help="held-out clips of each kind")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--out", type=Path, default=Path("bench/results/phase_network.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    codec = WideBandCodec.from_package()
    train, held = [], {}
    for kind, folders in (("rendered", options.folders[:1]), ("recorded", options.folders[1:])):
        manifests = [load_manifest(folder) for folder in folders]
        for split, count in (("train", options.train_clips), ("held_out", options.clips)):
            rows = [(m.root / row.path) for m in manifests for row in m.select(split=split).rows if row.duration > 25]
            chosen = [rows[number * len(rows) // count] for number in range(count)]
            if split == "train":
                train += chosen
            else:
                held[kind] = chosen
    material = [_parts(codec, path)[1:] for path in train]
    networks = [
        _train([found[number] for found, _ in material], [sounds[number] for _, sounds in material], part,
               options.minutes)
        for number, part in enumerate(codec.parts)
    ]  # fmt: skip
    result: dict[str, Any] = {"minutes_a_part": options.minutes, "train_clips": len(train),
                              "parameters": sum(p.numel() for net in networks for p in net.parameters())}  # fmt: skip
    for kind, paths in held.items():
        rows: dict[str, list[dict[str, float]]] = {}
        for path in paths:
            waveform, magnitudes, _ = _parts(codec, path)
            for way in ("network", *_ITERATIONS):
                made, spent = _sound(codec, magnitudes, networks if way == "network" else None, way)
                errors = {**sound_errors(waveform, made), "seconds_for_30_s": spent * 30.0 / made.duration}
                rows.setdefault(way, []).append(errors)
        result[kind] = {
            way: {
                name: float(np.sqrt(np.mean([e[name] ** 2 for e in each])) if "rmse" in name
                            else np.mean([e[name] for e in each]))
                for name in each[0]
            }
            for way, each in rows.items()
        }  # fmt: skip
    write_json(options.out, result)


if __name__ == "__main__":
    main()
