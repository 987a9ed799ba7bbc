"""Weightings from names and flat options, as configurations give them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from eisbach.errors import UserError
from eisbach.weighting.compose import Normalisation, Reduction, Weighting
from eisbach.weighting.noise_level import NOISE_WEIGHTINGS
from eisbach.weighting.sample import SAMPLE_WEIGHTINGS

NONE = "none"
Built = TypeVar("Built")


def build_weighting(
    sample: str = NONE,
    noise_level: str = NONE,
    *,
    reduction: Reduction = "sample",
    normalisation: Normalisation = "none",
    strength: float = 0.5,
    latent_rate: float | None = None,
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
    latent_rate : float or None
        Latent frames per second, for weightings whose options are in seconds; the others ignore it.
    **options
        Options of the two weightings; each goes to the one that has it.

    Raises
    ------
    UserError
        Unknown name, an option that neither weighting has (the sentence lists those that exist), or a value out of
        range.
    """
    first = _look_up(SAMPLE_WEIGHTINGS, "sample", sample)
    second = _look_up(NOISE_WEIGHTINGS, "noise-level", noise_level)
    allowed = [_option_names(first), _option_names(second)]
    unknown = sorted(set(options) - allowed[0] - allowed[1])
    if unknown:
        known = sorted((allowed[0] | allowed[1]) - {"latent_rate"}) or ["none"]
        raise UserError(
            f"the weighting ({sample}, {noise_level}) has no option {', '.join(map(repr, unknown))}; its options are "
            f"{', '.join(known)}."
        )
    if latent_rate is not None and "latent_rate" in allowed[0]:
        options = {**options, "latent_rate": latent_rate}
    return Weighting(
        sample=_build(first, options, allowed[0]),
        noise_level=_build(second, options, allowed[1]),
        reduction=reduction,
        normalisation=normalisation,
        strength=strength,
    )


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
