"""The signature of a statistic: how much of a label is known from one number that a model gives at each noise level.

A model without classes has no p(z | x_t). What a sample weighting reads of it (the belief, say) still tells something
of a label such as flat or developing: by the data-processing inequality ``H[Z | X_t] <= H[Z | S_t]`` for any statistic
S_t of x_t, and the cross-entropy of any predictor that never saw the clip it is scored on is an upper bound of that in
expectation. The predictor here is a softmax regression on the statistic's logit and its square, fitted by clips in
folds. So the curve says where *this statistic* has decided Z; a better reader of x_t may know earlier.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from eisbach.diagnostics.signature.curve import SignatureCurve, finite_or_none
from eisbach.diagnostics.signature.summary import half_time
from eisbach.diffusion.paths import Path, get_path
from eisbach.errors import UserError

MIN_CLIPS = 5
_FOLDS, _RIDGE, _RESAMPLES = 8, 1e-3, 1000


def statistic_signature(
    rows: Sequence[Mapping[str, Any]],
    *,
    label: str = "flat",
    statistic: str = "belief",
    path: Path | str = "linear",
    prior: Mapping[str, float] | None = None,
    seed: int = 0,
    meta: Mapping[str, Any] | None = None,
) -> SignatureCurve:
    """A cross-entropy curve of a label from the rows of a probe (`rows.jsonl`).

    Parameters
    ----------
    rows : sequence of mappings
        One for each clip, noise level and draw: `clip`, `t`, the statistic, and ``label.NAME``.
    label : str
        Name of the label that is Z.
    statistic : str
        A column within (0, 1), such as `belief`, or any finite one.
    prior : mapping of label value to share, or None
        p(z); equal shares without. Clips are weighted to it.
    seed : int
        Of the folds and of the intervals' resamples.

    Returns
    -------
    SignatureCurve
        Of estimator "statistic" and quantity "cross-entropy", in nats; it may exceed H[Z] where the statistic knows
        nothing.

    Raises
    ------
    UserError
        No such label or statistic, one value alone, fewer than 5 clips of a value, a prior that does not fit, a row
        without a clip or a level in [0, 1], or fewer than 2 levels.
    """
    usable, names, of_clip = _labelled_rows(rows, label, statistic)
    counts = np.bincount(list(of_clip.values()), minlength=len(names))
    shares = _shares(names, prior)
    levels = sorted({float(row["t"]) for row in usable}, reverse=True)
    if len(levels) < 2:
        raise UserError("a signature needs at least 2 noise levels; the rows hold 1.")
    clips = sorted(of_clip)
    folds = _folds(clips, of_clip, np.random.default_rng([seed, 1]))
    resample = np.random.default_rng([seed, 2])
    weight_of = shares / counts
    draws = [_stratified(of_clip, clips, resample) for _ in range(_RESAMPLES)]
    mean, spread = [], []
    for level in levels:
        losses = _losses([row for row in usable if float(row["t"]) == level], statistic, of_clip, folds, weight_of)
        per_clip = np.array([losses[clip] * weight_of[of_clip[clip]] for clip in clips])
        mean.append(float(per_clip.sum()))
        spread.append([float(per_clip[draw].sum()) for draw in draws])
    return _curve(
        label, names, shares, get_path(path), levels, np.array(mean), np.array(spread), statistic, len(clips), meta
    )


def _labelled_rows(
    rows: Sequence[Mapping[str, Any]], label: str, statistic: str
) -> tuple[list[Mapping[str, Any]], list[str], dict[str, int]]:
    """The rows with a label and the statistic, the label's values, and each clip's place among them."""
    column = f"label.{label}"
    usable = [row for row in rows if row.get(column) is not None and _is_number(row.get(statistic))]
    if not usable:
        raise UserError(
            f"no row has both the label '{label}' and a number '{statistic}'; probe labelled clips with a sample "
            "weighting first."
        )
    names = sorted({str(row[column]) for row in usable})
    astray = [
        row for row in usable if not _is_number(row.get("t")) or not 0 <= row["t"] <= 1 or row.get("clip") is None
    ]
    if astray:
        raise UserError(
            f"a row has no clip or no noise level t within [0, 1] ({str(astray[0])[:120]}); these are no rows of a "
            "probe."
        )
    of_clip = {str(row["clip"]): names.index(str(row[column])) for row in usable}
    counts = np.bincount(list(of_clip.values()), minlength=len(names))
    if len(names) < 2 or counts.min() < MIN_CLIPS:
        counted = ", ".join(f"{count} '{name}'" for name, count in zip(names, counts, strict=True))
        raise UserError(
            f"the label '{label}' needs two values with at least {MIN_CLIPS} clips each; the rows hold {counted}."
        )
    return usable, names, of_clip


def _losses(
    rows: Sequence[Mapping[str, Any]],
    statistic: str,
    of_clip: Mapping[str, int],
    folds: Mapping[str, int],
    weight_of: np.ndarray,
) -> dict[str, float]:
    """-ln p(z of the clip) by a regression that was fitted without it, averaged over the clip's rows."""
    clip = np.array([str(row["clip"]) for row in rows])
    label = np.array([of_clip[name] for name in clip])
    fold = np.array([folds[name] for name in clip])
    value = np.array([float(row[statistic]) for row in rows])
    if ((value > 0) & (value < 1)).all():
        value = np.log(value) - np.log1p(-value)
    scores = np.empty(len(rows))
    for number in range(_FOLDS):
        fitted, scored = fold != number, fold == number
        if not scored.any():
            continue
        centre, scale = value[fitted].mean(), value[fitted].std() or 1.0
        z = (value - centre) / scale
        features = np.stack([np.ones_like(z), z, z**2], axis=1)
        log_p = _softmax_fit(features[fitted], label[fitted], weight_of[label[fitted]], len(weight_of), features)
        scores[scored] = -log_p[scored, label[scored]]
    return {name: float(scores[clip == name].mean()) for name in np.unique(clip)}


