"""Surrogates: audio with the same overall spectrum as a clip and none of its structure in time."""

from __future__ import annotations

import numpy as np
import scipy.fft

from eisbach.audio import check_samples
from eisbach.types import Waveform


def phase_randomise(waveform: Waveform, seed: int) -> Waveform:
    """The waveform with every phase of its whole-clip Fourier transform turned at random (Theiler et al. 1992).

    The magnitude spectrum, and with it the autocorrelation, is that of the original; onsets, sections and melodies are smeared
    over the whole clip. The same turn is given to every channel, which keeps their phase differences.

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
