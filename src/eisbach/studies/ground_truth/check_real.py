"""What every structure metric reads on real scores and on flat material: distributions, and AUC of real against each kind of flatness.

    python bench/belief_material.py --out runs/auc2/test --side held_out --seed 72 --clips 200 --developing 400
    python bench/structure_real.py --material runs/auc2/test --per-cell 60 --developing 200 --jobs 2

The material is a folder with subfolders that hold a manifest each; a clip's label ``cell`` (or ``kind``) names what it is, and
`developing` is real music: performed scores. To it come, made from the developing clips themselves, phase-randomised surrogates (the same spectrum,
no structure in time).

AUC is the share of (real, flat) pairs in which the real clip reads higher (ties count half); 0.5 is chance, and a metric that falls with development
is below it. Intervals: 95%, bootstrap over pieces on both sides, since clips of one piece are alike.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from eisbach.audio import read_audio, write_audio
from eisbach.data.manifest import load_manifest
from eisbach.files import write_json
from eisbach.structure import METRICS, phase_randomise
from eisbach.structure.batch import Clip, analyze_files
from eisbach.types import Record, SkipReport, Waveform

DEVELOPING, SURROGATE = "developing", "phase surrogate"
RESAMPLES = 1000
QUANTILES = (5, 25, 50, 75, 95)


def collect(material: Path, per_cell: int, developing: int, surrogates: Path) -> list[Clip]:
    """The first clips of every cell, and a surrogate of every developing one, written once."""
    clips: list[Clip] = []
    counts: dict[str, int] = defaultdict(int)
    for file in sorted(material.glob("*/manifest.jsonl")) or [material / "manifest.jsonl"]:
        manifest = load_manifest(file, check_files=False)
        for row in manifest:
            cell = row.labels.get("cell") or row.labels.get("kind", "unlabelled")
            if counts[cell] >= (developing if cell == DEVELOPING else per_cell):
                continue
            counts[cell] += 1
            piece = row.labels.get("piece") or row.audio_hash
            path = manifest.audio_path(row)
            clips.append(Clip(path, {"cell": cell, "piece": piece}))
            if cell == DEVELOPING:
                twin = surrogates / f"{row.id}.flac"
                if not twin.is_file():
                    twin.parent.mkdir(parents=True, exist_ok=True)
                    write_audio(twin, quieter(phase_randomise(read_audio(path), seed=counts[cell])))
                clips.append(Clip(twin, {"cell": SURROGATE, "piece": piece}))
    return clips


def quieter(waveform: Waveform) -> Waveform:
    """Below full scale: a surrogate's peaks may exceed it, and every metric ignores gain."""
    peak = float(np.abs(waveform.samples).max())
    return Waveform(waveform.samples / max(1.0, peak / 0.9), waveform.sample_rate)


def auc(real: np.ndarray, flat: np.ndarray) -> float:
    """Share of pairs in which `real` is above `flat`, ties counting half."""
    order = np.sort(flat)
    below, upto = np.searchsorted(order, real, "left"), np.searchsorted(order, real, "right")
    return float(np.mean(0.5 * (below + upto)) / len(flat))


def by_piece(rows: list[Record], name: str) -> list[np.ndarray]:
    """The defined values of a metric, one array a piece."""
    pieces: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.get(name) is not None:
            pieces[str(row["piece"])].append(float(row[name]))  # type: ignore[arg-type]
    return [np.array(values) for values in pieces.values()]


def interval(real: list[np.ndarray], flat: list[np.ndarray], rng: np.random.Generator) -> list[float]:
    def draw(pieces: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([pieces[i] for i in rng.integers(len(pieces), size=len(pieces))])

    values = [auc(draw(real), draw(flat)) for _ in range(RESAMPLES)]
    return [round(float(v), 3) for v in np.percentile(values, (2.5, 97.5))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--material", type=Path, required=True)
    parser.add_argument("--per-cell", type=int, default=60)
    parser.add_argument("--developing", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--work", type=Path, default=None, help="records and surrogates; default: beside the material")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/structure_real.json")
    args = parser.parse_args()
    work = args.work or args.material / "structure"
    skips = SkipReport()
    clips = collect(args.material, args.per_cell, args.developing, work / "surrogates")
    records = analyze_files(clips, jobs=args.jobs, out=work, skips=skips)
    cells: dict[str, list[Record]] = defaultdict(list)
    for row in records:
        cells[str(row["cell"])].append(row)
    rng = np.random.default_rng(0)
    report: dict[str, dict[str, object]] = {}
    for name, metric in METRICS.items():
        real = by_piece(cells[DEVELOPING], name)
        entry: dict[str, object] = {"primary": metric.primary, "unit": metric.unit, "cells": {}}
        for cell, rows in cells.items():
            pieces = by_piece(rows, name)
            values = np.concatenate(pieces) if pieces else np.zeros(0)
            cell_report: dict[str, object] = {"clips": len(rows), "defined": len(values)}
            if len(values):
                cell_report["quantiles"] = {f"p{q}": round(float(np.percentile(values, q)), 4) for q in QUANTILES}
                cell_report["mean"] = round(float(values.mean()), 4)
            if cell != DEVELOPING and len(values) and real:
                cell_report["auc"] = round(auc(np.concatenate(real), values), 3)
                cell_report["auc_95"] = interval(real, pieces, rng)
            entry["cells"][cell] = cell_report  # type: ignore[index]
        report[name] = entry
    judged = {
        cell: round(float(np.mean([bool(row["is_flat"]) for row in rows if row["is_flat"] is not None])), 3)
        for cell, rows in cells.items()
    }
    result = {
        "material": args.material.as_posix(),
        "clips": {cell: len(rows) for cell, rows in cells.items()},
        "skipped": len(skips.skipped),
        "judged_flat": judged,
        "metrics": report,
    }
    write_json(args.out, result)
    names = [cell for cell in cells if cell != DEVELOPING]
    print("AUC of real scores against:", ", ".join(names))
    for name, entry in report.items():
        row = [entry["cells"][cell].get("auc") for cell in names]  # type: ignore[index]
        print(f"{name:24s}", " ".join("  – " if v is None else f"{v:4.2f}" for v in row))
    print("judged flat:", judged)


if __name__ == "__main__":
    main()
