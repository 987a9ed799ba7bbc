"""What the page of `eisbach analyze` says on top: its title, its facts and, in words, how the sets differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from eisbach.experiments.measures import FLAT
from eisbach.report.structure.compare import Sets
from eisbach.report.wording import format_difference, format_interval, format_value
from eisbach.statistics.metric_info import MetricInfo
from eisbach.structure.metrics import METRICS
from eisbach.types import Skipped


@dataclass(frozen=True)
class Finding:
    """What stands on top of the page: a sentence, what it leads to one by one, and what else there is to say."""

    lead: str
    items: Sequence[str] = ()
    rest: str = ""


def page_title(sets: Sets) -> str:
    """The heading: which sets stand beside which."""
    names = sets.names
    if len(names) == 1:
        return f"The musical structure of {_alone(sets) or names[0]}"
    others = list(names[1:])
    said = others[0] if len(others) == 1 else f"{', '.join(others[:-1])} and {others[-1]}"
    return f"{said} beside {names[0]}"


def page_facts(sets: Sets, skipped: Sequence[Skipped]) -> list[tuple[str, str]]:
    """Counts of sets, clips, minutes and files left out."""
    minutes = sum(float(row.get("duration") or 0.0) for row in sets.records) / 60.0
    facts = [
        ("set" if len(sets.names) == 1 else "sets", str(len(sets.names))),
        ("clip" if len(sets.records) == 1 else "clips", f"{len(sets.records):,}"),
    ]
    facts.append(("minutes of audio", f"{minutes:,.0f}" if minutes >= 10 else f"{minutes:.1f}"))
    if skipped:
        facts.append(("left out", f"{len(skipped):,}"))
    return facts


def findings(sets: Sets, primary: Sequence[MetricInfo]) -> list[Finding]:
    """What can be said, one finding a set that is not the reference; of a single set its averages."""
    if sets.results is not None:
        return [_difference(sets, name, primary) for name in sets.names[1:]]
    name = sets.names[0]
    said = [
        f"{info.label} {format_value(info, sets.summaries[name, info.name].mean)}{_means(info)}"
        for info in primary
        if math.isfinite(sets.summaries[name, info.name].mean)
    ]
    if not said:
        return [
            Finding(f"None of the primary measures is defined for the clips of {name}: they are too short or silent.")
        ]
    return [
        Finding(
            f"{_alone(sets) or f'{name}, on average'}:",
            said,
            "A single set has nothing to differ from: name a second folder to compare.",
        )
    ]


def _alone(sets: Sets) -> str:
    """The name of the clip, where there is only one."""
    return str(sets.records[0]["id"]) if len(sets.records) == 1 else ""


def _difference(sets: Sets, name: str, primary: Sequence[MetricInfo]) -> Finding:
    shown, alike, leaning = [], [], []
    for info in primary:
        one = sets.comparison(name, info.name)
        if one is None or not math.isfinite(one.difference):
            continue
        if one.verdict in ("higher", "lower"):
            interval = format_interval(info, one.shown_interval)
            shown.append(
                f"{one.verdict} {info.label}: {format_difference(info, one.difference)} ({interval}){_means(info)}"
            )
        elif one.verdict == "no difference":
            alike.append(info.label)
        elif one.shown_interval is not None and (one.shown_interval[0] > 0 or one.shown_interval[1] < 0):
            leaning.append(f"{'higher' if one.difference > 0 else 'lower'} {info.label}")
    reference = sets.names[0]
    if shown:
        lead = f"{name} differs from {reference} in {len(shown)} of {len(primary)} primary measures, after correction:"
    else:
        lead = f"No primary measure shows a difference between {name} and {reference}; that is no proof that there is none."
    rest = [
        *([f"Leaning, but not certain after correction: {_list(leaning)}."] if leaning else []),
        *([f"Practically alike: {_list(alike)}."] if alike else []),
    ]
    return Finding(lead, shown, " ".join(rest))


def _means(info: MetricInfo) -> str:
    """What a high value sounds like, for readers who do not know the measure."""
    why = reading(info)
    return f". {why[:1].upper()}{why[1:]}" if why else ""


def reading(info: MetricInfo) -> str:
    """'higher: more different textures': how to read a measure, in a line; empty where nothing is known of it."""
    if info.name == FLAT.name:
        return "flat: a drone, a pad, a texture or a short loop"
    return f"higher: {METRICS[info.name].higher_means}" if info.name in METRICS else ""


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
