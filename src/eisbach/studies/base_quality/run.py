"""What the embedded model can do, in numbers: do prompts matter, and are its samples nearer to music than to noise of
its colour?

Declared before looking: low-string prompts give a larger share of energy below 200 Hz and a smaller share above 2 kHz
than celesta prompts (one-sided permutation tests over seeds); a tag of musicnn that names an instrument is more
probable in clips whose prompt asks for that instrument than in clips that ask for another; the Fréchet distance on
texture features and the kernel distance on musicnn's from the samples to held-out music are smaller than to
phase-randomised surrogates of that music.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from scipy.stats import bootstrap, permutation_test

from eisbach.audio import read_audio
from eisbach.backbones import load_backbone
from eisbach.codecs import load_codec
from eisbach.data.manifest import Manifest, load_manifest
from eisbach.data.render import RenderSpec, render
from eisbach.errors import UserError
from eisbach.files import write_json
from eisbach.generation import GenerateConfig, generate, load_prompts
from eisbach.structure.embeddings.musicnn import TAGS, MusicnnEmbedding
from eisbach.structure.energy import energy_share, phase_randomise
from eisbach.structure.frechet import texture_embedding
from eisbach.structure.sets.distances import frechet_distance, kernel_distance, median_distance
from eisbach.studies.contract import PlacedSettings
from eisbach.studies.ground_truth.flat_cells import pieces_of
from eisbach.types import Waveform

RESULT = "base_quality.json"
_TAGGED = ("piano", "guitar", "flute", "harp", "violin", "cello", "harpsichord", "choir")
"""Instruments that the captions and musicnn's tags both name."""
_DRAWS = 200


class Settings(PlacedSettings):
    """How the model is sampled, and what it is held against.

    Attributes
    ----------
    held_out : str
        Manifest of rendered music with a held-out split; "" renders six clips a seed here, of scores that the embedded
        model was not trained on.
    """

    model: str = "embedded"
    held_out: str = ""
    seeds: int = Field(12, ge=2)
    steps: int = Field(28, ge=1)
    guidance: float = 3.0
    render_seed: int = Field(75, ge=0)


QUICK: dict[str, Any] = {"seeds": 2, "steps": 6}
OPTIONS = {"seeds": "seeds"}


