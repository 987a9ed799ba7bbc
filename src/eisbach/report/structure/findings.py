"""What an analysis says first, on its page and in a terminal: title, facts and, in words, how the sets differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from eisbach.experiments.comparing import Sets
from eisbach.experiments.measures import FLAT
from eisbach.report.tables import MARKS
from eisbach.report.wording import (
    format_difference,
    format_interval,
    format_p,
    format_value,
    overall_verdict,
    recovered_sentence,
    verdict,
)
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


def headline_sentences(sets: Sets) -> list[str]:
    """Every set against the reference by the first primary measure, then what is recovered of the oracle's gain."""
    results = sets.results
    if results is None or results.headline is None:
        return []
    headline = results.headline
    said = [verdict(each, headline) for each in results.comparisons if each.metric == headline.name]
    return [*said, *(recovered_sentence(share) for share in results.recovered)]


def headline_verdict(sets: Sets) -> str | None:
    """The sentence for the whole by the first primary measure; None for a single set."""
    results = sets.results
    if results is None or results.headline is None:
        return None
    return overall_verdict(results.comparisons, results.headline, apart=[results.oracle] if results.oracle else [])


def terminal_lines(sets: Sets) -> list[str]:
    """The comparison for a terminal: the verdict, the primary measures of every set, how clips were matched, notes."""
    results = sets.results
    if results is None:
        return []
    lines = ["", str(headline_verdict(sets) or ""), *(recovered_sentence(share) for share in results.recovered)]
    for name in sets.names[1:]:
        lines.append(f"\n{name} against {sets.names[0]} (difference, 95% interval, Hedges g, p corrected):")
        for info in sets.primary:
            compared = sets.comparison(name, info.name)
            if compared is None:
                continue
            g = "" if compared.g is None else f", g {compared.g:+.2f}"
            lines.append(
                f"  {info.label}: {format_difference(info, compared.difference)} "
                f"({format_interval(info, compared.shown_interval)}){g}, {format_p(compared.decisive_p)}  "
                f"{MARKS[compared.verdict]}"
            )
    return [*lines, sets.how, *(f"note: {note}" for note in (*sets.refused.values(), *sets.notes))]


def _difference(sets: Sets, name: str, primary: Sequence[MetricInfo]) -> Finding:
    if name in sets.refused:
        return Finding(sets.refused[name])
    shown, alike, leaning = [], [], []
    for info in primary:
        compared = sets.comparison(name, info.name)
        if compared is None or not math.isfinite(compared.difference):
            continue
        if compared.verdict in ("higher", "lower", "better", "worse"):
            way = "higher" if compared.difference > 0 else "lower"
            side = "" if compared.verdict == way else f" ({compared.verdict}, as declared)"
            interval = format_interval(info, compared.shown_interval)
            change = format_difference(info, compared.difference)
            shown.append(f"{way} {info.label}{side}: {change} ({interval}){_means(info)}")
        elif compared.verdict == "no difference":
            alike.append(info.label)
        elif compared.shown_interval is not None and (compared.shown_interval[0] > 0 or compared.shown_interval[1] < 0):
            leaning.append(f"{'higher' if compared.difference > 0 else 'lower'} {info.label}")
    reference = sets.names[0]
    if shown:
        lead = f"{name} differs from {reference} in {len(shown)} of {len(primary)} primary measures, after correction:"
    else:
        lead = (
            f"No primary measure shows a difference between {name} and {reference}; that is no proof that there is "
            "none."
        )
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
