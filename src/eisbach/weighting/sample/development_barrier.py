"""The development barrier: how far the predicted music travels, beyond what a texture or a loop of it would.

Cut a clip into cells of about 3/8 s and average x, the data estimate x0_hat, and y, the noisy data x_t, over windows of
3 s (w = 8 cells) and of 3/4 s (v = 2 cells) that start at every cell. With windows of one length::

    d_ij = (x_i.y_i + x_j.y_j) / 2 - (x_i.y_j + x_j.y_i) / 2        distance of the windows i and j
    D(l) = mean of d_ij over |i - j| = l                            a variogram
    E    = mean of x_i.y_i                                          energy
    sill = mean of D(l) over l >= w
    left = min of D(l) / min(sill, largest D before l)   over l from 3 to 16 s
    far  = sill min(1, 2 left)
    S    = max(far - (v / w) D_v(v), far / 5) / E,  clamped to [0, 1];      B = 1 - S

where D_v is the variogram of the short windows and everything else is of the long ones.

The sill is how unlike itself the music is after a while. A loop comes back to itself: `left` is what is left, at its
period, of the distance that it had covered, and where that is less than half it counts in proportion. Music that moves
slowly has no such dip, for D has only risen.

The term that is subtracted is the nugget. Windows of a texture whose memory is shorter than v have ``D_w(l) = (v / w)
D_v(v)`` at every lag, since averaging over four times as long leaves a quarter of the variance. A fifth of `far` always
counts, so that clips that do not exceed their nugget still stand in the order of how far they move. So S is small for
drones, textures and loops, and rises with what later windows hold that others do not.

Why x0_hat against x_t, and not against itself: the noise of x_t is new in every frame, so a product of different frames
is that of the clean ones on average, whatever the noise level; and a model that hedges (x0_hat shrinks to a mean as t
rises) shrinks numerator and denominator alike. The mean of S therefore hardly moves with t.

S ignores the gain of the data, of x0_hat and of x_t, any rotation of the channels, and the direction of time. It is
this project's own statistic; the variogram, its sill and its nugget are Matheron's (1963).
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.functional import pad

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

_Against = Literal["noisy_data", "estimate"]
FLOOR = 1e-6
"""Smallest S that enters the logarithm or the power: S itself is exact to about 1e-6 in float32."""
CELLS = 8
"""Least number of cells in a window, where the latent rate allows it: loops are found to half a cell."""
_LONGEST_RETURN = 16 / 3
"""Longest lag, in windows, at which a loop is looked for: 16 s for windows of 3 s."""
_RETURN_SHARE = 0.4
"""A loop is looked for at a lag only where this share of the windows has a partner at that lag."""
_LEAST_SHARE = 0.2
"""Share of the distance travelled that counts even where the nugget is larger."""


class DevelopmentBarrier(SampleBarrier):
    """Weight from the sill of the predicted music's variogram, less its nugget and less what returns.

    A cell counts when all of its frames are valid, so a padded clip weighs what it weighs without its padding. A clip
    too short for two windows that do not overlap (6 s by default) gets weight 1 and belief NaN. An estimate that
    is zero everywhere, or at odds with the data (E not above 0), has S = 0.

    Parameters
    ----------
    window_seconds : float > 0 or None
        Length w of a window, 3 s when neither length is given; needs `latent_rate`. All other lengths follow from it.
    latent_rate : float > 0 or None
        Latent frames per second.
    window_frames : int >= 2 or None
        Length of a window in frames, instead of seconds.
    form : {"barrier", "power"}, default "barrier"
        The log-barrier w = 1 / (1 - ln S), or S to the power `sharpness`.
    sharpness : float > 0, default 1.0
        Exponent of the power form.
    against : {"noisy_data", "estimate"}, default "noisy_data"
        What x0_hat is compared with: x_t, or x0_hat itself.

    Raises
    ------
    UserError
        An option out of its range, a window in seconds without `latent_rate`, or a window in both units.
    """

    name = "development_barrier"

    def __init__(
        self,
        window_seconds: float | None = None,
        latent_rate: float | None = None,
        window_frames: int | None = None,
        form: Form = "barrier",
        sharpness: float = 1.0,
        against: _Against = "noisy_data",
    ) -> None:
        check_choice("the development barrier's against", against, get_args(_Against))
        check_form("the development barrier", form, sharpness)
        self.window_frames = window_in_frames(
            "the development barrier", window_seconds, latent_rate, window_frames, least=2
        )
        self.form, self.sharpness, self.against = form, float(sharpness), against

    def _weigh(self, output: Tensor, noising: Noising, valid: Tensor | None) -> SampleWeights:
        x0 = data_estimate("the development barrier", output, noising)
        # x_t is there: the estimate was made from it.
        x_t = noising.x_t
        other = x0 if self.against == "estimate" or x_t is None else x_t.detach().to(x0.dtype)
        development, enough = self.statistic(x0, other, valid)
        return weights_of_form(development, enough, FLOOR, self.form, self.sharpness)

    def weight_of(self, belief: Tensor) -> Tensor:
        """See `SampleBarrier.weight_of`."""
        return weights_of_form(1 - belief, ~belief.isnan(), FLOOR, self.form, self.sharpness).weight

    def statistic(self, x0: Tensor, other: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(S, whether the clip is long enough to have one) of each sample, both (B,).

        Parameters
        ----------
        x0 : Tensor [shape=(B, C, T...)], float32 or float64
            The data estimate; axes after the first trailing one count as channels.
        other : Tensor [shape=(B, C, T...)]
            What it is compared with: x_t, or `x0` again.
        valid : Tensor [shape=(B, T...), bool] or None
        """
        cell = max(1, self.window_frames // CELLS)
        window = round(self.window_frames / cell)
        near = max(1, window // 4)
        cells = x0.shape[2] // cell
        if cells < 2 * window:
            return x0.new_zeros(x0.shape[0]), torch.zeros(x0.shape[0], dtype=torch.bool, device=x0.device)
        x, inside = _cells(x0, valid, cell)
        y = x if other is x0 else _cells(other, valid, cell)[0]
        distance, pairs, energy = _variogram(x, y, inside, window)
        lags = torch.arange(cells - window + 1, device=x.device)
        by_lag = distance / pairs.clamp(min=1)
        apart = (lags >= window) & (pairs >= 1)
        enough = apart.any(1)
        sill = torch.where(apart, by_lag, torch.zeros_like(by_lag)).sum(1) / apart.sum(1).clamp(min=1)
        reached = torch.minimum(by_lag.cummax(1).values, sill[:, None])
        left = by_lag / reached.clamp(min=torch.finfo(by_lag.dtype).tiny)
        tested = apart & (lags <= _LONGEST_RETURN * window) & (pairs >= _RETURN_SHARE * pairs[:, :1])
        left = torch.where(tested, left, torch.full_like(left, torch.inf)).amin(1)
        nugget = _mean_step(x, y, inside, near) * (near / window)
        far = sill * (2 * left).clamp(0, 1)
        excess = torch.maximum(far - nugget, _LEAST_SHARE * far)
        # <= and not >: a NaN takes the other branch and stays NaN.
        development = torch.where(energy <= 0, torch.zeros_like(energy), excess / energy)
        return development.clamp(0, 1), enough


def _cells(x: Tensor, valid: Tensor | None, cell: int) -> tuple[Tensor, Tensor]:
    """Means over cells (B, features, n), scaled to a peak of 1, and which cells hold valid frames only (B, n), as
    numbers."""
    if valid is not None:
        x = torch.where(valid[:, None], x, torch.zeros_like(x))
        valid = valid.flatten(2).all(2) if valid.dim() > 2 else valid
    frames = x if x.dim() == 3 else x.movedim(2, -1).flatten(1, -2)
    count = frames.shape[2] // cell
    means = frames if cell == 1 else frames[:, :, : count * cell].reshape(*frames.shape[:2], count, cell).mean(3)
    # The peak is that of all frames: what is not finite beyond the last cell shows as well.
    peak = frames.abs().amax((1, 2), keepdim=True)
    means = means / torch.where(peak == 0, torch.ones_like(peak), peak)
    if valid is None:
        return means, torch.ones_like(means[:, 0])
    return means, valid[:, : count * cell].reshape(-1, count, cell).all(2).to(means.dtype)


def _windows(cells: Tensor, inside: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Running means of `length` cells (B, features, n - length + 1), zero where a cell is invalid, and where they are
    not."""
    whole = (_running_sum(inside, length) > length - 0.5).to(cells.dtype)
    return _running_sum(cells, length) * (whole / length)[:, None], whole


def _running_sum(x: Tensor, length: int) -> Tensor:
    """Sums of `length` neighbours along the last axis, from sums over powers of two (a pooling kernel takes ten times
    as long)."""
    count = x.shape[-1] - length + 1
    total = torch.zeros_like(x[..., :count])
    start, size = 0, 1
    while True:
        if length & size:
            total = total + x[..., start : start + count]
            start += size
        if 2 * size > length:
            return total
        x = x[..., :-size] + x[..., size:]
        size *= 2


def _variogram(x: Tensor, y: Tensor, inside: Tensor, window: int) -> tuple[Tensor, Tensor, Tensor]:
    """(sum of d_ij, number of pairs) by lag from 0, both (B, n), and the energy E (B,), of windows of `window`
    cells."""
    a, whole = _windows(x, inside, window)
    b = a if y is x else _windows(y, inside, window)[0]
    products = a.transpose(1, 2) @ b
    own = products.diagonal(dim1=1, dim2=2)
    both = whole[:, :, None] * whole[:, None, :]
    energies = own[:, :, None] * whole[:, None, :]  # x_i.y_i once for each partner j
    # Summed over (i, j) and (j, i) alike, so neither term needs to be made symmetric first.
    distance = _lag_sums(energies - products)
    energy = own.sum(1) / whole.sum(1).clamp(min=1)
    return distance, _lag_sums(both), energy


def _lag_sums(matrix: Tensor) -> Tensor:
    """Sums of (B, n, n) along its diagonals, those above and below the main one averaged: (B, n), lag 0 first."""
    batch, n, _ = matrix.shape
    # Rows padded from n to 2n and read again as rows of 2n - 1: each moves one further right than the row above it,
    # so with the columns reversed entry (i, j) comes to lie in column n - 1 + i - j.
    columns = pad(matrix.flip(2), (0, n)).flatten(1)[:, : n * (2 * n - 1)].reshape(batch, n, 2 * n - 1).sum(1)
    return 0.5 * (columns[:, :n].flip(1) + columns[:, n - 1 :])


def _mean_step(x: Tensor, y: Tensor, inside: Tensor, length: int) -> Tensor:
    """D_v(v): the mean distance (B,) of neighbouring windows of `length` cells that do not overlap."""
    a, whole = _windows(x, inside, length)
    b = a if y is x else _windows(y, inside, length)[0]
    step_x, step_y = a[:, :, length:] - a[:, :, :-length], b[:, :, length:] - b[:, :, :-length]
    both = whole[:, length:] * whole[:, :-length]
    # (x_j - x_i).(y_j - y_i) / 2 is d_ij.
    return 0.5 * ((step_x * step_y).sum(1) * both).sum(1) / both.sum(1).clamp(min=1)
