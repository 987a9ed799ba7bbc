import numpy as np
import pytest

from eisbach.statistics.results import recovered_share


def make(means, prompts=20, noise=0.3, rng=0):
    rng = np.random.default_rng(rng)
    return [
        {
            "arm": arm,
            "train_seed": 0,
            "prompt_id": f"p{p}",
            "seed": s,
            "path": "x",
            "m": mean + float(rng.normal(0, noise)),
        }
        for arm, mean in means.items()
        for p in range(prompts)
        for s in range(2)
    ]


def test_share_is_the_ratio_of_gains_and_its_interval_holds_the_truth():
    rows = make({"plain": 0.44, "oracle": 0.06, "arm": 0.09}, noise=0.05)
    found = recovered_share(rows, "m", "plain", "oracle", "arm")
    mean = {arm: np.mean([r["m"] for r in rows if r["arm"] == arm]) for arm in ("plain", "oracle", "arm")}
    assert found.share == pytest.approx((mean["arm"] - mean["plain"]) / (mean["oracle"] - mean["plain"]))
    assert found.oracle_gain == pytest.approx(mean["oracle"] - mean["plain"])
    assert found.interval[0] < 35 / 38 < found.interval[1]
    assert found.interval[1] - found.interval[0] < 0.4
    assert (found.unit, found.n_units, found.reason) == ("prompt", 20, "")


def test_the_oracle_recovers_all_and_plain_nothing():
    rows = make({"plain": 0.0, "oracle": 2.0})
    assert recovered_share(rows, "m", "plain", "oracle", "oracle").share == pytest.approx(1.0)
    assert recovered_share(rows, "m", "plain", "oracle", "oracle").interval == pytest.approx((1.0, 1.0))
    assert recovered_share(rows, "m", "plain", "oracle", "plain").share == pytest.approx(0.0)


def test_interval_covers():
    hits = 0
    for trial in range(150):
        rows = make({"plain": 0.0, "oracle": 1.0, "arm": 0.6}, prompts=16, noise=0.5, rng=trial)
        low, high = recovered_share(rows, "m", "plain", "oracle", "arm", n_resamples=299).interval
        hits += low <= 0.6 <= high
    assert 0.87 <= hits / 150 <= 0.99


def test_a_gain_that_may_be_zero_leaves_the_share_undefined():
    rows = make({"plain": 0.0, "oracle": 0.02, "arm": 0.5}, noise=1.0)
    found = recovered_share(rows, "m", "plain", "oracle", "arm")
    assert (found.share, found.interval) == (None, None)
    assert "not clearly different from zero" in found.reason
    assert found.oracle_interval[0] < 0 < found.oracle_interval[1]


def test_one_prompt_and_no_common_prompt_say_why():
    one = recovered_share(make({"p": 0, "o": 1, "a": 1}, prompts=1), "m", "p", "o", "a")
    assert (one.share, one.reason) == (None, "only one prompt: no interval")
    rows = make({"p": 0, "o": 1}, prompts=3) + [r | {"prompt_id": "z"} for r in make({"a": 1}, prompts=1)]
    assert "no prompt and seed" in recovered_share(rows, "m", "p", "o", "a").reason


def test_it_is_repeatable():
    rows = make({"p": 0, "o": 1, "a": 0.4})
    assert recovered_share(rows, "m", "p", "o", "a", seed=3) == recovered_share(rows, "m", "p", "o", "a", seed=3)
