"""Memorisation at clip and excerpt level: copies are found where they are, unseen music is not accused."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import pytest
import soundfile as sf
from scipy.stats import spearmanr

from eisbach.errors import UserError
from eisbach.structure.features import extract_features
from eisbach.structure.sets import excerpts
from eisbach.structure.sets.excerpts import closest_excerpts, coarse_scores, excerpt_features
from eisbach.structure.sets.memorisation import clip_memorisation, excerpt_memorisation, usual_limit
from eisbach.studies.ground_truth import sets as ladders
from eisbach.types import Waveform

SECONDS = 12.0


def _clip(seed):
    return ladders.render(ladders.random_notes(seed, SECONDS), seed % 3)


@lru_cache(maxsize=64)
def _kept(seed):
    return excerpt_features(extract_features(_clip(seed)))


def _codec(waveform):
    buffer = io.BytesIO()
    sf.write(buffer, waveform.samples.T, waveform.sample_rate, format="OGG", subtype="VORBIS")
    buffer.seek(0)
    data, rate = sf.read(buffer, dtype="float32", always_2d=True)
    return Waveform(np.ascontiguousarray(data.T), rate)


def _copying(index, seconds, *, semitones=0, gain=0.5):
    """An unseen piece that holds `seconds` of training piece `index` from 1.37 s at its own 2 s, through a codec."""
    source = ladders.render(ladders.random_notes(index, SECONDS), index % 3, transpose=semitones)
    clip = ladders.splice(_clip(500 + index), source, 2.0, 1.37, seconds, gain)
    return excerpt_features(extract_features(_codec(clip)))


TRAINING, HELD_OUT = range(12), range(100, 119)


@pytest.mark.whole
def test_copied_excerpts_are_found_where_they_are_whatever_gain_key_and_codec():
    generated = [
        _copying(4, 7.0),
        _copying(7, 6.0, semitones=3, gain=0.05),
        _copying(11, 8.0, semitones=-4, gain=2.0),
    ]
    found = excerpt_memorisation(generated, [_kept(s) for s in TRAINING], [_kept(s) for s in HELD_OUT])
    np.testing.assert_array_equal(found.closeness.nearest, [4, 7, 11])
    assert (found.closeness.p_values == found.closeness.smallest_p).all()
    assert found.closeness.value.min() > 0.85 > 0.8 > found.threshold
    assert found.closeness.auc.value == 1.0
    for copies, seconds, semitones in zip(found.matches, (7.0, 6.0, 8.0), (0, 3, -4), strict=True):
        assert copies[0].semitones == semitones
        assert copies[0].start == pytest.approx(2.0, abs=1.1)
        assert copies[0].training_start - copies[0].start == pytest.approx(1.37 - 2.0, abs=0.3)
        assert copies[0].seconds == pytest.approx(seconds, abs=2.1)
    np.testing.assert_allclose(found.copied_share, np.array([7, 6, 8]) / SECONDS, atol=0.15)


@pytest.mark.whole
def test_the_copied_share_follows_its_ladder():
    shares = (0.0, 0.35, 0.6, 0.8)
    generated = [_copying(i, share * SECONDS) if share else _kept(901) for share in shares for i in (2, 9)]
    found = excerpt_memorisation(
        generated, [_kept(s) for s in TRAINING], [_kept(s) for s in HELD_OUT], transpositions=False
    )
    read = found.copied_share.reshape(len(shares), 2).mean(axis=1)
    assert spearmanr(shares, read).statistic >= 0.95
    np.testing.assert_allclose(read, shares, atol=0.15)
    assert found.mean_copied_share.value == pytest.approx(found.copied_share.mean())


def test_unseen_music_of_the_genre_is_not_accused():
    found = excerpt_memorisation(
        [_kept(s) for s in range(600, 610)],
        [_kept(s) for s in TRAINING],
        [_kept(s) for s in HELD_OUT],
        transpositions=False,
    )
    assert found.closeness.share.value <= 0.2
    assert found.closeness.auc.low < 0.5 < found.closeness.auc.high
    assert found.copied_share.mean() < 0.06


def test_the_coarse_search_is_the_plain_maximum_over_windows_and_keys(monkeypatch):
    monkeypatch.setattr(excerpts, "_BLOCK", (30, 50))  # several blocks each way
    queries, training = [_kept(s) for s in (100, 101)], [_kept(s) for s in range(4)]
    found = coarse_scores(queries, training, range(12))
    for i, query in enumerate(queries):
        for j, clip in enumerate(training):
            mine = excerpts._windows(query)[0]
            theirs = excerpts._windows(clip)[0][::4]
            every = [np.einsum("alc,blc->ab", mine, np.roll(theirs, shift, axis=2)).max() for shift in range(12)]
            assert found[i, j] == pytest.approx(max(every), abs=1e-5)


def test_short_and_still_clips_match_nothing():
    from eisbach.studies.ground_truth import synthetic

    drone = excerpt_features(extract_features(synthetic.drone(0, 12.0)))
    short = excerpt_features(extract_features(Waveform(_clip(1).samples[:, : 3 * 22050], 22050)))
    assert short.windows == 0
    assert closest_excerpts([short, drone], [drone, _kept(0)]) == [[], []]
    with pytest.raises(UserError, match="lasts 4 s"):
        closest_excerpts([drone], [short])


def test_clip_memorisation_against_held_out():
    rng = np.random.default_rng(0)
    training, held, fresh = rng.normal(size=(300, 8)), rng.normal(size=(99, 8)), rng.normal(size=(200, 8))
    honest = clip_memorisation(fresh, training, held)
    assert honest.share.value == pytest.approx(0.05, abs=0.05)
    assert honest.auc.low < 0.5 < honest.auc.high
    aucs = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        copies = fresh.copy()
        count = round(share * len(copies))
        copies[:count] = training[:count] + 0.02 * rng.normal(size=(count, 8))
        found = clip_memorisation(copies, training, held)
        np.testing.assert_array_equal(found.nearest[:count], np.arange(count))
        assert found.share.value == pytest.approx(share + 0.05 * (1 - share), abs=0.06)
        aucs.append(found.auc.value)
    np.testing.assert_allclose(aucs, 0.5 + 0.5 * np.array([0.0, 0.25, 0.5, 0.75, 1.0]), atol=0.06)
    distance = np.sqrt(((fresh[0] - training) ** 2).mean(axis=1))
    assert honest.value[0] == pytest.approx(distance.min())


def test_the_limit_lets_one_unseen_clip_in_twenty_pass():
    rng = np.random.default_rng(1)
    exceed = []
    for _ in range(300):
        scores = rng.normal(size=60)
        exceed.append(np.mean(rng.normal(size=50) >= usual_limit(scores)))
    assert np.mean(exceed) == pytest.approx(0.05, abs=0.015)
    assert usual_limit(np.array([0.1, 0.3])) > 0.3


def test_what_memorisation_needs_is_said():
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(9, 3))
    few = clip_memorisation(rows[:3], rows[3:6], rng.normal(size=(5, 3)))
    assert np.isnan(few.share.value)
    assert "at least 19" in few.share.note
    with pytest.raises(UserError, match="also training clips"):
        clip_memorisation(rows[:3], rows[3:], rows[3:6])
    with pytest.raises(UserError, match="held-out set holds 1"):
        clip_memorisation(rows[:3], rows[3:], rng.normal(size=(1, 3)))
    with pytest.raises(UserError, match="at least one and two"):
        excerpt_memorisation([_kept(0)], [_kept(1)], [_kept(2)])
