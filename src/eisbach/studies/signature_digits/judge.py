"""Judges when digits are decided: coarse before fine, and earlier under guidance. Units are networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from eisbach.files import read_json
from eisbach.statistics.effect_size import mean_moments, t_interval
from eisbach.studies.contract import ClaimResult, Effect
from eisbach.studies.judging import high, interval_effect, judged, low, not_run

_READINGS = [f"{source}-{{}}-{estimator}" for source in ("reverse", "forward") for estimator in ("chain", "rate")]


def judge(folder: Path) -> list[ClaimResult]:
    """All claims from `signature_digits.json`."""
    networks = read_json(folder / "signature_digits.json", "records")["networks"]
    coarse = [_difference(networks, name.format("two"), name.format("classes")) for name in _READINGS]
    guided = [
        _difference(networks, "guided-3-classes-chain", "reverse-classes-chain"),
        _difference(networks, "guided-3-0.3-0.7-classes-chain", "reverse-classes-chain"),
    ]
    return [_claim("coarse-before-fine", coarse), _claim("guidance-earlier", guided[:1], guided[1:])]


def _difference(networks: list[dict[str, Any]], first: str, second: str) -> Effect | None:
    values = [
        network[first]["half_t"] - network[second]["half_t"]
        for network in networks
        if first in network and None not in (network[first]["half_t"], network[second]["half_t"])
    ]
    if not values:
        return None
    ends = t_interval(mean_moments(np.array(values)), 0.95)
    return interval_effect(f"half time, {first} − {second}", float(np.mean(values)), ends, "t", n=len(values))


def _claim(key: str, deciding: list[Effect | None], beside: list[Effect | None] | None = None) -> ClaimResult:
    effects = [effect for effect in deciding if effect is not None]
    if not effects:
        return not_run(key, "No half time was reached.")
    others = [effect for effect in beside or [] if effect is not None]
    return judged(
        key, [*effects, *others], supported=all(low(effect) > 0 for effect in effects),
        refuted=all(high(effect) < 0 for effect in effects),
    )  # fmt: skip
