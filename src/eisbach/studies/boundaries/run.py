"""Section boundaries beside librosa's on pieces whose sections are known.

Material (`pieces` of each kind, seeds from 0; the constants of `eisbach.structure.sections` were chosen on
seeds from 1000 and, for scores, on other pieces):

- *both*, *tune*, *sound*: synthetic forms whose letters differ in everything, in the tune alone, or in the timbres
  alone;
- *chords*: sustained chords and a melody from the other synthesiser, every letter its own;
- *bands*: two instruments of six kinds and often drums, any tempo, every letter another band (`synthetic_varied.band`);
- *band tunes*: the letters are tunes of one such band, in one key and tempo;
- *scores*: excerpts of different real scores, each by one ensemble, joined without a gap;
- *score forms*: the same with repeats (ABAC, AABA …);
- *long*: rondos and other forms of sections of 24 to 90 s, up to ten minutes in all, of any of the sounds above;
- *strophic*: strophes of 12 to 40 s, heard again at once, of any of these sounds;
- the kinds of `song_forms` (blues, song, rondo, variations, miniature, through-composed), written and played as wholes;
- *recordings*: passages of different recordings, joined without a gap, of the held-out split of `recordings`.

All other sections last 6 to 24 s, drawn continuously, so nothing divides a frame grid. mir_eval's hit rate, trimmed, at
0.5 and 3 s. librosa's sides follow its documentation: agglomerative clustering of beat-synchronous features, and
Laplacian segmentation (McFee and Ellis 2014); each once with the true number of sections and once with an estimate (one
section every 12 s, the mean of the material; for the Laplacian variant also its number of clusters). Intervals: 2000
bootstrap draws over pieces.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from eisbach.config import StrictModel
from eisbach.data.performance import perform, take_excerpt
from eisbach.data.score_parsing import ScoreError
from eisbach.data.scores import Piece, list_pieces, load_table
from eisbach.data.synth import synthesise
from eisbach.files import write_json
from eisbach.output_folder import Finished
from eisbach.progress import Progress
from eisbach.structure.features import extract_features
from eisbach.structure.sections import find_sections
from eisbach.studies.boundaries.song_forms import KINDS as SONG_KINDS
from eisbach.studies.boundaries.song_forms import joined_recordings, song_form
from eisbach.studies.ground_truth import synthetic
from eisbach.studies.ground_truth.synthetic_forms import SectionedPiece, sectioned
from eisbach.studies.ground_truth.synthetic_varied import band
from eisbach.types import Waveform

KINDS = ("both", "tune", "sound", "chords", "scores", "score forms", "bands", "band tunes", "long", "strophic")
RECORDINGS = "recordings"
FORMS = ("AABA", "ABAC", "ABCA", "ABACA", "AABB", "ABCBA", "ABABC", "ABCDE", "AABCC", "ABCDAB", "ABCD")
_STROPHIC_FORMS = ("AAA", "AAAA", "AAAAAA", "AABA", "AABB", "AAB", "BAAAC")
_LONG_FORMS = ("ABACA", "ABACADA", "ABACABA", "ABCDEF", "ABCBA", "AABA")
DEVELOPMENT_SEEDS = 1000
_COLLECTIONS = (
    "haydn",
    "mozart",
    "beethoven",
    "bach",
    "joplin",
    "airdsAirs",
    "nottingham-dataset",
    "monteverdi",
    "corelli",
)
_RATE = 22050
OURS, RESULT = "eisbach", "boundaries.json"


class Settings(StrictModel):
    """Pieces of each kind, which kinds, and whether librosa is measured too (it takes nine tenths of the time);
    `recordings` are manifests of excerpts, which three times as many pieces are joined of."""

    pieces: int = Field(8, ge=1)
    kinds: list[str] = Field(default=[*KINDS, *SONG_KINDS], min_length=1)
    recordings: list[str] = Field(default=[])
    librosa: bool = True


QUICK: dict[str, Any] = {"pieces": 2, "kinds": ["both", "chords", "bands"]}


def _shape(
    rng: np.random.Generator, forms: tuple[str, ...], seconds: tuple[float, float, float] = (6.0, 24.0, 120.0)
) -> tuple[str, list[float]]:
    """A form and the seconds of its letters; `seconds` are those of the shortest and longest section and of the
    piece."""
    letters = forms[int(rng.integers(len(forms)))]
    longest = min(seconds[1], seconds[2] / len(letters))
    return letters, [float(rng.uniform(seconds[0], longest)) for _ in set(letters)]


@lru_cache(maxsize=2)
def _pieces(development: bool) -> tuple[Piece, ...]:
    """Half of the scores, by hash of the piece."""

    def side(piece: Piece) -> bool:
        return int(hashlib.sha256(f"sections {piece.id}".encode()).hexdigest(), 16) % 2 == 1

    return tuple(piece for piece in list_pieces(_COLLECTIONS) if side(piece) == development)


def _excerpt(seconds: float, rng: np.random.Generator, development: bool) -> np.ndarray:
    """`seconds` of one score by one ensemble, RMS 0.1."""
    pieces = _pieces(development)
    while True:
        piece = pieces[int(rng.integers(len(pieces)))]
        try:
            table = load_table(piece)
        except ScoreError:
            continue
        excerpt = take_excerpt(iter([table]), seconds, rng)
        if excerpt.onset.size < seconds or excerpt.onset.max() < seconds - 2.0 or excerpt.onset.min() > 0.5:
            continue
        performance = perform(excerpt, seconds, piece.family, rng, changing=False)
        samples = synthesise(performance.tracks, seconds, _RATE).samples[0]
        return np.asarray(0.1 * samples / max(float(np.sqrt(np.mean(samples**2))), 1e-6), dtype=np.float32)


def _joined(letters: str, parts: dict[str, np.ndarray]) -> SectionedPiece:
    samples = np.concatenate([parts[letter] for letter in letters])
    edges = np.concatenate([[0.0], np.cumsum([len(parts[letter]) / _RATE for letter in letters])])
    samples = (0.7 * samples / np.abs(samples).max()).astype(np.float32)
    return SectionedPiece(Waveform(samples[None, :], _RATE), edges, tuple(letters))


def material(kind: str, seed: int) -> SectionedPiece:
    """One piece of a kind; a pure function of its arguments."""
    rng = np.random.default_rng([seed, 71, KINDS.index(kind)])
    if kind == "long":
        sound = str(rng.choice(("both", "tune", "bands", "band tunes", "score forms")))
        letters, lengths = _shape(
            rng, tuple(f for f in _LONG_FORMS if sound != "tune" or not _doubled(f)), (24.0, 90.0, 600.0)
        )
        return _played(sound, letters, lengths, seed, rng)
    if kind == "strophic":
        sound = str(rng.choice(("both", "tune", "chords", "bands", "band tunes", "score forms")))
        return _played(sound, *_shape(rng, _STROPHIC_FORMS, (12.0, 40.0, 240.0)), seed, rng)
    if kind in ("both", "tune", "sound"):
        # with one tune going on everywhere, equal neighbours would have no boundary between them
        letters, lengths = _shape(rng, tuple(f for f in FORMS if kind == "both" or not _doubled(f)))
    else:
        letters, lengths = _shape(rng, ("ABCD", "ABCDE", "ABCDEF", "ABC") if kind == "scores" else FORMS)
    return _played(kind, letters, lengths, seed, rng)


def _played(kind: str, letters: str, lengths: list[float], seed: int, rng: np.random.Generator) -> SectionedPiece:
    if kind in ("both", "tune", "sound"):
        return sectioned(letters, lengths, seed, changes=kind, beat=float(rng.uniform(0.35, 0.8)))
    if kind == "chords":
        return _joined(letters, {
            letter: synthetic.phrase(seconds, np.random.default_rng([seed, 72, ord(letter)]))
            for letter, seconds in zip(sorted(set(letters)), lengths, strict=True)
        })  # fmt: skip
    if kind in ("bands", "band tunes"):
        players = seed if kind == "band tunes" else None
        return _joined(letters, {
            letter: band(seconds, 1000 * seed + ord(letter), players=players)
            for letter, seconds in zip(sorted(set(letters)), lengths, strict=True)
        })  # fmt: skip
    return _joined(letters, {
        letter: _excerpt(seconds, rng, seed >= DEVELOPMENT_SEEDS)
        for letter, seconds in zip(sorted(set(letters)), lengths, strict=True)
    })  # fmt: skip


def _doubled(letters: str) -> bool:
    return any(a == b for a, b in pairwise(letters))


# --- librosa's sides
# ------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _beat_features(key: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Beat-synchronous CQT (dB) and MFCC, and the beats' times with 0 in front; of the waveform in `_CURRENT`."""
    import librosa

    samples = _CURRENT[key]
    cqt = librosa.amplitude_to_db(np.abs(librosa.cqt(y=samples, sr=_RATE, bins_per_octave=36, n_bins=252)), ref=np.max)
    _, beats = librosa.beat.beat_track(y=samples, sr=_RATE, trim=False)  # type: ignore[attr-defined]
    synced = librosa.util.sync(cqt, beats, aggregate=np.median)
    mfcc = librosa.util.sync(librosa.feature.mfcc(y=samples, sr=_RATE), beats)
    times = librosa.frames_to_time(librosa.util.fix_frames(beats, x_min=0), sr=_RATE)
    return synced, mfcc, times


