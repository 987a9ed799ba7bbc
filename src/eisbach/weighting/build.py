"""Weightings from names and flat options, as configurations give them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from eisbach.diffusion.noise_levels import NoiseLevelDensity
from eisbach.diffusion.paths import Path
from eisbach.errors import UserError
from eisbach.weighting.clips import act_level, memory_from, write_out_level
from eisbach.weighting.compose import Normalisation, Reduction, Weighting
from eisbach.weighting.noise_level import NOISE_WEIGHTINGS
from eisbach.weighting.noise_level.base import NoiseLevelTable, gate_table
from eisbach.weighting.sample import SAMPLE_WEIGHTINGS

NONE, RECOMMENDED = "none", "recommended"
RECOMMENDED_WEIGHTING: dict[str, Any] = {
    "sample": "recurrence_barrier",
    "reduction": "sample",
    "normalisation": "mean1",
    "strength": 1.0,
    "options": {"form": "power", "sharpness": 4.0},
}
"""What `sample="recommended"` stands for, here, in recipes, in the demo and in what the probe recommends: the one place
to change it. Why it is this one: docs/weighting.md, "The recommended weighting"."""

_PLAIN_DEFAULTS: dict[str, Any] = {"reduction": "sample", "normalisation": "none", "strength": 0.5}
_CONTEXT = {"latent_rate", "path", "density"}  # facts of the model, not choices
_SHAPING = {"gate_below", "gate_above", "gate_width", "level_means", "memory", "act_above"}
_GATE = {"gate_below": None, "gate_above": None, "gate_width": 0.0}
Built = TypeVar("Built")


def build_weighting(
    sample: str | None = None,
    noise_level: str = NONE,
    *,
    reduction: Reduction | None = None,
    normalisation: Normalisation | None = None,
    strength: float | None = None,
    gate_below: float | None = None,
    gate_above: float | None = None,
    gate_width: float = 0.0,
    level_means: Sequence[Sequence[float]] | None = None,
    memory: Mapping[str, Any] | None = None,
    act_above: float | Mapping[str, Any] | None = None,
    latent_rate: float | None = None,
    path: Path | str | None = None,
    density: NoiseLevelDensity | None = None,
    **options: Any,
) -> Weighting:
    """A `Weighting` from names.

    Parameters
    ----------
    sample : str or None
        "recommended" (`RECOMMENDED_WEIGHTING`, whose settings hold where none are given here), "none" or a name in
        `SAMPLE_WEIGHTINGS`. None takes the recommended one, or none beside a `noise_level`.
    noise_level : str
        "none" or a name in `NOISE_WEIGHTINGS`.
    reduction, normalisation, strength
        As in `Weighting`; "sample", "none" and 0.5 where nothing is given and nothing recommended.
    gate_below, gate_above : noise level t in [0, 1], or None
        The sample weighting acts only below, or above, this noise level.
    gate_width : float >= 0, default 0
        Width in t of the gate's ramp.
    level_means : list of [t, mean weight] or None
        Mean sample weight by noise level, as `eisbach probe` writes it; the weights are divided by it.
    memory : {"below": noise level, "decay": number} or None
        Weigh samples by a running belief of their clip, read below this noise level (`clips.ClipMemory`).
    act_above : noise level t in [0, 1], {"curve": file, "share": number} or None
        With a memory: clips are weighed above this noise level (with a ramp of `gate_width`), and all count alike
        below; None weighs them everywhere. A mapping reads the level from a measured signature: above it `share`
        (default 0.5) of H[Z] is decided.
    latent_rate : float or None
        Latent frames per second, for weightings whose options are in seconds.
    path : Path, str or None
        The noising path, for noise-level weightings that need it when they are made.
    density : NoiseLevelDensity or None
        What t is drawn from, for noise-level weightings that correct for it. These three come from the model;
        weightings that have no use for them ignore them.
    **options
        Options of the two weightings; each goes to the one that has it.

    Raises
    ------
    UserError
        Unknown name, an option that neither weighting has (the sentence lists those that exist), or a value out of
        range.

    Examples
    --------
    >>> from eisbach import build_weighting
    >>> build_weighting("entropy_barrier", "min_snr", strength=0.7, gamma=5.0).noise_level
    MinSNR(gamma=5.0)
    >>> weighting = build_weighting(latent_rate=21.5)  # the recommended one
    >>> type(weighting.sample).__name__, weighting.normalisation, weighting.strength
    ('RecurrenceBarrier', 'mean1', 1.0)
    """
    shaping = {
        "gate_below": gate_below, "gate_above": gate_above, "gate_width": gate_width or None, "memory": memory,
        "act_above": act_above,
    }  # fmt: skip
    given = {"sample": sample, "reduction": reduction, "normalisation": normalisation, "strength": strength}
    if sample is None:
        given["sample"] = RECOMMENDED if noise_level == NONE else NONE
    asked: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    asked["options"] = options | {key: value for key, value in shaping.items() if value is not None}
    chosen = _PLAIN_DEFAULTS | expand_recommended(asked)
    context = {"latent_rate": latent_rate, "path": path, "density": density}
    return _built(chosen, noise_level, level_means, {key: value for key, value in context.items() if value is not None})


def _built(
    chosen: Mapping[str, Any],
    noise_level: str,
    level_means: Sequence[Sequence[float]] | None,
    facts: Mapping[str, Any],
) -> Weighting:
    """The weighting of flat choices; `facts` are those that the model states."""
    sample, options = str(chosen["sample"]), dict(chosen["options"])
    below, above, width = (options.pop(key, default) for key, default in _GATE.items())
    memory, act_above = options.pop("memory", None), options.pop("act_above", None)
    gate = _gate(below, above, width, memory, act_level(act_above, facts.get("path")))
    first = _look_up(SAMPLE_WEIGHTINGS, "sample", sample)
    second = _look_up(NOISE_WEIGHTINGS, "noise-level", noise_level)
    allowed = [_option_names(first), _option_names(second)]
    _refuse_unknown(options, f"({sample}, {noise_level})", allowed, set() if first is None else _SHAPING)
    return Weighting(
        sample=_build(first, {**facts, **options}, allowed[0]),
        noise_level=_build(second, {**facts, **options}, allowed[1]),
        reduction=chosen["reduction"],
        normalisation=chosen["normalisation"],
        strength=chosen["strength"],
        gate=gate,
        level_means=None if level_means is None else NoiseLevelTable(level_means),  # type: ignore[arg-type]
        memory=memory_from(memory),
    )


def _refuse_unknown(options: Mapping[str, Any], name: str, allowed: Sequence[set[str]], shaping: set[str]) -> None:
    unknown = sorted(set(options) - allowed[0] - allowed[1])
    if unknown:
        known = sorted((allowed[0] | allowed[1]) - _CONTEXT | shaping) or ["none"]
        raise UserError(
            f"the weighting {name} has no option {', '.join(map(repr, unknown))}; its options are {', '.join(known)}."
        )


def expand_recommended(values: Mapping[str, Any]) -> dict[str, Any]:
    """A group `weighting` of a configuration with the name "recommended" written out; what it sets itself stays.

    >>> expand_recommended({"sample": "recommended", "strength": 0.5})["sample"]
    'recurrence_barrier'
    """
    if values.get("sample") != RECOMMENDED:
        return dict(values)
    options = values.get("options")
    own = dict(options) if isinstance(options, Mapping) else {}
    rest = {key: value for key, value in values.items() if key not in ("sample", "options")}
    return RECOMMENDED_WEIGHTING | rest | {"options": RECOMMENDED_WEIGHTING["options"] | own}


def write_out(values: Mapping[str, Any]) -> dict[str, Any]:
    """A group `weighting` written out: what "recommended" stands for, and the level of a signature's file."""
    chosen = expand_recommended(values)
    if "act_above" not in chosen.get("options", {}):
        return chosen
    options = chosen["options"]
    return chosen | {"options": {**options, "act_above": write_out_level(options["act_above"])}}


