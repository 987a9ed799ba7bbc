"""The sampler against what is known of each note: its pitch, its decay, its length."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from eisbach.data.soundfont import Envelope, SoundFont
from eisbach.data.synth import (
    ENSEMBLES,
    INSTRUMENTS,
    Track,
    dies_away,
    ensembles_for,
    fit_octave,
    fold_into,
    get_font,
    sound_font,
    synthesise,
)
from eisbach.errors import UserError

RATE = 44100


def partial_near(samples: np.ndarray, frequency: float) -> float:
    """Frequency of the strongest partial within a semitone and a half of `frequency` (parabolic peak)."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), 1 << 17))
    bins = np.arange(len(spectrum)) * RATE / (1 << 17)
    near = np.flatnonzero((bins > frequency * 0.92) & (bins < frequency * 1.09))
    peak = near[np.argmax(spectrum[near])]
    assert spectrum[peak] > 0.05 * spectrum.max()
    return float(bins[peak])


@pytest.mark.parametrize("name", list(INSTRUMENTS))
def test_every_instrument_sounds_in_tune(name: str) -> None:
    instrument = INSTRUMENTS[name]
    for pitch in ((2 * instrument.low + instrument.high) // 3, (instrument.low + 2 * instrument.high) // 3):
        frequency = 440.0 * 2 ** ((pitch - 69) / 12)
        samples = get_font().note(instrument.program, pitch, 0.9, RATE)[2000:]
        # half a semitone at most; the font's own strings and bells are up to 20 cents off
        assert abs(12 * np.log2(partial_near(samples, frequency) / frequency)) < 0.5


def test_a_note_follows_its_envelope() -> None:
    envelope = Envelope(attack=0.1, hold=0.1, decay=20.0, sustain=30.0, release=0.5)
    level = 20 * np.log10(np.maximum(envelope.level(4000, 1000), 1e-9))
    assert level[50] == pytest.approx(20 * np.log10(0.5), abs=0.1)
    assert level[150] == pytest.approx(0.0, abs=1e-3)
    assert level[700] == pytest.approx(-10.0, abs=0.1)
    assert level[3999] == pytest.approx(-30.0, abs=1e-3)
    assert envelope.audible(10.0) == pytest.approx(0.7)
    assert envelope.audible(31.0) == float("inf")


def test_plucked_sounds_die_away_and_bowed_ones_last() -> None:
    for name, dies in (("celesta", True), ("pizzicato strings", True), ("violin", False), ("church organ", False)):
        pitch = INSTRUMENTS[name].low + 6
        assert dies_away(get_font().envelope(INSTRUMENTS[name].program, pitch)) is dies
        track = Track(name, np.zeros(1), np.array([7.0]), np.array([pitch]), np.array([100.0]))
        samples = synthesise([track], 8.0, 22050).samples[0].reshape(8, -1)
        loudness = np.sqrt(np.square(samples).mean(axis=1))
        assert bool(loudness[6] < 0.02 * loudness[0]) is dies
        assert loudness[6] > 0.3 * loudness[0] or dies  # also beyond the length that is kept of a note


def test_velocity_pan_and_addition() -> None:
    def one(velocity: float, pan: float = 0.0, at: float = 0.0) -> Track:
        return Track("flute", np.array([at]), np.array([0.5]), np.array([76]), np.array([velocity]), pan)

    loud, soft = (synthesise([one(v)], 1.0, 22050).samples for v in (120.0, 60.0))
    assert np.abs(loud).max() / np.abs(soft).max() == pytest.approx(2**1.7, rel=1e-3)
    both = synthesise([one(120.0), one(60.0)], 1.0, 22050).samples
    np.testing.assert_allclose(both, loud + soft, atol=1e-6)
    left = synthesise([one(100.0, pan=-1.0)], 1.0, 22050, stereo=True).samples
    assert np.abs(left[1]).max() < 1e-6 < np.abs(left[0]).max()
    late = synthesise([one(120.0, at=0.4)], 1.0, 22050).samples
    shift = round(0.4 * 22050)
    assert not late[0, :shift].any()
    np.testing.assert_allclose(late[0, shift : shift + 9000], loud[0, :9000], atol=1e-6)


def test_foreign_files_and_programs_are_refused(tmp_path: object) -> None:
    path = sound_font().parent / "__init__.py"
    with pytest.raises(UserError, match="not a SoundFont 2"):
        SoundFont(path)
    with pytest.raises(UserError, match="no sound for program 200"):
        get_font().note(200, 60, 1.0, RATE)


def test_notes_are_brought_into_the_range_by_octaves() -> None:
    pitch = np.array([20, 60, 64, 67, 120])
    for instrument in INSTRUMENTS.values():
        folded = fold_into(pitch + fit_octave(pitch, instrument), instrument)
        assert (folded >= instrument.low).all()
        assert (folded <= instrument.high).all()
        assert ((folded - pitch) % 12 == 0).all()


def test_ensembles_name_real_instruments_and_families_have_several() -> None:
    for ensemble in ENSEMBLES.values():
        assert [member.name for member in ensemble.members()] == list(ensemble.instruments)
    for family in ("quartet", "tune", "rag"):
        assert len(ensembles_for(family)) > 20
    with pytest.raises(UserError, match="no ensemble 'kazoo'"):
        ensembles_for("tune", ("kazoo",))


def test_a_damaged_font_is_one_sentence(tmp_path: Path) -> None:
    """Cut off anywhere, or with bytes of its tables changed, it plays or is refused."""
    content = sound_font().read_bytes()
    tables = content.rfind(b"pdta")
    draw = random.Random(0)
    refused: list[str] = []
    for number in range(16):
        damaged = bytearray(content)
        if number % 2:
            damaged = damaged[: draw.randrange(tables // 2, len(damaged))]
        else:
            start = draw.randrange(tables, len(damaged) - 64)
            damaged[start : start + 64] = draw.randbytes(64)
        path = tmp_path / "damaged.sf2"
        path.write_bytes(damaged)
        try:
            font = SoundFont(path)
            for program in (0, 40, 73):
                assert np.isfinite(font.note(program, 72, 0.2, RATE)).all()
        except UserError as error:
            refused.append(str(error))
    assert len(refused) >= 8  # all that are cut off
    assert all("\n" not in sentence for sentence in refused)
