"""The fitness scape plot beside libfmp's: agreement and time: ``python bench/structure_scape.py --help``.

libfmp is a test reference and not a dependency: install it where Python finds it (``pip install --target DIR libfmp
ipython``, then PYTHONPATH) or the comparison is refused. Matrices: random ones and those of synthetic forms, as
`structureness` makes them.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from eisbach.files import write_json
from eisbach.structure.features import extract_features
from eisbach.structure.scape import enhanced_similarity, fitness_scape
from eisbach.studies.ground_truth import synthetic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "structure_scape.json")
    args = parser.parse_args()
    try:
        import libfmp.c4 as c4
    except ImportError:
        sys.exit("libfmp is not installed; see this script's first lines.")
    rng = np.random.default_rng(0)
    matrices = {f"random {n}": rng.uniform(-2.0, 1.0, (n, n)) for n in (20, 40, 80)}
    for letters in ("AABA", "ABCD"):
        piece = synthetic.form(letters, 30.0, 1)
        matrices[f"{letters}, 120 s"] = enhanced_similarity(extract_features(piece))[0]
    rows = {}
    for name, matrix in matrices.items():
        np.fill_diagonal(matrix, 1.0)
        c4.compute_fitness_scape_plot(matrix)  # compiles
        ours_s, theirs_s = [], []
        for _ in range(args.repeats):
            start = time.perf_counter()
            ours = fitness_scape(matrix)
            ours_s.append(time.perf_counter() - start)
            start = time.perf_counter()
            theirs = c4.compute_fitness_scape_plot(matrix)
            theirs_s.append(time.perf_counter() - start)
        exists = ~np.isnan(ours.fitness)
        pairs = ((ours.fitness, theirs[0]), (ours.score, theirs[2]), (ours.coverage, theirs[4]))
        strict = fitness_scape(matrix, strict_start=True).fitness
        rows[name] = {
            "cells": len(matrix),
            "largest_difference": max(float(np.abs(a - b)[exists].max()) for a, b in pairs),
            "strict_start_largest_difference": round(float(np.abs(strict - theirs[0])[exists].max()), 4),
            "eisbach_seconds": round(float(np.median(ours_s)), 4),
            "libfmp_seconds": round(float(np.median(theirs_s)), 4),
            "libfmp_over_eisbach": round(float(np.median(theirs_s) / np.median(ours_s)), 2),
        }
        print(name, rows[name])
    write_json(args.out, rows)


if __name__ == "__main__":
    main()
