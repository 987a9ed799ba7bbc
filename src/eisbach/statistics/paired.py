"""Clips of several arms laid out so that what should be compared stands side by side."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from eisbach.errors import UserError
from eisbach.types import Record, RecordValue

_Key = tuple[RecordValue, str, str]  # train_seed, prompt_id, seed


@dataclass(frozen=True)
class PairedCells:
    """One metric over clips that every arm has: the same prompt and seed (and training seed).

    Attributes
    ----------
    arms : list of str
        K arms.
    values : np.ndarray [shape=(K, R, P, S), float64]
        R trained models, P prompts, S seeds at most. Valid seeds come first; the rest is NaN, in the same places
        for every arm, so that each valid entry is a matched set of clips.
    models : list
        The R training seeds ([None] when the arms have one checkpoint each).
    prompts : list of str
        The P prompt ids.
    unmatched : int
        Clips of these arms that have no partner in some other arm, or that lack the metric.
    fixed_arm : bool
        Some arm is one checkpoint that was set beside every trained model of the others.
    by_draw : bool
        The models of one training seed learnt from one training set, which the seed drew: they are a pair.
    """

    arms: list[str]
    values: np.ndarray
    models: list[RecordValue]
    prompts: list[str]
    unmatched: int
    fixed_arm: bool = False
    by_draw: bool = False

    @property
    def dealt(self) -> bool:
        """Nothing makes pairs of the units: under no effect their labels may be dealt out anew, not swapped alone."""
        return self.unit == "trained model" and not self.fixed_arm

    @property
    def matched(self) -> int:
        """Number of matched sets of clips."""
        return int(np.isfinite(self.values[0]).sum())

    @property
    def unit(self) -> str:
        """The unit of inference: with several training seeds 'trained model', or 'draw' where they drew the training
        sets; otherwise 'prompt'."""
        if len(self.models) < 2:
            return "prompt"
        return "draw" if self.by_draw else "trained model"

    def cell_means(self) -> np.ndarray:
        """Means over seeds, shape (K, R, P); NaN where a model lacks a prompt."""
        counts = np.isfinite(self.values).sum(axis=-1)
        sums = np.nansum(self.values, axis=-1)
        means: np.ndarray = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
        return means

    def unit_means(self) -> np.ndarray:
        """Means by unit of inference, shape (K, n): by trained model, or by prompt when there is one model."""
        means = self.cell_means()
        if len(self.models) > 1:
            present = np.isfinite(means)
            counts = np.maximum(present.sum(axis=2), 1)
            by_model: np.ndarray = np.divide(np.where(present, means, 0.0).sum(axis=2), counts)
            return by_model
        return means[:, 0, :] if means.shape[1] else means.reshape(means.shape[0], 0)


def metric_value(row: Record, metric: str) -> float | None:
    """A row's metric as a float (true/false as 1/0), or None where it has none.

    Raises
    ------
    UserError
        The column holds text.
    """
    value = row.get(metric)
    if value is None:
        return None
    if isinstance(value, str):
        raise UserError(f"column '{metric}' holds text ({value!r}); choose a column of numbers or true/false.")
    number = float(value)
    return None if math.isnan(number) else number


def arm_values(records: Sequence[Record], metric: str, arm: str) -> dict[_Key, float]:
    """The metric of every clip of one arm that has it, by (train_seed, prompt_id, seed).

    Raises
    ------
    UserError
        No row has that arm, or no row of any arm has that metric.
    """
    rows = [row for row in records if row.get("arm") == arm]
    if not rows:
        known = ", ".join(dict.fromkeys(str(row.get("arm")) for row in records)) or "none"
        raise UserError(f"there is no arm named '{arm}' in the records; they hold: {known}.")
    if not any(metric in row for row in records):
        raise UserError(f"there is no metric named '{metric}' in the records; check its spelling.")
    values: dict[_Key, float] = {}
    for row in rows:
        value = metric_value(row, metric)
        if value is not None:
            values[row.get("train_seed"), str(row["prompt_id"]), str(row["seed"])] = value
    return values


def pair_cells(records: Sequence[Record], metric: str, arms: Sequence[str], *, redrawn: bool = False) -> PairedCells:
    """The metric of clips that all `arms` have in common.

    Training seeds are matched with one another. An arm without training seeds (the untrained base, say) is one fixed
    checkpoint and is set beside every model of the others; arms that have one checkpoint each are matched whatever
    their training seeds are. `redrawn`: each training seed drew a training set of its own (`PairedCells.by_draw`).
    """
    by_arm = [_by_model(arm_values(records, metric, arm)) for arm in arms]
    fixed = [set(models) <= {None} for models in by_arm]
    trained = [set(models) for models, is_fixed in zip(by_arm, fixed, strict=True) if not is_fixed]
    if all(len(models) <= 1 for models in by_arm):
        models: list[RecordValue] = [None]
        by_arm = [{None: next(iter(own.values()), {})} for own in by_arm]
        fixed = [False] * len(by_arm)
    else:
        models = sorted(set.intersection(*trained), key=_order)
    lookups = [
        [own.get(None if is_fixed else model, {}) for model in models]
        for own, is_fixed in zip(by_arm, fixed, strict=True)
    ]
    cells: dict[tuple[int, str], list[str]] = defaultdict(list)
    for index in range(len(models)):
        common = set.intersection(*(set(clips[index]) for clips in lookups))
        for prompt, seed in sorted(common, key=lambda key: (_order(key[0]), _order(key[1]))):
            cells[index, prompt].append(seed)
    prompts = sorted({prompt for _, prompt in cells}, key=_order)
    row_of = {prompt: index for index, prompt in enumerate(prompts)}
    depth = max((len(seeds) for seeds in cells.values()), default=0)
    values = np.full((len(by_arm), len(models), len(prompts), depth), np.nan)
    used: set[tuple[int, RecordValue, str, str]] = set()
    for (index, prompt), seeds in cells.items():
        for arm_index, clips in enumerate(lookups):
            values[arm_index, index, row_of[prompt], : len(seeds)] = [clips[index][prompt, seed] for seed in seeds]
            model = None if fixed[arm_index] else models[index]
            used.update((arm_index, model, prompt, seed) for seed in seeds)
    total = sum(row.get("arm") in arms for row in records)
    return PairedCells(list(arms), values, models, prompts, total - len(used), any(fixed), redrawn)


def _by_model(values: dict[_Key, float]) -> dict[RecordValue, dict[tuple[str, str], float]]:
    models: dict[RecordValue, dict[tuple[str, str], float]] = defaultdict(dict)
    for (model, prompt, seed), value in values.items():
        models[model][prompt, seed] = value
    return dict(models)


def _order(value: RecordValue) -> tuple[int, float, str]:
    """Sorts numbers by size before text by alphabet."""
    try:
        return (0, float(value), "")  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return (1, 0.0, str(value))


def pool_models(cells: PairedCells) -> PairedCells:
    """Cells with one 'model' whose seeds are the clips of all trained models: inference on these checkpoints."""
    arms, models, prompts, depth = cells.values.shape
    flat = np.moveaxis(cells.values, 1, 2).reshape(arms, prompts, models * depth)
    if flat.size:
        order = np.argsort(~np.isfinite(flat[0]), axis=-1, kind="stable")
        flat = np.take_along_axis(flat, np.broadcast_to(order, flat.shape), axis=-1)
    return replace(cells, values=flat[:, None], models=[None], fixed_arm=False)


# --- a cross-check by other means: the paired differences in a linear mixed model (statsmodels)


@dataclass(frozen=True)
class MixedModelCheck:
    """The intercept of `difference ~ 1 + (1 | prompt) + (1 | trained model)`.

    Attributes
    ----------
    difference : float
    interval : (float, float)
        95%, from the normal approximation: too narrow for few prompts or models.
    p : float
        Wald test, with the same reservation.
    converged : bool
        False where the fit lies on the boundary or did not settle; its numbers are then not to be quoted.
    """

    difference: float
    interval: tuple[float, float]
    p: float
    converged: bool


def mixed_model_check(records: Sequence[Record], metric: str, baseline: str, arm: str) -> MixedModelCheck:
    """The difference of `arm` from `baseline` by a mixed model over matched clips.

    A check on `compare_arms`, which makes no such assumptions: where the two disagree widely, look at the data.

    Raises
    ------
    UserError
        Fewer than three prompts, or no prompt with two seeds (nothing would tell prompts and seeds apart).
    """
    import pandas as pd
    import statsmodels.formula.api as smf
    from statsmodels.tools.sm_exceptions import ConvergenceWarning

    cells = pair_cells(records, metric, [baseline, arm])
    model, prompt, seed = np.nonzero(np.isfinite(cells.values[0]))
    counts = np.bincount(prompt, minlength=1)
    if len(cells.prompts) < 3 or counts.max() < 2:
        raise UserError(
            f"a mixed model needs at least three prompts and some prompt with two clips, and {baseline} and {arm} "
            f"share {len(cells.prompts)} prompts with at most {counts.max()} clips; use compare_arms."
        )
    difference = (cells.values[1] - cells.values[0])[model, prompt, seed]
    frame = pd.DataFrame({"difference": difference, "prompt": prompt, "model": model, "all": 0})
    components = {"prompt": "0 + C(prompt)"}
    if len(cells.models) > 1:
        components["model"] = "0 + C(model)"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = smf.mixedlm("difference ~ 1", frame, groups="all", vc_formula=components).fit()
    settled = bool(fitted.converged) and not any(issubclass(item.category, ConvergenceWarning) for item in caught)
    low, high = fitted.conf_int().loc["Intercept"]
    return MixedModelCheck(
        float(fitted.params["Intercept"]), (float(low), float(high)), float(fitted.pvalues["Intercept"]), settled
    )