def _softmax_fit(x: np.ndarray, label: np.ndarray, weight: np.ndarray, classes: int, at: np.ndarray) -> np.ndarray:
    """Log-probabilities [shape=(len(at), classes)] of a ridge softmax regression."""
    from scipy.optimize import minimize

    weight, hot = weight / weight.sum(), np.eye(classes)[label]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        b = flat.reshape(x.shape[1], classes)
        score = x @ b
        log_p = score - np.logaddexp.reduce(score, axis=1, keepdims=True)
        slope = x.T @ ((np.exp(log_p) - hot) * weight[:, None]) + 2 * _RIDGE * b
        return float(-(weight * log_p[np.arange(len(x)), label]).sum() + _RIDGE * (b**2).sum()), slope.ravel()

    best = minimize(loss, np.zeros(x.shape[1] * classes), jac=True, method="L-BFGS-B").x.reshape(x.shape[1], classes)
    score = at @ best
    return np.asarray(score - np.logaddexp.reduce(score, axis=1, keepdims=True))


def _folds(clips: Sequence[str], of_clip: Mapping[str, int], rng: np.random.Generator) -> dict[str, int]:
    """A fold for each clip, every value of the label spread over all of them."""
    folds: dict[str, int] = {}
    for value in sorted(set(of_clip.values())):
        own = [clip for clip in clips if of_clip[clip] == value]
        for place, index in enumerate(rng.permutation(len(own))):
            folds[own[index]] = place % _FOLDS
    return folds


def _stratified(of_clip: Mapping[str, int], clips: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """A bootstrap draw of clips within each value of the label."""
    value = np.array([of_clip[clip] for clip in clips])
    return np.concatenate(
        [rng.choice(np.flatnonzero(value == label), (value == label).sum()) for label in np.unique(value)]
    )


def _shares(names: Sequence[str], prior: Mapping[str, float] | None) -> np.ndarray:
    if prior is None:
        return np.full(len(names), 1 / len(names))
    if set(prior) != set(names) or abs(sum(prior.values()) - 1) > 1e-6 or min(prior.values()) <= 0:
        raise UserError(
            f"the prior must give each of {', '.join(names)} a share above 0, summing to 1; got {dict(prior)!r}."
        )
    return np.array([prior[name] for name in names])


def _curve(
    label: str,
    names: list[str],
    shares: np.ndarray,
    path: Path,
    levels: list[float],
    mean: np.ndarray,
    spread: np.ndarray,
    statistic: str,
    clips: int,
    meta: Mapping[str, Any] | None,
) -> SignatureCurve:
    from eisbach.diffusion.rate_curve import path_options

    t = np.array(levels)
    prior_entropy = float(-(shares * np.log(shares)).sum())
    low, high = np.percentile(spread, [2.5, 97.5], axis=1)
    rate_low, rate_high = np.percentile(np.gradient(spread, t, axis=0), [2.5, 97.5], axis=1)
    return SignatureCurve(
        partition=label,
        groups=names,
        estimator="statistic",
        quantity="cross-entropy",
        prior_entropy=prior_entropy,
        t=levels,
        log_snr=[finite_or_none(float(value)) for value in path.log_snr(torch.tensor(levels, dtype=torch.float64))],
        entropy=mean.tolist(),
        entropy_lo=low.tolist(),
        entropy_hi=high.tolist(),
        rate=np.gradient(mean, t).tolist(),
        rate_lo=rate_low.tolist(),
        rate_hi=rate_high.tolist(),
        half=half_time(t, np.vstack([mean, spread.T]), prior_entropy / 2, path),
        path=path.name,
        path_options=path_options(path),
        meta={**(meta or {}), "statistic": statistic, "clips": clips},
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
