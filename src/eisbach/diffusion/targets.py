"""What a network predicts, and the conversions between the four answers, on any path.

A target is a fixed mix of data and noise, ``y = c_x * x0 + c_eps * noise``:

========  ======  ======  =========================================
target    c_x     c_eps   also called
========  ======  ======  =========================================
``eps``   0       1       noise prediction
``x0``    1       0       data prediction, denoiser
``v``     -sigma  alpha   v-prediction (Salimans & Ho 2022)
``u``     -1      1       rectified-flow velocity on the linear path
========  ======  ======  =========================================

Together with ``x_t = alpha x0 + sigma noise`` that makes two linear equations in two unknowns. With the determinant
``D = c_x sigma - c_eps alpha`` (`determinant`) any other mix ``y'`` follows in one step (Cramer's rule)::

    y' = (D' y + (c_x c'_eps - c'_x c_eps) x_t) / D

Written out, with ``S = alpha + sigma`` and ``Q = alpha^2 + sigma^2`` (1 on variance-preserving paths):

====  =======================  =======================  =============================  =============================
y is  eps                      x0                       v                              u
====  =======================  =======================  =============================  =============================
eps   y                        (x_t - sigma y)/alpha    (Q y - sigma x_t)/alpha        (S y - x_t)/alpha
x0    (x_t - alpha y)/sigma    y                        (alpha x_t - Q y)/sigma        (x_t - S y)/sigma
v     (sigma x_t + alpha y)/Q  (alpha x_t - sigma y)/Q  y                              (S y + (sigma - alpha) x_t)/Q
u     (x_t + alpha y)/S        (x_t - sigma y)/S        (Q y + (alpha - sigma) x_t)/S  y
====  =======================  =======================  =============================  =============================

**At the ends.** D is ``-(alpha + sigma)`` for u and ``-(alpha^2 + sigma^2)`` for v: never 0, so u and v determine data
and noise at every t, t = 0 and t = 1 included. For eps D is ``-alpha``: at t = 1 of a path with alpha(1) = 0 (linear,
gvp) the noise alone says nothing about the data. For x0 D is ``sigma``: at t = 0 of a path with sigma(0) = 0 the data
alone says nothing about the noise. There a conversion to any other target gives NaN, never a made-up number;
`require_defined` turns that into an error where the values of t are known on the host, as in the samplers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eisbach.diffusion.paths import Path, expand_like, get_path
from eisbach.errors import UserError
from eisbach.types import PathSample

TARGETS = ("eps", "x0", "v", "u")


def check_target(target: str) -> str:
    """`target` when it is one of `TARGETS`; otherwise a `UserError`."""
    if target not in TARGETS:
        raise UserError(f"the target {target!r} is not known; choose one of {', '.join(TARGETS)}.")
    return target


def coefficients(path: Path | str, target: str, t: Tensor) -> tuple[Tensor, Tensor]:
    """(c_x, c_eps), the parts of data and noise in the target; both of t's shape."""
    path = get_path(path)
    check_target(target)
    if target == "eps":
        return torch.zeros_like(t), torch.ones_like(t)
    if target == "x0":
        return torch.ones_like(t), torch.zeros_like(t)
    if target == "v":
        return -path.sigma(t), path.alpha(t)
    return -torch.ones_like(t), torch.ones_like(t)


def determinant(path: Path | str, target: str, t: Tensor) -> Tensor:
    """D = c_x sigma - c_eps alpha, of t's shape; 0 exactly where the target does not determine data and noise."""
    path = get_path(path)
    c_x, c_eps = coefficients(path, target, t)
    return c_x * path.sigma(t) - c_eps * path.alpha(t)


def x0_error_scale(path: Path | str, target: str, t: Tensor) -> Tensor:
    """|d x0 / d y| = sigma / |D|: how far an error of 1 in the target moves the data estimate at fixed x_t.

    A weight W on ``|x0_hat - x0|^2`` is therefore the weight ``W * x0_error_scale^2`` on the target's own squared
    error.
    """
    return get_path(path).sigma(t) / determinant(path, target, t).abs()


