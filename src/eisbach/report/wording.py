"""Sentences that say what a comparison found, with its uncertainty, to someone who does not read statistics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from eisbach.statistics.comparison import Comparison
from eisbach.statistics.records import MetricInfo
from eisbach.statistics.results import RecoveredShare
from eisbach.statistics.sets import KERNEL

_MINUS = "\u2212"
_COUNTED = 100  # clips up to which a share is said as a count


def format_value(info: MetricInfo, value: float | None, count: int | None = None) -> str:
    """A metric's value for people: '9%', '0.21', '13.2 dB'; a dash when there is none.

    A share of `count` clips, at most 100, is said as '1 of 16', as long as every clip weighs alike in it.
    """
    if value is None or not math.isfinite(value):
        return "–"
    if info.share:
        hits = 0.0 if not count else value * count
        if count and count <= _COUNTED and abs(hits - round(hits)) < 1e-6:
            return f"{round(hits)} of {count}"
        return f"{100 * value:.0f}%"
    return _signless(value) + (f" {info.unit}" if info.unit else "")


def format_difference(info: MetricInfo, value: float | None) -> str:
    """A difference with its sign, in points of a percentage for shares: '−35 points', '+0.06', '−1.2 dB'."""
    if value is None or not math.isfinite(value):
        return "–"
    unit = " points" if info.share else f" {info.unit}" if info.unit else ""
    return _signed(info, value) + unit


def format_interval(info: MetricInfo, interval: tuple[float, float] | None) -> str:
    """An interval of a difference, '−52 to −17'; a dash when there is none."""
    if interval is None:
        return "–"
    return f"{_signed(info, interval[0])} to {_signed(info, interval[1])}"


def format_distance(info: MetricInfo, value: float | None) -> str:
    """A distance to a reference for people: '0.42 SD', '12 points' beyond it, or the bare number of an embedding's."""
    if value is None or not math.isfinite(value):
        return "–"
    if info.name.startswith(KERNEL):
        return f"{value:.3f}".replace("-", _MINUS)
    text = f"{100 * value:.0f} points" if info.share else f"{value:.2f} SD"
    return text.replace("-", _MINUS)


def format_distance_interval(info: MetricInfo, interval: tuple[float, float] | None) -> str:
    """An interval of a distance, or of a difference of distances, without its unit; a dash when there is none."""
    if interval is None:
        return "–"
    low, high = (format_distance(info, value).removesuffix(" SD").removesuffix(" points") for value in interval)
    return f"{low} to {high}".replace("-", _MINUS)


_FLAT_WORDS = {
    "still": "flat, it stands still", "loop": "flat, a loop", "texture": "flat, a texture",
    "shuffled": "flat, its parts are in no order",
}  # fmt: skip


def format_flatness(record: Mapping[str, object]) -> str:
    """What the judge of flatness says of a clip: 'judged flat, a loop', 'judged developing'; "" where it says nothing.

    Records of before the kinds were told say 'judged flat'.
    """
    flat = record.get("is_flat")
    if flat is None:
        return ""
    chances = {kind: record.get(f"flat_{kind}") for kind in _FLAT_WORDS}
    told = {kind: float(chance) for kind, chance in chances.items() if isinstance(chance, int | float)}
    if not flat:
        return "judged developing"
    return f"judged {_FLAT_WORDS[max(told, key=lambda kind: told[kind])]}" if told else "judged flat"


def format_p(p: float | None) -> str:
    """A p value with its sign of equality: 'p = 0.004', 'p < 0.001'; a dash when there is none."""
    if p is None:
        return "–"
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def _signed(info: MetricInfo, value: float) -> str:
    text = f"{abs(100 * value):.0f}" if info.share else _signless(abs(value))
    if not any(digit in text for digit in "123456789"):
        return text
    return (_MINUS if value < 0 else "+") + text


def _signless(value: float) -> str:
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 or size == 0 else 3
    return f"{value:.{digits}f}".replace("-", _MINUS)


def verdict(comparison: Comparison, info: MetricInfo, titles: Mapping[str, str] | None = None) -> str:
    """One plain sentence: what came out, against what, and how sure that is.

    Parameters
    ----------
    titles : mapping of str to str or None
        What to call each arm in a sentence ('the recurrence barrier'); None uses the arms' names.
    """
    names = titles or {}
    arm, baseline = names.get(comparison.arm, comparison.arm), names.get(comparison.baseline, comparison.baseline)
    if comparison.n_units == 0:
        return f"{_upper(info.label)}: {arm} and {baseline} share no prompt and seed, so they cannot be compared."
    gap = _found(comparison, info, arm, baseline)
    if comparison.verdict == "too few":
        return (
            f"With {gap}; that is one {comparison.unit} only, so nothing can be said about others: "
            "no interval and no test are possible."
        )
    if comparison.verdict == "not comparable":
        return f"With {gap}; the sets differ in length, so no verdict is given."
    evidence = _evidence(comparison, info)
    if comparison.verdict in ("better", "worse", "higher", "lower"):
        return f"With {gap}, which is {comparison.verdict} ({evidence})."
    if comparison.verdict == "no difference" and comparison.margin is None:
        return f"With {gap}: no difference at all."
    if comparison.verdict == "no difference":
        margin = format_difference(info, comparison.margin).lstrip("+")
        return (
            f"With {gap}: practically no difference ({evidence}; a difference of {margin} or more is ruled out, "
            f"{format_p(comparison.p_equivalence)})."
        )
    floor = comparison.p_floor
    if floor is not None and floor >= 0.05:
        return (
            f"With {gap} ({evidence}). With {comparison.n_units} {comparison.unit}s{_sides(comparison)} no p value "
            f"below {floor:.2g} is possible, so this comparison could not have shown a difference."
        )
    shown = comparison.shown_interval
    if shown is not None and (shown[0] > 0 or shown[1] < 0):
        return (
            f"With {gap} ({evidence}). This leans towards {_direction(comparison, info)}, but it is not certain: "
            f"{comparison.n_units} {comparison.unit}s{_sides(comparison)} are too few to be sure."
        )
    return f"No difference could be shown. With {gap} ({evidence}); anything inside that interval remains possible."


