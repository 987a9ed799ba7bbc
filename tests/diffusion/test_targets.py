import itertools
import re

import pytest
import torch

from eisbach.diffusion import targets
from eisbach.diffusion.paths import PATHS, get_path
from eisbach.diffusion.targets import TARGETS, add_noise, convert, make_sample, make_target, to_noise, to_x0
from eisbach.errors import UserError

PAIRS = list(itertools.permutations(TARGETS, 2))


def draw(seed: int = 0, batch: int = 9, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randn(batch, 3, 5, generator=generator, dtype=torch.float64)
    noise = torch.randn(batch, 3, 5, generator=generator, dtype=torch.float64)
    t = torch.linspace(0.02, 0.98, batch, dtype=torch.float64)
    return x0.to(dtype), noise.to(dtype), t


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_conversions_agree_with_the_definitions(name, source, destination):
    x0, noise, t = draw()
    x_t = add_noise(name, x0, noise, t)
    result = convert(name, source, destination, make_target(name, source, x0, noise, t), x_t, t)
    torch.testing.assert_close(result, make_target(name, destination, x0, noise, t), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PATHS)
def test_the_table_of_closed_forms_in_the_modules_text_is_what_convert_does(name):
    y, x_t, t = draw(5)
    path = get_path(name)
    alpha, sigma = path.alpha(t)[:, None, None], path.sigma(t)[:, None, None]
    known = {"y": y, "x_t": x_t, "alpha": alpha, "sigma": sigma, "S": alpha + sigma, "Q": alpha**2 + sigma**2}
    rows = [
        re.split(r" {2,}", line) for line in targets.__doc__.splitlines() if re.match(r"(eps|x0|v|u|y is) {2,}", line)
    ]
    head, *cells = rows[-5:]
    assert [row[0] for row in cells] == head[1:] == list(TARGETS)
    for source, *formulas in cells:
        for destination, formula in zip(head[1:], formulas, strict=True):
            code = re.sub(r"(?<=\w|\)) (?=\w|\()", "*", formula)
            expected = eval(code, {}, known)
            result = convert(name, source, destination, y, x_t, t)
            torch.testing.assert_close(result, expected.expand_as(result), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_round_trips_of_arbitrary_outputs(name, source, destination):
    output, x_t, t = draw(1)
    there = convert(name, source, destination, output, x_t, t)
    back = convert(name, destination, source, there, x_t, t)
    torch.testing.assert_close(back, output, rtol=1e-8, atol=1e-8)


def test_definitions_written_out():
    x0, noise, t = draw(2)
    path = get_path("vp")
    alpha, sigma = path.alpha(t)[:, None, None], path.sigma(t)[:, None, None]
    sample = make_sample("vp", "v", x0, noise, t)
    torch.testing.assert_close(sample.x_t, alpha * x0 + sigma * noise)
    torch.testing.assert_close(sample.target, alpha * noise - sigma * x0)
    torch.testing.assert_close(make_target("vp", "u", x0, noise, t), noise - x0)
    linear = t[:, None, None]
    u = torch.randn_like(x0)
    torch.testing.assert_close(to_x0("linear", "u", u, sample.x_t, t), sample.x_t - linear * u)
    torch.testing.assert_close(to_noise("linear", "u", u, sample.x_t, t), sample.x_t + (1 - linear) * u)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("target", TARGETS)
def test_error_scale_is_the_sensitivity_of_x0(name, target):
    output, x_t, t = draw(3)
    moved = to_x0(name, target, output + 1, x_t, t) - to_x0(name, target, output, x_t, t)
    expected = targets.x0_error_scale(name, target, t)[:, None, None].expand_as(moved)
    torch.testing.assert_close(moved.abs(), expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("target", ["u", "v"])
def test_u_and_v_are_defined_at_both_ends(name, target):
    x0, noise, _ = draw(4, batch=2)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    x_t = add_noise(name, x0, noise, ends)
    output = make_target(name, target, x0, noise, ends)
    torch.testing.assert_close(to_x0(name, target, output, x_t, ends), x0, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(to_noise(name, target, output, x_t, ends), noise, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", PATHS)
def test_undefined_ends_give_nan_and_a_clear_error(name):
    path = get_path(name)
    x0, noise, _ = draw(5, batch=2)
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    x_t = add_noise(path, x0, noise, ends)  # [at t = 0, at t = 1]
    from_eps = to_x0(path, "eps", noise, x_t, ends)
    assert bool(from_eps[1].isnan().all()) == path.pure_noise
    torch.testing.assert_close(from_eps[0], x0[0])
    from_x0 = to_noise(path, "x0", x0, x_t, ends)
    assert bool(from_x0[0].isnan().all()) == path.pure_data
    torch.testing.assert_close(from_x0[1], noise[1], rtol=1e-7, atol=1e-9)
    for target, undefined in (("eps", path.pure_noise), ("x0", path.pure_data), ("v", False), ("u", False)):
        if undefined:
            with pytest.raises(UserError, match=f"{target!r} is undefined at t = "):
                targets.require_defined(path, target, ends)
        else:
            targets.require_defined(path, target, ends)


def test_dtypes():
    x0, noise, t = draw(6, dtype=torch.bfloat16)
    sample = make_sample("linear", "u", x0, noise, t.float())
    assert sample.x_t.dtype == sample.target.dtype == torch.bfloat16
    exact = add_noise("linear", x0.double(), noise.double(), t)
    torch.testing.assert_close(sample.x_t.double(), exact, rtol=2**-8, atol=1e-6)
    assert to_x0("linear", "u", noise, x0.float(), t.float()).dtype == torch.float32
    assert convert("vp", "eps", "eps", noise, x0, t) is noise


def test_any_trailing_axes():
    t = torch.tensor([0.3, 0.6])
    for shape in ((2,), (2, 4), (2, 3, 4, 5)):
        x0, noise = torch.ones(shape), torch.zeros(shape)
        assert add_noise("linear", x0, noise, t).shape == shape


def test_bad_calls_are_user_errors():
    x0, noise, t = draw(7)
    with pytest.raises(UserError, match="choose one of eps, x0, v, u"):
        make_target("linear", "epsilon", x0, noise, t)
    with pytest.raises(UserError, match="choose one of"):
        convert("linear", "u", "score", x0, noise, t)
    with pytest.raises(UserError, match="one noise level a sample"):
        add_noise("linear", x0, noise, t[:4])
