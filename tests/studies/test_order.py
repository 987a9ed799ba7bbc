"""The study of order: cuts that keep what they cut, AUC against scipy's, and a run that continues."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from eisbach.audio import audio_hash, write_audio
from eisbach.config import build_config
from eisbach.data.manifest import MANIFEST_NAME, Manifest, ManifestRow, save_manifest
from eisbach.studies.ground_truth import synthetic
from eisbach.studies.order import judge as judge_module
from eisbach.studies.order import run as module

RATE = 1000


@pytest.mark.parametrize("name", [name for name in module.CUTS if name not in ("bars", "sections")])
def test_a_cut_keeps_what_it_cuts_and_moves_it(name: str) -> None:
    samples = np.arange(32 * RATE, dtype=np.float32)[None]
    shuffled = module.CUTS[name](samples, RATE, np.random.default_rng(3))
    # away from the fades every sample comes from somewhere in the original, once
    steps = np.diff(shuffled[0])
    assert np.isin(np.unique(shuffled), samples).mean() > 0.95
    assert len(np.unique(shuffled)) == pytest.approx(shuffled.shape[1], rel=0.02)
    # every join jumps: no piece comes behind its own predecessor
    joins = np.flatnonzero(np.abs(steps) > RATE // 2)
    assert len(joins) >= 3


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_pieces_come_back_as_they_are(count: int) -> None:
    samples = np.arange(4 * RATE, dtype=np.float32)[None]
    edges = np.linspace(0, 4 * RATE, count + 1)[1:-1].astype(int)
    assert module._at(edges, samples, RATE, np.random.default_rng(0)) is samples


def test_auc_is_that_of_mann_and_whitney_and_undefined_readings_are_left_out() -> None:
    rng = np.random.default_rng(5)
    original, shuffled = rng.integers(0, 9, 40) / 8 + 0.2, rng.integers(0, 9, 40) / 8
    hands = np.array([f"hand {i % 7}" for i in range(40)])
    shuffled[3], original[9] = np.nan, np.nan
    table = module.judged(original, shuffled, hands, draws=50)
    defined = np.delete(np.arange(40), [3, 9])
    statistic = mannwhitneyu(original[defined], shuffled[defined]).statistic
    assert table["auc"] == round(statistic / len(defined) ** 2, 3)
    assert (table["excerpts"], table["hands"]) == (38, 7)
    low, high = table["interval"]  # type: ignore[misc]
    assert low < table["auc"] < high
    assert module.judged(original[:1], shuffled[:1], hands[:1])["interval"] is None
    assert module.judged(original[9:10], shuffled[9:10], hands[:1])["auc"] is None


@pytest.mark.slow
def test_a_run_measures_a_manifest_once_and_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    for seed in range(3):
        path = tmp_path / f"{seed}.wav"
        write_audio(path, synthetic.form("ABACAB", 4.3, seed))
        labels = {"piece": f"hand {seed}", "style": "forms"}
        rows.append(ManifestRow(str(seed), path.name, "a form", 25.8, labels, audio_hash(path)))
    save_manifest(Manifest(rows, tmp_path), tmp_path / MANIFEST_NAME)
    monkeypatch.setattr(module, "CUTS", {name: module.CUTS[name] for name in ("2 s", "4 s", "sections")})
    settings = build_config(module.Settings, {"recordings": str(tmp_path), "section": "mine"})
    module.run(settings, tmp_path / "out", quiet=True)
    records = json.loads((tmp_path / "out" / "order.json").read_text())
    assert set(records["sections"]["mine"]) == {"all", "forms"}
    assert records["sections"]["mine"]["all"]["2 s"]["auc"] == 1.0  # a form that returns, cut in pieces of 2 s
    monkeypatch.setattr(module, "readings", None)  # nothing is left to measure
    other = build_config(module.Settings, {"recordings": str(tmp_path), "section": "again"})
    module.run(other, tmp_path / "out", quiet=True)
    sections = json.loads((tmp_path / "out" / "order.json").read_text())["sections"]
    assert sections["again"] == sections["mine"]
    verdicts = {claim.key: claim.verdict for claim in judge_module.judge(tmp_path / "out")}
    assert set(verdicts) == {"short-pieces-heard", "sections-heard"}
