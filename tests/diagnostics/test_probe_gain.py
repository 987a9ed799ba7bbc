"""The experiment on loudness: what turning clips up says where watching them cannot."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from probe_cases import make_result

from eisbach.diagnostics.probe.explain import explain
from eisbach.diagnostics.probe.result import ProbeResult, load_result
from eisbach.diagnostics.probe.verdict import hears_loudness, verdict
from eisbach.weighting.build import RECOMMENDED_WEIGHTING


def turned(result: ProbeResult, slope: float, *, clips: int = 16, scatter: float = 0.02, gains=(-6.0, 0.0, 6.0)):
    """The result with an experiment in which ln w changes by `slope` a dB, give or take a little for each clip."""
    rng = np.random.default_rng(3)
    rows = []
    for clip in range(clips):
        own = slope + scatter * abs(slope) * rng.standard_normal() + 1e-4 * rng.standard_normal()
        for t in (0.05, 0.5):
            for gain in gains:
                weight = 0.3 * math.exp(own * gain)
                rows.append({"clip": f"clip-{clip:03d}", "t": t, "gain_db": gain, "sample_weight": weight})
    return replace(result, gain=rows)


def effect(result: ProbeResult):
    return explain(result, resamples=100)


# In the confounded cases ln w has the standard deviation 0.4 between clips and loudness about 6.2 dB.
CAUSING = 0.4 / 6.2


def test_the_factor_and_the_share_are_what_was_put_in():
    gain = effect(turned(make_result("loudness"), CAUSING)).gain
    assert gain.clips == 16
    assert [t for t, _ in gain.levels] == [0.05, 0.5]
    assert all(factor.value == pytest.approx(math.exp(6 * CAUSING), rel=0.01) for _, factor in gain.levels)
    assert gain.per_step.value == pytest.approx(math.exp(6 * CAUSING), rel=0.01)
    assert gain.per_step.low < gain.per_step.value < gain.per_step.high
    assert gain.share.value == pytest.approx(0.9, abs=0.15)
    half = effect(turned(make_result("loudness"), CAUSING / 2)).gain
    assert half.share.value == pytest.approx(gain.share.value / 4, rel=0.15)


def test_it_alone_says_that_a_weight_goes_by_loudness():
    confounded = make_result("confounded")  # loudness and structure go together: watching cannot tell them apart
    assert not hears_loudness(effect(confounded))
    loud = verdict(effect(turned(confounded, CAUSING)))
    assert loud.headline == "It acts at every noise level; it weighs by loudness."
    sentence = next(finding.text for finding in loud.findings if finding.code == "loudness")
    assert "Turning a clip up by 6 dB multiplies its weight by 1.47 (16 clips)" in sentence
    assert loud.recommendation.changes["options"] == {"energy": "relative"}
    assert loud.recommendation.probe_again
    deaf = verdict(effect(turned(confounded, 0.0)))
    assert "loudness" not in deaf.headline
    assert "multiplies its weight by 1.00 (16 clips)" in " ".join(deaf.sentences)
    assert "energy" not in deaf.recommendation.weighting["options"]


def test_a_preference_for_quiet_clips_is_one_for_loudness():
    quiet = effect(turned(make_result("quiet"), -CAUSING))
    assert quiet.gain.per_step.value < 1
    assert quiet.gain.share.low > 0.5
    assert hears_loudness(quiet)


@pytest.mark.parametrize(
    ("sample", "options", "change"),
    [
        ("entropy_barrier", {}, {"options": {"energy": "relative"}}),
        (
            "entropy_barrier",
            {"energy": "relative"},
            {key: RECOMMENDED_WEIGHTING[key] for key in ("sample", "options")},
        ),
        ("recurrence_barrier", {}, {}),
    ],
)
def test_what_goes_by_loudness_gets_a_statistic_that_ignores_gain(sample, options, change):
    result = turned(make_result("loudness", sample=sample, options=options, kinds=False), CAUSING)
    recommendation = verdict(effect(result)).recommendation
    assert {key: value for key, value in recommendation.changes.items() if key != "normalisation"} == change
    assert recommendation.probe_again == bool(change)
    if not change:
        assert "equal loudness" in recommendation.reason


@pytest.mark.parametrize("clips", [0, 1, 3])
def test_too_few_clips_are_no_experiment(clips):
    assert effect(turned(make_result("loudness"), CAUSING, clips=clips)).gain is None


def test_clips_of_one_loudness_have_no_share_but_a_factor():
    result = make_result("structure")
    even = replace(result, rows=[{**row, "loudness_db": -20.0, "latent_db": -3.0} for row in result.rows])
    gain = effect(turned(even, CAUSING)).gain
    assert gain.share.value is None
    assert gain.per_step.value > 1.3
    assert "multiplies its weight" in " ".join(verdict(effect(turned(even, CAUSING))).sentences)


def test_weights_that_are_missing_or_zero():
    result = turned(make_result("loudness"), CAUSING)
    rows = [{**row} for row in result.gain]
    rows[0]["sample_weight"] = None
    rows[40]["sample_weight"] = 0.0
    gain = effect(replace(result, gain=rows)).gain
    assert gain.clips == 15
    assert math.isfinite(gain.per_step.value)


def test_it_is_saved_and_read_again(tmp_path):
    result = turned(make_result("loudness"), CAUSING)
    assert load_result(result.save(tmp_path)).gain == result.gain
