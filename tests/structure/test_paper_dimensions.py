"""The paper's dimensions as printed: what they compute, and the ground truth that contradicts each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import ConvexHull
from scipy.stats import spearmanr

from eisbach.report.comparison.terminal import format_summary, summarise
from eisbach.structure import METRICS, analyze, phase_randomise
from eisbach.structure.features import extract_features
from eisbach.structure.metrics import paper
from eisbach.structure.metrics.texture import hull_area, principal_plane
from eisbach.studies.ground_truth import synthetic
from eisbach.studies.ground_truth.synthetic_varied import varied_form, varied_loop

PRINTED = [name for name, metric in METRICS.items() if metric.as_printed]
PIECE = extract_features(synthetic.form("ABCD", 7.5, 1))
DRONE = extract_features(synthetic.drone(1, 30.0))
NOISE = extract_features(synthetic.noise(1, 30.0))


def shuffled(features):
    order = np.random.default_rng(0).permutation(len(features.mel_db))
    return replace(features, mel_db=features.mel_db[order])


def test_all_five_are_there_marked_and_never_primary():
    assert {
        "paper_block_scale",
        "paper_peak_to_valley",
        "paper_flux_sparsity",
        "paper_pca_coverage",
        "paper_dynamic_range",
    } < set(PRINTED)
    assert not any(METRICS[name].primary for name in PRINTED)
    with pytest.raises(ValueError, match="cannot be primary"):
        replace(METRICS["paper_pc1_share"], primary=True)
    records = [{**analyze(synthetic.form("AB", 5.0, 1)).record(), "group": "a"}]
    text = format_summary(summarise(records))
    assert sum("†" in line for line in text.splitlines()) == len(PRINTED) + 1


def test_block_scale_gives_drones_and_noise_a_scale_and_they_have_none():
    for still in (DRONE, NOISE):
        assert paper.block_scale(still) >= 1.5
        assert np.isnan(METRICS["block_scale"].function(still))


def test_peak_to_valley_share_of_pc1_and_coverage_are_blind_to_time():
    for function in (paper.peak_to_valley, paper.pc1_share, paper.pca_coverage, paper.dynamic_range):
        assert function(shuffled(PIECE)) == pytest.approx(function(PIECE), rel=1e-6)
    surrogate = extract_features(phase_randomise(synthetic.form("ABCD", 7.5, 1), 1))
    assert paper.peak_to_valley(surrogate) > 0.7 * paper.peak_to_valley(PIECE)
    assert METRICS["block_strength"].function(surrogate) < 0.4 * METRICS["block_strength"].function(PIECE)


def test_flux_sparsity_does_not_follow_the_density_of_onsets_and_flux_gini_does():
    rates = (0.5, 1.0, 2.0, 4.0)
    for seed in (0, 1):
        clips = [extract_features(synthetic.onsets(rate, seed)) for rate in rates]
        printed = spearmanr(rates, [paper.flux_sparsity(clip) for clip in clips]).statistic
        ours = spearmanr(rates, [METRICS["flux_gini"].function(clip) for clip in clips]).statistic
        assert printed > -0.5
        assert ours == pytest.approx(-1.0)


@pytest.mark.parametrize("period", [1.0, 2.0])
def test_a_short_loop_covers_half_the_plane_of_raw_frames_and_hardly_any_of_textures(period):
    for seed in (0, 2):
        loop, piece = (extract_features(w) for w in (varied_loop(period, seed, 30.0), varied_form("ABCD", 7.5, seed)))
        assert paper.pca_coverage(loop) > 0.45 * paper.pca_coverage(piece)
        textures = METRICS["trajectory_coverage"].function
        assert textures(loop) < 0.05 * textures(piece)


def test_one_short_gap_decides_the_dynamic_range():
    samples = synthetic.drone(1, 20.0).samples.copy()
    samples[:, 200_000:202_500] = 0.0
    gap = extract_features(replace(synthetic.drone(1, 20.0), samples=samples))
    whole = extract_features(synthetic.drone(1, 20.0))
    assert paper.dynamic_range(gap) - paper.dynamic_range(whole) > 40.0
    assert METRICS["level_range"].function(gap) - METRICS["level_range"].function(whole) < 3.0


def test_a_walk_of_independent_steps_puts_three_fifths_on_its_first_component():
    rng = np.random.default_rng(0)
    walks = np.cumsum(rng.standard_normal((1500, 64)), axis=0)
    mel = (walks - walks.max()).astype(np.float32)
    walk, phases = paper.pc1_share_of_surrogates(replace(PIECE, mel_db=mel))
    # 6 / pi^2 in the limit of many dimensions (Antognini & Sohl-Dickstein 2018)
    assert walk == pytest.approx(6 / np.pi**2, abs=0.06)
    assert phases < walk
    assert paper.pc1_share(replace(PIECE, mel_db=mel)) == pytest.approx(walk, abs=0.1)


def test_surrogates_are_reported_beside_the_share_and_are_reproducible():
    first, second = (analyze(synthetic.form("ABCA", 4.0, 2)).record() for _ in range(2))
    assert 0.0 < first["pc1_share_phases"] < first["pc1_share_walk"] < 1.0
    assert first == second
    assert analyze(synthetic.drone(1, 3.0)).record()["pc1_share_walk"] is None


def test_the_cosine_matrix_is_that_of_its_definition():
    matrix, rate = paper.cosine_similarity(PIECE)
    frames = PIECE.mel_db[:1500].reshape(60, 25, 64).mean(axis=1) + 80.0
    cosine = frames[3] @ frames[40] / np.linalg.norm(frames[3]) / np.linalg.norm(frames[40])
    raw = frames @ frames.T / np.outer(np.linalg.norm(frames, axis=1), np.linalg.norm(frames, axis=1))
    assert rate == 2.0
    assert (matrix.min(), matrix.max()) == (0.0, 1.0)
    expected = (cosine - raw.min()) / (raw.max() - raw.min())
    assert matrix[3, 40] == pytest.approx(expected, abs=1e-4)


def test_hull_and_plane_of_known_points():
    square = np.array([[0.0, 0], [2, 0], [2, 2], [0, 2], [1, 1]])
    assert hull_area(square) == pytest.approx(4.0)
    assert hull_area(square[:2]) == hull_area(np.zeros((5, 2))) == hull_area(np.arange(10.0).reshape(5, 2)) == 0.0
    rng = np.random.default_rng(1)
    data = rng.standard_normal((50, 6)) * np.array([9, 5, 1, 1, 1, 1])
    points, shares = principal_plane(data)
    left, singular, _ = np.linalg.svd(data - data.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(left[:, :2] * singular[:2] / np.sqrt(6)), atol=1e-9)
    np.testing.assert_allclose(shares, singular**2 / np.sum(singular**2), atol=1e-12)
    assert hull_area(points) == pytest.approx(ConvexHull(points).volume)


def test_notes_stand_in_the_terminal_where_they_were_heard():
    rows = [
        {"group": name, "flags": "", "analysed_seconds": 30.0, "is_flat": False, **dict.fromkeys(METRICS, 0.5)}
        for name in ("heard", "heard", "not")
    ]
    assert "motif heard before" not in format_summary(summarise(rows))
    for row, motifs in zip(rows, (0.5, None), strict=False):
        row |= {"note_motifs": motifs, "notes_per_second": 4.0}
    lines = format_summary(summarise(rows)).splitlines()
    (motifs,) = [line for line in lines if "motif heard before" in line]
    (notes,) = [line for line in lines if line.startswith("Notes a second")]
    assert motifs.split()[-3:] == ["0.50", "[1]", "–"]
    assert notes.split()[-4:] == ["4.00", "±", "0.00", "–"]
