from __future__ import annotations

import dataclasses
import tracemalloc

import librosa
import numpy as np
import pytest
import soundfile as sf

from eisbach.structure import survey
from eisbach.structure.features import extract_features
from eisbach.structure.spectra import (
    Bands,
    Contrast,
    FrameStream,
    SpectrumStream,
    chroma_filterbank,
    long_term_spectrum,
    mel_filterbank,
    octave_contrast,
    octave_edges,
    power_bands,
)
from eisbach.studies.ground_truth import synthetic
from eisbach.types import Waveform

NOISE = np.random.default_rng(0).standard_normal(30_011).astype(np.float32)
MELS = mel_filterbank(22050, 1024, 64, 30.0, 10_000.0)


def pushed(stream, samples, step):
    for first in range(0, len(samples), step):
        stream.push(samples[first : first + step])
    return stream.finish()


@pytest.mark.parametrize("step", [1, 97, 441, 5000, 100_000])
@pytest.mark.parametrize(("n_fft", "hop"), [(1024, 441), (8192, 2756.25), (64, 100)])
def test_frames_do_not_depend_on_how_the_signal_arrives(step, n_fft, hop):
    samples = NOISE[:3000] if step == 1 else NOISE
    bank = np.eye(n_fft // 2 + 1, dtype=np.float32)[::7]
    expected = power_bands(samples, n_fft, hop, bank)
    np.testing.assert_allclose(
        pushed(FrameStream(n_fft, hop, [Bands(bank)]), samples, step), expected, rtol=1e-5, atol=1e-9
    )
    if n_fft == 1024:
        np.testing.assert_allclose(pushed(SpectrumStream(), samples, step), long_term_spectrum(samples), rtol=1e-6)


@pytest.mark.whole
def test_contrast_equals_librosas_where_the_bands_are_the_same():
    power = np.random.default_rng(1).exponential(size=(5, 4097)).astype(np.float32)
    ours = octave_contrast(power, 22050, 8192)
    decibels = 10.0 * np.log10(ours[:, :7] / ours[:, 7:])
    theirs = librosa.feature.spectral_contrast(S=power.T, sr=22050, n_fft=8192, fmin=200.0, n_bands=5, quantile=0.02)
    assert octave_edges(22050, 8192)[1] == pytest.approx(200 * 8192 / 22050, abs=0.5)
    # librosa's bands take in one bin more on either side
    np.testing.assert_allclose(decibels[:, 1:5], theirs[1:5].T, atol=0.6)


def test_torch_gives_numpys_numbers():
    reducers = [Bands(chroma_filterbank(22050, 8192, 65.0, 2100.0)), Contrast(22050, 8192)]
    numpy, torch = (pushed(FrameStream(8192, 2756.25, reducers, device), NOISE, 7000) for device in (None, "cpu"))
    np.testing.assert_allclose(10 * np.log10(torch), 10 * np.log10(numpy), atol=1e-3)
    piece = synthetic.form("AB", 4.0, 1)
    on_cpu, on_torch = extract_features(piece), extract_features(piece, device="cpu")
    np.testing.assert_allclose(on_torch.mel_db, on_cpu.mel_db, atol=1e-3)
    np.testing.assert_allclose(on_torch.contrast_db, on_cpu.contrast_db, atol=1e-3)
    np.testing.assert_allclose(on_torch.chroma, on_cpu.chroma, atol=1e-4)


@pytest.mark.parametrize("rate", [22050, 44100, 11025, 48000])
def test_blocks_and_two_passes_equal_the_whole(monkeypatch, tmp_path, rate):
    rng = np.random.default_rng(3)
    samples = rng.standard_normal((2, rate * 9)).astype(np.float32) * 0.1
    samples[:, : rate // 2] = 0.0
    samples[:, rate * 5 :] *= 0.05
    path = tmp_path / "clip.wav"
    sf.write(path, samples.T, rate, subtype="FLOAT")
    whole = extract_features(Waveform(samples, rate))
    monkeypatch.setattr("eisbach.audio_file.BLOCK_SAMPLES", 9001)
    monkeypatch.setattr(survey, "BUFFER_SECONDS", 1.0)
    blocks = extract_features(path)
    assert blocks.trimmed_start == whole.trimmed_start > 0.4
    for field in dataclasses.fields(whole):
        np.testing.assert_allclose(
            getattr(blocks, field.name), getattr(whole, field.name), rtol=1e-4, atol=2e-4, err_msg=field.name
        )


@pytest.mark.whole
def test_memory_does_not_grow_with_the_samples(monkeypatch, tmp_path):
    monkeypatch.setattr(survey, "BUFFER_SECONDS", 10.0)
    path = tmp_path / "long.wav"
    rate, seconds = 16000, 300
    with sf.SoundFile(path, "w", rate, 2) as handle:
        for index in range(seconds // 10):
            handle.write(0.1 * np.random.default_rng(index).standard_normal((rate * 10, 2)))
    monkeypatch.setattr("eisbach.audio_file.BLOCK_SAMPLES", 1 << 16)
    extract_features(path)  # imports and caches
    tracemalloc.start()
    features = extract_features(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert features.duration == pytest.approx(seconds, abs=0.1)
    # mel frames are 12.8 kB a second, a few copies of them are made; the mono signal alone would be 88 kB a second
    assert peak < 80_000 * seconds
    assert peak < 0.7 * rate * 2 * 4 * seconds