_CURRENT: dict[int, np.ndarray] = {}


def _librosa_agglomerative(key: int, sections: int) -> np.ndarray:
    """`librosa.segment.agglomerative` on beat-synchronous CQT and MFCC: times of the boundaries."""
    import librosa

    cqt, mfcc, times = _beat_features(key)
    frames = np.concatenate([librosa.util.normalize(cqt, axis=1), librosa.util.normalize(mfcc, axis=1)])
    first = librosa.segment.agglomerative(frames, min(sections, frames.shape[1]))  # type: ignore[attr-defined]
    return times[np.minimum(first, len(times) - 1)][1:]


def _librosa_laplacian(key: int, clusters: int) -> np.ndarray:
    """Laplacian segmentation as in librosa's example gallery, with `clusters` kinds of section: times of the
    boundaries."""
    import librosa
    import scipy.linalg
    import scipy.ndimage
    import scipy.sparse.csgraph
    from sklearn.cluster import KMeans

    cqt, mfcc, times = _beat_features(key)
    repeats = librosa.segment.recurrence_matrix(cqt, width=3, mode="affinity", sym=True)  # type: ignore[attr-defined]
    smooth = librosa.segment.timelag_filter(scipy.ndimage.median_filter)(repeats, size=(1, 7))  # type: ignore[attr-defined]
    distance = np.sum(np.diff(mfcc, axis=1) ** 2, axis=0)
    near = np.exp(-distance / max(float(np.median(distance)), 1e-9))
    path = np.diag(near, k=1) + np.diag(near, k=-1)
    degree_path, degree_repeats = path.sum(axis=1), smooth.sum(axis=1)
    mix = degree_path @ (degree_path + degree_repeats) / np.sum((degree_path + degree_repeats) ** 2)
    laplacian = scipy.sparse.csgraph.laplacian(mix * smooth + (1.0 - mix) * path, normed=True)
    vectors = scipy.ndimage.median_filter(scipy.linalg.eigh(laplacian)[1], size=(9, 1))
    norms = np.cumsum(vectors**2, axis=1) ** 0.5
    clusters = min(clusters, vectors.shape[0])
    embedded = vectors[:, :clusters] / np.maximum(norms[:, clusters - 1 : clusters], 1e-12)
    labels = KMeans(n_clusters=clusters, n_init=10, random_state=0).fit_predict(embedded)
    return times[1 + np.flatnonzero(labels[1:] != labels[:-1])]


