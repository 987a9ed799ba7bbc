"""The variogram statistic against naive loops, and against music whose structure is known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eisbach.diffusion.targets import add_noise, make_target
from eisbach.errors import UserError
from eisbach.weighting import build_weighting
from eisbach.weighting.sample import DevelopmentBarrier


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def reference(x: np.ndarray, y: np.ndarray, frames: int, valid: np.ndarray | None = None) -> float | None:
    """S of one sample (channels by frames) by loops over windows, as the module's docstring states it; None if too
    short."""
    cell = max(1, frames // 8)
    w = round(frames / cell)
    v = max(1, w // 4)
    count = x.shape[1] // cell
    valid = np.ones(x.shape[1], dtype=bool) if valid is None else valid
    good = [bool(valid[c * cell : (c + 1) * cell].all()) for c in range(count)]

    def window(z: np.ndarray, first: int, length: int) -> np.ndarray:
        return z[:, first * cell : (first + length) * cell].mean(1)

    def whole(first: int, length: int) -> bool:
        return all(good[first : first + length])

    def distance(i: int, j: int, length: int) -> float:
        xi, xj, yi, yj = window(x, i, length), window(x, j, length), window(y, i, length), window(y, j, length)
        return float((xi @ yi + xj @ yj) / 2 - (xi @ yj + xj @ yi) / 2)

    starts = [i for i in range(count - w + 1) if whole(i, w)]
    by_lag: dict[int, list[float]] = {}
    for i in starts:
        for j in starts:
            if j >= i:
                by_lag.setdefault(j - i, []).append(distance(i, j, w))
    curve = {lag: float(np.mean(values)) for lag, values in sorted(by_lag.items())}
    if not any(lag >= w for lag in curve):
        return None
    sill = float(np.mean([value for lag, value in curve.items() if lag >= w]))
    far = sill * min(1.0, 2 * left_over(curve, {lag: len(d) for lag, d in by_lag.items()}, w, sill))
    near = [distance(i, i + v, v) for i in range(count - 2 * v + 1) if whole(i, v) and whole(i + v, v)]
    energy = float(np.mean([window(x, i, w) @ window(y, i, w) for i in starts]))
    return 0.0 if energy <= 0 else float(np.clip(max(far - v / w * np.mean(near), far / 5) / energy, 0, 1))


def left_over(curve: dict[int, float], pairs: dict[int, int], w: int, sill: float) -> float:
    """What is left of the distance at the closest return; infinity where no lag can be tested."""
    found = [math.inf]
    for lag, value in curve.items():
        if w <= lag <= 16 / 3 * w and pairs[lag] >= 0.4 * pairs[0]:
            reached = min(sill, max(value for before, value in curve.items() if before <= lag))
            found.append(max(0.0, value / reached if reached > 0 else math.copysign(math.inf, value)))
    return min(found)


def weigh(barrier: DevelopmentBarrier, x0: torch.Tensor, **kwargs):
    """The barrier on a perfect prediction of x0 without noise: x_t is x0."""
    t = torch.zeros(x0.shape[0], dtype=torch.float64)
    return barrier(x0, x_t=x0, t=t, path="linear", target="x0", **kwargs)


def value(x0: torch.Tensor, frames: int = 8, **options) -> float:
    return float(1 - weigh(DevelopmentBarrier(window_frames=frames, **options), x0[None]).belief[0])


@pytest.mark.parametrize(
    ("frames", "length"),
    [(8, 80), (8, 16), (8, 41), (2, 30), (3, 31), (7, 60), (12, 100), (16, 67), (32, 300), (33, 301)],
)
def test_matches_loops_over_windows(frames, length):
    x, y = draw(4, 5, length, seed=length).cumsum(2), draw(4, 5, length, seed=1)
    y = x + 2 * y
    x[3] = -x[3]  # at odds with y: E below 0
    found, enough = DevelopmentBarrier(window_frames=frames).statistic(x, y)
    expected = [reference(a.numpy(), b.numpy(), frames) for a, b in zip(x, y, strict=True)]
    assert enough.all()
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-12)
    assert found[3] == 0
    single, _ = DevelopmentBarrier(window_frames=frames).statistic(x.float(), y.float())
    np.testing.assert_allclose(single, expected, rtol=2e-4, atol=2e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 20), st.lists(st.booleans(), min_size=20, max_size=60), st.integers(0, 10**6))
def test_matches_loops_over_windows_under_any_mask(frames, mask, seed):
    x, y = draw(1, 3, len(mask), seed=seed).cumsum(2), draw(1, 3, len(mask), seed=seed + 1)
    y = y + x
    valid = np.repeat(np.array(mask), 4)[: len(mask)]  # runs of four: some windows survive
    found, enough = DevelopmentBarrier(window_frames=frames).statistic(x, y, torch.tensor(valid)[None])
    expected = reference(x[0].numpy(), y[0].numpy(), frames, valid)
    assert bool(enough[0]) == (expected is not None)
    if expected is not None:
        np.testing.assert_allclose(found[0], expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("path", ["linear", "vp", "gvp", "edm"])
@pytest.mark.parametrize("target", ["eps", "x0", "v", "u"])
@pytest.mark.parametrize("against", ["noisy_data", "estimate"])
def test_forms_of_the_weight_in_every_target(path, target, against):
    x0, noise = draw(2, 4, 40).cumsum(2), draw(2, 4, 40, seed=1)
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    x_t = add_noise(path, x0, noise, t)
    output = make_target(path, target, x0, noise, t)  # a perfect prediction
    other = x_t if against == "noisy_data" else x0
    expected = np.array([reference(a.numpy(), b.numpy(), 8) for a, b in zip(x0, other, strict=True)])
    given_t = {"x_t": x_t, "t": t, "path": path, "target": target}
    result = DevelopmentBarrier(window_frames=8, against=against)(output, **given_t)
    np.testing.assert_allclose(result.belief, 1 - expected, rtol=1e-6)
    np.testing.assert_allclose(result.weight, 1 / (1 - np.log(expected)), rtol=1e-6)
    power = DevelopmentBarrier(window_frames=8, against=against, form="power", sharpness=3)(output, **given_t)
    np.testing.assert_allclose(power.weight, expected**3, rtol=1e-6)


def test_window_in_seconds_by_way_of_the_builder():
    assert DevelopmentBarrier(latent_rate=2.69).window_frames == 8
    assert DevelopmentBarrier(window_seconds=1.5, latent_rate=10.77).window_frames == 16
    assert DevelopmentBarrier(window_seconds=0.01, latent_rate=5.4).window_frames == 2
    barrier = build_weighting("development_barrier", latent_rate=10.77, form="power", sharpness=2.0).sample
    assert (barrier.window_frames, barrier.form, barrier.sharpness) == (32, "power", 2.0)


# -- invariances -----------------------------------------------------------------------------------------------------


def test_padding_changes_nothing():
    for frames in (8, 16, 33):
        x0 = draw(2, 4, 131, seed=2).cumsum(2)
        barrier = DevelopmentBarrier(window_frames=frames)
        expected = weigh(barrier, x0)
        padded = torch.cat([x0, torch.full((2, 4, 50), 50.0, dtype=torch.float64)], 2)
        padded[1, :, 140:] = torch.nan
        mask = (torch.arange(181) < 131)[None].expand(2, -1)
        torch.testing.assert_close(weigh(barrier, padded, mask=mask).weight, expected.weight, rtol=1e-12, atol=0)


@pytest.mark.parametrize("gain", [1e-20, 0.1, 1e4, 1e25])
def test_gain_is_invisible(gain):
    x0 = draw(2, 4, 64, seed=3, dtype=torch.float32).cumsum(2)
    barrier = DevelopmentBarrier(window_frames=8)
    torch.testing.assert_close(weigh(barrier, x0 * gain).weight, weigh(barrier, x0).weight, rtol=1e-4, atol=0)
    # of the estimate and of the data alone, too: a model that hedges shrinks its estimate
    noisy = x0 + draw(2, 4, 64, seed=4, dtype=torch.float32)
    expected = barrier.statistic(x0, noisy)[0]
    torch.testing.assert_close(barrier.statistic(x0 * gain, noisy)[0], expected, rtol=1e-4, atol=0)
    torch.testing.assert_close(barrier.statistic(x0, noisy * gain)[0], expected, rtol=1e-4, atol=0)


def test_rotation_of_channels_and_reversal_of_time_are_invisible():
    x0 = draw(3, 6, 80, seed=5).cumsum(2)
    rotation, _ = torch.linalg.qr(draw(6, 6, seed=6))
    barrier = DevelopmentBarrier(window_frames=8)
    expected = weigh(barrier, x0).weight
    torch.testing.assert_close(weigh(barrier, rotation @ x0).weight, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(weigh(barrier, x0.flip(2)).weight, expected, rtol=1e-10, atol=0)


def test_more_trailing_axes_count_as_channels():
    x0 = draw(2, 3, 40, 5, seed=6).cumsum(2)
    flat = x0.permute(0, 1, 3, 2).reshape(2, 15, 40)
    for frames in (8, 17):
        barrier = DevelopmentBarrier(window_frames=frames)
        torch.testing.assert_close(weigh(barrier, x0).weight, weigh(barrier, flat).weight)
    mask = torch.ones(2, 40, 5, dtype=torch.bool)
    mask[:, 30:, 2] = False  # one bin invalid: the frame does not count
    barrier = DevelopmentBarrier(window_frames=8)
    torch.testing.assert_close(weigh(barrier, x0, mask=mask).weight, weigh(barrier, x0[:, :, :30]).weight)


def test_the_latent_rate_hardly_matters():
    """The same music at two and four times the frame rate, with windows of the same seconds."""
    x0 = draw(4, 8, 80, seed=7).cumsum(2)
    slow = DevelopmentBarrier(window_seconds=3.0, latent_rate=2.69)
    for factor in (2, 4):
        fast = DevelopmentBarrier(window_seconds=3.0, latent_rate=2.69 * factor)
        finer = x0.repeat_interleave(factor, 2)
        torch.testing.assert_close(weigh(fast, finer).belief, weigh(slow, x0).belief, rtol=1e-9, atol=1e-9)


# -- music whose structure is known ----------------------------------------------------------------------------------


def sections(order: str, length: int, states: torch.Tensor) -> torch.Tensor:
    """Sections named by letters, `length` frames each, every one in its own constant state."""
    return states[:, ["ABCDEFGHIJ".index(letter) for letter in order]].repeat_interleave(length, 1)


def orthogonal(channels: int = 12) -> torch.Tensor:
    return torch.linalg.qr(draw(channels, channels, seed=11))[0]


@pytest.mark.parametrize("order", ["AB" * 5, "ABC" * 4, "ABCD" * 3, "ABAC" * 3, "A" * 10])
@pytest.mark.parametrize("length", [3, 8])
def test_exact_loops_and_drones_have_no_development(order, length):
    """Periods of 6 to 32 frames, up to four windows: every one is found, whatever happens within it."""
    assert value(sections(order, length, orthogonal())) < 1e-12


def test_a_loop_whose_period_is_no_whole_number_of_cells_is_nearly_found():
    time = torch.arange(80, dtype=torch.float64)
    music = sections("ABCDEFGH", 10, orthogonal())
    for period in (13.5, 17.3, 25.4):
        loop = music[:, (time % period).long()]
        assert value(loop) < 0.16 < 0.5 < value(music)


@pytest.mark.parametrize("letters", ["AB", "ABC", "ABCD", "ABCDEFGH"])
def test_distinct_sections_have_the_value_that_counting_gives(letters):
    """Orthogonal states of equal energy: windows of one frame are at distance 1 or 0, and averages follow by
    counting."""
    length = 96 // len(letters)
    x0 = sections(letters, length, orthogonal())
    label = np.repeat(np.arange(len(letters)), length)
    share = np.array([(label == k) for k in range(len(letters))], dtype=float)

    def windows(size: int) -> np.ndarray:  # rows: what share of each state the window holds
        return np.array([share[:, i : i + size].mean(1) for i in range(96 - size + 1)])

    def lag_mean(rows: np.ndarray, lag: int) -> float:
        return float(0.5 * np.square(rows[lag:] - rows[: len(rows) - lag]).sum(1).mean())

    wide, narrow = windows(8), windows(2)
    sill = float(np.mean([lag_mean(wide, lag) for lag in range(8, len(wide))]))
    # nothing returns, so `left` takes no part
    expected = (sill - lag_mean(narrow, 2) / 4) / float(np.square(wide).sum(1).mean())
    assert value(x0) == pytest.approx(expected, rel=1e-10)
    assert expected > 0.45


def test_slow_music_is_no_loop():
    """Two sections of 18 s: near lags are alike because nothing has happened yet, which is not the same as coming
    back."""
    states = orthogonal()
    assert value(sections("AB", 40, states)) > 0.5
    assert value(sections("ABAB", 20, states)) < 1e-12


def test_what_is_new_weighs_more_and_what_returns_less():
    states = orthogonal()
    values = {order: value(sections(order, 12, states)) for order in ("ABABABAB", "AAAAAAAB", "ABCDABCE", "ABCDEFGH")}
    assert values["ABABABAB"] < 1e-12
    assert values["AAAAAAAB"] < 0.4 * values["ABCDEFGH"]
    assert 0.1 < values["ABCDABCE"] < 0.9 * values["ABCDEFGH"]


@pytest.mark.parametrize("strength", [0.01, 1.0, 100.0])
def test_noise_around_a_state_is_left_with_a_fifth_of_its_share_of_the_energy(strength):
    """The nugget takes the whole sill of a texture away; what counts is the fifth that always does."""
    state = draw(64, 12, 1, seed=1)
    barrier = DevelopmentBarrier(window_frames=8)
    found = 1 - weigh(barrier, state + strength * draw(64, 12, 160, seed=2)).belief
    noise = 12 * strength**2 / 8  # of a window
    expected = 0.2 * noise / (state.square().sum((1, 2)) + noise)
    torch.testing.assert_close(found.mean(), expected.mean(), rtol=0.1, atol=1e-6)
    # memory longer than a quarter of a window is no longer texture
    coarse = weigh(barrier, (strength * draw(8, 12, 40, seed=3)).repeat_interleave(4, 2))
    assert float((1 - coarse.belief).mean()) > 0.3


def test_noise_of_the_noise_level_does_not_move_the_mean():
    """Against x_t the statistic has no bias at any noise level; against the noisy data alone, by contrast, it
    changes."""
    x0 = torch.stack([sections("ABCDEFGH", 10, orthogonal()) for _ in range(200)])
    noise = draw(*x0.shape, seed=3)
    barrier = DevelopmentBarrier(window_frames=8)
    clean = value(x0[0])
    found = barrier.statistic(x0, x0 + noise)[0]
    # states have energy 1, the noise 12 a frame
    assert float(found.mean()) == pytest.approx(clean, abs=0.05)
    alone = barrier.statistic(x0 + noise, x0 + noise)[0]
    assert float(alone.mean()) < clean - 0.1


# -- edges -----------------------------------------------------------------------------------------------------------


def test_too_short_for_two_windows_weighs_one():
    barrier = DevelopmentBarrier(window_frames=8)
    for frames in (1, 7, 15):
        result = weigh(barrier, draw(1, 3, frames))
        assert result.weight.tolist() == [1]
        assert result.belief.isnan().all()
    assert weigh(barrier, draw(1, 3, 16).cumsum(2)).weight < 1
    mask = torch.tensor([[True] * 30, [True] * 15 + [False] * 15, [False] * 30])
    assert weigh(barrier, draw(3, 3, 30), mask=mask).weight[1:].tolist() == [1, 1]
    assert weigh(DevelopmentBarrier(window_frames=40), draw(1, 3, 4)).weight.tolist() == [1]


@pytest.mark.parametrize("constant", [0.0, 2.5, 1e30])
def test_constant_and_zero_estimates_have_no_development(constant):
    x0 = torch.full((1, 4, 64), constant) * torch.tensor([1.0, -0.3, 0.7, 0.2])[None, :, None]
    for against in ("noisy_data", "estimate"):
        result = weigh(DevelopmentBarrier(window_frames=8, against=against), x0)
        np.testing.assert_allclose(result.belief, [1.0], atol=2e-6)
        assert 0.06 < float(result.weight) < 0.08


@pytest.mark.parametrize(("frames", "place"), [(8, 3), (8, 63), (32, 63)])
def test_what_is_not_finite_gives_nan_for_that_sample_only(frames, place):
    for bad in (math.nan, math.inf):
        x0 = draw(3, 4, 67, seed=4)
        x0[1, 0, place] = bad
        x0[1, 2, 66] = bad  # beyond the last whole cell
        assert weigh(DevelopmentBarrier(window_frames=frames), x0).weight.isnan().tolist() == [False, True, False]


def test_bf16_and_autocast_are_computed_in_float32():
    x0 = draw(2, 8, 64, seed=5).cumsum(2).bfloat16()
    barrier = DevelopmentBarrier(window_frames=8)
    expected = weigh(barrier, x0.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = weigh(barrier, x0)
    assert result.weight.dtype == torch.float32
    assert torch.equal(result.weight, expected.weight)


def test_bad_options_and_missing_arguments_are_user_errors():
    with pytest.raises(UserError, match="needs latent_rate"):
        DevelopmentBarrier()
    with pytest.raises(UserError, match="give one of the two"):
        DevelopmentBarrier(window_seconds=3.0, window_frames=4, latent_rate=5.4)
    with pytest.raises(UserError, match="choose one of barrier, power"):
        DevelopmentBarrier(window_frames=4, form="linear")
    with pytest.raises(UserError, match="choose one of noisy_data, estimate"):
        DevelopmentBarrier(window_frames=4, against="truth")
    with pytest.raises(UserError, match="sharpness"):
        DevelopmentBarrier(window_frames=4, sharpness=math.inf)
    for frames in (1, 8.0, True):
        with pytest.raises(UserError, match="whole number of at least 2"):
            DevelopmentBarrier(window_frames=frames)
    with pytest.raises(UserError, match="above 0"):
        DevelopmentBarrier(window_seconds=math.nan, latent_rate=5)
    barrier, y = DevelopmentBarrier(window_frames=4), torch.ones(2, 3, 16)
    with pytest.raises(UserError, match="t and path did not arrive"):
        barrier(y, x_t=y, target="u")
    with pytest.raises(UserError, match="same shape"):
        barrier(y, x_t=y[..., :8], t=torch.ones(2), path="linear", target="u")
