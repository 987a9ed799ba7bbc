"""Calibrates the judge of flatness and writes its constants: ``python bench/calibrate_structure.py --help``.

    python bench/recordings.py --out rec            # and further sets of packages, see the result file
    python -m eisbach.studies.ground_truth.flat_cells --out fit --side train --seed 501 --clips 8 --developing 110 \
        --seconds 60
    python -m eisbach.studies.ground_truth.flat_cells --out test --side held_out --seed 502 --clips 5 --developing 80 \
        --seconds 60
    python bench/calibrate_structure.py --recorded rec/excerpts --rendered fit --rendered-test test --work judge

Material: recorded excerpts and, made of up to four of each hand, their twins (`studies.ground_truth.twins`); rendered
scores, every sixth with twins, and rendered flat cells. Two fifths of the clips are read back from MP3 at 22 kHz,
Vorbis or the embedded codec or lie under hiss of -40 to -60 dB; one reading in five has a fade in and out. Every clip
is read at 60 s, at 30 s and at 10 to 22 s. A *hand* is a composer, or an album where no composer is named. Hands that
the manifest holds out, packages named by ``--sealed`` and the scores of ``--rendered-test`` never touch the fit; the
calibration curve is fitted on hands that their own network did not see (five folds). Recordings of ambient and trance
are no evidence for 'none' and none against it: they are left out of the fit, and the report says what they are called.
Shuffles in pieces of 8 s are left out too, and reported.

Sound is read once: ``--work`` keeps mels and chroma of every clip, and a rerun only fits.
"""

from __future__ import annotations

import argparse
import json
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from eisbach.audio import read_audio, write_audio
from eisbach.data.manifest import ManifestRow, load_manifest
from eisbach.files import write_json
from eisbach.progress import Progress
from eisbach.statistics.effect_size import auc
from eisbach.structure.evidence import evidence, stretches
from eisbach.structure.features import CHROMA_RATE, FRAME_RATE, extract_features, one_thread
from eisbach.structure.flatness import FLAT_KINDS, calibrated, mean_probabilities
from eisbach.studies.ground_truth import synthetic
from eisbach.studies.ground_truth.synthetic_varied import varied_form, varied_loop
from eisbach.studies.ground_truth.twins import TWINS, fade_gain, through_file, with_hiss
from eisbach.types import Waveform

KINDS = ("none", *FLAT_KINDS)
CELLS = {  # rendered cells that hold no "loop" in their names
    "developing": "none", "drone": "still", "pad": "still", "LFO pad": "still", "shimmer": "still", "arpeggio": "loop",
    "AM noise": "texture", "granular": "texture", "rain": "texture", "texture cloud": "texture",
    "texture noise": "texture", "wind": "texture",
}  # fmt: skip
AMBIENT = ("dark ambient", "industrial ambient", "trance")
UNFITTED = "shuffle 8 s"
SHARE = {"none": 0.66, "still": 0.10, "loop": 0.12, "texture": 0.08, "shuffled": 0.04}
"""What each kind weighs in the fit."""
TOO_SHORT = {  # two cycles do not fit, or there are no three pieces
    "10 to 22 s": ("loop 5-12 s", "loop 6-12 s", "loop 12-16 s", "played loop 4-10 s", "noisy loop", "shuffle 3-5 s",
                   UNFITTED),
    "30 s": ("loop 12-16 s",),
}  # fmt: skip
SECONDS, LENGTHS = 60.0, {"60 s": 60.0, "30 s": 30.0, "10 to 22 s": None}
TWINS_A_HAND, CLIPS_A_HAND, RENDERED_TWINS = 4, 12, 6
HIDDEN, PENALTY, NETWORKS, FOLDS = 12, 3e-3, 3, 5


@dataclass(frozen=True)
class Clip:
    """A sound to be measured: where it comes from, what it is, and how it is made."""

    name: str
    row: ManifestRow
    path: Path
    package: str
    test: bool
    twins: bool


@dataclass(frozen=True)
class Reading:
    """The measures of one stretch of one clip."""

    cell: str
    kind: str
    hand: str
    style: str
    rendered: bool
    test: bool
    length: str
    faded: bool
    values: np.ndarray


def recorded_clips(folders: list[Path], sealed: list[str]) -> Iterator[Clip]:
    for folder in folders:
        manifest = load_manifest(folder, check_files=False)
        count: Counter[str] = Counter()
        for row in manifest:
            hand, package = row.labels["piece"], row.labels["package"]
            count[hand] += 1
            if count[hand] <= CLIPS_A_HAND:
                test = row.split == "held_out" or package in sealed
                path = manifest.audio_path(row)
                yield Clip(f"{package}-{row.id}", row, path, package, test, count[hand] <= TWINS_A_HAND)


