import numpy as np
import pytest

from eisbach.errors import UserError
from eisbach.statistics.comparison import compare_arms
from eisbach.statistics.paired import mixed_model_check


def make(prompts=16, seeds=3, models=(0,), effect=0.7, tilt=1.0, drift=0.0):
    rng = np.random.default_rng(1)
    by_prompt = rng.normal(0, tilt, prompts)
    rows = []
    for model in models:
        shift = rng.normal(0, drift)
        for p in range(prompts):
            for s in range(seeds):
                base = float(rng.normal())
                gain = effect + by_prompt[p] + shift + float(rng.normal(0, 0.7))
                keys = {"train_seed": model, "prompt_id": f"p{p}", "seed": s, "path": "x"}
                rows += [{"arm": "a", "m": base, **keys}, {"arm": "b", "m": base + gain, **keys}]
    return rows


def test_it_agrees_with_the_paired_comparison():
    rows = make()
    check, found = mixed_model_check(rows, "m", "a", "b"), compare_arms(rows, "m", "a", "b")
    assert check.converged
    assert check.difference == pytest.approx(found.difference, abs=1e-6)
    assert check.interval == pytest.approx(found.t_interval, abs=0.12)
    assert check.p == pytest.approx(found.p, abs=0.03)


def test_trained_models_widen_it_as_they_widen_the_comparison():
    rows = make(prompts=6, seeds=2, models=(0, 1, 2, 3), drift=1.0, tilt=0.5)
    check, found = mixed_model_check(rows, "m", "a", "b"), compare_arms(rows, "m", "a", "b")
    assert check.difference == pytest.approx(found.difference, abs=1e-3)
    width = check.interval[1] - check.interval[0]
    assert width == pytest.approx(found.interval[1] - found.interval[0], rel=0.35)


@pytest.mark.parametrize("shape", [{"prompts": 2}, {"seeds": 1}])
def test_too_little_data_is_refused(shape):
    with pytest.raises(UserError, match="mixed model needs"):
        mixed_model_check(make(**shape), "m", "a", "b")
