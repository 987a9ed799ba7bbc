"""Calibrates the boundary model and writes its constants: ``python bench/calibrate_boundaries.py --help``.

A logistic model over `eisbach.structure.novelty.boundary_evidence`, fitted on the development side of the material of
the study `boundaries` (other seeds and other scores than its evaluation): every kind of piece, of *long* ones a third
as many, a third of the pieces also with hiss 45 dB below its level, joined recordings (``--recordings``, their train
split), and drones, noise, pads, crescendos and slow changes of timbre, which have no boundaries. Moments within 0.3 s
of a boundary are positive, those 2 s away from all negative, both sides weighing the same. Hit rates are means over 0.5
and 3 s in four-fold cross-validation on these pieces. The threshold is the one with the highest rate on the recordings
(over all kinds where there are none), the L2 penalty the one with the highest mean over the kinds at its threshold.
Nothing is drawn at random but by the seeds of the pieces, so ``--check`` finds the committed constants again (to 0.01:
sums differ in their last bits between machines).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.files import atomic_write, read_json, write_json
from eisbach.progress import Progress
from eisbach.structure.features import extract_features
from eisbach.structure.novelty import boundary_evidence
from eisbach.structure.sections import MIN_SECTION, copied_stretches, pick_boundaries, probability_of
from eisbach.studies.boundaries.run import DEVELOPMENT_SEEDS, KINDS, RECORDINGS, SONG_KINDS, hit_rates, piece_of
from eisbach.studies.ground_truth import synthetic
from eisbach.types import Waveform

NEAR, FAR = 0.3, 2.0
HISS_DB = -45.0
FOLDS = 4
PIECES_OF_RECORDINGS = 3  # for one of every other kind
PENALTIES = (3.0, 10.0, 30.0, 100.0)
THRESHOLDS = (0.5, 0.6, 0.7, 0.75, 0.8, 0.84, 0.88, 0.9, 0.92, 0.94, 0.96)
DIGITS, TOLERANCE = 4, 0.01
ARRAYS = ("times", "evidence", "copies")
_MOST_STEPS, _CONVERGED = 50, 1e-9
ASSET = Path(__file__).parents[1] / "src/eisbach/assets/structure/boundaries.json"


@dataclass
class Clip:
    """What is kept of one piece: its evidence, and what is known of it; `kind` is None where it only teaches (still
    sounds, ramps)."""

    kind: str | None
    fold: int
    times: np.ndarray
    evidence: np.ndarray
    copies: np.ndarray
    duration: float
    edges: np.ndarray

    def labelled(self) -> tuple[np.ndarray, np.ndarray]:
        """Evidence and truth of the moments that are clearly one or the other."""
        inner = self.edges[1:-1]
        distance = np.abs(self.times[:, None] - inner).min(axis=1) if len(inner) else np.full(len(self.times), np.inf)
        # moments near the ends are never asked for (`sections.MIN_SECTION`), so they teach nothing
        inside = (self.times >= MIN_SECTION - 1.0) & (self.times <= self.edges[-1] - MIN_SECTION + 1.0)
        clear = inside & ((distance <= NEAR) | (distance > FAR))
        return self.evidence[clear], distance[clear] <= NEAR


def with_hiss(waveform: Waveform, seed: int) -> Waveform:
    level = float(np.sqrt(np.mean(waveform.samples**2))) * 10 ** (HISS_DB / 20)
    noise = np.random.default_rng(seed).standard_normal(waveform.samples.shape, dtype=np.float32)
    return Waveform(waveform.samples + noise * np.float32(level), waveform.sample_rate)


def sounds(index: int, recordings: list[str]) -> Iterator[tuple[str | None, Waveform, np.ndarray]]:
    """Kind, sound and edges of everything that one seed gives."""
    seed = DEVELOPMENT_SEEDS + index
    if recordings:
        for more in range(PIECES_OF_RECORDINGS):
            piece = piece_of(RECORDINGS, seed + 1000 * more, recordings)
            yield RECORDINGS, piece.waveform, piece.edges
    for kind in (*KINDS, *SONG_KINDS):
        if kind == "long" and index % 3 != 1:
            continue
        piece = piece_of(kind, seed)
        yield kind, piece.waveform, piece.edges
        if index % 3 == 0:
            yield kind, with_hiss(piece.waveform, seed), piece.edges
    if index % 2 == 0:
        rng = np.random.default_rng([seed, 73])
        for whole in (
            synthetic.drone(seed, 60.0), synthetic.noise(seed, 60.0), synthetic.pad(seed, 60.0),
            synthetic.crescendo(float(rng.uniform(20.0, 80.0)), seed),
            synthetic.arc(float(rng.uniform(60.0, 360.0)), seed),
        ):  # fmt: skip
            yield None, whole, np.array([0.0, whole.samples.shape[1] / whole.sample_rate])


def fit(clips: list[Clip], penalty: float) -> tuple[np.ndarray, float]:
    """Weights and bias for raw evidence; L2 on standardised weights, the two classes weighing the same in all."""
    tables = [clip.labelled() for clip in clips]
    evidence = np.concatenate([table[0] for table in tables])
    truth = np.concatenate([table[1] for table in tables]).astype(float)
    mean, scale = evidence.mean(axis=0), evidence.std(axis=0) + 1e-9
    standard = (evidence - mean) / scale
    weight = np.where(truth, 0.5 / truth.mean(), 0.5 / (1.0 - truth.mean()))

    columns = np.concatenate([standard, np.ones((len(truth), 1))], axis=1)
    shrink = np.append(np.full(evidence.shape[1], penalty), 0.0)
    parameters = np.zeros(columns.shape[1])
    # Newton's method, run to the end of double precision: where an early stop falls would depend on the machine
    for _ in range(_MOST_STEPS):
        probability = 1.0 / (1.0 + np.exp(-np.clip(columns @ parameters, -60.0, 60.0)))
        gradient = columns.T @ (weight * (probability - truth)) + shrink * parameters
        curvature = (columns.T * (weight * probability * (1.0 - probability))) @ columns + np.diag(shrink)
        step = np.linalg.solve(curvature, gradient)
        parameters -= step
        if float(np.abs(step).max()) < _CONVERGED:
            break
    else:
        raise RuntimeError(f"the fit did not converge in {_MOST_STEPS} steps.")
    weights = parameters[:-1] / scale
    return weights, float(parameters[-1] - weights @ mean)


def cross_validated(clips: list[Clip], names: tuple[str, ...], penalty: float) -> dict[float, dict[str, float]]:
    """Threshold -> kind -> hit rate of held-out folds, the mean over both tolerances."""
    scores: dict[float, dict[str, list[float]]] = {threshold: {} for threshold in THRESHOLDS}
    for fold in range(FOLDS):
        weights, bias = fit([clip for clip in clips if clip.fold != fold], penalty)
        for clip in clips:
            if clip.fold != fold or clip.kind is None:
                continue
            probability = probability_of(clip.evidence, names, weights, bias, clip.copies)
            for threshold, by_kind in scores.items():
                found = clip.times[pick_boundaries(clip.times, probability, clip.duration, threshold)]
                by_kind.setdefault(clip.kind, []).append(float(np.mean(hit_rates(found, clip.edges))))
    return {
        threshold: {kind: float(np.mean(values)) for kind, values in by_kind.items()}
        for threshold, by_kind in scores.items()
    }


def best_threshold(rates: dict[float, dict[str, float]]) -> tuple[float, float]:
    """The threshold, by the recordings where there are any, and the mean over kinds that it gives."""
    means = {threshold: float(np.mean(list(by_kind.values()))) for threshold, by_kind in rates.items()}
    chosen = max(rates, key=lambda threshold: (rates[threshold].get(RECORDINGS, 0.0), means[threshold]))
    return chosen, means[chosen]


def heard(index: int, recordings: list[str], keep: Path | None) -> tuple[list[Clip], tuple[str, ...]]:
    """The clips of one seed and the names of their evidence; what is kept in the folder `keep` is not heard again."""
    file = None if keep is None else keep / f"{index:03d}.npz"
    if file is not None and file.is_file():
        with np.load(file) as kept:
            parts = zip(kept["kinds"].tolist(), kept["durations"].tolist(), strict=True)
            clips = [
                Clip(kind or None, index % FOLDS, *(kept[f"{name}{n}"] for name in ARRAYS), seconds, kept[f"edges{n}"])
                for n, (kind, seconds) in enumerate(parts)
            ]
            return clips, tuple(kept["names"].tolist())
    clips, names = [], ()
    for kind, waveform, edges in sounds(index, recordings):
        features = extract_features(waveform)
        times, evidence, names = boundary_evidence(features)
        copies = copied_stretches(features, len(times))
        clips.append(Clip(kind, index % FOLDS, times, evidence, copies, features.duration, edges))
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        arrays = {f"{name}{n}": getattr(clip, name) for n, clip in enumerate(clips) for name in (*ARRAYS, "edges")}
        kinds, durations = [clip.kind or "" for clip in clips], [clip.duration for clip in clips]

        def write(partial: Path) -> None:
            with partial.open("wb") as stream:
                np.savez(stream, names=names, kinds=kinds, durations=durations, **arrays)

        atomic_write(file, write)
    return clips, names


def calibrate(pieces: int, recordings: list[str], keep: Path | None = None) -> dict[str, Any]:
    """The model as it is stored."""
    clips: list[Clip] = []
    names: tuple[str, ...] = ()
    with Progress(pieces, "calibrate boundaries") as bar:
        for index in range(pieces):
            more, names = heard(index, recordings, keep)
            clips += more
            bar.advance()
    rates = {penalty: cross_validated(clips, names, penalty) for penalty in PENALTIES}
    penalty = max(PENALTIES, key=lambda penalty: best_threshold(rates[penalty])[1])
    threshold, rate = best_threshold(rates[penalty])
    weights, bias = fit(clips, penalty)
    truth = np.concatenate([clip.labelled()[1] for clip in clips])
    for value, by_kind in rates[penalty].items():
        print(f"{penalty:g} / {value:g}:", {kind: round(own, 3) for kind, own in by_kind.items()})
    return {
        "bias": round(bias, DIGITS),
        "threshold": threshold,
        "weights": {name: round(float(w), DIGITS) for name, w in zip(names, weights, strict=True)},
        "calibrated_on": {
            "pieces_of_each_kind": pieces,
            "kinds": [*KINDS, *SONG_KINDS, *([RECORDINGS] if recordings else [])],
            "first_seed": DEVELOPMENT_SEEDS,
            "clips": len(clips),
            "moments": len(truth),
            "boundaries": int(truth.sum()),
            "penalty": penalty,
            "cross_validated_hit_rate": round(rate, 3),
            "on_recordings": round(rates[penalty][threshold].get(RECORDINGS, float("nan")), 3) if recordings else None,
        },
    }


def differences(found: dict[str, Any], committed: dict[str, Any]) -> list[str]:
    """What of the constants in force the calibration does not find again."""
    ours, theirs = ({"bias": m["bias"], "threshold": m["threshold"], **m["weights"]} for m in (found, committed))
    return [
        f"{name}: {ours.get(name)} instead of {theirs.get(name)}"
        for name in {**ours, **theirs}
        if name not in ours or name not in theirs or abs(ours[name] - theirs[name]) > TOLERANCE
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pieces", type=int, default=16, help="development pieces of each kind")
    parser.add_argument(
        "--recordings", nargs="*", default=[], help="manifests of bench/recordings.py, whose train split is joined"
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail unless the constants in force come out again"
    )
    parser.add_argument("--keep", type=Path, help="folder of what was heard, so that the command can be continued")
    parser.add_argument("--out", type=Path, default=ASSET)
    args = parser.parse_args()
    model = calibrate(args.pieces, args.recordings, args.keep)
    print({key: value for key, value in model.items() if key != "calibrated_on"})
    if not args.check:
        write_json(args.out, model)
        print(f"{model['calibrated_on']}; written to {args.out}")
        return
    wrong = differences(model, dict(read_json(args.out, "boundary model")))
    print("\n".join(wrong) if wrong else f"equal to {args.out}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