def _gate(
    below: float | None, above: float | None, width: float, memory: Mapping[str, Any] | None, act_above: float | None
) -> NoiseLevelTable | None:
    if memory is None and act_above is not None:
        raise UserError("act_above says where the memory of the clips acts, and there is none; give memory with it.")
    if memory is not None:
        if below is not None or above is not None:
            raise UserError("a memory reads and acts at other noise levels: say memory.below and act_above, no gate.")
        above = act_above
    if below is not None or above is not None:
        return gate_table(below, above, width)
    if width:
        raise UserError(f"gate_width is {width!r} but there is no gate; give gate_below, gate_above or act_above.")
    return None


def check_weighting_name(axis: str, name: str) -> None:
    """`UserError` where `axis` ("sample" or "noise_level") has no weighting of this name."""
    if axis == "sample" and name != RECOMMENDED:
        _look_up(SAMPLE_WEIGHTINGS, "sample", name)
    elif axis != "sample":
        _look_up(NOISE_WEIGHTINGS, "noise-level", name)


def _look_up(table: Mapping[str, Callable[..., Built]], axis: str, name: str) -> Callable[..., Built] | None:
    if name == NONE:
        return None
    known = [NONE, RECOMMENDED, *table] if table is SAMPLE_WEIGHTINGS else [NONE, *table]
    if name not in table:
        raise UserError(f"the {axis} weighting {name!r} is not known; choose one of {', '.join(known)}.")
    return table[name]


def _option_names(factory: Callable[..., Any] | None) -> set[str]:
    return set() if factory is None else set(inspect.signature(factory).parameters)


def _build(factory: Callable[..., Built] | None, options: Mapping[str, Any], names: set[str]) -> Built | None:
    if factory is None:
        return None
    return factory(**{key: value for key, value in options.items() if key in names})
