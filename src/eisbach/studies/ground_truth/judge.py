"""Judges the structure metrics: their ladders, their invariances, real scores against flat material, and measures of
sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eisbach.files import read_json
from eisbach.studies.contract import ClaimResult, Effect
from eisbach.studies.ground_truth.ladders import GOAL
from eisbach.studies.judging import high, interval_effect, judged, low, not_run

LOOP = "loop 6-12 s"
_FALLING = {"lag_similarity", "loop_strength"}
"""Metrics that fall with development."""
SAME = 0.5  # AUC of chance


def judge(folder: Path) -> list[ClaimResult]:
    """All claims from `ladders.json`, `invariances.json`, `real.json` and, where it is there, `sets.json`."""
    ladders = read_json(folder / "ladders.json", "records")
    real = read_json(folder / "real.json", "records")
    sets = read_json(folder / "sets.json", "records") if (folder / "sets.json").is_file() else None
    return [
        _ladders("ladders-primary", ladders, lambda entry: entry["primary"]),
        _ladders("ladders-all", ladders, lambda entry: not entry["as_printed"]),
        _ladders("ladders-as-printed", ladders, lambda entry: entry["as_printed"]),
        _invariances(read_json(folder / "invariances.json", "records")),
        _real("real-against-surrogates", real, ("phase surrogate",), printed=False),
        _real("as-printed-on-real", real, ("phase surrogate", "drone"), printed=True),
        _judge_of_flatness(real),
        *([_sets(sets), _copies(sets)] if sets is not None else [not_run("ladders-of-sets"), not_run("copies-found")]),
    ]


def _ladders(key: str, report: dict[str, Any], chosen: Any) -> ClaimResult:
    means = {
        f"{name} ({which})": ladder["mean"]
        for name, entry in report["metrics"].items()
        if chosen(entry)
        for which, ladder in entry["ladders"].items()
    }
    effects = [
        Effect(name=f"rank correlation with the truth, {name}", value=means[name], n=report["seeds"])
        for name in sorted(means, key=lambda name: (means[name], name))[:3]
    ]
    below = [name for name, mean in means.items() if mean < GOAL]
    return judged(key, effects, supported=not below, refuted=bool(below),
                  note=f"The lowest of {len(means)} ladders; below {GOAL}: {', '.join(below) or 'none'}.")  # fmt: skip


def _invariances(report: dict[str, Any]) -> ClaimResult:
    promised = [row for row in report["outcomes"] if row["declared"] != "no"]
    broken = [row for row in promised if row["broken"]]
    count = sum(row["broken"] for row in promised)
    unit = f"of {sum(row['pieces'] for row in promised)} comparisons"
    effect = Effect(name="broken", value=count, unit=unit, n=max(row["pieces"] for row in promised))
    named = ", ".join(f"{row['metric']} under {row['condition']}" for row in broken) or "none"
    return judged("invariances-kept", [effect], supported=count == 0, refuted=count > 0, note=f"Broken: {named}.")


def _real(key: str, report: dict[str, Any], kinds: tuple[str, ...], *, printed: bool) -> ClaimResult:
    """AUC of real scores against flat kinds; supported when all point the right way, refuted when one points the
    other."""
    effects, wrong = [], []
    for name, entry in report["metrics"].items():
        if name.startswith("paper_") != printed or (not printed and not entry["primary"]):
            continue
        for kind in kinds:
            cell = entry["cells"].get(kind, {})
            if cell.get("auc") is None:
                continue
            effect = interval_effect(
                f"AUC of real scores above {kind}, {name}", cell["auc"], cell["auc_95"], n=cell["clips"]
            )
            effects.append(effect)
            if (high(effect) < SAME) if name not in _FALLING else (low(effect) > SAME):
                wrong.append(f"{name} against {kind}s")
    if not effects:
        return not_run(key)
    effects.sort(key=lambda effect: effect.value)
    rising = [effect for effect in effects if not any(name in effect.name for name in _FALLING)]
    return judged(
        key, effects[:4], supported=not wrong and all(low(effect) > SAME for effect in rising), refuted=bool(wrong),
        note=f"The lowest of {len(effects)}; pointing the wrong way: {', '.join(wrong) or 'none'}.",
    )  # fmt: skip


def _judge_of_flatness(report: dict[str, Any]) -> ClaimResult:
    judged_flat, clips = report["judged_flat"], report["clips"]
    flat = {kind: share for kind, share in judged_flat.items() if kind != "developing"}
    effects = [
        Effect(name="real scores called flat", value=100 * judged_flat["developing"], unit="%", n=clips["developing"])
    ]
    effects += [
        Effect(name=f"called flat, {kind}", value=100 * flat[kind], unit="%", n=clips[kind])
        for kind in sorted(flat, key=lambda kind: flat[kind])[:4]
    ]
    missed = [kind for kind, share in flat.items() if share < 0.5]
    return judged(
        "judge-of-flatness", effects, supported=judged_flat["developing"] <= 0.05 and not missed, refuted=bool(missed),
        note=f"Kinds of which more than half is missed: {', '.join(missed) or 'none'}.",
    )  # fmt: skip


def _correlations(value: Any, path: str = "") -> list[tuple[str, float]]:
    if not isinstance(value, dict):
        return []
    own = [(path, float(value["rank_correlation"]))] if "rank_correlation" in value else []
    return own + [
        row for key, part in value.items() for row in _correlations(part, f"{path}/{key}" if path else str(key))
    ]


def _sets(report: dict[str, Any]) -> ClaimResult:
    rows = sorted(_correlations(report), key=lambda row: row[1])
    effects = [Effect(name=f"rank correlation with the truth, {name}", value=value) for name, value in rows[:3]]
    below = [name for name, value in rows if value < GOAL]
    return judged("ladders-of-sets", effects, supported=not below, refuted=bool(below),
                  note=f"The lowest of {len(rows)} ladders; below {GOAL}: {', '.join(below) or 'none'}.")  # fmt: skip


def _copies(report: dict[str, Any]) -> ClaimResult:
    unseen, copied = report["memorisation"]["unseen"], report["memorisation"]["copied share"]
    effects = [
        Effect(name="least AUC of clips with copied excerpts", value=min(copied["auc"])),
        Effect(name="AUC of unseen music", value=unseen["auc"]),
        Effect(name="unseen clips with p ≤ 0.05", value=100 * unseen["share_p<=.05"], unit="%"),
    ]
    fine = min(copied["auc"]) > 0.95 and unseen["share_p<=.05"] <= 0.1
    return judged("copies-found", effects, supported=fine, refuted=min(copied["auc"]) < 0.8)
