"""docs/drop-in.md: its code runs as printed, and each row of its table is the trainer's own convention restated."""

import math
import re
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from eisbach.diffusion.paths import EDMPath, get_path
from eisbach.diffusion.targets import add_noise, to_x0
from eisbach.errors import UserError
from eisbach.weighting import build_weighting, per_sample_mse

PAGE = Path(__file__).parents[2] / "docs" / "drop-in.md"


def data(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(4, 8, 160, generator=generator, dtype=dtype) for _ in range(2))
    return x0, noise, torch.tensor([0.1, 0.35, 0.6, 0.9], dtype=dtype)


def column(values):
    return values[:, None, None]


def test_the_page_s_code_runs_in_order():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(blocks) == 3
    x0, noise, t = data(torch.float32)
    model = torch.nn.Conv1d(8, 8, 3, padding=1)
    x_t = x0 * column(1 - t) + noise * column(t)

    def forward(rows):
        output = model(x_t[rows])
        return per_sample_mse(output, (noise - x0)[rows]), output, x_t[rows], t[rows]

    names = {"output": model(x_t), "target": noise - x0, "x_t": x_t, "t": t, "model": model, "forward": forward}
    names |= {"micro_batches": [slice(0, 3), slice(3, 4)], "scheduler": DDPMScheduler()}
    names["timesteps"] = torch.tensor([10, 200, 500, 990])
    exec(blocks[0], names)
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    exec(blocks[1], names)
    assert names["kind"] == "eps"
    assert names["terms"].weight.isfinite().all()
    model.zero_grad()
    exec(blocks[2], names)
    for parameter, want in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, want, rtol=1e-4, atol=1e-7)


def test_defaults_and_equal_micro_batches_need_no_second_pass():
    """What the page says: means of means are exact for reduction "sample" without normalisation, and not for
    "mean1"."""
    x0, noise, t = data()
    x_t = x0 * column(1 - t) + noise * column(t)
    output = 0.5 * x_t
    losses = per_sample_mse(output, noise - x0)
    for normalisation, exact in (("none", True), ("mean1", False)):
        weighting = build_weighting("development_barrier", "min_snr", latent_rate=10.77, normalisation=normalisation)

        def loss(rows, weighting=weighting):
            inputs = {"x_t": x_t[rows], "t": t[rows], "path": "linear", "target": "u"}
            return float(weighting(losses[rows], output[rows], **inputs).loss)

        whole, halves = loss(slice(0, 4)), (loss(slice(0, 2)) + loss(slice(2, 4))) / 2
        assert (abs(whole / halves - 1) < 1e-6) == exact


@pytest.mark.parametrize("reverse_time", [True, False])
def test_velocities_towards_the_data_and_reversed_time(reverse_time):
    """data - noise, at a time that is 1 (or 0) at the data: `-output` and `1 - t` give back the data."""
    x0, noise, t = data()
    theirs = 1 - t if reverse_time else t
    on_data = theirs if reverse_time else 1 - theirs
    x_t = column(on_data) * x0 + column(1 - on_data) * noise
    velocity = x0 - noise
    ours = 1 - theirs if reverse_time else theirs
    torch.testing.assert_close(to_x0("linear", "u", -velocity, x_t, ours), x0)
    wrong = to_x0("linear", "u", velocity, x_t, ours)
    assert (wrong - x0).abs().max() > 0.1


def test_flow_matching_of_diffusers():
    """scale_noise, and the training scripts' sigma and target."""
    scheduler = FlowMatchEulerDiscreteScheduler()
    x0, noise, _ = data(torch.float32)
    timesteps = scheduler.timesteps[torch.tensor([5, 300, 700, 990])]
    x_t = scheduler.scale_noise(x0, timesteps, noise)
    t = timesteps / 1000
    torch.testing.assert_close(add_noise("linear", x0, noise, t), x_t, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(to_x0("linear", "u", noise - x0, x_t, t), x0, rtol=1e-4, atol=1e-4)
    preconditioned = (noise - x0) * column(-t) + x_t
    torch.testing.assert_close(to_x0("linear", "x0", preconditioned, x_t, t), x0, rtol=1e-4, atol=1e-4)


def test_v_of_stable_audio_tools_and_a_score():
    x0, noise, t = data()
    alpha, sigma = torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2)
    x_t, v = column(alpha) * x0 + column(sigma) * noise, column(alpha) * noise - column(sigma) * x0
    torch.testing.assert_close(to_x0("gvp", "v", v, x_t, t), x0)
    vp = get_path("vp")
    x_t = add_noise(vp, x0, noise, t)
    score = -(x_t - column(vp.alpha(t)) * x0) / column(vp.sigma(t)) ** 2  # of the Gaussian around the data
    torch.testing.assert_close(to_x0(vp, "eps", -column(vp.sigma(t)) * score, x_t, t), x0, rtol=1e-5, atol=1e-5)


def test_edm_s_own_loss_is_the_edm_weight_on_the_denoised():
    """|F - F*|^2 for D = c_skip x + c_out F equals our weight times |D - x0|^2, at every sigma; another data scale
    too."""
    x0, noise, _ = data()
    sigma = torch.tensor([0.01, 0.3, 2.0, 50.0], dtype=torch.float64)
    path = EDMPath(1e-3, 200.0)
    t = path.t_from_log_snr(-2 * sigma.log())
    torch.testing.assert_close(path.sigma(t), sigma)
    x_t = x0 + column(sigma) * noise
    for sigma_data in (0.5, 1.3):
        c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
        c_out = sigma * sigma_data / (sigma**2 + sigma_data**2).sqrt()
        network = torch.randn(x0.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        denoised = column(c_skip) * x_t + column(c_out) * network
        own = per_sample_mse(network, (x0 - column(c_skip) * x_t) / column(c_out))
        losses = per_sample_mse(denoised, x0)
        terms = build_weighting("none", "edm", sigma_data=sigma_data)(losses, denoised, t=t, path=path, target="x0")
        torch.testing.assert_close(terms.weight * losses, own, rtol=1e-9, atol=0)
    outside = path.t_from_log_snr(-2 * torch.tensor([300.0, 1.0], dtype=torch.float64).log())
    assert build_weighting("none", "edm").noise_level(path, "x0", outside).isnan().tolist() == [True, False]


@pytest.mark.parametrize("sample", ["development_barrier", "recurrence_barrier", "none"])
def test_timesteps_in_place_of_noise_levels_do_not_pass_silently(sample):
    """Integers are refused; a flow-matching scheduler's floating timesteps (0 to 1000) make the loss NaN."""
    x0, noise, t = data(torch.float32)
    x_t = x0 * column(1 - t) + noise * column(t)
    options = {} if sample == "none" else {"window_frames": 32}
    weighting = build_weighting(sample, "min_snr" if sample == "none" else "none", **options)
    arguments = {"x_t": x_t, "path": "linear", "target": "u"}
    losses = per_sample_mse(x_t, x0)
    with pytest.raises(UserError, match=r"floating numbers in .0, 1.* torch.int64.*DiscretePath"):
        weighting(losses, x_t, t=torch.tensor([10, 200, 500, 990]), **arguments)
    assert weighting(losses, x_t, t=1000 * t, **arguments).loss.isnan()
    assert weighting(losses, x_t, t=t, **arguments).loss.isfinite()
    rounded = torch.tensor([0.5, 0.5, 0.5, 1.0 + 2**-23])  # beyond 1 by rounding alone
    assert weighting(losses, x_t, t=rounded, **arguments).loss.isfinite()
