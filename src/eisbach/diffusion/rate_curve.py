"""Measured rates over the noise level, and their files: what `schedules.rescaled_entropic` is built from.

**Entropic time** (Stancevic et al. 2025, arXiv 2504.13612). With ``s = sigma / alpha`` the noisy sample is ``x0 + s
noise`` up to scale, so the entropy rate of their variance-exploding path holds on every path (it is the I-MMSE
relation, ``dH/dSNR = -mse/2``)::

    dH[x0 | x_t]/dt = (s'/s^3) mse(t),      mse(t) = E|x0 - E[x0 | x_t]|^2, summed over dimensions

**Rescaled** entropic time counts each bit by the noise at which it arrives: ``phi = int s dH = int (s'/s^2) mse dt``.
Written in s neither depends on how a path numbers its noise levels, so a schedule visits the same noise on every path.
On the linear path ``s'/s^2 = 1/t^2`` and ``mse = t^2 E|u - u_hat|^2``: the rescaled rate is the loss of a velocity
network itself, summed over dimensions. For Gaussian data of standard deviation c the rescaled points are ``s_j = c
tan`` of evenly spaced angles.

A class signature's rate ``dH[Z | X_t]/dt`` takes the place of the first formula as it is, and s times it that of the
second.

`level_decided` reads off a class signature where a share of its entropy is gone.

Two kinds of JSON are read:

- **an entropic curve** (``"format": "eisbach-entropic-curve"``, written by `save_entropic_curve`): ``t`` from noise to
  data, ``mse`` = E|x0 - D|^2 summed over ``dims`` numbers with its 95% interval ``mse_lo``, ``mse_hi``, ``log_snr``,
  ``path``, ``path_options``, ``meta``;
- **a class signature** (``"format": "eisbach-signature-curve"``): its ``t``, ``rate`` (dH[Z | X_t]/dt), ``path`` and
  ``path_options``.
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eisbach.diffusion.discrete_path import DiscretePath
from eisbach.diffusion.paths import Path, get_path
from eisbach.errors import UserError
from eisbach.files import read_json, write_json

MIN_POINTS = 4
ENTROPIC_FORMAT, SIGNATURE_FORMAT, VERSION = "eisbach-entropic-curve", "eisbach-signature-curve", 1


def noise_over_data(path: Path, t: Tensor) -> Tensor:
    """``s = sigma / alpha`` at each t; infinite where no data is left. Same shape as `t`."""
    return torch.exp(-path.log_snr(t) / 2)


def entropic_rate(path: Path, t: Tensor, mse: Tensor) -> Tensor:
    """dH[x0 | x_t]/dt in nats per unit of t.

    Parameters
    ----------
    path : Path
    t : Tensor [shape=(n,)], where log-SNR is finite
    mse : Tensor [shape=(n,)], >= 0
        E|x0 - E[x0 | x_t]|^2, summed over dimensions.
    """
    return -path.log_snr_slope(t) / 2 * torch.exp(path.log_snr(t)) * mse


def path_options(path: Path) -> dict[str, Any]:
    """The fields of a path, as JSON holds them; a discrete path's is its table."""
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in vars(path).items()
        if not key.startswith("_") and key != "pure_noise"
    }


@dataclass(frozen=True)
class RateCurve:
    """An entropy rate at measured noise levels of one path.

    Attributes
    ----------
    t : Tensor [shape=(n,), float64]
        Strictly falling, from noise to data.
    rate : Tensor [shape=(n,), float64]
        dH/dt, nats per unit of t.
    of : str
        What the entropy is of: "x0", or the name of a partition into classes.
    path : str
    options : mapping
        Fields of the path.
    source : str
        The file, for sentences.
    """

    t: Tensor
    rate: Tensor
    of: str
    path: str
    options: Mapping[str, Any]
    source: str = "the curve"

    def require_path(self, path: Path) -> None:
        """`UserError` when this was measured on another path than `path`, or on one with other options."""
        if self.path != path.name:
            raise UserError(
                f"{self.source} was measured on the {self.path} path and the model is on the {path.name} path; measure "
                "the curve of this model."
            )
        mine = {key: value for key, value in self.options.items() if key != "pure_noise"}
        if mine != path_options(path):
            raise UserError(
                f"{self.source} was measured on a {self.path} path with other options; measure the curve of this model."
            )

    def rescaled(self, path: Path) -> tuple[Tensor, Tensor]:
        """(t, sigma/alpha times the rate), without levels at which no data is left: there the product is undefined."""
        noise = noise_over_data(path, self.t)
        there = torch.isfinite(noise)
        return self.t[there], noise[there] * self.rate[there]


def read_rate_curve(file: str | pathlib.Path) -> RateCurve:
    """The rates of a curve's file.

    Raises
    ------
    UserError
        The file is missing or no curve, its lists differ in length, its levels do not fall, there are fewer than 4, or
        a number is negative where it cannot be.
    """
    values = read_json(file, "measured curve")
    kind = values.get("format") if isinstance(values, Mapping) else None
    if kind not in (ENTROPIC_FORMAT, SIGNATURE_FORMAT) or values.get("version") != VERSION:
        raise UserError(
            f"{file} is no measured curve (format '{ENTROPIC_FORMAT}' or '{SIGNATURE_FORMAT}', version {VERSION}); "
            "`eisbach signature entropy` writes one."
        )
    t = _levels(values, file, MIN_POINTS)
    name, options = values.get("path"), values.get("path_options", {})
    if not isinstance(name, str) or not isinstance(options, Mapping):
        raise UserError(f"{file} does not say which path it was measured on; measure it again.")
    numbers = _row(values, "mse" if kind == ENTROPIC_FORMAT else "rate", file)
    if len(numbers) != len(t):
        raise UserError(f"{file} has {len(numbers)} values for {len(t)} noise levels; measure it again.")
    if bool((numbers < 0).any()):
        where = int((numbers < 0).nonzero()[0])
        raise UserError(
            f"{file} has the negative value {float(numbers[where]):.3g} at t = {float(t[where]):.3g}, and a schedule "
            "cannot spend fewer than no steps; use a reading that cannot be negative (the signature's 'rate'), or "
            "measure with more samples."
        )
    if kind == SIGNATURE_FORMAT:
        return RateCurve(t, numbers, str(values.get("partition", "classes")), name, options, str(file))
    rate = entropic_rate(_path_of(name, options, file), t, numbers)
    if not bool(torch.isfinite(rate).all()):
        raise UserError(f"{file} has a noise level without data or without noise, where the rate is undefined.")
    return RateCurve(t, rate, "x0", name, options, str(file))


