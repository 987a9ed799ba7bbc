"""Calibrates the boundary model and writes its constants: ``python bench/calibrate_boundaries.py --help``.

A logistic model over `eisbach.structure.novelty.boundary_evidence`, fitted on the development side of the material of
``structure_boundaries.py`` (other seeds and other scores than its evaluation), a third of it with hiss 45 dB below its level, and on drones,
noise and pads, which have no boundaries. Moments within 0.3 s of a boundary are positive, those 2 s away from all negative, both sides
weighing the same. The L2 penalty and the threshold were chosen by four-fold cross-validation on the same development pieces.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from structure_boundaries import DEVELOPMENT_SEEDS, KINDS, material

from eisbach.files import write_json
from eisbach.progress import Progress
from eisbach.structure import synthetic
from eisbach.structure.boundaries import MIN_SECTION
from eisbach.structure.features import extract_features
from eisbach.structure.novelty import boundary_evidence
from eisbach.types import Waveform

NEAR, FAR = 0.3, 2.0
HISS_DB = -45.0


def with_hiss(waveform: Waveform, seed: int) -> Waveform:
    level = float(np.sqrt(np.mean(waveform.samples**2))) * 10 ** (HISS_DB / 20)
    noise = np.random.default_rng(seed).standard_normal(waveform.samples.shape, dtype=np.float32)
    return Waveform(waveform.samples + noise * np.float32(level), waveform.sample_rate)


def labelled(waveform: Waveform, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Evidence and truth of the moments that are clearly one or the other."""
    times, evidence, names = boundary_evidence(extract_features(waveform))
    inner = edges[1:-1]
    distance = np.abs(times[:, None] - inner).min(axis=1) if len(inner) else np.full(len(times), np.inf)
    # moments near the ends are never asked for (`boundaries.MIN_SECTION`), so they teach nothing
    inside = (times >= MIN_SECTION - 1.0) & (times <= edges[-1] - MIN_SECTION + 1.0)
    clear = inside & ((distance <= NEAR) | (distance > FAR))
    return evidence[clear], distance[clear] <= NEAR, names


def fit(evidence: np.ndarray, truth: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Weights and bias for raw evidence; L2 on standardised weights, the two classes weighing the same in all."""
    mean, scale = evidence.mean(axis=0), evidence.std(axis=0) + 1e-9
    standard = (evidence - mean) / scale
    weight = np.where(truth, 0.5 / truth.mean(), 0.5 / (1.0 - truth.mean()))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        logit = standard @ parameters[:-1] + parameters[-1]
        value = np.sum(weight * (np.logaddexp(0.0, logit) - truth * logit)) + 0.5 * penalty * np.sum(
            parameters[:-1] ** 2
        )
        error = weight * (1.0 / (1.0 + np.exp(-logit)) - truth)
        return float(value), np.append(standard.T @ error + penalty * parameters[:-1], error.sum())

    solution = minimize(loss, np.zeros(evidence.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 2000})
    weights = solution.x[:-1] / scale
    return weights, float(solution.x[-1] - weights @ mean)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pieces", type=int, default=30, help="development pieces of each kind")
    parser.add_argument("--penalty", type=float, default=3.3)
    parser.add_argument("--threshold", type=float, default=0.88)
    default = Path(__file__).parents[1] / "src/eisbach/assets/structure/boundaries.json"
    parser.add_argument("--out", type=Path, default=default)
    args = parser.parse_args()
    tables = []
    with Progress(args.pieces, "calibrate boundaries") as bar:
        for index in range(args.pieces):
            seed = DEVELOPMENT_SEEDS + index
            pieces = [(piece.waveform, piece.edges) for piece in (material(kind, seed) for kind in KINDS)]
            if index % 3 == 0:
                pieces = [(with_hiss(waveform, seed), edges) for waveform, edges in pieces]
            if index % 2 == 0:
                still = (synthetic.drone(seed, 60.0), synthetic.noise(seed, 60.0), synthetic.pad(seed, 60.0))
                pieces += [(waveform, np.array([0.0, 60.0])) for waveform in still]
            tables += [labelled(waveform, edges) for waveform, edges in pieces]
            bar.advance()
    evidence = np.concatenate([table[0] for table in tables])
    truth = np.concatenate([table[1] for table in tables])
    weights, bias = fit(evidence, truth.astype(float), args.penalty)
    write_json(
        args.out,
        {
            "bias": round(bias, 6),
            "threshold": args.threshold,
            "weights": {name: round(float(w), 6) for name, w in zip(tables[0][2], weights, strict=True)},
            "calibrated_on": {
                "pieces_of_each_kind": args.pieces,
                "kinds": list(KINDS),
                "first_seed": DEVELOPMENT_SEEDS,
                "moments": len(truth),
                "boundaries": int(truth.sum()),
                "penalty": args.penalty,
            },
        },
    )
    print(f"{len(tables)} pieces, {len(truth)} moments; written to {args.out}")


if __name__ == "__main__":
    main()