def _difference_of_means(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean of x minus mean of y along an axis."""
    return np.mean(x, axis=axis) - np.mean(y, axis=axis)


def compare(low: list[float], high: list[float], alternative: str) -> dict[str, float | list[float]]:
    """Mean of both groups, their difference with a 95% BCa interval, and the declared one-sided permutation test."""
    a, b = np.array(low), np.array(high)
    test = permutation_test(
        (a, b),
        _difference_of_means,
        vectorized=True,
        alternative=alternative,
        n_resamples=9999,
        rng=np.random.default_rng(0),
    )
    interval = bootstrap(
        (a, b), _difference_of_means, vectorized=True, n_resamples=9999, rng=np.random.default_rng(0), method="BCa"
    ).confidence_interval
    return {
        "low_strings": float(a.mean()),
        "celesta": float(b.mean()),
        "difference": float(a.mean() - b.mean()),
        "interval": [float(interval.low), float(interval.high)],
        "p": float(test.pvalue),
        "clips": len(a),
    }


def _read(manifest: Manifest) -> list[Waveform]:
    return [read_audio(manifest.audio_path(row), allow_silent=True) for row in manifest]


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Squared Fréchet distance on texture statistics, dB^2; there are fewer clips than a covariance needs."""
    return frechet_distance(a, b, shrink=True)


def _embed(clips: list[Waveform]) -> np.ndarray:
    return np.stack([texture_embedding(clip) for clip in clips])


def _prompt_effects(settings: Settings, common: dict[str, Any], out: Path, quiet: bool) -> dict[str, Any]:
    """Shares of energy of low strings and of celesta, compared in the declared direction."""
    all_prompts = {prompt.id: prompt for prompt in load_prompts("demo")}
    shares: dict[str, dict[str, list[float]]] = {}
    for name in ("low-strings", "celesta"):
        seeds = tuple(range(settings.seeds))
        config = GenerateConfig(out=str(out / name), prompts=(all_prompts[name],), seeds=seeds, **common)
        clips = _read(generate(config, quiet=quiet))
        shares[name] = {
            "below_200": [energy_share(clip, high=200.0) for clip in clips],
            "above_2k": [energy_share(clip, low=2000.0) for clip in clips],
        }
    return {
        "below_200_hz": compare(shares["low-strings"]["below_200"], shares["celesta"]["below_200"], "greater"),
        "above_2_khz": compare(shares["low-strings"]["above_2k"], shares["celesta"]["above_2k"], "less"),
    }


def _tag_effects(settings: Settings, common: dict[str, Any], out: Path, quiet: bool) -> dict[str, Any]:
    """For each instrument the AUC of its tag between clips that ask for it and clips that ask for another."""
    prompts: Any = tuple(
        {"id": name, "text": f"Classical chamber music, moderate, played by {name}"} for name in _TAGGED
    )
    count = max(2, settings.seeds // 3)
    config = GenerateConfig(out=str(out / "tags"), prompts=prompts, seeds=tuple(range(count)), **common)
    manifest = generate(config, quiet=quiet)
    asked = np.array([row.labels["prompt_id"] for row in manifest])
    heard = MusicnnEmbedding().tags(_read(manifest))[:, [TAGS.index(name) for name in _TAGGED]]

    def areas(pick: np.ndarray) -> np.ndarray:
        found = []
        for column, name in enumerate(_TAGGED):
            own, other = heard[pick][asked[pick] == name, column], heard[pick][asked[pick] != name, column]
            found.append(float(np.mean(np.sign(own[:, None] - other[None])) * 0.5 + 0.5))
        return np.array(found)

    rng = np.random.default_rng(0)
    draws = []
    for _ in range(_DRAWS):  # clips within each prompt
        rows = [np.flatnonzero(asked == name) for name in _TAGGED]
        draws.append(areas(np.concatenate([rng.choice(row, len(row)) for row in rows])).mean())
    each = areas(np.arange(len(asked)))
    return {
        "auc": {name: float(value) for name, value in zip(_TAGGED, each, strict=True)},
        "mean_auc": float(each.mean()),
        "interval": [float(value) for value in np.percentile(draws, [2.5, 97.5])],
        "clips": len(asked),
    }


def _kernels(sets: dict[str, np.ndarray]) -> dict[str, Any]:
    """Kernel distances (unbiased MMD², Gaussian, one bandwidth) between the sets, and the interval of the difference
    that decides."""
    music = sets["music"]
    bandwidth, half = median_distance(music), len(music) // 2

    def between(a: np.ndarray, b: np.ndarray) -> float:
        return kernel_distance(a, b, bandwidth=bandwidth)

    rng = np.random.default_rng(0)
    nearer = []
    for _ in range(_DRAWS):  # two thirds of the clips at a time: a clip that came twice would look like a likeness
        pick = rng.permutation(len(music))[: max(2, 2 * len(music) // 3)]
        samples = sets["samples"][pick]
        nearer.append(between(samples, sets["surrogates"][pick]) - between(samples, music[pick]))
    return {
        "samples_to_music": between(sets["samples"], music),
        "samples_to_surrogates": between(sets["samples"], sets["surrogates"]),
        "samples_to_decoded_music": between(sets["samples"], sets["decoded"]),
        "decoded_music_to_music": between(sets["decoded"], music),
        "surrogates_to_music": between(sets["surrogates"], music),
        "music_to_music_halves": between(music[:half], music[half:]),
        "surrogates_minus_music_interval": [float(value) for value in np.percentile(nearer, [2.5, 97.5])],
    }


def _held_out_clips(settings: Settings, out: Path, jobs: int, quiet: bool) -> Manifest:
    """The music that samples are held against; rendered now where none is named."""
    if settings.held_out:
        return load_manifest(settings.held_out).select(split="held_out")
    spec = RenderSpec(seed=settings.render_seed, seconds=(32.0,), pieces=pieces_of("held_out"))
    return render(out / "held_out", clips=6 * settings.seeds, spec=spec, jobs=jobs, quiet=quiet)[0]


def distances(settings: Settings, common: dict[str, Any], held_out: Manifest, out: Path, quiet: bool) -> dict[str, Any]:
    """Fréchet distances between samples, music, its surrogates and what the codec makes of it.

    One sample for each held-out clip, with that clip's own caption: the two sets then ask for the same music.
    """
    rows = held_out.rows[: 6 * settings.seeds]
    if len(rows) < 4:
        raise UserError(f"{settings.held_out} has {len(rows)} held-out clips; at least 4 are needed.")
    codec = load_codec(load_backbone(settings.model).codec)
    duration = codec.frames_for(30.0) / codec.latent_rate
    real = [
        read_audio(held_out.audio_path(row), duration=duration, mono=True, sample_rate=codec.sample_rate)
        for row in rows
    ]
    prompts: Any = tuple({"id": row.id, "text": row.caption} for row in rows)
    config = GenerateConfig(out=str(out / "captions"), prompts=prompts, seeds=(0,), **common)
    sets = {
        "samples": _read(generate(config, quiet=quiet)),
        "decoded": [codec.decode(codec.encode(clip))[0] for clip in real],
        "surrogates": [phase_randomise(clip, seed) for seed, clip in enumerate(real)],
        "music": real,
    }
    samples, decoded, surrogates, music = (_embed(clips) for clips in sets.values())
    embedding = MusicnnEmbedding()
    half = len(music) // 2
    # Resampling clips: how sure is it that the samples are nearer to music?
    rng = np.random.default_rng(0)
    nearer = []
    for _ in range(_DRAWS):
        pick = rng.integers(0, len(samples), len(samples))
        nearer.append(_distance(samples[pick], surrogates[pick]) - _distance(samples[pick], music[pick]))
    return {
        "samples_to_music": _distance(samples, music),
        "samples_to_surrogates": _distance(samples, surrogates),
        "samples_to_decoded_music": _distance(samples, decoded),
        "decoded_music_to_music": _distance(decoded, music),
        "surrogates_to_music": _distance(surrogates, music),
        "music_to_music_halves": _distance(music[:half], music[half:]),
        "clips": len(music),
        "surrogates_minus_music_interval": [float(value) for value in np.percentile(nearer, [2.5, 97.5])],
        "musicnn_kernel": _kernels({name: embedding.embed(clips) for name, clips in sets.items()}),
    }


def run(settings: Settings, out: Path, *, jobs: int = 1, quiet: bool = False) -> None:
    """Writes `base_quality.json`; clips that are generated already are kept."""
    common: dict[str, Any] = {
        "device": settings.device,
        "precision": "fp32",
        "model": settings.model,
        "num_inference_steps": settings.steps,
        "guidance_scale": settings.guidance,
        "batch_size": 16,
    }
    prompts = _prompt_effects(settings, common, out, quiet)
    tags = _tag_effects(settings, common, out, quiet)
    frechet = distances(settings, common, _held_out_clips(settings, out, jobs, quiet), out, quiet)
    write_json(
        out / RESULT,
        {
            "model": load_backbone(settings.model).identity(),
            "settings": {"steps": settings.steps, "guidance": settings.guidance, "seeds": settings.seeds},
            "prompts": prompts,
            "tags": tags,
            "frechet": frechet,
        },
    )
