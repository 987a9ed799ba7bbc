"""What every weighting on the sample axis shares: its signature, its checks and its numerical precision."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from eisbach.diffusion.paths import Path
from eisbach.diffusion.targets import to_x0
from eisbach.errors import UserError


@dataclass(frozen=True)
class SampleWeights:
    """Detached weights of one batch.

    Attributes
    ----------
    weight : Tensor [shape=(B,)], in (0, 1]
    belief : Tensor [shape=(B,)], in [0, 1]
        1 = structureless. NaN where a sample is too short to have one (its weight is then 1).
    """

    weight: Tensor
    belief: Tensor


@dataclass(frozen=True)
class Noising:
    """How the network's input was made, and what its output stands for; None for what did not arrive.

    Attributes
    ----------
    x_t : Tensor [shape=(B, C, T...)] or None
    t : Tensor [shape=(B,)] or None
    path : Path, str or None
    target : {"eps", "x0", "v", "u"} or None
    """

    x_t: Tensor | None
    t: Tensor | None
    path: Path | str | None
    target: str | None


class SampleBarrier(ABC):
    """Turns each sample's own prediction into a weight. Nothing is learnt and no label is read."""

    name: ClassVar[str]

    def __call__(
        self,
        output: Tensor,
        *,
        x_t: Tensor | None = None,
        t: Tensor | None = None,
        path: Path | str | None = None,
        target: str | None = None,
        mask: Tensor | None = None,
    ) -> SampleWeights:
        """The weights of a batch, in float32 (float64 for a float64 output), without gradient.

        Parameters
        ----------
        output : Tensor [shape=(B, C, T...)]
            The network's prediction. Any number of trailing axes.
        x_t : Tensor [shape=(B, C, T...)]
        t : Tensor [shape=(B,)]
        path : Path or str
        target : str
            These four are needed only by weightings that look at the data estimate.
        mask : Tensor [shape=(B, T...), bool] or None
            True on valid frames; it may have fewer trailing axes than the output, or size 1 in some.

        Raises
        ------
        UserError
            A shape that does not fit, or a missing argument that this weighting needs.

        Notes
        -----
        A prediction with NaN or infinity among its valid frames gives a NaN weight, on purpose: it makes the loss NaN,
        which a training loop checks for anyway. Raising here would need the values on the host in every step.
        """
        if output.dim() < 3:
            raise UserError(
                f"a sample weighting needs an output of shape (B, C, T...) with at least one axis after the channels; "
                f"got {tuple(output.shape)}."
            )
        with torch.no_grad(), torch.autocast(device_type=output.device.type, enabled=False):
            valid = expand_mask(mask, output)
            return self._weigh(output.detach(), Noising(x_t, t, path, target), valid)

    @abstractmethod
    def _weigh(self, output: Tensor, noising: Noising, valid: Tensor | None) -> SampleWeights:
        """The weights; `valid` has exactly the output's shape without its channel axis."""

    @abstractmethod
    def weight_of(self, belief: Tensor) -> Tensor:
        """The weight that belongs to a belief, both (B,), wherever the belief comes from; 1 for NaN."""

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in self.options().items())
        return f"{type(self).__name__}({options})"

    def options(self) -> dict[str, Any]:
        """The resolved options."""
        return {key: value for key, value in vars(self).items() if not key.startswith("_")}


def data_estimate(who: str, output: Tensor, noising: Noising) -> Tensor:
    """x0_hat, the data estimate that a prediction implies, in at least float32; NaN where the target does not determine
    it.

    Parameters
    ----------
    who : str
        Names the weighting in messages.
    output : Tensor [shape=(B, C, T...)]
    noising : Noising

    Raises
    ------
    UserError
        A part of `noising` did not arrive, or x_t has another shape than the output.
    """
    x_t, t, path, target = noising.x_t, noising.t, noising.path, noising.target
    if x_t is None or t is None or path is None or target is None:
        missing = [k for k, v in (("x_t", x_t), ("t", t), ("path", path), ("target", target)) if v is None]
        raise UserError(
            f"{who} looks at the data estimate, so it needs x_t, t, path and target; {' and '.join(missing)} did not "
            "arrive."
        )
    if x_t.shape != output.shape:
        raise UserError(f"x_t {tuple(x_t.shape)} and the output {tuple(output.shape)} must have the same shape.")
    output = at_least_float32(output)
    return to_x0(path, target, output, x_t.detach().to(output.dtype), t.detach())


