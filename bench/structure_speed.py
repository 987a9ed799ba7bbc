"""Time of a whole structure analysis, by family of metrics, beside librosa's for the same quantities: ``python
bench/structure_speed.py --help``.

A two-minute 44.1 kHz stereo clip. Each pair below computes the same quantity from the same mono signal at 22.05 kHz
(or, for 'file to frames', from the file); libfmp stands in for the fitness scape plot where it is installed. Every side
runs once to warm up (librosa compiles and caches), then `--repeats` times in alternation; the least times are compared,
since whatever else the machine does only adds. `--hour` adds a one-hour file: seconds and peak memory.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile as sf

from eisbach.audio import resample
from eisbach.files import write_json
from eisbach.structure import METRICS, analyze
from eisbach.structure.features import Features, extract_features, texture_frames
from eisbach.structure.rhythm import spectral_flux
from eisbach.structure.similarity import self_similarity
from eisbach.structure.spectra import Contrast, FrameStream, chroma_filterbank, mel_filterbank, power_bands, power_to_db
from eisbach.studies.ground_truth import synthetic
from eisbach.types import Waveform

Side = Callable[[], object]


def piece(seconds: float) -> Waveform:
    mono = resample(synthetic.form("ABAC", seconds / 4, 1), 44100)
    return Waveform(np.concatenate([mono.samples, mono.samples * 0.8]), 44100)


def same_quantities(path: Path, mono: np.ndarray, features: Features) -> dict[str, tuple[Side, Side]]:
    """Name -> (ours, librosa's)."""
    import librosa

    settings = {"n_fft": 1024, "hop_length": 441}
    mels = mel_filterbank(22050, 1024, 64, 30.0, 10_000.0)
    classes = chroma_filterbank(22050, 8192, 65.0, 2100.0)
    texture = np.ascontiguousarray(features.texture, dtype=np.float64)
    pooled = features.mel_db[: len(features.mel_db) // 5 * 5].reshape(-1, 5, 64).mean(axis=1).astype(np.float64)

    def contrast() -> object:
        stream = FrameStream(8192, 2756.25, [Contrast(22050, 8192)])
        stream.push(mono)
        return stream.finish()

    def librosa_mel(samples: np.ndarray) -> object:
        mel = librosa.feature.melspectrogram(y=samples, sr=22050, n_mels=64, fmin=30, fmax=10000, **settings)
        return librosa.power_to_db(mel, ref=np.max)

    def librosa_from_file() -> object:
        samples, _ = librosa.load(path, sr=22050, mono=True)
        librosa.feature.chroma_stft(y=samples, sr=22050, n_fft=8192, hop_length=2756, tuning=0.0)
        librosa.feature.spectral_contrast(y=samples, sr=22050, n_fft=8192, hop_length=2756, n_bands=6, fmin=100.0)
        librosa.feature.rms(y=samples, frame_length=8820, hop_length=2205)
        return librosa_mel(samples)

    def affinity(frames: np.ndarray) -> object:
        return librosa.segment.recurrence_matrix(frames.T, mode="affinity", width=1, k=len(frames) - 4, sym=False)

    decibels = np.ascontiguousarray(features.mel_db.T)

    def librosa_flux() -> object:
        return librosa.onset.onset_strength(S=np.power(10.0, decibels / 20.0), sr=22050, lag=2, max_size=3)

    return {
        "file to frames (mel, chroma, contrast, level)": (lambda: extract_features(path), librosa_from_file),
        "mel-spectrogram, dB": (
            lambda: power_to_db(power_bands(mono, 1024, 441, mels), 80.0), lambda: librosa_mel(mono),
        ),
        "chroma": (
            lambda: power_bands(mono, 8192, 2756.25, classes),
            lambda: librosa.feature.chroma_stft(y=mono, sr=22050, n_fft=8192, hop_length=2756, tuning=0.0),
        ),
        "spectral contrast": (
            contrast,
            lambda: librosa.feature.spectral_contrast(y=mono, sr=22050, n_fft=8192, hop_length=2756, n_bands=6,
            fmin=100.0),
        ),
        "onset flux": (
            lambda: spectral_flux(features.mel_db),
            librosa_flux,
        ),
        "self-similarity of textures": (
            lambda: self_similarity(texture_frames(features.mel_db)), lambda: affinity(texture),
        ),
        "self-similarity, 10 frames a second": (lambda: self_similarity(pooled), lambda: affinity(pooled)),
    }  # fmt: skip


def scape_sides(features: Features) -> tuple[Side, Side] | None:
    """Fitness scape plot beside libfmp's, where that is installed."""
    if importlib.util.find_spec("libfmp") is None:
        return None
    import libfmp.c4

    similarity = self_similarity(features.texture[::2])
    from eisbach.structure import scape

    return (lambda: scape.fitness_scape(similarity)), (lambda: libfmp.c4.compute_fitness_scape_plot(similarity))


def clock(function: Side) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def alternate(sides: dict[str, Side], repeats: int) -> dict[str, float]:
    """Least seconds of every side."""
    for side in sides.values():
        side()
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            times[name].append(clock(side))
    return {name: round(min(values), 5) for name, values in times.items()}


def by_family(features: Features, repeats: int) -> dict[str, float]:
    """Seconds of every family's metrics on their own; intermediate results are shared only within a family."""
    families = dict.fromkeys(metric.family for metric in METRICS.values())

    def run(family: str) -> None:
        fresh = replace(features)
        for metric in METRICS.values():
            if metric.family == family:
                metric.function(fresh)

    return alternate({family: lambda family=family: run(family) for family in families}, repeats)


def write_hour(path: Path, waveform: Waveform, seconds: float) -> None:
    with sf.SoundFile(path, "w", waveform.sample_rate, waveform.channels) as handle:
        for _ in range(round(seconds / waveform.duration)):
            handle.write(waveform.samples.T)


def measure_hour(folder: Path, waveform: Waveform, seconds: float) -> dict[str, float]:
    """Seconds and peak memory of a long file, in a process of its own."""
    path = folder / "hour.wav"
    write_hour(path, waveform, seconds)
    code = (
        "import sys, time; from pathlib import Path; from eisbach.structure import analyze\n"
        "from eisbach.studies.ground_truth import synthetic\n"
        "def peak():\n"
        "    lines = Path('/proc/self/status').read_text().splitlines()\n"
        "    return next(int(line.split()[1]) for line in lines if line.startswith('VmHWM'))\n"
        "analyze(synthetic.form('ABA', 4.0, 1)); base = peak()\n"
        "t = time.perf_counter(); a = analyze(sys.argv[1])\n"
        "print(time.perf_counter() - t, peak() - base, a.features.duration)"
    )
    output = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    spent, kilobytes, analysed = map(float, output.split()[-3:])
    return {
        "file_seconds": seconds,
        "file_megabytes": round(path.stat().st_size / 1e6, 1),
        "analysed_seconds": round(analysed, 1),
        "seconds": round(spent, 2),
        "peak_megabytes_above_a_short_clip": round(kilobytes / 1e3, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120.0, help="length of the clip (44.1 kHz stereo)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--hour", action="store_true", help="also a one-hour file: seconds and peak memory")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "structure_speed.json")
    args = parser.parse_args()
    waveform = piece(args.seconds)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.wav"
        sf.write(path, waveform.samples.T, waveform.sample_rate)
        features = extract_features(path)
        mono = resample(Waveform(waveform.samples.mean(axis=0, keepdims=True), 44100), 22050).samples[0]
        pairs = same_quantities(path, mono, features)
        scape = scape_sides(features)
        if scape is not None:
            pairs["fitness scape plot (libfmp)"] = scape
        sides = {f"{side} {name}": pair[i] for name, pair in pairs.items() for i, side in enumerate(("ours", "theirs"))}
        times = alternate(sides, args.repeats)
        whole = alternate(
            {"from a file": lambda: analyze(path), "from an array": lambda: analyze(waveform)}, args.repeats
        )
        families = by_family(features, args.repeats)
        hour = measure_hour(Path(folder), waveform, 3600.0) if args.hour else None
    comparison = {
        name: {
            "ours": times[f"ours {name}"],
            "theirs": times[f"theirs {name}"],
            "ratio": round(times[f"theirs {name}"] / times[f"ours {name}"], 2),
        }
        for name in pairs
    }
    result = {
        "clip_seconds": args.seconds,
        "threads": os.environ.get("OMP_NUM_THREADS", "unset"),
        "cpus": os.cpu_count(),
        "repeats": args.repeats,
        "whole_set_seconds": whole,
        "family_seconds": families,
        "beside_librosa": comparison,
        "hour": hour,
    }
    write_json(args.out, result)
    for name, value in {
        **{f"whole set {k}": v for k, v in whole.items()},
        **{f"  {k}": v for k, v in families.items()},
    }.items():
        print(f"{name:48s} {value:8.4f} s")
    for name, row in comparison.items():
        print(f"{name:48s} {row['ours']:8.4f} s   {row['theirs']:8.4f} s   {row['ratio']:6.1f}×")
    if hour is not None:
        print(f"an hour: {hour['seconds']} s, {hour['peak_megabytes_above_a_short_clip']} MB above a short clip")
    print(f"written to {args.out}")


if __name__ == "__main__":
    main()
