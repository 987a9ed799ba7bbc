"""The state of a run and what one step does to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from eisbach.adapters.formats import peft as peft_format
from eisbach.adapters.quantised import is_quantised
from eisbach.adapters.sample_gradients import SampleGradients
from eisbach.progress import Ahead
from eisbach.tensor_files import copy_named, read_tensors
from eisbach.training.checkpoint import AVERAGE, Checkpoint, CheckpointWriter, to_host
from eisbach.training.config import TrainConfig
from eisbach.training.data import ConditioningCache, TrainingData
from eisbach.training.devices import compile_blocks, compile_mode
from eisbach.training.logging import SampleLog, Window
from eisbach.training.noising import step_generator
from eisbach.training.optimisation import (
    FiniteGuard,
    WeightAverage,
    build_optimiser,
    learning_rate_factor,
    load_optimiser,
    optimiser_tensors,
    set_rate,
    take_optimiser_step,
)
from eisbach.training.run_folder import STAMP_FORMAT, RunFolder, check_origin
from eisbach.training.step import Drawn, HeldOut, Objective, draw, micro_step, predict_batch
from eisbach.types import Conditioning, LatentBatch
from eisbach.weighting.losses import COUNT

if TYPE_CHECKING:
    from accelerate import Accelerator

    from eisbach.backbones.base import Backbone

_OPTIMISER, _MODEL = "optimizer.safetensors", "model.safetensors"
_WEIGHTING = "weighting.safetensors"
_LEARNED = "weighting."  # prefix of a learned weighting's parameters in the optimiser's state


class _Predictor(nn.Module):
    """`backbone.predict` as a module, which is what data-parallel wrappers and the compiler take hold of."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.module = backbone.module
        self._predict: Callable[..., torch.Tensor] = backbone.predict

    def forward(
        self, x_t: torch.Tensor, t: torch.Tensor, conditioning: Conditioning, inpainting: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The network's output (B, C, T); only backbones with an inpainting condition are given one (B, 1 + C, T)."""
        if inpainting is None:
            return self._predict(x_t, t, conditioning)
        return self._predict(x_t, t, conditioning, inpainting)


@dataclass
class Trainer:
    """Everything that changes during training.

    Attributes
    ----------
    parameters : the trained parameters by name, fp32.
    adapter : peft's configuration, or None when every parameter trains.
    origin : what checkpoints are stamped with and compared to: base identity, recipe and manifest hashes.
    kept : steps whose checkpoints stay, beside those of the recipe.
    """

    config: TrainConfig
    accelerator: Accelerator
    backbone: Backbone
    objective: Objective
    data: TrainingData
    parameters: dict[str, nn.Parameter]
    adapter: Any
    origin: dict[str, Any]
    step: int = 0
    kept: set[int] = field(default_factory=set)
    random_layers: bool = field(init=False)

    def __post_init__(self) -> None:
        self.device: torch.device = self.accelerator.device
        self.backbone.module.to(self.device).train()
        self.random_layers = any(
            isinstance(layer, nn.Dropout) and layer.p > 0 for layer in self.backbone.module.modules()
        )
        self.conditioning = ConditioningCache(self.backbone, self.device)
        predictor: nn.Module = _Predictor(self.backbone)
        if self.accelerator.num_processes > 1:
            self.accelerator.ddp_handler.find_unused_parameters = self._may_leave_parameters_unused()
            # Every process has quantised the same file, and such tensors cannot be sent.
            predictor._ddp_params_and_buffers_to_ignore = [  # type: ignore[assignment]
                name for name, parameter in predictor.named_parameters() if is_quantised(parameter)
            ]
        self.compiled = compile_mode(self.config, self.device)
        if self.compiled == "whole":
            predictor.compile()
        elif self.compiled != "off":
            options = {"mode": "reduce-overhead"} if self.compiled == "graphs" else {}
            compile_blocks(self.backbone.module, required=self.config.compile != "auto", **options)
        self.predictor = self.accelerator.prepare_model(predictor)
        weighting = self.objective.weighting.to(self.device)
        self.learned = {f"{_LEARNED}{name}": value for name, value in weighting.trainable_parameters().items()}
        self.optimiser = build_optimiser(self.parameters, self.config.optimiser, self.learned)
        self.average = WeightAverage(self.parameters, self.config.ema_decay) if self.config.ema_decay else None
        self.window = Window(self.device)
        chosen = self.config.log_samples
        log = RunFolder(Path(self.config.out)).sample_log if self.accelerator.is_main_process else None
        gradients = None
        if chosen is not None and chosen.gradient_norms:
            watch = self.compiled == "off"
            gradients = SampleGradients(self.backbone.module, self.parameters.values(), watch=watch)
        self.samples = None if chosen is None else SampleLog(log, chosen.every, gradients)
        fused = isinstance(self.optimiser, torch.optim.AdamW)  # which takes `found_inf`
        self.guard = FiniteGuard(self.device, self._gather_names, can_block=fused)
        self.writer = CheckpointWriter()
        self.ahead: Ahead[tuple[int, int], tuple[LatentBatch, Drawn]] = Ahead(self._prepare)

    def to_device(self, batch: LatentBatch) -> LatentBatch:
        """The batch with its tensors on the training device; captions and durations are read on the host."""
        mask = None if batch.mask is None else batch.mask.to(self.device, non_blocking=True)
        return replace(batch, latents=batch.latents.to(self.device, non_blocking=True), mask=mask)

    def _may_leave_parameters_unused(self) -> bool:
        """Whether a data-parallel wrapper has to look for parameters without a gradient in every step.

        An adapter's layers take part in all steps or in none, so one backward pass of every process tells. When the
        whole model trains, a part of it may wait for some batches only.
        """
        if self.adapter is None:
            return True
        batch, drawn = self._prepare((0, 0))
        batch = self.to_device(batch)
        captions = ConditioningCache(self.backbone, self.device)  # the run's own is filled in chunks of its own
        with torch.random.fork_rng(enabled=self.random_layers):
            with self.accelerator.autocast():
                predict = self.backbone.predict
                losses = predict_batch(predict, self.objective, batch, captions(batch), drawn).losses
            losses.mean().backward()
        unused = sum(parameter.grad is None for parameter in self.parameters.values())
        for parameter in self.parameters.values():
            parameter.grad = None
        everywhere = self.accelerator.reduce(torch.tensor(float(unused), device=self.device), reduction="sum")
        return bool(everywhere > 0)

    def take_step(self) -> None:
        """One update from `accumulation` micro-batches on every process.

        Raises
        ------
        NonFiniteLossError
            The loss or its gradient is not finite (on a GPU: found at the next check).
        """
        step, config = self.step, self.config
        if self.compiled == "graphs":
            torch.compiler.cudagraph_mark_step_begin()
        parts = [self._micro_batch(step, micro) for micro in range(config.accumulation)]
        stats = torch.stack([part for part, _ in parts]).sum(dim=0)
        unscaled = torch.stack([part for _, part in parts]).sum()
        world = self.accelerator.num_processes
        if world > 1:
            stats = self.accelerator.reduce(stats, reduction="sum")
            unscaled = self.accelerator.reduce(unscaled, reduction="sum")
        factor = self.objective.weighting.gradient_factor(stats).float()
        # A data-parallel wrapper has averaged the gradients over the processes, and a global batch sums them.
        grad_norm = self._scale_and_clip(factor * world)
        weighted = unscaled * factor
        self._scale_learned(factor)
        self.guard.observe(step + 1, weighted, grad_norm)
        self.window.add_step(weighted, grad_norm, stats, factor, world)
        self.objective.weighting.end_step()
        if self.samples is not None:
            self.samples.end_step(step + 1, float(factor * stats[COUNT]), self.objective.weighting.memory)
        self._update(step)
        self.step = step + 1

    def _index(self, step: int, micro: int) -> int:
        """The number of a micro-batch, counted over the whole run and all processes."""
        accelerator = self.accelerator
        return (step * self.config.accumulation + micro) * accelerator.num_processes + accelerator.process_index

    def _prepare(self, place: tuple[int, int]) -> tuple[LatentBatch, Drawn]:
        """The batch of (step, micro-batch) and what is drawn for it; in memory that a GPU reads without the host."""
        step, micro = place
        index = self._index(step, micro)
        batch = self.data.batch(step, index, self.config.batch_size)
        drawn = draw(self.objective, batch, step_generator(self.config.seed, index))
        if self.device.type != "cuda":
            return batch, drawn
        mask = None if batch.mask is None else batch.mask.pin_memory()
        return replace(batch, latents=batch.latents.pin_memory(), mask=mask), drawn.map(torch.Tensor.pin_memory)

    def _following(self, step: int, micro: int) -> tuple[int, int] | None:
        """The micro-batch after (step, micro); None after the last."""
        if micro + 1 < self.config.accumulation:
            return step, micro + 1
        return (step + 1, 0) if step + 1 < self.config.steps else None

    def _micro_batch(self, step: int, micro: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Adds the gradients of one micro-batch; returns its statistics and its unscaled loss, both detached."""
        config, processes = self.config, self.accelerator.num_processes
        batch, drawn = self.ahead.get((step, micro), self._following(step, micro))
        batch = self.to_device(batch)
        # Gradients are exchanged between processes once a step, with the last micro-batch.
        waits = processes > 1 and micro < config.accumulation - 1
        quiet = self.accelerator.no_sync(self.predictor) if waits else nullcontext()
        with quiet, torch.random.fork_rng(enabled=self.random_layers):
            if self.random_layers:  # dropout inside the network has no generator of its own to pass
                torch.manual_seed(step_generator(config.seed, self._index(step, micro)).initial_seed())
            with nullcontext() if self.samples is None else self.samples.watching(step + 1):
                output = micro_step(self.predictor, self.objective, batch, self.conditioning(batch), drawn)
            if self.samples is not None:
                self.samples.note(step + 1, batch.ids, output)
            self.accelerator.backward(output.partial.unscaled)
        self.guard.remember(step + 1, batch.ids, output.partial.terms.per_sample.detach())
        self.window.add_micro_batch(output)
        return output.partial.stats, output.partial.unscaled.detach()

    @torch.no_grad()
    def _scale_and_clip(self, factor: torch.Tensor) -> torch.Tensor:
        """Multiplies the gradients by `factor` and clips them; returns the norm before clipping."""
        gradients = [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients, foreach=True) * factor.abs()
        scale = factor
        if self.config.max_grad_norm is not None:
            scale = factor * (self.config.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, scale)
        return norm

    @torch.no_grad()
    def _scale_learned(self, factor: torch.Tensor) -> None:
        """The learned weighting's gradients over the global batch: no wrapper exchanges them, and no clipping applies,
        so that the network's update does not depend on how much the weighting has to learn.
        """
        for parameter in self.learned.values():
            if parameter.grad is None:
                continue
            if self.accelerator.num_processes > 1:
                parameter.grad.copy_(self.accelerator.reduce(parameter.grad, reduction="sum"))
            parameter.grad.mul_(factor)

    def learning_rate(self, step: int) -> float:
        """The rate of `step`, counted from 0."""
        return self.config.optimiser.lr * self._rate_factor(step)

    def _rate_factor(self, step: int) -> float:
        config = self.config
        return learning_rate_factor(step, config.steps, config.warmup_steps, config.schedule)

    def _update(self, step: int) -> None:
        for group in self.optimiser.param_groups:
            set_rate(group, self._rate_factor(step))
        if not self.guard.immediate:
            self.optimiser.found_inf = self.guard.blocked  # type: ignore[attr-defined]
        take_optimiser_step(self.optimiser, self.device)
        self.optimiser.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(step + 1)

    def _gather_names(self, names: list[str]) -> list[str]:
        if self.accelerator.num_processes == 1:
            return names
        from accelerate.utils import gather_object

        return list(gather_object(names))

    # Measuring --------------------------------------------------------------------------------------------------

    def window_means(self) -> dict[str, Any]:
        """Training metrics since the last reset, over all processes."""
        sums, levels = self.window.sums, self.window.levels
        if self.accelerator.num_processes > 1:
            joined = self.accelerator.reduce(torch.cat([sums, levels.flatten()]), reduction="sum")
            sums, levels = joined[: sums.numel()], joined[sums.numel() :].view_as(levels)
        return self.window.means(sums, levels)

    def evaluate(self, held_out: HeldOut) -> dict[str, Any]:
        """The held-out loss of the weights that would be shipped now."""
        module = self.backbone.module
        module.eval()
        try:
            # The bare network: a data-parallel wrapper would wait for the other processes.
            with self.averaged(), self.accelerator.autocast():
                return held_out.losses(self.backbone.predict, self.objective, self.conditioning, self.to_device)
        finally:
            module.train()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The averaged weights in the network's place, where an average is kept."""
        if self.average is None:
            yield
            return
        self.average.swap()
        try:
            yield
        finally:
            self.average.swap()

    # Checkpoints -----------------------------------------------------------------------------------------------

    def save(self, root: Path) -> None:
        """Begins to write a checkpoint of this step (main process only); `writer.wait()` returns when it is there.

        Raises
        ------
        NonFiniteLossError
            A step since the last check was not finite: nothing is written.
        StorageError
            The checkpoint before could not be written: the disk is full.
        """
        self.guard.check()
        if not self.accelerator.is_main_process:
            return
        tensors: dict[str, dict[str, torch.Tensor]] = {
            _OPTIMISER: optimiser_tensors(self.optimiser, self.parameters | self.learned) | self.window.tensors(),
            self._weights_file: self._weights(),
        }
        if self.average is not None:
            tensors[AVERAGE] = self.average.average
        if weighting := self.objective.weighting.state_dict():
            tensors[_WEIGHTING] = weighting
        texts = {} if self.adapter is None else {peft_format.CONFIG: peft_format.config_values(self.adapter)}
        chosen = self.config.checkpoint
        permanent = [*chosen.steps, *self.kept]
        state = self.origin | {"stamp_format": STAMP_FORMAT}
        self.writer.write(root, self.step, to_host(tensors), texts, state, chosen.keep, permanent)

    def close(self) -> None:
        """Ends the threads; the last checkpoint must have been waited for."""
        self.ahead.close()

    @property
    def _weights_file(self) -> str:
        return _MODEL if self.adapter is None else peft_format.WEIGHTS

    def _weights(self) -> dict[str, torch.Tensor]:
        if self.adapter is None:
            return {name: parameter.detach() for name, parameter in self.parameters.items()}
        return peft_format.adapter_tensors(self.backbone.module)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continues from a checkpoint.

        Raises
        ------
        CheckpointError
            It belongs to another model, recipe or data set; the sentence says which.
        """
        folder = checkpoint.folder
        state = checkpoint.state
        check_origin(RunFolder(folder.parent.parent), state, self.origin, state.get("stamp_format", 1))
        weights = read_tensors(folder / self._weights_file)
        if self.adapter is None:
            copy_named(self.parameters, weights, folder / self._weights_file)
        else:
            peft_format.load_into(self.backbone.module, weights, folder / self._weights_file)
        moments = read_tensors(folder / _OPTIMISER)
        window = {key: moments.pop(key).to(self.device) for key in list(moments) if key.startswith("window.")}
        self.window.load(window)
        load_optimiser(self.optimiser, self.parameters | self.learned, moments)
        if self.objective.weighting.state_dict():
            self.objective.weighting.load_state_dict(read_tensors(folder / _WEIGHTING))
        if self.average is not None:
            copy_named(self.average.average, read_tensors(folder / AVERAGE), folder / AVERAGE)
        self.step = checkpoint.step
