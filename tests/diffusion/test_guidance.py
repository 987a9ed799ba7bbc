import pytest
import torch

from eisbach.diffusion.guidance import Projection, guided, interval_from_sigma, join
from eisbach.diffusion.paths import get_path
from eisbach.diffusion.targets import convert, to_x0
from eisbach.errors import UserError
from eisbach.types import Conditioning


def conditioning(rows: int = 2, tokens: int = 3, mask: bool = False, fill: float | None = None) -> Conditioning:
    generator = torch.Generator().manual_seed(rows * 10 + tokens)
    values = torch.randn(rows, tokens, 4, generator=generator)
    if fill is not None:
        values = torch.full_like(values, fill)
    return Conditioning(values, torch.ones(rows, 2), torch.zeros(rows, tokens, dtype=torch.bool) if mask else None)


class Model:
    def __init__(self):
        self.rows = []

    def __call__(self, x_t, t, c):
        self.rows.append(x_t.shape[0])
        return x_t * t[:, None, None] + c.tokens.mean((1, 2))[:, None, None]


X, T = torch.ones(2, 4, 5), torch.tensor([0.25, 0.75])


def test_scale_mixes_both_branches_in_one_batch():
    model, cond, null = Model(), conditioning(), conditioning(fill=0.0)
    output = guided(model, cond, null, 3.0)(X, T)
    assert model.rows == [4]
    full, empty = Model()(X, T, cond), Model()(X, T, null)
    torch.testing.assert_close(output, empty + 3 * (full - empty))


@pytest.mark.parametrize(("scale", "which"), [(1.0, 0), (1, 0), (0.0, 1)])
def test_scales_one_and_zero_evaluate_one_branch(scale, which):
    model, branches = Model(), (conditioning(), conditioning(fill=0.0))
    output = guided(model, *branches, scale)(X, T)
    assert model.rows == [2]
    assert torch.equal(output, Model()(X, T, branches[which]))


def test_scale_one_needs_no_null():
    assert guided(Model(), conditioning(), None, 1.0)(X, T).shape == X.shape


def test_join_keeps_masks():
    joined = join(conditioning(mask=True), conditioning())
    assert joined.token_mask is not None
    assert joined.token_mask.tolist() == [[False] * 3] * 2 + [[True] * 3] * 2
    assert join(conditioning(), conditioning()).token_mask is None


def test_bad_calls_are_user_errors():
    with pytest.raises(UserError, match="finite"):
        guided(Model(), conditioning(), conditioning(), float("nan"))
    with pytest.raises(UserError, match="needs a null conditioning"):
        guided(Model(), conditioning(), None, 2.0)
    with pytest.raises(UserError, match="rows"):
        guided(Model(), conditioning(), conditioning(rows=3), 2.0)
    with pytest.raises(UserError, match="tokens"):
        guided(Model(), conditioning(), conditioning(tokens=5), 2.0)
    with pytest.raises(UserError, match="x_t has 3 rows"):
        guided(Model(), conditioning(), conditioning(), 2.0)(torch.ones(3, 4, 5), torch.ones(3))


def test_an_interval_guides_inside_and_is_conditional_outside():
    model, cond, null = Model(), conditioning(), conditioning(fill=0.0)
    predict = guided(model, cond, null, 3.0, interval=(0.2, 0.5))
    output = predict(X, T)  # 0.25 is inside, 0.75 outside
    full, empty = Model()(X, T, cond), Model()(X, T, null)
    torch.testing.assert_close(output[0], (empty + 3 * (full - empty))[0])
    assert torch.equal(output[1], full[1])
    assert model.rows == [4]
    assert torch.equal(predict(X, torch.tensor([0.6, 0.1])), Model()(X, torch.tensor([0.6, 0.1]), cond))
    assert model.rows == [4, 2]  # nobody inside: one branch


def test_the_whole_interval_is_plain_guidance_and_scale_zero_is_null_inside():
    cond, null = conditioning(), conditioning(fill=0.0)
    whole = guided(Model(), cond, null, 3.0, interval=(0, 1))(X, T)
    assert torch.equal(whole, guided(Model(), cond, null, 3.0)(X, T))
    mixed = guided(Model(), cond, null, 0.0, interval=(0.0, 0.5))(X, T)
    assert torch.equal(mixed[0], Model()(X, T, null)[0])
    assert torch.equal(mixed[1], Model()(X, T, cond)[1])


