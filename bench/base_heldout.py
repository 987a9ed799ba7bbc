"""Two embedded models on the same held-out clips, though their latents differ:

    python bench/base_heldout.py OLD NEW HELD_OUT… --out bench/results/base_heldout.json

Losses in latents of two codecs cannot be compared: they have other units, and the same noise hides another part of the
music. Here both are brought into sound. At each noise level t the model predicts x0 from a noised clip, with its own
caption; the noised clip (x_t over 1 - t), the prediction and the clean latents are each turned into levels of 19
third-octave bands (125 Hz to 8 kHz) every tenth of a second, and root mean squares of the differences from the clean
levels (dB, over the top 50 dB of each clip) are taken. `damage` is what the noise does to the levels, `error` what the
model leaves of it. Models are compared at equal damage (linear interpolation over t).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eisbach.audio import read_audio
from eisbach.backbones import load_backbone, load_codec_of
from eisbach.codecs.bands import BandCodec, band_centres
from eisbach.codecs.wide import WideBandCodec
from eisbach.data.manifest import load_manifest
from eisbach.files import write_json

NOISE_LEVELS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
DAMAGES = (5.0, 10.0, 20.0, 30.0, 40.0)
_THIRDS = 125.0 * 2.0 ** (np.arange(19) / 3.0 - 1.0 / 6.0)
_DEPTH = 50.0


def coarse(codec: BandCodec | WideBandCodec, latents: torch.Tensor) -> torch.Tensor:
    """Third-octave levels in dB [shape=(bands, frames)] about every tenth of a second."""
    levels = codec.latents_to_levels(latents)
    if isinstance(codec, BandCodec):
        parts = [(band_centres(codec.config), levels, codec.stack // 4)]
    else:
        vectors = levels.split([part.bands * part.frames for part in codec.parts], dim=1)
        parts = [
            (part.centres, vector.unflatten(1, (part.bands, part.frames)).movedim(0, 1).flatten(1), part.frames // 4)
            for part, vector in zip(codec.parts, vectors, strict=True)
        ]
    rows = []
    for low in _THIRDS.tolist():
        power = torch.zeros(4 * latents.shape[1])
        for centres, values, step in parts:
            inside = (centres >= low) & (centres < low * 2 ** (1 / 3))
            power += (10.0 ** (values[inside] / 10.0)).sum(0).unflatten(0, (-1, step)).mean(1)
        rows.append(10.0 * torch.log10(power.clamp_min(1e-12)))
    return torch.stack(rows)


@torch.no_grad()
def curve(model: str, clips: list[tuple[Path, str]], seconds: float) -> dict[str, list[float]]:
    """`damage` and `error` (dB) of one model at every noise level."""
    backbone = load_backbone(model)
    codec: Any = load_codec_of(backbone)
    totals = np.zeros((len(NOISE_LEVELS), 2))
    for number, (path, caption) in enumerate(clips):
        frames = codec.frames_for(seconds)
        clean = codec.encode(read_audio(path, duration=frames / codec.latent_rate))[:, :frames]
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(number))
        t = torch.tensor(NOISE_LEVELS)
        noised = (1 - t)[:, None, None] * clean + t[:, None, None] * noise
        conditioning = backbone.condition([caption] * len(t), [seconds] * len(t))
        predicted = noised - t[:, None, None] * backbone.predict(noised, t, conditioning)
        before = coarse(codec, clean)
        floor = float(before.max()) - _DEPTH
        for row in range(len(t)):
            for column, latents in enumerate((noised[row] / (1 - t[row]), predicted[row])):
                after = coarse(codec, latents)
                error = (after.clamp_min(floor) - before.clamp_min(floor)).square().mean()
                totals[row, column] += float(error)
    rms = np.sqrt(totals / len(clips))
    return {"noise_level": list(NOISE_LEVELS), "damage": rms[:, 0].tolist(), "error": rms[:, 1].tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("held_out", type=Path, nargs="+", help="manifests; their held-out clips are read")
    parser.add_argument("--clips", type=int, default=24, help="of each manifest")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=Path("bench/results/base_heldout.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"bands_db": _DEPTH, "seconds": options.seconds}
    for folder in options.held_out:
        manifest = load_manifest(folder)
        rows = [row for row in manifest.select(split="held_out").rows if row.duration >= options.seconds]
        clips = [(manifest.root / row.path, row.caption) for row in rows[: options.clips]]
        curves = {name: curve(getattr(options, name), clips, options.seconds) for name in ("old", "new")}
        at = {
            name: [float(np.interp(damage, each["damage"], each["error"])) for damage in DAMAGES]
            for name, each in curves.items()
        }
        result[folder.name] = {"clips": len(clips), "curves": curves, "damage": list(DAMAGES), "error_at_damage": at}
    write_json(options.out, result)


if __name__ == "__main__":
    main()
