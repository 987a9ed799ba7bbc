"""Does `continuation` hear the order of recorded music? ``python bench/structure_order.py --recordings DIR/excerpts --out FILE``

Every excerpt is cut and shuffled: in pieces of 2, 4 and 8 s, in pieces of random length (1 to 3 s), at bars (four of librosa's beats) and at
its own sections. AUC is the share of (original, shuffled) pairs, over all pairs of excerpts, in which the original reads higher; *paired*
the share of excerpts that read higher than their own shuffle. Intervals: 95%, bootstrap over hands (composer or album), never over
excerpts. The constants of the metric were chosen on half of the excerpts of the packages in `bench/recordings.py`; run it on other
packages (`--packages`) to see what holds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile
from scipy.stats import rankdata

from eisbach.data.manifest import load_manifest
from eisbach.files import write_json
from eisbach.structure.features import extract_features
from eisbach.structure.metrics.order import continuation
from eisbach.structure.sections import find_sections
from eisbach.studies.ground_truth.synthetic_varied import shuffle_pieces
from eisbach.types import Waveform

Cut = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


def at(edges: np.ndarray, samples: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Shuffled between the given samples, with 5 ms fades."""
    bounds = [0, *edges, samples.shape[1]]
    pieces = [samples[:, a:b] for a, b in pairwise(bounds) if b - a > rate // 10]
    if len(pieces) < 3:
        return samples
    order = rng.permutation(len(pieces))
    while len(pieces) > 3 and (np.diff(order) == 1).any():
        order = rng.permutation(len(pieces))
    fade = np.linspace(0, 1, round(0.005 * rate), dtype=np.float32)
    made = []
    for place in order:
        piece = pieces[place].copy()
        piece[:, : len(fade)] *= fade
        piece[:, -len(fade) :] *= fade[::-1]
        made.append(piece)
    return np.concatenate(made, axis=1)


def random_lengths(samples: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Pieces of 1 to 3 s."""
    edges = np.cumsum(rng.uniform(1.0, 3.0, 200) * rate).astype(int)
    return at(edges[edges < samples.shape[1]], samples, rate, rng)


def bars(samples: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Groups of four beats."""
    import librosa

    mono = librosa.resample(samples.mean(0), orig_sr=rate, target_sr=22_050)
    _, beats = librosa.beat.beat_track(y=mono, sr=22_050, units="time")
    return at((np.asarray(beats)[::4] * rate).astype(int), samples, rate, rng)


def sections(samples: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Its own sections."""
    found = find_sections(extract_features(Waveform(samples, rate)))
    return at((np.asarray(found.boundaries) * rate).astype(int), samples, rate, rng)


CUTS: dict[str, Cut] = {
    "2 s": lambda samples, rate, rng: shuffle_pieces(samples, 2.0, rate, int(rng.integers(2**31))),
    "4 s": lambda samples, rate, rng: shuffle_pieces(samples, 4.0, rate, int(rng.integers(2**31))),
    "8 s": lambda samples, rate, rng: shuffle_pieces(samples, 8.0, rate, int(rng.integers(2**31))),
    "1 to 3 s": random_lengths,
    "bars": bars,
    "sections": sections,
}


def read(job: tuple[str, int]) -> dict[str, float]:
    """Readings of one excerpt, as it is and after every cut."""
    path, number = job
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    values = {"original": continuation(extract_features(Waveform(samples.T, rate)))}
    for cut, make in CUTS.items():
        shuffled = make(samples.T, rate, np.random.default_rng([number, 83]))
        values[cut] = continuation(extract_features(Waveform(shuffled, rate)))
    return values


def auc(higher: np.ndarray, lower: np.ndarray) -> float:
    """Share of pairs in which the first reads higher."""
    ranks = rankdata(np.concatenate([higher, lower]))[: len(higher)]
    return float((ranks.sum() - len(higher) * (len(higher) + 1) / 2) / (len(higher) * len(lower)))


def judged(values: dict[str, np.ndarray], hands: np.ndarray, cut: str, draws: int = 1000) -> dict[str, object]:
    """AUC with its interval, and the paired share."""
    original, shuffled = values["original"], values[cut]
    defined = np.isfinite(original) & np.isfinite(shuffled)
    original, shuffled, hands = original[defined], shuffled[defined], hands[defined]
    rng, names = np.random.default_rng(7), np.unique(hands)
    members = {name: np.flatnonzero(hands == name) for name in names}
    estimates = []
    for _ in range(draws):
        drawn = np.concatenate([members[name] for name in rng.choice(names, len(names))])
        estimates.append(auc(original[drawn], shuffled[drawn]))
    return {
        "excerpts": len(original),
        "hands": len(names),
        "auc": round(auc(original, shuffled), 3),
        "interval": [round(float(end), 3) for end in np.quantile(estimates, (0.025, 0.975))]
        if len(names) > 1
        else None,
        "paired": round(float(np.mean(original > shuffled)), 3),
        "medians": [round(float(np.median(side)), 3) for side in (original, shuffled)],
    }


def main() -> None:
    """Measures all excerpts, prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=Path, required=True, help="a folder with a manifest of excerpts")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="all", help="the section of the result file")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    manifest = load_manifest(options.recordings)
    rows = list(manifest)
    with ProcessPoolExecutor(options.jobs) as pool:
        readings = list(pool.map(read, [(str(manifest.audio_path(row)), i) for i, row in enumerate(rows)]))
    values = {key: np.array([reading[key] for reading in readings]) for key in ("original", *CUTS)}
    hands = np.array([row.labels["piece"] for row in rows])
    styles = np.array([row.labels["style"] for row in rows])
    table: dict[str, dict[str, object]] = {}
    for style in ("all", *sorted(set(styles))):
        chosen = np.ones(len(rows), bool) if style == "all" else styles == style
        part = {key: value[chosen] for key, value in values.items()}
        table[style] = {cut: judged(part, hands[chosen], cut) for cut in CUTS}
        for cut, result in table[style].items():
            print(f"{style:22}{cut:10} {json.dumps(result)}")
    results = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    results[options.name] = table
    write_json(options.out, results)


if __name__ == "__main__":
    main()
