"""Does every structure metric follow its ladder, and does it stay put where it says that it does?

    python bench/structure_ladders.py --seeds 12
    python bench/structure_ladders.py --seeds 12 --material runs/base/long/manifest.jsonl --clips 12

*Ladders.* Each metric on its ladder of synthetic pieces of known structure, one ladder a seed (another timbre, pitch, rhythm). Rank correlation with the
truth, signed so that 1 is right: mean and least over the seeds, and of all rungs of all seeds pooled, which no ladder can win whose readings depend more on the
timbre than on the structure. A primary metric whose mean is below 0.95 makes the command fail.

*Invariances.* The same sound in another condition: how far the reading moves, as the median and the 95th percentile over the pieces in the metric's unit, beside what
the metric declares (`exact`, `close` to within a tolerance, `no`) and the share of pieces that keep to it. `spread` is the standard deviation between
the pieces: what the movement has to be small against.
"""

from __future__ import annotations

import argparse
import io
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from scipy.stats import spearmanr

from eisbach.audio import read_audio, resample
from eisbach.data.manifest import load_manifest
from eisbach.files import write_json
from eisbach.progress import Progress
from eisbach.structure import METRICS, synthetic
from eisbach.structure.features import extract_features
from eisbach.structure.invariances import CONDITIONS
from eisbach.structure.metrics import measure
from eisbach.types import Waveform

GOAL = 0.95
FORMS = ("ABCD", "AABA", "ABAC", "ABCA", "ABCDE", "AABB")
STRETCH = 1.5


def ladder_report(seeds: int, bar: Progress) -> dict[str, Any]:
    """Rank correlations of every metric with its ladder."""
    report = {}
    for name, metric in METRICS.items():
        sign = 1.0 if metric.ladder.rising else -1.0
        truths = np.array(metric.ladder.values, dtype=float)
        readings = np.array(
            [[metric.function(extract_features(metric.ladder.piece(v, s))) for v in metric.ladder.values] for s in range(seeds)]
        )  # fmt: skip
        each = np.array([sign * spearmanr(truths, row, nan_policy="omit").statistic for row in readings])
        pooled = sign * spearmanr(np.tile(truths, seeds), readings.ravel(), nan_policy="omit").statistic
        report[name] = {
            "primary": metric.primary,
            "contradicted_by": metric.contradicted_by,
            "unit": metric.unit,
            "truth": metric.ladder.values,
            "median_reading": [round(float(v), 4) for v in np.nanmedian(readings, axis=0)],
            "undefined": int(np.isnan(readings).sum()),
            "rank_correlation": {
                "mean": round(float(np.nanmean(each)), 4),
                "least": round(float(np.nanmin(each)), 4),
                "pooled": round(float(pooled), 4),
            },
        }
        bar.advance(note=name)
    return report


def pieces(seeds: int) -> Iterator[tuple[str, Waveform, Waveform]]:
    """(name, piece, the same form with every section half as long again)."""
    for seed in range(seeds):
        letters, seconds = FORMS[seed % len(FORMS)], 6.0 + 0.37 * seed
        made = [synthetic.form(letters, scale * seconds, 300 + seed) for scale in (1.0, STRETCH)]
        yield f"{letters}-{seed}", made[0], made[1]


def recordings(path: Path, clips: int) -> Iterator[tuple[str, Waveform, None]]:
    """Real clips; their length cannot be changed without changing the music."""
    manifest = load_manifest(path)
    for row in list(manifest)[:clips]:
        yield row.id, read_audio(manifest.audio_path(row)), None


def vorbis(waveform: Waveform) -> Waveform:
    """Through a Vorbis file at libsndfile's default quality."""
    buffer = io.BytesIO()
    sf.write(buffer, waveform.samples.T, waveform.sample_rate, format="OGG", subtype="VORBIS")
    buffer.seek(0)
    samples, rate = sf.read(buffer, dtype="float32", always_2d=True)
    return Waveform(np.ascontiguousarray(samples.T), rate)


def hiss(waveform: Waveform) -> Waveform:
    """White noise 50 dB below the clip's level."""
    rng = np.random.default_rng(1)
    level = float(np.sqrt(np.mean(waveform.samples**2))) * 10 ** (-50 / 20)
    noise = rng.standard_normal(waveform.samples.shape, dtype=np.float32) * np.float32(level)
    return Waveform(waveform.samples + noise, waveform.sample_rate)


