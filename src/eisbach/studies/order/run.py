"""Is the order of recorded music heard? `continuation` on every excerpt as it is, and cut in pieces and shuffled.

Pieces are of 2, 4 and 8 s, of random length (1 to 3 s), bars (four of librosa's beats) and the excerpt's own sections.
AUC is the share of (original, shuffled) pairs, over all pairs of excerpts, in which the original reads higher; *paired*
the share of excerpts that read higher than their own shuffle. Intervals: 95%, bootstrap over hands (the composer, album
or score of a label ``piece``), never over excerpts. Each run writes its section of the records and leaves the others.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from eisbach.audio import read_audio
from eisbach.config import StrictModel
from eisbach.data.manifest import load_manifest
from eisbach.data.render import RenderSpec, render
from eisbach.executors import open_executor
from eisbach.files import read_json, write_json
from eisbach.output_folder import Finished
from eisbach.progress import Progress
from eisbach.statistics.effect_size import auc
from eisbach.structure.features import extract_features
from eisbach.structure.metrics.form import continuation
from eisbach.structure.sections import find_sections
from eisbach.studies.ground_truth.flat_cells import pieces_of
from eisbach.studies.ground_truth.synthetic_varied import shuffle_pieces
from eisbach.types import Waveform

RESULT = "order.json"
Cut = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
"""(samples [shape=(channels, n)], Hz, randomness) -> the same pieces in another order."""


class Settings(StrictModel):
    """Which recordings.

    Attributes
    ----------
    recordings : str
        Manifest of excerpts (`python bench/recordings.py` makes one), or its folder; "" renders `clips` of scores here.
    section : str
        Name of the section in the file of records.
    """

    recordings: str = ""
    section: str = "rendered scores"
    clips: int = Field(60, ge=3)
    rendered_seconds: float = Field(32.0, ge=24.0)
    render_seed: int = Field(77, ge=0)


QUICK: dict[str, Any] = {"clips": 4, "rendered_seconds": 25.0, "section": "quick"}
FREE = ("recordings", "section", "clips", "rendered_seconds", "render_seed")


def _at(edges: np.ndarray, samples: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Shuffled between the given samples, with 5 ms fades; under three pieces it comes back as it is."""
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


def _random_lengths(samples: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    edges = np.cumsum(rng.uniform(1.0, 3.0, 200) * rate).astype(int)
    return _at(edges[edges < samples.shape[1]], samples, rate, rng)


def _bars(samples: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    import librosa

    mono = librosa.resample(samples.mean(0), orig_sr=rate, target_sr=22_050)
    _, beats = librosa.beat.beat_track(y=mono, sr=22_050, units="time")  # type: ignore[attr-defined]
    return _at((np.asarray(beats)[::4] * rate).astype(int), samples, rate, rng)


def _sections(samples: np.ndarray, rate: int, rng: np.random.Generator) -> np.ndarray:
    boundaries = find_sections(extract_features(Waveform(samples, rate))).boundaries
    return _at((np.asarray(boundaries) * rate).astype(int), samples, rate, rng)


CUTS: dict[str, Cut] = {
    "2 s": lambda samples, rate, rng: shuffle_pieces(samples, 2.0, rate, int(rng.integers(2**31))),
    "4 s": lambda samples, rate, rng: shuffle_pieces(samples, 4.0, rate, int(rng.integers(2**31))),
    "8 s": lambda samples, rate, rng: shuffle_pieces(samples, 8.0, rate, int(rng.integers(2**31))),
    "1 to 3 s": _random_lengths,
    **({"bars": _bars} if find_spec("librosa") else {}),
    "sections": _sections,
}
"""How an excerpt is cut; bars need librosa (the extra dev) and are left out without it."""


def readings(path: str, number: int) -> dict[str, float | None]:
    """Continuation of one excerpt, as it is and after every cut; None where it is undefined."""
    waveform = read_audio(path)
    values = {"original": continuation(extract_features(waveform))}
    for name, cut in CUTS.items():
        shuffled = cut(waveform.samples, int(waveform.sample_rate), np.random.default_rng([number, 83]))
        values[name] = continuation(extract_features(Waveform(shuffled, waveform.sample_rate)))
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


def judged(original: np.ndarray, shuffled: np.ndarray, hands: np.ndarray, draws: int = 1000) -> dict[str, object]:
    """AUC with its interval over hands, and the paired share; excerpts of which a reading is undefined are left out."""
    defined = np.isfinite(original) & np.isfinite(shuffled)
    original, shuffled, hands = original[defined], shuffled[defined], hands[defined]
    if not len(original):
        return {"excerpts": 0, "hands": 0, "auc": None, "interval": None, "paired": None, "medians": None}
    rng, names = np.random.default_rng(7), np.unique(hands)
    members = {name: np.flatnonzero(hands == name) for name in names}
    estimates = []
    for _ in range(draws):
        drawn = np.concatenate([members[name] for name in rng.choice(names, len(names))])
        estimates.append(auc(original[drawn], shuffled[drawn]))
    ends = [round(float(end), 3) for end in np.quantile(estimates, (0.025, 0.975))] if len(names) > 1 else None
    return {
        "excerpts": len(original),
        "hands": len(names),
        "auc": round(auc(original, shuffled), 3),
        "interval": ends,
        "paired": round(float(np.mean(original > shuffled)), 3),
        "medians": [round(float(np.median(side)), 3) for side in (original, shuffled)],
    }


def _measured(files: list[str], done: Finished, jobs: int, quiet: bool) -> list[dict[str, float | None]]:
    """The readings of every file, in order; those of an earlier run are kept."""
    todo = [(file, number) for number, file in enumerate(files) if file not in done]
    with (
        Progress(len(todo), "order", unit=" excerpts", quiet=quiet) as bar,
        open_executor(jobs, len(todo)) as executor,
    ):
        for index, values in executor.each(readings, todo):
            done.add(todo[index][0], values)
            bar.advance()
    return [done.rows[file] for file in files]


def run(settings: Settings, out: Path, *, jobs: int = 1, quiet: bool = False) -> None:
    """Writes the section of `order.json` for the settings' recordings; excerpts that are measured already are kept."""
    if settings.recordings:
        manifest = load_manifest(settings.recordings)
    else:
        seconds = (settings.rendered_seconds,)
        spec = RenderSpec(seed=settings.render_seed, seconds=seconds, pieces=pieces_of("held_out"))
        manifest = render(out / "rendered", clips=settings.clips, spec=spec, jobs=jobs, quiet=quiet)[0]
    rows = list(manifest)
    files = [str(manifest.audio_path(row)) for row in rows]
    measured = _measured(files, Finished(out / "pieces.jsonl"), jobs, quiet)
    values = {
        name: np.array([np.nan if row[name] is None else row[name] for row in measured], dtype=float)
        for name in ("original", *CUTS)
    }
    hands = np.array([row.labels.get("piece", row.audio_hash) for row in rows])
    styles = np.array([row.labels.get("style", "no style") for row in rows])
    table = {}
    for style in ("all", *sorted(set(styles))):
        chosen = np.ones(len(rows), bool) if style == "all" else styles == style
        table[style] = {cut: judged(values["original"][chosen], values[cut][chosen], hands[chosen]) for cut in CUTS}
    records = read_json(out / RESULT, "records") if (out / RESULT).is_file() else {"sections": {}}
    records["sections"][settings.section] = table
    write_json(out / RESULT, records)
