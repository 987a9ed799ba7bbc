import pytest
import torch

from eisbach.diffusion.guidance import guided, interval_from_sigma, join
from eisbach.diffusion.paths import get_path
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
