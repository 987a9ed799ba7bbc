"""Judges section boundaries beside librosa's: the difference of hit rates, and none in still sounds."""

from __future__ import annotations

from pathlib import Path

from eisbach.files import read_json
from eisbach.studies.contract import ClaimResult, Effect
from eisbach.studies.judging import high, interval_effect, judged, low, not_run

OURS = "eisbach"


def judge(folder: Path) -> list[ClaimResult]:
    """All claims from `boundaries.json`."""
    report = read_json(folder / "boundaries.json", "records")
    rates = report["hit_rate"]
    sides = {
        side: [
            interval_effect(f"F at {name[2:-1]} s, {side}", entry["all"][name]["mean"], [entry["all"][name]["low"],
            entry["all"][name]["high"]])
            for name in ("f_0.5s", "f_3s")
        ]
        for side, entry in rates.items()
    }  # fmt: skip
    ours, others = sides.pop(OURS), [effect for effects in sides.values() for effect in effects]
    best = [
        max((effects[place] for effects in sides.values()), key=lambda effect: effect.value, default=None)
        for place in (0, 1)
    ]
    if None in best:
        beside = not_run("beside-librosa", "librosa was left out.")
    else:
        pairs = [(mine, other) for mine, other in zip(ours, best, strict=True) if other is not None]
        beside = judged(
            "beside-librosa", [*ours, *others],
            supported=all(low(mine) > high(other) for mine, other in pairs),
            refuted=any(high(mine) < low(other) for mine, other in pairs),
        )  # fmt: skip
    still = report["boundaries_in_still_sounds"]
    count = Effect(
        name="boundaries in drones, noise and pads",
        value=sum(still.values()),
        n=report["pieces_of_each_kind"] * len(still),
    )
    return [beside, judged("none-in-still-sounds", [count], supported=count.value == 0, refuted=count.value > 0)]