def _found(comparison: Comparison, info: MetricInfo, arm: str, baseline: str) -> str:
    beside = comparison.n_clips if comparison.paired else comparison.n_baseline_clips
    value = format_value(info, comparison.mean, comparison.n_clips)
    other = format_value(info, comparison.baseline_mean, beside)
    if info.share and info.outcome:
        pieces = "pieces" if " of " in value else "of the pieces"
        return f"{arm}, {value} {pieces} {info.outcome} against {other} with {baseline}"
    return f"{arm}, {info.label} was {value} against {other} with {baseline}"


def _evidence(comparison: Comparison, info: MetricInfo) -> str:
    parts = [f"difference {format_difference(info, comparison.difference)}"]
    if comparison.shown_interval is not None:
        parts.append(f"95% interval {format_interval(info, comparison.shown_interval)}")
    p = format_p(comparison.p)
    corrected = format_p(comparison.p_adjusted)
    if comparison.p_adjusted is not None and corrected != p:
        p += f" ({corrected.removeprefix('p = ')} after correction for looking at several measures)"
    plural = "" if comparison.n_units == 1 else "s"
    return ", ".join([*parts, p, f"{comparison.n_units} {comparison.unit}{plural}{_sides(comparison)}"])


def _sides(comparison: Comparison) -> str:
    return "" if comparison.paired and comparison.unit in ("prompt", "draw") else " an arm"


def _direction(comparison: Comparison, info: MetricInfo) -> str:
    up = comparison.difference > 0
    if info.better is None:
        return "a higher value" if up else "a lower value"
    return "an improvement" if up == (info.better == "higher") else "the worse"


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def recovered_sentence(recovered: RecoveredShare, titles: Mapping[str, str] | None = None) -> str:
    """One plain sentence about the share of the oracle's gain that an arm recovers."""
    names = titles or {}
    arm, oracle = names.get(recovered.arm, recovered.arm), names.get(recovered.oracle, recovered.oracle)
    if recovered.share is None or recovered.interval is None:
        return f"The share of {oracle}'s gain that {arm} recovers cannot be given: {recovered.reason}."
    low, high = recovered.interval
    said = f"{_upper(arm)} recovers {_percent(recovered.share)} of the gain of {oracle}"
    if low == high:
        # The ratio is the same however the units are drawn again: the bootstrap sees no variation, which is not
        # certainty.
        return f"{said} (the same in every {recovered.unit}, so that {recovered.n_units} of them give no interval)."
    return f"{said} (95% interval {_percent(low)} to {_percent(high)}, {recovered.n_units} {recovered.unit}s)."


def _percent(value: float) -> str:
    return f"{round(100 * value) + 0:d}%".replace("-", _MINUS)  # an integer has no minus zero


def overall_verdict(
    comparisons: Sequence[Comparison],
    info: MetricInfo,
    titles: Mapping[str, str] | None = None,
    *,
    apart: Sequence[str] = (),
) -> str:
    """The sentence that opens a page: the arm with the strongest evidence by the headline metric, or that none has any.

    Parameters
    ----------
    info : MetricInfo
        The headline metric; comparisons by other metrics are passed over.
    apart : sequence of str
        Arms that are no candidates (the oracle, the untrained base).
    """
    rows = [row for row in comparisons if row.metric == info.name]
    names, headline = titles or {}, [row for row in rows if row.arm not in apart]
    if not rows:
        return "There is nothing to compare with the baseline."
    if not headline:
        return _candidates_verdict(rows, info, names)
    beside = [names.get(row.arm, row.arm) for row in rows if row.arm in apart and row.verdict == "better"]
    also = f" No candidate, and better than the baseline: {'; '.join(beside)}." if beside else ""
    return _candidates_verdict(headline, info, names) + also


def _candidates_verdict(headline: Sequence[Comparison], info: MetricInfo, names: Mapping[str, str]) -> str:
    rank = {
        "better": 0,
        "worse": 1,
        "higher": 1,
        "lower": 1,
        "no difference": 2,
        "inconclusive": 2,
        "too few": 3,
        "not comparable": 3,
    }
    best = min(headline, key=lambda row: (rank[row.verdict], *_evidence_order(row, info)))
    sentence = verdict(best, info, names)
    others = [row for row in headline if row is not best]
    if best.verdict == "better" and others:
        same = [row for row in others if row.verdict == "better"]
        if same:
            also = _list([names.get(row.arm, row.arm) for row in same])
            return f"{sentence} {_upper(also)} helped as well."
        rest = _list([names.get(row.arm, row.arm) for row in others])
        return f"{sentence} For {rest}, no improvement could be shown."
    if best.verdict in ("inconclusive", "no difference") and others:
        return f"{sentence} This arm came closest; no other showed an improvement."
    return sentence


def _evidence_order(comparison: Comparison, info: MetricInfo) -> tuple[float, float]:
    """Improvements first, then by p, then by size."""
    sign = -1.0 if info.better == "lower" else 1.0
    gain = sign * comparison.difference
    p = 1.0 if comparison.p is None else comparison.p
    return (p if gain > 0 else 2.0 - p, -gain)


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
