from __future__ import annotations

import numpy as np
import pytest

from eisbach.structure.features import FRAME_RATE, extract_features
from eisbach.structure.rhythm import onset_strength, rhythm_steps
from eisbach.studies.ground_truth import synthetic

TIMES = np.arange(0.0, 40.0, 0.25)


def clicks(*periods: int) -> np.ndarray:
    """Mels of equal stretches, 40 s in all, each with a click every `period` frames."""
    mel_db = np.full((2000, 64), -60.0)
    length = 2000 // len(periods)
    for index, period in enumerate(periods):
        mel_db[index * length : (index + 1) * length][::period] = -20.0
    return mel_db


def test_a_change_of_pulse_is_a_step_where_it_happens():
    for step in rhythm_steps(clicks(25, 19), FRAME_RATE, TIMES, (4, 8)):
        assert abs(TIMES[step.argmax()] - 20.0) <= 0.5
        assert step.max() > 5.0 * np.median(step[(TIMES > 8.0) & (TIMES < 12.0)])


def test_a_steady_pulse_has_no_step_at_any_level():
    steady = clicks(25)
    quieter = steady.copy()
    quieter[1000:] -= 15.0
    inside = (TIMES > 8.0) & (TIMES < 32.0)
    for mel_db in (steady, quieter):
        assert rhythm_steps(mel_db, FRAME_RATE, TIMES, (8,))[0][inside].max() < 0.1


@pytest.mark.parametrize("sound", [synthetic.drone, synthetic.noise])
def test_sounds_without_onsets_change_their_rhythm_less_than_a_pulse_does(sound):
    (still,) = rhythm_steps(extract_features(sound(3, 40.0)).mel_db, FRAME_RATE, TIMES, (8,))
    (change,) = rhythm_steps(clicks(25, 19), FRAME_RATE, TIMES, (8,))
    assert still[32:-32].max() < 0.75 * change.max()  # nearer to the ends a side is shorter than 8 s and says less
    assert onset_strength(np.full((100, 64), -80.0)).max() == 0.0


def test_nothing_heard_gives_zeros_and_short_clips_finite_steps():
    assert rhythm_steps(np.zeros((0, 64)), FRAME_RATE, TIMES[:0], (4,))[0].shape == (0,)
    (step,) = rhythm_steps(clicks(25)[:60], FRAME_RATE, TIMES[:5], (4,))
    assert np.isfinite(step).all()
