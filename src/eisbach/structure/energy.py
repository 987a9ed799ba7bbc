"""Where the energy of a clip lies (shares of bands, bandwidth, noise floor), and surrogates that keep its spectrum
alone."""

from __future__ import annotations

import numpy as np
import scipy.fft

from eisbach.audio import check_samples, to_mono
from eisbach.errors import UserError
from eisbach.structure.features import Features
from eisbach.structure.spectra import long_term_spectrum
from eisbach.types import Waveform

NARROW_BAND_HZ = 4300.0
"""Recordings without energy above this (those at 8 kHz, say) are narrow-band."""

_BANDWIDTH_DB = 60.0
_BAND_HZ = 100.0


def energy_share(waveform: Waveform, *, low: float = 0.0, high: float | None = None) -> float:
    """Share of the energy with low <= frequency < high, in [0, 1]; NaN for a clip without any energy.

    ``energy_share(w, high=200)`` is the share below 200 Hz, ``energy_share(w, low=2000)`` the share above 2 kHz.

    Parameters
    ----------
    waveform : Waveform
        Any rate and channels; channels are averaged first.
    low, high : float
        Hz; `high=None` is the Nyquist frequency.

    Raises
    ------
    AudioError
        Empty or non-finite samples.
    UserError
        An empty or negative band.
    """
    check_samples(waveform.samples, "the waveform", allow_silent=True)
    if low < 0 or (high is not None and high <= low):
        raise UserError(f"the band {low}–{high} Hz is empty; give 0 <= low < high.")
    spectrum = long_term_spectrum(to_mono(waveform).samples[0])
    return share_of(spectrum, waveform.sample_rate, low, waveform.sample_rate if high is None else high)


def share_of(spectrum: np.ndarray, sample_rate: int, low: float, high: float) -> float:
    """Share of a long-term spectrum with low <= frequency < high, in [0, 1]; NaN when it is all zero."""
    hz = np.linspace(0.0, sample_rate / 2, len(spectrum))
    total = float(spectrum.sum())
    return float(spectrum[(hz >= low) & (hz < high)].sum() / total) if total > 0 else float("nan")


def bandwidth_hz(spectrum: np.ndarray, sample_rate: int) -> float:
    """Upper end of the highest 100 Hz band of a long-term spectrum within 60 dB of the strongest band, Hz; NaN if all
    zero."""
    bands = (np.linspace(0.0, sample_rate / 2, len(spectrum)) / _BAND_HZ).astype(int)
    density = np.bincount(bands, weights=spectrum) / np.maximum(np.bincount(bands), 1)
    if density.max() <= 0.0:
        return float("nan")
    heard = np.flatnonzero(density > density.max() * 10 ** (-_BANDWIDTH_DB / 10))
    return float(min((heard[-1] + 1) * _BAND_HZ, sample_rate / 2))


def noise_floor_db(features: Features) -> float:
    """Median over mel bands of their 5th percentile over time: dB below the clip's maximum, in [-80, 0]; NaN if
    silent."""
    if len(features.mel_db) == 0:
        return float("nan")
    return float(np.median(np.percentile(features.mel_db, 5.0, axis=0)))


def phase_randomise(waveform: Waveform, seed: int) -> Waveform:
    """The waveform with every phase of its whole-clip Fourier transform turned at random (Theiler et al. 1992).

    The magnitude spectrum, and with it the autocorrelation, is that of the original; onsets, sections and melodies are
    smeared over the whole clip. The same turn is given to every channel, which keeps their phase differences.

    Parameters
    ----------
    waveform : Waveform [shape=(channels, n)]
    seed : int
        Chooses the phases.

    Raises
    ------
    AudioError
        Empty or non-finite samples.
    """
    check_samples(waveform.samples, "the waveform", allow_silent=True)
    n = waveform.samples.shape[-1]
    spectrum = scipy.fft.rfft(waveform.samples.astype(np.float64), axis=-1)
    turns = np.exp(2j * np.pi * np.random.default_rng(seed).random(spectrum.shape[-1]))
    turns[0] = 1.0  # the mean stays, and at the Nyquist frequency only a real factor keeps the signal real
    if n % 2 == 0:
        turns[-1] = 1.0
    return Waveform(scipy.fft.irfft(spectrum * turns, n, axis=-1).astype(np.float32), waveform.sample_rate)
