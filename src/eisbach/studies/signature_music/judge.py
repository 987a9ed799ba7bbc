"""Judges the order in which register, instrument and tempo are decided, over wordings of the prompts."""

from __future__ import annotations

from pathlib import Path

from eisbach.files import read_json
from eisbach.studies.contract import ClaimResult
from eisbach.studies.judging import high, interval_effect, judged, low, not_run

CLAIMS = {"instrument-before-tempo": "instrument minus tempo", "register-before-tempo": "register minus tempo"}


def judge(folder: Path) -> list[ClaimResult]:
    """All claims from `wordings.json`, by the chain reading; the rate reading stands beside."""
    report = read_json(folder / "wordings.json", "records")["half_t"]
    claims = []
    for key, name in CLAIMS.items():
        chain, rate = report["chain"][name], report["rate"][name]
        if chain["mean"] is None:
            claims.append(not_run(key, "A wording has no half time."))
            continue
        count = len(chain["by_wording"])
        effects = [interval_effect(f"half time, {name} (chain)", chain["mean"], chain["over_wordings"], "t", n=count)]
        if rate["mean"] is not None:
            effects.append(
                interval_effect(f"half time, {name} (rate)", rate["mean"], rate["over_wordings"], "t", n=count)
            )
        claims.append(
            judged(
                key,
                effects,
                supported=low(effects[0]) > 0,
                refuted=high(effects[0]) < 0,
                note=f"In this order in {chain['cells_above_0']} of {len(chain['by_cell'])} cells of wording and seed.",
            )
        )
    return claims
