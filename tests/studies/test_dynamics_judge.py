"""The judge of training dynamics on logs whose truth is known, and the log of a run as the judge reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eisbach.studies.barrier_dynamics import judge as module
from eisbach.studies.barrier_dynamics.run import QUICK, Settings, logged_spec, write_samples

DRAWS, STEPS, BATCH = range(100, 108), 80, 16


def log(
    path: Path,
    *,
    slope: float = 0.0,
    curation: float = 1.0,
    falls: bool = True,
    inverts: bool = True,
    by_noise: float = 1.0,
) -> dict[str, str]:
    """Verdicts on a log: the weight falls over t (`falls`) and its spread by `slope` of itself a training; a low belief
    goes with a low loss at low noise, and with a high one above (`inverts`); developing clips weigh `curation` times as
    much, and gradients at low noise `by_noise` times what they do in plain training."""
    rows: list[dict[str, Any]] = []
    count = STEPS * BATCH
    for arm in ("plain", "batch-50", "sample-100"):
        for draw in DRAWS:
            rng = np.random.default_rng([draw, len(arm)])
            share = np.repeat(np.arange(1, STEPS + 1) / STEPS, BATCH)
            t, flat, noise = rng.uniform(size=count), rng.uniform(size=count) < 0.7, rng.uniform(-1, 1, count)
            belief = 0.5 + 0.4 * noise
            sign = np.where((t > 2 / 3) & inverts, -1, 1)
            middle = 0.97 - 0.6 * np.maximum(0.0, t - 1 / 3) if falls else 0.3
            weight = np.where(flat, 1.0, curation)
            gain = np.where(t < 1 / 3, by_noise, 1.0)
            if arm == "plain":
                weight, gain, belief_or_none = np.ones(count), np.ones(count), [None] * count
            else:
                belief_or_none = belief.tolist()
            columns = {
                "share": share, "flat": flat, "t": t,
                "loss": 1 + 0.5 * sign * belief + 0.05 * rng.normal(size=count) + 3 * t, "belief": belief_or_none,
                "sample_weight": middle + 0.02 * (1 + slope * (share - 0.5)) * noise, "weight": weight,
                "gradient_norm": gain * (2 - t) * np.exp(0.1 * rng.normal(size=count)) / weight,
            }  # fmt: skip
            values = [value if isinstance(value, list) else value.tolist() for value in columns.values()]
            rows += [
                {"arm": arm, "train_seed": draw, **dict(zip(columns, row, strict=True))}
                for row in zip(*values, strict=True)
            ]
    path.mkdir()
    write_samples(path / module.SAMPLES, rows)
    return {claim.key: claim.verdict for claim in module.judge(path)}


def test_stretches_hold_equal_parts_of_a_training_whose_shares_are_in_single_precision() -> None:
    """.1 is .100000001 there: the step that ends a stretch is still its own."""
    stored = (np.arange(1, 61) / 60).astype(np.float32).astype(np.float64)
    assert stored[5] > 0.1
    nothing = np.zeros(60)
    samples = module.Samples(nothing, stored, nothing, nothing, nothing, nothing, nothing, nothing.astype(bool))
    assert np.bincount(module._stretches(samples)).tolist() == [6] * 10


@pytest.fixture(scope="module")
def as_predicted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("dynamics") / "as-predicted"
    return log(folder, slope=-0.8, curation=1.3, by_noise=1.5)


@pytest.fixture(scope="module")
def otherwise(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("dynamics") / "otherwise"
    return log(folder, falls=False, inverts=False)


def test_what_the_paper_predicts_is_supported_where_it_holds(as_predicted: dict[str, str]) -> None:
    assert set(as_predicted.values()) == {"supported"}
    assert len(as_predicted) == 9


def test_and_refuted_where_it_does_not(otherwise: dict[str, str]) -> None:
    assert {key: otherwise[key] for key in otherwise if key.endswith("per-sample")} == {
        "weight-by-noise-per-sample": "refuted",  # .3 at low noise
        "gradient-by-noise-per-sample": "refuted",  # as in plain training
        "belief-and-loss-per-sample": "inconclusive",  # the correlation does not drop
        "self-annealing-per-sample": "refuted",  # no trend
    }
    assert otherwise["curation"] == "refuted"


def test_correlations_do_not_see_that_both_follow_the_noise_level() -> None:
    rng = np.random.default_rng(0)
    t = rng.uniform(0, 1 / 3, 4000)
    nothing = np.full(len(t), np.nan)
    own = module.Samples(t, t, 10 * t + rng.normal(size=len(t)), 10 * t + rng.normal(size=len(t)),
                         nothing, nothing, nothing, t > 0)  # fmt: skip
    assert np.corrcoef(own.belief, own.loss)[0, 1] > 0.4
    assert abs(module.belief_correlation(own, False)) < 0.15
    assert np.isnan(module.belief_correlation(own, True))


def test_trends_are_taken_at_equal_noise() -> None:
    """Noise levels that drift over the training make no trend of a weight that is a function of t."""
    rng = np.random.default_rng(1)
    share = np.repeat(np.arange(1, 101) / 100, 40)
    t = np.clip(rng.uniform(size=len(share)) ** (1 + share), 0, 1)
    weight = 1 - np.floor(10 * t) / 10
    own = module.Samples(t, share, t, t, weight, weight, weight, t > 0.5)
    assert abs(module.weight_trend(own)) < 1e-9
    wider = module.Samples(t, share, t, t, weight + share * rng.normal(size=len(t)), weight, weight, t > 0.5)
    assert module.spread_trend(wider) == pytest.approx(200, rel=0.15)  # from 0 to twice its mean


def test_without_a_log_nothing_is_run(tmp_path: Path) -> None:
    assert {claim.verdict for claim in module.judge(tmp_path)} == {"not run"}


def test_the_logged_trainings_are_those_of_the_main_study() -> None:
    from eisbach.experiments.recipes import load_spec

    main, spec = load_spec("barrier_main"), logged_spec(Settings(), Path("x"))
    assert spec.arms == {arm: main.arms[arm] for arm in ("plain", "batch-50", "sample-100")}
    assert spec.train_seeds == main.train_seeds[:8]
    assert {key: value for key, value in spec.training.items() if key != "log_samples"} == main.training
    assert spec.training["log_samples"] == {"every": 2, "gradient_norms": True}
    assert spec.store == main.store
    quick = logged_spec(Settings(**QUICK), Path("x"))
    assert quick.rehearsal
    assert list(quick.arms) == ["plain", "sample-100"]


def test_rows_of_a_run_carry_labels_and_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from eisbach.experiments.cells import Cell
    from eisbach.studies.barrier_dynamics import run

    spec = logged_spec(Settings(**QUICK), tmp_path)
    cell = Cell("sample-100", 0, tmp_path, str(tmp_path / "manifest.jsonl"))
    row: dict[str, Any] = {"step": 5, "id": "flat-1", "t": 0.123456789, "loss": 1.0, "belief": None, "weight": 2.0}
    log_file = cell.folder / "train" / "sample_log.jsonl"
    log_file.parent.mkdir(parents=True)
    log_file.write_text(json.dumps(row) + "\n")

    class Row:
        id, labels = "flat-1", {"flat": "true"}

    monkeypatch.setattr(run, "load_manifest", lambda path, check_files: [Row()])
    (made,) = run._rows(spec, cell)
    assert made["share"] == 0.5
    assert made["flat"] is True
    assert made["t"] == 0.123457
    assert made["gradient_norm"] is None
    write_samples(tmp_path / module.SAMPLES, [made])
    own = module.read_samples(tmp_path / module.SAMPLES)["sample-100"][0]
    assert own.flat.tolist() == [True]
    assert np.isnan(own.belief).all()
