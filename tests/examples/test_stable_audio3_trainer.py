import re
import sys
from pathlib import Path

import own_process
import pytest
import torch
from safetensors.torch import load_file, save_file

from eisbach.errors import UserError
from eisbach.weighting import build_weighting

EXAMPLES = Path(__file__).parents[2] / "examples"
WINDOW = {"window_frames": 32}


@pytest.fixture(scope="module")
def example(load_example):
    return load_example("stable_audio3_trainer")


@pytest.fixture(scope="module")
def stand_in(load_example):
    return load_example("stable_audio3_stand_in")


def test_it_runs_as_it_stands(run_example):
    printed = run_example("stable_audio3_trainer", "--steps", "10")
    lines = re.findall(r"^step +\d+ +effective clips ([\d.]+) of 4 +mean sample weight (\d\.\d+)", printed, re.M)
    assert len(lines) == 2
    assert all(1 <= float(ess) < 4 for ess, _ in lines)
    assert "No --repo" in printed
    assert re.search(r"loss of the last step, unweighted .*: \d", printed)


def settled_draw(module, x0):
    """t, noise and context that belong to the clip, however the batch is cut."""
    drawn = []
    for clip in x0:
        own = torch.Generator().manual_seed(int(float(clip.abs().sum()) * 1e3))
        start = torch.randint(0, x0.shape[2], (1,), generator=own)
        frames = torch.arange(x0.shape[2])
        context = (frames >= start) & (frames < start + 24)
        drawn.append((torch.rand((), generator=own), torch.randn(clip.shape, generator=own), context))
    return tuple(torch.stack(parts) for parts in zip(*drawn, strict=True))


def one_step(example, stand_in, weighting, batch, accumulate, mask_loss_weight=1.0, **options):
    """The gradients that the optimiser meets in the first step, and the module."""
    base, seen = stand_in.DiffusionCondTrainingWrapper, []

    class Recorder(torch.optim.SGD):
        def step(self, closure=None):
            closure()
            seen.extend(p.grad.clone() for group in self.param_groups for p in group["params"])

    cls = example.weighted(base, weighting) if weighting is not None else base
    module = cls(stand_in.make_model(), mask_loss_weight=mask_loss_weight)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "draw", settled_draw)
        patch.setattr(base, "configure_optimizers", lambda self: [Recorder(self.diffusion.parameters(), lr=0.0)])
        stand_in.fit(module, steps=1, batch_size=batch, accumulate=accumulate, **options)
    return seen, module


def by_hand(stand_in, weighting, mask_loss_weight=1.0):
    """Gradients of one batch of 8: each clip's whole loss, context and all, times its weight."""
    model = stand_in.make_model()
    x0, metadata = stand_in.collate([stand_in.MadeUpLatents(8)[i] for i in range(8)])
    valid = torch.stack([entry["padding_mask"][0] for entry in metadata])
    t, noise, context = settled_draw(None, x0)
    x_t = x0 * (1 - t)[:, None, None] + noise * t[:, None, None]
    condition = {"inpaint_mask": [context.float()[:, None]], "inpaint_masked_input": [x0 * context[:, None]]}
    output = model(x_t, t, cond=condition, padding_mask=valid)
    error = ((output - (noise - x0)) ** 2).mean(1)
    losses = 0.0
    for share, where in ((1.0, valid & ~context), (mask_loss_weight, valid & context)):
        losses = losses + share * (error * where).sum(1) / where.sum(1).clamp(min=1)
    if weighting is None:
        return torch.autograd.grad(losses.mean(), list(model.parameters()))
    judged = valid & ~context if mask_loss_weight == 0 else valid
    w = weighting.sample(output, x_t=x_t, t=t, path="linear", target="u", mask=judged).weight
    n = torch.ones(8) if weighting.noise_level is None else torch.minimum((1 - t) ** 2, 5 * t**2)
    strength = weighting.strength
    if weighting.reduction == "batch":
        loss = (n * losses).mean() * ((1 - strength) + strength * w.mean())
    else:
        product = n * ((1 - strength) + strength * w)
        loss = (product * losses).mean()
        if weighting.normalisation == "mean1":
            loss = loss / product.mean()
    return torch.autograd.grad(loss, list(model.parameters()))


def assert_same(gradients, expected):
    scale = max(float(g.abs().max()) for g in expected)
    for got, want in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * scale)


CASES = {
    "sample": {"noise_level": "min_snr", "strength": 0.8},
    "mean1": {"noise_level": "min_snr", "normalisation": "mean1"},
    "batch": {"reduction": "batch"},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("batch", "accumulate"), [(8, 1), (4, 2), (2, 4)])
@pytest.mark.parametrize("mask_loss_weight", [1.0, 0.0])
def test_the_trainer_s_gradients_are_those_of_the_weighted_loss_written_by_hand(
    example, stand_in, case, batch, accumulate, mask_loss_weight
):
    weighting = build_weighting("development_barrier", **CASES[case], **WINDOW)
    gradients, module = one_step(example, stand_in, weighting, batch, accumulate, mask_loss_weight)
    assert_same(gradients, by_hand(stand_in, weighting, mask_loss_weight))
    plain = by_hand(stand_in, None, mask_loss_weight)
    a, b = (torch.cat([g.flatten() for g in many]) for many in (gradients, plain))
    if case == "batch":  # Eq. 5: another length, the same direction
        assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 1 - 1e-6
        assert a.norm() < 0.9 * b.norm()
    else:
        assert torch.nn.functional.cosine_similarity(a, b, dim=0) < 0.99
    assert not module.diffusion._forward_hooks  # nothing of ours is left in their model


