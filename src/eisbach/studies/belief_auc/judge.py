"""Judges what sample weights see: AUC of developing clips against each flat kind, by noise level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eisbach.files import read_json
from eisbach.studies.contract import ClaimResult, Effect
from eisbach.studies.judging import high, interval_effect, judged, low, not_run

SECTION = "test set, 30 s"
"""Scores that nothing was chosen on; a run without it is judged on its first section."""
COMBINED = {"texture", "loop 1.5-12 s"}
"""Cells of several kinds together; the claims ask for each kind."""
LOW, GOAL_LOW, HIGH, GOAL_HIGH = 0.6, 0.95, 0.8, 0.8
"""Asked for: AUC of GOAL_LOW up to t = LOW, and of GOAL_HIGH at t = HIGH."""

Rows = Mapping[tuple[str, float], Mapping[str, Any]]


def judge(folder: Path) -> list[ClaimResult]:
    """All claims from `belief_auc.json`."""
    sections = read_json(folder / "belief_auc.json", "records")["sections"]
    section = sections.get(SECTION) or next(iter(sections.values()))
    rows: Rows = {(row["weighting"], row["t"]): row for row in section["table"]}
    return [
        _goal("paper-sees-flatness", rows, "entropy (paper)"),
        _goal("recurrence-sees-flatness", rows, "recurrence R^4, 3 s"),
        _goal("development-sees-flatness", rows, "development"),
        _chance("beliefs-blind-at-high-noise", rows),
        _level_mean("development-no-level-weight", rows),
    ]


def _kinds(row: Mapping[str, Any]) -> list[str]:
    return [kind for kind in row["cells"] if kind not in COMBINED]


def _cell(row: Mapping[str, Any], kind: str, t: float) -> Effect:
    cell = row["cells"][kind]
    return interval_effect(f"AUC against {kind} at t = {t:g}", cell["auc"], cell["interval"])


def _weakest(rows: Rows, name: str, levels: Sequence[float]) -> Effect | None:
    cells = [_cell(rows[name, t], kind, t) for t in levels if (name, t) in rows for kind in _kinds(rows[name, t])]
    return min(cells, key=lambda effect: effect.value, default=None)


def _goal(key: str, rows: Rows, name: str) -> ClaimResult:
    """Supported when every interval lies above its goal, refuted when some interval lies below it."""
    levels = sorted({t for _, t in rows if 0 < t <= LOW})
    below_gate, above_gate = _weakest(rows, name, levels), _weakest(rows, name, [HIGH])
    if below_gate is None or above_gate is None:
        return not_run(key)
    pairs = [
        (_cell(rows[name, t], kind, t), goal)
        for chosen, goal in ((levels, GOAL_LOW), ([HIGH], GOAL_HIGH))
        for t in chosen
        for kind in _kinds(rows[name, t])
    ]
    above = sum(low(effect) >= goal for effect, goal in pairs)
    met = sum(effect.value >= goal for effect, goal in pairs)
    below = sum(high(effect) < goal for effect, goal in pairs)
    return judged(
        key,
        [below_gate, above_gate],
        supported=above == len(pairs),
        refuted=below > 0,
        note=f"The weakest kinds. The goal is met by the estimate in {met} and by the whole interval in {above} of "
        f"{len(pairs)} cells.",
    )


def _chance(key: str, rows: Rows) -> ClaimResult:
    names, t = ("entropy (paper)", "recurrence R^4, 3 s", "development"), 0.95
    if any((name, t) not in rows for name in names):
        return not_run(key)
    cells = [(name, _cell(rows[name, t], kind, t)) for name in names for kind in _kinds(rows[name, t])]
    effects = []
    for name in names:
        best = max((effect for owner, effect in cells if owner == name), key=lambda effect: effect.value)
        effects.append(best.model_copy(update={"name": f"{name}: best {best.name}"}))
    return judged(
        key, effects, supported=all(effect.value < GOAL_HIGH for _, effect in cells),
        refuted=any(low(effect) > GOAL_LOW for _, effect in cells),
    )  # fmt: skip


def _level_mean(key: str, rows: Rows) -> ClaimResult:
    ends = (0.1, HIGH)
    effects = []
    for name in ("development", "recurrence R^4, 3 s", "entropy (paper)"):
        if any((name, t) not in rows for t in ends):
            return not_run(key)
        first, last = (rows[name, t]["mean_developing"] for t in ends)
        effects.append(
            Effect(name=f"{name}: mean weight at t = {HIGH:g} over that at 0.1", value=last / first, unit="×")
        )
    ratio = effects[0].value
    return judged(key, effects, supported=abs(ratio - 1) < 0.1, refuted=abs(ratio - 1) > 0.5)
