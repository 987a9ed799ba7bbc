"""Whatever arrives is reported: no crash, and no wrong number without a flag."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
import soundfile as sf

from eisbach.errors import AudioError, UserError
from eisbach.structure import analyze, analyze_array
from eisbach.structure.features import extract_features
from eisbach.studies.ground_truth import synthetic
from eisbach.types import Waveform

RATE = 22050
PIECE = synthetic.form("ABCA", 4.0, 5)
REFERENCE = analyze(PIECE)


def close_to_reference(analysis, relative=0.02, leave=()):
    for name, value in REFERENCE.metrics.items():
        if not name.startswith("paper_") and name not in leave:
            assert analysis.metrics[name] == pytest.approx(value, rel=relative, abs=0.02, nan_ok=True), name


def faults(analysis):
    return {flag for flag in analysis.flags if not flag.startswith("undefined:")}


def test_a_clean_piece_has_no_faults():
    assert faults(REFERENCE) <= {"too_short"}


@pytest.mark.parametrize("offset", [0.2, -0.05])
def test_an_offset_is_flagged_and_taken_off(offset):
    analysis = analyze(Waveform(PIECE.samples * 0.5 + np.float32(offset), RATE))
    assert "dc_offset" in analysis.flags
    close_to_reference(analysis, leave=("loudness_range",))


def test_an_offset_is_taken_off_at_any_level():
    shifted = PIECE.samples * 0.5 + np.float32(0.05)
    loud, soft = (analyze(Waveform(shifted * np.float32(gain), RATE)) for gain in (1.0, 0.01))
    assert "dc_offset" in loud.flags
    assert "dc_offset" in soft.flags
    assert soft.metrics["level_range"] == pytest.approx(loud.metrics["level_range"], abs=0.01)


def test_digital_silence_beside_an_offset_is_left_out():
    """Tracks whose recorder added a constant often lie between stretches of true zeros."""
    shifted = PIECE.samples * 0.5 + np.float32(0.1)
    rest = np.zeros((PIECE.samples.shape[0], 2 * RATE), np.float32)
    between = Waveform(np.concatenate([rest, shifted, rest], axis=1), RATE)
    alone, framed = analyze(Waveform(shifted, RATE)), analyze(between)
    assert framed.conditions["analysed_seconds"] == pytest.approx(alone.conditions["analysed_seconds"], abs=0.05)
    assert framed.features.trimmed_start == pytest.approx(2.0, abs=0.05)
    for name, value in alone.metrics.items():
        assert framed.metrics[name] == pytest.approx(value, rel=0.02, abs=0.05, nan_ok=True), name


def test_a_constant_is_silence_with_an_offset():
    analysis = analyze_array(np.full(RATE * 3, 0.5), RATE)
    assert {"silent", "dc_offset"} <= set(analysis.flags)
    assert all(np.isnan(value) for value in analysis.metrics.values())


def test_cancelling_channels_are_flagged_and_the_loudest_is_analysed():
    analysis = analyze(Waveform(np.concatenate([PIECE.samples, -PIECE.samples]), RATE))
    assert "phase_cancelling" in analysis.flags
    assert "silent" not in analysis.flags
    close_to_reference(analysis)
    apart = np.random.default_rng(0).standard_normal((2, RATE * 12)).astype(np.float32) * 0.1
    assert "phase_cancelling" not in analyze(Waveform(apart, RATE)).flags


@pytest.mark.parametrize("channels", [2, 6, 8])
def test_one_live_channel_among_silent_ones_is_no_fault(channels):
    samples = np.zeros((channels, PIECE.samples.shape[1]), np.float32)
    samples[1] = PIECE.samples[0]
    analysis = analyze(Waveform(samples, RATE))
    assert faults(analysis) == faults(REFERENCE)
    assert analysis.conditions["channels"] == channels
    close_to_reference(analysis)


@pytest.mark.parametrize("rate", [1000, 8000, 11025, 12345, 96000, 192000, 22050.01])
def test_odd_rates(rate):
    time = np.arange(int(rate * 12)) / rate
    sound = 0.3 * np.sin(2 * np.pi * 220 * time) * (1 + np.sin(2 * np.pi * time / 4)) / 2
    analysis = analyze_array(sound, rate)
    assert analysis.features.duration == pytest.approx(12.0, abs=0.1)
    assert ("narrow_band" in analysis.flags) == (analysis.conditions["bandwidth_hz"] < 4300)
    assert np.isfinite(analysis.metrics["level_range"])


def test_clipping_at_the_edge_of_a_block_is_seen(monkeypatch):
    monkeypatch.setattr("eisbach.audio_file.BLOCK_SAMPLES", 1)  # the smallest block: 4096 samples
    loud = np.clip(4 * PIECE.samples, -1, 1)
    assert "clipped" in analyze(Waveform(loud, RATE)).flags
    assert "clipped" not in analyze(PIECE).flags


@pytest.mark.parametrize("gain", [0.5, 0.1])
def test_clipping_is_seen_when_the_clip_was_turned_down_afterwards(gain):
    loud = np.clip(4 * PIECE.samples, -1, 1)
    assert "clipped" in analyze(Waveform(loud * np.float32(gain), RATE)).flags


@pytest.mark.parametrize("peak", [0.999, 0.4])
def test_the_round_crests_of_a_bass_note_are_no_clipping(tmp_path, peak):
    sf.write(
        tmp_path / "bass.wav", peak * np.sin(2 * np.pi * 41.0 * np.arange(RATE * 4) / RATE), RATE, subtype="PCM_16"
    )
    assert "clipped" not in analyze(tmp_path / "bass.wav").flags


def test_a_tone_that_never_changes_has_no_flux():
    tone = analyze_array(0.5 * np.sin(2 * np.pi * 440.0 * np.arange(RATE * 5) / RATE), RATE)
    assert np.isnan(tone.metrics["flux_gini"])
    assert "undefined:flux_gini" in tone.flags


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "ogg"])
def test_truncated_files_are_measured_as_far_as_they_go(tmp_path, suffix):
    path = tmp_path / f"clip.{suffix}"
    sf.write(path, PIECE.samples.T, RATE)
    whole = analyze(path)
    assert "truncated" not in whole.flags
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.6)])
    cut = analyze(path)
    assert "truncated" in cut.flags
    assert 0.4 * whole.features.duration < cut.features.duration < 0.75 * whole.features.duration


def test_a_file_cut_inside_its_header_is_refused(tmp_path):
    for suffix in ("wav", "flac", "ogg", "mp3"):
        path = tmp_path / f"clip.{suffix}"
        sf.write(path, PIECE.samples.T, RATE)
        path.write_bytes(path.read_bytes()[:30])
        with pytest.raises(AudioError, match=path.name):
            analyze(path)


@pytest.mark.parametrize(("made", "named"), [("flac", "wav"), ("wav", "mp3"), ("ogg", "flac")])
def test_a_wrong_ending_is_read_and_flagged(tmp_path, made, named):
    right, wrong = tmp_path / f"a.{made}", tmp_path / f"b.{named}"
    sf.write(right, PIECE.samples.T, RATE)
    shutil.copy(right, wrong)
    assert "mislabelled" not in analyze(right).flags
    assert "mislabelled" in analyze(wrong).flags
    assert analyze(wrong).metrics["level_range"] == analyze(right).metrics["level_range"]


@pytest.mark.parametrize("content", [b"", b"hello, this is text\n" * 500, os.urandom(5000)])
@pytest.mark.parametrize("suffix", ["wav", "flac", "raw"])
def test_what_is_not_audio_is_refused_in_one_sentence(tmp_path, content, suffix):
    path = tmp_path / f"notes.{suffix}"
    path.write_bytes(content)
    with pytest.raises(AudioError, match="cannot be read as audio"):
        analyze(path)


def test_missing_files_folders_and_nan_are_refused(tmp_path):
    with pytest.raises(AudioError, match="does not exist"):
        analyze(tmp_path / "none.wav")
    with pytest.raises(AudioError, match="not a file"):
        analyze(tmp_path)
    path = tmp_path / "nan.wav"
    samples = PIECE.samples[0].copy()
    samples[300_000] = np.inf
    sf.write(path, samples, RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="1 NaN or infinite"):
        analyze(path)


def test_one_second_has_no_number_that_needs_more():
    analysis = analyze_array(PIECE.samples[0, :RATE], RATE)
    assert "too_short" in analysis.flags
    assert all(np.isnan(value) for value in analysis.metrics.values())


def test_arrays_of_every_shape_and_type():
    mono = PIECE.samples[0]
    expected = REFERENCE.metrics["level_range"]
    assert analyze_array(mono, RATE).metrics["level_range"] == expected
    stereo = np.stack([mono, mono])
    assert analyze_array(stereo, RATE).conditions["channels"] == 2
    batch = analyze_array(np.stack([stereo, stereo * 0.5, stereo[:, ::-1]]), RATE)
    assert [type(one) for one in batch] == [type(REFERENCE)] * 3
    assert batch[1].metrics["level_range"] == pytest.approx(expected, rel=1e-5)
    integers = np.round(mono * 32767).astype(np.int16)
    assert analyze_array(integers, RATE).conditions["peak_db"] == pytest.approx(
        REFERENCE.conditions["peak_db"], abs=0.01
    )


@pytest.mark.parametrize(
    ("samples", "rate", "words"),
    [
        (np.zeros((2, 3, 4, 5)), 22050, "must be numbers of shape"),
        (np.zeros(0), 22050, "no samples"),
        (np.zeros((44100, 2)), 22050, "transpose"),
        (np.array(["a", "b"]), 22050, "must be numbers"),
        (np.zeros(100, np.uint8), 22050, "no agreed zero"),
        (np.zeros(100), 0, "must be positive"),
        (np.zeros(100), float("nan"), "must be positive"),
    ],
)
def test_arrays_that_make_no_sense_are_refused(samples, rate, words):
    with pytest.raises(AudioError, match=words):
        analyze_array(samples, rate)


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="is not on this machine"):
        extract_features(PIECE, device="cuda:99")
    assert extract_features(PIECE, device="auto").duration > 0
