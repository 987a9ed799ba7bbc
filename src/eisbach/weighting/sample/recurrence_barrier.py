"""The loop-aware barrier: how many different states the predicted music goes through, counting what comes back once.

From the data estimate x0_hat, average frames in windows of a few seconds that overlap by half; with F the windows by
channels matrix of one sample and n its windows::

    G = F F' / tr(F F')             a density matrix: what repeats adds no new direction to it
    R = H(eigenvalues of G) / ln n  in [0, 1] (von Neumann), or  R = -ln(sum G_ij^2) / ln n  (Renyi-2)
    B = 1 - R
    w = 1 / (1 - ln R)  (the log-barrier of Eq. 4),  or  w = R^sharpness

R is 0 for a drone and stays low for loops and textures; it rises when later windows hold what earlier ones do not. It
ignores gain. It is this project's own statistic, not one of the barrier paper's.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from eisbach.weighting.sample.base import (
    Form,
    Noising,
    SampleBarrier,
    SampleWeights,
    check_choice,
    check_form,
    data_estimate,
    weights_of_form,
    window_in_frames,
)


def von_neumann_entropy(gram: Tensor) -> Tensor:
    """H = -sum of x ln x over the eigenvalues x of each matrix, in nats, shape (B,); 0 for a matrix of zeros.

    On the CPU from the eigenvalues themselves. An eigenvalue solver on an accelerator makes the host wait for it, so
    there the same number comes from `entropy_by_resolvents`.

    Parameters
    ----------
    gram : Tensor [shape=(B, n, n)], float32 or float64
    """
    # A NaN would make the solver raise; it is taken out here and put back into the result.
    finite = gram.isfinite().all(2).all(1)
    safe = torch.where(finite[:, None, None], gram, torch.zeros_like(gram))
    entropy = entropy_by_eigenvalues(safe) if gram.device.type == "cpu" else entropy_by_resolvents(safe)
    return torch.where(finite, entropy, torch.full_like(entropy, torch.nan))


def entropy_by_eigenvalues(gram: Tensor) -> Tensor:
    """Entropy of the eigenvalues; those that rounding made negative count as 0."""
    eigenvalues: Tensor = torch.linalg.eigvalsh(gram)
    entropies: Tensor = torch.special.entr(eigenvalues.clamp(min=0))
    return entropies.sum(1)


def entropy_by_resolvents(gram: Tensor) -> Tensor:
    """The same entropy from 24 matrix inversions, within 1e-4 nats.

    ``-x ln x`` is the integral over s > 0 of ``x / (x + s) - x / (1 + s) = x (1 - x) / ((x + s) (1 + s))``. With s =
    e^y the trapezoidal rule converges exponentially (its error falls like exp(-2 pi^2 / step)), and summed over the
    eigenvalues the integrand is a trace that holds the resolvent (G + s)^-1 and no eigenvalue.
    """
    step = 1.4
    s = torch.arange(-16.0, 16.5, step, dtype=gram.dtype, device=gram.device).exp()
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    resolvent, _ = torch.linalg.inv_ex(gram[:, None] + s[:, None, None] * identity)
    spread = gram - gram @ gram
    traces: Tensor = (spread[:, None] * resolvent).sum((2, 3))
    return (step * traces * s / (1 + s)).sum(1).clamp(min=0)


def _renyi2_entropy(gram: Tensor) -> Tensor:
    """-ln of the sum of squared entries, in nats, shape (B,); 0 for a matrix of zeros, NaN for NaN."""
    purity = gram.square().sum((1, 2))
    return torch.where(purity == 0, torch.zeros_like(purity), -purity.log()).clamp(min=0)


# --- entropies of a spectrum


_Entropy = Literal["von_neumann", "renyi2"]
_Center = Literal["none", "time", "channels"]
FLOOR = 1e-6
"""Smallest R that enters the logarithm or the power: R itself is exact to about 1e-6 in float32."""


class RecurrenceBarrier(SampleBarrier):
    """Weight from the spectral entropy of the predicted music's self-similarity over windows.

    A window counts when all of its frames are valid, so a padded clip weighs what it weighs without its padding. Fewer
    than 2 such windows: the weight is 1 and the belief NaN. An estimate that is zero everywhere has R = 0.

    Parameters
    ----------
    window_seconds : float > 0 or None
        Length of a window, 3 s when neither length is given; needs `latent_rate`. The hop is half a window.
    latent_rate : float > 0 or None
        Latent frames per second.
    window_frames : int >= 1 or None
        Length of a window in frames, instead of seconds.
    entropy : {"von_neumann", "renyi2"}, default "von_neumann"
        _Entropy of G; the Renyi-2 form needs no eigenvalues.
    form : {"barrier", "power"}, default "barrier"
        The log-barrier, or R to the power `sharpness`.
    sharpness : float > 0, default 2.0
        Exponent of the power form.
    center : {"none", "time", "channels"}, default "none"
        Subtract from the windows their mean over time (per channel), or from each window its mean over channels.

    Raises
    ------
    UserError
        An option out of its range, a window in seconds without `latent_rate`, or a window in both units.
    """

    name = "recurrence_barrier"

    def __init__(
        self,
        window_seconds: float | None = None,
        latent_rate: float | None = None,
        window_frames: int | None = None,
        entropy: _Entropy = "von_neumann",
        form: Form = "barrier",
        sharpness: float = 2.0,
        center: _Center = "none",
    ) -> None:
        check_choice("the recurrence barrier's entropy", entropy, get_args(_Entropy))
        check_choice("the recurrence barrier's center", center, get_args(_Center))
        check_form("the recurrence barrier", form, sharpness)
        self.window_frames = window_in_frames("the recurrence barrier", window_seconds, latent_rate, window_frames)
        self.entropy, self.form, self.sharpness, self.center = entropy, form, float(sharpness), center

    def _weigh(self, output: Tensor, noising: Noising, valid: Tensor | None) -> SampleWeights:
        x0 = data_estimate("the recurrence barrier", output, noising)
        recurrence, windows = self.statistic(x0, valid)
        return weights_of_form(recurrence, windows >= 2, FLOOR, self.form, self.sharpness)

    def weight_of(self, belief: Tensor) -> Tensor:
        """See `SampleBarrier.weight_of`."""
        return weights_of_form(1 - belief, ~belief.isnan(), FLOOR, self.form, self.sharpness).weight

    def statistic(self, x0: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(R, number of windows) of each sample, both (B,); R is meaningless where there are fewer than 2 windows.

        Parameters
        ----------
        x0 : Tensor [shape=(B, C, T...)], float32 or float64
            Latents; axes after the first trailing one count as channels.
        valid : Tensor [shape=(B, T...), bool] or None
        """
        if valid is not None:
            x0 = torch.where(valid[:, None], x0, torch.zeros_like(x0))
            valid = valid.flatten(2).all(2) if valid.dim() > 2 else valid
        frames = x0.movedim(2, 1).flatten(2)  # (B, T, features)
        batch, length, _ = frames.shape
        size, hop = self.window_frames, max(1, self.window_frames // 2)
        if length < size:
            return frames.new_zeros(batch), frames.new_zeros(batch)
        peak = frames.abs().amax((1, 2))
        frames = frames / torch.where(peak == 0, torch.ones_like(peak), peak)[:, None, None]
        windows = torch.nn.functional.avg_pool1d(frames.transpose(1, 2), size, hop).transpose(1, 2)  # (B, n, features)
        inside = torch.ones(windows.shape[:2], dtype=windows.dtype, device=windows.device)
        if valid is not None:
            share = torch.nn.functional.avg_pool1d(valid.to(windows.dtype)[:, None], size, hop)[:, 0]
            inside = (share > 1 - 0.5 / size).to(windows.dtype)
            windows = windows * inside[:, :, None]
        count = inside.sum(1)
        windows = _center(windows, inside, self.center)
        gram = windows @ windows.transpose(1, 2)
        trace = gram.diagonal(dim1=1, dim2=2).sum(1)
        gram = gram / torch.where(trace == 0, torch.ones_like(trace), trace)[:, None, None]
        entropy = von_neumann_entropy(gram) if self.entropy == "von_neumann" else _renyi2_entropy(gram)
        return (entropy / count.clamp(min=2).log()).clamp(0, 1), count


def _center(windows: Tensor, inside: Tensor, how: str) -> Tensor:
    if how == "none":
        return windows
    if how == "time":
        mean = windows.sum(1, keepdim=True) / inside.sum(1).clamp(min=1)[:, None, None]
    else:
        mean = windows.mean(2, keepdim=True)
    centred = (windows - mean) * inside[:, :, None]
    # What is left of a constant is rounding, and rounding looks like endless development: count it as nothing.
    left, whole = centred.square().sum((1, 2)), windows.square().sum((1, 2))
    rounding = (64 * torch.finfo(windows.dtype).eps) ** 2
    return torch.where((left <= rounding * whole)[:, None, None], torch.zeros_like(centred), centred)
