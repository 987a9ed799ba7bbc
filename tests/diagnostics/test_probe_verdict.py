import json

import pytest
import yaml
from probe_cases import make_result

from eisbach.config import build_config
from eisbach.diagnostics.probe.explain import explain
from eisbach.diagnostics.probe.grid import number, percent, where
from eisbach.diagnostics.probe.verdict import verdict
from eisbach.training.config import WeightingConfig
from eisbach.weighting import build_weighting

_CASES = {
    "loudness": {"follows": "loudness"},
    "quiet": {"follows": "quiet", "acts_below": 0.5},
    "middle": {"follows": "middle", "sample": "recurrence_barrier"},
    "structure": {"follows": "structure"},
    "nested": {"follows": "nested"},
    "confounded": {"follows": "confounded"},
    "both": {"follows": "both", "options": {"energy": "relative"}},
    "nothing": {"follows": "nothing"},
    "eq5": {"follows": "loudness", "reduction": "batch", "spread": 0.1},
    "level": {"follows": "structure", "level_slope": -3.0, "spread": 0.15},
    "noise_only": {"sample": "none", "noise_level": "min_snr"},
    "none": {"sample": "none"},
    "diluted": {"follows": "structure", "strength": 0.2},
    "equal": {"follows": "equal"},
    "few": {"follows": "loudness", "clips": 6},
    "remembered": {"follows": "structure", "level_slope": -3.0, "sample": "development_barrier",
                   "options": {"memory": {"below": 0.6}}},
}  # fmt: skip


@pytest.fixture(scope="module")
def said():
    made = {}

    def get(name):
        if name not in made:
            made[name] = verdict(explain(make_result(**{"clips": 32, **_CASES[name]}), resamples=80))
        return made[name]

    return get


def text_of(one, code):
    (found,) = [finding.text for finding in one.findings if finding.code == code]
    return found


def test_the_headline_says_where_it_acts(said):
    assert said("loudness").headline == "It acts at every noise level."
    assert said("quiet").headline == "It acts from t = 0.05 to 0.35."


@pytest.mark.parametrize("name", ["loudness", "quiet", "confounded", "structure"])
def test_no_cause_is_claimed_without_the_experiment(said, name):
    assert {"loudness", "gain"}.isdisjoint(said(name).codes)
    assert "loudness" not in " ".join([said(name).headline, *said(name).sentences])
    assert "energy" not in said(name).recommendation.weighting["options"]


def test_eq5_is_a_constant(said):
    one = said("eq5")
    assert one.codes[0] == "constant"
    assert one.headline == "This weighting is a constant here."
    assert "gives every clip of a step the same factor" in one.sentences[0]
    assert "under AdamW the update is 0.99 times the plain one and 0.4° away from it" in one.sentences[0]
    assert "gradients of two batches: 80°" in one.sentences[0]
    assert one.recommendation.weighting["reduction"] == "sample"


def test_a_noise_level_weight_in_disguise(said):
    one = said("level")
    assert "mostly a noise-level weight" in text_of(one, "noise_level")
    means = one.recommendation.weighting["options"]["level_means"]
    assert [t for t, _ in means] == [0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95]
    assert means[0][1] > 5 * means[-1][1]
    assert one.recommendation.weighting["normalisation"] == "none"  # those weights average 1 already


def test_a_noise_level_weighting_prefers_no_clip(said):
    assert said("noise_only").codes == ["noise_level_only"]
    assert "largest at t = 0.05" in said("noise_only").sentences[0]
    assert said("none").codes == ["no_weighting"]
    assert said("none").recommendation.changes == {}


def test_dilution_and_uselessness_are_told_apart(said):
    assert "before strength 0.2 dilutes them" in text_of(said("diluted"), "constant")
    assert said("diluted").recommendation.weighting["strength"] == 1.0
    assert "sample: none gives the same result" in said("equal").recommendation.reason


def test_few_clips_are_said_first(said):
    one = said("few")
    assert one.codes[0] == "few_clips"
    assert "drone, too few clips (1)" in text_of(one, "labels")


def test_labels_are_named_up_to_their_noise_level():
    result = make_result("nothing", clips=40)
    for row in result.rows:
        if row["label.kind"] == "drone" and row["t"] <= 0.5:
            row["sample_weight"] *= 0.01
        if row["label.kind"] == "loop" and row["t"] < 0.5:
            row["sample_weight"] *= 50
    found = verdict(explain(result, resamples=50))
    text = text_of(found, "labels")
    assert "drone up to t = 0.5" in text
    assert "loop not (farthest from chance at t = 0.05, 0.00)" in text
    assert "gate_below" not in found.recommendation.weighting["options"]  # a gate gained nothing: study `gated`


@pytest.mark.parametrize("name", list(_CASES))
def test_every_recommended_setting_can_be_built_and_pasted(said, name):
    recommendation = said(name).recommendation
    group = yaml.safe_load(recommendation.yaml)["weighting"]
    config = build_config(WeightingConfig, group)
    options = dict(config.options)
    build_weighting(
        config.sample, config.noise_level, reduction=config.reduction, normalisation=config.normalisation,
        strength=config.strength, latent_rate=5.4, path="linear", **options,
    )  # fmt: skip
    assert recommendation.reason.endswith(".")
    assert all(text.endswith(".") for text in said(name).sentences)
    assert "95%" not in " ".join(said(name).sentences)  # intervals stand in the tables
    assert "nan" not in " ".join(said(name).sentences).lower().replace("dominant", "")
    json.dumps(said(name).to_json(), allow_nan=False)


def test_a_remembered_weight_is_no_noise_level_weight(said):
    plain, remembered = said("level"), said("remembered")
    assert "noise_level" in plain.codes
    assert "noise_level" not in remembered.codes
    assert "noise-level weight" not in remembered.headline
    assert "a training remembers what it reads of a clip at t < 0.6" in text_of(remembered, "memory")
    assert "level_means" not in remembered.recommendation.weighting["options"]
    assert remembered.recommendation.weighting["normalisation"] == "none"


def test_wording():
    assert [percent(x) for x in (0.814, 0.023, 0.0004, 0.0, None)] == ["81%", "2.3%", "0.04%", "0%", "–"]
    assert (number(-0.001), number(-0.5), number(None)) == ("0.00", "−0.50", "–")
    levels = [0.1, 0.3, 0.5, 0.7]
    assert where([0.1, 0.3], levels) == "from t = 0.1 to 0.3"
    assert where([0.5, 0.7], levels) == "from t = 0.5 to 0.7"
    assert where([0.3, 0.5], levels) == "from t = 0.3 to 0.5"
    assert where([0.1, 0.5], levels) == "at t = 0.1, 0.5"
    assert where(levels, levels) == "at every noise level"
