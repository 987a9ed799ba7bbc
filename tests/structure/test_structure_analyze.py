from __future__ import annotations

import numpy as np
import pytest

from eisbach.structure import METRICS, analyze
from eisbach.structure.analyze import RECORD_COLUMNS
from eisbach.studies.ground_truth import synthetic
from eisbach.types import Waveform


def sound(samples, rate=22050):
    return Waveform(np.atleast_2d(np.asarray(samples, dtype=np.float32)), rate)


def test_silence_has_no_metrics_and_says_so():
    analysis = analyze(sound(np.zeros(22050 * 15)))
    assert "silent" in analysis.flags
    assert all(np.isnan(value) for value in analysis.metrics.values())
    assert analysis.flat_probability == 1.0
    assert analysis.record()["is_flat"] is True
    assert analysis.record()["block_strength"] is None


@pytest.mark.parametrize("samples", [1, 2, 400, 1024, 22050, 22050 * 3, 22050 * 9])
def test_short_clips_get_no_number_without_a_flag(samples):
    rng = np.random.default_rng(samples)
    analysis = analyze(sound(0.3 * rng.standard_normal(samples)))
    assert "too_short" in analysis.flags
    for name, value in analysis.metrics.items():
        short = analysis.features.duration < METRICS[name].min_seconds
        assert not short or np.isnan(value)
        assert np.isnan(value) == (f"undefined:{name}" in analysis.flags)


@pytest.mark.parametrize("extra", [0.0, 0.02, 0.3])
@pytest.mark.whole
def test_metrics_are_defined_from_their_shortest_length_on(extra):
    for name, metric in METRICS.items():
        piece = synthetic.form("ABAC", (metric.min_seconds + extra + 0.02) / 4, 3)
        value = analyze(piece).metrics[name]
        assert np.isfinite(value), name
        assert metric.range[0] <= value <= metric.range[1]


def test_narrow_band_is_flagged_and_bandwidth_reported():
    rng = np.random.default_rng(0)
    narrow = analyze(sound(0.2 * rng.standard_normal(8000 * 15), 8000))
    assert "narrow_band" in narrow.flags
    assert narrow.conditions["bandwidth_hz"] <= 4300
    wide = analyze(sound(0.2 * rng.standard_normal(22050 * 15)))
    assert "narrow_band" not in wide.flags
    assert wide.conditions["bandwidth_hz"] > 10_000


def test_clipping_is_flagged_and_a_loud_clip_is_not():
    rng = np.random.default_rng(0)
    time = np.arange(22050 * 14) / 22050
    wave = np.sin(2 * np.pi * 220.3 * time) * (1 + 0.1 * rng.standard_normal(len(time)))
    assert "clipped" in analyze(sound(np.clip(3 * wave, -1, 1))).flags
    assert "clipped" not in analyze(sound(wave / np.abs(wave).max())).flags


def test_noise_floor_follows_the_hiss():
    piece = synthetic.onsets(1.0, 3)
    rng = np.random.default_rng(0)
    floors = []
    for hiss_db in (-60, -40, -20):
        hiss = rng.standard_normal(piece.samples.shape) * 10 ** (hiss_db / 20)
        floors.append(analyze(sound(piece.samples + hiss)).conditions["noise_floor_db"])
    assert floors[0] < floors[1] - 10 < floors[2] - 20


def test_many_channels_and_high_rates():
    rng = np.random.default_rng(0)
    six = Waveform((0.1 * rng.standard_normal((6, 192000 * 3))).astype(np.float32), 192000)
    analysis = analyze(six)
    assert analysis.conditions["channels"] == 6
    assert np.isfinite(analysis.metrics["level_range"])


def test_a_record_has_exactly_the_declared_columns_and_no_nan():
    record = analyze(synthetic.drone(1, 14.0)).record()
    assert tuple(record) == RECORD_COLUMNS
    assert all(not (isinstance(v, float) and np.isnan(v)) for v in record.values())


def test_the_same_clip_gives_the_same_numbers_twice():
    piece = synthetic.form("ABA", 5.0, 8)
    assert analyze(piece).record() == analyze(piece).record()
