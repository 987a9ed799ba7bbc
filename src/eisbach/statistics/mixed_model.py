"""A cross-check by other means: the paired differences in a linear mixed model (statsmodels)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eisbach.errors import UserError
from eisbach.statistics.paired import pair_cells
from eisbach.types import Record


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
