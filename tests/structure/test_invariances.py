from __future__ import annotations

from dataclasses import replace

import pytest
from scipy.stats import spearmanr

from eisbach.structure import METRICS
from eisbach.structure.features import extract_features
from eisbach.structure.metrics.base import CONDITIONS, Invariances
from eisbach.studies.ground_truth import synthetic
from eisbach.studies.ground_truth.invariances import check_invariances
from eisbach.studies.ground_truth.ladders import VARIED_LADDERS
from eisbach.studies.ground_truth.synthetic_varied import varied_form


@pytest.fixture(scope="module")
def outcomes():
    pieces = [
        lambda longer: synthetic.form("ABCA", 6.1 * longer, 3),
        lambda longer: varied_form("ABAC", 6.3 * longer, 4),
    ]
    return check_invariances(pieces)


def test_every_metric_keeps_its_word_under_every_condition(outcomes):
    assert [(o.metric, o.condition) for o in outcomes] == [(name, c) for name in METRICS for c in CONDITIONS]
    assert [f"{o.metric} under {o.condition}: {o.largest}" for o in outcomes if o.broken] == []


def test_what_is_declared_says_something():
    for metric in METRICS.values():
        assert metric.invariances.kind("stereo") != "no"
        assert metric.invariances.kind("gain") != "no"
        assert metric.invariances.kind("sample_rate") != "no"


def test_a_metric_that_breaks_its_word_is_found():
    level = replace(METRICS["closure"], name="closure", invariances=Invariances(sample_rate=0.0, length=0.0))
    found = check_invariances([lambda longer: synthetic.form("ABCA", 5.0 * longer, 3)], {"closure": level})
    assert {o.condition for o in found if o.broken} == {"length"}


def test_exact_close_and_no():
    declared = Invariances(gain=0.0, codec=0.5)
    assert [declared.kind(c) for c in ("gain", "codec", "length")] == ["exact", "close", "no"]
    assert declared.holds("gain", 10.0, 10.01)
    assert not declared.holds("gain", 10.0, 10.1)
    assert declared.holds("codec", 1.0, 1.5)
    assert not declared.holds("codec", 1.0, 1.6)
    assert declared.holds("length", 1.0, 99.0)
    nan = float("nan")
    assert declared.holds("gain", nan, nan)
    assert not declared.holds("gain", nan, 1.0)


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", list(VARIED_LADDERS))
@pytest.mark.whole
def test_metrics_follow_their_ladders_over_other_instruments(name, seed):
    ladder = VARIED_LADDERS[name]
    values = [METRICS[name].function(extract_features(ladder.piece(value, seed))) for value in ladder.values]
    correlation = spearmanr(ladder.values, values).statistic
    assert (correlation if ladder.rising else -correlation) >= 0.95, values