def require_defined(path: Path | str, target: str, t: Tensor) -> None:
    """Raises `UserError` when the target does not determine data and noise at one of the noise levels `t` (on the
    CPU)."""
    path = get_path(path)
    bad = t[determinant(path, target, t) == 0]
    if bad.numel():
        missing, other = ("data", "x0") if target == "eps" else ("noise", "eps")
        raise UserError(
            f"the target {target!r} is undefined at t = {float(bad[0]):g} on the {path.name} path, where x_t and "
            f"{target} do not determine the {missing}; use a network that predicts v, u or {other}, "
            "or noise levels that stay away from that end."
        )


def _levels(t: Tensor, x: Tensor) -> Tensor:
    # Coefficients are computed in at least float32, also when the network runs in half precision.
    if t.dim() != 1 or (t.shape[0] not in (1, x.shape[0])):
        raise UserError(
            f"t must hold one noise level a sample, shape ({x.shape[0]},); got {tuple(t.shape)} "
            f"for x of {tuple(x.shape)}."
        )
    dtype = torch.promote_types(torch.promote_types(t.dtype, x.dtype), torch.float32)
    return t.to(device=x.device, dtype=dtype)


def add_noise(path: Path | str, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = alpha(t) x0 + sigma(t) noise, of x0's shape and dtype.

    Parameters
    ----------
    path : Path or str
    x0, noise : Tensor [shape=(B, ...)]
    t : Tensor [shape=(B,)], in [0, 1]
    """
    path, level = get_path(path), _levels(t, x0)
    mixed = expand_like(path.alpha(level), x0) * x0 + expand_like(path.sigma(level), x0) * noise
    return mixed.to(x0.dtype)


def make_target(path: Path | str, target: str, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """What the network should predict: c_x(t) x0 + c_eps(t) noise, of x0's shape and dtype (exact at every t)."""
    c_x, c_eps = coefficients(path, target, _levels(t, x0))
    return (expand_like(c_x, x0) * x0 + expand_like(c_eps, x0) * noise).to(x0.dtype)


def make_sample(path: Path | str, target: str, x0: Tensor, noise: Tensor, t: Tensor) -> PathSample:
    """A `PathSample`: the noisy point, its noise level and the network's target there."""
    return PathSample(
        x_t=add_noise(path, x0, noise, t), t=t, x0=x0, noise=noise, target=make_target(path, target, x0, noise, t)
    )


def convert(path: Path | str, source: str, destination: str, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """A prediction of `source` restated as a prediction of `destination` at the same x_t.

    Parameters
    ----------
    path : Path or str
    source, destination : {"eps", "x0", "v", "u"}
    output, x_t : Tensor [shape=(B, ...)]
    t : Tensor [shape=(B,)], in [0, 1]

    Returns
    -------
    Tensor [shape=(B, ...)]
        In the wider of the dtypes of `output` and `x_t`; NaN where the source does not determine the destination
        (see the module's text); `output` itself when source and destination are the same.
    """
    path = get_path(path)
    check_target(destination)
    if check_target(source) == destination:
        return output
    level = _levels(t, x_t)
    c_x, c_eps = coefficients(path, source, level)
    d_x, d_eps = coefficients(path, destination, level)
    det = determinant(path, source, level)
    det = torch.where(det == 0, torch.full_like(det, torch.nan), det)
    of_output = (d_x * path.sigma(level) - d_eps * path.alpha(level)) / det
    of_x_t = (c_x * d_eps - d_x * c_eps) / det
    result = expand_like(of_output, x_t) * output + expand_like(of_x_t, x_t) * x_t
    return result.to(torch.promote_types(output.dtype, x_t.dtype))


def to_x0(path: Path | str, target: str, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The data estimate that a prediction implies; see `convert`."""
    return convert(path, target, "x0", output, x_t, t)


def to_noise(path: Path | str, target: str, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The noise estimate that a prediction implies; see `convert`."""
    return convert(path, target, "eps", output, x_t, t)
