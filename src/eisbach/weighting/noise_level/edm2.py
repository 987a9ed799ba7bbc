"""EDM2's learned uncertainty (Karras et al. 2024, arXiv 2312.02696, loss weighting by learned uncertainty): the loss's
own scale, learned at every noise level.

``L = lambda(sigma) / exp(u(sigma)) * err^2 + u(sigma)``. At its optimum ``exp(u) = E[lambda err^2 | sigma]``: every
noise level then contributes a loss of 1, whatever lambda was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from eisbach.diffusion.paths import Path, get_path
from eisbach.diffusion.targets import check_target
from eisbach.errors import CheckpointError, UserError
from eisbach.weighting.noise_level.base import NoiseWeight, inner_levels, positive
from eisbach.weighting.noise_level.schemes import EDM


class _UncertaintyNet(nn.Module):
    """u(c_noise): random Fourier features, then one linear map, float32 throughout. It starts at u = 0 everywhere.

    As EDM2's, with `channels` features ``sqrt(2) cos(f c_noise + phase)``; f = 2 pi N(0, 1), phases uniform. Unlike
    EDM2's, the linear map is plain, has a bias and starts at zero; there it is weight-normalised as the whole network
    is.

    Parameters
    ----------
    channels : int >= 1
    seed : int
        Of the features, which are drawn once and saved with the parameters.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, channels: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(channels, generator=generator))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels, generator=generator))
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, c_noise: Tensor) -> Tensor:
        """u at each c_noise (B,): (B,), float32."""
        features = math.sqrt(2) * torch.cos(c_noise.float()[:, None] * self.frequencies + self.phases)
        # A product and a sum, not a matrix product: autocast would round that one to half precision.
        return (features * self.weight).sum(1) + self.bias


class LearnedUncertainty(NoiseWeight):
    """The base scheme's weight times exp(-u), with the penalty u: both carry gradient to u's parameters (`terms`).

    u depends on ``c_noise = ln(sigma / alpha) / 4``, EDM's noise level, so it is defined on every path. Losses must be
    means over elements (`per_sample_mse`), as u is one number for each element. Called directly, the weight comes
    detached.

    Because the base weight cancels at the optimum, it only says where training starts; with the default, weight and
    penalty start as EDM's. Limits: those of the base weight; u is finite everywhere.

    Parameters
    ----------
    base : str or NoiseWeight, default "edm"
        lambda: a scheme without learned parameters. A name stands for that scheme with its default options.
    sigma_data : float > 0, default 0.5
        Of the base "edm"; other bases have no such option.
    channels : int >= 1, default 128
        Fourier features.
    seed : int, default 0
        Of the Fourier features.

    Raises
    ------
    UserError
        An option out of its range, an unknown or a learned base; in use, noise levels on another device than u.

    Notes
    -----
    ``trainable_parameters()`` must be given to the optimiser, ``to(device)`` moves them, ``state_dict()`` and
    ``load_state_dict()`` carry them through checkpoints. In data-parallel training their gradients must be averaged
    with the network's.
    """

    name = "edm2"

    def __init__(
        self, base: str | NoiseWeight = "edm", sigma_data: float | None = None, channels: int = 128, seed: int = 0
    ) -> None:
        for option, value, least in (("channels", channels, 1), ("seed", seed, 0)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise UserError(
                    f"the edm2 weighting's {option} must be a whole number of at least {least}; got {value!r}."
                )
        self.base = _base(base, sigma_data)
        self.channels, self.seed = channels, seed
        self._net = _UncertaintyNet(channels, seed)

    @property
    def module(self) -> _UncertaintyNet:
        """u as a function of c_noise."""
        return self._net

    def terms(
        self, path: Path | str, target: str, t: Tensor, *, num_frames: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """(weight, penalty): lambda restated for the target times exp(-u), and u; both (B,), with gradient to u.

        Parameters and errors as in `NoiseWeight.__call__`.
        """
        path = get_path(path)
        check_target(target)
        weight = self.base(path, target, t, num_frames=num_frames)
        u = self.log_uncertainty(path, t).to(weight.dtype)
        return weight * torch.exp(-u), u

    def log_uncertainty(self, path: Path | str, t: Tensor) -> Tensor:
        """u at each noise level (B,): (B,), float32, with gradient."""
        if t.device != self._net.bias.device:
            raise UserError(
                f"the edm2 weighting's parameters are on {self._net.bias.device} and the noise levels on {t.device}; "
                f"call to({str(t.device)!r}) on the weighting before training."
            )
        log_uncertainty: Tensor = self._net(-get_path(path).log_snr(inner_levels(t)) / 8)  # ln(sigma/alpha) / 4
        return log_uncertainty

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """u's parameters by name."""
        return dict(self._net.named_parameters())

    def to(self, device: torch.device | str) -> LearnedUncertainty:
        """Moves the parameters, which stay the same objects for an optimiser, and returns self."""
        self._net.to(device)
        return self

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and features, for a checkpoint."""
        return dict(self._net.state_dict())

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` gave; `CheckpointError` when a name or a shape differs."""
        own = {key: tuple(value.shape) for key, value in self._net.state_dict().items()}
        shapes = {key: tuple(value.shape) for key, value in state.items()}
        if own != shapes:
            raise CheckpointError(
                f"the saved edm2 weighting holds {shapes} and this one needs {own}; build it with the options it was "
                "saved with."
            )
        self._net.load_state_dict(dict(state))

    def _weight(self, path: Path, target: str, t: Tensor, num_frames: int | None) -> Tensor:
        weight, _ = self.terms(path, target, t, num_frames=num_frames)
        return weight


def _base(base: Any, sigma_data: float | None) -> NoiseWeight:
    if base == "edm":
        return EDM() if sigma_data is None else EDM(positive("edm2", "sigma_data", sigma_data))
    if sigma_data is not None:
        raise UserError(f"sigma_data belongs to the base 'edm' of the edm2 weighting; leave it out with base={base!r}.")
    if isinstance(base, str):
        from eisbach.weighting.noise_level import NOISE_WEIGHTINGS  # the table names this module

        if base not in NOISE_WEIGHTINGS:
            known = ", ".join(name for name in NOISE_WEIGHTINGS if name != LearnedUncertainty.name)
            raise UserError(f"the edm2 weighting's base {base!r} is not known; choose one of {known}.")
        try:
            base = NOISE_WEIGHTINGS[base]()
        except TypeError as error:
            raise UserError(
                f"the edm2 weighting's base {base!r} needs options of its own ({error}); build it and pass the object."
            ) from error
    if not isinstance(base, NoiseWeight) or base.trainable_parameters():
        raise UserError(
            f"the edm2 weighting's base must be a noise-level weighting without learned parameters; got {base!r}."
        )
    return base
