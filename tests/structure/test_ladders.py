"""Every metric must order synthetic pieces whose structure is known, whatever their timbre."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from eisbach.structure import METRICS
from eisbach.structure.features import extract_features
from eisbach.studies.ground_truth import synthetic
from eisbach.studies.ground_truth.ladders import LADDERS, VARIED_LADDERS


def test_every_metric_has_a_ladder():
    assert list(LADDERS) == list(METRICS)
    assert set(VARIED_LADDERS) <= set(METRICS)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if not metric.as_printed])
@pytest.mark.whole
def test_metric_follows_its_ladder(name, seed):
    metric, ladder = METRICS[name], LADDERS[name]
    values = [metric.function(extract_features(ladder.piece(v, seed))) for v in ladder.values]
    correlation = spearmanr(ladder.values, values).statistic
    assert (correlation if ladder.rising else -correlation) >= 0.95, values
    assert all(metric.range[0] <= value <= metric.range[1] for value in values)


@pytest.mark.parametrize("seed", [5, 6])
def test_motif_coverage_is_the_share_of_repeated_sections(seed):
    for letters, truth in [("AAAA", 1.0), ("AABA", 0.75), ("ABCA", 0.5), ("ABCD", 0.0)]:
        value = METRICS["motif_coverage"].function(extract_features(synthetic.form(letters, 7.5, seed)))
        assert value == pytest.approx(truth, abs=0.13), letters


@pytest.mark.parametrize("semitones", [1, 5, 11])
def test_motif_coverage_hears_a_transposed_repeat(semitones):
    features = extract_features(synthetic.form("AB", 8.0, 3))
    first = features.chroma[: len(features.chroma) // 2]
    moved = np.concatenate([first, np.roll(first, semitones, axis=1)])
    assert METRICS["motif_coverage"].function(replace(features, chroma=moved)) > 0.95
    assert METRICS["motif_coverage"].function(features) < 0.05


@pytest.mark.parametrize("metric", ["block_strength", "motif_coverage"])
@pytest.mark.parametrize("piece", [synthetic.drone, synthetic.noise])
def test_still_sounds_have_no_blocks_and_no_motifs(metric, piece):
    assert METRICS[metric].function(extract_features(piece(1, 30.0))) < 0.03


@pytest.mark.parametrize("period", [1.0, 1.5, 3.3, 6.0, 12.0, 16.0])
def test_loops_of_every_period_match_themselves_a_lag_later(period):
    assert METRICS["lag_similarity"].function(extract_features(synthetic.loop(period, 2, 30.0))) > 0.9


def test_music_that_moves_on_does_not_pass_for_a_loop():
    loops = [extract_features(synthetic.loop(6.0, seed, 30.0)) for seed in range(4)]
    moving = [extract_features(synthetic.form("ABCD", 7.5, seed)) for seed in range(4)]
    similarity, strength = METRICS["lag_similarity"].function, METRICS["loop_strength"].function
    assert max(similarity(f) for f in moving) < 0.7
    assert np.mean([strength(f) for f in loops]) > 2.5 * np.mean([strength(f) for f in moving])
    # a drone matches itself at every lag, so it has no period
    assert strength(extract_features(synthetic.drone(1, 30.0))) < 0.1 < 0.9 < similarity(loops[0])


def test_level_range_reads_nine_tenths_of_a_crescendo():
    for rise in (12.0, 40.0):
        value = METRICS["level_range"].function(extract_features(synthetic.crescendo(rise, 4)))
        assert value == pytest.approx(0.9 * rise, rel=0.05)
