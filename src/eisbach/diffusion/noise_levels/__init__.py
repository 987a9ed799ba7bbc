"""Training densities over noise levels: which t a training step sees. One line each in `DENSITIES`.

A density is kept apart from the weight on the loss; what a model is trained on is their product
(`eisbach.weighting.allocation`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from eisbach.diffusion.noise_levels.base import NoiseLevelDensity
from eisbach.diffusion.noise_levels.over_log_snr import EDM, LogSNRNormal, LogSNRUniform, log_snr_range
from eisbach.diffusion.noise_levels.over_t import (
    CosMap,
    LogitNormal,
    Mode,
    TruncLogitNormal,
    Uniform,
    length_shift,
    shift_by_length,
    shift_t,
)
from eisbach.diffusion.paths import PATHS, Path, get_path
from eisbach.errors import UserError

DENSITIES: dict[str, Callable[..., NoiseLevelDensity]] = {
    "uniform": Uniform,
    "logit_normal": LogitNormal,
    "trunc_logit_normal": TruncLogitNormal,
    "mode": Mode,
    "cosmap": CosMap,
    "log_snr_uniform": LogSNRUniform,
    "log_snr_normal": LogSNRNormal,
    "edm": EDM,
}
"""Name to class; a new density is one class and one line here."""

__all__ = [
    "DENSITIES",
    "EDM",
    "CosMap",
    "LogSNRNormal",
    "LogSNRUniform",
    "LogitNormal",
    "Mode",
    "NoiseLevelDensity",
    "TruncLogitNormal",
    "Uniform",
    "check_density",
    "density_options",
    "get_density",
    "length_shift",
    "log_snr_range",
    "shift_by_length",
    "shift_t",
]


def get_density(name: str | NoiseLevelDensity, path: Path | str | None = None, **options: Any) -> NoiseLevelDensity:
    """A training density by name, with its options; a `NoiseLevelDensity` is returned as it is.

    Parameters
    ----------
    name : str or NoiseLevelDensity
    path : Path, str or None
        The noising path; given to the densities that are stated over log-SNR, which need it, and read by no other.
    **options
        The density's own (`density_options`).

    Raises
    ------
    UserError
        Unknown name, unknown option or impossible option value; a path that is missing, or that is not the one the
        given density was built for.
    """
    path = None if path is None else get_path(path)
    if isinstance(name, NoiseLevelDensity):
        if options:
            raise UserError(f"options {sorted(options)} came with a density that is already built; pass its name.")
        if path is not None and name.built_for is not None and name.built_for != path:
            raise UserError(
                f"the {name.name} density was built for {name.built_for} and is asked for on {path}; build it for that "
                "path."
            )
        return name
    known = density_options(name)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UserError(
            f"the density {name} does not take these options: {', '.join(unknown)}; "
            + (f"its options are {', '.join(known)}." if known else "it has none.")
        )
    if not _needs_path(name):
        return DENSITIES[name](**options)
    if path is None:
        raise UserError(
            f"the {name} density is stated over log-SNR, so it needs the noising path; pass path= (one of "
            f"{', '.join(PATHS)})."
        )
    return DENSITIES[name](path=path, **options)


def density_options(name: str) -> list[str]:
    """The names of a density's options, without the path; `UserError` for an unknown density."""
    if name not in DENSITIES:
        raise UserError(f"the noise-level density {name!r} is not known; choose one of {', '.join(DENSITIES)}.")
    return [option for option in inspect.signature(DENSITIES[name]).parameters if option != "path"]


def _needs_path(name: str) -> bool:
    """Whether a density is stated over log-SNR; `UserError` for an unknown density."""
    density_options(name)
    return "path" in inspect.signature(DENSITIES[name]).parameters


def check_density(name: str, options: Mapping[str, Any]) -> NoiseLevelDensity:
    """The density on the first path that allows these options, for configurations that are read before their model is.

    Raises
    ------
    UserError
        As `get_density`, and where the options name a path. Whether a range of log-SNR fits the model's path is seen
        only when the model is there.
    """
    refuse_path(name, options)
    faults = []
    for path in PATHS if _needs_path(name) else ("linear",):
        try:
            return get_density(name, path=path, **options)
        except UserError as error:
            faults.append(error)
    raise faults[0]


def refuse_path(name: str, options: Mapping[str, Any]) -> None:
    """`UserError` when options name a path: it is the model's, and another one would draw noise levels it never
    meets."""
    if "path" in options:
        raise UserError(
            f"the options of the density {name} name a path ({options['path']!r}), which comes from the model; remove "
            "it."
        )
