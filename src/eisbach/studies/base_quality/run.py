"""What the embedded model can do, in numbers: do prompts matter, and are its samples nearer to music than to noise of its colour?

    python bench/base_quality.py --held-out runs/base/short --out bench/results/base_quality.json

Declared before looking: low-string prompts give a larger share of energy below 200 Hz and a smaller share above 2 kHz
than celesta prompts (one-sided permutation tests over seeds); the Fréchet distance on texture features from the samples to held-out
music is smaller than to phase-randomised surrogates of that music.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import numpy as np
from scipy.stats import bootstrap, permutation_test

from eisbach.audio import read_audio
from eisbach.backbones import load_backbone
from eisbach.codecs import load_codec
from eisbach.data.manifest import load_manifest
from eisbach.files import write_json
from eisbach.generation import GenerateConfig, generate, load_prompts
from eisbach.structure.energy import energy_share
from eisbach.structure.frechet import texture_embedding, texture_frechet
from eisbach.structure.surrogates import phase_randomise
from eisbach.types import Waveform


def difference_of_means(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.mean(x, axis=axis) - np.mean(y, axis=axis)


def compare(low: list[float], high: list[float], alternative: str) -> dict[str, float | list[float]]:
    """Mean of both groups, their difference with a 95% BCa interval, and the declared one-sided permutation test."""
    a, b = np.array(low), np.array(high)
    test = permutation_test(
        (a, b),
        difference_of_means,
        vectorized=True,
        alternative=alternative,
        n_resamples=9999,
        rng=np.random.default_rng(0),
    )
    interval = bootstrap(
        (a, b), difference_of_means, vectorized=True, n_resamples=9999, rng=np.random.default_rng(0), method="BCa"
    ).confidence_interval
    return {
        "low_strings": float(a.mean()),
        "celesta": float(b.mean()),
        "difference": float(a.mean() - b.mean()),
        "interval": [float(interval.low), float(interval.high)],
        "p": float(test.pvalue),
        "clips": len(a),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--held-out", type=Path, required=True, help="manifest of rendered music with a held-out split")
    parser.add_argument("--work", type=Path, default=Path("runs/base-quality"), help="where the samples go")
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--out", type=Path, default=Path("bench/results/base_quality.json"))
    options = parser.parse_args()

    common = {
        "model": options.model,
        "num_inference_steps": options.steps,
        "guidance_scale": options.guidance,
        "batch_size": 16,
    }
    all_prompts = {prompt.id: prompt for prompt in load_prompts("demo")}
    shares: dict[str, dict[str, list[float]]] = {}
    for name in ("low-strings", "celesta"):
        config = GenerateConfig(
            out=str(options.work / name), prompts=(all_prompts[name],), seeds=tuple(range(options.seeds)), **common
        )
        clips = read(generate(config))
        shares[name] = {
            "below_200": [energy_share(clip, high=200.0) for clip in clips],
            "above_2k": [energy_share(clip, low=2000.0) for clip in clips],
        }
    prompts = {
        "below_200_hz": compare(shares["low-strings"]["below_200"], shares["celesta"]["below_200"], "greater"),
        "above_2_khz": compare(shares["low-strings"]["above_2k"], shares["celesta"]["above_2k"], "less"),
    }

    # One sample for each held-out clip, with that clip's own caption: the two sets then ask for the same music.
    held_out = load_manifest(options.held_out).select(split="held_out")
    rows = held_out.rows[: 6 * options.seeds]
    codec = load_codec(load_backbone(options.model).codec)
    duration = codec.frames_for(30.0) / codec.latent_rate
    real = [
        read_audio(held_out.root / row.path, duration=duration, mono=True, sample_rate=codec.sample_rate)
        for row in rows
    ]
    config = GenerateConfig(
        out=str(options.work / "captions"),
        prompts=tuple({"id": row.id, "text": row.caption} for row in rows),
        seeds=(0,),
        **common,
    )
    samples = embed(read(generate(config)))
    decoded = embed([codec.decode(codec.encode(clip))[0] for clip in real])
    surrogates = embed([phase_randomise(clip, seed) for seed, clip in enumerate(real)])
    music = embed(real)
    half = len(music) // 2
    frechet = {
        "samples_to_music": texture_frechet(samples, music),
        "samples_to_surrogates": texture_frechet(samples, surrogates),
        "samples_to_decoded_music": texture_frechet(samples, decoded),
        "decoded_music_to_music": texture_frechet(decoded, music),
        "surrogates_to_music": texture_frechet(surrogates, music),
        "music_to_music_halves": texture_frechet(music[:half], music[half:]),
        "clips": len(music),
    }
    # Resampling clips: how sure is it that the samples are nearer to music?
    rng = np.random.default_rng(0)
    nearer = []
    for _ in range(200):
        pick = rng.integers(0, len(samples), len(samples))
        nearer.append(texture_frechet(samples[pick], surrogates[pick]) - texture_frechet(samples[pick], music[pick]))
    frechet["surrogates_minus_music_interval"] = [float(value) for value in np.percentile(nearer, [2.5, 97.5])]
    result = {
        "model": load_backbone(options.model).identity(),
        "machine": platform.processor() or platform.machine(),
        "settings": {"steps": options.steps, "guidance": options.guidance, "seeds": options.seeds},
        "prompts": prompts,
        "frechet": frechet,
    }
    write_json(options.out, result)
    for key, value in {**prompts, "frechet": frechet}.items():
        print(key, value)


def read(manifest) -> list[Waveform]:
    return [read_audio(manifest.root / row.path, allow_silent=True) for row in manifest.rows]


def embed(clips: list[Waveform]) -> np.ndarray:
    return np.stack([texture_embedding(clip) for clip in clips])


if __name__ == "__main__":
    main()
