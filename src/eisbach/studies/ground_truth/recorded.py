r"""Ladders, invariances and the judge's fades once more, on pieces made of recordings, where the truth is made too.

    python -m eisbach.studies.ground_truth.recorded --recordings rec/excerpts \
        --out bench/results/recorded_structure.json

Passages of different recordings, all of one level, are joined, repeated, alternated, faded in volume and mixed, so that
it is known what a metric has to read. `--recordings` takes manifests of excerpts as ``bench/recordings.py`` makes them;
of every hand (label ``piece``) the first excerpt is used.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy.signal

from eisbach.audio import read_audio, resample
from eisbach.data.manifest import load_manifest
from eisbach.files import read_json, write_json
from eisbach.structure import METRICS, analyze
from eisbach.structure.features import extract_features
from eisbach.structure.flatness import kind_probabilities
from eisbach.structure.metrics import measure
from eisbach.studies.ground_truth.invariances import variants
from eisbach.studies.ground_truth.ladders import Ladder, climb
from eisbach.studies.ground_truth.synthetic import SAMPLE_RATE
from eisbach.studies.ground_truth.synthetic_varied import shuffle_pieces
from eisbach.studies.ground_truth.twins import fade_gain, looped, stretched_chord, through_file, with_hiss
from eisbach.types import Waveform

Sources = Sequence[np.ndarray]
"""Recordings at 22.05 kHz, mono, [shape=(n,), float32] each."""
_RMS = 0.1


def _read_sources(manifests: Sequence[Path], most: int, seconds: float = 60.0) -> list[np.ndarray]:
    """The first excerpt of every hand, at most `most` of them, evenly spread over all."""
    rows: dict[str, Path] = {}
    for path in manifests:
        manifest = load_manifest(path, check_files=False)
        for row in manifest:
            rows.setdefault(row.labels.get("piece", row.id), manifest.audio_path(row))
    paths = list(rows.values())
    chosen = [paths[int(place)] for place in np.linspace(0, len(paths) - 1, min(most, len(paths)))]
    return [resample(read_audio(path, duration=seconds, mono=True), SAMPLE_RATE).samples[0] for path in chosen]


def passage(sources: Sources, seed: int, number: int, seconds: float) -> np.ndarray:
    """Passage `number` of a piece: the loudest of four stretches of a recording of its own, at the common level, faded
    over 10 ms at both ends."""
    source = sources[(seed + number) % len(sources)]
    rng = np.random.default_rng([seed, number, 17])
    length = min(round(seconds * SAMPLE_RATE), len(source))
    starts = rng.integers(0, len(source) - length + 1, 4)
    first = max(starts, key=lambda start: float(np.square(source[start : start + length]).sum()))
    part = _at_level(source[first : first + length].astype(np.float64))
    return part * fade_gain(len(part) / SAMPLE_RATE, SAMPLE_RATE, 0.01, 0.01, "linear")[: len(part)]


def _at_level(samples: np.ndarray) -> np.ndarray:
    return samples * (_RMS / max(float(np.sqrt(np.mean(samples**2))), 1e-9))


def _wave(samples: np.ndarray) -> Waveform:
    top = max(float(np.abs(samples).max()), 1e-9)
    return Waveform((samples * min(1.0, 0.9 / top)).astype(np.float32)[None], SAMPLE_RATE)


def form(sources: Sources, letters: str, seconds: float, seed: int) -> Waveform:
    """Sections by letter; equal letters are equal sound."""
    return _wave(np.concatenate([passage(sources, seed, ord(letter) - 65, seconds) for letter in letters]))


def _tiled(sources: Sources, seed: int, period: float, duration: float) -> np.ndarray:
    cycle = passage(sources, seed, 0, period)
    return np.tile(cycle, -(-round(duration * SAMPLE_RATE) // len(cycle)))[: round(duration * SAMPLE_RATE)]


def _crescendo(sources: Sources, decibels: float, seed: int) -> Waveform:
    """A passage of 2 s again and again, of which only the level rises."""
    sound = _tiled(sources, seed, 2.0, 40.0)
    return _wave(sound * 10 ** (np.linspace(-decibels, 0.0, len(sound)) / 20))


def _alternating_levels(sources: Sources, decibels: float, seed: int) -> Waveform:
    sound = _tiled(sources, seed, 2.0, 60.0)
    loud = (np.arange(len(sound)) // (10 * SAMPLE_RATE)) % 2
    return _wave(sound * 10 ** (-decibels * loud / 20))


def _onsets(sources: Sources, rate: float, seed: int) -> Waveform:
    """The strongest attack of a recording, 0.1 s of it, `rate` times a second."""
    sound = passage(sources, seed, 0, 20.0)
    power = np.square(sound[: len(sound) // 441 * 441]).reshape(-1, 441).sum(axis=1)
    first = int(np.argmax(np.diff(power[:-12]))) * 441
    hit = sound[first : first + SAMPLE_RATE // 10] * np.linspace(1.0, 0.0, SAMPLE_RATE // 10) ** 2
    out = np.zeros(24 * SAMPLE_RATE)
    for place in np.arange(0.2, 23.5, 1.0 / rate):
        start = int(place * SAMPLE_RATE)
        out[start : start + len(hit)] += hit
    return _wave(out)


def _tilted(sources: Sources, decibels: float, seconds: float, seed: int) -> Waveform:
    """A passage of 2 s again and again; in every second section its treble lies `decibels` lower."""
    sound = _tiled(sources, seed, 2.0, 6 * seconds)
    low = scipy.signal.sosfilt(scipy.signal.butter(2, 800.0, fs=SAMPLE_RATE, output="sos"), sound)
    dark = low + (sound - low) * 10 ** (-decibels / 20)
    second = (np.arange(len(sound)) // round(seconds * SAMPLE_RATE)) % 2
    return _wave(np.where(second == 1, dark, sound))


def _blocks(sources: Sources, seconds: float, seed: int) -> Waveform:
    return form(sources, ("AB" * 20)[: max(4, round(80.0 / seconds))], seconds, seed)


def _states(sources: Sources, count: float, seed: int) -> Waveform:
    letters = [chr(65 + place % int(count)) for place in range(16)]
    return form(sources, "".join(letters), 4.0, seed)


def _share_repeated(sources: Sources, share: float, seed: int) -> Waveform:
    """Eight passages of 7 s, of which `share` are heard twice."""
    pairs = round(share * 4)
    return form(sources, "ABCD"[:pairs] + "ABCD"[:pairs] + "EFGHIJKL"[: 8 - 2 * pairs], 7.37, seed)


def _one_repeat(sources: Sources, seconds: float, seed: int) -> Waveform:
    parts = [passage(sources, seed, 1, 12.0), passage(sources, seed, 2, 11.0), passage(sources, seed, 3, 13.0)]
    again = [passage(sources, seed, 0, seconds)] if seconds else []
    return _wave(np.concatenate([*again, parts[0], parts[1], *again, parts[2]]))


def _refrains(sources: Sources, times: float, seconds: float, seed: int) -> Waveform:
    """Six sections, of which `times` are one refrain."""
    letters = list("BCDEFG")
    for place in range(int(times)):
        letters[place if times == 6 else (2 * place) % 5 if place < 3 else 2 * place - 5] = "A"
    return form(sources, "".join(letters), seconds, seed)


def _loop_share(sources: Sources, share: float, seed: int) -> Waveform:
    """The first `share` of a minute is one passage of 4 s, the rest the recording as it is."""
    turn = round(share * 60.0 * SAMPLE_RATE)
    music = _at_level(sources[seed % len(sources)].astype(np.float64))
    return _wave(np.concatenate([_tiled(sources, seed, 4.0, 60.0)[:turn], music[turn:]]))


def _departing_loop(sources: Sources, decibels: float, seed: int) -> Waveform:
    """A loop of 4 s under the recording it comes from, which lies `decibels` lower."""
    loop, music = _tiled(sources, seed, 4.0, 48.0), _at_level(sources[seed % len(sources)].astype(np.float64))
    length = min(len(loop), len(music))
    return _wave(loop[:length] + 10 ** (-decibels / 20) * music[:length])


def _noisy(sources: Sources, decibels: float, seed: int) -> Waveform:
    sound = passage(sources, seed, 0, 20.0)
    return _wave(sound + _at_level(np.random.default_rng(seed).standard_normal(len(sound))) * 10 ** (decibels / 20))


def _closing(sources: Sources, share: float, seed: int) -> Waveform:
    """Six passages of 8 s; the last is `share` of the first in amplitude, and for the rest new."""
    parts = [passage(sources, seed, place, 8.0) for place in range(6)]
    parts[-1] = _at_level(share * parts[0] + (1.0 - share) * parts[-1])
    return _wave(np.concatenate(parts))


def ladders(sources: Sources) -> dict[str, Ladder]:
    """Metric → a ladder of pieces made of these recordings, `seed` choosing which."""

    def ladder(quantity: str, values: tuple[float, ...], make: Callable[..., Waveform], rising: bool = True) -> Ladder:
        return Ladder(quantity, values, partial(make, sources), rising)

    steps = (0.0, 3.0, 6.0, 9.0, 12.0, 18.0)
    refrains = {
        name: Ladder(f"how often one of six passages of {seconds:g} s is heard", (1.0, 2.0, 3.0, 4.0, 6.0),
                     lambda times, seed, seconds=seconds: _refrains(sources, times, seconds, seed))  # type: ignore[misc]
        for name, seconds in (("short", 6.37), ("mid", 11.37), ("long", 17.37))
    }  # fmt: skip
    return {
        "block_strength": Ladder("drop of the treble in every second 6 s, dB", steps,
                                 lambda value, seed: _tilted(sources, value, 6.0, seed)),
        "block_scale": ladder("length of alternating passages, s", (4.0, 6.0, 8.0, 12.0, 16.0), _blocks),
        "section_contrast": Ladder("drop of the treble in every second 10 s, dB", steps,
                                   lambda value, seed: _tilted(sources, value, 10.0, seed)),
        "continuation": Ladder(
            "length of the pieces in which a form was shuffled, s; 60 leaves it whole", (2.0, 4.0, 8.0, 60.0),
            lambda value, seed: _wave(shuffle_pieces(form(sources, "ABACABAC", 7.3, seed).samples, value, SAMPLE_RATE,
                                                     seed)[0])),
        "textural_vendi": ladder("number of recordings that take turns", (1.0, 2.0, 4.0, 8.0, 16.0), _states),
        "motif_coverage": ladder("share of the passages heard twice", (0.0, 0.25, 0.5, 0.75, 1.0), _share_repeated),
        **{f"structureness_{name}": made for name, made in refrains.items()},
        "longest_repeat": ladder("seconds of the one passage heard twice", (0.0, 4.0, 8.0, 12.0, 16.0), _one_repeat),
        "level_range": ladder("rise of a crescendo, dB", (6.0, 12.0, 20.0, 30.0, 40.0), _crescendo),
        "flux_gini": ladder("attacks a second", (0.5, 1.0, 2.0, 4.0, 8.0), _onsets, False),
        "closure": ladder("share of the first passage in the last", (0.0, 0.25, 0.5, 0.75, 1.0), _closing, False),
        "lag_similarity": ladder("how far the music lies under its loop, dB", (-12.0, -6.0, 0.0, 6.0, 12.0, 24.0),
                                 _departing_loop),
        "loop_strength": ladder("share of a minute that loops", (0.0, 0.25, 0.5, 0.75, 1.0), _loop_share),
        "spectral_contrast": ladder("level of noise, dB", (20.0, 10.0, 0.0, -10.0, -20.0, -30.0), _noisy, False),
        "trajectory_coverage": ladder("number of recordings that take turns", (1.0, 2.0, 4.0, 8.0), _states),
        "loudness_range": ladder("distance of two levels, dB", (0.0, 3.0, 6.0, 10.0, 15.0), _alternating_levels),
    }  # fmt: skip


def conditions(piece: Waveform, seed: int) -> Iterator[tuple[str, Waveform]]:
    """Those of `invariances.variants`, and what recordings meet besides."""
    yield from variants(piece, seed)
    yield "mp3 at 22 kHz", through_file(piece, "MP3", "MPEG_LAYER_III", 22050)
    yield "opus", through_file(piece, "OGG", "OPUS", 48000)
    yield "offset", Waveform((piece.samples * 0.8 + 0.1).astype(np.float32), piece.sample_rate)
    rest = np.zeros((1, 2 * SAMPLE_RATE), np.float32)
    yield "silence around", Waveform(np.concatenate([rest, piece.samples, rest], axis=1), piece.sample_rate)


_DECLARED_AS = {"mp3 at 22 kHz": "codec", "opus": "codec", "offset": "gain", "silence around": "gain"}


def _check_conditions(pieces: Sequence[Waveform]) -> dict[str, Any]:
    """By condition and metric: the largest and the median change, and how many pieces break what the metric declares
    (``codec`` for every lossy file, ``gain`` for an offset and for silence around); and the largest change of the
    judge's probability of flatness."""
    changes: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for seed, piece in enumerate(pieces):
        features = extract_features(piece)
        before = measure(features) | {"flat": 1.0 - kind_probabilities(features)["none"]}
        for name, changed in conditions(piece, seed):
            features = extract_features(changed)
            after = measure(features) | {"flat": 1.0 - kind_probabilities(features)["none"]}
            for metric, value in after.items():
                changes.setdefault(name, {}).setdefault(metric, []).append((before[metric], value))
    return {
        condition: {
            metric: _change(metric, _DECLARED_AS.get(condition, condition), pairs) for metric, pairs in metrics.items()
        }
        for condition, metrics in changes.items()
    }


