"""What a run writes down: one row of metrics.jsonl a logged step, and one of sample_log.jsonl a sample."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from eisbach.adapters.sample_gradients import SampleGradients
from eisbach.errors import StorageError
from eisbach.files import read_journal, write_jsonl
from eisbach.training.step import NOISE_LEVEL_BINS, StepOutput, sums_by_noise_level
from eisbach.weighting.clips import ClipMemory, of_all_processes
from eisbach.weighting.losses import COUNT, SUM, SUM_OF_SQUARES

_SUMS = ("samples", "steps", "loss", "weighted", "grad_norm", "weight", "weight_squared", "belief", "beliefs")
_SAMPLES, _STEPS, _LOSS, _WEIGHTED, _BELIEF = map(_SUMS.index, ("samples", "steps", "loss", "weighted", "belief"))


class Window:
    """Sums over the steps since the last logged one, kept on the device so that no step waits for the host.

    `tensors` and `load` make it part of a checkpoint: a row that spans a resumption equals the uninterrupted one.
    """

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(len(_SUMS), device=device)
        self.levels = torch.zeros(2, NOISE_LEVEL_BINS, device=device)

    def add_micro_batch(self, output: StepOutput) -> None:
        """Adds the samples of one micro-batch."""
        terms = output.partial.terms
        known = ~terms.belief.isnan()
        belief = torch.where(known, terms.belief, 0.0)
        loss, *beliefs = torch.stack([terms.per_sample, belief, known.to(belief.dtype)]).sum(dim=1).split([1, 2])
        self.sums[_SAMPLES] += len(terms.per_sample)
        self.sums[_LOSS : _LOSS + 1] += loss
        self.sums[_BELIEF : _BELIEF + 2] += beliefs[0]
        self.levels += sums_by_noise_level(terms.per_sample, output.t)

    def add_step(
        self,
        weighted_loss: torch.Tensor,
        grad_norm: torch.Tensor,
        stats: torch.Tensor,
        factor: torch.Tensor,
        world: int,
    ) -> None:
        """Adds what exists once a step, of the global batch.

        Parameters
        ----------
        weighted_loss : torch.Tensor [shape=()]
        grad_norm : torch.Tensor [shape=()]
            Before clipping.
        stats : torch.Tensor [shape=(4,)]
            `PartialLoss.stats` summed over micro-batches and processes.
        factor : torch.Tensor [shape=()]
            `Weighting.gradient_factor` of them: with it, and times the samples, a weight is what multiplied its
            sample's loss.
        world : int
            Processes: each adds its share of what all of them know, as each counts its own samples.
        """
        scale = (factor * stats[COUNT]).to(self.sums.dtype)
        weight, squared = stats[SUM].to(self.sums.dtype), stats[SUM_OF_SQUARES].to(self.sums.dtype)
        values = [weighted_loss, grad_norm, scale * weight / world, scale.square() * squared / world]
        self.sums[_STEPS] += 1
        self.sums[_WEIGHTED : _WEIGHTED + len(values)] += torch.stack([v.to(self.sums.dtype) for v in values])

    def means(self, sums: torch.Tensor, levels: torch.Tensor) -> dict[str, Any]:
        """The row for sums that may have been added over processes (weighted loss and norm are per step, not per
        process)."""
        total = dict(zip(_SUMS, sums.tolist(), strict=True))
        samples, steps = max(total["samples"], 1.0), max(total["steps"], 1.0)
        weight = total["weight"] / samples
        spread = max(0.0, total["weight_squared"] / samples - weight**2)
        sized = total["weight_squared"] > 0
        by_level = {
            f"{index / NOISE_LEVEL_BINS:.1f}": value / count if count else None
            for index, (value, count) in enumerate(zip(*levels.tolist(), strict=True))
        }
        return {
            "loss": total["loss"] / samples,
            "weighted_loss": total["weighted"] / steps,
            "grad_norm": total["grad_norm"] / steps,
            "weight_mean": weight,
            "weight_cv": math.sqrt(spread) / weight if weight else None,
            "effective_sample_share": total["weight"] ** 2 / (samples * total["weight_squared"]) if sized else None,
            "belief_mean": total["belief"] / total["beliefs"] if total["beliefs"] else None,
            "loss_by_noise_level": by_level,
        }

    def reset(self) -> None:
        """Starts the next window."""
        self.sums.zero_()
        self.levels.zero_()

    def tensors(self) -> dict[str, torch.Tensor]:
        """The state, for a checkpoint."""
        return {"window.sums": self.sums, "window.levels": self.levels}

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Continues from `tensors`."""
        self.sums.copy_(tensors["window.sums"])
        self.levels.copy_(tensors["window.levels"])