def unequal_stereo(waveform: Waveform) -> Waveform:
    """Two channels, the second 6 dB down."""
    mono = waveform.samples.mean(axis=0)
    return Waveform(np.stack([mono, 0.5 * mono]), waveform.sample_rate)


CHANGES: dict[str, Callable[[Waveform], list[Waveform]]] = {
    "gain": lambda w: [Waveform(w.samples * np.float32(g), w.sample_rate) for g in (0.05, 0.5)],
    "sample_rate": lambda w: [resample(w, rate) for rate in (44100, 48000)],
    "stereo": lambda w: [unequal_stereo(w)],
    "codec": lambda w: [vorbis(w)],
    "noise_floor": lambda w: [hiss(w)],
}
"""How a condition is changed; `length` is made by the pieces themselves."""


def invariance_report(items: list[tuple[str, Waveform, Waveform | None]], bar: Progress) -> dict[str, Any]:
    """Movement of every metric under every condition."""
    before: dict[str, list[float]] = defaultdict(list)
    moves: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for _, waveform, longer in items:
        base = measure(extract_features(waveform))
        for name, value in base.items():
            before[name].append(value)
        changed = {condition: change(waveform) for condition, change in CHANGES.items()}
        if longer is not None:
            changed["length"] = [longer]
        for condition, versions in changed.items():
            for version in versions:
                for name, value in measure(extract_features(version)).items():
                    moves[name, condition].append((base[name], value))
        bar.advance()
    report: dict[str, Any] = {}
    for name, metric in METRICS.items():
        report[name] = {"spread": _rounded(np.nanstd(before[name])), "conditions": {}}
        for condition in CONDITIONS:
            pairs = moves[name, condition]
            if not pairs:
                continue
            shift = np.array([abs(after - base) for base, after in pairs])
            defined = shift[np.isfinite(shift)]
            report[name]["conditions"][condition] = {
                "declared": metric.invariances.kind(condition),
                "tolerance": metric.invariances.tolerance(condition),
                "median": _rounded(np.median(defined)) if len(defined) else None,
                "p95": _rounded(np.percentile(defined, 95)) if len(defined) else None,
                "kept": round(float(np.mean([metric.invariances.holds(condition, *pair) for pair in pairs])), 3),
                "pieces": len(pairs),
            }
    return report


def _rounded(value: Any) -> float | None:
    return round(float(value), 5) if np.isfinite(value) else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--material", type=Path, default=None, help="manifest of real clips for the invariances")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/structure_ladders.json")
    args = parser.parse_args()
    with Progress(len(METRICS), "ladders") as bar:
        ladders = ladder_report(args.seeds, bar)
    items: list[tuple[str, Waveform, Waveform | None]] = list(pieces(args.seeds))
    if args.material is not None:
        items += list(recordings(args.material, args.clips))
    with Progress(len(items), "invariances") as bar:
        invariances = invariance_report(items, bar)
    primary = [name for name, metric in METRICS.items() if metric.primary]
    failed = [name for name in primary if ladders[name]["rank_correlation"]["mean"] < GOAL]
    broken = {
        f"{name}/{condition}": entry["kept"]
        for name, row in invariances.items()
        for condition, entry in row["conditions"].items()
        if entry["kept"] < GOAL
    }
    write_json(
        args.out,
        {
            "seeds": args.seeds,
            "recordings": len(items) - args.seeds,
            "ladders": ladders,
            "invariances": invariances,
            "primary_below_goal": failed,
            "declared_and_not_kept": broken,
        },
    )
    print(f"{'metric':26s} mean  least pooled   movement / spread under " + ", ".join(CONDITIONS))
    for name, entry in ladders.items():
        rho, row = entry["rank_correlation"], invariances[name]
        spread = row["spread"] or np.nan
        cells = []
        for condition in CONDITIONS:
            one = row["conditions"].get(condition)
            share = (one["median"] / spread) if one and one["median"] is not None else np.nan
            mark = "" if not one else {"exact": "=", "close": "~", "no": " "}[one["declared"]]
            cells.append(f"{share:5.2f}{mark}")
        print(f"{name:26s} {rho['mean']:5.3f} {rho['least']:5.2f} {rho['pooled']:5.2f}   " + " ".join(cells))
    print("primary below goal:", ", ".join(failed) or "none", "| declared and not kept:", broken or "none")
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
