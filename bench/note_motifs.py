"""How note motifs read from audio whose share of repeated phrases is known: ``python bench/note_motifs.py --help``.

Written melodies, alone and over chords in a rhythm of their own, on sampled instruments. Neither these melodies nor
these instruments were used when `structure.embeddings.notes.melody` was written. Beside its readings stand those of the
plain highest note of every moment.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from eisbach.data.synth import Track, synthesise
from eisbach.files import write_json
from eisbach.structure.embeddings.notes import Notes, melody, note_motifs, transcribe

SHARES = (0.0, 0.25, 0.5, 0.75)
ENSEMBLES = (
    ("harpsichord", None), ("clarinet", None), ("trumpet", None), ("clarinet", "piano"), ("trumpet", "strings"),
    ("harpsichord", "strings"), ("violin", "harp"),
)  # fmt: skip
PHRASES, TIMES = 8, np.array([1, 1, 2, 1, 1, 1, 1, 2]) * 0.25


def tune(share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Onsets and pitches of 64 notes; `share` of the eight phrases repeat an earlier one up to transposition."""
    rng = np.random.default_rng(seed)
    steps = [rng.choice([-5, -4, -3, -2, -1, 1, 2, 3, 4, 5], len(TIMES)) for _ in range(PHRASES)]
    fresh = [line - round(float(line.mean())) for line in map(np.cumsum, steps)]
    again = round(PHRASES * share)
    phrases = fresh[: PHRASES - again] + [fresh[k % (PHRASES - again)] + k % 5 - 2 for k in range(again)]
    times = np.tile(TIMES, PHRASES)
    return np.cumsum(times) - times[0], 72 + np.concatenate(phrases)


def played(share: float, seed: int, lead: str, backing: str | None) -> Notes:
    """What is heard of a tune, perhaps over a chord every 1.25 s."""
    onset, pitch = tune(share, seed)
    gaps = np.append(np.diff(onset), 0.5)
    tracks = [Track(lead, onset, gaps, pitch, np.full(len(onset), 90.0))]
    if backing is not None:
        rng = np.random.default_rng(seed + 1_000)
        starts = np.repeat(np.arange(0.0, onset[-1], 1.25), 3)
        roots = np.repeat(rng.integers(45, 53, len(starts) // 3), 3)
        chords = roots + np.tile([0, 7, 12], len(starts) // 3)
        tracks.append(Track(backing, starts, np.full(len(starts), 1.2), chords, np.full(len(starts), 60.0)))
    return transcribe(synthesise(tracks, float(onset[-1]) + 1.5, 22_050))


def highest(notes: Notes) -> tuple[np.ndarray, np.ndarray]:
    """The highest of the notes that begin together, whatever it is."""
    moments = np.split(np.arange(len(notes.onset)), np.flatnonzero(np.diff(notes.onset) > 0.06) + 1)
    tops = [(float(notes.onset[own].min()), int(notes.pitch[own].max())) for own in moments if len(own)]
    return np.array([onset for onset, _ in tops]), np.array([pitch for _, pitch in tops], dtype=int)


def main() -> None:
    """Plays, listens, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "note_motifs.json")
    options = parser.parse_args()
    rows = []
    for lead, backing in ENSEMBLES:
        readings: dict[str, list[float]] = {"melody": [], "highest": []}
        for share in SHARES:
            heard = [played(share, seed, lead, backing) for seed in options.seeds]
            for name, voice in (("melody", melody), ("highest", highest)):
                readings[name].append(round(float(np.mean([note_motifs(*voice(notes)) for notes in heard])), 3))
        rows.append({"lead": lead, "backing": backing, **readings})
        print(f"{lead} / {backing}: {readings}", flush=True)
    write_json(options.out, {"shares": SHARES, "seeds": options.seeds, "pieces": rows})


if __name__ == "__main__":
    main()