class MetricsFile:
    """metrics.jsonl, or sample_log.jsonl: rows in order of their step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rows(self) -> list[dict[str, Any]]:
        """The rows that are whole: a last line that a death cut short is left out."""
        return [row for row in read_journal(self.path, "log of the training") if isinstance(row.get("step"), int)]

    def truncate_after(self, step: int) -> None:
        """Drops the rows beyond `step`, so that resuming repeats no step."""
        if self.path.is_file():
            write_jsonl(self.path, [row for row in self.rows() if row["step"] <= step])

    def append(self, *rows: dict[str, Any]) -> None:
        """Adds rows; numbers that are not finite are written as null.

        Raises
        ------
        StorageError
            The disk is full.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(_finite(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        except OSError as error:
            raise StorageError(
                f"{self.path} could not be written ({error.strerror or error}); the last checkpoint is intact: free "
                "some space and run the same command again."
            ) from error


class SampleLog:
    """sample_log.jsonl: a row for each sample of the steps that are logged, in the order of the global batch.

    A row has step, id, t, loss (unweighted), belief and sample_weight (of the prediction itself), remembered (the
    clip's running belief after the step, with a memory), weight (what multiplied its loss, 1 for plain training) and
    gradient_norm (of its unweighted loss, before the weight). Host and device meet once in such a step.

    Parameters
    ----------
    path : Path or None
        None in processes that do not write.
    every : int
        Steps between logged steps.
    gradients : SampleGradients or None
        What measures `gradient_norm`; None leaves it out.
    """

    def __init__(self, path: Path | None, every: int, gradients: SampleGradients | None) -> None:
        self._file = None if path is None else MetricsFile(path)
        self._every, self._gradients = every, gradients
        self._noted: list[tuple[list[str], torch.Tensor]] = []

    def watching(self, step: int) -> AbstractContextManager[None]:
        """Make the forward pass of a micro-batch of `step` within it."""
        return nullcontext() if step % self._every or self._gradients is None else self._gradients.watching()

    def note(self, step: int, ids: Sequence[str], output: StepOutput) -> None:
        """Keeps what a micro-batch of `step` gave, until the step ends; call it before the backward pass."""
        if step % self._every:
            return
        terms = output.partial.terms
        columns = [output.t, terms.per_sample, terms.belief, terms.sample_weight, output.partial.weight]
        if self._gradients is not None:
            columns.append(self._gradients.norms(output.losses))
        self._noted.append((list(ids), torch.stack([column.detach().float() for column in columns])))

    def end_step(self, step: int, scale: float, memory: ClipMemory | None) -> None:
        """Writes the step's rows; `scale` times a sample's own weight is what multiplied its loss."""
        if step % self._every:
            return
        names = [
            "t",
            "loss",
            "belief",
            "sample_weight",
            "weight",
            *(["gradient_norm"] if self._gradients is not None else []),
        ]
        mine = [
            [{"step": step, "id": clip, **dict(zip(names, values, strict=True))} for clip, values in pairs]
            for pairs in (zip(ids, table.T.tolist(), strict=True) for ids, table in self._noted)
        ]
        self._noted.clear()
        rows = [row for micro in zip(*of_all_processes(mine), strict=True) for part in micro for row in part]
        for row in rows:
            row["weight"] *= scale
            if memory is not None:
                row["remembered"] = memory.belief(row["id"])
        if self._file is not None:
            self._file.append(*rows)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
