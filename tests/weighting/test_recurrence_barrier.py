"""The loop-aware statistic against plain numpy, and against music whose structure is known."""

import math

import numpy as np
import pytest
import torch

from eisbach.diffusion.targets import add_noise, make_target
from eisbach.errors import UserError
from eisbach.weighting import EntropyBarrier, RecurrenceBarrier
from eisbach.weighting.sample.recurrence_barrier import (
    entropy_by_eigenvalues,
    entropy_by_resolvents,
    von_neumann_entropy,
)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def reference(x0: np.ndarray, size: int, entropy: str, center: str = "none") -> tuple[float, int]:
    """(R, windows) of one sample, channels by frames, in plain numpy."""
    hop = max(1, size // 2)
    starts = range(0, x0.shape[1] - size + 1, hop)
    windows = np.array([x0[:, s : s + size].mean(1) for s in starts])
    if center == "time":
        windows = windows - windows.mean(0)
    if center == "channels":
        windows = windows - windows.mean(1, keepdims=True)
    gram = windows @ windows.T
    gram /= np.trace(gram)
    if entropy == "renyi2":
        return -math.log((gram**2).sum()) / math.log(len(windows)), len(windows)
    values = np.linalg.svd(windows, compute_uv=False) ** 2  # singular values: another route to the eigenvalues
    values = values / values.sum()
    return -sum(v * math.log(v) for v in values if v > 0) / math.log(len(windows)), len(windows)


def weigh(barrier: RecurrenceBarrier, x0: torch.Tensor, **kwargs):
    """The barrier on a perfect prediction of x0 (target x0)."""
    t = torch.full((x0.shape[0],), 0.3, dtype=torch.float64)
    return barrier(x0, x_t=x0, t=t, path="linear", target="x0", **kwargs)


@pytest.mark.parametrize("entropy", ["von_neumann", "renyi2"])
@pytest.mark.parametrize("center", ["none", "time", "channels"])
@pytest.mark.parametrize(("frames", "size"), [(40, 8), (161, 16), (30, 1), (50, 7)])
def test_matches_the_independent_evaluation(entropy, center, frames, size):
    x0 = draw(3, 6, frames, seed=frames).cumsum(2)
    barrier = RecurrenceBarrier(window_frames=size, entropy=entropy, center=center)
    recurrence, windows = barrier.statistic(x0)
    expected = [reference(sample.numpy(), size, entropy, center) for sample in x0]
    np.testing.assert_allclose(recurrence, [r for r, _ in expected], rtol=1e-8)
    assert windows.tolist() == [n for _, n in expected]
    weights = weigh(barrier, x0)
    np.testing.assert_allclose(weights.weight, [1 / (1 - math.log(r)) for r, _ in expected], rtol=1e-8)
    np.testing.assert_allclose(weights.belief, [1 - r for r, _ in expected], rtol=1e-8)
    power = RecurrenceBarrier(window_frames=size, entropy=entropy, center=center, form="power", sharpness=3)
    np.testing.assert_allclose(weigh(power, x0).weight, [r**3 for r, _ in expected], rtol=1e-8)
    np.testing.assert_allclose(weigh(barrier, x0.float()).weight, weights.weight, rtol=2e-4)


@pytest.mark.parametrize("path", ["linear", "vp", "gvp", "edm"])
@pytest.mark.parametrize("target", ["eps", "x0", "v", "u"])
def test_a_perfect_prediction_weighs_the_same_in_every_target(path, target):
    x0, noise = draw(2, 4, 32), draw(2, 4, 32, seed=1)
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    barrier = RecurrenceBarrier(window_frames=4)
    output = make_target(path, target, x0, noise, t)
    result = barrier(output, x_t=add_noise(path, x0, noise, t), t=t, path=path, target=target)
    torch.testing.assert_close(result.weight, weigh(barrier, x0).weight, rtol=1e-6, atol=0)


def test_window_in_seconds():
    assert RecurrenceBarrier(window_seconds=3.0, latent_rate=5.4).window_frames == 16
    assert RecurrenceBarrier(window_seconds=1.5, latent_rate=10.77).window_frames == 16
    assert RecurrenceBarrier(window_seconds=0.01, latent_rate=5.4).window_frames == 1


def test_padding_changes_nothing():
    x0 = draw(2, 4, 41, seed=2)
    expected = weigh(RecurrenceBarrier(window_frames=6), x0)
    padded = torch.cat([x0, torch.full((2, 4, 20), 50.0, dtype=torch.float64)], 2)
    padded[1, :, 45:] = torch.nan
    mask = (torch.arange(61) < 41)[None].expand(2, -1)
    result = weigh(RecurrenceBarrier(window_frames=6), padded, mask=mask)
    torch.testing.assert_close(result.weight, expected.weight, rtol=1e-9, atol=0)


def test_fewer_than_two_windows_weigh_one():
    barrier = RecurrenceBarrier(window_frames=8)
    for frames in (1, 7, 8, 11):
        result = weigh(barrier, draw(1, 3, frames))
        assert result.weight.tolist() == [1]
        assert result.belief.isnan().all()
    assert weigh(barrier, draw(1, 3, 12)).weight < 1
    mask = torch.tensor([[True] * 30, [True] * 9 + [False] * 21])
    assert weigh(barrier, draw(2, 3, 30), mask=mask).weight[1] == 1


@pytest.mark.parametrize("center", ["none", "time", "channels"])
@pytest.mark.parametrize("value", [0.0, 2.5, 1e30])
def test_constant_and_zero_estimates_have_no_recurrence_entropy(center, value):
    x0 = torch.full((1, 4, 64), value) * torch.tensor([1.0, -0.3, 0.7, 0.2])[None, :, None]
    for entropy in ("von_neumann", "renyi2"):
        result = weigh(RecurrenceBarrier(window_frames=8, center=center, entropy=entropy), x0)
        np.testing.assert_allclose(result.belief, [1.0], atol=2e-5)
        assert 0.05 < float(result.weight) < 0.09


def test_rounding_around_a_constant_is_not_development():
    """What centring leaves of a drone is rounding, which has full rank; it must not look like music that develops."""
    x0 = 2.5 + 2e-7 * draw(2, 4, 64, seed=9)
    result = weigh(RecurrenceBarrier(window_frames=8, center="time"), x0.float())
    np.testing.assert_allclose(result.belief, [1.0, 1.0], atol=1e-6)
    loud = weigh(RecurrenceBarrier(window_frames=8, center="time"), (2.5 + 1e-3 * draw(2, 4, 64, seed=9)).float())
    assert (loud.belief < 0.6).all()


@pytest.mark.parametrize("gain", [1e-20, 0.1, 1e4, 1e25])
def test_gain_is_invisible(gain):
    x0 = draw(2, 4, 64, seed=3, dtype=torch.float32)
    barrier = RecurrenceBarrier(window_frames=8)
    torch.testing.assert_close(weigh(barrier, x0 * gain).weight, weigh(barrier, x0).weight, rtol=1e-4, atol=0)


def test_a_prediction_that_is_not_finite_gives_nan_for_that_sample_only():
    for bad in (math.nan, math.inf):
        x0 = draw(3, 4, 64, seed=4)
        x0[1, 0, 3] = bad
        for entropy in ("von_neumann", "renyi2"):
            result = weigh(RecurrenceBarrier(window_frames=8, entropy=entropy), x0)
            assert result.weight.isnan().tolist() == [False, True, False]


def test_bf16_and_autocast_are_computed_in_float32():
    x0 = draw(2, 8, 64, seed=5).bfloat16()
    barrier = RecurrenceBarrier(window_frames=8)
    expected = weigh(barrier, x0.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = weigh(barrier, x0)
    assert result.weight.dtype == torch.float32
    assert torch.equal(result.weight, expected.weight)


def test_more_trailing_axes_count_as_channels():
    x0 = draw(2, 3, 32, 5, seed=6)
    barrier = RecurrenceBarrier(window_frames=4)
    flat = x0.permute(0, 1, 3, 2).reshape(2, 15, 32)
    torch.testing.assert_close(weigh(barrier, x0).weight, weigh(barrier, flat).weight)


# -- music whose structure is known ---------------------------------------------------------------------------------


def clips(seed: int, frames: int = 160, channels: int = 16) -> dict[str, torch.Tensor]:
    """Latents of 30 s at 5.4 a second: one piece that moves through new states, and flat ones made of the same
    frames."""
    states = draw(channels, 8, seed=seed)
    detail = 0.3 * draw(channels, frames, seed=seed + 100)
    sections = torch.arange(frames) * 8 // frames
    developing = states[:, sections] + detail
    loop = developing[:, torch.arange(frames) % 40]  # 7.4 s, two sections of the piece
    drone = states[:, :1] + 0.3 * draw(channels, frames, seed=seed + 200)
    texture = draw(channels, frames, seed=seed + 300) * 0.3 + states.mean(1, keepdim=True)
    return {"developing": developing, "loop": loop, "drone": drone, "texture": texture}


@pytest.mark.parametrize("entropy", ["von_neumann", "renyi2"])
def test_recurrence_ranks_development_above_every_flat_kind(entropy):
    barrier = RecurrenceBarrier(window_seconds=3.0, latent_rate=5.4, entropy=entropy)
    for seed in range(8):
        weights = {kind: float(weigh(barrier, x0[None]).weight) for kind, x0 in clips(seed).items()}
        assert all(weights["developing"] > 1.15 * weights[kind] for kind in ("loop", "drone", "texture")), weights


def test_entropy_barrier_cannot_tell_what_the_recurrence_barrier_tells():
    """A piece and its shuffled frames have the same entropy to the last digits; shuffling is flat to the recurrence
    barrier."""
    x0 = torch.stack([clips(seed)["developing"] for seed in range(4)])
    shuffled = x0[..., torch.randperm(160, generator=torch.Generator().manual_seed(1))]
    torch.testing.assert_close(EntropyBarrier()(shuffled).weight, EntropyBarrier()(x0).weight, rtol=1e-12, atol=0)
    barrier = RecurrenceBarrier(window_seconds=3.0, latent_rate=5.4)
    assert (weigh(barrier, x0).weight > 1.3 * weigh(barrier, shuffled).weight).all()


def test_entropy_barrier_gives_a_loop_the_weight_of_its_piece():
    """A loop of the whole energy profile: played once or four times, the entropy barrier's weight hardly moves."""
    piece = torch.stack([clips(seed, frames=40)["developing"] for seed in range(4)])
    once = piece.repeat_interleave(4, dim=2)  # the same material unfolding slowly over the clip
    loop = piece.repeat(1, 1, 4)  # four times round
    torch.testing.assert_close(EntropyBarrier()(loop).weight, EntropyBarrier()(once).weight, rtol=1e-12, atol=0)
    barrier = RecurrenceBarrier(window_seconds=3.0, latent_rate=5.4)
    assert (weigh(barrier, once).weight > 1.1 * weigh(barrier, loop).weight).all()


# -- entropies of density matrices ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 5, 19, 79])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_resolvents_give_the_entropy_of_the_eigenvalues(size, dtype):
    features = draw(4, size, 24, seed=size).cumsum(1)
    features[1] = features[1, :1]  # rank 1
    features[2, size // 2 :] = 0  # half of the windows masked away
    gram = features @ features.transpose(1, 2)
    gram = gram / gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
    expected = entropy_by_eigenvalues(gram)
    np.testing.assert_allclose(entropy_by_resolvents(gram.to(dtype)), expected, atol=1e-4)


def test_entropy_of_known_matrices():
    eye = torch.eye(6)[None] / 6
    half = torch.diag(torch.tensor([0.5, 0.5, 0, 0, 0, 0]))[None]
    for entropy in (von_neumann_entropy, entropy_by_resolvents):
        np.testing.assert_allclose(entropy(eye), [math.log(6)], atol=1e-4)
        np.testing.assert_allclose(entropy(half), [math.log(2)], atol=1e-4)
        np.testing.assert_allclose(entropy(torch.zeros(1, 6, 6)), [0.0], atol=1e-6)


def test_bad_options_and_missing_arguments_are_user_errors():
    with pytest.raises(UserError, match="needs latent_rate"):
        RecurrenceBarrier()
    with pytest.raises(UserError, match="give one of the two"):
        RecurrenceBarrier(window_seconds=3.0, window_frames=4, latent_rate=5.4)
    with pytest.raises(UserError, match="choose one of von_neumann, renyi2"):
        RecurrenceBarrier(window_frames=4, entropy="shannon")
    with pytest.raises(UserError, match="choose one of barrier, power"):
        RecurrenceBarrier(window_frames=4, form="linear")
    with pytest.raises(UserError, match="sharpness"):
        RecurrenceBarrier(window_frames=4, sharpness=0)
    with pytest.raises(UserError, match="whole number"):
        RecurrenceBarrier(window_frames=0)
    with pytest.raises(UserError, match="above 0"):
        RecurrenceBarrier(window_seconds=-1, latent_rate=5)
    barrier, y = RecurrenceBarrier(window_frames=4), torch.ones(2, 3, 16)
    with pytest.raises(UserError, match="t and path did not arrive"):
        barrier(y, x_t=y, target="u")
    with pytest.raises(UserError, match="same shape"):
        barrier(y, x_t=y[..., :8], t=torch.ones(2), path="linear", target="u")
