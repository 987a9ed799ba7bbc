"""Closed-form cases: the tones of EBU Tech 3341 and 3342, made here, and the printed coefficients of BS.1770-4."""

from __future__ import annotations

import numpy as np
import pytest

from eisbach.structure import METRICS
from eisbach.structure.features import extract_features
from eisbach.structure.loudness_meter import LoudnessMeter, integrated_loudness, k_weighting, loudness_range_of
from eisbach.types import Waveform


def tones(levels_and_seconds, rate=48000, channels=2, hz=1000.0):
    parts = []
    for level, seconds in levels_and_seconds:
        time = np.arange(round(seconds * rate)) / rate
        parts.append(10 ** (level / 20) * np.sin(2 * np.pi * hz * time))
    return np.tile(np.concatenate(parts).astype(np.float32), (channels, 1))


def measured(samples, rate=48000, step=70_001):
    meter = LoudnessMeter(rate, len(samples))
    for first in range(0, samples.shape[1], step):
        meter.push(samples[:, first : first + step])
    return meter.finish()


def test_coefficients_are_those_of_the_recommendation():
    expected = [
        [1.53512485958697, -2.69169618940638, 1.19839281085285, 1.0, -1.69065929318241, 0.73248077421585],
        [1.0, -2.0, 1.0, 1.0, -1.99004745483398, 0.99007225036621],
    ]
    np.testing.assert_allclose(k_weighting(48000), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("levels", "lufs"),
    [
        ([(-23, 20)], -23.0),
        ([(-33, 20)], -33.0),
        ([(-36, 10), (-23, 60), (-36, 10)], -23.0),
        ([(-72, 10), (-36, 10), (-23, 60), (-36, 10), (-72, 10)], -23.0),
        ([(-26, 20), (-20, 20.1), (-26, 20)], -23.0),
    ],
)
def test_integrated_loudness_of_tech_3341(levels, lufs):
    assert integrated_loudness(measured(tones(levels, rate=16000), 16000)) == pytest.approx(lufs, abs=0.1)


@pytest.mark.parametrize(
    ("levels", "range_lu"),
    [
        ([(-20, 20), (-30, 20)], 10.0),
        ([(-20, 20), (-15, 20)], 5.0),
        ([(-40, 20), (-20, 20)], 20.0),
        ([(-50, 20), (-35, 20), (-20, 20), (-35, 20), (-50, 20)], 15.0),
    ],
)
def test_loudness_range_of_tech_3342(levels, range_lu):
    assert loudness_range_of(measured(tones(levels, rate=16000), 16000)) == pytest.approx(range_lu, abs=0.1)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 96000])
def test_a_tone_reads_the_same_at_every_rate_and_block(rate):
    samples = tones([(-23, 4)], rate)
    whole, pieces = measured(samples, rate, 10**9), measured(samples, rate, 997)
    np.testing.assert_allclose(pieces, whole, rtol=1e-9)
    assert len(whole) == 40
    assert integrated_loudness(whole) == pytest.approx(-23.0, abs=0.1)


def test_channels_add_as_powers_and_surround_counts_more():
    mono, stereo = (integrated_loudness(measured(tones([(-23, 3)], channels=n))) for n in (1, 2))
    assert stereo - mono == pytest.approx(3.01, abs=0.01)
    six = np.zeros((6, 48000 * 2), np.float32)
    front, low, rear = six.copy(), six.copy(), six.copy()
    front[0] = low[3] = rear[4] = tones([(-23, 2)], channels=1)[0]
    assert integrated_loudness(measured(rear)) - integrated_loudness(measured(front)) == pytest.approx(1.49, abs=0.01)
    assert np.isnan(integrated_loudness(measured(low)))


def test_silence_and_rates_without_room_for_the_filter_have_no_loudness():
    assert np.isnan(integrated_loudness(measured(np.zeros((1, 96000), np.float32))))
    assert np.isnan(loudness_range_of(measured(tones([(-20, 5)], 4000), 4000)))


def test_the_metric_leaves_out_silent_ends_and_saturates_where_level_range_does_not():
    rate = 22050
    sound = tones([(-20, 10), (-30, 10)] * 2, rate, 1)
    pause = np.zeros((1, rate * 5), np.float32)
    padded = extract_features(Waveform(np.concatenate([pause, sound, pause], axis=1), rate))
    assert METRICS["loudness_range"].function(padded) == pytest.approx(10.0, abs=0.3)
    wide = extract_features(Waveform(tones([(-10, 20), (-60, 20)], rate, 1), rate))
    assert METRICS["level_range"].function(wide) == pytest.approx(50.0, abs=0.5)
    assert METRICS["loudness_range"].function(wide) < 25.0


def test_loudness_range_of_a_soft_recording_is_that_of_the_same_turned_up():
    blocks = measured(tones([(-20, 12), (-32, 12), (-26, 12)], rate=16000), 16000)
    assert loudness_range_of(blocks * 10 ** (-45 / 10)) == pytest.approx(loudness_range_of(blocks), abs=1e-9)
    assert np.isnan(loudness_range_of(np.zeros(100)))


def test_two_channels_at_once_read_what_each_reads_alone():
    rng = np.random.default_rng(3)
    samples = (0.1 * rng.standard_normal((2, 50_000))).astype(np.float32)

    def blocks(part):
        meter = LoudnessMeter(44_100, len(part))
        for first in range(0, part.shape[1], 7_001):
            meter.push(part[:, first : first + 7_001])
        return meter.finish()

    np.testing.assert_allclose(blocks(samples), blocks(samples[:1]) + blocks(samples[1:]), rtol=1e-12)
