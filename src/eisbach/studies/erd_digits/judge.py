"""Judges trainings on digits: each declared comparison in the first run and, where it is there, in its repetition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.config import build_config
from eisbach.files import read_jsonl
from eisbach.studies.contract import ClaimResult, Effect
from eisbach.studies.erd_digits.comparison import summarise
from eisbach.studies.erd_digits.spec import DigitsConfig
from eisbach.studies.judging import ALPHA, judged, not_run

CLAIMS = {
    "erd-constant": ("erd", "constant"),
    "erd-min-snr": ("erd", "min_snr"),
    "erd-p2": ("erd", "p2"),
    "barrier-constant": ("entropy_barrier", "constant"),
}
"""Claim to arm and baseline."""


def judge(folder: Path) -> list[ClaimResult]:
    """All claims from `records.jsonl`, and from `replication.jsonl` where it is there."""
    first = read_jsonl(folder / "records.jsonl", "records")
    runs = {"": first}
    if (folder / "replication.jsonl").is_file():
        again = read_jsonl(folder / "replication.jsonl", "records")
        runs |= {", repeated with other seeds": again, ", both together": [*first, *again]}
    tables = {name: _comparisons(rows) for name, rows in runs.items()}
    return [_claim(key, *pair, tables) for key, pair in CLAIMS.items()]


def _comparisons(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    names = {key: sorted({row[key] for row in rows}) for key in ("backbone", "target", "arm")}
    config = build_config(
        DigitsConfig,
        {
            "backbones": names["backbone"],
            "targets": names["target"],
            "arms": [arm for arm in names["arm"] if arm != "entropy_barrier"],
            "barrier": names["backbone"] if "entropy_barrier" in names["arm"] else [],
        },
    )
    comparisons: list[dict[str, Any]] = summarise(rows, config, floor={}, classifier=0.0)["comparisons"]
    return comparisons


def _claim(key: str, arm: str, baseline: str, tables: dict[str, list[dict[str, Any]]]) -> ClaimResult:
    entries = {
        name: entry["log_frechet"]
        for name, table in tables.items()
        for entry in table
        if (entry["arm"], entry["baseline"]) == (arm, baseline) and entry["log_frechet"]["mean"] is not None
    }
    if not entries:
        return not_run(key)
    effects = [_effect(f"Fréchet distance, {arm} against {baseline}{name}", entry) for name, entry in entries.items()]
    independent = [entry for name, entry in entries.items() if "together" not in name]
    return judged(
        key, effects,
        supported=all(_shown(entry, -1) for entry in independent),
        refuted=all(_shown(entry, 1) for entry in independent),
        note=f"Lower in {independent[0]['lower_in']} of {independent[0]['settings']} settings in the first run.",
    )  # fmt: skip


def _shown(entry: dict[str, Any], sign: int) -> bool:
    """Whether the declared test shows a difference of this sign."""
    p, ends = entry.get("p_holm", entry["p"]), entry["interval"]
    return p is not None and ends is not None and p < ALPHA and sign * ends[0] > 0 and sign * ends[1] > 0


def _effect(name: str, entry: dict[str, Any]) -> Effect:
    """A difference of logarithms as a change in per cent."""
    ends = entry["interval"]
    return Effect(
        name=name,
        value=100 * float(np.expm1(entry["mean"])),
        low=None if ends is None else 100 * float(np.expm1(ends[0])),
        high=None if ends is None else 100 * float(np.expm1(ends[1])),
        unit="%",
        p=entry.get("p_holm", entry["p"]),
        n=entry["settings"],
    )
