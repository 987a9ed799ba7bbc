"""What an analysis says first, on its page and in a terminal: title, facts and, in words, how the sets differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eisbach.experiments.measures import FLAT
from eisbach.report.wording import (
    format_difference,
    format_distance,
    format_distance_interval,
    format_interval,
    format_p,
    format_value,
    overall_verdict,
    recovered_sentence,
    verdict,
)
from eisbach.statistics.records import MetricInfo
from eisbach.statistics.results import Results
from eisbach.statistics.sets import Nearness, Sets
from eisbach.structure.metrics import METRICS

MARKS = {
    "better": "▲ better",
    "worse": "▼ worse",
    "higher": "▲ higher",
    "lower": "▼ lower",
    "no difference": "= alike",
    "inconclusive": "? not clear",
    "too few": "– too few",
    "not comparable": "– no verdict",
    "nearer": "▲ nearer",
    "farther": "▼ farther",
    "no nearer": "? no nearer",
}
"""What each verdict looks like in a table: a sign and a word, so that colour is never needed."""

_SHARE = MetricInfo("share", "share", share=True)
_SHOWN = "a difference from the baseline was shown (corrected p below 0.05, and an interval without 0)"
_MARK_MEANINGS = (
    ("= alike", "a difference of any size that matters was ruled out"),
    ("? not clear", "neither a difference nor its absence could be shown"),
    ("– too few", "too few pieces for any test"),
    ("– no verdict", "the sets differ in length, which decides most measures"),
)


def mark_meanings(primary: Sequence[MetricInfo], near: Nearness | None = None) -> list[tuple[str, str]]:
    """The key of a page's marks; 'better' and 'worse' are in it where a direction was declared."""
    if near is not None:
        return [
            ("▲ nearer, ▼ farther", f"nearer to {near.label} than the baseline is, or farther, was shown (corrected p "
            "below 0.05, and an interval without 0)"),
            ("? no nearer", "neither was shown"), *_MARK_MEANINGS[2:],
        ]  # fmt: skip
    directed = [("▲ better, ▼ worse", "the same, in or against the direction that was declared beforehand")]
    return [("▲ higher, ▼ lower", _SHOWN), *(directed if any(info.better for info in primary) else []), *_MARK_MEANINGS]


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


def page_facts(sets: Sets, noun: str, left_out: int) -> list[tuple[str, str]]:
    """Counts of sets, clips, prompts, trained models, minutes and files left out."""
    rows = sets.records
    facts = [_counted(noun, len(sets.names)), _counted("clip", len(rows))]
    if sets.paired and sets.by == "prompt":
        facts.append(_counted("prompt", len({row["prompt_id"] for row in rows})))
        seeds = len({row["seed"] for row in rows})
        facts += [("seeds a prompt", str(seeds))] if seeds > 1 else []
    models = len({row["train_seed"] for row in rows if row.get("train_seed") is not None})
    facts += (
        [(f"trained model{'' if models == 1 else 's'} {'an arm' if noun == 'arm' else 'a set'}", str(models))]
        if models
        else []
    )
    minutes = sum(float(row.get("duration") or 0.0) for row in rows) / 60.0
    facts += [("minutes of audio", f"{minutes:,.0f}" if minutes >= 10 else f"{minutes:.1f}")] if minutes else []
    return [*facts, *([("left out", f"{left_out:,}")] if left_out else [])]


def _counted(noun: str, count: int) -> tuple[str, str]:
    return noun if count == 1 else f"{noun}s", f"{count:,}"


