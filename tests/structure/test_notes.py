"""Notes of audio against basic-pitch's own (tests/fixtures/basic_pitch_golden.json), and the motifs found in them."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from eisbach.errors import AudioError, UserError
from eisbach.structure.embeddings import notes as notes_module
from eisbach.structure.embeddings.notes import (
    Notes,
    check_notes,
    decode_notes,
    melody,
    note_events,
    note_motifs,
    posteriorgrams,
    transcribe,
)
from eisbach.structure.sets.onset_details import pair_diversity
from eisbach.types import Waveform

pytest.importorskip("onnxruntime")
ROOT = Path(__file__).parents[2]
RATE = 22050


@pytest.fixture(scope="module")
def golden() -> dict:
    return json.loads((ROOT / "tests/fixtures/basic_pitch_golden.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def heard() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    phrase = runpy.run_path(str(ROOT / "recipes/judges/golden_basic_pitch.py"))["phrase"]()
    return posteriorgrams(Waveform(phrase[None], RATE))


def test_posteriorgrams_are_the_packages(golden: dict, heard: tuple[np.ndarray, ...]) -> None:
    sounding, beginning, times = heard
    frames = golden["frames"]
    np.testing.assert_allclose(sounding[frames], golden["sounding"], atol=1e-3)
    np.testing.assert_allclose(beginning[frames], golden["beginning"], atol=1e-3)
    # the package counts its windows a little longer than they are
    np.testing.assert_allclose(times[frames], golden["times"], atol=0.02)
    assert (np.diff(times) > 0).all()


def test_notes_are_the_packages(golden: dict, heard: tuple[np.ndarray, ...]) -> None:
    ours = decode_notes(*heard[:2])
    assert ours[:, :3].astype(int).tolist() == [note[:3] for note in golden["notes"]]
    np.testing.assert_allclose(ours[:, 3], [note[3] for note in golden["notes"]], atol=1e-3)
    assert len(ours) > 15


def test_written_notes_are_heard(heard: tuple[np.ndarray, ...]) -> None:
    written = runpy.run_path(str(ROOT / "recipes/judges/golden_basic_pitch.py"))["PHRASE"]
    table, times = decode_notes(*heard[:2]), heard[2]
    found = {(round(float(times[int(first)]), 1), int(pitch)) for first, _, pitch, _ in table}
    hits = sum(any((round(onset + d, 1), pitch) in found for d in (-0.1, 0.0, 0.1)) for onset, pitch, _ in written)
    assert hits >= 0.8 * len(written)


def test_nothing_sounds_in_empty_posteriorgrams() -> None:
    nothing = np.zeros((200, 88), np.float32)
    assert decode_notes(nothing, nothing).shape == (0, 4)
    for frames in (0, 1, 2, 3):
        assert decode_notes(nothing[:frames], nothing[:frames]).shape == (0, 4)
    whole = np.ones((200, 88), np.float32)
    assert set(decode_notes(whole, nothing)[:, 2]) <= set(range(21, 109))


@pytest.mark.parametrize(("shift", "tempo"), [(0, 1.0), (5, 1.0), (-3, 1.3), (0, 0.7)])
def test_a_tune_twice_is_half_heard_before(shift: int, tempo: float) -> None:
    rng = np.random.default_rng(4)
    gaps, pitches = rng.choice([0.25, 0.5, 1.0], 24), 60 + np.cumsum(rng.integers(-4, 5, 24))
    onsets = np.cumsum(gaps)
    twice = np.concatenate([onsets, onsets[-1] + 1.0 + tempo * onsets])
    assert note_motifs(twice, np.concatenate([pitches, pitches + shift])) == pytest.approx(0.5, abs=0.11)
    assert note_motifs(onsets, pitches) < 0.1


def test_motif_ladder_over_scores() -> None:
    """Share of the phrases that were heard before, 0 to 1, in melodies of one scale and one rhythm."""
    readings = []
    for share in (0.0, 0.25, 0.5, 0.75):
        rng = np.random.default_rng(9)
        fresh = [np.cumsum(rng.integers(-3, 4, 12)) for _ in range(8)]
        repeated = round(8 * share)
        phrases = [*fresh[: 8 - repeated], *(fresh[k % (8 - repeated)] + 2 for k in range(repeated))]
        pitches = 60 + np.concatenate(phrases)
        rhythm = np.cumsum(np.tile([0.5, 0.25, 0.25, 1.0], len(pitches) // 4))
        readings.append(note_motifs(rhythm, pitches))
    np.testing.assert_allclose(readings, (0.0, 0.25, 0.5, 0.75), atol=0.15)
    assert readings == sorted(readings)


def test_what_carries_no_motif() -> None:
    assert np.isnan(note_motifs(np.arange(11.0), np.arange(11)))
    assert note_motifs(np.arange(40.0), np.full(40, 60)) == 0.0  # one note again and again
    trill = np.tile([60, 62], 20)
    assert note_motifs(np.arange(40.0), trill) > 0.7


def _notes(onset: np.ndarray, pitch: np.ndarray) -> Notes:
    return Notes(onset, np.full(len(onset), 0.2), pitch, np.full(len(onset), 0.7))


def test_melody_is_the_top_of_every_moment() -> None:
    onsets, pitches = melody(_notes(np.array([0.0, 0.02, 0.03, 0.5, 0.9, 0.93]), np.array([60, 64, 67, 62, 70, 58])))
    assert pitches.tolist() == [67, 62, 70]
    np.testing.assert_allclose(onsets, [0.0, 0.5, 0.9])
    assert len(melody(_notes(np.zeros(0), np.zeros(0, int)))[0]) == 0


def test_note_diversity_knows_equal_takes_from_others() -> None:
    rng = np.random.default_rng(2)
    onset = np.cumsum(rng.choice([0.2, 0.4], 40))
    pitch = rng.integers(55, 80, 40)
    one, same = _notes(onset, pitch), _notes(onset + 0.5, pitch)
    other = _notes(np.cumsum(rng.choice([0.2, 0.4], 40)), rng.integers(55, 80, 40))
    half = _notes(onset, np.where(np.arange(40) < 20, pitch, rng.integers(55, 80, 40)))
    readings = [pair_diversity(note_events(one), note_events(take)) for take in (same, half, other)]
    assert readings[0] == pytest.approx(0.0, abs=1e-6)
    assert readings[0] < readings[1] < readings[2]
    assert readings[2] > 0.7


@pytest.mark.parametrize("seconds", [0.4, 0.5, 1.4, 1.99, 2.0, 5.3])
def test_any_length(seconds: float) -> None:
    t = np.arange(int(seconds * RATE)) / RATE
    clip = Waveform((0.2 * np.sin(2 * np.pi * 440 * t))[None].astype(np.float32), RATE)
    if seconds < 0.5:
        with pytest.raises(AudioError):
            transcribe(clip)
        return
    notes = transcribe(clip)
    assert set(notes.pitch.tolist()) <= {69}
    assert (notes.onset >= 0).all()
    assert (notes.onset + notes.duration <= seconds + 0.02).all()


def test_a_missing_extra_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    notes_module._session.cache_clear()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'eisbach\[judges\]'"):
        check_notes()
