from __future__ import annotations

import math

import numpy as np
import pytest

from eisbach.structure import FLAT_KINDS, analyze, flat_kind, flat_probability, is_flat, kind_probabilities
from eisbach.structure.evidence import evidence, stretches
from eisbach.structure.features import extract_features
from eisbach.structure.flatness import calibrated, classify, judge
from eisbach.structure.loudness_meter import fade_lift
from eisbach.studies.ground_truth import synthetic
from eisbach.studies.ground_truth.synthetic_varied import varied_form
from eisbach.studies.ground_truth.twins import TWINS, fade_gain, looped, stretched_chord
from eisbach.types import Waveform

SECONDS = 30.0


@pytest.fixture(scope="module")
def music() -> Waveform:
    return varied_form("ABCDEF", 5.0, 4)


def faded(piece: Waveform, rise: float, fall: float, shape: str) -> Waveform:
    count = piece.samples.shape[1]
    gain = fade_gain(count / piece.sample_rate, piece.sample_rate, rise, fall, shape)[:count]
    return Waveform((piece.samples * gain).astype(np.float32), piece.sample_rate)


def test_the_judge_reads_every_measure_of_its_evidence(music):
    measured = [evidence(*stretch) for stretch in stretches(extract_features(music))]
    assert len(measured) == 1
    assert list(judge()["measures"]) == list(measured[0])
    assert not [name for name, value in measured[0].items() if not math.isfinite(value)]


@pytest.mark.parametrize("seed", [101, 102])
@pytest.mark.whole
def test_flat_and_developing_synthetic_pieces_are_told_apart(seed):
    assert not is_flat(extract_features(varied_form("ABCDEF", 5.0, seed)))
    pieces = {"still": synthetic.drone(seed, SECONDS), "texture": synthetic.noise(seed, SECONDS)}
    assert {kind: flat_kind(analyze(piece).kinds) for kind, piece in pieces.items()} == dict(
        zip(pieces, pieces, strict=True)
    )
    for period in (1.0, 2.7, 6.0):
        assert is_flat(extract_features(synthetic.loop(period, seed, SECONDS)))
    assert is_flat(extract_features(synthetic.pad(seed, SECONDS)))


@pytest.mark.parametrize("fade", [(5.0, 10.0, "linear"), (8.0, 15.0, "exponential"), (3.0, 4.0, "cosine")])
@pytest.mark.whole
def test_a_fade_hides_no_flatness_and_makes_none(music, fade):
    rng = np.random.default_rng(1)
    chord = Waveform(stretched_chord(music.samples, 22050, rng, most_glide=0.1), 22050)
    loop = Waveform(looped(music.samples, 22050, 4.0, 0.01, rng), 22050)
    for piece in (chord, loop, synthetic.drone(3, SECONDS), synthetic.loop(2.0, 3, SECONDS)):
        assert is_flat(extract_features(piece))
        assert is_flat(extract_features(faded(piece, *fade)))
    assert not is_flat(extract_features(faded(music, *fade)))


@pytest.mark.parametrize("fade", [(5.0, 10.0, "linear"), (0.0, 8.0, "exponential"), (3.0, 4.0, "cosine")])
def test_a_fade_is_no_development_for_any_metric(fade):
    piece = synthetic.loop(2.0, 5, SECONDS)
    plain, turned = analyze(piece), analyze(faded(piece, *fade))
    assert plain.features.steady_db is plain.features.mel_db
    assert turned.features.steady_db is not turned.features.mel_db
    for metric, tolerance in (("trajectory_coverage", 2.0), ("textural_vendi", 0.4), ("lag_similarity", 0.08),
                              ("block_strength", 0.06), ("loop_strength", 0.08)):  # fmt: skip
        assert abs(turned.metrics[metric] - plain.metrics[metric]) < tolerance, metric
    assert turned.metrics["level_range"] > plain.metrics["level_range"] + 3.0  # it is a change of level


