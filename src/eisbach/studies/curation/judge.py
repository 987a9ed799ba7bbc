"""Judges the curation experiment: what each weighting does to the share of flat pieces, and how much of the oracle's
gain that is."""

from __future__ import annotations

from pathlib import Path

from eisbach.statistics.results import recovered_share
from eisbach.studies.contract import ClaimResult
from eisbach.studies.judging import ALPHA, Arms, high, interval_effect, judged, low

MARGIN = 5.0
"""Points of flat pieces: a gain below it is none."""
ARMS = {"eq5": "eq5", "per-sample": "paper-sample", "recurrence": "recurrence"}
"""Claim to arm."""
_FLAT, _BLOCKS = "is_flat", "block_strength"
NAMES = {_FLAT: "flat pieces", _BLOCKS: "block strength"}


def judge(folder: Path) -> list[ClaimResult]:
    """All claims from `records.parquet`.

    With three trained models an arm, the method itself cannot be judged (the smallest p is 0.1), so verdicts are about
    these checkpoints, whose units are the prompts; the effect over trained models stands beside.
    """
    arms = Arms(folder, "curation")
    claims = []
    for key, arm in ARMS.items():
        flat = arms.effect(arm, _FLAT, "points", scale=100, checkpoints=True)
        blocks = arms.effect(arm, _BLOCKS, "", checkpoints=True)
        over_models = arms.effect(arm, _FLAT, "points", scale=100)
        shares = [recovered_share(arms.records, metric, "plain", "oracle", arm) for metric in (_FLAT, _BLOCKS)]
        recovered = [
            interval_effect(f"recovered share of the oracle's gain, {NAMES[share.metric]}", 100 * share.share,
                            None if share.interval is None else [100 * end for end in share.interval], "%")
            for share in shares if share.share is not None
        ]  # fmt: skip
        shown = flat.p is not None and flat.p < ALPHA and high(flat) < 0
        none = low(flat) > -MARGIN
        effects = [flat, blocks, over_models, *recovered]
        if key == "recurrence":  # the claim is about the share of the oracle's gain
            effects = [*recovered, flat, blocks, over_models]
            shown = shown and bool(recovered) and low(recovered[0]) > 50
        claims.append(judged(key, effects, supported=shown, refuted=none and not shown))
    return claims