def rendered_clips(folders: list[Path], test: bool) -> Iterator[Clip]:
    for folder in folders:
        for file in sorted(folder.glob("*/manifest.jsonl")):
            manifest = load_manifest(file, check_files=False)
            for number, row in enumerate(manifest):
                twins = row.labels.get("kind") == "developing" and number % RENDERED_TWINS == 0
                side = "test" if test else "fit"
                name = f"rendered-{side}-{file.parent.name}-{row.id}"
                yield Clip(name, row, manifest.audio_path(row), "rendered", test, twins)


def synthetic_clips(work: Path, seeds: int) -> Iterator[Clip]:
    """Pieces of `studies.ground_truth`'s two families, of which every third seed tests."""
    for seed in range(seeds):
        rng = np.random.default_rng([seed, 99])
        letters = ("ABCD", "ABCA", "ABAC", "ABCDE")[seed % 4]
        period = float(2.0 ** rng.uniform(0.0, 3.3))
        pieces = {
            "developing": synthetic.form(letters, SECONDS / len(letters), 1000 + seed),
            "developing, varied": varied_form(letters, SECONDS / len(letters), 1000 + seed),
            "drone": synthetic.drone(1000 + seed, SECONDS), "pad": synthetic.pad(1000 + seed, SECONDS),
            "texture noise": synthetic.noise(1000 + seed, SECONDS),
            "played loop": synthetic.loop(period, 1000 + seed, SECONDS),
            "played loop, varied": varied_loop(period, 1000 + seed, SECONDS),
        }  # fmt: skip
        for name, piece in pieces.items():
            path = work / f"synthetic-{seed}-{name}.flac"
            if not path.is_file():
                write_audio(path, piece)
            row = ManifestRow(id=path.stem, path=path.name, caption="", duration=SECONDS, audio_hash="0" * 64,
                              labels={"cell": name.removesuffix(", varied"), "piece": f"synthetic {seed}"})  # fmt: skip
            yield Clip(path.stem, row, path, "rendered", seed % 3 == 2, False)


def in_condition(sound: Waveform, rng: np.random.Generator, codec: Callable[[Waveform], Waveform]) -> Waveform:
    """Two fifths of the clips are heard through a file, the embedded codec or hiss."""
    if rng.random() > 0.4:
        return sound
    condition = str(rng.choice(["mp3", "ogg", "hiss", "codec"], p=[0.3, 0.3, 0.3, 0.1]))
    if condition == "mp3":
        return through_file(sound, "MP3", "MPEG_LAYER_III", 22050)
    if condition == "ogg":
        return through_file(sound, "OGG", "VORBIS")
    return codec(sound) if condition == "codec" else with_hiss(sound, -float(rng.uniform(40.0, 60.0)), rng)


def measure_sound(clip: Clip, work: Path, codec: Callable[[Waveform], Waveform]) -> None:
    """Mels and chroma of a clip and of its twins, one file each in `work`; what is there is kept."""
    done = work / f"{clip.name}.done"
    if done.is_file():
        return
    source = read_audio(clip.path, duration=SECONDS, mono=True)
    sounds: dict[str, Callable[[np.random.Generator], np.ndarray]] = {"as it is": lambda _: source.samples}
    if clip.twins:
        sounds |= {
            name: lambda rng, make=make: make(source.samples, int(source.sample_rate), rng)
            for name, (_, make) in TWINS.items()
        }
    for name, make in sounds.items():
        rng = np.random.default_rng(zlib.crc32(f"{clip.name} {name}".encode()))
        made = Waveform(np.ascontiguousarray(make(rng), dtype=np.float32), source.sample_rate)
        with one_thread():
            features = extract_features(in_condition(made, rng, codec))
        if features.duration:
            np.savez(work / f"{clip.name}.{name}.npz", mel=features.mel_db.astype(np.float16), chroma=features.chroma)
    done.touch()


