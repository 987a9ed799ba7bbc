"""Eisbach's weighting in Stability's own trainer of Stable Audio 3, without changing a file of theirs.

    # their LoRA script, weighted; what follows -- goes to it unchanged
    python examples/stable_audio3_trainer.py --repo ~/stable-audio-3 -- --model medium-base --encoded_dir latents
    --batch_size 4

    # no repository at hand: a few steps of a small stand-in with the same interface, in seconds
    python examples/stable_audio3_trainer.py --steps 20

In a script of your own it is one line, `training_wrapper = weighted(DiffusionCondTrainingWrapper, weighting)(model,
...)`.

How it works. Their loss is a mean over clips, and each clip's loss depends on that clip's row of the output alone. So
multiplying the gradient that arrives at a row of the output by the clip's weight gives exactly the gradient of the
weighted mean, context loss and loss normalisation included. Their logged losses stay unweighted, and comparable.

What it relies on, read at stable-audio-3 0.1.0, commit 636f906 (May 2026), and checked when training starts:

- `DiffusionCondTrainingWrapper` is a LightningModule with automatic optimisation; `self.diffusion` is the model, and
  `self.diffusion_objective` is "rectified_flow" or "rf_denoiser": x_t = (1 - t) x0 + t noise, output noise - x0;
- `training_step` calls `self.diffusion(x_t, t, cond=..., padding_mask=...)` once, with `cond["inpaint_mask"]` a list of
  one tensor (B, 1, T) that is 1 on given context, and leaves t in `self._last_t`;
- `self.mask_loss_weight` is 0 where the context does not count; `scripts/train_lora.py` has `main()` and takes the
  class above from its own namespace.

stable-audio-tools (commit 50049e3) has the same class with `mask=` for `padding_mask=`, no `_last_t`, and the objective
"v" on the cosine path; `weighted` takes it too.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from eisbach import UserError, Weighting, build_weighting
from eisbach.weighting import effective_sample_size

LATENT_RATE = 44_100 / 4_096  # latent frames a second
OBJECTIVES = {"rectified_flow": ("linear", "u"), "rf_denoiser": ("linear", "u"), "v": ("gvp", "v")}
READ_AT = "examples/stable_audio3_trainer.py was written for stable-audio-3 at commit 636f906"


def weighted(training_wrapper: type, weighting: Weighting, print_every: int = 0) -> type:
    """Their training class with the weighting in it; make it and train it as you would theirs."""
    if weighting.trainable_parameters():
        raise UserError(
            "a learned noise-level weight needs the losses themselves, which this trainer keeps; choose another."
        )
    if weighting.memory is not None:
        raise UserError("a memory of clips needs their names, which this trainer's batches lack; choose another.")
    names = {"weighting": weighting, "print_every": print_every}
    return type(f"Weighted{training_wrapper.__name__}", (WeightedTraining, training_wrapper), names)


class WeightedTraining:
    """Goes before a LightningModule that calls `self.diffusion(x_t, t, ...)` once in each `training_step`."""

    weighting: Weighting
    print_every: int

    def on_fit_start(self) -> None:
        super().on_fit_start()
        missing = [name for name in ("diffusion", "diffusion_objective") if not hasattr(self, name)]
        if missing:
            raise UserError(f"{type(self).__name__} has no {' and no '.join(missing)}; {READ_AT}.")
        if self.diffusion_objective not in OBJECTIVES:
            raise UserError(
                f"the diffusion objective {self.diffusion_objective!r} is not one of {', '.join(OBJECTIVES)}; "
                f"{READ_AT}."
            )
        if not self.automatic_optimization:
            raise UserError(
                f"{type(self).__name__} optimises by hand, so its gradients cannot be finished here; {READ_AT}."
            )
        self._weighing, self._levels, self._stats, self._clips, self._updates = False, [], 0.0, 0, 0
        self._hook = self.diffusion.register_forward_hook(self._weigh, with_kwargs=True)

    def on_fit_end(self) -> None:
        self._hook.remove()
        super().on_fit_end()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self._weighing, self._levels = True, []
        try:
            loss = super().training_step(batch, batch_idx)
        finally:
            self._weighing = False
        if len(self._levels) != 1:
            raise UserError(f"training_step called self.diffusion {len(self._levels)} times and not once; {READ_AT}.")
        theirs = getattr(self, "_last_t", None)
        if self._updates == 0 and theirs is not None and not torch.equal(theirs, self._levels[0]):
            raise UserError(f"the second argument of self.diffusion is not the noise level t; {READ_AT}.")
        return loss

    def _weigh(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if not (self._weighing and torch.is_grad_enabled()):  # demos and validation
            return
        if len(args) != 2 or not isinstance(output, Tensor) or output.shape != getattr(args[0], "shape", None):
            raise UserError(
                f"self.diffusion was not called as (x_t, t, ...), or its output is no such tensor; {READ_AT}."
            )
        (x_t, t), mask = args, self._mask(kwargs)
        path, target = OBJECTIVES[self.diffusion_objective]
        # `unscaled` is linear in the losses, so its derivative by them is each clip's weight before any division.
        losses = torch.ones(len(output), device=output.device, requires_grad=True)
        part = self.weighting.partial(losses, output, x_t=x_t, t=t, path=path, target=target, mask=mask)
        (weight,) = torch.autograd.grad(part.unscaled, losses)
        scale = (weight * len(output))[:, None, None]  # their mean over the micro-batch divides by its size: undone
        output.register_hook(lambda gradient: (gradient * scale).to(gradient.dtype))
        self._levels.append(t.detach())
        self._stats, self._clips, self._terms = self._stats + part.stats, self._clips + len(output), part.terms

    def _mask(self, kwargs: dict[str, Any]) -> Tensor | None:
        """True on the frames whose prediction is trained, (B, T)."""
        mask = kwargs.get("padding_mask", kwargs.get("mask"))
        context = (kwargs.get("cond") or {}).get("inpaint_mask")
        if context is not None and getattr(self, "mask_loss_weight", 1.0) == 0:
            generated = context[0][:, 0] < 0.5
            mask = generated if mask is None else mask.bool() & generated
        return mask

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        stats = self.trainer.strategy.reduce(self._stats, reduce_op="sum")  # over the processes
        clips = self._clips * self.trainer.world_size
        if clips == 1 and self.weighting.normalisation == "mean1":
            raise UserError(
                "normalisation 'mean1' with one clip a step leaves every weight 1; use 'none', or larger batches."
            )
        divided = self.trainer.accumulate_grad_batches * self.trainer.world_size
        factor = self.weighting.gradient_factor(stats, already_divided_by=divided)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad *= factor
        self._updates += 1
        if self.print_every and self._updates % self.print_every == 0 and self.trainer.is_global_zero:
            print(
                f"step {self._updates:4d}  effective clips {effective_sample_size(stats):.1f} of {clips}  "
                f"mean sample weight {float(stats[3]) / clips:.3f}  t {self._levels[0].mean():.2f}  "
                f"belief {self._terms.belief.nanmean():.3f}"
            )
        self._stats, self._clips = 0.0, 0


def run_their_script(repo: Path, arguments: list[str], weighting: Weighting) -> None:
    """`scripts/train_lora.py` of a checkout, with the weighted class in place of theirs and `arguments` as its own."""
    file = repo / "scripts" / "train_lora.py"
    if not file.is_file():
        raise UserError(f"there is no {file}; --repo takes a checkout of stable-audio-3.")
    sys.path.insert(0, str(repo))
    script = _load(file)
    missing = [name for name in ("DiffusionCondTrainingWrapper", "main") if not hasattr(script, name)]
    if missing:
        raise UserError(f"{file} has no {' and no '.join(missing)}; {READ_AT}.")
    script.DiffusionCondTrainingWrapper = weighted(script.DiffusionCondTrainingWrapper, weighting, print_every=10)
    sys.argv = [str(file), *arguments]
    script.main()


def _load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", type=Path, help="checkout of stable-audio-3; without it a small stand-in is trained")
    parser.add_argument("--steps", type=int, default=20, help="steps of the stand-in")
    parser.add_argument("--sample", default="recommended", help="sample weighting, or none")
    parser.add_argument("--noise-level", default="none", help="noise-level weighting, or none")
    parser.add_argument("--strength", type=float, default=1.0, help="how much of the sample weighting to use, 0 to 1")
    ours, theirs = sys.argv[1:], []
    if "--" in ours:
        ours, theirs = ours[: ours.index("--")], ours[ours.index("--") + 1 :]
    arguments = parser.parse_args(ours)
    weighting = build_weighting(
        arguments.sample, arguments.noise_level, strength=arguments.strength, latent_rate=LATENT_RATE
    )
    if arguments.repo is not None:
        run_their_script(arguments.repo, theirs, weighting)
        return
    stand_in = _load(Path(__file__).with_name("stable_audio3_stand_in.py"))
    print("No --repo: training the stand-in of examples/stable_audio3_stand_in.py.")
    module = weighted(stand_in.DiffusionCondTrainingWrapper, weighting, print_every=5)(stand_in.make_model())
    stand_in.fit(module, steps=arguments.steps)
    print(f"loss of the last step, unweighted as their trainer logs it: {module.losses[-1]:.4f}")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
