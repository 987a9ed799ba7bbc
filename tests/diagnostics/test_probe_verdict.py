import json

import pytest
import yaml
from probe_cases import make_result

from eisbach.config import build_config
from eisbach.diagnostics.probe.explain import explain
from eisbach.diagnostics.probe.verdict import verdict
from eisbach.diagnostics.probe.wording import number, percent, series, where
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
}


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


def test_a_loudness_driven_weighting_is_called_so(said):
    one = said("loudness")
    assert one.headline == "It acts at every noise level and prefers loud clips."
    assert "prefers loud clips" in text_of(one, "loudness")
    assert {"structure", "both", "confounded"}.isdisjoint(one.codes)
    assert one.recommendation.changes["options"] == {"energy": "relative"}
    assert one.recommendation.probe_again


def test_a_preference_for_quiet_or_middling_clips_is_named(said):
    assert said("quiet").headline == "It acts up to t = 0.35 and prefers quiet clips."
    assert "clips of middling loudness" in text_of(said("middle"), "loudness")
    # the recurrence barrier ignores gain already: another energy would not help
    assert "equal loudness" in said("middle").recommendation.reason


def test_a_structure_driven_weighting_is_not_called_loudness_driven(said):
    one = said("structure")
    assert "follows structure, not loudness" in one.headline
    assert "textural Vendi" in text_of(one, "structure")
    assert {"loudness", "both", "confounded"}.isdisjoint(one.codes)
    assert "energy" not in one.recommendation.weighting["options"]


def test_structure_that_follows_loudness_counts_as_loudness(said):
    assert "loudness" in said("nested").codes
    assert "structure" not in said("nested").codes


def test_what_cannot_be_told_apart_is_said_to_be_so(said):
    one = said("confounded")
    assert "cannot be told apart" in one.headline
    assert {"loudness", "structure", "both"}.isdisjoint(one.codes)


def test_two_causes_are_both_named(said):
    one = said("both")
    assert "both" in one.codes
    assert one.recommendation.weighting["sample"] == "recurrence_barrier"  # its energy ignores gain already
    assert "energy" not in one.recommendation.weighting["options"]


@pytest.mark.parametrize("seed", range(4))
def test_the_cause_is_found_whatever_the_draw(seed):
    for follows in ("loudness", "structure", "confounded"):
        found = verdict(explain(make_result(follows, clips=24, seed=seed, noise=0.5, kinds=False), resamples=20))
        wrong = {"loudness", "structure", "both", "confounded"} - {follows}
        assert wrong.isdisjoint(found.codes), (follows, found.headline)


def test_nothing_is_claimed_where_nothing_is_followed():
    claimed = 0
    for seed in range(5):
        found = verdict(explain(make_result("nothing", clips=16, seed=seed, kinds=False), resamples=20))
        claimed += not {"loudness", "structure", "both", "confounded"}.isdisjoint(found.codes)
    assert claimed <= 1


def test_eq5_is_a_constant_and_still_says_what_it_would_follow(said):
    one = said("eq5")
    assert one.codes[0] == "constant"
    assert "This weighting is a constant here" in one.sentences[0]
    assert "under AdamW the update is 0.99 times the plain one and 0.4° away from it" in one.sentences[0]
    assert "80° apart" in one.sentences[0]
    assert "loudness" in one.codes
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


def test_few_clips_are_said_first_and_no_cause_is_named(said):
    one = said("few")
    assert one.codes[0] == "few_clips"
    assert {"loudness", "structure", "both", "confounded", "unexplained"}.isdisjoint(one.codes)
    assert "Too few clips to say so of drone (1 clip)" in text_of(one, "labels")


def test_labels_are_named_up_to_their_noise_level():
    result = make_result("nothing", clips=40)
    for row in result.rows:
        if row["label.kind"] == "drone" and row["t"] <= 0.5:
            row["sample_weight"] *= 0.01
        if row["label.kind"] == "loop" and row["t"] < 0.5:
            row["sample_weight"] *= 50
    found = verdict(explain(result, resamples=50))
    text = text_of(found, "labels")
    assert "It tells developing material from drone up to t = 0.5 (AUC 1.00" in text
    assert "gives more weight to loop" in text
    assert 0.5 < found.recommendation.weighting["options"]["gate_below"] < 0.65


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
    assert "nan" not in " ".join(said(name).sentences).lower().replace("dominant", "")
    json.dumps(said(name).to_json(), allow_nan=False)


def test_wording():
    assert [percent(x) for x in (0.814, 0.023, 0.0004, 0.0, None)] == ["81%", "2.3%", "0.04%", "0%", "an unknown share"]
    assert (number(-0.001), number(-0.5)) == ("0.00", "−0.50")
    assert [series(x) for x in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    levels = [0.1, 0.3, 0.5, 0.7]
    assert where([0.1, 0.3], levels) == "up to t = 0.3"
    assert where([0.5, 0.7], levels) == "from t = 0.5 on"
    assert where([0.3, 0.5], levels) == "from t = 0.3 to 0.5"
    assert where([0.1, 0.5], levels) == "at t = 0.1 and 0.5"
    assert where(levels, levels) == "at every noise level"
