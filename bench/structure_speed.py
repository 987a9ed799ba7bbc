"""Time of a whole structure analysis beside librosa's for the same quantities: ``python bench/structure_speed.py --help``.

librosa's side computes what our front end computes (resampled mono, mel-spectrogram in dB, chroma, RMS, onset flux) and a dense
self-similarity matrix of the mel frames pooled to 10 a second. Each side runs once to warm up (librosa compiles and caches), then
`--repeats` times in alternation; the medians are compared.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from eisbach.audio import resample
from eisbach.files import write_json
from eisbach.structure import METRICS, analyze, synthetic
from eisbach.structure.features import extract_features
from eisbach.types import Waveform


def piece(seconds: float) -> Waveform:
    mono = resample(synthetic.form("ABAC", seconds / 4, 1), 44100)
    return Waveform(np.concatenate([mono.samples, mono.samples * 0.8]), 44100)


def librosa_features(waveform: Waveform) -> None:
    import librosa

    mono = librosa.resample(waveform.samples.mean(axis=0), orig_sr=waveform.sample_rate, target_sr=22050)
    settings = {"n_fft": 1024, "hop_length": 441}
    mel = librosa.feature.melspectrogram(y=mono, sr=22050, n_mels=64, fmin=30, fmax=10000, **settings)
    decibels = librosa.power_to_db(mel, ref=np.max)
    librosa.feature.chroma_stft(y=mono, sr=22050, n_fft=8192, hop_length=2756, tuning=0.0)
    librosa.feature.rms(y=mono, frame_length=8820, hop_length=2205)
    librosa.onset.onset_strength(S=decibels, sr=22050, lag=2, max_size=3)
    pooled = librosa.util.sync(decibels, np.arange(0, decibels.shape[1], 5).tolist())
    librosa.segment.recurrence_matrix(pooled, mode="affinity", width=1, k=pooled.shape[1] - 4)


def clock(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="length of the clip (44.1 kHz stereo)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "structure_speed.json")
    args = parser.parse_args()
    waveform = piece(args.seconds)
    sides: dict[str, Callable[[], object]] = {
        "eisbach_features": lambda: extract_features(waveform),
        "eisbach_everything": lambda: analyze(waveform),
        "librosa_features_and_similarity": lambda: librosa_features(waveform),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()
    for _ in range(args.repeats):
        for name, side in sides.items():
            times[name].append(clock(side))
    seconds = {name: round(float(np.median(values)), 4) for name, values in times.items()}
    features = extract_features(waveform)
    result = {
        "clip_seconds": args.seconds,
        "threads": os.environ.get("OMP_NUM_THREADS", "unset"),
        "repeats": args.repeats,
        "seconds": seconds,
        "librosa_over_eisbach": round(seconds["librosa_features_and_similarity"] / seconds["eisbach_everything"], 2),
        "metric_seconds": {
            name: round(
                float(np.median([clock(lambda m=metric: m.function(features)) for _ in range(args.repeats)])), 4
            )
            for name, metric in METRICS.items()
        },
    }
    write_json(args.out, result)
    for name, value in seconds.items():
        print(f"{name:34s} {value:.3f} s")
    print(f"librosa / eisbach: {result['librosa_over_eisbach']}×; written to {args.out}")


if __name__ == "__main__":
    main()
