"""Can the structure metrics be believed? Ladders of known structure, declared invariances, sets with known truth, and
what every metric reads on real scores and on flat material: distributions, and AUC of real against each kind of
flatness.

The material of the last is a folder with subfolders that hold a manifest each; a clip's label ``cell`` (or ``kind``)
names what it is, and `developing` is real music: performed scores. To it come, made from the developing clips
themselves, phase-randomised surrogates (the same spectrum, no structure in time).

AUC is the share of (real, flat) pairs in which the real clip reads higher (ties count half); 0.5 is chance, and a
metric that falls with development is below it. Intervals: 95%, bootstrap over pieces on both sides, since clips of one
piece are alike.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from eisbach.audio import read_audio, write_audio
from eisbach.config import StrictModel
from eisbach.data.manifest import load_manifest
from eisbach.files import write_json
from eisbach.output_folder import Finished
from eisbach.statistics.effect_size import auc
from eisbach.structure import METRICS, phase_randomise
from eisbach.structure.batch import Clip, analyze_files
from eisbach.studies.ground_truth.flat_cells import render_cells
from eisbach.studies.ground_truth.invariances import check
from eisbach.studies.ground_truth.ladders import check_ladders
from eisbach.studies.ground_truth.sets import check_sets
from eisbach.types import Record, SkipReport, Waveform


class Settings(StrictModel):
    """How much of each part.

    Attributes
    ----------
    ladder_seeds : int
        Ladders a metric, each with another timbre, pitch and rhythm.
    invariance_pieces, section_seconds
        Pieces of each of two families, of four sections each.
    sets : bool
        The measures of sets too.
    material : str
        Folder of labelled clips as `flat_cells` renders them; "" renders `cell_clips` a cell and `developing` here.
    cell_clips, developing : int
        Clips of each flat cell, and developing ones.
    """

    ladder_seeds: int = Field(12, ge=2)
    invariance_pieces: int = Field(8, ge=1)
    section_seconds: float = Field(7.6, gt=1)
    sets: bool = True
    set_seed: int = Field(0, ge=0)
    material: str = ""
    render_seed: int = Field(72, ge=0)
    cell_clips: int = Field(30, ge=1)
    developing: int = Field(150, ge=2)
    rendered_seconds: float = Field(32.0, gt=0)


QUICK: dict[str, Any] = {
    "ladder_seeds": 2, "invariance_pieces": 1, "sets": False, "cell_clips": 1, "developing": 4, "rendered_seconds": 20.0
}  # fmt: skip


def run(settings: Settings, out: Path, *, jobs: int = 1, quiet: bool = False) -> None:
    """Writes `ladders.json`, `invariances.json`, `sets.json` and `real.json`; what is done already is kept."""
    done = Finished(out / "pieces.jsonl")
    write_json(out / "ladders.json", check_ladders(settings.ladder_seeds, done, quiet))
    outcomes = done.get("invariances", lambda: check(settings.invariance_pieces, settings.section_seconds))
    write_json(out / "invariances.json", outcomes)
    if settings.sets:
        write_json(out / "sets.json", check_sets(settings.set_seed, done, quiet))
    material = Path(settings.material) if settings.material else render_cells(
        out / "material", side="held_out", seed=settings.render_seed, clips=settings.cell_clips,
        developing=settings.developing, seconds=settings.rendered_seconds, jobs=jobs, quiet=quiet,
    )  # fmt: skip
    real = _check_real(material, settings.cell_clips, settings.developing, out / "structure", jobs)
    write_json(out / "real.json", real)


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


def _by_piece(rows: list[Record], name: str) -> list[np.ndarray]:
    """The defined values of a metric, one array a piece."""
    pieces: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if row.get(name) is not None:
            pieces[str(row["piece"])].append(float(row[name]))  # type: ignore[arg-type]
    return [np.array(values) for values in pieces.values()]


def _interval(real: list[np.ndarray], flat: list[np.ndarray], rng: np.random.Generator) -> list[float]:
    def draw(pieces: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([pieces[i] for i in rng.integers(len(pieces), size=len(pieces))])

    values = [auc(draw(real), draw(flat)) for _ in range(RESAMPLES)]
    return [round(float(v), 3) for v in np.percentile(values, (2.5, 97.5))]


def _check_real(material: Path, per_cell: int, developing: int, work: Path, jobs: int) -> dict[str, Any]:
    """Distributions of every metric by cell, AUC against each kind of flatness with intervals, and what the judge calls
    flat.

    Parameters
    ----------
    work : Path
        Receives records and surrogates; what is there is kept.
    """
    skips = SkipReport()
    clips = collect(material, per_cell, developing, work / "surrogates")
    cells: dict[str, list[Record]] = defaultdict(list)
    for record in analyze_files(clips, jobs=jobs, out=work, skips=skips):
        cells[str(record["cell"])].append(record)
    rng = np.random.default_rng(0)
    report = {}
    for name, metric in METRICS.items():
        real = _by_piece(cells[DEVELOPING], name)
        entry = {cell: _describe(cell, len(rows), _by_piece(rows, name), real, rng) for cell, rows in cells.items()}
        report[name] = {"primary": metric.primary, "unit": metric.unit, "cells": entry}
    judged = {
        cell: round(float(np.mean([bool(row["is_flat"]) for row in rows if row["is_flat"] is not None])), 3)
        for cell, rows in cells.items()
    }
    return {
        "material": material.as_posix(),
        "clips": {cell: len(rows) for cell, rows in cells.items()},
        "skipped": len(skips.skipped),
        "judged_flat": judged,
        "metrics": report,
    }


def _describe(
    cell: str, clips: int, pieces: list[np.ndarray], real: list[np.ndarray], rng: np.random.Generator
) -> dict[str, object]:
    values = np.concatenate(pieces) if pieces else np.zeros(0)
    report: dict[str, object] = {"clips": clips, "defined": len(values)}
    if len(values):
        report["quantiles"] = {f"p{q}": round(float(np.percentile(values, q)), 4) for q in QUANTILES}
        report["mean"] = round(float(values.mean()), 4)
    if cell != DEVELOPING and len(values) and real:
        report["auc"] = round(auc(np.concatenate(real), values), 3)
        report["auc_95"] = _interval(real, pieces, rng)
    return report
