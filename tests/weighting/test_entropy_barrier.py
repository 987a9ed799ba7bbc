"""Eqs. 1-4 against an evaluation written separately in float64 with plain loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eisbach.errors import UserError
from eisbach.weighting import EntropyBarrier

LENGTHS = [2, 3, 17, 160, 1292, 5000]


def reference(y: np.ndarray) -> tuple[float, float]:
    """(w, B) of one sample, channels by frames: the printed formulas, one after the other."""
    channels, frames = y.shape
    energy = [sum(float(y[c, t]) ** 2 for c in range(channels)) / channels for t in range(frames)]  # Eq. 1
    top = max(energy)
    exponentials = [math.exp(e - top) for e in energy]
    total = math.fsum(exponentials)
    p = [e / total for e in exponentials]  # Eq. 2
    entropy = -math.fsum(q * math.log(q) for q in p if q > 0)
    belief = min(1.0, entropy / math.log(frames))  # Eq. 3
    alpha = -math.log(max(1 - belief, 1e-12))
    return 1 / (1 + alpha), belief  # Eq. 4


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("frames", LENGTHS)
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_matches_the_independent_evaluation(frames, scale):
    y = draw(3, 2, frames, seed=frames) * scale
    y[1, :, : frames // 2] *= 2
    expected = np.array([reference(sample.numpy()) for sample in y])
    exact = EntropyBarrier()(y)
    np.testing.assert_allclose(exact.weight, expected[:, 0], rtol=1e-9)
    np.testing.assert_allclose(exact.belief, expected[:, 1], rtol=1e-9, atol=1e-12)
    single = EntropyBarrier()(y.float())
    assert single.weight.dtype == torch.float32
    np.testing.assert_allclose(single.weight, expected[:, 0], rtol=2e-5)


@pytest.mark.parametrize("gain", [1e-3, 1e-2, 0.1])
def test_nearly_flat_outputs_keep_their_digits_in_float32(gain):
    """1 - B is about 1e-14 to 1e-5 here; taken as a difference from 1 in float32 it would be noise."""
    y = 1 + gain * draw(1, 4, 200, seed=5)
    expected = reference(y.float()[0].double().numpy())[0]
    np.testing.assert_allclose(EntropyBarrier()(y.float()).weight, [expected], rtol=2e-4)


@pytest.mark.parametrize("frames", [3, 17, 160])
def test_padding_changes_nothing(frames):
    y = draw(2, 4, frames, seed=1)
    expected = EntropyBarrier()(y)
    padded = torch.cat([y, torch.full((2, 4, 9), 1e6, dtype=torch.float64)], 2)
    mask = torch.arange(frames + 9)[None] < frames
    mask = mask.expand(2, -1)
    padded[1, :, frames:] = torch.nan
    result = EntropyBarrier()(padded, mask=mask)
    torch.testing.assert_close(result.weight, expected.weight, rtol=1e-12, atol=0)
    torch.testing.assert_close(result.belief, expected.belief, rtol=1e-12, atol=1e-15)


def test_each_sample_has_its_own_valid_count():
    y = draw(4, 3, 20, seed=2)
    counts = torch.tensor([20, 7, 2, 13])
    result = EntropyBarrier()(y, mask=torch.arange(20)[None] < counts[:, None])
    expected = [reference(y[i, :, :n].numpy())[0] for i, n in enumerate(counts.tolist())]
    np.testing.assert_allclose(result.weight, expected, rtol=1e-9)


@pytest.mark.parametrize("valid", [0, 1])
def test_fewer_than_two_valid_frames_weigh_one(valid):
    y = draw(2, 3, 5, seed=3)
    mask = torch.tensor([[True] * 5, [True] * valid + [False] * (5 - valid)])
    result = EntropyBarrier()(y, mask=mask)
    assert result.weight[1] == 1
    assert result.belief[1].isnan()
    assert result.weight[0] < 1
    alone = EntropyBarrier()(y[:, :, :1])
    assert alone.weight.tolist() == [1, 1]


@pytest.mark.parametrize("value", [0.0, 1.0, -3.7, 1e-30, 1e19, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_constant_output_has_belief_one_and_a_finite_weight(value, dtype):
    result = EntropyBarrier()(torch.full((2, 3, 50), value, dtype=dtype))
    torch.testing.assert_close(result.belief.double(), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(result.weight.double(), torch.full((2,), 1 / (1 + 12 * math.log(10))).double())


@pytest.mark.parametrize("scale", [1e4, 1e10, 1e19, 1e25, 1e30, 1e37])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_huge_outputs_do_not_overflow(scale, dtype):
    """Energies up to 1e74, beyond float32: all the belief is on the loudest frame, unless two are exactly equal."""
    y = (draw(3, 4, 100, seed=4) * scale).to(dtype)
    y[1] = y[1].abs().amax()  # constant and huge
    y[2, :, 10] = y[2, :, 20] = 3 * y[2].abs().amax()  # an exact tie of two
    result = EntropyBarrier()(y)
    tie = math.log(2) / math.log(100)
    np.testing.assert_allclose(result.belief, [0, 1, tie], atol=1e-6)
    np.testing.assert_allclose(result.weight, [1, 0.03493, 1 / (1 - math.log(1 - tie))], rtol=1e-3)


def test_huge_float64_outputs_do_not_overflow():
    result = EntropyBarrier()(draw(2, 4, 100, seed=4) * 1e200)
    assert result.weight.tolist() == [1, 1]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_prediction_that_is_not_finite_gives_nan_for_that_sample_only(bad):
    y = draw(3, 4, 30, seed=6)
    clean = EntropyBarrier()(y)
    y[1, 2, 7] = bad
    result = EntropyBarrier()(y)
    assert result.weight.isnan().tolist() == [False, True, False]
    assert result.belief.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(result.weight[[0, 2]], clean.weight[[0, 2]])


def test_dependence_on_gain_as_recorded():
    """The values on the facts page: 256 channels, 4,096 frames; mean over draws, because the loudest frame decides at
    gain 4."""
    y = torch.stack([draw(256, 4096, seed=seed, dtype=torch.float32) for seed in range(6)])
    flat = [float(EntropyBarrier()(y * gain).weight.mean()) for gain in (0.5, 1, 2, 4)]
    np.testing.assert_allclose(flat, [0.089, 0.115, 0.171, 0.348], rtol=0.035)
    y[..., : 4096 // 6] *= 2
    section = [float(EntropyBarrier()(y * gain).weight.mean()) for gain in (0.5, 1)]
    np.testing.assert_allclose(section, [0.166, 0.326], rtol=0.02)


def test_order_of_frames_is_invisible():
    y = draw(2, 5, 64, seed=7)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(EntropyBarrier()(y[..., order]).weight, EntropyBarrier()(y).weight, rtol=1e-12, atol=0)


def test_any_trailing_axes_and_broadcast_masks():
    y = draw(2, 3, 6, 5, seed=8)
    flat = EntropyBarrier()(y.reshape(2, 3, 30))
    torch.testing.assert_close(EntropyBarrier()(y).weight, flat.weight)
    keep = torch.tensor([[True] * 4 + [False] * 2] * 2)
    expected = EntropyBarrier()(y[:, :, :4]).weight
    for mask in (keep, keep[:, :, None], keep[:, :, None].expand(2, 6, 5)):
        torch.testing.assert_close(EntropyBarrier()(y, mask=mask).weight, expected)
    columns = torch.tensor([True, True, False, True, True])[None, None].expand(2, 1, 5)
    torch.testing.assert_close(EntropyBarrier()(y, mask=columns).weight, EntropyBarrier()(y[..., [0, 1, 3, 4]]).weight)


def test_bf16_and_autocast_are_computed_in_float32():
    y = draw(3, 8, 120, seed=9).bfloat16()
    expected = EntropyBarrier()(y.float()).weight
    assert torch.equal(EntropyBarrier()(y).weight, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = EntropyBarrier()(y)
    assert result.weight.dtype == torch.float32
    assert torch.equal(result.weight, expected)


def test_weights_carry_no_gradient_even_from_an_output_that_does():
    y = draw(2, 3, 10).requires_grad_()
    result = EntropyBarrier()(y)
    assert not result.weight.requires_grad
    assert not result.belief.requires_grad


def test_bad_shapes_are_user_errors():
    with pytest.raises(UserError, match="at least one axis after the channels"):
        EntropyBarrier()(torch.ones(2, 3))
    with pytest.raises(UserError, match=r"must be \(2, 5\)"):
        EntropyBarrier()(torch.ones(2, 3, 5), mask=torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(UserError, match="mask has shape"):
        EntropyBarrier()(torch.ones(2, 3, 5), mask=torch.ones(3, 5, dtype=torch.bool))
    with pytest.raises(UserError, match="floor"):
        EntropyBarrier(floor=0.0)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 12).flatmap(
        lambda frames: st.lists(st.floats(-6, 6, width=32), min_size=2 * frames, max_size=2 * frames)
    )
)
def test_any_small_output_matches(values):
    y = torch.tensor(values, dtype=torch.float64).reshape(1, 2, -1)
    weight, belief = reference(y[0].numpy())
    result = EntropyBarrier()(y)
    # Near B = 1 the plain evaluation itself loses digits: 1 - B is a difference there.
    np.testing.assert_allclose(result.weight, [weight], rtol=1e-4)
    np.testing.assert_allclose(result.belief, [belief], atol=1e-9)
    assert 0 < float(result.weight) <= 1


# The forms that the text of the paper asks for ------------------------------------------------------------------


def slow_form(y: np.ndarray, kind: str, temperature: float = 1.0) -> float:
    """B of one sample, channels by frames, for each kind of energy; plain loops."""
    energy = [math.fsum(v**2 for v in frame) / len(frame) for frame in y.T.tolist()]
    mean = math.fsum(energy) / len(energy)
    if kind == "share":
        p = [e ** (1 / temperature) for e in energy]
    else:
        scale = 1.0 if kind == "raw" else mean
        p = [math.exp((e - max(energy)) / scale / temperature) for e in energy]
    total = math.fsum(p)
    return -math.fsum(q / total * math.log(q / total) for q in p if q > 0) / math.log(len(p))


@pytest.mark.parametrize("kind", ["raw", "relative", "share"])
@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_each_kind_of_energy_matches_a_loop(kind, temperature):
    y = draw(3, 4, 33, seed=7)
    y[1, :, :10] *= 3
    result = EntropyBarrier(energy=kind, temperature=temperature)(y)
    expected = [slow_form(sample.numpy(), kind, temperature) for sample in y]
    np.testing.assert_allclose(result.belief, expected, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("kind", ["relative", "share"])
@pytest.mark.parametrize("gain", [1e-12, 1e-3, 0.5, 8.0, 1e15])
def test_relative_energies_ignore_gain_and_the_raw_one_does_not(kind, gain):
    y = draw(2, 4, 50, seed=8)
    weigh = EntropyBarrier(energy=kind)
    torch.testing.assert_close(weigh(y * gain).weight, weigh(y).weight, rtol=1e-9, atol=0)
    raw = EntropyBarrier()
    assert not torch.allclose(raw(y * gain).weight, raw(y).weight, rtol=0.05)


def test_the_data_estimate_is_what_is_weighed():
    from eisbach.diffusion.targets import make_sample

    x0, noise = draw(3, 4, 40, seed=9), draw(3, 4, 40, seed=10)
    t = torch.tensor([0.2, 0.6, 0.95], dtype=torch.float64)
    for path, target in (("linear", "u"), ("vp", "v"), ("gvp", "eps"), ("edm", "x0")):
        sample = make_sample(path, target, x0, noise, t)
        context = {"x_t": sample.x_t, "t": t, "path": path, "target": target}
        result = EntropyBarrier(source="x0")(sample.target, **context)
        torch.testing.assert_close(result.weight, EntropyBarrier()(x0).weight, rtol=1e-6, atol=0)
    with pytest.raises(UserError, match="x_t and t did not arrive"):
        EntropyBarrier(source="x0")(x0, path="linear", target="u")


def test_images_spread_energy_over_height_and_width():
    image = draw(2, 3, 6, 5, seed=11)
    image[0, :, 2:4, 1:3] *= 4
    expected = [reference(sample.reshape(3, 30).numpy())[0] for sample in image]
    np.testing.assert_allclose(EntropyBarrier()(image).weight, expected, rtol=1e-9)
    mask = torch.ones(2, 6, 5, dtype=torch.bool)
    mask[1, 4:] = False
    cut = EntropyBarrier()(image, mask=mask).weight[1]
    np.testing.assert_allclose(cut, reference(image[1, :, :4].reshape(3, 20).numpy())[0], rtol=1e-9)


def test_the_first_axis_alone():
    video = draw(2, 3, 7, 4, 2, seed=12)
    folded = video.movedim(2, -1).reshape(2, 24, 7)
    weigh = EntropyBarrier(over="first")
    torch.testing.assert_close(weigh(video).weight, EntropyBarrier()(folded).weight, rtol=1e-12, atol=0)
    # frames of which half is valid are as loud as their valid half
    mask = torch.ones(2, 7, 4, 2, dtype=torch.bool)
    mask[:, :, :, 1] = False
    half = video[..., :1].movedim(2, -1).reshape(2, 12, 7)
    torch.testing.assert_close(weigh(video, mask=mask).weight, EntropyBarrier()(half).weight, rtol=1e-12, atol=0)
    mask[:, 5:] = False
    shorter = EntropyBarrier()(half[..., :5]).weight
    torch.testing.assert_close(weigh(video, mask=mask).weight, shorter, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["raw", "relative", "share"])
def test_degenerate_outputs_of_each_kind(kind):
    weigh = EntropyBarrier(energy=kind)
    silent = weigh(torch.zeros(1, 2, 8))
    assert float(silent.belief) == 1
    assert float(silent.weight) == pytest.approx(1 / (1 + math.log(1e12)), rel=1e-5)
    one = torch.zeros(1, 2, 8)
    one[..., 3] = 100.0
    assert float(weigh(one).weight) > 0.1
    masked = weigh(one, mask=torch.zeros(1, 8, dtype=torch.bool))
    assert float(masked.weight) == 1
    assert masked.belief.isnan().all()
    one[..., 4] = torch.nan
    assert weigh(one).weight.isnan().all()
    one[..., 4] = torch.inf
    assert weigh(one).weight.isnan().all()


@pytest.mark.parametrize(
    "options", [{"source": "x_0"}, {"energy": "db"}, {"over": "last"}, {"temperature": 0}, {"temperature": math.nan}]
)
def test_unknown_forms_are_user_errors(options):
    with pytest.raises(UserError, match="the entropy barrier's"):
        EntropyBarrier(**options)
