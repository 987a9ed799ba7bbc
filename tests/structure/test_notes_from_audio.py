"""Note motifs and note-level diversity from sound: ladders whose truth is known, and clips that hold no melody."""

from __future__ import annotations

import runpy
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from eisbach.audio import write_audio
from eisbach.errors import AudioError
from eisbach.structure.embeddings.notes import (
    Notes,
    melody,
    note_events,
    note_motifs,
    notes_of_files,
    transcribe,
)
from eisbach.structure.sets.onset_details import pair_diversity
from eisbach.types import Record, SkipReport, Waveform

pytest.importorskip("onnxruntime")
ROOT = Path(__file__).parents[2]
RATE = 22_050
RHYTHM = 0.2 * np.array([1, 1, 2, 1, 1, 1, 1, 2])


def _play(onsets: np.ndarray, pitches: np.ndarray, rate: int = RATE) -> np.ndarray:
    """A plucked sound of six partials, damped where the next note begins, [shape=(samples,)]."""
    lengths = np.append(np.diff(onsets), 0.4)
    out = np.zeros(round((onsets[-1] + 0.6) * rate))
    for onset, seconds, pitch in zip(onsets, lengths, pitches, strict=True):
        t = np.arange(round(seconds * rate)) / rate
        hertz = 440.0 * 2.0 ** ((pitch - 69) / 12)
        tone = sum(np.sin(2 * np.pi * k * hertz * t) / k**1.5 for k in range(1, 7))
        start = round(onset * rate)
        edges = np.clip(np.minimum(t / 0.005, (seconds - t) / 0.03), 0, 1)
        out[start : start + len(t)] += 0.12 * tone * np.exp(-4 * t) * edges
    return out.astype(np.float32)


def _phrases(count: int, seed: int) -> list[np.ndarray]:
    """Lines of eight notes around 0 that nothing else repeats."""
    rng = np.random.default_rng(seed)
    lines = [np.cumsum(rng.choice([-5, -4, -3, -2, -1, 1, 2, 3, 4, 5], len(RHYTHM))) for _ in range(count)]
    return [line - round(float(line.mean())) for line in lines]


