"""The toy's training, measures and cells: against training alone, closed forms and networks of known error."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from eisbach.backbones.mlp import MLPEnsemble, TimeMLP, load_mlp
from eisbach.config import build_config
from eisbach.diagnostics.bayes_floor import bayes_floor
from eisbach.diagnostics.mixture import corners
from eisbach.diffusion.paths import get_path
from eisbach.diffusion.targets import TARGETS, add_noise, make_target
from eisbach.errors import ConfigError, EisbachError, UserError
from eisbach.studies.erd_toy.config import ToyConfig, ToyNetwork, arm_weight, same_weights
from eisbach.studies.erd_toy.run import Cell, all_cells, gather, load_cell, request, run_cell, run_toy
from eisbach.studies.erd_toy.train import (
    Member,
    draw_points,
    excess,
    generate,
    likelihood_gap,
    midpoints,
    new_network,
    quality,
    train_members,
)

MIXTURE = corners()
SMALL = build_config(ToyNetwork, {"width": 12, "depth": 2, "embedding": 8})


def tiny(**changes: Any) -> ToyConfig:
    values: dict[str, Any] = {
        "network": {"width": 8, "depth": 2, "embedding": 4},
        "paths": ["linear"],
        "targets": ["eps", "u"],
        "figures": {"steps": 3, "batch": 8, "bins": [0, 0.5, 1], "levels": 4, "samples": 8, "ntk_samples": 8,
                    "ntk_levels": 3, "joint_samples": 3},
        "comparison": {"seeds": 2, "steps": 3, "batch": 8, "levels": 5, "samples": 8, "generated": 16,
        "sampling_steps": 3},
    }  # fmt: skip
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    return build_config(ToyConfig, values)


def train_alone(path: str, member: Member, steps: int, batch: int, seed: int) -> TimeMLP:
    """One network trained by itself, in the plainest way, on the draws that the ensemble sees."""
    network = new_network(SMALL, seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=SMALL.learning_rate)
    generator = torch.Generator().manual_seed(2 * seed + 1)
    t = torch.rand(steps * batch, generator=generator, dtype=torch.float64)
    x0 = MIXTURE.sample(steps * batch, generator)[0].float()
    noise = torch.randn(steps * batch, 2, generator=generator)
    for step in range(steps):
        rows = slice(step * batch, (step + 1) * batch)
        level = t[rows].float()
        error = network(add_noise(path, x0[rows], noise[rows], level), level)
        error = error - make_target(path, member.target, x0[rows], noise[rows], level)
        loss = (member.weight(t[rows]).float() * error.square().mean(dim=1)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return network


def test_an_ensemble_trains_as_its_members_would_alone() -> None:
    members = [Member(y, arm_weight(a, "gvp", y)) for y, a in (("eps", "erd"), ("v", "constant"), ("x0", "min_snr"))]
    ensemble = train_members(MIXTURE, "gvp", members, SMALL, steps=30, batch=16, seed=4)
    for i, member in enumerate(members):
        alone = train_alone("gvp", member, 30, 16, 4)
        for key, value in alone.state_dict().items():
            torch.testing.assert_close(ensemble.member_state(i)[key], value, rtol=1e-3, atol=2e-5)
        start = new_network(SMALL, 4).state_dict()
        assert not torch.allclose(start["layers.0.weight"], alone.layers[0].weight.detach(), atol=1e-3)


def test_an_ensemble_answers_as_its_members() -> None:
    networks = [new_network(SMALL, seed) for seed in range(3)]
    ensemble = MLPEnsemble(networks)
    generator = torch.Generator().manual_seed(0)
    x, t = torch.randn(5, 2, generator=generator), torch.rand(5, generator=generator)
    own = torch.randn(3, 5, 2, generator=generator)
    for i, network in enumerate(networks):
        torch.testing.assert_close(ensemble(x, t)[i], network(x, t))
        torch.testing.assert_close(ensemble(own, t)[i], network(own[i], t))
        torch.testing.assert_close(ensemble.member(i)(x, t), network(x, t))
        loaded = load_mlp(ensemble.member_state(i), "a file", embedding=8)
        torch.testing.assert_close(loaded(x, t), network(x, t))


def test_the_papers_network_has_the_papers_shape() -> None:
    network = TimeMLP()
    assert [tuple(layer.weight.shape) for layer in network.layers] == [(256, 66), (256, 256), (256, 256), (2, 256)]
    with pytest.raises(UserError, match="even number"):
        TimeMLP(embedding=7)
    with pytest.raises(UserError, match="share one shape"):
        MLPEnsemble([TimeMLP(width=4), TimeMLP(width=5)])


@pytest.mark.parametrize("arm", ["constant", "min_snr", "p2", "erd", "erd_corrected"])
@pytest.mark.parametrize("path", ["linear", "vp", "gvp"])
@pytest.mark.parametrize("target", TARGETS)
def test_every_arm_has_mean_one_over_t(arm: str, path: str, target: str) -> None:
    t = torch.rand(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weight = arm_weight(arm, path, target)(t)
    assert float(weight.mean()) == pytest.approx(1, abs=0.02)
    assert bool((weight >= 0).all())


def test_weights_that_coincide_are_found() -> None:
    arms = ["constant", "min_snr", "erd"]
    assert same_weights(arms, "vp", "u") == {"constant": "constant", "min_snr": "min_snr", "erd": "constant"}
    assert same_weights(arms, "linear", "u")["erd"] == "erd"


class Known(nn.Module):
    """The Bayes predictor plus a constant error: everything about it is known."""

    def __init__(self, path: str, targets: list[str], error: float) -> None:
        super().__init__()
        self.path, self.targets, self.error = path, targets, error
        self.size, self.dim = len(targets), 2

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        own = x_t if x_t.dim() == 3 else x_t.expand(self.size, -1, -1)
        return torch.stack(
            [MIXTURE.bayes_predict(self.path, y, x, t) + self.error for y, x in zip(self.targets, own, strict=True)]
        ).float()


@pytest.mark.parametrize("path", ["linear", "vp", "gvp"])
def test_measures_of_a_network_with_a_known_error(path: str) -> None:
    targets = list(TARGETS)
    network = Known(path, targets, 0.1)
    points = draw_points(MIXTURE, path, midpoints(6), 16, 0)
    torch.testing.assert_close(
        excess(network, points, MIXTURE, targets), torch.full((4, 6), 0.01, dtype=torch.float64), rtol=1e-3, atol=1e-6
    )
    # An error of 0.1 in eps, both coordinates, over 4 nats of log-SNR: 1/2 * 4 * 2 * 0.01; in x0 it is SNR times that.
    log_snr = midpoints(40, -2.0, 2.0)
    even = draw_points(MIXTURE, path, get_path(path).t_from_log_snr(log_snr), 16, 0)
    gap = likelihood_gap(network, even, MIXTURE, targets, 4.0)
    assert float(gap[targets.index("eps")]) == pytest.approx(0.04, rel=1e-3)
    assert float(gap[targets.index("x0")]) == pytest.approx(0.01 * (math.exp(2) - math.exp(-2)), rel=2e-3)


@pytest.mark.parametrize("path", ["linear", "vp", "gvp"])
@pytest.mark.whole
def test_the_bayes_predictor_generates_the_data(path: str) -> None:
    targets = list(TARGETS)
    samples = generate(Known(path, targets, 0.0), path, targets, 256, 40, 1)
    torch.testing.assert_close(samples[0], samples[2], rtol=1e-3, atol=1e-2)  # one ODE whatever is predicted
    good = quality(samples, MIXTURE)
    assert float(good.sliced_wasserstein.max()) < 0.1
    assert float(good.coverage_error.max()) < 0.01
    assert float(good.outliers.max()) < 0.02


def test_quality_sees_what_is_wrong() -> None:
    data, component = MIXTURE.sample(4000, torch.Generator().manual_seed(2))
    missing = data[component != 0][:2000]
    moved = data[:2000] + 0.5
    broken = data[:2000].clone()
    broken[:500] = float("nan")
    found = quality(torch.stack([data[:2000], missing, moved, broken]), MIXTURE)
    assert float(found.sliced_wasserstein[0]) < 0.1
    assert float(found.coverage_error[1]) == pytest.approx(0.25, abs=0.03)
    # A shift by (0.5, 0.5) moves the projection on an angle by 0.5 |cos + sin|, of mean sqrt(2) 2/pi 0.5 = 0.45.
    assert float(found.sliced_wasserstein[2]) == pytest.approx(0.45, abs=0.06)
    assert float(found.outliers[3]) == pytest.approx(0.25, abs=0.01)
    assert float(found.sliced_wasserstein[3]) > 1


@pytest.mark.whole
def test_cells_hold_what_the_figures_need_and_are_not_made_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny()
    run = run_toy(config, tmp_path, quiet=True)
    assert {cell.kind for cell in all_cells(config)} == {"global", "piecewise", "comparison"}
    assert len(run.rows) == 2 * 2 * 5
    arrays = run.figures["linear"]
    assert arrays["global/excess"].shape == (2, 4)
    assert torch.equal(arrays["piecewise/t"], arrays["global/t"])
    torch.testing.assert_close(arrays["global/loss"] - arrays["global/floor"], arrays["global/excess"])
    level = float(arrays["global/t"][1])
    assert float(arrays["global/floor"][1, 1]) == pytest.approx(bayes_floor(MIXTURE, "linear", "u", level).value / 2)
    assert arrays["ntk/top"].shape == (2, 3, 3)
    assert arrays["ntk/joint"].shape == (2, 3, 3)
    torch.testing.assert_close(arrays["ntk/joint"].diagonal(dim1=1, dim2=2), torch.ones(2, 3).double())
    assert set(run.curves) == {("linear", y, a) for y in ("eps", "u") for a in config.comparison.arms}
    mean = run.curves["linear", "u", "erd"].mean(dim=1)
    rows = [row["excess"] for row in run.rows if (row["target"], row["arm"]) == ("u", "erd")]
    assert mean.tolist() == pytest.approx(rows)

    def never(*_: object) -> None:
        raise AssertionError("a finished cell was made again")

    monkeypatch.setattr("eisbach.studies.erd_toy.run.run_cell", never)
    assert run_toy(config, tmp_path, quiet=True).rows == run.rows
    gone = all_cells(config)[0]
    (tmp_path / "cells" / f"{gone.name}.safetensors").unlink()
    assert load_cell(tmp_path / "cells", gone, config) is None
    with pytest.raises(EisbachError, match=f"{gone.name} .* is missing"):
        gather(config, tmp_path)


def test_a_folder_takes_more_seeds_and_refuses_other_settings_by_name(tmp_path: Path) -> None:
    config = tiny(targets=["u"], comparison={"generated": 0})
    before = run_toy(config, tmp_path, quiet=True).rows
    cells = {path.name: path.read_bytes() for path in (tmp_path / "cells").iterdir()}
    for change, named in (
        ({"targets": ["eps", "u"]}, r"targets was \['u'\] and is now \['eps', 'u'\]"),
        ({"comparison": {"generated": 0, "steps": 4}}, r"comparison\.steps was \d+ and is now 4"),
    ):
        with pytest.raises(ConfigError, match=f"holds a run of the toy with other settings: {named}; set them back"):
            run_toy(tiny(**{"targets": ["u"], "comparison": {"generated": 0}, **change}), tmp_path, quiet=True)
    assert cells == {path.name: path.read_bytes() for path in (tmp_path / "cells").iterdir()}
    seeds = config.comparison.seeds + 1
    more = run_toy(tiny(targets=["u"], comparison={"generated": 0, "seeds": seeds}), tmp_path, quiet=True).rows
    assert [row for row in more if row in before] == before
    assert len(more) > len(before)


def test_more_seeds_keep_the_cells_and_other_settings_do_not() -> None:
    cell = Cell("comparison", "linear", 1)
    base = request(cell, tiny())
    assert request(cell, tiny(comparison={"seeds": 5})) == base
    assert request(cell, tiny(figures={"steps": 9})) == base
    for change in ({"comparison": {"steps": 4}}, {"network": {"width": 9}}, {"data": {"standardise": True}}):
        values = tiny().model_dump()
        for group, part in change.items():
            values[group] = {**values[group], **part}
        assert request(cell, build_config(ToyConfig, values)) != base


def test_a_cell_made_again_is_the_same(tmp_path: Path) -> None:
    config, cell = tiny(), Cell("comparison", "linear", 1)
    found = []
    for name in ("a", "b"):
        run_cell(cell, config, tmp_path / name)
        made = load_cell(tmp_path / name, cell, config)
        assert made is not None
        found.append(made)
    assert found[0][0]["rows"] == found[1][0]["rows"]
    assert torch.equal(found[0][1]["excess"], found[1][1]["excess"])


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    config = tiny(targets=["u"], comparison={"generated": 0})
    one = run_toy(config, tmp_path / "one", quiet=True)
    two = run_toy(config, tmp_path / "two", jobs=2, quiet=True)
    for a, b in zip(one.rows, two.rows, strict=True):
        assert a["excess"] == pytest.approx(b["excess"], rel=1e-4)
    with pytest.raises(UserError, match="1 or more"):
        run_toy(config, tmp_path, jobs=0)


def test_standardised_data_have_unit_variance() -> None:
    config = build_config(ToyConfig, {"data": {"standardise": True}})
    assert config.data.mixture().total_variance() == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"comparison": {"seeds": 1}}, "2 or more"),
        ({"comparison": {"arms": ["snr"]}}, "'snr' is not known"),
        ({"comparison": {"arms": ["erd", "erd"]}}, "names an arm twice"),
        ({"comparison": {"arms": ["sigma_sqrt"]}, "paths": ["vp"]}, "undefined on the vp path"),
        ({"comparison": {"arms": ["tabulated"]}}, "needs options"),
        ({"comparison": {"arms": ["edm2"]}}, "learns its weight"),
        ({"paths": ["spiral"]}, "'spiral' is not a path"),
        ({"targets": ["score"]}, "'score' is not a target"),
        ({"targets": []}, "at least one"),
        ({"figures": {"bins": [0.2, 1.0]}}, "rise from 0 to 1"),
        ({"data": {"deviation": 0.0}}, "greater than 0"),
        ({"stepps": 3}, "unknown key 'stepps'"),
    ],
)
def test_impossible_settings_are_refused_before_any_training(values: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_config(ToyConfig, values)