# --- scores
# ---------------------------------------------------------------------------------------------------------------------


def hit_rates(boundaries: np.ndarray, edges: np.ndarray) -> tuple[float, float]:
    """mir_eval's trimmed hit-rate F at 0.5 and at 3 s; 0 when nothing was found."""
    import mir_eval

    end = float(edges[-1])
    inner = np.unique(boundaries[(boundaries > 0.01) & (boundaries < end - 0.01)])
    estimated = mir_eval.util.boundaries_to_intervals(np.concatenate([[0.0], inner, [end]]))
    truth = mir_eval.util.boundaries_to_intervals(edges)
    if len(inner) == 0:
        return 0.0, 0.0
    return tuple(float(mir_eval.segment.detection(truth, estimated, window=w, trim=True)[2]) for w in (0.5, 3.0))  # type: ignore[return-value]


def _pairwise_f(boundaries: np.ndarray, labels: tuple[str, ...], piece: SectionedPiece) -> float:
    """mir_eval's pairwise F of the labels."""
    import mir_eval

    end = float(piece.edges[-1])
    estimated = mir_eval.util.boundaries_to_intervals(np.concatenate([[0.0], boundaries, [end]]))
    truth = mir_eval.util.boundaries_to_intervals(piece.edges)
    return float(mir_eval.segment.pairwise(truth, list(piece.labels), estimated, list(labels))[2])


