"""Judges whether order is heard: AUC of recordings against themselves, cut and shuffled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eisbach.files import read_json
from eisbach.studies.contract import ClaimResult, Effect
from eisbach.studies.judging import high, interval_effect, judged, low, not_run

SECTION = "held-out packages"
"""Music that nothing was chosen on; a run without it is judged on its first section."""
_GOALS = {"2 s": 0.90, "4 s": 0.80}
_SECTIONS_GOAL = 0.80


def judge(folder: Path) -> list[ClaimResult]:
    """Both claims from `order.json`."""
    sections = read_json(folder / "order.json", "records")["sections"]
    chosen = sections.get(SECTION) or next(iter(sections.values()))
    others = {name: table["all"] for name, table in sections.items() if table is not chosen}
    return [
        _claim("short-pieces-heard", chosen["all"], _GOALS, ("8 s", "1 to 3 s", "bars"), others),
        _claim("sections-heard", chosen["all"], {"sections": _SECTIONS_GOAL}, (), others),
    ]


def _claim(
    key: str, table: dict[str, Any], goals: dict[str, float], beside: tuple[str, ...], others: dict[str, dict[str, Any]]
) -> ClaimResult:
    """Supported where every interval lies above its goal, refuted where one lies below."""
    deciding = [_effect(table, cut) for cut in goals]
    effects = [effect for effect in deciding if effect is not None]
    if len(effects) < len(goals):
        return not_run(key, "The measure is undefined on these clips.")
    pairs = list(zip(effects, goals.values(), strict=True))
    shown = [_effect(table, cut) for cut in beside if cut in table]
    shown += [_effect(other, cut, f", {name}") for name, other in others.items() for cut in goals]
    return judged(
        key, [*effects, *(effect for effect in shown if effect is not None)],
        supported=all(low(effect) > goal for effect, goal in pairs),
        refuted=any(high(effect) < goal for effect, goal in pairs),
        note=f"Goal: {', '.join(f'{goal:g} for {cut}' for cut, goal in goals.items())}.",
    )  # fmt: skip


def _effect(table: dict[str, Any], cut: str, where: str = "") -> Effect | None:
    entry = table[cut]
    if entry["auc"] is None:
        return None
    name = f"AUC of originals above their pieces shuffled, {cut}{where}"
    return interval_effect(name, entry["auc"], entry["interval"], n=entry["hands"])
