"""What studies say in words, on pages and in a terminal: effects, what a run takes, and what it can show."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from typing import Any, get_args

from eisbach.studies.contract import (
    RECIPE,
    ClaimDeclaration,
    ClaimResult,
    Declaration,
    Effect,
    Result,
    RunFacts,
    Study,
    Verdict,
)

_WIDEST = 100
_MOST_KEYS = 3
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


def _digits(value: float) -> str:
    if float(value).is_integer() or not math.isfinite(value):
        return f"{value:.0f}".replace("-", "−")
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(places, 4)}f}"
    return text.replace("-", "−")


def effect_text(effect: Effect, *, name: bool = False) -> str:
    """'−26 points (−56 to +5), p = 0.095', with the effect's name in front where asked."""
    text = _digits(effect.value) + ("" if effect.unit[:1] in ("%", "") else " ") + effect.unit
    if effect.low is not None and effect.high is not None:
        text += f" ({_digits(effect.low)} to {_digits(effect.high)})"
    if effect.p is not None:
        text += f", p = {effect.p:.2g}"
    return f"{effect.name}: {text}" if name else text


def marked_verdict(study: Study, result: ClaimResult) -> str:
    """The verdict, with † where not every rule was declared before all records."""
    return result.verdict + (" †" if study.declaration.declared.note else "")


def full_run(study: Study) -> RunFacts | None:
    """How the study's records came to be; None where there is no full run."""
    run = study.result.run
    return None if run is None or run.quick else run


def run_command(study: Study) -> str:
    """The command of the last full run, or the one that would be it."""
    run = full_run(study)
    return f"eisbach study run {study.name}" if run is None else run.command


def run_processes(run: RunFacts) -> int:
    """Jobs of a run, as its command names them."""
    jobs = re.search(r"--jobs[ =](\d+)", run.command)
    return int(jobs[1]) if jobs else 1


def core_minutes(run: RunFacts) -> float | None:
    """Core minutes that a run took at most; None where its seconds, or the threads of its only process, were not kept.

    Each of several jobs has one thread; a run in one process has those that its `versions` name. Cores may have waited,
    so that this is a bound.
    """
    jobs = run_processes(run)
    threads = "1" if jobs > 1 else run.versions.get("threads")
    return None if run.seconds is None or threads is None else run.seconds / 60 * jobs * int(threads)


def declared_text(declaration: Declaration) -> str:
    """'about 145 core minutes, declared'."""
    minutes = declaration.minutes
    return "minutes not declared" if minutes is None else f"about {minutes:g} core minutes, declared"


def took_text(study: Study) -> str:
    """'took 59 minutes on two jobs: at most 118 core minutes', or what is declared where no full run was timed."""
    run = full_run(study)
    if run is None or run.seconds is None:
        kept = "its minutes were not kept; " if run is not None else ""
        return kept + declared_text(study.declaration)
    jobs, cores = run_processes(run), core_minutes(run)
    text = f"took {_minutes(run.seconds / 60)} {'in one process' if jobs == 1 else f'on {_number(jobs)} jobs'}"
    return text if cores is None else f"{text}: at most {_minutes(cores, 'core ')}"


def _minutes(value: float, kind: str = "") -> str:
    text = f"{value:.0f}" if value >= 10 else f"{value:.1f}".removesuffix(".0")
    return f"{text} {kind}minute{'' if text == '1' else 's'}"


def _number(value: int) -> str:
    return _NUMBERS[value] if value < len(_NUMBERS) else str(value)


def list_lines(studies: Sequence[Study], width: int) -> list[str]:
    """Every claim with verdict and effect under its study, lines of at most `width` characters; studies that have
    decided something first."""
    column = 2 + max(len(verdict) for verdict in get_args(Verdict)) + 4  # room for the mark
    lines = []
    for study in sorted(studies, key=lambda one: all(result.verdict == "not run" for _, result in one.rows())):
        run = study.result.run
        when = f"run on {run.date}; " if run is not None and run.date is not None else ""
        units = ", ".join(dict.fromkeys(claim.unit for claim in study.declaration.claims))
        head = f"{study.name}: {study.declaration.title} ({when}{took_text(study)}; unit: {units})"
        lines += textwrap.wrap(head, width, subsequent_indent="  ", break_on_hyphens=False)
        for claim, result in study.rows():
            texts = [f"{claim.claim} [{claim.source}]"]
            texts += [effect_text(result.effects[0], name=True)] if result.effects else []
            indented = [part for text in texts for part in textwrap.wrap(text, width - column, break_on_hyphens=False)]
            verdict = f"  {marked_verdict(study, result)}".ljust(column)
            lines += [(" " * column if number else verdict) + part for number, part in enumerate(indented)]
        lines.append("")
    return lines