def _piece(phrases: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Onsets (s) and pitches."""
    times = np.tile(RHYTHM, len(phrases))
    return np.cumsum(times) - times[0], 69 + np.concatenate(phrases)


@cache
def _heard(share: float, rate: int = RATE) -> Notes:
    """Four phrases of which this share repeats the first ones, a tone or a third away."""
    fresh = _phrases(4, 1)
    again = round(4 * share)
    piece = fresh[: 4 - again] + [fresh[k % (4 - again)] + (2, -3, 4)[k] for k in range(again)]
    return transcribe(Waveform(_play(*_piece(piece), rate)[None], rate))


def test_motifs_grow_with_the_share_that_is_heard_again() -> None:
    readings = [note_motifs(*melody(_heard(share))) for share in (0.0, 0.25, 0.5, 0.75)]
    np.testing.assert_allclose(readings, (0.0, 0.25, 0.5, 0.75), atol=0.1)
    assert (np.diff(readings) > 0.1).all()


@pytest.mark.whole
@pytest.mark.parametrize(
    ("lead", "backing"), [("clarinet", "piano"), pytest.param("violin", "harp", marks=pytest.mark.slow)]
)
def test_motifs_grow_over_chords_too(lead: str, backing: str) -> None:
    """Sampled instruments; what chords and overtones add would hide the tune (`bench/note_motifs.py`)."""
    played = runpy.run_path(str(ROOT / "bench/note_motifs.py"))["played"]
    readings = [note_motifs(*melody(played(share, 7, lead, backing))) for share in (0.0, 0.5, 0.75)]
    assert readings[0] < 0.1
    assert (np.diff(readings) > 0.1).all()
    assert readings[2] > 0.5


def test_an_overtone_and_what_moves_below_are_no_melody() -> None:
    onset = np.array([0.0, 0.01, 0.25, 0.5, 0.75, 0.76])
    heard = Notes(
        onset,
        np.array([0.7, 0.2, 0.3, 0.2, 0.2, 0.2]),
        np.array([72, 91, 60, 70, 74, 86]),  # 91: third partial; 60: begins under the 72; 70: as the 72 rings on
        np.array([0.8, 0.3, 0.7, 0.7, 0.6, 0.6]),  # 86 is as sure as the 74: an octave, not an overtone
    )
    onsets, pitches = melody(heard)
    assert pitches.tolist() == [72, 70, 86]
    np.testing.assert_allclose(onsets, [0.0, 0.5, 0.75])


@pytest.mark.whole
def test_takes_differ_by_the_share_of_notes_that_they_do_not_share() -> None:
    first, other = _phrases(3, 2), _phrases(3, 3)
    takes = [first, [*first[:2], other[2]], [first[0], *other[1:]], other]  # 100%, 66%, 33%, 0%
    heard = [note_events(transcribe(Waveform(_play(*_piece(take))[None], RATE))) for take in takes]
    readings = [pair_diversity(heard[0], take) for take in heard]
    assert readings[0] == pytest.approx(0.0, abs=1e-6)
    assert (np.diff(readings) > 0.05).all()
    other_rhythm = [onset + 0.03 * (number % 2) for number, onset in enumerate(_piece(other)[0])]
    played = transcribe(Waveform(_play(np.array(other_rhythm), _piece(other)[1])[None], RATE))
    assert pair_diversity(heard[0], note_events(played)) > readings[2]


@pytest.mark.whole
@pytest.mark.parametrize("rate", [44_100, 48_000])
def test_the_rate_does_not_matter(rate: int) -> None:
    """The same notes, but for one in twenty; onsets within two frames; motifs within a note or two of 32."""
    here, there = _heard(0.5), _heard(0.5, rate)
    onsets, pitches = melody(here)
    other_onsets, other_pitches = melody(there)
    near = np.abs(onsets[:, None] - other_onsets) < 0.025
    same = (near & (pitches[:, None] == other_pitches)).any(axis=1)
    assert same.mean() >= 0.95
    assert abs(note_motifs(onsets, pitches) - note_motifs(other_onsets, other_pitches)) <= 0.07


@pytest.mark.parametrize("where", ["after", "before", "between"])
@pytest.mark.parametrize("kind", ["last bit", pytest.param("room", marks=pytest.mark.whole)])
def test_a_pause_holds_no_notes(where: str, kind: str) -> None:
    """The network scales every window by itself, so that the noise of a quiet one is notes to it."""
    tune, again = (_play(*_piece([line, line + 2])) for line in _phrases(2, 4))
    rng = np.random.default_rng(2)
    noise = {"last bit": lambda n: rng.integers(-1, 2, n) / 2**15, "room": lambda n: 3e-5 * rng.standard_normal(n)}[
        kind
    ]
    silence, quiet = np.zeros(8 * RATE), noise(8 * RATE)
    orders = {"after": lambda q: [tune, again, q], "before": lambda q: [q, tune, again],
              "between": lambda q: [tune, q, again]}  # fmt: skip
    heard, expected = (
        transcribe(Waveform(np.concatenate(orders[where](pause)).astype(np.float32)[None], RATE))
        for pause in (quiet, silence)
    )
    assert len(heard.pitch) == pytest.approx(len(expected.pitch), abs=1)
    assert note_motifs(*melody(heard)) == pytest.approx(note_motifs(*melody(expected)), abs=0.04)


@pytest.mark.parametrize("power", [1, 2, 4])
def test_a_long_fade_in_keeps_the_notes_that_grow(power: int) -> None:
    """Its first tenths of a second lie far below the clip's loudest moment."""
    time = np.arange(16 * RATE) / RATE
    chord = sum(np.sin(2 * np.pi * k * hertz * time) / k for hertz in (131, 196, 262) for k in range(1, 5))
    swelling = (0.05 * chord * np.minimum(1.0, time / 10) ** power).astype(np.float32)
    heard = transcribe(Waveform(swelling[None], RATE))
    assert {48, 55, 60} <= set(heard.pitch.tolist())


def test_channels_that_cancel_each_other_are_no_music() -> None:
    mono = _play(*_piece(_phrases(1, 4)))
    with pytest.raises(AudioError, match="channels cancel each other"):
        transcribe(Waveform(np.stack([mono, -mono]), RATE))
    faint = 1.5e-4 / float(np.abs(mono).max()) * mono  # one channel alone, and hardly over silence: nothing cancels
    assert len(transcribe(Waveform(np.stack([faint, 0 * faint]), RATE)).pitch) >= 8


def test_two_channels_are_heard_as_their_mean() -> None:
    mono = _play(*_piece(_phrases(1, 4)))
    one, two = (transcribe(Waveform(samples, RATE)) for samples in (mono[None], np.stack([2 * mono, 0 * mono])))
    for name in ("onset", "duration", "pitch", "strength"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert len(one.pitch) >= 8


def _strange() -> dict[str, np.ndarray]:
    t = np.arange(4 * RATE) / RATE
    noise = np.random.default_rng(5).standard_normal(len(t))
    return {
        "bursts": 0.3 * noise * np.exp(-40 * ((4 * t) % 1)),
        "noise": 0.1 * noise,
        "long": 0.2 * np.sin(2 * np.pi * 440 * t),
        "click": np.where(np.arange(len(t)) == RATE, 0.9, 0.0),
        "short": 0.2 * np.sin(2 * np.pi * 440 * t[: round(0.55 * RATE)]),
        "too short": 0.2 * np.sin(2 * np.pi * 440 * t[: RATE // 10]),
        "silent": np.zeros(len(t)),
    }


def test_clips_without_a_melody_have_a_number_or_none(tmp_path: Path) -> None:
    paths = {name: tmp_path / f"{name}.wav" for name in _strange()}
    for name, samples in _strange().items():
        write_audio(paths[name], Waveform(samples[None].astype(np.float32), RATE))
    skips = SkipReport()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = notes_of_files(list(paths.values()), skips=skips, quiet=True)
        records: dict[str, Record] = {name: found[str(path)][0] for name, path in paths.items() if str(path) in found}
        for _, notes in found.values():
            value = pair_diversity(note_events(notes), note_events(_heard(0.0)))
            assert np.isnan(value) or value >= 0
    assert records.keys() == _strange().keys() - {"too short", "silent"}
    assert [item.item for item in skips.skipped] == [str(paths["too short"]), str(paths["silent"])]
    assert all("no notes: " in item.reason for item in skips.skipped)
    for record in records.values():
        assert record["note_motifs"] is None or 0 <= float(record["note_motifs"]) <= 1
        assert np.isfinite(float(record["notes_per_second"]))
    assert records["long"] == {"note_motifs": None, "notes_per_second": pytest.approx(0.25)}
    assert records["click"]["note_motifs"] is None