def test_intervals_convert_from_sigma():
    low, high = interval_from_sigma("linear", 0.25, 4.0)
    assert low == pytest.approx(0.2)
    assert high == pytest.approx(0.8)
    path = get_path("cosine")
    low, high = interval_from_sigma(path, 0.19, 1.61)
    t = torch.tensor([low, high], dtype=torch.float64)
    torch.testing.assert_close(path.sigma(t) / path.alpha(t), torch.tensor([0.19, 1.61], dtype=torch.float64))
    assert interval_from_sigma("vp", 0, float("inf")) == (0.0, 1.0)


@pytest.mark.parametrize("interval", [(0.5, 0.2), (-0.1, 0.5), (0.5, 1.5), (0.3, 0.3), (0.1,), "ab"])
def test_bad_intervals(interval):
    with pytest.raises(UserError, match="0 <= low < high <= 1"):
        guided(Model(), conditioning(), conditioning(), 2.0, interval=interval)


# Projection --------------------------------------------------------------------------------------------------------


def random_outputs(path: str, target: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(x_t, t, conditional output, null output) in float64, of random data estimates."""
    generator = torch.Generator().manual_seed(4)
    x_t, with_caption, without = torch.randn(3, 2, 4, 5, generator=generator, dtype=torch.float64)
    t = torch.tensor([0.3, 0.8], dtype=torch.float64)
    outputs = (convert(path, "x0", target, estimate, x_t, t) for estimate in (with_caption, without))
    return x_t, t, *outputs


class Two:
    """Gives the conditional and the null output, whatever it is asked."""

    def __init__(self, *outputs: torch.Tensor) -> None:
        self.outputs = torch.cat(outputs)

    def __call__(self, x_t, t, c):
        return self.outputs


@pytest.mark.parametrize("target", ["eps", "x0", "v", "u"])
@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_projection_is_the_papers_in_the_data_estimates_whatever_the_target(target: str, strength: float) -> None:
    """D = D_c + (w - 1)·((D_c - D_u) less its part along D_c), written out clip by clip (arXiv 2410.02416)."""
    x_t, t, conditional, null = random_outputs("linear", target)
    branches = (conditioning(), conditioning(fill=0.0))
    projection = Projection(strength, get_path("linear"), target)
    output = guided(Two(conditional, null), *branches, 5.0, projection=projection)(x_t, t)
    found = to_x0("linear", target, output, x_t, t)
    estimates = [to_x0("linear", target, one, x_t, t) for one in (conditional, null)]
    for clip in range(2):
        with_caption, without = (estimate[clip].flatten() for estimate in estimates)
        step = with_caption - without
        along = step.dot(with_caption) / with_caption.dot(with_caption) * with_caption
        expected = with_caption + 4.0 * (step - strength * along)
        torch.testing.assert_close(found[clip].flatten(), expected, rtol=1e-9, atol=1e-9)
        if strength == 1.0:  # nothing was added along the estimate
            assert (found[clip].flatten() - with_caption).dot(with_caption).abs() < 1e-9


def test_projection_keeps_interval_scale_one_and_a_silent_estimate():
    path = get_path("linear")
    model, branches = Model(), (conditioning(), conditioning(fill=0.0))
    projection = Projection(1.0, path, "u")
    assert torch.equal(guided(model, *branches, 1.0, projection=projection)(X, T), Model()(X, T, branches[0]))
    inside = guided(model, *branches, 4.0, (0.5, 1.0), projection)(X, T)
    assert torch.equal(inside[0], Model()(X, T, branches[0])[0])  # t = 0.25 lies outside
    silent = guided(
        Two(torch.zeros(2, 4, 5), torch.ones(2, 4, 5)), *branches, 3.0, projection=Projection(1.0, path, "x0")
    )
    assert silent(X, T).isfinite().all()
    with pytest.raises(UserError, match="strength lies within 0 and 1"):
        guided(model, *branches, 3.0, projection=Projection(1.5, path, "u"))
