from __future__ import annotations

import numpy as np
import pytest

from eisbach.audio import resample
from eisbach.errors import AudioError
from eisbach.structure import METRICS, analyze
from eisbach.structure.features import extract_features, texture_frames
from eisbach.studies.ground_truth import synthetic
from eisbach.types import Waveform


@pytest.fixture(scope="module")
def piece():
    return synthetic.form("ABCA", 7.5, 11)


@pytest.fixture(scope="module")
def reference(piece):
    return analyze(piece).metrics


def close(metrics, reference, relative, absolute=0.01):
    for name in METRICS:
        assert metrics[name] == pytest.approx(reference[name], rel=relative, abs=absolute, nan_ok=True), name


def test_shapes_and_rates(piece):
    f = extract_features(piece)
    assert f.duration == pytest.approx(30.0, abs=0.1)
    assert f.mel_db.shape == (1500, 64)
    assert f.texture.shape == (57, 32)
    assert f.chroma.shape == (120, 12)
    assert f.mel_db.max() == 0.0
    assert f.mel_db.min() >= -80.0


@pytest.mark.parametrize("gain", [0.01, 2.0])
def test_gain_changes_nothing(piece, reference, gain):
    quiet = Waveform((piece.samples * gain).astype(np.float32), piece.sample_rate)
    close(analyze(quiet).metrics, reference, 1e-3, 1e-3)


@pytest.mark.parametrize("rate", [44100, 48000])
def test_sample_rate_changes_nothing(piece, reference, rate):
    close(analyze(resample(piece, rate)).metrics, reference, 0.03, 0.01)


def test_channels_are_averaged(piece, reference):
    stereo = Waveform(np.concatenate([piece.samples * 1.5, piece.samples * 0.5]), piece.sample_rate)
    close(analyze(stereo).metrics, reference, 1e-3, 1e-3)


def test_silence_at_the_ends_is_trimmed(piece, reference):
    pause = np.zeros((1, 441 * 100), np.float32)
    padded = Waveform(np.concatenate([pause, piece.samples, pause], axis=1), piece.sample_rate)
    f = extract_features(padded)
    assert f.trimmed_start == pytest.approx(2.0, abs=0.03)
    assert f.duration == pytest.approx(30.0, abs=0.1)
    close(analyze(padded).metrics, reference, 0.02, 0.01)


def test_texture_is_mean_and_standard_deviation_of_bands():
    mel = np.random.default_rng(1).uniform(-80, 0, (260, 64)).astype(np.float32)
    texture = texture_frames(mel)
    bands = mel.reshape(260, 16, 4).mean(axis=2)
    assert len(texture) == 7
    np.testing.assert_allclose(texture[3, :16], bands[75:175].mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(texture[3, 16:], bands[75:175].std(axis=0), rtol=1e-4)


def test_long_audio_is_capped_and_flagged():
    analysis = analyze(synthetic.noise(1, 20.0), max_seconds=15.0)
    assert "capped" in analysis.flags
    assert analysis.conditions["duration"] == pytest.approx(20.0)
    assert analysis.conditions["analysed_seconds"] == pytest.approx(15.0, abs=0.05)


def test_bad_samples_are_refused():
    with pytest.raises(AudioError, match="no samples"):
        extract_features(Waveform(np.zeros((1, 0), np.float32), 22050))
    with pytest.raises(AudioError, match="NaN"):
        extract_features(Waveform(np.array([[0.1, np.nan]], np.float32), 22050))
