"""Stopping at the first loss that is not finite, without making a GPU wait for the host at every step."""

from __future__ import annotations

from collections.abc import Callable

import torch

from eisbach.errors import NonFiniteLossError

_NAMED = 12


class FiniteGuard:
    """Watches the loss and the gradient norm of every step.

    On the CPU each step is checked before its update. On a GPU the first bad step is remembered on the device,
    `blocked` keeps the optimiser from applying it **or any later one**, and `check`, called wherever the host waits
    anyway and before any checkpoint is written, ends the run. Either way no update that is not finite ever reaches the
    weights, and training never survives one.
    """

    def __init__(self, device: torch.device, gather: Callable[[list[str]], list[str]] = lambda ids: ids) -> None:
        self.immediate = device.type == "cpu"
        self._bad_step = torch.full((), -1, device=device, dtype=torch.int64)
        self._recent: list[tuple[int, list[str], torch.Tensor]] = []
        self._gather = gather

    def remember(self, step: int, ids: list[str], per_sample: torch.Tensor) -> None:
        """Keeps the samples of a micro-batch until the next check, to name them."""
        self._recent.append((step, ids, per_sample))

    def observe(self, step: int, loss: torch.Tensor, grad_norm: torch.Tensor) -> None:
        """Notes whether the step (counted from 1) is finite; on the CPU a bad one ends the run here."""
        bad = ~(torch.isfinite(loss) & torch.isfinite(grad_norm))
        self._bad_step = torch.where((self._bad_step < 0) & bad, step, self._bad_step)
        if self.immediate:
            self.check()

    @property
    def blocked(self) -> torch.Tensor:
        """1.0 once a step was bad, for the fused optimiser's `found_inf`."""
        return (self._bad_step >= 0).float()

    def check(self) -> None:
        """Ends the run if a step was bad; waits for the device.

        Raises
        ------
        NonFiniteLossError
            Names the step and the samples: those whose own loss is not finite or, when all are finite and only the
            gradient is not, the whole batch.
        """
        step = int(self._bad_step)
        if step >= 0:
            batch = [(ids, losses) for at, ids, losses in self._recent if at == step]
            bad = [
                name
                for ids, losses in batch
                for name, loss in zip(ids, losses.tolist(), strict=True)
                if not _finite(loss)
            ]
            bad = self._gather(bad)
            everyone = self._gather([name for ids, _ in batch for name in ids])
            names = sorted(set(bad or everyone))
            shown = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
            what = (
                "the loss is not finite for" if bad else "the loss is finite but its gradient is not, in the batch of"
            )
            raise NonFiniteLossError(
                f"step {step}: {what} {shown}; nothing of this step was applied. Check these clips, or lower "
                "optimiser.lr, and run again."
            )
        self._recent.clear()


def _finite(value: float) -> bool:
    return value - value == 0.0
