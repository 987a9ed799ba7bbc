"""Judges the estimators of class-conditional entropy, and the paper's statements on exact mixtures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from eisbach.files import read_json
from eisbach.studies.contract import ClaimResult, Effect
from eisbach.studies.judging import interval_effect, judged

STEPS, GOAL = 64, 0.05
"""The chain is asked for a largest error below GOAL nats with STEPS steps."""


def judge(folder: Path) -> list[ClaimResult]:
    """All claims from `signature_exact.json`."""
    report = read_json(folder / "signature_exact.json", "records")
    return [_chain(report["errors"]), _rate(report["rate_relative_error"]), _guidance(report["guidance"]),
            *_speciation(report["speciation"])]  # fmt: skip


def _chain(rows: list[dict[str, Any]]) -> ClaimResult:
    steps = min(STEPS, max(row["steps"] for row in rows))
    errors = [row["extrapolated"] for row in rows if row["steps"] == steps]
    plain = [row["plain"] for row in rows if row["steps"] == steps]
    effects = [
        Effect(name=f"largest error over levels and mixtures, {steps} steps, extrapolated", value=max(errors),
        unit="nats", n=len(errors)),
        Effect(name="median of it", value=float(np.median(errors)), unit="nats"),
        Effect(name="largest error without extrapolation", value=max(plain), unit="nats"),
    ]  # fmt: skip
    return judged("chain-converges", effects, supported=max(errors) < GOAL, refuted=min(errors) > GOAL)


def _rate(errors: dict[str, float]) -> ClaimResult:
    worst = max(errors.values())
    effect = Effect(name="largest relative error over four paths", value=100 * worst, unit="%", n=len(errors))
    return judged("rate-formula", [effect], supported=worst < 0.02, refuted=worst > 0.1)


def _guidance(rows: list[dict[str, Any]]) -> ClaimResult:
    half = {(row["scale"], tuple(row["interval"] or ())): row for row in rows}
    plain, strong = half[1.0, ()], half[4.0, ()]
    effects = [
        interval_effect(
            f"half time t at guidance {row['scale']:g}{' within t ' + str(row['interval']) if row['interval'] else ''}",
            row["half_t_chain"],
            row["half_t_chain_95"],
            "t",
        )
        for row in (strong, plain, *(row for row in rows if row not in (strong, plain)))
        if row["half_t_chain"] is not None
    ]
    apart = strong["half_t_chain_95"][0], plain["half_t_chain_95"][1]
    known = None not in apart
    return judged(
        "guidance-decides-earlier", effects, supported=known and apart[0] > apart[1],
        refuted=known and strong["half_t_chain_95"][1] < plain["half_t_chain_95"][0],
    )  # fmt: skip


def _speciation(report: dict[str, Any]) -> list[ClaimResult]:
    exact, chain, sigma = (report[f"slope_{name}"] for name in ("exact", "chain", "ln_sigma"))
    rows = report["rows"]

    def slope(name: str, fit: dict[str, float]) -> Effect:
        return Effect(name=name, value=fit["slope"], low=fit["slope_lo"], high=fit["slope_hi"], n=len(rows))

    first, last = rows[0], rows[-1]
    inside = sum(
        row["tau_half_chain_95"][0] <= row["tau_half"] <= row["tau_half_chain_95"][1]
        for row in rows
        if None not in row["tau_half_chain_95"]
    )
    return [
        judged(
            "speciation-vp",
            [slope("slope of the time over ½ ln d, closed form", exact), slope("slope read by the chain", chain),
             Effect(name="chain's interval holds the exact time in", value=inside, unit=f"of {len(rows)} dimensions")],
            supported=abs(exact["slope"] - 1) < 0.01 and abs(chain["slope"] - 1) < 0.1,
            refuted=abs(exact["slope"] - 1) > 0.1,
        ),
        judged(
            "sharpening-vp",
            [Effect(name=f"relative width at d = {last['dim']}", value=last["relative_width"]),
             Effect(name=f"relative width at d = {first['dim']}", value=first["relative_width"])],
            supported=last["relative_width"] < 0.5 * first["relative_width"],
            refuted=last["relative_width"] >= first["relative_width"],
        ),
        judged(
            "no-sharpening-edm",
            [Effect(name=f"width in ln σ at d = {last['dim']}", value=last["log_sigma_width"]),
             Effect(name=f"width in ln σ at d = {rows[len(rows) // 2]['dim']}",
             value=rows[len(rows) // 2]["log_sigma_width"]),
             slope("slope of ln σ over ½ ln d", sigma)],
            supported=abs(last["log_sigma_width"] / rows[len(rows) // 2]["log_sigma_width"] - 1) < 0.05,
            refuted=last["log_sigma_width"] < 0.5 * rows[len(rows) // 2]["log_sigma_width"],
        ),
    ]  # fmt: skip
