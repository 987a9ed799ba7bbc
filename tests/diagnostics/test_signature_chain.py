"""The estimators against mixtures whose posteriors are exact."""

import dataclasses
import math

import pytest
import torch

from eisbach.diagnostics.mixture import GaussianMixture
from eisbach.diagnostics.signature.chain import Guidance, Trajectories, follow, trajectory_seed
from eisbach.diagnostics.signature.curve import SignatureCurve, load_curve
from eisbach.diagnostics.signature.exact import mixture_entropy
from eisbach.diagnostics.signature.model import ClassSet, entropy_of, mixture_model, uniform_prior
from eisbach.diagnostics.signature.summary import Resamples, curves
from eisbach.diffusion.paths import get_path
from eisbach.diffusion.rate_curve import crossing
from eisbach.diffusion.samplers import posterior_kernel
from eisbach.diffusion.schedules import get_schedule
from eisbach.errors import UserError

PRIOR = (0.5, 0.3, 0.15, 0.05)
PAIRS = {"pairs": {"x": ["a", "c"], "y": ["b", "d"]}}
CLASSES = ClassSet(tuple("abcd"), PRIOR, PAIRS)


def mixture(dim=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    means = 1.2 * torch.randn(4, dim, generator=generator, dtype=torch.float64)
    return GaussianMixture(PRIOR, means, torch.rand(4, dim, generator=generator, dtype=torch.float64) + 0.05)


def run(
    path="linear", target="u", steps=64, per_class=40, data=False, guidance=None, model=None, seed=0, schedule="uniform"
):
    truth = mixture()
    label = torch.arange(4).repeat_interleave(per_class)
    clean = truth.sample_given(label, torch.Generator().manual_seed(9)) if data else None
    seeds = [trajectory_seed(seed, index) for index in range(len(label))]
    return follow(
        model or mixture_model(truth, path, target),
        CLASSES,
        get_schedule(schedule, steps, path),
        label,
        seeds,
        data=clean,
        guidance=guidance,
    )


@pytest.mark.parametrize(
    ("path", "target", "schedule"),
    [
        ("linear", "u", "uniform"),
        ("vp", "eps", "uniform"),
        ("edm", "x0", "uniform"),
        ("gvp", "v", "uniform"),
        ("linear", "u", "karras"),  # these two start below t = 1
        ("vp", "v", "log_snr"),
    ],
)
@pytest.mark.parametrize("data", [False, True])
@pytest.mark.whole
def test_curves_lie_on_the_exact_entropy(path, target, schedule, data):
    # The truth per level is the exact posterior's entropy there, for the classes and for a partition.
    found = run(path, target, steps=64, per_class=80, data=data, schedule=schedule)
    truth = mixture()
    for curve in curves(found, CLASSES, get_path(path), resamples=200):
        if curve.partition != "classes":
            continue
        for i in range(0, len(curve.t), 6):
            exact = mixture_entropy(truth, path, curve.t[i], 2000, torch.Generator().manual_seed(i))
            spread = (curve.entropy_hi[i] - curve.entropy_lo[i]) / 4
            assert curve.entropy[i] == pytest.approx(exact.entropy, abs=4 * spread + 4 * exact.entropy_se + 0.012)


def test_log_odds_approach_the_exact_ones_with_the_number_of_steps():
    # Along forward-noised data, whose states are exact samples of x_t.
    truth, errors = mixture(), []
    model = mixture_model(truth, "linear", "u")
    label = torch.zeros(60, dtype=torch.int64)
    data = truth.sample_given(label, torch.Generator().manual_seed(3))
    seeds = [trajectory_seed(0, index) for index in range(60)]
    for steps in (32, 128):
        seen = {}

        def watch(x_t, t, index, seen=seen):
            seen[float(t[0])] = x_t[:: len(CLASSES)]
            return model.by_class(x_t, t, index)

        watched = dataclasses.replace(model, by_class=watch)
        found = follow(watched, CLASSES, get_schedule("uniform", steps), label, seeds, data=data)
        exact = truth.log_posterior("linear", seen[0.75], 0.75)  # undecided there
        ours = CLASSES.log_posterior(found.fine[steps // 4])
        errors.append(float(((ours - ours[:, :1]) - (exact - exact[:, :1])).square().mean().sqrt()))
    assert errors[1] < 0.6 * errors[0]
    assert errors[1] < 0.03


def test_one_step_is_the_ratio_of_the_kernels_densities():
    found = run(steps=8, per_class=1, data=True)
    truth, path = mixture(), get_path("linear")
    # Rebuild the same forward chain: the states depend on each trajectory's own seed alone.
    label = torch.arange(4)
    data = truth.sample_given(label, torch.Generator().manual_seed(9))
    generators = [torch.Generator().manual_seed(trajectory_seed(0, i)) for i in range(4)]
    times = get_schedule("uniform", 8)[:-1]
    states = {}
    for i in range(7, -1, -1):
        fresh = torch.stack([torch.randn(8, generator=one, dtype=torch.float64) for one in generators])
        if i == 7:
            states[i] = path.alpha(times[i]) * data + path.sigma(times[i]) * fresh
        else:
            ratio = path.alpha(times[i]) / path.alpha(times[i + 1])
            left = path.sigma(times[i]) ** 2 - ratio**2 * path.sigma(times[i + 1]) ** 2
            states[i] = ratio * states[i + 1] + left.sqrt() * fresh
    total = torch.zeros(4, 4, dtype=torch.float64)
    for i in range(7):
        kernel = posterior_kernel(path, times[i], times[i + 1])
        means = kernel.of_x * states[i][:, None] + kernel.of_x0 * truth.component_predict(
            path, "x0", states[i], times[i]
        )
        total = total - (states[i + 1][:, None] - means).square().sum(-1) / (2 * kernel.variance)
        ours = found.fine[i + 1] - found.fine[i + 1][:, :1]
        torch.testing.assert_close(ours, total - total[:, :1], rtol=1e-8, atol=1e-8)


def test_the_coarse_reading_holds_predictions_over_two_steps():
    found, half = run(steps=16, per_class=2, data=False), 8
    assert not torch.allclose(found.fine[-2], found.coarse[-2])
    torch.testing.assert_close(found.fine[1], found.coarse[1])
    assert found.fine.shape == (16, half, 4)


def test_a_network_in_any_target_gives_one_answer():
    answers = [run("vp", target, steps=16, per_class=2) for target in ("eps", "x0", "v", "u")]
    for other in answers[1:]:
        torch.testing.assert_close(other.fine, answers[0].fine, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(other.gap, answers[0].gap, rtol=1e-6, atol=1e-8)


def test_batches_do_not_change_a_trajectory():
    truth = mixture()
    whole = run(steps=8, per_class=2)
    label = torch.arange(4).repeat_interleave(2)
    parts = [
        follow(
            mixture_model(truth, "linear", "u", batch_rows=3),
            CLASSES,
            get_schedule("uniform", 8),
            label[rows],
            [trajectory_seed(0, index) for index in range(8)[rows]],
        )
        for rows in (slice(0, 3), slice(3, 8))
    ]
    torch.testing.assert_close(Trajectories.join(parts).fine, whole.fine, rtol=1e-9, atol=1e-9)


def test_guided_chains_give_a_cross_entropy_that_falls_earlier_and_both_estimators_agree():
    plain = curves(run(per_class=60), CLASSES, get_path("linear"), resamples=100)
    guided = curves(run(per_class=60, guidance=Guidance(3.0)), CLASSES, get_path("linear"), guided=True, resamples=100)
    late = curves(
        run(per_class=60, guidance=Guidance(3.0, (0.0, 0.4))), CLASSES, get_path("linear"), guided=True, resamples=100
    )
    chain, rate = guided[0], guided[1]
    assert {curve.quantity for curve in guided} == {"cross-entropy"}
    assert {curve.quantity for curve in plain} == {"entropy"}
    assert chain.half.t > plain[0].half.t + 0.02
    assert rate.half.t == pytest.approx(chain.half.t, abs=0.02)
    # Guidance after the decision cannot move it.
    assert late[0].half.t == pytest.approx(plain[0].half.t, abs=0.03)


def test_partition_posteriors_add_up():
    log_likelihood = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    joint = CLASSES.log_posterior(log_likelihood).exp()
    grouped = CLASSES.log_posterior(log_likelihood, "pairs").exp()
    torch.testing.assert_close(grouped, torch.stack([joint[..., 0] + joint[..., 2], joint[..., 1] + joint[..., 3]], -1))
    assert CLASSES.prior_entropy("pairs") == pytest.approx(-(0.65 * math.log(0.65) + 0.35 * math.log(0.35)))
    assert float(entropy_of(torch.tensor([0.0, -math.inf], dtype=torch.float64))) == 0


def test_resamples_weight_by_prior_and_stay_within_classes():
    label = torch.arange(4).repeat_interleave(5).numpy()
    draw = Resamples(label, PRIOR, 50, seed=0)
    values = label[None].astype(float)
    wanted = 0.3 + 0.3 + 0.15
    assert draw(values).ravel() == pytest.approx([wanted] * 51)


@pytest.mark.parametrize("per_class", [2, 6, 16])
def test_resamples_spread_as_the_stratified_mean_does(per_class):
    """Whatever the number of trajectories: with few, drawing as many as there are would make intervals too narrow."""
    label = torch.arange(4).repeat_interleave(per_class).numpy()
    values = torch.randn(1, len(label), generator=torch.Generator().manual_seed(3), dtype=torch.float64).numpy()
    wanted = sum(
        share**2 * values[0, label == z].var(ddof=1) / per_class for z, share in enumerate(PRIOR)
    )  # of a stratified mean
    assert Resamples(label, PRIOR, 40_000, seed=1)(values)[1:].var() == pytest.approx(wanted, rel=0.03)


def test_curve_files_round_trip_and_bad_ones_are_refused(tmp_path):
    curve = curves(run(steps=8, per_class=2), CLASSES, get_path("linear"), resamples=100, meta={"model": "x"})[0]
    curve.save(tmp_path / "curve.json")
    assert load_curve(tmp_path / "curve.json") == curve
    assert curve.log_snr[0] is None  # SNR 0 at t = 1 of this path
    values = curve.to_json()
    for change, words in (
        ({"format": "other"}, "not a measured signature"),
        ({"extra": 1}, "missing or unknown fields: extra"),
        ({"t": values["t"][:-1]}, "different lengths"),
        ({"t": values["t"][::-1]}, "do not fall"),
        ({"t": None}, "finite numbers in 't'"),
        ({"entropy": ["x"] * len(values["t"])}, "finite numbers in 'entropy'"),
        ({"prior_entropy": "much"}, "finite numbers in 'prior_entropy'"),
        ({"half": None}, "half time without its fields"),
        ({"half": {"t": 0.5}}, "half time without its fields"),
    ):
        with pytest.raises(UserError, match=words):
            SignatureCurve.from_json(values | change)


def test_crossing_interpolates():
    import numpy as np

    t, entropy = np.array([1.0, 0.6, 0.2]), np.array([1.0, 0.8, 0.0])
    assert crossing(t, entropy, 0.4) == pytest.approx(0.4)
    assert crossing(t, entropy, -1.0) is None


@pytest.mark.parametrize(
    ("names", "prior", "partitions", "words"),
    [
        (["a"], [1.0], {}, "at least 2 classes"),
        (["a", "a"], [0.5, 0.5], {}, "came more than once"),
        (["a", "b"], [0.5, 0.4], {}, "sum to 0.9 and not to 1"),
        (["a", "b"], [1.0, 0.0], {}, "above 0"),
        (["a", "b"], [1.0], {}, "one number for each"),
        (["a", "b"], [0.5, 0.5], {"p": {"x": ["a", "b"], "y": []}}, "empty group 'y'"),
        (["a", "b"], [0.5, 0.5], {"p": {"x": ["a", "b"]}}, "at least 2"),
        (["a", "b"], [0.5, 0.5], {"p": {"x": ["a"], "y": ["c"]}}, "none of the 2 classes"),
        (["a", "b", "c"], [0.5, 0.25, 0.25], {"p": {"x": ["a"], "y": ["b"]}}, "leaves out 1"),
        (["a", "b"], [0.5, 0.5], {"p": {"x": ["a", "b"], "y": ["b"]}}, "in two groups"),
    ],
)
def test_bad_classes(names, prior, partitions, words):
    with pytest.raises(UserError, match=words):
        ClassSet(tuple(names), tuple(prior), partitions)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"eta": 0.0}, "deterministic sampler"),
        ({"eta": 0.5}, "only with eta 1"),
        ({"times": get_schedule("uniform", 4)}, "at least 8"),
        ({"data": torch.zeros(2, 8), "guidance": Guidance(2.0)}, "leave one of them out"),
    ],
)
def test_bad_chains(change, words):
    options = {"times": get_schedule("uniform", 8)} | change
    times = options.pop("times")
    with pytest.raises(UserError, match=words):
        follow(mixture_model(mixture(), "linear", "u"), CLASSES, times, torch.tensor([0, 1]), [0, 1], **options)


def test_eps_at_pure_noise_and_a_missing_class_are_refused():
    with pytest.raises(UserError, match="undefined at t = 1"):
        run("linear", "eps", steps=8, per_class=1)
    with pytest.raises(UserError, match="class 1 has 0 trajectories"):
        Resamples(torch.zeros(3).numpy(), uniform_prior(2), 10, 0)
