"""Judges sampling schedules: uniform's 16 steps over those that a schedule needs for the same quality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eisbach.files import read_json
from eisbach.studies.contract import ClaimResult, Effect
from eisbach.studies.judging import high, interval_effect, judged, low, not_run

DIGITS, MUSIC, SETS = "digits, euler: error", "music, euler: error", "music, kernel distance"
_FRECHET = "digits, euler: Fréchet"
PLAIN = "entropic"
"""Plain entropic time; in records from before it left (retired.yaml)."""


def judge(folder: Path) -> list[ClaimResult]:
    """All claims from `entropic_steps.json` and, where it is there, `entropic_music.json`."""
    steps = read_json(folder / "entropic_steps.json", "records")["comparisons"]
    sets: dict[str, Any] = {}
    if (folder / "entropic_music.json").is_file():
        sets = read_json(folder / "entropic_music.json", "records")["comparisons"]
    return [
        _faster("rescaled-error-digits", steps.get(DIGITS)),
        _faster("rescaled-error-music", steps.get(MUSIC)),
        _faster("rescaled-frechet-digits", steps.get(_FRECHET)),
        _sets("rescaled-sound", sets.get(SETS)),
        _plain("plain-entropic", steps),
    ]


def _effect(name: str, curve: dict[str, Any]) -> Effect | None:
    if curve["uniform_over_this"] is None:
        return None
    ends = curve["uniform_over_this_interval"]
    return interval_effect(f"uniform's steps over {name}'s", curve["uniform_over_this"], ends, "×")


def _faster(key: str, comparison: dict[str, Any] | None, name: str = "rescaled_entropic") -> ClaimResult:
    if not comparison:
        return not_run(key)
    effect = _effect(name, comparison["schedules"][name])
    others = [
        shown
        for other, curve in comparison["schedules"].items()
        if other not in (name, "uniform") and (shown := _effect(other, curve)) is not None
    ]
    if effect is None:
        return ClaimResult(
            key=key, verdict="refuted", effects=others, note="It never reaches uniform's quality at 16 steps."
        )
    return judged(key, [effect, *others], supported=low(effect) > 1, refuted=high(effect) < 1)


def _sets(key: str, comparison: dict[str, Any] | None) -> ClaimResult:
    if not comparison:
        return not_run(key)
    curve = comparison["schedules"]["rescaled_entropic"]
    open_ended = curve["fewest_steps_suffice"] or comparison["schedules"]["uniform"]["fewest_steps_suffice"]
    apart, ends = curve["minus_uniform"][0], curve["minus_uniform_interval"][0]
    effects = [interval_effect(f"kernel distance at {curve['steps'][0]} steps, rescaled − uniform", apart, ends)]
    ratio = _effect("rescaled_entropic", curve)
    effects += [] if ratio is None else [ratio]
    decided = [] if ratio is None or open_ended else [ratio]
    return judged(
        key, effects, supported=any(low(effect) > 1 for effect in decided),
        refuted=any(high(effect) < 1 for effect in decided),
        note="Uniform is at the many-step solution's distance with the fewest steps already." if open_ended else "",
    )  # fmt: skip


def _plain(key: str, steps: dict[str, Any]) -> ClaimResult:
    verdicts = [
        _faster(key, comparison, PLAIN).verdict
        for name, comparison in steps.items()
        if "euler" in name and comparison and PLAIN in comparison["schedules"]
    ]
    if not verdicts:
        return not_run(key, "The schedule has left the package.")
    better = verdicts.count("supported")
    name = "comparisons with Euler in which it needs fewer steps than uniform"
    effect = Effect(name=name, value=better, unit=f"of {len(verdicts)}", n=len(verdicts))
    return judged(key, [effect], supported=better == len(verdicts), refuted=set(verdicts) == {"refuted"})