def result_row(study: Study, claim: ClaimDeclaration, result: ClaimResult) -> dict[str, Any]:
    """A claim as plain values; minutes are those of its whole study."""
    run = study.result.run
    return {
        "study": study.name,
        **claim.model_dump(mode="json"),
        **result.model_dump(mode="json"),
        "date": None if run is None or run.date is None else run.date.isoformat(),
        "command": run_command(study),
        "seconds": None if run is None else run.seconds,
        **study_minutes(study),
    }


def study_minutes(study: Study) -> dict[str, float | None]:
    """Core minutes: at most those of the last full run, and those that were declared."""
    run = full_run(study)
    cores = None if run is None else core_minutes(run)
    return {
        "core_minutes": None if cores is None else round(cores, 1),
        "declared_minutes": study.declaration.minutes,
    }


def result_lines(declaration: Declaration, result: Result) -> list[str]:
    """Every verdict with its effects."""
    claims = {claim.key: claim for claim in declaration.claims}
    lines = []
    if result.run is not None and result.run.quick:
        lines.append("A rehearsal (--quick): everything runs, and its numbers decide nothing.")
    for claim_result in result.claims:
        lines.append(f"{claim_result.verdict}: {claims[claim_result.key].claim}")
        lines += [f"    {effect_text(effect, name=True)}" for effect in claim_result.effects]
        lines += [f"    {claim_result.note}"] if claim_result.note else []
    return lines


def study_lines(study: Study) -> list[str]:
    """A study in full, for a terminal."""
    declaration, run = study.declaration, study.result.run
    lines = [declaration.title, declaration.question, ""]
    for claim, result in study.rows():
        measures = ", ".join(
            f"{measure.name} ({measure.direction}{', margin ' + measure.margin if measure.margin else ''})"
            for measure in claim.measures
        )
        lines += [
            f"{result.verdict.upper()}: {claim.claim} [{claim.source}]",
            *(f"    {effect_text(effect, name=True)}" for effect in result.effects),
            *([f"    {result.note}"] if result.note else []),
            f"    measured by {measures}; unit: {claim.unit}; {claim.seeds}; smallest effect: {claim.smallest_effect}",
            f"    supported if {claim.supported_if}; refuted if {claim.refuted_if}",
        ]
    declared = declaration.declared
    lines += ["", f"declared {declared.date}, commit {declared.commit}{'; ' + declared.note if declared.note else ''}"]
    if declared.known:
        lines.append(f"known when it was declared, before the run: {declared.known}")
    if run is not None:
        lines.append(f"last run {run.date or '(no date)'}: {run.command}")
        lines += [f"it {took_text(study)}"] if run.seconds is not None and not run.quick else []
        lines += [f"recorded by hand: {run.by_hand}"] if run.by_hand else []
    lines += [f"needs {declaration.needs}"] if declaration.needs else []
    kind = "recipe.yaml" if (study.folder / RECIPE).is_file() else "run.py"
    lines.append(f"run it: eisbach study run {study.name} ({kind}; {declared_text(declaration)})")
    lines.append(f"more: {study.folder / 'README.md'}")
    return lines


def before_run_lines(study: Study) -> list[str]:
    """What a full run takes and the smallest effect that it can show for each claim, as declared, before it starts."""
    claims = study.declaration.claims
    count = "one claim" if len(claims) == 1 else f"{_number(len(claims))} claims"
    lines = [
        f"{study.name} decides {count}; {declared_text(study.declaration)}.",
        "The smallest effect that a full run can show, as declared:",
    ]
    by_effect: dict[str, list[str]] = {}
    for claim in claims:
        by_effect.setdefault(claim.smallest_effect, []).append(claim.key)
    for effect, keys in by_effect.items():
        # Many keys that share an effect would hide it; `study show` lists them.
        names = ", ".join(keys[:_MOST_KEYS]) + (f" and {len(keys) - _MOST_KEYS} more" if keys[_MOST_KEYS:] else "")
        text = effect if len(by_effect) == 1 else f"{names}: {effect}"
        lines += textwrap.wrap(text, _WIDEST, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
    return lines
