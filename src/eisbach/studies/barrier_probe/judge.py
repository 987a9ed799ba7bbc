"""Judges what the barrier's weight does before training: Eq. 5 under AdamW, and predictions 1 and 5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eisbach.files import read_json
from eisbach.studies.contract import ClaimResult, Effect
from eisbach.studies.judging import high, interval_effect, judged, low, not_run

_PLAIN_ANGLE = 5.0
"""Degrees between two updates below which they are one."""
_SEEN = {
    "eq5": "Eq. 5",
    "entropy": "per sample",
    "recurrence": "recurrence",
    "development": "development",
    "min-snr": "Min-SNR",
}


def judge(folder: Path) -> list[ClaimResult]:
    """All claims from the probes' `NAME/probe.json` of a run, or `NAME.json` of the records."""
    probes = {name: probe for name in _SEEN if (probe := _read(folder, name)) is not None}
    if "eq5" not in probes:
        return [not_run(key) for key in ("eq5-is-plain", "prediction-1", "prediction-5")]
    return [_plain(probes), _prediction_1(probes["eq5"]), _prediction_5(probes["eq5"])]


def _read(folder: Path, name: str) -> dict[str, Any] | None:
    for file in (folder / name / "probe.json", folder / f"{name}.json"):
        if file.is_file():
            values: dict[str, Any] = read_json(file, "records")
            return values
    return None


def _plain(probes: dict[str, dict[str, Any]]) -> ClaimResult:
    effects = []
    for name, probe in probes.items():
        moved = probe["gradients"]["points"]["moved"]
        (angle, updates), (size, _) = (_update(moved, part) for part in ("angle", "norm_ratio"))
        norm = moved["norm_ratio"]
        effects += [
            interval_effect(f"{_SEEN[name]}: angle of AdamW's update to the plain one", *angle, "degrees", n=updates),
            interval_effect(f"{_SEEN[name]}: size of the gradient", norm["mean"], [norm["low"], norm["high"]], "×"),
            interval_effect(f"{_SEEN[name]}: size of the update", *size, "×"),
        ]
    turned, stretched = effects[0].value, effects[2].value
    return judged(
        "eq5-is-plain", effects, supported=turned < _PLAIN_ANGLE and abs(stretched - 1) < 0.05,
        refuted=turned > 4 * _PLAIN_ANGLE or abs(stretched - 1) > 0.2,
    )  # fmt: skip


def _update(moved: dict[str, Any], part: str) -> tuple[tuple[float, list[float | None]], int]:
    """A statistic of AdamW's last updates with its interval over them, and how many they are; they follow one another.
    Records of the first probes hold that after the last batch."""
    if "adamw" in moved:
        return (float(moved["adamw"]["last"][part]), [None, None]), 1
    entry = moved[f"update_{part}"]
    return (float(entry["mean"]), [entry["low"], entry["high"]]), int(entry["n"])


def _prediction_1(probe: dict[str, Any]) -> ClaimResult:
    """Refuted when the weight at the lowest noise is far from 1 or does not fall."""
    levels = probe["explanation"]["levels"]
    first, last = levels[0], levels[-1]
    effects = [
        interval_effect(f"mean weight at t = {level['t']:g}", *_value(level["columns"]["sample_weight"]["mean"]),
        n=level["clips"])
        for level in (first, last)
    ]  # fmt: skip
    effects.append(_norms(probe))
    near, falls = low(effects[0]) > 0.9, high(effects[1]) < effects[0].value
    return judged("prediction-1", effects, supported=near and falls, refuted=high(effects[0]) < 0.5)


def _norms(probe: dict[str, Any]) -> Effect:
    """The gradient at low over that at high noise; probes of before 2026-11-28 kept no norms by batch, and so give a
    ratio of means at the first and last level without an interval."""
    levels = probe["gradients"]["levels"]
    outcomes = {outcome["number"]: outcome for outcome in probe["explanation"]["predictions"]}
    if measures := outcomes.get(1, {}).get("measures"):
        name, ratio = measures[-1]
        return interval_effect(name, *_value(ratio), "×", n=levels[0]["batches"])
    name = f"norm of the weighted gradient, t = {levels[0]['t']:g} over t = {levels[-1]['t']:g}"
    value = levels[0]["weighted_norm"] / levels[-1]["weighted_norm"]
    return Effect(name=name, value=value, unit="×", n=levels[0]["batches"])


def _prediction_5(probe: dict[str, Any]) -> ClaimResult:
    loss = probe["explanation"]["belief_loss"]
    names = (
        ("low noise", loss["bands"]["low"]),
        ("high noise", loss["bands"]["high"]),
        ("low − high", loss["difference"]),
    )
    effects = [interval_effect(f"rank correlation of belief and loss, {name}", *_value(entry)) for name, entry in names]
    at_low, apart = effects[0], effects[2]
    return judged("prediction-5", effects, supported=low(at_low) > 0 and low(apart) > 0, refuted=high(at_low) < 0)


def _value(entry: dict[str, Any]) -> tuple[float, list[float]]:
    return float(entry["value"]), [entry["low"], entry["high"]]