def findings(sets: Sets, primary: Sequence[MetricInfo]) -> list[Finding]:
    """What can be said, one finding a set that is not the reference; of a single set its averages."""
    if sets.results is not None:
        return [_difference(sets, name, primary) for name in sets.names[1:]]
    name = sets.names[0]
    summaries = [(info, sets.summaries[name, info.name]) for info in primary]
    said = [
        f"{info.label} {format_value(info, own.mean, own.n_clips)}{_means(info)}"
        for info, own in summaries
        if math.isfinite(own.mean)
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


def nearness_verdict(
    near: Nearness, arms: Sequence[str], titles: Mapping[str, str] | None = None, apart: Sequence[str] = ()
) -> str:
    """The sentence for the whole where there is a reference: which set lies nearest to it, or that none was shown to.

    Parameters
    ----------
    apart : sequence of str
        Sets that are no candidates (the oracle, the untrained base).
    """
    names, base = titles or {}, arms[0]
    candidates = [name for name in arms[1:] if name not in apart]
    asked = f"Is it nearer to {near.label}?"
    if not candidates:
        return f"{names.get(base, base)} beside {near.label}: {_distances_said(near, base)}."
    counts = {name: tuple(len(own) for own in _sides(near, name)) for name in candidates}
    best = max(candidates, key=lambda name: (counts[name][0] - counts[name][1], -_mean_distance(near, name)))
    nearer, farther = counts[best]
    of = f"of {len(near.primary)} primary measures"
    if nearer > farther:
        behind = f" and farther in {farther}" if farther else ""
        others = [names.get(name, name) for name, (a, b) in counts.items() if name != best and a > b]
        also = (
            f" So {'does' if len(others) == 1 else 'do'} {_list(others)}, in fewer or less clearly." if others else ""
        )
        return (
            f"{asked} Yes with {names.get(best, best)}: nearer than {names.get(base, base)} in {nearer} {of}{behind}: "
            f"{_list([info.label for info in _sides(near, best)[0]])}.{also}{_nearest_apart(near, arms, names, apart)}"
        )
    away = [names.get(name, name) for name, (a, b) in counts.items() if b > a]
    worse = (
        f" {_list(away)[:1].upper()}{_list(away)[1:]} {'lies' if len(away) == 1 else 'lie'} farther." if away else ""
    )
    unsaid = [each for each in near.comparisons if each.arm in candidates and each.verdict == "not comparable"]
    if len(unsaid) == len(near.primary) * len(candidates) + sum(
        each.metric not in {info.name for info in near.primary} for each in unsaid
    ):
        return f"{asked} No verdict: {near.notes[0] if near.notes else 'the sets differ in length.'}"
    if not any(nearer for nearer, _ in counts.values()):
        said = f"none {of} finds anything nearer than {names.get(base, base)}"
    else:
        said = f"nothing is nearer than {names.get(base, base)} in more {of} than it is farther in"
    return f"{asked} Not shown: {said}.{worse}{_nearest_apart(near, arms, names, apart)}"


def _nearest_apart(near: Nearness, arms: Sequence[str], names: Mapping[str, str], apart: Sequence[str]) -> str:
    """A sentence where a set that is no candidate, such as the untrained base, lies nearest on average."""
    means = {name: _mean_distance(near, name) for name in arms}
    nearest = min(means, key=lambda name: means[name])
    others = [name for name in arms if name not in apart]
    if nearest not in apart or not math.isfinite(means[nearest]):
        return ""
    second = min(others, key=lambda name: means[name])
    if f"{means[nearest]:.2f}" == f"{means[second]:.2f}":
        return ""
    return (
        f" On average over the measures {names.get(nearest, nearest)} lies nearest, {means[nearest]:.2f} SD against "
        f"{means[second]:.2f} with {names.get(second, second)}."
    )


def _sides(near: Nearness, name: str) -> tuple[list[MetricInfo], list[MetricInfo]]:
    """The primary measures in which a set is nearer than the baseline, and those in which it is farther."""
    verdicts = {info.name: (near.comparison(name, info.name), info) for info in near.primary}
    nearer, farther = (
        [info for compared, info in verdicts.values() if compared is not None and compared.verdict == word]
        for word in ("nearer", "farther")
    )
    return nearer, farther


def _mean_distance(near: Nearness, name: str) -> float:
    own = [near.distance(name, info.name) for info in near.primary if not info.share]
    values = [each.value for each in own if each is not None]
    return sum(values) / len(values) if values else math.inf


def _distances_said(near: Nearness, name: str) -> str:
    own = [(info, near.distance(name, info.name)) for info in near.primary]
    return ", ".join(f"{info.label} {format_distance(info, each.value)}" for info, each in own if each is not None)


def nearness_findings(sets: Sets, titles: Mapping[str, str] | None = None) -> list[Finding]:
    """For every set but the first: in which primary measures it lies nearer to the reference, and by how much."""
    near, names = sets.nearness, titles or {}
    if near is None:
        return []
    base = names.get(sets.names[0], sets.names[0])
    made, silent = [], []
    for name in sets.names[1:]:
        sides = _sides(near, name)
        items = [
            f"{word} in {info.label}: {_beside(near, name, info, base)}"
            for word, own in zip(("nearer", "farther"), sides, strict=True)
            for info in own
        ]
        called = names.get(name, name)
        if name in sets.refused:
            made.append(Finding(sets.refused[name]))
        elif items:
            # a set is called as it is
            lead = (
                f"{_upper(called) if called != name else name} against {base}, by the distance to {near.label}, after "
                "correction:"
            )
            rest = [info.label for info in near.primary if info not in (*sides[0], *sides[1])]
            made.append(Finding(lead, items, f"No nearer and no farther was shown in {_list(rest)}." if rest else ""))
        else:
            silent.append(called)
    if silent:  # what is said of each is the same
        said = _list(silent) if silent[0] in sets.names else _upper(_list(silent))
        lead = f"{said}: neither nearer to {near.label} than {base} nor farther was shown in any measure."
        made.append(Finding(lead, rest="That is no proof that they are alike."))
    return made


def _beside(near: Nearness, name: str, info: MetricInfo, base: str) -> str:
    compared = near.comparison(name, info.name)
    if compared is None:
        return ""
    beyond = " beyond it" if info.share else " from it"
    return (
        f"{format_distance(info, compared.mean)}{beyond} against {format_distance(info, compared.baseline_mean)} with "
        f"{base} (difference {format_distance_interval(info, compared.shown_interval)}, "
        f"{format_p(compared.decisive_p)})"
    )


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def headline_sentences(results: Results | None, titles: Mapping[str, str] | None = None) -> list[str]:
    """Every set against the reference by the first primary measure; `titles` says what to call them in a sentence."""
    if results is None or results.headline is None:
        return []
    headline = results.headline
    return [verdict(each, headline, titles) for each in results.comparisons if each.metric == headline.name]


def recovered_sentences(results: Results | None, titles: Mapping[str, str] | None = None) -> list[str]:
    """What every set recovers of the oracle's gain; empty without an oracle. Why it cannot be said of any is said
    once."""
    shares = [] if results is None else results.recovered
    reasons = {share.reason for share in shares if share.share is None}
    if len(shares) > 1 and len(reasons) == 1 and all(share.share is None for share in shares):
        oracle = (titles or {}).get(shares[0].oracle, shares[0].oracle)
        return [f"What share of {oracle}'s gain is recovered cannot be given: {reasons.pop()}."]
    return [recovered_sentence(share, titles) for share in shares]


def headline_verdict(
    results: Results | None, titles: Mapping[str, str] | None = None, apart: Sequence[str] = ()
) -> str | None:
    """The sentence for the whole by the first primary measure; None for a single set.

    Parameters
    ----------
    apart : sequence of str
        Sets that are no candidates, such as the untrained base; the oracle never is.
    """
    if results is None or results.headline is None:
        return None
    oracle = [] if results.oracle is None else [results.oracle]
    return overall_verdict(results.comparisons, results.headline, titles, apart=[*oracle, *apart])


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
        return "flat: still, a short loop, a texture, or its parts in no order"
    return f"higher: {METRICS[info.name].higher_means}" if info.name in METRICS else ""


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