def _change(metric: str, condition: str, pairs: list[tuple[float, float]]) -> dict[str, float | int | None]:
    moved = np.array([abs(after - before) for before, after in pairs])
    known = moved[~np.isnan(moved)]
    declared = METRICS[metric].invariances if metric in METRICS else None
    return {
        "largest": round(float(known.max()), 4) if len(known) else None,
        "median": round(float(np.median(known)), 4) if len(known) else None,
        "pieces": len(pairs),
        "declared": declared.tolerance(condition) if declared else None,
        "broken": sum(not declared.holds(condition, *pair) for pair in pairs) if declared else 0,
    }


_FADES = ((0.0, 0.0, "linear"), (5.0, 10.0, "linear"), (8.0, 15.0, "linear"), (5.0, 10.0, "cosine"),
          (8.0, 15.0, "exponential"))  # fmt: skip


def _check_fades(sources: Sources) -> dict[str, Any]:
    """Share of held chords and of loops of 4 s called flat, and the least probability, with and without fades; and what
    the same fades do to the recordings themselves."""
    report: dict[str, Any] = {}
    for rise, fall, shape in _FADES:
        name = f"{rise:g} s in, {fall:g} s out, {shape}" if fall else "no fade"
        flat: dict[str, list[float]] = {"held chord": [], "loop of 4 s": [], "as recorded": []}
        coverage = []
        for seed, source in enumerate(sources):
            rng, samples = np.random.default_rng([seed, 23]), source[None]
            made = {"held chord": stretched_chord(samples, SAMPLE_RATE, rng), "as recorded": samples,
                    "loop of 4 s": looped(samples, SAMPLE_RATE, 4.0, 0.01, rng)}  # fmt: skip
            gain = fade_gain(samples.shape[1] / SAMPLE_RATE, SAMPLE_RATE, rise, fall, shape)[: samples.shape[1]]
            for what, sound in made.items():
                analysis = analyze(Waveform((sound * gain).astype(np.float32), SAMPLE_RATE))
                flat[what].append(analysis.flat_probability)
                if what == "held chord":
                    coverage.append(analysis.metrics["trajectory_coverage"])
        report[name] = {
            what: {"called_flat": round(float(np.mean(np.array(values) >= 0.5)), 3),
                   "least": round(float(np.min(values)), 3), "median": round(float(np.median(values)), 3)}
            for what, values in flat.items()
        } | {"trajectory_coverage_of_held_chords": round(float(np.median(coverage)), 2)}  # fmt: skip
    return report


