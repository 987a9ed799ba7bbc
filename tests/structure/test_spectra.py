from __future__ import annotations

import librosa
import numpy as np
import pytest
import scipy.signal

from eisbach.structure.spectra import (
    chroma_filterbank,
    hz_to_mel,
    long_term_spectrum,
    mel_filterbank,
    mel_to_hz,
    power_bands,
    power_to_db,
)


def test_mel_filterbank_equals_librosa():
    expected = librosa.filters.mel(sr=22050, n_fft=1024, n_mels=64, fmin=30, fmax=10000)
    np.testing.assert_allclose(mel_filterbank(22050, 1024, 64, 30.0, 10_000.0), expected, rtol=1e-4, atol=1e-9)


def test_mel_scale_round_trip():
    hz = np.array([0.0, 30.0, 999.0, 1000.0, 1001.0, 9999.0])
    np.testing.assert_allclose(mel_to_hz(hz_to_mel(hz)), hz, rtol=1e-12, atol=1e-12)


def test_power_bands_equal_scipys_spectrogram():
    samples = np.random.default_rng(0).standard_normal(22050 * 2).astype(np.float32)
    filters = mel_filterbank(22050, 1024, 64, 30.0, 10_000.0)
    window = scipy.signal.get_window("hann", 1024)  # periodic
    transform = scipy.signal.ShortTimeFFT(window * 2.0 / window.sum(), hop=441, fs=22050)
    count = 1 + (len(samples) - 1) // 441
    expected = (np.abs(transform.stft(samples, p0=0, p1=count)) ** 2).T @ filters.T
    ours = power_bands(samples, 1024, 441, filters)
    assert len(ours) == count
    np.testing.assert_allclose(ours, expected, rtol=2e-3, atol=1e-9)


def test_a_full_scale_sine_has_unit_power():
    sine = np.sin(2 * np.pi * 100 * 22050 / 1024 * np.arange(22050) / 22050).astype(np.float32)
    peak = power_bands(sine, 1024, 441, np.eye(513, dtype=np.float32))[10]
    assert peak[100] == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize(("midi", "pitch_class"), [(69, 9), (60, 0), (42, 6), (83, 11)])
def test_chroma_puts_a_sine_into_its_class(midi, pitch_class):
    time = np.arange(22050) / 22050
    sine = np.sin(2 * np.pi * 440 * 2 ** ((midi - 69) / 12) * time).astype(np.float32)
    chroma = power_bands(sine, 8192, 5512.5, chroma_filterbank(22050, 8192, 65.0, 2100.0))[1:-1]
    assert (chroma.argmax(axis=1) == pitch_class).all()


def test_power_to_db_is_relative_and_floored():
    np.testing.assert_allclose(power_to_db(np.array([4.0, 0.4, 0.0]), 80.0), [0.0, -10.0, -80.0], atol=1e-5)
    np.testing.assert_array_equal(power_to_db(np.zeros(3), 80.0), [-80.0] * 3)


def test_long_term_spectrum_of_short_audio_is_finite():
    assert np.isfinite(long_term_spectrum(np.ones(10, np.float32))).all()
