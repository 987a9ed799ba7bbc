"""Pieces made of recordings have the structure that their ladders claim."""

from __future__ import annotations

import numpy as np
import pytest

from eisbach.structure import METRICS
from eisbach.structure.features import extract_features
from eisbach.studies.ground_truth.recorded import check_odd_files, form, ladders, passage
from eisbach.studies.ground_truth.synthetic_varied import band

RATE = 22050


@pytest.fixture(scope="module")
def sources() -> list[np.ndarray]:
    return [band(16.0, seed).astype(np.float32) for seed in range(4)]


def test_every_metric_of_ours_has_a_recorded_ladder(sources):
    assert set(ladders(sources)) == {name for name, metric in METRICS.items() if not metric.as_printed}


def test_equal_letters_are_equal_sound_at_the_common_level(sources):
    piece = form(sources, "ABA", 3.0, 1).samples[0]
    first, second, third = np.split(piece, 3)
    assert np.array_equal(first, third)
    assert not np.allclose(first, second)
    level = [float(np.sqrt(np.mean(part**2))) for part in (first, second)]
    assert level[0] == pytest.approx(level[1], rel=0.05)
    assert len(passage(sources, 0, 2, 3.0)) == 3 * RATE


@pytest.mark.parametrize(("metric", "value", "truth", "tolerance"), [
    ("level_range", 20.0, 18.0, 4.0), ("loudness_range", 10.0, 10.0, 1.5), ("longest_repeat", 12.0, 12.0, 1.5),
])  # fmt: skip
def test_metrics_read_what_was_put_in(sources, metric, value, truth, tolerance):
    piece = ladders(sources)[metric].piece(value, 0)
    assert METRICS[metric].function(extract_features(piece)) == pytest.approx(truth, abs=tolerance)


def test_refrains_are_as_many_as_their_rung_says(sources):
    made = ladders(sources)["structureness_short"]
    for times in made.values:
        parts = np.split(made.piece(times, 0).samples[0], 6)
        counts = [sum(np.array_equal(part, other) for other in parts) for part in parts]
        assert max(counts) == times


def test_odd_files_are_whole_and_short_sounds_have_flags(sources):
    flags = check_odd_files(sources[0])
    assert flags["silence"][0] == "silent"
    assert all("truncated" not in told for told in flags.values())
    assert all("too_short" in told for name, told in flags.items() if name.startswith("half a second"))