def test_only_fades_are_undone():
    time = np.arange(1500) / 50.0
    steady = np.ones(1500)
    assert fade_lift(steady, 50.0) is None
    assert fade_lift(np.where((time < 3) | (time > 27), 1e-6, 1.0), 50.0) is None  # begins and breaks off
    assert fade_lift(10 ** (-0.9 * np.sin(time)), 50.0) is None  # swells by 18 dB, and ends as it may
    assert fade_lift(np.where(time < 20, 1.0, 0.05), 50.0) is None  # a soft coda
    linear = np.clip((30.0 - time) / 10.0, 0.001, 1.0) ** 2
    lift = fade_lift(linear, 50.0)
    assert lift is not None
    assert lift[:900].max() == 0.0
    middle = (time > 23) & (time < 29)
    assert np.ptp(10 * np.log10(linear[middle]) + lift[middle]) < 1.0
    assert fade_lift(linear[::-1], 50.0) == pytest.approx(lift[::-1])


def test_probabilities_add_up_and_short_clips_and_silence_have_their_own(music):
    kinds = kind_probabilities(extract_features(music))
    assert set(kinds) == {"none", *FLAT_KINDS}
    assert sum(kinds.values()) == pytest.approx(1.0)
    short = extract_features(Waveform(music.samples[:, : 5 * 22050], 22050))
    assert math.isnan(flat_probability(short))
    assert not is_flat(short)
    assert flat_kind(kind_probabilities(short)) == ""
    silence = analyze(Waveform(np.zeros((1, 20 * 22050), np.float32), 22050))
    assert silence.record()["flat_still"] == 1.0
    assert flat_kind(silence.kinds) == "still"
    record = analyze(music).record()
    assert record["flat_probability"] == pytest.approx(sum(float(record[f"flat_{kind}"]) for kind in FLAT_KINDS))


def test_undefined_measures_are_no_evidence_and_wild_ones_count_as_the_range(music):
    measures = evidence(*stretches(extract_features(music))[0])
    mean = {name: column[2] for name, column in judge()["measures"].items()}
    undefined = {**measures, "order_even": float("nan")}
    assert classify(undefined) == pytest.approx(classify({**measures, "order_even": mean["order_even"]}))
    wild = dict.fromkeys(measures, 1000000000.0)
    at_the_end = {name: column[1] for name, column in judge()["measures"].items()}
    assert classify(wild) == pytest.approx(classify(at_the_end))


def test_a_long_clip_is_judged_minute_by_minute(music):
    minute = Waveform(np.tile(music.samples, (1, 2)), 22050)
    drone = synthetic.drone(7, 60.0)
    both = Waveform(np.concatenate([minute.samples, drone.samples], axis=1), 22050)
    assert len(stretches(extract_features(both))) == 2
    halves = [flat_probability(extract_features(part)) for part in (minute, drone)]
    assert flat_probability(extract_features(both)) == pytest.approx(np.mean(halves), abs=0.12)


def test_gain_and_rate_say_nothing_about_flatness(music):
    said = flat_probability(extract_features(music))
    softer = Waveform(music.samples * np.float32(0.01), 22050)
    assert flat_probability(extract_features(softer)) == pytest.approx(said, abs=0.02)


def test_calibration_keeps_the_proportions_of_what_is_flat():
    kinds = np.array([[0.4, 0.3, 0.2, 0.1, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0]])
    said = calibrated(kinds, 2.0, 0.0)
    assert said.sum(axis=1) == pytest.approx([1.0, 1.0], abs=1e-5)
    assert said[0, 1:4] / said[0, 3] == pytest.approx([3.0, 2.0, 1.0])
    assert said[0, 0] == pytest.approx(0.16 / (0.16 + 0.36))


@pytest.mark.parametrize(
    "name", [name if count < 3 else pytest.param(name, marks=pytest.mark.slow) for count, name in enumerate(TWINS)]
)
@pytest.mark.whole
def test_twins_are_of_their_recordings_length_and_sound(music, name):
    kind, make = TWINS[name]
    assert kind in FLAT_KINDS
    twin = make(music.samples, 22050, np.random.default_rng(2))
    assert twin.dtype == np.float32
    assert twin.shape == music.samples.shape
    assert np.array_equal(twin, make(music.samples, 22050, np.random.default_rng(2)))
    if kind == "shuffled":  # the same samples but for the fades at the joints
        assert np.sort(np.abs(twin[0])) == pytest.approx(np.sort(np.abs(music.samples[0])), abs=0.1)
        assert not np.array_equal(twin, music.samples)
