"""A verdict's sentences: what one is, and those about labels: which kinds the weight tells apart, and up to which noise level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from eisbach.diagnostics.probe import wording
from eisbach.diagnostics.probe.agreement import Separation
from eisbach.diagnostics.probe.association import Estimate

TELLS_AUC = 0.9
"""Two kinds are told apart from this AUC on: nine pairs of ten are ordered right."""
CHANCE_AUC = 0.65
"""Below this at every level a kind is not told from developing material."""
FEW_OF_A_KIND = 5
"""Fewer clips than this of either side say nothing about AUC: its interval spans most of 0 to 1."""


@dataclass(frozen=True)
class Finding:
    """One sentence.

    Attributes
    ----------
    code : str
        What it is about: "no_weighting", "noise_level_only", "constant", "acts", "noise_level", "loudness", "structure",
        "both", "confounded", "undecided", "unexplained", "gain", "few_clips", "same_loudness", "loss", "labels", "gradients", "prediction_1",
        "prediction_5".
    text : str
    numbers : dict
        What the sentence rests on.
    """

    code: str
    text: str
    numbers: dict[str, Any] = field(default_factory=dict)


def label_findings(separations: Sequence[Separation]) -> list[Finding]:
    """Which labels the weight tells apart, and up to which noise level."""
    found = []
    kinds = [one for one in separations if one.label == "kind"]
    told: list[str] = []
    lost: list[str] = []
    partly: list[str] = []
    turned: list[str] = []
    few: list[str] = []
    for one in kinds:
        values = [(t, auc) for t, auc in one.levels if auc.value is not None]
        if min(one.n_positive, one.n_negative) < FEW_OF_A_KIND or not values:
            few.append(f"{one.negative} ({wording.count(min(one.n_positive, one.n_negative), 'clip')})")
            continue
        upto = up_to(one)
        best = max(values, key=lambda item: item[1].value or 0.0)
        worst = min(values, key=lambda item: item[1].value or 0.0)
        if upto is not None:
            told.append(f"{one.negative} up to t = {upto[0]:g} (AUC {said_interval(upto[1])} there)")
        elif (worst[1].value or 0.0) <= 1 - TELLS_AUC and worst[1].below(0.5):
            turned.append(f"{one.negative} (AUC {said_interval(worst[1])} at t = {worst[0]:g})")
        elif (best[1].value or 0.0) < CHANCE_AUC:
            lost.append(f"{one.negative} (AUC at best {said_interval(best[1])}, at t = {best[0]:g})")
        else:
            partly.append(f"{one.negative} (AUC at best {said_interval(best[1])}, at t = {best[0]:g})")
    parts = []
    if told:
        parts.append(f"It tells developing material from {wording.series(told)}")
    if partly:
        parts.append(
            f"{'only partly from' if told else 'It only partly tells developing material from'} {wording.series(partly)}"
        )
    if lost:
        parts.append(
            f"{'not from' if told or partly else 'It does not tell developing material from'} {wording.series(lost)}"
        )
    if turned:
        parts.append(
            f"{'it' if parts else 'It'} gives more weight to {wording.series(turned)} than to developing material"
        )
    if few:
        parts.append(f"{'too' if parts else 'Too'} few clips to say so of {wording.series(few)}")
    if parts:
        found.append(
            Finding(
                "labels", "; ".join(parts) + ".", {one.negative: [[t, vars(a)] for t, a in one.levels] for one in kinds}
            )
        )
    return [*found, *(_two_values(one) for one in separations if one.label != "kind")]


def up_to(one: Separation) -> tuple[float, Estimate] | None:
    """The highest noise level up to which every AUC reaches `TELLS_AUC`, and the AUC there; None where the first fails."""
    last = None
    for t, auc in one.levels:
        if auc.value is None or auc.value < TELLS_AUC:
            break
        last = t, auc
    return last


def _two_values(one: Separation) -> Finding:
    numbers = {"levels": [[t, vars(auc)] for t, auc in one.levels]}
    names = f"{one.label} '{one.positive}' from '{one.negative}'"
    values = [(t, auc) for t, auc in one.levels if auc.value is not None]
    if min(one.n_positive, one.n_negative) < FEW_OF_A_KIND or not values:
        text = f"Too few clips to say whether it tells {names} ({one.n_positive} against {one.n_negative})."
        return Finding("labels", text, numbers)
    t, auc = max(values, key=lambda item: abs((item[1].value or 0.5) - 0.5))
    heavier = one.positive if (auc.value or 0.5) >= 0.5 else one.negative
    strength = max(auc.value or 0.5, 1 - (auc.value or 0.5))
    how = "tells" if strength >= TELLS_AUC else "does not tell" if strength < CHANCE_AUC else "partly tells"
    text = f"It {how} {names}: '{heavier}' weighs more, AUC {said_interval(auc)} at t = {t:g}, where it differs most from chance (0.5)."
    return Finding("labels", text, numbers)


def said_interval(one: Estimate) -> str:
    """A number with its interval, as a sentence says it."""
    return wording.said(one)


def said_share(one: Estimate) -> str:
    """A share in percent, with its interval where there is one."""
    if one.low is None or one.high is None:
        return wording.percent(one.value)
    return f"{wording.percent(one.value)} (95% {100 * one.low:.0f} to {100 * one.high:.0f})"
