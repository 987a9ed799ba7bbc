"""What the differences between clips' weights follow: loudness, structure, both, or nothing that was measured."""

from __future__ import annotations

from typing import Literal

from eisbach.diagnostics.probe.association import Estimate
from eisbach.diagnostics.probe.drivers import Driver, Drivers
from eisbach.diagnostics.probe.explain import Explanation

EXPLAINS = 0.25
"""A group explains the clips' weights from this share of their rank variance on (a correlation of 0.5)."""
ADDS = 0.15
"""A group says something of its own where it adds this much to the other, with an interval that excludes 0."""
GO_TOGETHER = 0.5
"""Loudness and structure go together where half of what the weaker one explains is explained by the other as well."""
TURNED = 0.5
"""Loudness is the cause where turning clips up, by experiment, makes half of the difference between them."""
UNMOVED = 0.1
"""Loudness is out of the question where the experiment makes under a tenth of it, interval and all."""

Cause = Literal["none", "loudness", "structure", "both", "confounded", "undecided", "neither", "unknown"]


def find_cause(explanation: Explanation) -> Cause:
    """What the differences between clips follow, as far as these clips can tell.

    Loudness and structure are each asked what they add to the other: structure that merely follows loudness adds nothing
    to it. Where both explain the weights and neither adds anything, these clips cannot tell them apart. The experiment on
    loudness can: it overrules what merely goes together.
    """
    drivers = explanation.drivers
    if not explanation.has_sample_weight:
        return "none"
    if not drivers.enough:
        return "unknown"
    observed, turned = _observed_cause(drivers), explanation.gain
    if turned is None or turned.share.value is None:
        return observed
    if turned.share.value >= TURNED and turned.share.above(EXPLAINS):
        return "both" if observed in ("structure", "both") else "loudness"
    if observed == "confounded" and turned.share.below(UNMOVED):
        return "structure"
    return observed


def _observed_cause(drivers: Drivers) -> Cause:
    """The cause as far as it shows in which clips weigh more."""
    shares = drivers.shares
    loud, structured = explains(shares.loudness), explains(shares.structure)
    if shares.loudness.value is None or shares.structure.value is None:
        # Structure was not measured, or does not differ between the clips; or every clip is equally loud.
        return "loudness" if loud else "structure" if structured else "neither"
    together = explains(shares.both)
    if not (loud or structured or together):
        return "neither"
    first, second = _adds(shares.loudness_only), _adds(shares.structure_only)
    if first and second:
        return "both"
    if first:
        return "loudness"
    if second:
        return "structure"
    # Neither adds anything for certain: one of them may still be out of the question altogether.
    if loud and not structured and (shares.structure.value or 0.0) < EXPLAINS / 2:
        return "loudness"
    if structured and not loud and (shares.loudness.value or 0.0) < EXPLAINS / 2:
        return "structure"
    together_they_go = min(shares.loudness.value, shares.structure.value) * GO_TOGETHER
    return "confounded" if (shares.shared.value or 0.0) >= together_they_go > 0 else "undecided"


def explains(share: Estimate) -> bool:
    """Whether a group explains the clips' weights: enough of them, and certainly some."""
    return share.value is not None and share.value >= EXPLAINS and share.above(0)


def _adds(share: Estimate) -> bool:
    return share.value is not None and share.value >= ADDS and share.above(0)


def strongest(drivers: Drivers, group: str) -> Driver | None:
    """The candidate of a group that explains most; None where none could be tested."""
    members = [one for one in drivers.candidates if one.group == group and one.spearman.value is not None]
    return max(members, key=lambda one: (one.share or 0.0, abs(one.spearman.value or 0.0)), default=None)