def readings(clip: Clip, work: Path) -> Iterator[Reading]:
    """The evidence of a clip and of its twins, at every length."""
    labels = clip.row.labels
    cell = (labels.get("cell") or labels.get("kind") or "").removeprefix("unseen ")
    own = "none" if clip.package != "rendered" else CELLS.get(cell, "loop" if "loop" in cell else "")
    kinds = {"as it is": (cell or "recorded", own)} | {name: (name, kind) for name, (kind, _) in TWINS.items()}
    for name, (what, kind) in kinds.items():
        file = work / f"{clip.name}.{name}.npz"
        if not kind or not file.is_file():
            continue
        with np.load(file) as stored:
            mel, chroma = stored["mel"].astype(np.float32), stored["chroma"]
        for length, seconds in LENGTHS.items():
            if what in TOO_SHORT.get(length, ()):
                continue
            rng = np.random.default_rng(zlib.crc32(f"{clip.name} {name} {length}".encode()))
            part = cut(mel, chroma, seconds or float(rng.uniform(10.0, 22.0)), rng)
            faded = rng.random() < 0.2
            heard = faded_out(*part, rng) if faded else SimpleNamespace(steady_db=part[0], chroma=part[1])
            stretch = stretches(heard)  # type: ignore[arg-type]
            if stretch and (length != "60 s" or len(mel) > 35 * FRAME_RATE):
                with one_thread():
                    values = np.array(list(evidence(*stretch[0]).values()))
                style = labels.get("style", "rendered")
                yield Reading(what, kind, labels.get("piece", clip.row.audio_hash), style, clip.package == "rendered",
                              clip.test, length, faded, values)  # fmt: skip