def test_no_weighting_at_all_leaves_their_gradients_alone(example, stand_in):
    ours, _ = one_step(example, stand_in, build_weighting("none"), 4, 2)
    theirs, _ = one_step(example, stand_in, None, 4, 2)
    assert_same(ours, theirs)
    assert_same(theirs, by_hand(stand_in, None))


def test_in_mixed_precision_the_weights_act_alike(example, stand_in):
    weighting = build_weighting("development_barrier", **WINDOW)
    gradients, _ = one_step(example, stand_in, weighting, 8, 1, precision="bf16-mixed")
    a, b = (torch.cat([g.flatten() for g in many]) for many in (gradients, by_hand(stand_in, weighting)))
    assert torch.nn.functional.cosine_similarity(a, b, dim=0) > 0.995
    assert float(a.norm() / b.norm()) == pytest.approx(1, abs=0.03)


def _worker(rank: int, port: int, folder: str) -> None:
    import os

    os.environ.update(
        NODE_RANK="0", LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.set_num_threads(1)
    sys.path.insert(0, str(EXAMPLES))
    import stable_audio3_stand_in
    import stable_audio3_trainer

    weighting = build_weighting("development_barrier", **CASES["mean1"], **WINDOW)
    options = {"devices": 2, "strategy": "ddp"}
    gradients, _ = one_step(stable_audio3_trainer, stable_audio3_stand_in, weighting, 2, 2, **options)
    save_file({f"{i:03d}": gradient for i, gradient in enumerate(gradients)}, Path(folder) / f"{rank}.safetensors")


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_two_processes_with_two_micro_batches_each_are_one_batch_written_by_hand(stand_in, tmp_path, free_port):
    own_process.together(2, _worker, free_port(), str(tmp_path))
    expected = by_hand(stand_in, build_weighting("development_barrier", **CASES["mean1"], **WINDOW))
    for rank in range(2):
        gradients = load_file(tmp_path / f"{rank}.safetensors")
        assert_same([gradients[name] for name in sorted(gradients)], expected)


def broken(stand_in, how):
    """The stand-in's class, with one of the things that the example relies on missing."""
    base = stand_in.DiffusionCondTrainingWrapper

    class Broken(base):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            if how == "no objective":
                del self.diffusion_objective
            if how == "objective":
                self.diffusion_objective = "score"
            if how == "manual":
                self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            if how == "not called":
                return next(self.diffusion.parameters()).sum()
            if how == "twice":
                super().training_step(batch, batch_idx)
            loss = super().training_step(batch, batch_idx)
            if how == "other t":
                self._last_t = 1 - self._last_t
            return loss

    return Broken


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("no objective", "has no diffusion_objective; .*636f906"),
        ("objective", "objective 'score' is not one of rectified_flow.*636f906"),
        ("manual", "optimises by hand.*636f906"),
        ("not called", "called self.diffusion 0 times and not once.*636f906"),
        ("twice", "called self.diffusion 2 times and not once.*636f906"),
        ("other t", "is not the noise level t.*636f906"),
    ],
)
def test_a_trainer_with_another_interface_is_refused_loudly(example, stand_in, how, words):
    cls = example.weighted(broken(stand_in, how), build_weighting("development_barrier", **WINDOW))
    with pytest.raises(UserError, match=words):
        stand_in.fit(cls(stand_in.make_model()), steps=1)


def test_a_model_called_another_way_is_refused_loudly(example, stand_in):
    class ByName(stand_in.Model):
        def __call__(self, x, t, **kwargs):
            return super().__call__(x=x, t=t, **kwargs)

    cls = example.weighted(stand_in.DiffusionCondTrainingWrapper, build_weighting("development_barrier", **WINDOW))
    with pytest.raises(UserError, match=r"not called as \(x_t, t, ...\)"):
        stand_in.fit(cls(ByName()), steps=1)


def test_weightings_that_cannot_act_there_are_refused(example, stand_in):
    with pytest.raises(UserError, match="learned noise-level weight"):
        example.weighted(stand_in.DiffusionCondTrainingWrapper, build_weighting("none", "edm2"))
    mean1 = build_weighting("development_barrier", normalisation="mean1", **WINDOW)
    module = example.weighted(stand_in.DiffusionCondTrainingWrapper, mean1)(stand_in.make_model())
    with pytest.raises(UserError, match="one clip a step leaves every weight 1"):
        stand_in.fit(module, steps=1, batch_size=1)


SCRIPT = """
import argparse

from stable_audio3_stand_in import DiffusionCondTrainingWrapper, fit, make_model


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--updates", type=int)
    arguments = parser.parse_args()
    wrapper = DiffusionCondTrainingWrapper(make_model())
    fit(wrapper, steps=arguments.updates)
    print("their script has trained", type(wrapper).__name__)
"""


def test_their_script_runs_with_the_weighted_class_and_its_own_arguments(run_example, tmp_path):
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "train_lora.py").write_text(SCRIPT)
    arguments = ["--repo", str(tmp_path), "--sample", "recurrence_barrier", "--", "--updates", "10"]
    printed = run_example("stable_audio3_trainer", *arguments)
    assert "their script has trained WeightedDiffusionCondTrainingWrapper" in printed
    assert re.search(r"^step +10 +effective clips \d", printed, re.M)


def test_a_folder_that_is_no_checkout_is_one_sentence(example, tmp_path, monkeypatch):
    weighting = build_weighting("none")
    with pytest.raises(UserError, match="--repo takes a checkout"):
        example.run_their_script(tmp_path, [], weighting)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "train_lora.py").write_text("def train():\n    pass\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(UserError, match="has no DiffusionCondTrainingWrapper and no main"):
        example.run_their_script(tmp_path, [], weighting)
