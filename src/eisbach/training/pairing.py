"""Which noise goes with which clip: minibatch optimal transport (Pooladian et al. 2023; Tong et al. 2023).

Noise is drawn independently of the data. Exchanging the noise of a batch's clips among them, so that the sum of squared
distances between clip and noise is smallest, leaves the noise of the batch as a whole what it was and makes the paths
from noise to data straighter. With one clip there is nothing to exchange.

It has a price that is easy to overlook: given x0 the noise is no longer standard normal. Everything here that is
derived for independent noise then holds approximately at best: the posterior along a noised clip, the entropy rate and
every other class-conditional-entropy identity, the Bayes floor, and weights that are derived from them. Measure those
on a model that was trained without.
"""

from __future__ import annotations

import torch

PAIRINGS = ("independent", "optimal_transport")


def pair_by_transport(x0: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The rows of `noise` reordered so that the sum over rows of ``|x0 - noise|²`` is the smallest of all orders.

    Parameters
    ----------
    x0, noise : torch.Tensor [shape=(B, ...)]
        On any devices; the order is found on the CPU, so a GPU is waited for.

    Returns
    -------
    torch.Tensor [shape=(B, ...)]
        On the device of `noise`.
    """
    if noise.shape[0] < 2:
        return noise
    from scipy.optimize import linear_sum_assignment

    # The squares of both do not depend on the order, so the smallest distance is the largest inner product.
    products = x0.detach().flatten(1).float() @ noise.to(x0.device).flatten(1).float().T
    _, order = linear_sum_assignment(products.double().cpu().numpy(), maximize=True)
    return noise[torch.from_numpy(order).to(noise.device)]
