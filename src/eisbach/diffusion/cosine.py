"""The cosine noise schedule of Improved DDPM (Nichol & Dhariwal 2021, arXiv 2102.09672, section 3.2), as image models use it.

``abar(k) = f(k) / f(0)`` with ``f(k) = cos^2((k/N + s) / (1 + s) * pi/2)``, k = 0 ... N, s = 0.008, and every step's
``beta = 1 - abar(k) / abar(k - 1)`` at most 0.999, "to prevent singularities at the end of the diffusion process". With N = 1000
that is the schedule of ERD's section G. The last entry is about 2.4e-9, so a trace of data is left at t = 1 and every target is
defined there.

`CosinePath` is that table as a `DiscretePath`: exact at t = k / N, the angle linear between. It is not the "gvp" path
(alpha = cos(pi t / 2)), which has no offset: near the data its noise goes to 0 linearly in t, and here sigma(1 / N) is already 0.0064.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import ClassVar

from eisbach.diffusion.discrete_path import DiscretePath
from eisbach.errors import UserError


class CosinePath(DiscretePath):
    """IDDPM's cosine schedule in N steps; get it by ``get_path("cosine")``.

    Parameters
    ----------
    num_timesteps : int >= 2, default 1000
    offset : float >= 0, default 0.008
        s: keeps the first steps from being vanishingly small.
    max_beta : float in (0, 1], default 0.999
        Largest share of the signal's variance that one step removes; 1 ends in pure noise (zero terminal SNR).

    Raises
    ------
    UserError
        An option out of its range.
    """

    name: ClassVar[str] = "cosine"

    def __init__(self, num_timesteps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> None:
        super().__init__(cosine_alphas_cumprod(num_timesteps, offset, max_beta))


def cosine_alphas_cumprod(
    num_timesteps: int = 1000, offset: float = 0.008, max_beta: float = 0.999
) -> tuple[float, ...]:
    """abar of steps 1 ... N (IDDPM, Eq. 17, with their clipped betas); the arguments are those of `CosinePath`."""
    whole = isinstance(num_timesteps, int) and not isinstance(num_timesteps, bool) and num_timesteps >= 2
    if not whole or not 0 <= offset < math.inf or not 0 < max_beta <= 1:
        raise UserError(
            f"the cosine path got num_timesteps={num_timesteps!r}, offset={offset!r} and max_beta={max_beta!r}; it needs a "
            "whole number of at least 2, a finite number of at least 0, and one in (0, 1] (1000, 0.008 and 0.999 are usual)."
        )

    def curve(step: int) -> float:
        # cos(x) as sin(pi/2 - x): exactly 0 at the last step
        return math.sin((1 - step / num_timesteps) / (1 + offset) * math.pi / 2) ** 2

    table, kept = [], 1.0
    for step in range(1, num_timesteps + 1):
        kept *= max(curve(step) / curve(step - 1), 1 - max_beta)
        table.append(kept)
    return tuple(table)


@lru_cache(maxsize=8)
def cosine_path(num_timesteps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> CosinePath:
    """The path, made once for each set of options: a name is looked up in every conversion, and the table is long."""
    return CosinePath(num_timesteps, offset, max_beta)
