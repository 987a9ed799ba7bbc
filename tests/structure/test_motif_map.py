from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eisbach.structure.features import extract_features
from eisbach.structure.metrics.repetition import motif_coverage
from eisbach.structure.motif_map import motif_map
from eisbach.studies.ground_truth import synthetic
from eisbach.studies.ground_truth.synthetic_forms import returning_tunes


def test_a_section_points_to_its_repeat_and_back():
    found = motif_map(extract_features(synthetic.form("ABCA", 7.37, 5)))
    early, late = found.start < 3.0, found.start > 22.6
    assert found.recurs[early].all()
    np.testing.assert_allclose(found.match[early] - found.start[early], 3 * 7.37, atol=0.3)
    np.testing.assert_allclose(found.match[late] - found.start[late], -3 * 7.37, atol=0.3)
    assert (found.transposition[early] == 0).all()
    between = (found.start > 8.0) & (found.start < 17.5)
    assert not found.recurs[between].any()


@pytest.mark.parametrize("semitones", [1, 5, 11])
def test_transpositions_are_named(semitones):
    features = extract_features(synthetic.form("AB", 8.0, 3))
    first = features.chroma[: len(features.chroma) // 2]
    found = motif_map(replace(features, chroma=np.concatenate([first, np.roll(first, semitones, axis=1)])))
    up = (semitones + 5) % 12 - 5
    assert (found.transposition[found.start < 3.0] == up).all()
    assert (found.transposition[found.start > 9.0] == (-up if up < 6 else 6)).all()


@pytest.mark.parametrize("section", [7.37, 11.1])
@pytest.mark.parametrize(("letters", "truth"), [("AAAA", 1.0), ("AABA", 0.75), ("ABCA", 0.5), ("ABCD", 0.0)])
def test_coverage_off_the_frame_grid(section, letters, truth):
    assert motif_coverage(extract_features(synthetic.form(letters, section, 6))) == pytest.approx(truth, abs=0.06)


def test_too_short_or_still():
    tiny = motif_map(extract_features(synthetic.drone(0, 2.0)))
    assert len(tiny.start) == 0
    assert np.isnan(motif_coverage(extract_features(synthetic.drone(0, 2.0))))
    assert not motif_map(extract_features(synthetic.drone(0, 20.0))).recurs.any()
    alone = motif_map(extract_features(synthetic.form("AB", 3.0, 1)))  # no two windows without overlap
    assert np.isnan(alone.match).any()
    assert not alone.recurs[np.isnan(alone.match)].any()


@pytest.fixture(scope="module")
def tunes():
    """Four tunes over one row of chords, of which none, two and all return on other instruments."""
    return {
        share: [extract_features(returning_tunes(share, seed, sections=4)) for seed in (21, 22, 23)]
        for share in (0.0, 0.5, 1.0)
    }


def test_a_tune_returns_on_other_instruments_in_another_key_and_tempo(tunes):
    coverage = {share: np.mean([motif_coverage(features) for features in each]) for share, each in tunes.items()}
    assert coverage[1.0] >= 0.7
    assert coverage[0.5] == pytest.approx(0.5, abs=0.2)
    # one key, one tempo, the same chords: what is left of likeness is no repeat
    assert coverage[0.0] <= 0.1


def test_a_tune_is_found_where_it_returns(tunes):
    features = tunes[1.0][0]
    found = motif_map(features)
    apart = np.abs(found.match - found.start)[found.recurs]
    assert (apart >= 7.0).all()
    assert ((found.transposition >= -5) & (found.transposition <= 6)).all()
    # the same chroma windows alone hear less of it
    with_tune, without = (
        np.mean([motif_coverage(piece) for piece in pieces])
        for pieces in (tunes[1.0], [replace(piece, tune=np.zeros_like(piece.tune)) for piece in tunes[1.0]])
    )
    assert without < with_tune - 0.05
