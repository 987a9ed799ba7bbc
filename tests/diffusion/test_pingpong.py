"""Ping-pong sampling where the ideal network is known: Gaussian data, and data of one point."""

from __future__ import annotations

import pytest
import torch

from eisbach.diffusion.paths import PATHS, get_path
from eisbach.diffusion.samplers import sample_pingpong
from eisbach.diffusion.schedules import get_schedule
from eisbach.diffusion.targets import TARGETS
from eisbach.errors import UserError


def draw(*key: int) -> torch.Tensor:
    return torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(sum(key)), dtype=torch.float64)


def test_a_step_on_the_linear_path_is_the_rectified_flow_formula_written_out() -> None:
    times = get_schedule("sa3", 4)
    seen: list[int] = []

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x) + t[:, None, None]

    def fresh(step: int) -> torch.Tensor:
        seen.append(step)
        return draw(100, step)

    got = sample_pingpong(velocity, path="linear", target="u", noise=draw(1), times=times, fresh_noise=fresh)
    x = draw(1)
    for step in range(1, 5):
        t, s = times[step - 1], times[step]
        denoised = x - t * (torch.tanh(x) + t)
        x = (1 - s) * denoised + s * draw(100, step)
    assert torch.allclose(got, x, atol=1e-12)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "target"), [(n, t) for n in PATHS for t in TARGETS if not (t == "eps" and get_path(n).pure_noise)]
)
def test_a_network_that_knows_the_clip_gives_it_back_on_every_path_and_target(name: str, target: str) -> None:
    path, clip = get_path(name), draw(7)

    def ideal(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = path.alpha(t)[:, None, None], path.sigma(t)[:, None, None]
        noise = (x - alpha * clip) / sigma
        return {"x0": clip, "eps": noise, "v": alpha * noise - sigma * clip, "u": noise - clip}[target]

    got = sample_pingpong(
        ideal,
        path=path,
        target=target,
        noise=draw(1),
        times=get_schedule("uniform", 5),
        fresh_noise=lambda step: draw(50, step),
    )
    assert torch.allclose(got, clip, atol=1e-6)


def test_what_does_not_fit_is_refused() -> None:
    times = get_schedule("uniform", 2)

    def run(predict=lambda x, t: x, fresh=lambda step: draw(step), times=times):  # type: ignore[no-untyped-def]
        return sample_pingpong(predict, path="linear", target="u", noise=draw(1), times=times, fresh_noise=fresh)

    with pytest.raises(UserError, match=r"the network returned \(2, 3\) for x_t of \(2, 3, 5\)"):
        run(predict=lambda x, t: x[..., 0])
    with pytest.raises(UserError, match=r"the fresh noise has \(3, 5\)"):
        run(fresh=lambda step: draw(step)[0])
    with pytest.raises(UserError, match="fall strictly from 1 to 0"):
        run(times=torch.tensor([1.0, 1.0, 0.0]))
    with pytest.raises(UserError, match="not finite"):
        run(predict=lambda x, t: x / 0)