def level_decided(file: str | pathlib.Path, share: float = 0.5) -> tuple[float, float]:
    """(t, log-SNR there): above this noise level `share` of a class signature's entropy H[Z] is gone.

    Parameters
    ----------
    file : path
        A class signature's file (``"format": "eisbach-signature-curve"``), as `eisbach signature run` and `eisbach
        signature structure` write it.
    share : float in (0, 1), default 0.5
        0.5 is the curve's half time.

    Raises
    ------
    UserError
        The file is missing or no class signature, a share out of range, or a curve that never falls so far.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
        raise UserError(f"share must be a number above 0 and below 1 (0.5 is half of what is decided); got {share!r}.")
    values = read_json(file, "measured signature")
    if not isinstance(values, Mapping) or (values.get("format"), values.get("version")) != (SIGNATURE_FORMAT, VERSION):
        raise UserError(
            f"{file} is no measured signature (format '{SIGNATURE_FORMAT}', version {VERSION}); `eisbach signature "
            "run` and `eisbach signature structure` write one."
        )
    t, entropy = _levels(values, file, 2), _row(values, "entropy", file)
    name, options, prior = values.get("path"), values.get("path_options", {}), values.get("prior_entropy")
    if not (isinstance(name, str) and isinstance(options, Mapping) and isinstance(prior, (int, float)) and prior > 0):
        raise UserError(f"{file} does not say its path and its prior entropy; measure it again.")
    if len(entropy) != len(t):
        raise UserError(f"{file} has {len(entropy)} values for {len(t)} noise levels; measure it again.")
    level = crossing(t.tolist(), entropy.tolist(), (1 - share) * prior)
    if level is None:
        left, start = float(entropy.min()) / prior, float(entropy[0]) / prior
        raise UserError(
            f"the signature {file} never falls to the {1 - share:.0%} of its entropy that are left where {share:.0%} "
            f"is decided: it runs from {start:.0%} at t = {float(t[0]):.2g} down to {left:.0%}. Name another share, or "
            "give the noise level itself."
        )
    return level, float(_path_of(name, options, file).log_snr(torch.tensor(level, dtype=torch.float64)))


def crossing(t: Sequence[float], entropy: Sequence[float], level: float) -> float | None:
    """The first t, coming from noise, at which `entropy` falls to `level`; None when it never does or starts below.

    Parameters
    ----------
    t : sequence of float
        Falling.
    entropy : sequence of float
    level : float
    """
    i = next((place for place, value in enumerate(entropy) if value <= level), 0)
    if i == 0:
        return None
    share = (entropy[i - 1] - level) / (entropy[i - 1] - entropy[i])
    return float(t[i - 1] + share * (t[i] - t[i - 1]))


def save_entropic_curve(
    file: str | pathlib.Path,
    *,
    path: Path,
    t: Sequence[float],
    mse: Sequence[float],
    mse_lo: Sequence[float],
    mse_hi: Sequence[float],
    dims: int,
    meta: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes an entropic curve, atomically, and returns what was written; `t` falls from noise to data."""
    content = {
        "format": ENTROPIC_FORMAT,
        "version": VERSION,
        "path": path.name,
        "path_options": path_options(path),
        "dims": dims,
        "t": list(t),
        "log_snr": path.log_snr(torch.tensor(t, dtype=torch.float64)).tolist(),
        "mse": list(mse),
        "mse_lo": list(mse_lo),
        "mse_hi": list(mse_hi),
        "meta": dict(meta),
    }
    write_json(file, content)
    return content


def _levels(values: Mapping[str, Any], file: str | pathlib.Path, fewest: int) -> Tensor:
    t = _row(values, "t", file)
    if len(t) < fewest or bool((t.diff() >= 0).any()) or t[0] > 1 or t[-1] < 0:
        raise UserError(
            f"{file} needs at least {fewest} noise levels t within [0, 1] that fall from noise to data; measure it "
            "again."
        )
    return t


def _row(values: Mapping[str, Any], key: str, file: str | pathlib.Path) -> Tensor:
    row = values.get(key)
    if not isinstance(row, list) or any(
        isinstance(number, bool) or not isinstance(number, (int, float)) for number in row
    ):
        raise UserError(f"{file} needs a list of numbers '{key}'; measure it again.")
    numbers = torch.tensor(row, dtype=torch.float64)
    if not bool(torch.isfinite(numbers).all()):
        raise UserError(f"{file} has values that are not finite in '{key}'; measure it again.")
    return numbers


def _path_of(name: str, options: Mapping[str, Any], file: str | pathlib.Path) -> Path:
    try:
        if "alphas_cumprod" in options:  # a table, whatever made it
            return DiscretePath(tuple(options["alphas_cumprod"]))
        return get_path(name, **options)
    except (KeyError, TypeError, ValueError) as error:  # a UserError is a ValueError
        raise UserError(f"{file} names a path that cannot be built ({name}: {error}).") from error
