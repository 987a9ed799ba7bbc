import json

import numpy as np
import pytest

from eisbach.errors import UserError
from eisbach.experiments.measures import FLAT
from eisbach.statistics.records import MetricInfo
from eisbach.statistics.results import evaluate

METRICS = [FLAT, MetricInfo("level", "level", unit="dB")]


def make(arms, models=(0,), prompts=4):
    rng = np.random.default_rng(0)
    return [
        {"arm": arm, "train_seed": m, "prompt_id": f"p{p}", "seed": s, "path": "x",
        "is_flat": bool(rng.random() < share),
         "level": None if p == 3 else float(rng.normal())}
        for arm, share in arms.items() for m in models for p in range(prompts) for s in range(2)
    ]  # fmt: skip


def test_everything_is_there_and_is_json(tmp_path):
    rows = make({"plain": 1.0, "arm": 0.5, "oracle": 0.0})
    results = evaluate(rows, METRICS, "plain", oracle="oracle", n_resamples=200)
    assert [(one.arm, one.metric) for one in results.comparisons] == [
        (arm, info.name) for arm in ("arm", "oracle") for info in METRICS
    ]
    assert [one.arm for one in results.recovered] == ["arm"]
    assert results.headline == FLAT
    assert results.checkpoint_comparisons == []
    results.save(tmp_path / "statistics.json")
    assert json.loads((tmp_path / "statistics.json").read_text()) == json.loads(json.dumps(results.to_json()))


def test_undefined_values_are_null_in_json():
    rows = [row | {"prompt_id": row["arm"] + row["prompt_id"]} for row in make({"a": 1.0, "b": 0.0})]
    values = evaluate(rows, METRICS, "a", n_resamples=50).to_json()
    assert values["comparisons"][0]["difference"] is None
    json.dumps(values, allow_nan=False)


def test_several_trainings_also_give_the_checkpoints_own_comparison():
    rows = make({"plain": 0.9, "arm": 0.1}, models=(0, 1, 2))
    results = evaluate(rows, METRICS, "plain", n_resamples=100)
    assert {one.unit for one in results.comparisons} == {"trained model"}
    assert {one.unit for one in results.checkpoint_comparisons} == {"prompt"}


def test_an_unmatched_arm_is_compared_by_clip_beside_paired_ones():
    rows = make({"a": 0.9, "b": 0.1}) + [r | {"prompt_id": f"x{r['prompt_id']}"} for r in make({"c": 0.5})]
    results = evaluate(rows, METRICS, "a", unmatched=["c"], n_resamples=100)
    assert {(one.arm, one.unit) for one in results.comparisons} == {("b", "prompt"), ("c", "clip")}
    assert results.unmatched_arms == ["c"]


def test_the_baseline_leads_and_unknown_arms_are_refused():
    rows = make({"a": 0.9, "b": 0.1})
    assert evaluate(rows, METRICS, "b", n_resamples=50).arms == ["b", "a"]
    for options, said in [({"oracle": "z"}, "oracle 'z'"), ({"arms": ["a", "q"]}, "arm 'q'")]:
        with pytest.raises(UserError, match=said):
            evaluate(rows, METRICS, "a", **options)
    with pytest.raises(UserError, match="baseline 'z'"):
        evaluate(rows, METRICS, "z")
    with pytest.raises(UserError, match="at least two arms"):
        evaluate(make({"a": 1.0}), METRICS, "a")