def check_odd_files(source: np.ndarray) -> dict[str, list[str]]:
    """Flags of files that are odd and whole, and of sounds too short for most metrics."""
    import soundfile as sf

    flags = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.wav"
        for name, subtype, edit in (
            ("length unknown", "PCM_16", lambda content: content[:4] + b"\xff" * 4 + content[8:]),
            ("ADPCM with a wrong byte rate", "IMA_ADPCM", lambda content: content[:28] + b"\x80>\0\0" + content[32:]),
            ("a byte too many", "PCM_16", lambda content: content + b"\0"),
        ):
            sf.write(path, source[: 10 * SAMPLE_RATE], SAMPLE_RATE, subtype=subtype)
            path.write_bytes(edit(path.read_bytes()))
            flags[name] = _told(analyze(path).flags)
        for form_, subtype in (("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("WAV", "IMA_ADPCM")):
            effect = Waveform(source[None, : SAMPLE_RATE // 2], SAMPLE_RATE)
            sent = resample(effect, 48000)
            sf.write(path.with_suffix(".x"), sent.samples.T, 48000, format=form_, subtype=subtype)
            flags[f"half a second, {subtype}"] = _told(analyze(path.with_suffix(".x")).flags)
    silence = Waveform(np.zeros((1, 10 * SAMPLE_RATE), np.float32), SAMPLE_RATE)
    return flags | {"silence": _told(analyze(silence).flags)}


def _told(flags: list[str]) -> list[str]:
    return [flag for flag in flags if not flag.startswith("undefined")]


def _check_dry(sources: Sources) -> dict[str, float]:
    """Largest change of every metric under hiss at -50 dB, on forms that are silent every other quarter of a second."""
    moved: dict[str, float] = {}
    for seed in range(min(6, len(sources))):
        piece = form(sources, "ABCDEF", 6.0, seed).samples[0]
        gate = np.clip(0.5 + 10.0 * np.sin(4.0 * np.pi * np.arange(len(piece)) / SAMPLE_RATE), 0.0, 1.0)
        dry = _wave(piece * gate)
        before = measure(extract_features(dry))
        after = measure(extract_features(with_hiss(dry, -50.0, np.random.default_rng(seed))))
        for name in METRICS:
            moved[name] = max(moved.get(name, 0.0), round(abs(after[name] - before[name]), 3))
    return moved


def main() -> None:
    """Reads the command line and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=Path, action="append", required=True, help="manifest (repeatable)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS), help="others stay as they are")
    parser.add_argument("--seeds", type=int, default=4, help="pieces a rung of every ladder")
    parser.add_argument("--pieces", type=int, default=8, help="pieces under every condition and every fade")
    parser.add_argument(
        "--sources", type=int, default=24, help="recordings that the pieces are made of, of as many hands"
    )
    args = parser.parse_args()
    sources = _read_sources(args.recordings, args.sources)
    report = read_json(args.out, "report") if args.out.is_file() else {}
    for part in args.parts:
        report[part] = PARTS[part](sources, args.seeds, args.pieces)
        write_json(args.out, report)


def _climbed(sources: Sources, seeds: int, _: int) -> dict[str, Any]:
    made = ladders(sources)
    return {name: {"quantity": made[name].quantity, **climb(METRICS[name], made[name], seeds)} for name in made}


def _forms(sources: Sources, pieces: int) -> list[Waveform]:
    return [form(sources, ("ABCA", "AABA", "ABCD")[seed % 3], 12.0, 3 * seed) for seed in range(pieces)]


PARTS: dict[str, Callable[[Sources, int, int], dict[str, Any]]] = {
    "ladders": _climbed,
    "conditions": lambda sources, _, pieces: _check_conditions(_forms(sources, pieces)),
    "fades": lambda sources, _, pieces: _check_fades(sources[:pieces]),
    "odd_files": lambda sources, *_: check_odd_files(sources[0]),
    "dry_under_hiss": lambda sources, *_: _check_dry(sources),
}


if __name__ == "__main__":
    main()
