"""Calibrates the flatness judge and writes its constants: ``python bench/calibrate_structure.py --help``.

    python bench/calibrate_structure.py --manifest runs/auc2/dev/developing --manifest runs/auc2/dev/flat \
        --test runs/auc2/test/developing --test runs/auc2/test/flat --test runs/auc2/test/late \
        --synthetic 6 --limit 14 --developing 100 --cache runs/auc2/judge.json

The judge (`eisbach.structure.flatness`) is a logistic model over structure metrics. It is fitted on labelled clips,
each in three conditions: as it is, through the embedded codec (what generations have been through) and with hiss 45 dB
below its level. A clip's label ``cell``, or else ``kind``, says what it is; every kind of flat material weighs the
same. Clips of `--test` never touch the fit, nor, where there are none, a third of the pieces (of the seeds, for
synthetic pieces); on them the AUC for 'developing' against each kind of flat material is reported, condition by
condition. A kind of `--test` that the fit never saw is marked.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import minimize

from eisbach.audio import read_audio
from eisbach.files import read_json, write_json
from eisbach.progress import Progress
from eisbach.structure import METRICS, phase_randomise
from eisbach.structure.features import extract_features
from eisbach.structure.flatness import FORBIDDEN
from eisbach.structure.metrics import measure
from eisbach.studies.ground_truth import synthetic
from eisbach.types import Waveform

# Which way each metric may push the judge: +1 only towards flat, -1 only towards developing, 0 either. A sign that
# contradicts what the metric means could only be an accident of the calibration set.
FEATURES = {
    "lag_similarity": 1, "loop_strength": 1, "block_strength": -1, "section_contrast": -1, "motif_coverage": 0,
    "level_range": -1, "flux_gini": 0, "trajectory_coverage": -1, "spectral_contrast": 0, "longest_repeat": 1,
}  # fmt: skip
CONDITIONS = ("original", "decoded", "hiss")


@dataclass
class Row:
    """One clip in one condition: every metric, in the order of METRICS."""

    kind: str
    held_out: bool
    condition: str
    values: np.ndarray
    clip: str


def _held_out(source: str) -> bool:
    """A third of the pieces, by hash: never a piece on both sides, whatever its clips."""
    return int(hashlib.sha256(f"judge {source}".encode()).hexdigest(), 16) % 3 == 0


def manifest_clips(
    path: Path, seconds: float, limit: int, developing: int, test: bool | None
) -> Iterator[tuple[str, str, bool, Waveform]]:
    from eisbach.data.manifest import load_manifest

    manifest = load_manifest(path)
    counts: dict[str, int] = {}
    for row in manifest.rows:
        kind = (row.labels.get("cell") or row.labels.get("kind") or "").removeprefix("unseen ") or None
        if kind is None or counts.get(kind, 0) >= (developing if kind == "developing" else limit):
            continue
        counts[kind] = counts.get(kind, 0) + 1
        yield (
            row.id,
            kind,
            _held_out(row.labels.get("piece") or row.audio_hash) if test is None else test,
            read_audio(manifest.root / row.path, duration=seconds, mono=True),
        )


def synthetic_clips(count: int, seconds: float, test: bool | None) -> Iterator[tuple[str, str, bool, Waveform]]:
    for seed in range(count):
        held_out = seed % 3 == 2 if test is None else test
        rng = np.random.default_rng([seed, 99])
        letters = ["ABCD", "ABCA", "ABAC", "ABCDE"][seed % 4]
        section = seconds / len(letters)
        pieces = {
            "developing": synthetic.form(letters, section, 1000 + seed),
            "drone": synthetic.drone(1000 + seed, seconds),
            "pad": synthetic.pad(1000 + seed, seconds),
            "texture": synthetic.noise(1000 + seed, seconds),
            "loop": synthetic.loop(float(2.0 ** rng.uniform(0.0, 4.0)), 1000 + seed, seconds),
        }
        for kind, piece in pieces.items():
            yield f"synthetic-{kind}-{seed}", kind, held_out, piece


def derived_clips(
    name: str, held_out: bool, waveform: Waveform, seed: int
) -> Iterator[tuple[str, str, bool, Waveform]]:
    """Flat clips of a developing clip's own sound: a stretch of 1-16 s tiled with short cross-fades, and its phase
    surrogate."""
    rng = np.random.default_rng([seed, 5])
    rate, samples = waveform.sample_rate, waveform.samples
    fade = int(0.02 * rate)
    length = min(int(2.0 ** rng.uniform(0.0, 4.0) * rate), samples.shape[1] // 2)
    first = int(rng.integers(0, samples.shape[1] - length - fade))
    cycle = samples[:, first : first + length + fade].copy()
    ramp = np.linspace(0.0, 1.0, fade, dtype=np.float32)
    cycle[:, :fade] = cycle[:, :fade] * ramp + cycle[:, length:] * ramp[::-1]
    loop = np.tile(cycle[:, :length], -(-samples.shape[1] // length))[:, : samples.shape[1]]
    if np.abs(loop).max() > 1e-3:
        yield f"{name}-loop", "loop", held_out, Waveform(loop, rate)
    yield f"{name}-surrogate", "texture", held_out, phase_randomise(waveform, seed)


def in_conditions(waveform: Waveform, codec: object | None, seed: int) -> Iterator[tuple[str, Waveform]]:
    yield "original", waveform
    if codec is not None:
        yield "decoded", codec.decode(codec.encode(waveform))[0]
    rng = np.random.default_rng(seed)
    level = float(np.sqrt(np.mean(waveform.samples**2))) * 10 ** (-45 / 20)
    hiss = rng.standard_normal(waveform.samples.shape, dtype=np.float32) * np.float32(level)
    yield "hiss", Waveform(waveform.samples + hiss, waveform.sample_rate)


def fit(values: np.ndarray, flat: np.ndarray, weight: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Weights and bias of the L2-penalised logistic model with sign bounds, by L-BFGS-B."""

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        logit = values @ parameters[:-1] + parameters[-1]
        error = 1.0 / (1.0 + np.exp(-logit)) - flat
        value = np.sum(weight * (np.logaddexp(0.0, logit) - flat * logit)) + 0.5 * penalty * np.sum(
            parameters[:-1] ** 2
        )
        gradient = np.append(values.T @ (weight * error) + penalty * parameters[:-1], np.sum(weight * error))
        return float(value), gradient

    bounds = [{1: (0.0, None), -1: (None, 0.0), 0: (None, None)}[sign] for sign in FEATURES.values()] + [(None, None)]
    solution = minimize(loss, np.zeros(values.shape[1] + 1), jac=True, method="L-BFGS-B", bounds=bounds)
    return solution.x[:-1], float(solution.x[-1])


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Probability that a random positive scores above a random negative, ties counting half."""
    return float(np.mean((positive[:, None] > negative[None, :]) + 0.5 * (positive[:, None] == negative[None, :])))


def _null(value: float) -> float | None:
    return None if np.isnan(value) else value


def _load_rows(cache: Path | None) -> list[Row]:
    if cache is None or not cache.is_file():
        return []
    stored = read_json(cache, "measured clips")
    return [Row(**{**row, "values": np.array(row["values"], dtype=float)}) for row in stored]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--manifest", type=Path, action="append", default=[], help="labelled manifest (repeatable)")
    parser.add_argument("--test", type=Path, action="append", default=[], help="manifest that only tests (repeatable)")
    parser.add_argument("--synthetic", type=int, default=0, help="seeds of synthetic pieces to add")
    parser.add_argument("--derive", action="store_true", help="add loops and phase surrogates made of developing clips")
    parser.add_argument("--limit", type=int, default=60, help="clips a kind and manifest at most")
    parser.add_argument("--developing", type=int, default=60, help="developing clips a manifest at most")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--codec", default="bands", help="codec (name or file) for the 'decoded' condition, or 'none'")
    parser.add_argument("--cache", type=Path, default=None, help="keep the measurements here; a rerun only fits")
    parser.add_argument("--penalty", type=float, default=0.02)
    default = Path(__file__).parents[1] / "src/eisbach/assets/structure/flatness.json"
    parser.add_argument("--out", type=Path, default=default)
    args = parser.parse_args()
    if not args.manifest and not args.synthetic:
        parser.error("give --manifest or --synthetic")
    if FORBIDDEN & set(FEATURES):
        parser.error("the judge must not use the weightings' statistics")
    codec = None
    if args.codec != "none":
        from eisbach.codecs import load_codec

        codec = load_codec(args.codec)

    cached = _load_rows(args.cache)
    side = False if args.test else None
    material = [] if cached else [(path, side) for path in args.manifest] + [(path, True) for path in args.test]
    clips = [
        clip
        for path, test in material
        for clip in manifest_clips(path, args.seconds, args.limit, args.developing, test)
    ]
    if args.derive:
        sources = [clip for clip in clips if clip[1] == "developing"]
        for seed, (name, _, held_out, waveform) in enumerate(sources):
            clips += list(derived_clips(name, held_out, waveform, seed))
    clips += [] if cached else list(synthetic_clips(args.synthetic, args.seconds, side))
    rows = cached
    with Progress(len(clips), "calibrate") as bar:
        for index, (name, kind, held_out, waveform) in enumerate(clips):
            for condition, sound in in_conditions(waveform, codec, index):
                metrics = measure(extract_features(sound))
                rows.append(Row(kind, held_out, condition, np.array(list(metrics.values())), name))
            bar.advance()
    if args.cache is not None:
        write_json(args.cache, [asdict(row) | {"values": [_null(v) for v in row.values.tolist()]} for row in rows])

    columns = [list(METRICS).index(name) for name in FEATURES]
    table = np.array([row.values[columns] for row in rows])
    flat = np.array([row.kind != "developing" for row in rows], dtype=float)
    train = np.array([not row.held_out for row in rows])
    # values beyond what was seen in training (rests of digital silence give level ranges of 80 dB) count as the extreme
    # seen
    low, high = np.nanpercentile(table[train], [1.0, 99.0], axis=0)
    high[list(FEATURES).index("level_range")] = min(30.0, high[list(FEATURES).index("level_range")])
    table = np.clip(table, low, high)
    mean, scale = np.nanmean(table[train], axis=0), np.nanstd(table[train], axis=0)
    standard = np.nan_to_num((table - mean) / scale)
    kinds = sorted({row.kind for row in rows})
    fitted = {row.kind for row in rows if not row.held_out}
    # developing weighs as much as all flat kinds together; flat kinds weigh the same
    weight = np.zeros(len(rows))
    for kind in kinds:
        members = np.array([row.kind == kind for row in rows]) & train
        if members.any():
            weight[members] = (1.0 if kind == "developing" else 1.0 / (len(fitted) - 1)) / members.sum()
    weights, bias = fit(standard[train], flat[train], weight[train], args.penalty)
    score = standard @ weights + bias

    report: dict[str, dict[str, dict[str, float]]] = {}
    for condition in CONDITIONS:
        chosen = np.array([row.condition == condition and row.held_out for row in rows])
        if not chosen.any():
            continue
        real = score[chosen & (flat == 0)]
        report[condition] = {
            kind: {
                "clips": int((chosen & members).sum()),
                "auc": round(auc(score[chosen & members], real), 4),
                **({} if kind in fitted else {"unseen": True}),
                "judged_flat": round(float((score[chosen & members] >= 0).mean()), 4),
            }
            for kind in kinds
            if ((members := np.array([row.kind == kind for row in rows])) & chosen).any()
        }
        report[condition]["developing"].pop("auc")
    keys = ("low", "high", "mean", "scale", "weight")
    write_json(
        args.out,
        {
            "bias": round(bias, 6),
            "features": {
                name: {key: round(float(number), 6) for key, number in zip(keys, numbers, strict=True)}
                for name, *numbers in zip(FEATURES, low, high, mean, scale, weights, strict=True)
            },
            "held_out": report,
            "calibrated_on": {
                "seconds": args.seconds,
                "clips": {kind: len({row.clip for row in rows if row.kind == kind}) for kind in kinds},
                "synthetic_seeds": args.synthetic,
                "derived_from_developing": args.derive,
                "penalty": args.penalty,
                "metrics": [METRICS[name].name for name in FEATURES],
            },
        },
    )
    for condition, by_kind in report.items():
        print(condition, {kind: list(numbers.values()) for kind, numbers in by_kind.items()})
    print({name: round(float(w), 3) for name, w in zip(FEATURES, weights, strict=True)}, "bias", round(bias, 3))


if __name__ == "__main__":
    main()
