from __future__ import annotations

import numpy as np
import pytest

from eisbach.structure import METRICS, phase_randomise
from eisbach.structure.features import extract_features
from eisbach.studies.ground_truth import synthetic
from eisbach.types import Waveform


@pytest.mark.parametrize("n", [22050, 22051])
def test_magnitudes_stay_and_the_signal_changes(n):
    samples = np.random.default_rng(0).standard_normal((2, n)).astype(np.float32)
    out = phase_randomise(Waveform(samples, 22050), seed=1)
    np.testing.assert_allclose(np.abs(np.fft.rfft(out.samples)), np.abs(np.fft.rfft(samples)), rtol=1e-3, atol=1e-2)
    assert abs(np.corrcoef(out.samples[0], samples[0])[0, 1]) < 0.1
    # the phase between channels is kept bin by bin
    cross = [np.fft.rfft(s[0]) * np.conj(np.fft.rfft(s[1])) for s in (samples, out.samples)]
    np.testing.assert_allclose(cross[1], cross[0], rtol=1e-2, atol=1.0)


def test_seeds_choose_the_phases():
    piece = synthetic.drone(1, 2.0)
    same = [phase_randomise(piece, seed).samples for seed in (4, 4, 5)]
    np.testing.assert_array_equal(same[0], same[1])
    assert not np.allclose(same[0], same[2])


def test_structure_is_destroyed():
    piece = synthetic.form("ABCA", 6.0, 2)
    surrogate = phase_randomise(piece, 3)
    for name in ("block_strength", "motif_coverage"):
        before, after = (METRICS[name].function(extract_features(w)) for w in (piece, surrogate))
        assert after < 0.4 * before
