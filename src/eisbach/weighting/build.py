"""Weightings from names and flat options, as configurations give them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from eisbach.diffusion.noise_levels import NoiseLevelDensity
from eisbach.diffusion.paths import Path
from eisbach.errors import UserError
from eisbach.weighting.clips import memory_from
from eisbach.weighting.compose import Normalisation, Reduction, Weighting
from eisbach.weighting.level_table import NoiseLevelTable, gate_table
from eisbach.weighting.noise_level import NOISE_WEIGHTINGS
from eisbach.weighting.sample import SAMPLE_WEIGHTINGS

NONE = "none"
_CONTEXT = {"latent_rate", "path", "density"}  # facts of the model, not choices
_SHAPING = {"gate_below", "gate_above", "gate_width", "level_means", "memory", "act_above"}
Built = TypeVar("Built")


def build_weighting(
    sample: str = NONE,
    noise_level: str = NONE,
    *,
    reduction: Reduction = "sample",
    normalisation: Normalisation = "none",
    strength: float = 0.5,
    gate_below: float | None = None,
    gate_above: float | None = None,
    gate_width: float = 0.0,
    level_means: Sequence[Sequence[float]] | None = None,
    memory: Mapping[str, Any] | None = None,
    act_above: float | None = None,
    latent_rate: float | None = None,
    path: Path | str | None = None,
    density: NoiseLevelDensity | None = None,
    **options: Any,
) -> Weighting:
    """A `Weighting` from names.

    Parameters
    ----------
    sample : str
        "none" or a name in `SAMPLE_WEIGHTINGS`.
    noise_level : str
        "none" or a name in `NOISE_WEIGHTINGS`.
    reduction, normalisation, strength
        As in `Weighting`.
    gate_below, gate_above : noise level t in [0, 1], or None
        The sample weighting acts only below, or above, this noise level.
    gate_width : float >= 0, default 0
        Width in t of the gate's ramp.
    level_means : list of [t, mean weight] or None
        Mean sample weight by noise level, as `eisbach probe` writes it; the weights are divided by it.
    memory : {"below": noise level, "decay": number} or None
        Weigh samples by a running belief of their clip, read below this noise level (`clips.ClipMemory`).
    act_above : noise level t in [0, 1], or None
        With a memory: clips are weighed above this noise level (with a ramp of `gate_width`), and all count alike
        below; None weighs them everywhere.
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
    >>> build_weighting("recurrence_barrier", latent_rate=21.5).reduction
    'sample'
    """
    first = _look_up(SAMPLE_WEIGHTINGS, "sample", sample)
    second = _look_up(NOISE_WEIGHTINGS, "noise-level", noise_level)
    allowed = [_option_names(first), _option_names(second)]
    unknown = sorted(set(options) - allowed[0] - allowed[1])
    if unknown:
        known = sorted((allowed[0] | allowed[1]) - _CONTEXT | (set() if first is None else _SHAPING)) or ["none"]
        raise UserError(
            f"the weighting ({sample}, {noise_level}) has no option {', '.join(map(repr, unknown))}; its options are "
            f"{', '.join(known)}."
        )
    context = {"latent_rate": latent_rate, "path": path, "density": density}
    given = {key: value for key, value in context.items() if value is not None}
    return Weighting(
        sample=_build(first, {**given, **options}, allowed[0]),
        noise_level=_build(second, {**given, **options}, allowed[1]),
        reduction=reduction,
        normalisation=normalisation,
        strength=strength,
        gate=_gate(gate_below, gate_above, gate_width, memory, act_above),
        level_means=None if level_means is None else NoiseLevelTable(level_means),  # type: ignore[arg-type]
        memory=memory_from(memory),
    )


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
    if axis == "sample":
        _look_up(SAMPLE_WEIGHTINGS, "sample", name)
    else:
        _look_up(NOISE_WEIGHTINGS, "noise-level", name)


def _look_up(table: Mapping[str, Callable[..., Built]], axis: str, name: str) -> Callable[..., Built] | None:
    if name == NONE:
        return None
    if name not in table:
        raise UserError(f"the {axis} weighting {name!r} is not known; choose one of {', '.join([NONE, *table])}.")
    return table[name]


def _option_names(factory: Callable[..., Any] | None) -> set[str]:
    return set() if factory is None else set(inspect.signature(factory).parameters)


def _build(factory: Callable[..., Built] | None, options: Mapping[str, Any], names: set[str]) -> Built | None:
    if factory is None:
        return None
    return factory(**{key: value for key, value in options.items() if key in names})
