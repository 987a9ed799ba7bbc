"""Both versions of the embedded codec on clips that took no part in fitting either:

    python bench/codec_quality.py RENDERED RECORDINGS… --out bench/results/codec.json

RENDERED and RECORDINGS are folders with a manifest (recipes/base/README.md and bench/recordings.py make them); only
their held-out clips are read, `--clips` of each kind, 30 s from 10 s on. Declared measures: those of
`codec_fit.measure_codec`; and the kernel distance (unbiased MMD², Gaussian kernel, one bandwidth for all) on
musicnn features of decoded to original clips, beside that of one half of the originals to the other, with 95%
intervals over clips.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from codec_fit import measure_codec

from eisbach.audio import read_audio, write_audio
from eisbach.codecs import load_codec
from eisbach.data.manifest import load_manifest
from eisbach.files import write_json
from eisbach.structure.embeddings.musicnn import MusicnnEmbedding
from eisbach.structure.sets.distances import kernel_distance, median_distance
from eisbach.types import Waveform

CODECS = ("bands", "wide-bands")
_RESAMPLES = 200


def held_out(folders: list[Path], count: int, target: Path) -> list[Path]:
    """`count` excerpts of 30 s of the held-out clips of some manifests, evenly spread over them."""
    found = []
    for folder in folders:
        manifest = load_manifest(folder)
        found += [manifest.root / row.path for row in manifest.select(split="held_out").rows if row.duration >= 40.0]
    chosen = [found[number * len(found) // count] for number in range(count)] if len(found) > count else found
    for number, path in enumerate(chosen):
        write_audio(target / f"{number:03d}.wav", read_audio(path, start=10.0, duration=30.0))
    return sorted(target.glob("*.wav"))


def distances(original: np.ndarray, decoded: np.ndarray, bandwidth: float) -> dict[str, Any]:
    """Kernel distances of decoded to original and of one half of the originals to the other, with intervals."""
    rng = np.random.default_rng(0)
    draws: dict[str, list[float]] = {"decoded_to_original": [], "original_to_original": []}
    half = len(original) // 2
    for _ in range(_RESAMPLES):
        # Two halves that share no clip, so that neither distance profits from a clip being compared with itself.
        order = rng.permutation(len(original))
        a, b = order[:half], order[half : 2 * half]
        draws["decoded_to_original"].append(kernel_distance(decoded[a], original[b], bandwidth=bandwidth))
        draws["original_to_original"].append(kernel_distance(original[a], original[b], bandwidth=bandwidth))
    return {
        name: {"mean": float(np.mean(values)), "interval": [float(v) for v in np.percentile(values, [2.5, 97.5])]}
        for name, values in draws.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rendered", type=Path)
    parser.add_argument("recordings", type=Path, nargs="+")
    parser.add_argument("--clips", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("bench/results/codec.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"codecs": {name: load_codec(name).identity() for name in CODECS}}
    for kind, folders in (("rendered", [options.rendered]), ("recorded", options.recordings)):
        with tempfile.TemporaryDirectory() as folder:
            paths = held_out(folders, options.clips, Path(folder))
            embedding = MusicnnEmbedding()
            clips = [read_audio(path) for path in paths]
            original = embedding.embed(clips)
            bandwidth = median_distance(original)
            rows: dict[str, Any] = {}
            for name in CODECS:
                codec: Any = load_codec(name)
                decoded = embedding.embed(_decoded(codec, clips))
                rows[name] = {**measure_codec(codec, paths), "musicnn_kernel": distances(original, decoded, bandwidth)}
            result[kind] = rows
    write_json(options.out, result)


def _decoded(codec: Any, clips: list[Waveform]) -> list[Waveform]:
    return [codec.decode(codec.encode(clip))[0] for clip in clips]


if __name__ == "__main__":
    main()
