from __future__ import annotations

import numpy as np
import pytest

from eisbach.errors import UserError
from eisbach.structure import energy_share
from eisbach.types import Waveform


def test_shares_of_two_sines_follow_their_powers():
    time = np.arange(22050 * 4) / 22050
    low, high = np.sin(2 * np.pi * 100 * time), 0.5 * np.sin(2 * np.pi * 5000 * time)
    waveform = Waveform((0.4 * (low + high)).astype(np.float32)[None], 22050)
    assert energy_share(waveform, high=200) == pytest.approx(0.8, abs=0.005)
    assert energy_share(waveform, low=2000) == pytest.approx(0.2, abs=0.005)
    assert energy_share(waveform) == pytest.approx(1.0)
    assert energy_share(waveform, low=200, high=2000) < 1e-3


def test_silence_has_no_share_and_an_empty_band_is_refused():
    assert np.isnan(energy_share(Waveform(np.zeros((1, 9000), np.float32), 22050), high=200))
    with pytest.raises(UserError, match="empty"):
        energy_share(Waveform(np.ones((1, 9000), np.float32), 22050), low=300, high=200)
