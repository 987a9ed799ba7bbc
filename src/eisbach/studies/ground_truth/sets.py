"""Whether the measures of sets can be believed.

Rank correlation of every set metric with its ladder of synthetic sets, how often 95% intervals cover the truth,
distances against closed forms and against sets that do not differ, and whether copied excerpts are found and unseen
music is left alone.

The sets are clips whose relations are known by construction. A *take* is a list of notes (time, pitch, timbre) that is
rendered when audio is wanted; `seed` chooses everything but the quantity that the ladder turns.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import soundfile as sf

from eisbach.output_folder import Finished
from eisbach.progress import Progress
from eisbach.structure.features import extract_features
from eisbach.structure.sections import find_sections
from eisbach.structure.sets import distances
from eisbach.structure.sets.alignment import boundary_alignment
from eisbach.structure.sets.differentiation import distance_icc
from eisbach.structure.sets.excerpts import ExcerptFeatures, coarse_scores, excerpt_features
from eisbach.structure.sets.intervals import jackknife
from eisbach.structure.sets.memorisation import clip_memorisation, excerpt_memorisation
from eisbach.structure.sets.onset_details import detail_diversity, onset_events
from eisbach.studies.ground_truth.synthetic import SAMPLE_RATE, Timbre, phrase, random_timbre, tone
from eisbach.types import Waveform

SECONDS = 20.0
_SCALE = (0, 2, 3, 5, 7, 8, 10, 12, 14, 15)


@dataclass(frozen=True)
class Notes:
    """`times` (s), `pitches` (MIDI) and `timbres` (index), [shape=(n,)] each, for `duration` seconds."""

    times: np.ndarray
    pitches: np.ndarray
    timbres: np.ndarray
    duration: float


def random_notes(seed: int, duration: float = 20.0) -> Notes:
    """A melody in ever changing note lengths and two timbres."""
    rng = np.random.default_rng([seed, 21])
    lengths = rng.choice([0.25, 0.25, 0.5, 0.5, 0.75, 1.0], size=int(duration / 0.2))
    times = 0.2 + np.concatenate([[0.0], np.cumsum(lengths)[:-1]])
    times = times[times < duration - 0.3]
    return Notes(times, 50.0 + rng.choice(_SCALE, len(times)), rng.integers(0, 2, len(times)), duration)


def substitute(notes: Notes, share: float, seed: int) -> Notes:
    """A `share` of the notes replaced by others: other pitch and timbre, and moved by up to 0.2 s."""
    rng = np.random.default_rng([seed, 22])
    chosen = rng.permutation(len(notes.times))[: round(share * len(notes.times))]
    times, pitches, timbres = notes.times.copy(), notes.pitches.copy(), notes.timbres.copy()
    times[chosen] += rng.uniform(-0.2, 0.2, len(chosen))
    pitches[chosen] = 50.0 + rng.choice(_SCALE, len(chosen))
    timbres[chosen] = rng.integers(0, 2, len(chosen))
    order = np.argsort(times)
    return Notes(np.maximum(times[order], 0.05), pitches[order], timbres[order], notes.duration)


def jitter(notes: Notes, seconds: float, seed: int) -> Notes:
    """Every note moved by Gaussian noise of `seconds`."""
    rng = np.random.default_rng([seed, 23])
    times = np.maximum(notes.times + seconds * rng.standard_normal(len(notes.times)), 0.05)
    order = np.argsort(times)
    return Notes(times[order], notes.pitches[order], notes.timbres[order], notes.duration)


def render(notes: Notes, seed: int, *, tempo: float = 1.0, gain: float = 0.5, transpose: float = 0.0) -> Waveform:
    """Struck notes in two timbres chosen by `seed`, `tempo` times as fast, with peak `gain`."""
    rng = np.random.default_rng([seed, 24])
    timbres = [_struck(rng) for _ in range(2)]
    count = round(notes.duration / tempo * SAMPLE_RATE)
    out = np.zeros(count, dtype=np.float32)
    made: dict[tuple[float, int], np.ndarray] = {}
    for start, pitch, timbre in zip(notes.times, notes.pitches, notes.timbres, strict=True):
        key = (float(pitch), int(timbre))
        if key not in made:
            made[key] = tone(key[0] + transpose, 0.5, timbres[key[1]])
        first = round(float(start) / tempo * SAMPLE_RATE)
        note = made[key][: max(0, count - first)]
        out[first : first + len(note)] += note
    noise = np.random.default_rng([seed, 25]).standard_normal(count, dtype=np.float32)
    out += noise * np.float32(np.abs(out).max() * 10 ** (-66.0 / 20))
    return Waveform((gain * out / np.abs(out).max()).astype(np.float32)[None], SAMPLE_RATE)


def _struck(rng: np.random.Generator) -> Timbre:
    base = random_timbre(rng)
    return Timbre(
        base.rolloff, base.formant_hz, base.formant_octaves, base.odd, base.stretch, float(rng.uniform(0.2, 0.5))
    )


def jittered_boundaries(
    seconds: float, seed: int, *, prompts: int = 16, takes: int = 4, sections: int = 5, duration: float = 60.0
) -> tuple[list[np.ndarray], list[float], list[int]]:
    """Boundaries, durations and prompts of takes that move each of their prompt's boundaries by Gaussian noise of
    `seconds`.

    Infinite `seconds`: boundaries uniform over the clip, independent of the prompt.
    """
    rng = np.random.default_rng([seed, 26])
    rows: list[np.ndarray] = []
    for _ in range(prompts):
        shared = rng.uniform(0.0, duration, sections)
        for _ in range(takes):
            moved = (
                rng.uniform(0.0, duration, sections)
                if np.isinf(seconds)
                else shared + seconds * rng.standard_normal(sections)
            )
            rows.append(np.sort(moved[(moved > 0.0) & (moved < duration)]))
    return rows, [duration] * len(rows), [i // takes for i in range(len(rows))]


def _section_takes(lengths: Sequence[float], seed: int) -> Waveform:
    """Sections of the given lengths, each a texture of its own chosen by `seed`: takes that share a seed share their
    sound."""
    parts = [phrase(length, np.random.default_rng([seed, 27, index])) for index, length in enumerate(lengths)]
    samples = np.concatenate(parts)
    return Waveform((0.5 * samples / np.abs(samples).max()).astype(np.float32)[None], SAMPLE_RATE)


def separated_rows(
    share: float, seed: int, *, prompts: int = 24, takes: int = 4, d: int = 16
) -> tuple[np.ndarray, list[int]]:
    """Rows of an embedding of which prompts account for a `share` of the variance, and their prompts."""
    rng = np.random.default_rng([seed, 28])
    index = np.repeat(np.arange(prompts), takes)
    between, within = rng.standard_normal((prompts, d))[index], rng.standard_normal((len(index), d))
    return np.sqrt(share) * between + np.sqrt(1.0 - share) * within, index.tolist()


def splice(
    target: Waveform, source: Waveform, start: float, source_start: float, seconds: float, gain: float
) -> Waveform:
    """`seconds` of `source`, times `gain`, in place of what `target` has at `start`, with 20 ms crossfades."""
    rate = target.sample_rate
    out = target.samples.copy()
    first, begin, count = round(start * rate), round(source_start * rate), round(seconds * rate)
    fade = np.minimum(1.0, np.minimum(np.arange(count), np.arange(count)[::-1]) / (0.02 * rate)).astype(np.float32)
    excerpt = np.float32(gain) * source.samples[:, begin : begin + count]
    out[:, first : first + count] = out[:, first : first + count] * (1.0 - fade) + excerpt * fade
    return Waveform(out, rate)


def _rank_correlation(truth: list[float], values: list[float]) -> float:
    from scipy.stats import spearmanr

    return float(spearmanr(truth, values).statistic)


def _ladder(truth: list[float], values: list[float], rising: bool = True) -> dict[str, object]:
    correlation = _rank_correlation(truth, values)
    return {
        "truth": truth,
        "values": [round(v, 4) for v in values],
        "rank_correlation": correlation if rising else -correlation,
    }


def _alignment(seed: int) -> dict[str, object]:
    out: dict[str, object] = {}
    for window, jitters in ((3.0, [0.0, 1.0, 2.0, 3.0, 5.0]), (0.5, [0.0, 0.25, 0.5, 1.0, 2.0])):
        values = [boundary_alignment(*jittered_boundaries(j, seed), window=window).value for j in jitters]
        unrelated = [
            boundary_alignment(*jittered_boundaries(np.inf, seed + 10 + i), window=window).value for i in range(10)
        ]
        out[f"+-{window:g} s"] = {**_ladder(jitters, values, rising=False), "unrelated_mean": float(np.mean(unrelated))}
    jitters = [0.0, 1.0, 2.0, 4.0]
    out["from audio, +-3 s"] = _ladder(jitters, [_alignment_of_audio(j, seed) for j in jitters], rising=False)
    return out


def _alignment_of_audio(jitter: float, seed: int) -> float:
    """Sections rendered, found again by `find_sections`, and compared: boundaries move by `jitter` seconds."""
    rng = np.random.default_rng([seed, 31])
    rows, durations, prompts = [], [], []
    for prompt in range(10):
        shared = np.array([12.0, 24.0, 36.0]) + rng.uniform(-3.0, 3.0, 3)
        for take in range(2):
            edges = np.clip(np.sort(shared + jitter * rng.standard_normal(3)), 4.0, 44.0)
            lengths = np.maximum(np.diff(np.concatenate([[0.0], edges, [48.0]])), 2.0)
            clip = _section_takes(lengths.tolist(), 100 * seed + 10 * prompt + take)
            rows.append(np.asarray(find_sections(extract_features(clip)).boundaries))
            durations.append(clip.duration)
            prompts.append(prompt)
    return boundary_alignment(rows, durations, prompts, window=3.0).value


def _substituted(share: float, notes: Notes, seed: int) -> Notes:
    return substitute(notes, share, seed)


def _jittered(seconds: float, notes: Notes, seed: int) -> Notes:
    return jitter(notes, seconds, seed)


def _details(seed: int) -> dict[str, object]:
    def diversity(change: Callable[[Notes, int], Notes], **options: float) -> float:
        events, prompts = [], []
        for piece in range(6):
            notes = random_notes(10 * seed + piece, 15.0)
            takes = [render(notes, piece), render(change(notes, piece), piece, **options)]
            events += [onset_events(extract_features(take)) for take in takes]
            prompts += [piece, piece]
        return detail_diversity(events, prompts).value

    shares, shifts = [0.0, 0.1, 0.25, 0.5, 0.75, 1.0], [0.0, 0.01, 0.03, 0.1, 0.2]
    return {
        "share of notes replaced": _ladder(shares, [diversity(partial(_substituted, x)) for x in shares]),
        "onset jitter, s": _ladder(shifts, [diversity(partial(_jittered, x)) for x in shifts]),
        "unrelated": diversity(lambda n, s: random_notes(s + 90, 15.0)),
        "20% faster": diversity(lambda n, s: n, tempo=1.2),
        "34 dB softer": diversity(lambda n, s: n, gain=0.01),
    }


def _differentiation(seed: int) -> dict[str, object]:
    shares = [0.0, 0.25, 0.5, 0.75, 1.0]
    values = [distance_icc(*separated_rows(s, seed)).value for s in shares]
    runs = [distance_icc(*separated_rows(0.5, 1000 + i, d=8)) for i in range(400)]
    return {
        **_ladder(shares, values),
        "coverage_of_95%_intervals": float(np.mean([r.low <= 0.5 <= r.high for r in runs])),
    }


def _calibration(seed: int) -> dict[str, object]:
    rng = np.random.default_rng([seed, 41])
    shifts = [0.0, 0.2, 0.4, 0.8, 1.6]
    sets = [(rng.normal(size=(200, 8)), rng.normal(size=(200, 8)) + s) for s in shifts]
    modes = rng.normal(size=(6, 8)) * 8.0
    out: dict[str, object] = {
        "frechet, mean shift": _ladder(shifts, [distances.frechet_distance(a, b) for a, b in sets]),
        "kernel_gaussian, mean shift": _ladder(shifts, [distances.kernel_distance(a, b) for a, b in sets]),
        "kernel_polynomial, mean shift": _ladder(
            shifts, [distances.kernel_distance(a, b, "polynomial") for a, b in sets]
        ),
    }
    kept, real = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], modes[np.arange(180) % 6] + rng.normal(size=(180, 8))
    fakes = [modes[np.arange(180) % int(k)] + rng.normal(size=(180, 8)) for k in kept]
    out["coverage, modes kept"] = _ladder(kept, [distances.density_coverage(real, f).coverage for f in fakes])
    out["recall, modes kept"] = _ladder(kept, [distances.precision_recall(real, f).recall for f in fakes])
    out["vendi, modes kept"] = _ladder(kept, [distances.vendi_score(f, "gaussian", bandwidth=6.0) for f in fakes])
    noise = [0.0, 0.5, 1.0, 1.5, 2.0]
    blurred = [real[rng.permutation(180)] + n * rng.normal(size=(180, 8)) for n in noise]
    out["precision, noise added"] = _ladder(
        noise, [distances.precision_recall(real, f).precision for f in blurred], rising=False
    )
    out["density, noise added"] = _ladder(
        noise, [distances.density_coverage(real, f).density for f in blurred], rising=False
    )
    out["no difference, 16 dims: mean over 60 pairs"] = _null(rng)
    out["coverage_of_95%_intervals, kernel_gaussian"] = _kernel_coverage(rng)
    return out


def _null(rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """What equal laws read at several sizes: the bias of each distance."""
    out = {}
    for n in (20, 60, 200, 600):
        pairs = [(rng.normal(size=(n, 16)), rng.normal(size=(n, 16))) for _ in range(60 if n < 600 else 10)]
        out[str(n)] = {
            "frechet": float(np.mean([distances.frechet_distance(a, b) for a, b in pairs])),
            "frechet_shrunk": float(np.mean([distances.frechet_distance(a, b, shrink=True) for a, b in pairs])),
            "kernel_gaussian": float(np.mean([distances.kernel_distance(a, b, bandwidth=5.6) for a, b in pairs])),
        }
        if n >= 60:
            out[str(n)]["frechet_infinity"] = float(
                np.mean([distances.frechet_infinity(a, b, rng).value for a, b in pairs[:10]])
            )
    return out


def _kernel_coverage(rng: np.random.Generator) -> float:
    d, s, shift = 3, 1.5, 0.8
    truth = 2 * (s**2 / (s**2 + 2)) ** (d / 2) * (1 - np.exp(-d * shift**2 / (2 * (s**2 + 2))))
    inside = []
    for _ in range(200):
        rows = np.concatenate([rng.normal(size=(30, d)), rng.normal(size=(30, d)) + shift])
        side = np.arange(60) < 30
        estimate = jackknife(partial(_kernel_of_kept, rows, side, s), range(60), strata=side.tolist())
        inside.append(estimate.low <= truth <= estimate.high)
    return float(np.mean(inside))


def _kernel_of_kept(rows: np.ndarray, side: np.ndarray, bandwidth: float, keep: np.ndarray) -> float:
    return distances.kernel_distance(rows[keep & side], rows[keep & ~side], bandwidth=bandwidth)


def _through_codec(waveform: Waveform) -> Waveform:
    buffer = io.BytesIO()
    sf.write(buffer, waveform.samples.T, waveform.sample_rate, format="OGG", subtype="VORBIS")
    buffer.seek(0)
    data, rate = sf.read(buffer, dtype="float32", always_2d=True)
    return Waveform(np.ascontiguousarray(data.T), rate)


def _memorisation(seed: int) -> dict[str, object]:
    """5 s and more of training clips inside unseen ones, at other gains and keys, through Vorbis."""

    def kept(piece: int) -> ExcerptFeatures:
        return excerpt_features(extract_features(render(random_notes(piece, SECONDS), piece % 5)))

    base = 10_000 * seed
    training = [kept(base + i) for i in range(40)]
    held, fresh = [kept(base + 100 + i) for i in range(40)], [kept(base + 200 + i) for i in range(20)]
    honest = excerpt_memorisation(fresh, training, held)
    out: dict[str, object] = {
        "unseen": {
            "auc": honest.closeness.auc.value,
            "share_p<=.05": honest.closeness.share.value,
            "copied_share": honest.mean_copied_share.value,
        }
    }
    shares, read, aucs, right = [0.25, 0.5, 0.75, 0.9], [], [], []
    for share in shares:
        copies, sources = [], []
        for i in range(12):
            source = base + 3 * i
            target = render(random_notes(base + 300 + i, SECONDS), i % 5)
            excerpt = render(random_notes(source, SECONDS), source % 5, transpose=float(i % 5 - 2))
            spliced = splice(target, excerpt, 1.0, 0.61, share * SECONDS, 0.1 * (1 + i % 9))
            copies.append(excerpt_features(extract_features(_through_codec(spliced))))
            sources.append(3 * i)
        copied = excerpt_memorisation(copies, training, held)
        read.append(copied.mean_copied_share.value)
        aucs.append(copied.closeness.auc.value)
        right.append(float(np.mean(copied.closeness.nearest == np.array(sources))))
    out["copied share"] = {
        **_ladder([0.0, *shares], [honest.mean_copied_share.value, *read]),
        "auc": aucs,
        "right_training_clip": right,
    }
    out["clips"] = _clip_level(seed)
    return out


def _clip_level(seed: int) -> dict[str, object]:
    rng = np.random.default_rng([seed, 51])
    training, held, fresh = (rng.normal(size=(n, 16)) for n in (1000, 199, 200))
    shares, aucs, suspicious = [0.0, 0.25, 0.5, 0.75, 1.0], [], []
    for share in shares:
        rows, count = fresh.copy(), round(share * 200)
        rows[:count] = training[:count] + 0.05 * rng.normal(size=(count, 16))
        closeness = clip_memorisation(rows, training, held)
        aucs.append(closeness.auc.value)
        suspicious.append(closeness.share.value)
    return {"auc": _ladder(shares, aucs), "share_p<=.05": _ladder(shares, suspicious)}


def _speed(clips: int) -> dict[str, float]:
    """The coarse search, all transpositions, of one 30 s query among many 30 s training clips of noise features."""
    rng = np.random.default_rng(0)

    def random_clip() -> ExcerptFeatures:
        return ExcerptFeatures(rng.random((120, 12)).astype(np.float16), rng.random((750, 3)).astype(np.float16))

    training = [random_clip() for _ in range(clips)]
    kilobytes = sum(clip.chroma.nbytes + clip.flux.nbytes for clip in training) / 1024
    start = time.perf_counter()
    coarse_scores([random_clip() for _ in range(8)], training, range(12))
    seconds = time.perf_counter() - start
    return {
        "training_clips": clips,
        "kB_a_clip": kilobytes / clips,
        "s_a_query_a_1000_clips": seconds / 8 / clips * 1000,
    }


def check_sets(seed: int, done: Finished, quiet: bool = False) -> dict[str, object]:
    """Every part by name, those that are done already as they were."""
    parts: dict[str, Callable[[], dict[str, object]]] = {
        "boundary_alignment": lambda: _alignment(seed),
        "detail_diversity": lambda: _details(seed),
        "distance_icc": lambda: _differentiation(seed),
        "distances": lambda: _calibration(seed),
        "memorisation": lambda: _memorisation(seed),
        "speed": lambda: dict(_speed(1000)),
    }
    results: dict[str, object] = {"seed": seed}
    with Progress(len(parts), "sets", quiet=quiet) as bar:
        for name, part in parts.items():
            results[name] = done.get(f"sets {name}", part)
            bar.advance(note=name)
    return results