def check_choice(what: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raises a `UserError` when `value` is not one of `allowed`."""
    if value not in allowed:
        raise UserError(f"{what} is {value!r}; choose one of {', '.join(allowed)}.")


def at_least_float32(x: Tensor) -> Tensor:
    """`x` in float32, or in float64 when it already is."""
    return x if x.dtype == torch.float64 else x.to(torch.float32)


def expand_mask(mask: Tensor | None, output: Tensor) -> Tensor | None:
    """`mask` as booleans of the output's shape without channels, (B, T...).

    Raises
    ------
    UserError
        It has another batch size, more axes, or an axis whose size is neither 1 nor the output's.
    """
    if mask is None:
        return None
    shape = (output.shape[0], *output.shape[2:])
    fits = 2 <= mask.dim() <= len(shape) and mask.shape[0] == shape[0]
    # Axes that the mask lacks have nothing to fit.
    fits = fits and all(size in (1, full) for size, full in zip(mask.shape, shape[: mask.dim()], strict=True))
    if not fits:
        raise UserError(
            f"the mask has shape {tuple(mask.shape)}; for an output of {tuple(output.shape)} it must be {shape}, or "
            "have "
            "fewer trailing axes or size 1 in some of them."
        )
    mask = mask.to(device=output.device, dtype=torch.bool)
    return mask.reshape(mask.shape + (1,) * (len(shape) - mask.dim())).expand(shape)


# --- the length of a window


_DEFAULT_SECONDS = 3.0


def window_in_frames(
    who: str, window_seconds: float | None, latent_rate: float | None, window_frames: int | None, least: int = 1
) -> int:
    """Frames of a window, at least `least`.

    Parameters
    ----------
    who : str
        Names the weighting in messages.
    window_seconds : float > 0 or None
        `_DEFAULT_SECONDS` when neither length is given; needs `latent_rate`.
    latent_rate : float > 0 or None
        Latent frames per second.
    window_frames : int >= least or None

    Raises
    ------
    UserError
        A window in both units, a window in seconds without `latent_rate`, or a value out of range.
    """
    if window_frames is not None:
        if window_seconds is not None:
            raise UserError(
                f"{who} got a window of {window_seconds!r} seconds and one of {window_frames!r} frames; "
                "give one of the two."
            )
        if isinstance(window_frames, bool) or not isinstance(window_frames, int) or window_frames < least:
            raise UserError(f"window_frames must be a whole number of at least {least}; got {window_frames!r}.")
        return window_frames
    window_seconds = _DEFAULT_SECONDS if window_seconds is None else window_seconds
    if latent_rate is None:
        raise UserError(
            f"{who}'s window is given in seconds, so it needs latent_rate (latent frames per second); "
            "pass latent_rate, or give window_frames instead."
        )
    if not (0 < latent_rate < math.inf and 0 < window_seconds < math.inf):
        raise UserError(
            f"{who} needs window_seconds and latent_rate above 0; got {window_seconds!r} and {latent_rate!r}."
        )
    return max(least, round(window_seconds * latent_rate))


# --- from a statistic to a weight


Form = Literal["barrier", "power"]


def check_form(who: str, form: str, sharpness: float) -> None:
    """Raises a `UserError` when `form` is none, or `sharpness` is no finite number above 0; `who` is named."""
    check_choice(f"{who}'s form", form, get_args(Form))
    if not 0 < sharpness < math.inf:
        raise UserError(f"{who}'s sharpness must be a finite number above 0; got {sharpness!r}.")


def log_barrier(one_minus_belief: Tensor, has_belief: Tensor, floor: float) -> SampleWeights:
    """w = 1 / (1 - ln(1 - B)) (Eq. 4); weight 1 and belief NaN where `has_belief` is False. NaN stays NaN.

    Parameters
    ----------
    one_minus_belief : Tensor [shape=(B,)]
    has_belief : Tensor [shape=(B,), bool]
    floor : float
        Smallest 1 - B that enters the logarithm.
    """
    inside = one_minus_belief.clamp(0, 1)
    weight = 1 / (1 - inside.clamp(min=floor).log())
    weight = torch.where(has_belief, weight, torch.ones_like(weight))
    belief = torch.where(has_belief, 1 - inside, torch.full_like(inside, torch.nan))
    return SampleWeights(weight=weight, belief=belief)


def weights_of_form(
    one_minus_belief: Tensor, has_belief: Tensor, floor: float, form: str, sharpness: float
) -> SampleWeights:
    """The log-barrier, or (1 - B) to the power `sharpness`; arguments as in `log_barrier`, the floor holds for both."""
    weights = log_barrier(one_minus_belief, has_belief, floor)
    if form == "barrier":
        return weights
    power = one_minus_belief.clamp(floor, 1) ** sharpness
    return SampleWeights(torch.where(has_belief, power, torch.ones_like(power)), weights.belief)
