"""Judges trainings on digits: paired differences with intervals, as declared before looking, in the first run and,
where it is there, in its repetition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.config import build_config
from eisbach.files import read_jsonl
from eisbach.statistics.effect_size import crossed_moments, mean_moments, t_interval
from eisbach.statistics.resampling import holm, sign_flip_test
from eisbach.studies.contract import ClaimResult, Effect
from eisbach.studies.erd_digits.spec import DECLARED, DigitsConfig
from eisbach.studies.judging import ALPHA, judged, not_run
from eisbach.types import Record

CLAIMS = {
    "erd-constant": ("erd", "constant"),
    "erd-min-snr": ("erd", "min_snr"),
    "erd-p2": ("erd", "p2"),
    "barrier-constant": ("entropy_barrier", "constant"),
}
"""Claim to arm and baseline."""


def judge(folder: Path) -> list[ClaimResult]:
    """All claims from `records.jsonl`, and from `replication.jsonl` where it is there."""
    first = read_jsonl(folder / "records.jsonl", "records")
    runs = {"": first}
    if (folder / "replication.jsonl").is_file():
        repetition = read_jsonl(folder / "replication.jsonl", "records")
        runs |= {", repeated with other seeds": repetition, ", both together": [*first, *repetition]}
    tables = {name: _comparisons(rows) for name, rows in runs.items()}
    return [_claim(key, *pair, tables) for key, pair in CLAIMS.items()]


def _comparisons(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    names = {key: sorted({row[key] for row in rows}) for key in ("backbone", "target", "arm")}
    config = build_config(
        DigitsConfig,
        {
            "backbones": names["backbone"],
            "targets": names["target"],
            "arms": [arm for arm in names["arm"] if arm != "entropy_barrier"],
            "barrier": names["backbone"] if "entropy_barrier" in names["arm"] else [],
        },
    )
    comparisons: list[dict[str, Any]] = summarise(rows, config, floor={}, classifier=0.0)["comparisons"]
    return comparisons


def _claim(key: str, arm: str, baseline: str, tables: dict[str, list[dict[str, Any]]]) -> ClaimResult:
    entries = {
        name: entry["log_frechet"]
        for name, table in tables.items()
        for entry in table
        if (entry["arm"], entry["baseline"]) == (arm, baseline) and entry["log_frechet"]["mean"] is not None
    }
    if not entries:
        return not_run(key)
    effects = [_effect(f"Fréchet distance, {arm} against {baseline}{name}", entry) for name, entry in entries.items()]
    independent = [entry for name, entry in entries.items() if "together" not in name]
    return judged(
        key, effects,
        supported=all(_shown(entry, -1) for entry in independent),
        refuted=all(_shown(entry, 1) for entry in independent),
        note=f"Lower in {independent[0]['lower_in']} of {independent[0]['settings']} settings in the first run.",
    )  # fmt: skip


def _shown(entry: dict[str, Any], sign: int) -> bool:
    """Whether the declared test shows a difference of this sign."""
    p, ends = entry.get("p_holm", entry["p"]), entry["interval"]
    return p is not None and ends is not None and p < ALPHA and sign * ends[0] > 0 and sign * ends[1] > 0


def _effect(name: str, entry: dict[str, Any]) -> Effect:
    """A difference of logarithms as a change in per cent."""
    ends = entry["interval"]
    return Effect(
        name=name,
        value=100 * float(np.expm1(entry["mean"])),
        low=None if ends is None else 100 * float(np.expm1(ends[0])),
        high=None if ends is None else 100 * float(np.expm1(ends[1])),
        unit="%",
        p=entry.get("p_holm", entry["p"]),
        n=entry["settings"],
    )


BASELINES = ("constant", "min_snr", "p2")
Value = Callable[[Record], float]


def log_frechet(row: Record) -> float:
    """ln of the Fréchet distance: a difference of 0.1 is a tenth of the distance, whatever its size."""
    return float(np.log(max(float(row["frechet"] or 0.0), 1e-12)))


METRICS: dict[str, Value] = {
    "log_frechet": log_frechet,
    "accuracy": lambda row: float(row["accuracy"] or 0.0),
    "precision": lambda row: float(row["precision"] or 0.0),
    "recall": lambda row: float(row["recall"] or 0.0),
}


def differences(
    records: Sequence[Record], arm: str, baseline: str, step_of: Mapping[str, int], value: Value
) -> dict[str, dict[int, float]]:
    """arm minus baseline by setting and seed, where both are there, at the step that `step_of` names for the setting's
    backbone."""
    values: dict[tuple[str, int, str], float] = {}
    for row in records:
        if row["step"] == step_of[str(row["backbone"])] and row["arm"] in (arm, baseline):
            values[f"{row['backbone']}/{row['target']}", int(row["seed"] or 0), str(row["arm"])] = value(row)
    result: dict[str, dict[int, float]] = {}
    for (setting, seed, name), mine in values.items():
        other = values.get((setting, seed, baseline))
        if name == arm and other is not None:
            result.setdefault(setting, {})[seed] = mine - other
    return result


def pooled(by_setting: Mapping[str, Mapping[int, float]]) -> dict[str, Any]:
    """The mean difference over settings (each the mean of its seeds), its t interval and exact sign-flip p; settings
    are units.

    Beside it the interval of the two-way model, in which settings and seeds are both samples of more.
    """
    means = np.array([np.mean(list(seeds.values())) for seeds in by_setting.values()])
    rng = np.random.default_rng(0)
    common = sorted(set.intersection(*(set(seeds) for seeds in by_setting.values()))) if by_setting else []
    crossed = np.array([[seeds[seed] for seeds in by_setting.values()] for seed in common])
    p, least = sign_flip_test(means, rng) if len(means) else (None, None)
    return {
        "settings": len(means),
        "mean": float(means.mean()) if len(means) else None,
        "interval": t_interval(mean_moments(means), 0.95) if len(means) else None,
        "interval_settings_and_seeds": t_interval(crossed_moments(crossed), 0.95) if crossed.ndim == 2 else None,
        "lower_in": int((means < 0).sum()),
        "p": p,
        "smallest_p": least,
    }


def _by_seed(seeds: Mapping[int, float]) -> dict[str, Any]:
    """Mean difference in one setting, its t interval and t test over seeds (df = seeds - 1)."""
    from scipy.stats import ttest_1samp

    values = np.array([seeds[seed] for seed in sorted(seeds)])
    spread = len(values) > 1 and float(np.ptp(values)) > 0
    return {
        "seeds": len(values),
        "mean": float(values.mean()),
        "interval": t_interval(mean_moments(values), 0.95),
        "p": float(ttest_1samp(values, 0.0).pvalue) if spread else None,
    }


def summarise(
    records: Sequence[Record], config: DigitsConfig, *, floor: Mapping[str, Any], classifier: float
) -> dict[str, Any]:
    """Means by setting and arm, the declared comparisons with Holm's correction, and what was declared."""
    steps = {
        backbone: sorted({int(r["step"] or 0) for r in records if r["backbone"] == backbone})
        for backbone in config.backbones
    }
    last: dict[str, int] = {backbone: own_steps[-1] for backbone, own_steps in steps.items() if own_steps}
    first: dict[str, int] = {backbone: own_steps[0] for backbone, own_steps in steps.items() if own_steps}
    pairs = [("erd", name) for name in BASELINES if {"erd", name} <= set(config.arms)]
    if config.barrier and "constant" in config.arms:
        pairs.append(("entropy_barrier", "constant"))
    comparisons = []
    for arm, baseline in pairs:
        entry: dict[str, Any] = {"arm": arm, "baseline": baseline}
        for metric, value in METRICS.items():
            entry[metric] = pooled(differences(records, arm, baseline, last, value))
        entry["log_frechet_first_checkpoint"] = pooled(differences(records, arm, baseline, first, log_frechet))
        entry["by_setting"] = {
            setting: _by_seed(seeds)
            for setting, seeds in differences(records, arm, baseline, last, log_frechet).items()
        }
        comparisons.append(entry)
    erd = [entry for entry in comparisons if entry["arm"] == "erd"]
    add_holm([entry["log_frechet"] for entry in erd])
    add_holm([setting for entry in erd for setting in entry["by_setting"].values()])
    add_holm([setting for entry in comparisons if entry["arm"] != "erd" for setting in entry["by_setting"].values()])
    return {
        "declared": DECLARED,
        "classifier_accuracy": classifier,
        "floor": dict(floor),
        "steps": steps,
        "means": means(records, last),
        "comparisons": comparisons,
    }


def means(records: Sequence[Record], last: Mapping[str, int]) -> list[dict[str, Any]]:
    """Mean and standard deviation over seeds of every metric at the last checkpoint."""
    groups: dict[tuple[str, str, str], list[Record]] = {}
    for row in records:
        if row["step"] == last[str(row["backbone"])]:
            groups.setdefault((str(row["backbone"]), str(row["target"]), str(row["arm"])), []).append(row)
    table = []
    for (backbone, target, arm), rows in groups.items():
        entry: dict[str, Any] = {"backbone": backbone, "target": target, "arm": arm, "seeds": len(rows)}
        for metric in ("frechet", "accuracy", "precision", "recall", "inception_score"):
            values = np.array([float(row[metric] or 0.0) for row in rows])
            entry[metric] = float(values.mean())
            entry[f"{metric}_sd"] = float(values.std(ddof=1)) if len(values) > 1 else None
        table.append(entry)
    return table


def add_holm(entries: Sequence[dict[str, Any]]) -> None:
    """Adds `p_holm` to every entry that has a p."""
    tested = [entry for entry in entries if entry.get("p") is not None]
    for entry, value in zip(tested, holm([entry["p"] for entry in tested]), strict=True):
        entry["p_holm"] = value
