"""The time-conditioned MLP of toy experiments, alone or as an ensemble of independent networks in one batched matrix
product.

Architecture of Elucidated Representation Diffusion, appendix F.1: a 64-d sinusoidal embedding of t joined to x_t, three
layers of 256 with SiLU, a linear readout.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from eisbach.errors import UserError
from eisbach.tensor_files import copy_named

_TIME_SCALE = 1.0


def time_embedding(t: Tensor, width: int = 64, scale: float = _TIME_SCALE) -> Tensor:
    """Sines and cosines of `scale * t` at `width / 2` frequencies, geometric from 1 to 1/10,000; shape (B, width).

    Parameters
    ----------
    t : Tensor [shape=(B,)]
    width : int, even
    scale : float
        The fastest frequency in radians per unit of t.
    """
    half = width // 2
    index = torch.arange(half, dtype=t.dtype, device=t.device)
    frequencies = torch.exp(index * (-math.log(10_000.0) / max(1, half - 1)))
    angles = scale * t[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class TimeMLP(nn.Module):
    """An MLP of (x_t, t).

    Parameters
    ----------
    dim : int, default 2
        Of x_t and of the output.
    width, depth : int
        Hidden units and hidden layers.
    embedding : int, even
        Width of the time embedding.
    time_scale : float
        See `time_embedding`.
    generator : torch.Generator or None
        What the weights are drawn from (PyTorch's own uniform(-1/sqrt(fan_in), 1/sqrt(fan_in)) for weights and biases);
        None draws from seed 0.
    """

    def __init__(
        self,
        dim: int = 2,
        width: int = 256,
        depth: int = 3,
        embedding: int = 64,
        time_scale: float = _TIME_SCALE,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if min(dim, width, depth) < 1 or embedding < 2 or embedding % 2:
            raise UserError(
                f"the MLP got dim={dim}, width={width}, depth={depth} and embedding={embedding}; the first three must "
                "be 1 or more and the embedding an even number."
            )
        self.dim, self.embedding, self.time_scale = dim, embedding, time_scale
        sizes = [dim + embedding, *[width] * depth, dim]
        self.layers = nn.ModuleList(nn.utils.skip_init(nn.Linear, a, b) for a, b in itertools.pairwise(sizes))
        source = generator if generator is not None else torch.Generator().manual_seed(0)
        with torch.no_grad():
            for layer in self.layers:
                bound = 1 / math.sqrt(layer.in_features)  # type: ignore[arg-type]
                for parameter in (layer.weight, layer.bias):
                    parameter.uniform_(-bound, bound, generator=source)  # type: ignore[operator,union-attr]

    def features(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The last hidden layer [shape=(B, width)], which the readout maps to the output."""
        hidden = torch.cat([x_t, time_embedding(t, self.embedding, self.time_scale)], dim=1)
        for layer in self.layers[:-1]:
            hidden = functional.silu(layer(hidden))
        return hidden

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The prediction [shape=(B, dim)] at x_t [shape=(B, dim)] and t [shape=(B,)]."""
        return self.layers[-1](self.features(x_t, t))


class MLPEnsemble(nn.Module):
    """E networks of one shape, evaluated and trained side by side; none sees another.

    An elementwise optimiser (Adam, SGD) on the sum of the members' losses trains each as it would alone.

    Parameters
    ----------
    members : sequence of TimeMLP
        Copied in; at least one, all of one shape.
    """

    def __init__(self, members: Sequence[TimeMLP]) -> None:
        super().__init__()
        if not members:
            raise UserError("an ensemble needs at least one network.")
        first = members[0]
        shapes = {tuple(tuple(p.shape) for p in member.parameters()) for member in members}
        if len(shapes) > 1 or len({(m.embedding, m.time_scale) for m in members}) > 1:
            raise UserError("the networks of an ensemble must share one shape.")
        self.size, self.dim = len(members), first.dim
        self.embedding, self.time_scale = first.embedding, first.time_scale
        layers = range(len(first.layers))
        states = [dict(member.named_parameters()) for member in members]
        # (E, in, out): ready for a batched product with activations (E, B, in).
        self.weights = nn.ParameterList(
            torch.stack([state[f"layers.{i}.weight"].detach().mT for state in states]).contiguous() for i in layers
        )
        self.biases = nn.ParameterList(
            torch.stack([state[f"layers.{i}.bias"].detach() for state in states])[:, None] for i in layers
        )

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Each member's prediction [shape=(E, B, dim)].

        Parameters
        ----------
        x_t : Tensor [shape=(B, dim) or (E, B, dim)]
            The same points for all members, or points of their own.
        t : Tensor [shape=(B,)]
        """
        times = time_embedding(t, self.embedding, self.time_scale)
        first = self.weights[0]
        # x and the embedding multiply their own rows, so that a shared embedding is not copied E times.
        hidden = torch.matmul(x_t, first[:, : self.dim]) + torch.matmul(times, first[:, self.dim :]) + self.biases[0]
        for weight, bias in zip(list(self.weights)[1:], list(self.biases)[1:], strict=True):
            hidden = torch.baddbmm(bias, functional.silu(hidden), weight)
        return hidden

    def member(self, index: int) -> TimeMLP:
        """A copy of one network."""
        sizes = [weight.shape[1:] for weight in self.weights]
        network = TimeMLP(self.dim, sizes[0][1], len(sizes) - 1, self.embedding, self.time_scale)
        network.load_state_dict(self.member_state(index))
        return network

    def member_state(self, index: int) -> dict[str, Tensor]:
        """One network's tensors by `TimeMLP`'s names."""
        state = {}
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            state[f"layers.{i}.weight"] = weight.detach()[index].mT.contiguous()
            state[f"layers.{i}.bias"] = bias.detach()[index, 0].clone()
        return state


def load_mlp(
    state: Mapping[str, Tensor], source: str, *, time_scale: float = _TIME_SCALE, embedding: int = 64
) -> TimeMLP:
    """The network whose tensors these are.

    Raises
    ------
    CheckpointError
        Names or shapes that are no `TimeMLP`'s; `source` is named in the message.
    """
    weights = [key for key in state if key.endswith(".weight")]
    first, last = state.get("layers.0.weight"), state.get(f"layers.{len(weights) - 1}.weight")
    width = 1 if first is None else first.shape[0]
    dim = 1 if last is None else last.shape[0]
    network = TimeMLP(dim, width, max(1, len(weights) - 1), embedding, time_scale)
    copy_named(network.state_dict(), state, source, "network")
    return network