def interval(values: list[float]) -> dict[str, float]:
    """Mean and 95% bootstrap interval over pieces."""
    data = np.array(values)
    draws = np.random.default_rng(0).integers(0, len(data), (2000, len(data)))
    low, high = np.percentile(data[draws].mean(axis=1), [2.5, 97.5])
    return {"mean": round(float(data.mean()), 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def _librosa_sides(key: int, piece: SectionedPiece) -> dict[str, Callable[[], np.ndarray]]:
    """librosa's four segmentations of a piece: with the true number of sections, and with an estimate of it."""
    _CURRENT.clear()
    _CURRENT[key] = piece.waveform.samples[0]
    guess = max(2, round(float(piece.edges[-1]) / 12.0))
    return {
        "librosa agglomerative, true count": lambda: _librosa_agglomerative(key, len(piece.labels)),
        "librosa agglomerative, estimated": lambda: _librosa_agglomerative(key, guess),
        "librosa laplacian, true count": lambda: _librosa_laplacian(key, len(set(piece.labels))),
        "librosa laplacian, estimated": lambda: _librosa_laplacian(key, 5),
    }


def piece_of(kind: str, seed: int, recordings: Sequence[str] = ()) -> SectionedPiece:
    """One piece of any kind; seeds from `DEVELOPMENT_SEEDS` on are those that constants may be chosen on."""
    if kind == RECORDINGS:
        return joined_recordings(recordings, seed, "train" if seed >= DEVELOPMENT_SEEDS else "held_out")
    return song_form(kind, seed) if kind in SONG_KINDS else material(kind, seed)


def measure(kind: str, index: int, librosa: bool, recordings: Sequence[str] = ()) -> dict[str, Any]:
    """Hit rates at 0.5 and 3 s and the seconds of every side on one piece, and the pairwise F of our labels."""
    piece = piece_of(kind, index, recordings)
    start = time.perf_counter()
    sections = find_sections(extract_features(piece.waveform))
    seconds = {OURS: time.perf_counter() - start}
    ours = np.array(sections.boundaries)
    scores = {OURS: hit_rates(ours, piece.edges)}
    key = hash((kind, index))
    for name, side in _librosa_sides(key, piece).items() if librosa else ():
        start = time.perf_counter()
        estimate = side()
        seconds[name] = time.perf_counter() - start
        scores[name] = hit_rates(estimate, piece.edges)
    return {"scores": scores, "labels": _pairwise_f(ours, sections.labels, piece), "seconds": seconds}


def table_of(pieces: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Hit rates with intervals by side and kind."""
    everything = {**pieces, "all": [row for rows in pieces.values() for row in rows]}
    sides = next(iter(everything["all"]))["scores"]
    return {
        side: {
            kind: {
                name: interval([row["scores"][side][place] for row in rows])
                for place, name in enumerate(("f_0.5s", "f_3s"))
            }
            for kind, rows in everything.items()
        }
        for side in sides
    }


def run(settings: Settings, out: Path, *, jobs: int = 1, quiet: bool = False) -> None:
    """Writes `boundaries.json`; pieces that are measured already are kept in `pieces.jsonl`."""
    done = Finished(out / "pieces.jsonl")
    pieces: dict[str, list[dict[str, Any]]] = {}
    counts = dict.fromkeys(settings.kinds, settings.pieces)
    if settings.recordings:
        counts[RECORDINGS] = 3 * settings.pieces
    with Progress(sum(counts.values()), "boundaries", quiet=quiet) as bar:
        for kind, count in counts.items():
            for index in range(count):
                row = done.get(f"{kind} {index}", partial(measure, kind, index, settings.librosa, settings.recordings))
                pieces.setdefault(kind, []).append(row)
                bar.advance(note=kind)
    still = {
        name: sum(len(find_sections(extract_features(make(seed, 60.0))).boundaries) for seed in range(settings.pieces))
        for name, make in (("drone", synthetic.drone), ("noise", synthetic.noise), ("pad", synthetic.pad))
    }
    everything = [row for rows in pieces.values() for row in rows]
    labels = {kind: interval([row["labels"] for row in rows]) for kind, rows in {**pieces, "all": everything}.items()}
    write_json(
        out / RESULT,
        {
            "pieces_of_each_kind": settings.pieces,
            "hit_rate": table_of(pieces),
            "labels_pairwise_f": labels,
            "boundaries_in_still_sounds": still,
            "seconds_a_piece": {
                name: round(float(np.median([row["seconds"][name] for row in everything])), 3)
                for name in everything[0]["seconds"]
            },
        },
    )
