"""The judge: does a clip develop, or is it structurally flat, and in which way?

Four kinds of flatness, with probabilities that add up to 1 with that of none: *still* (a drone, a held or slowly
turning chord, a pad), *loop* (one cycle of 1 to 16 s again and again), *texture* (noise, rain, a cloud of grains: ever
moving and going nowhere) and *shuffled* (music that was cut up and put in another order, which has no line through
it). A small network reads the measures of `evidence`; its constants live in ``assets/structure/flatness.json``,
written by ``bench/calibrate_structure.py`` from rendered and recorded material, and
``bench/results/judge.json`` holds its false alarms and AUC on hands that it was not fitted on. A loop, a drone or a
texture can be what its maker wanted (ambient, trance): a kind says what is heard, not that it is bad.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np

from eisbach.structure.evidence import evidence, stretches
from eisbach.structure.features import Features, once_per_clip, one_thread

FLAT_KINDS = ("still", "loop", "texture", "shuffled")
"""Ways of being flat; `none` is the fifth answer."""
IS_FLAT_FROM = 0.5
"""`is_flat` is a probability of at least this."""

_ASSET = "assets/structure/flatness.json"


@lru_cache(maxsize=1)
def judge() -> dict[str, Any]:
    """The calibrated constants (`measures`: name -> low, high, mean and scale; `networks`; `calibration`: slope and
    bias), and the numbers of the calibration."""
    return dict(json.loads(resources.files("eisbach").joinpath(_ASSET).read_text(encoding="utf-8")))


@lru_cache(maxsize=1)
def judge_identity() -> str:
    """Eight hex digits of the constants' hash: probabilities of different judges must not be mixed."""
    return hashlib.sha256(resources.files("eisbach").joinpath(_ASSET).read_bytes()).hexdigest()[:8]


@once_per_clip
def kind_probabilities(features: Features) -> dict[str, float]:
    """Probabilities of `none` and of each of `FLAT_KINDS`, which add up to 1.

    All are NaN under 8 s of sound; silence is `still`. A clip of more than 66 s is judged in equal stretches of about a
    minute, whose mean is returned.

    Examples
    --------
    >>> import numpy as np
    >>> from eisbach.structure.features import extract_features
    >>> from eisbach.types import Waveform
    >>> hiss = 0.1 * np.random.default_rng(0).standard_normal((1, 20 * 22050)).astype(np.float32)
    >>> kinds = kind_probabilities(extract_features(Waveform(hiss, 22050)))
    >>> flat_kind(kinds), round(sum(kinds.values()), 6)
    ('texture', 1.0)
    """
    names = ("none", *FLAT_KINDS)
    if features.duration == 0.0:
        return dict(zip(names, (0.0, 1.0, 0.0, 0.0, 0.0), strict=True))
    with one_thread():
        heard = [classify(evidence(*stretch)) for stretch in stretches(features)]
    if not heard:
        return dict.fromkeys(names, float("nan"))
    mean = np.mean(heard, axis=0)
    return {name: float(value) for name, value in zip(names, mean / mean.sum(), strict=True)}


def flat_probability(features: Features) -> float:
    """Probability in [0, 1] that a clip is flat in any way; NaN under 8 s of sound.

    Examples
    --------
    >>> from eisbach.structure.features import extract_features
    >>> from eisbach.studies.ground_truth import synthetic
    >>> round(flat_probability(extract_features(synthetic.loop(2.7, 1, 30.0))))
    1
    """
    return 1.0 - kind_probabilities(features)["none"]


def is_flat(features: Features) -> bool:
    """Whether `flat_probability` reaches one half; a clip too short to judge is not called flat."""
    return flat_kind(kind_probabilities(features)) in FLAT_KINDS


def flat_kind(probabilities: Mapping[str, float]) -> str:
    """What to call a clip: `none` where flatness is less likely than not, else the likeliest of `FLAT_KINDS`; "" where
    it could not be judged."""
    if math.isnan(probabilities["none"]):
        return ""
    if 1.0 - probabilities["none"] < IS_FLAT_FROM:
        return "none"
    return max(FLAT_KINDS, key=lambda kind: probabilities[kind])


def classify(measures: Mapping[str, float]) -> np.ndarray:
    """Probabilities of none and of `FLAT_KINDS` [shape=(5,)] from the measures of one stretch.

    Values beyond the calibration's range count as its ends: the judge does not extrapolate. Undefined ones count as its
    mean, that is, as no evidence.
    """
    constants = judge()
    low, high, mean, scale = np.array(list(constants["measures"].values())).T
    values = np.array([measures[name] for name in constants["measures"]])
    # z-scores of the calibration's own clips; 0 is its mean, no evidence either way.
    inputs = np.nan_to_num((np.clip(values, low, high) - mean) / scale, nan=0.0)
    kinds = mean_probabilities(_networks(), inputs[None])[0]
    return calibrated(kinds[None], constants["calibration"]["slope"], constants["calibration"]["bias"])[0]


@lru_cache(maxsize=1)
def _networks() -> list[dict[str, np.ndarray]]:
    return [{name: np.array(values) for name, values in network.items()} for network in judge()["networks"]]


def mean_probabilities(networks: list[dict[str, np.ndarray]], inputs: np.ndarray) -> np.ndarray:
    """Mean over networks of their probabilities, [shape=(clips, 5)].

    A network has one hidden layer: `inward` [shape=(measures, hidden)], `hidden`, `outward` [shape=(hidden, 5)] and
    `bias`.
    """
    total = np.zeros((len(inputs), 1 + len(FLAT_KINDS)))
    for network in networks:
        inner = np.tanh(inputs @ network["inward"] + network["hidden"])
        logits = inner @ network["outward"] + network["bias"]
        # The softmax, less the largest logit so that nothing overflows.
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        total += odds / odds.sum(axis=1, keepdims=True)
    return total / len(networks)


def calibrated(kinds: np.ndarray, slope: float, bias: float) -> np.ndarray:
    """Probabilities [shape=(clips, 5)] whose share of flatness went through a logistic curve; what is flat keeps its
    proportions."""
    flat = np.clip(1.0 - kinds[:, 0], 1e-6, 1.0 - 1e-6)
    # Platt's scaling of the log-odds of flatness; each kind of flatness keeps its share of the whole.
    said = 1.0 / (1.0 + np.exp(-(slope * np.log(flat / (1.0 - flat)) + bias)))
    return np.concatenate(
        [1.0 - said[:, None], kinds[:, 1:] * (said / (1.0 - kinds[:, 0]).clip(1e-6))[:, None]], axis=1
    )