def cut(mel: np.ndarray, chroma: np.ndarray, seconds: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A stretch of that length from anywhere."""
    frames = min(len(mel), round(seconds * FRAME_RATE))
    first = int(rng.integers(0, len(mel) - frames + 1)) // 25 * 25
    ratio = CHROMA_RATE / FRAME_RATE
    return mel[first : first + frames], chroma[int(first * ratio) : int((first + frames) * ratio)]


def faded_out(mel: np.ndarray, chroma: np.ndarray, rng: np.random.Generator) -> SimpleNamespace:
    """The same with a fade in, a fade out or both: what turning the volume does to mels in dB and to chroma."""
    seconds = len(mel) / FRAME_RATE
    rise = float(rng.uniform(2.0, min(12.0, 0.3 * seconds))) if rng.random() < 0.8 else 0.0
    fall = float(rng.uniform(3.0, min(20.0, 0.5 * seconds))) if rng.random() < 0.8 else 0.0
    shape = str(rng.choice(["linear", "cosine", "exponential"]))
    gain = np.maximum(fade_gain(seconds, FRAME_RATE, rise, fall, shape)[: len(mel)], 1e-5)
    mel = mel + (20.0 * np.log10(gain))[:, None].astype(np.float32)
    times = np.arange(len(chroma)) / CHROMA_RATE
    quieter = np.interp(times, np.arange(len(gain)) / FRAME_RATE, gain).astype(np.float32)
    return SimpleNamespace(steady_db=np.maximum(mel - mel.max(), -80.0), chroma=chroma * quieter[:, None])


def weights(rows: list[Reading]) -> np.ndarray:
    """Kinds weigh as `SHARE` says; within one, hands and cells with many clips weigh less a clip."""
    weight = np.zeros(len(rows))
    for kind, share in SHARE.items():
        members = [place for place, row in enumerate(rows) if row.kind == kind]
        hands = Counter((rows[place].hand, rows[place].cell) for place in members)
        own = {place: hands[rows[place].hand, rows[place].cell] ** -0.5 for place in members}
        cells: Counter[str] = Counter()
        for place in members:
            cells[rows[place].cell] += own[place]  # type: ignore[assignment]
        shares = np.array([own[place] * cells[rows[place].cell] ** -0.5 for place in members])
        weight[members] = share * shares / max(shares.sum(), 1e-12)
    return weight


def fit_network(inputs: np.ndarray, kinds: np.ndarray, weight: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """One network of `flatness.mean_probabilities`: weighted cross-entropy with an L2 penalty, by L-BFGS."""
    network = MLPClassifier((HIDDEN,), activation="tanh", solver="lbfgs", alpha=PENALTY * len(inputs), max_iter=400,
                            random_state=seed)  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # stopped early on purpose
        network.fit(inputs, kinds, sample_weight=weight * len(inputs) / weight.sum())
    (inward, outward), (hidden, bias) = network.coefs_, network.intercepts_
    return {"inward": inward, "hidden": hidden, "outward": outward, "bias": bias}


@dataclass(frozen=True)
class Model:
    """Standardisation and networks."""

    scaling: np.ndarray  # low, high, mean, scale [shape=(4, measures)]
    networks: list[dict[str, np.ndarray]]

    def __call__(self, rows: list[Reading]) -> np.ndarray:
        """Probabilities [shape=(rows, 5)], not yet calibrated."""
        low, high, mean, scale = self.scaling
        values = np.clip(np.array([row.values for row in rows]), low, high)
        return mean_probabilities(self.networks, np.nan_to_num((values - mean) / scale, nan=0.0))


def fitted(rows: list[Reading]) -> Model:
    values = np.array([row.values for row in rows])
    low, high = np.nanpercentile(values, [0.5, 99.5], axis=0)
    clipped = np.clip(values, low, high)
    scaling = np.stack([low, high, np.nanmean(clipped, axis=0), np.nanstd(clipped, axis=0) + 1e-6]).round(5)
    inputs = np.nan_to_num((clipped - scaling[2]) / scaling[3], nan=0.0)
    kinds = np.array([KINDS.index(row.kind) for row in rows])
    nets = [fit_network(inputs, kinds, weights(rows), seed) for seed in range(NETWORKS)]
    return Model(scaling, [{name: part.round(5) for name, part in net.items()} for net in nets])


def may_fit(row: Reading) -> bool:
    """Whether a reading is evidence of its kind."""
    return row.cell != UNFITTED and not (row.style in AMBIENT and row.kind == "none")


def cross_validated(rows: list[Reading]) -> np.ndarray:
    """Probabilities of every row by a model that saw no clip of its hand, [shape=(rows, 5)]."""
    fold = np.array([zlib.crc32(row.hand.encode()) % FOLDS for row in rows])
    heard = np.zeros((len(rows), len(KINDS)))
    for number in range(FOLDS):
        model = fitted([row for row, own in zip(rows, fold, strict=True) if own != number and may_fit(row)])
        heard[fold == number] = model([row for row, own in zip(rows, fold, strict=True) if own == number])
    return heard


def calibration_curve(heard: np.ndarray, rows: list[Reading]) -> tuple[float, float]:
    """Slope and bias of the logistic curve from said to true flatness, weighed as the fit."""
    said = np.clip(1.0 - heard[:, 0], 1e-6, 1 - 1e-6)
    odds, truth, weight = np.log(said / (1 - said)), np.array([row.kind != "none" for row in rows]), weights(rows)

    def loss(line: np.ndarray) -> float:
        logit = line[0] * odds + line[1]
        return float(np.sum(weight * (np.logaddexp(0.0, logit) - truth * logit)))

    slope, bias = minimize(loss, np.array([1.0, 0.0]), method="Nelder-Mead").x
    return round(float(slope), 4), round(float(bias), 4)


def report(rows: list[Reading], heard: np.ndarray) -> dict[str, Any]:
    """By length: what music is called, by style; AUC, hits and naming of every kind; and reliability."""
    flat, tables = 1.0 - heard[:, 0], {}
    for length in LENGTHS:
        table: dict[str, Any] = {"music": {}, "flat": {}}
        chosen = [place for place, row in enumerate(rows) if row.length == length]
        music = defaultdict(list)
        for place in chosen:
            if rows[place].kind == "none":
                music[rows[place].style].append(place)
        for style, places in sorted(music.items()):
            called = Counter(_called(heard[place]) for place in places)
            table["music"][style] = {
                "clips": len(places), "hands": len({rows[p].hand for p in places}),
                "called_flat": round(1 - called["none"] / len(places), 3),
                "mean_probability": round(float(flat[places].mean()), 3), "called": dict(sorted(called.items())),
            }  # fmt: skip
        for rendered in (False, True):
            real = [p for style, places in music.items() if style not in AMBIENT for p in places
                    if rows[p].rendered == rendered]  # fmt: skip
            for cell in sorted(
                {rows[p].cell for p in chosen if rows[p].kind != "none" and rows[p].rendered == rendered}
            ):
                own = [
                    p
                    for p in chosen
                    if rows[p].cell == cell and rows[p].rendered == rendered and rows[p].kind != "none"
                ]
                if real and own:
                    table["flat"][f"{'rendered' if rendered else 'recorded'}, {cell}"] = {
                        "kind": rows[own[0]].kind, "clips": len(own), "auc": round(auc(flat[own], flat[real]), 4),
                        "called_flat": round(float((flat[own] >= 0.5).mean()), 3),
                        "named": round(float(np.mean([_called(heard[p]) == rows[p].kind for p in own])), 3),
                    }  # fmt: skip
        table["reliability"] = reliability([rows[p] for p in chosen], flat[chosen])
        tables[length] = table
    return tables


def _called(kinds: np.ndarray) -> str:
    return "none" if kinds[0] > 0.5 else KINDS[1 + int(kinds[1:].argmax())]


def reliability(rows: list[Reading], flat: np.ndarray) -> list[dict[str, float]]:
    """Said and true share of flat clips in tenths of probability, kinds weighing as in the fit."""
    usable = np.array([may_fit(row) for row in rows])
    weight, truth = weights(rows) * usable, np.array([row.kind != "none" for row in rows])
    bins = np.minimum((10 * flat).astype(int), 9)
    return [
        {"from": number / 10, "clips": int(((bins == number) & usable).sum()),
         "said": round(float(np.average(flat[bins == number], weights=weight[bins == number])), 3),
         "true": round(float(np.average(truth[bins == number], weights=weight[bins == number])), 3)}
        for number in range(10) if weight[bins == number].sum() > 0
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recorded", type=Path, action="append", default=[], help="manifest of excerpts (repeatable)")
    parser.add_argument("--sealed", action="append", default=[], help="a package that only tests (repeatable)")
    parser.add_argument("--rendered", type=Path, action="append", default=[], help="folder of flat_cells, to fit")
    parser.add_argument("--rendered-test", type=Path, action="append", default=[], help="the same, to test")
    parser.add_argument("--synthetic", type=int, default=9, help="seeds of synthetic pieces")
    parser.add_argument("--clips", type=int, default=None, help="only so many clips, drawn from all by hash")
    parser.add_argument("--work", type=Path, required=True, help="keeps what was heard")
    parser.add_argument("--part", default="1/1", help="measure only this part of the clips, and do not fit: 1/2, 2/2")
    root = Path(__file__).parents[1]
    parser.add_argument("--out", type=Path, default=root / "src/eisbach/assets/structure/flatness.json")
    parser.add_argument("--report", type=Path, default=root / "bench/results/judge.json")
    args = parser.parse_args()
    clips = [*recorded_clips(args.recorded, args.sealed), *rendered_clips(args.rendered, False),
             *rendered_clips(args.rendered_test, True)]  # fmt: skip
    args.work.mkdir(parents=True, exist_ok=True)
    clips = sorted(clips, key=lambda clip: zlib.crc32(clip.name.encode()))[: args.clips]  # like all of them
    clips += synthetic_clips(args.work, args.synthetic)
    from eisbach.codecs import load_codec

    codec = load_codec("bands")
    part, parts = map(int, args.part.split("/"))
    with Progress(len(clips[part - 1 :: parts]), "listen") as bar:
        for clip in clips[part - 1 :: parts]:
            measure_sound(clip, args.work, lambda sound: codec.decode(codec.encode(sound))[0])
            bar.advance()
    if parts > 1:
        return
    conclude([row for clip in clips for row in readings(clip, args.work)], args.sealed, args.out, args.report)


def conclude(rows: list[Reading], sealed: list[str], out: Path, report_file: Path) -> None:
    """Fits, calibrates, tests and writes the judge and its report."""
    fit_rows, test_rows = [row for row in rows if not row.test], [row for row in rows if row.test]
    heard = cross_validated(fit_rows)
    usable = [place for place, row in enumerate(fit_rows) if may_fit(row)]
    slope, bias = calibration_curve(heard[usable], [fit_rows[place] for place in usable])
    model = fitted([row for row in fit_rows if may_fit(row)])
    write_judge(out, model, slope, bias)
    numbers = {
        "split": {
            "fitted_hands": sorted({row.hand for row in fit_rows if not row.rendered}),
            "tested_hands": sorted({row.hand for row in test_rows if not row.rendered}),
            "sealed_packages": sealed, "readings": {"fitted": len(fit_rows), "tested": len(test_rows)},
        },
        "calibration": {"slope": slope, "bias": bias},
        "held_out": report(test_rows, calibrated(model(test_rows), slope, bias)),
        "cross_validated": report(fit_rows, calibrated(heard, slope, bias)),
    }  # fmt: skip
    write_json(report_file, numbers)
    print(json.dumps(numbers["held_out"], indent=1))


def write_judge(out: Path, model: Model, slope: float, bias: float) -> None:
    """The asset that `flatness` reads."""
    silence = SimpleNamespace(steady_db=np.zeros((1000, 64), np.float32), chroma=np.ones((80, 12), np.float32))
    names = list(evidence(*stretches(silence)[0]))  # type: ignore[arg-type]
    measures = {name: column.tolist() for name, column in zip(names, model.scaling.T, strict=True)}
    networks = [{name: part.tolist() for name, part in net.items()} for net in model.networks]
    write_json(out, {"calibration": {"slope": slope, "bias": bias}, "measures": measures, "networks": networks})


if __name__ == "__main__":
    main()
