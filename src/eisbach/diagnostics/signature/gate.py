"""From a measured signature to the gate of a sample weighting: it acts where what it is about is decided."""

from __future__ import annotations

import numpy as np

from eisbach.diagnostics.signature.curve import SignatureCurve, crossing
from eisbach.errors import UserError

_SHARE = (0.5, 0.8)
_DIGITS = 3


def gate_from_curve(curve: SignatureCurve, share: tuple[float, float] = _SHARE) -> dict[str, float]:
    """`gate_below` and `gate_width` of a weighting (its `options`): off while less than `share[0]` of Z is decided,
    fully on from `share[1]`.

    Parameters
    ----------
    curve : SignatureCurve
        The decided share at a noise level is ``1 - H[Z | X_t] / H[Z]``.
    share : (low, high), 0 < low <= high < 1
        Default (0.5, 0.8). Between them the gate is a ramp, linear in t.

    Returns
    -------
    dict
        `gate_below` in (0, 1], the middle of the ramp, and `gate_width` >= 0, its width in t; what `build_weighting`
        takes. A gate divides nothing: give `level_means` with it, or samples above it weigh 1 beside weights of another
        mean.

    Raises
    ------
    UserError
        Shares out of range, or a curve along which a share is never decided, or decided at its first level already.
    """
    low, high = share
    if not 0 < low <= high < 1:
        raise UserError(
            f"the shares of the gate are {low!r} and {high!r}; choose 0 < low <= high < 1, such as 0.5 and 0.8."
        )
    t, entropy = np.array(curve.t), np.array(curve.entropy)
    ends = []
    for one in (low, high):
        level = crossing(t, entropy, (1 - one) * curve.prior_entropy)
        if level is None:
            early = entropy[0] <= (1 - one) * curve.prior_entropy
            why = "is decided at its first level already" if early else "is never decided"
            raise UserError(
                f"along this curve a share of {one:g} of '{curve.partition}' {why} (t from {t[0]:g} to {t[-1]:g}), so "
                "it gives no gate; "
                "choose another share or measure other levels."
            )
        ends.append(level)
    return {
        "gate_below": round((ends[0] + ends[1]) / 2, _DIGITS),
        "gate_width": round(max(0.0, ends[0] - ends[1]), _DIGITS),
    }
