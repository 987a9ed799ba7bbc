"""What a probe says of the cause: sentences on what the weights follow, and on what turning clips up does."""

from __future__ import annotations

from eisbach.diagnostics.probe import wording
from eisbach.diagnostics.probe.association import Estimate
from eisbach.diagnostics.probe.cause import Cause, explains, strongest
from eisbach.diagnostics.probe.drivers import Driver, Drivers
from eisbach.diagnostics.probe.explain import Explanation
from eisbach.diagnostics.probe.findings import Finding, said_interval, said_share

HEARS_LEVEL = 1.02
"""A factor on the weight of 6 dB more that is nearer to 1 than this is not worth a sentence of its own."""


def cause_findings(explanation: Explanation, cause: Cause, effect: Finding) -> list[Finding]:
    """What the clips' weights follow."""
    drivers = explanation.drivers
    found: list[Finding] = []
    if cause in ("none", "unknown"):
        return found
    shares = drivers.shares
    numbers = {name: vars(value) for name, value in vars(shares).items()}
    little = "What little it differs between clips" if effect.code == "constant" else "The difference between clips"
    lead = strongest(drivers, "loudness")
    rich = strongest(drivers, "structure")
    if cause == "loudness":
        numbers["driver"] = None if lead is None else lead.name
        small = "small " if effect.code == "constant" else ""
        text = f"It prefers {preference(lead)}: loudness explains {said_share(shares.loudness)} of the {small}difference between clips, "
        text += _beyond(drivers)
        found.append(Finding("loudness", text, numbers))
    elif cause == "structure":
        numbers["driver"] = None if rich is None else rich.name
        text = f"{little} follows structure and not loudness: structure explains {said_share(shares.structure)} of it"
        text += _lead_by(rich)
        if drivers.loudness_same:
            text += "; all clips are equally loud, so a preference for loud ones could not be seen here"
        elif shares.loudness_only.value is not None:
            text += f"; loudness adds {said_share(shares.loudness_only)} to that"
        found.append(Finding("structure", text + ".", numbers))
    elif cause == "both":
        text = (
            f"{little} follows loudness and structure, each for itself: loudness alone explains {said_share(shares.loudness)} of it, "
            f"structure alone {said_share(shares.structure)}{_lead_by(rich)}, and both together {said_share(shares.both)}; it prefers "
            f"{preference(lead)}."
        )
        found.append(Finding("both", text, numbers))
    elif cause == "confounded":
        text = (
            f"Whether it follows loudness or structure cannot be told apart here: loudness explains {said_share(shares.loudness)} of the "
            f"difference between clips and structure {said_share(shares.structure)}, but they go together in these clips, and beyond "
            f"the other loudness adds {said_share(shares.loudness_only)} and structure {said_share(shares.structure_only)}; probe clips "
            "that were brought to equal loudness."
        )
        found.append(Finding("confounded", text, numbers))
    elif cause == "undecided":
        text = (
            f"What it follows cannot be said from {drivers.clips} clips: loudness explains {said_share(shares.loudness)} of the difference "
            f"between clips, structure {said_share(shares.structure)}, both together {said_share(shares.both)}; probe more clips (--clips)."
        )
        found.append(Finding("undecided", text, numbers))
    else:
        measured = shares.both if shares.both.value is not None else shares.loudness
        what = (
            "Neither loudness nor structure explains"
            if shares.structure.value is not None
            else "Loudness does not explain"
        )
        text = f"{what} which clips weigh more ({said_share(measured)} of the difference between them)"
        found.append(Finding("unexplained", text + _otherwise(drivers) + ".", numbers))
    if drivers.loudness_same and cause != "structure":
        text = "All clips are equally loud, so a preference for loud or quiet ones cannot be seen here; probe clips as they are delivered."
        found.append(Finding("same_loudness", text))
    return found


def gain_findings(explanation: Explanation, cause: Cause) -> list[Finding]:
    """What the experiment on loudness said."""
    gain = explanation.gain
    if gain is None or gain.per_step.value is None:
        return []
    per_step, share = gain.per_step, gain.share
    numbers = {"per_6_db": vars(per_step), "share": vars(share), "clips": gain.clips, "levels": gain.levels}
    measured = f"(measured on {wording.count(gain.clips, 'clip')}, through the codec and the model)"
    certain = per_step.above(1) or per_step.below(1)
    if not certain or 1 / HEARS_LEVEL < (per_step.value or 1.0) < HEARS_LEVEL:
        text = f"Turning a clip up by 6 dB leaves its weight about where it is: times {_factor(per_step)} {measured}"
        if cause in ("loudness", "both"):
            text += "; what it follows goes with loudness in these clips and is not the level itself"
    else:
        text = f"Turning a clip up by 6 dB multiplies its weight by {_factor(per_step)} {measured}"
        if share.value is not None:
            text += f"; their differences in loudness alone would make {said_share(share)} of the difference between these clips"
    return [Finding("gain", text + ".", numbers)]


def _factor(one: Estimate) -> str:
    if one.value is None or one.low is None or one.high is None:
        return wording.weight(one.value or 1.0)
    return f"{one.value:.3g} (95% {one.low:.3g} to {one.high:.3g})"


def preference(lead: Driver | None) -> str:
    """'loud clips (rank correlation with latent level 0.9)', or what else the relation's shape says."""
    if lead is None or lead.spearman.value is None:
        return "clips by their loudness"
    rho, bends = lead.spearman.value, lead.bends or 0.0
    name = wording.column(lead.name)
    if abs(bends) > abs(rho):
        shape = "the loudest and the quietest clips" if bends > 0 else "clips of middling loudness"
        return f"{shape} (rank correlation with the squared rank of {name} {wording.number(bends)})"
    return f"{'loud' if rho > 0 else 'quiet'} clips (rank correlation with {name} {said_interval(lead.spearman)})"


def _beyond(drivers: Drivers) -> str:
    shares = drivers.shares
    if shares.structure_only.value is not None:
        return f"structure only {said_share(shares.structure_only)} beyond it."
    if any(one.group == "structure" and one.same for one in drivers.candidates):
        return "and the clips do not differ in structure."
    return "and structure was not measured, so it could not be set against it."


def _lead_by(rich: Driver | None) -> str:
    if rich is None or rich.spearman.value is None:
        return ""
    rho, bends = rich.spearman, rich.bends or 0.0
    if abs(bends) > abs(rho.value or 0.0):
        return f" (most of all {wording.column(rich.name)}, {'both ends weighing more' if bends > 0 else 'the middle weighing more'})"
    return f" (most of all {wording.column(rich.name)}, rank correlation {said_interval(rho)})"


def _otherwise(drivers: Drivers) -> str:
    """The energy of the prediction or the loss, where one of them does explain the weights."""
    for share, what, group in (
        (drivers.shares.energy, "the energy of the prediction does", "energy"),
        (drivers.shares.loss, "the loss does", "loss"),
    ):
        lead = strongest(drivers, group)
        if explains(share) and lead is not None:
            return f"; {what} ({said_share(share)}; rank correlation with {wording.column(lead.name)} {said_interval(lead.spearman)})"
    return ""
