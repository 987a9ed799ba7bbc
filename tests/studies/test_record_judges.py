"""The judges of studies whose records are summaries, on summaries whose truth is known."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from eisbach.studies.belief_auc.judge import judge as judge_beliefs
from eisbach.studies.contract import load_study
from eisbach.studies.ground_truth.judge import judge as judge_metrics

NAMES = ("entropy (paper)", "recurrence R^4, 3 s", "development")
KINDS = ("drone", "loop 1.5-3 s", "loop 12-16 s", "unseen wind", "texture")


def beliefs(folder: Path, **low: float) -> dict[str, str]:
    """Verdicts where every AUC is .99 up to t = .8 and .5 beyond, but `low`: of the development barrier at .8, by
    kind."""
    table = []
    for name in NAMES:
        for t in (0.1, 0.6, 0.8, 0.95):
            values = dict.fromkeys(KINDS, 0.5 if t > 0.9 else 0.99)
            if (name, t) == ("development", 0.8):
                values |= {kind.replace("_", " "): value for kind, value in low.items()}
            cells = {kind: {"auc": value, "interval": [value - 0.005, value + 0.005]} for kind, value in values.items()}
            table.append({"weighting": name, "t": t, "cells": cells, "mean_developing": 0.4})
    folder.mkdir()
    (folder / "belief_auc.json").write_text(json.dumps({"sections": {"a": {"table": table}}}))
    return {claim.key: claim.verdict for claim in judge_beliefs(folder)}


def test_a_belief_is_asked_for_each_kind_that_was_tried(tmp_path: Path) -> None:
    assert beliefs(tmp_path / "all")["development-sees-flatness"] == "supported"
    assert beliefs(tmp_path / "one", unseen_wind=0.7)["development-sees-flatness"] == "refuted"
    assert beliefs(tmp_path / "near", drone=0.802)["development-sees-flatness"] == "inconclusive"
    assert beliefs(tmp_path / "sum", texture=0.7)["development-sees-flatness"] == "supported"  # of several kinds


@pytest.fixture
def records(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    folder = load_study("ground_truth").folder / "records"
    for file in folder.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path, json.loads((folder / "invariances.json").read_text())


def test_only_what_is_promised_can_be_broken(records: tuple[Path, dict[str, Any]]) -> None:
    folder, report = records

    def found(declared: str) -> tuple[str, float, str]:
        changed = copy.deepcopy(report)
        next(row for row in changed["outcomes"] if row["declared"] == declared)["broken"] = 3
        (folder / "invariances.json").write_text(json.dumps(changed))
        claim = next(claim for claim in judge_metrics(folder) if claim.key == "invariances-kept")
        return claim.verdict, claim.effects[0].value, claim.effects[0].unit

    promised = sum(row["pieces"] for row in report["outcomes"] if row["declared"] != "no")
    assert found("no") == ("supported", 0, f"of {promised} comparisons")
    assert found("exact") == ("refuted", 3, f"of {promised} comparisons")


def test_a_printed_dimension_points_the_way_of_its_ladder(records: tuple[Path, dict[str, Any]]) -> None:
    """The share of PC 1 rises with contrast on its ladder, so reading real scores above surrogates is right."""
    folder, _ = records
    report = json.loads((folder / "real.json").read_text())
    report["metrics"].pop("paper_peak_to_valley")
    (folder / "real.json").write_text(json.dumps(report))
    claim = next(claim for claim in judge_metrics(folder) if claim.key == "as-printed-on-real")
    assert claim.note.endswith("pointing the wrong way: none.")
    assert claim.verdict == "inconclusive"  # drones it does not tell
