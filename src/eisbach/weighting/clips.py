"""Weights of clips by their id: remembered beliefs, and weights that a person gave. Both move effort between clips and
never between noise levels: at each noise level they average 1 over the clips.

Structure is decided high in the noise, where no prediction shows whether a clip has any; it shows at low noise, where a
clip without structure teaches timbre as well as any. So a clip's belief is remembered where it can be read, and used
where structure is decided.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, TypeVar

import torch
from torch import Tensor

from eisbach.diffusion.paths import Path, get_path
from eisbach.diffusion.rate_curve import level_decided
from eisbach.errors import CheckpointError, UserError
from eisbach.weighting.sample.base import SampleBarrier, at_least_float32

MEMORY_PREFIX = "memory."
_IDS, _SUMS, _COUNTS = (f"{MEMORY_PREFIX}{name}" for name in ("ids", "belief_sums", "counts"))
Gathered = TypeVar("Gathered")


@dataclass
class ClipMemory:
    """A running belief of each clip, and the weight that a sample weighting gives it.

    A belief is read where t < `below`. With b_1 … b_n the readings of a clip, oldest first::

        belief = sum(decay^(n - i) b_i) / sum(decay^(n - i))
        weight = w(belief) / mean over clips that were read of w(belief)

    where w is the sample weighting's own map from belief to weight. A clip that was never read has weight 1.

    Attributes
    ----------
    below : float in (0, 1]
        Noise level under which beliefs are read.
    decay : float in [0, 1], default 0.9
        How much each older reading counts less; 1 is the mean of all, 0 the newest alone.

    Raises
    ------
    UserError
        A number out of range.
    """

    below: float
    decay: float = 0.9
    _sums: dict[str, float] = field(default_factory=dict, repr=False)
    _counts: dict[str, float] = field(default_factory=dict, repr=False)
    _notes: list[tuple[list[str], Tensor, Tensor]] = field(default_factory=list, repr=False)
    _weights: dict[str, float] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name, value, low in (("below", self.below, False), ("decay", self.decay, True)):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and (0 <= value <= 1 if low else 0 < value <= 1)):
                raise UserError(f"a memory's {name} must lie in {'[' if low else '('}0, 1]; got {value!r}.")

    def __len__(self) -> int:
        return len(self._sums)

    def belief(self, clip: str) -> float | None:
        """The running belief of a clip in [0, 1]; None where it was never read."""
        return self._sums[clip] / self._counts[clip] if clip in self._sums else None

    def weights(self, ids: Sequence[str], barrier: SampleBarrier, like: Tensor) -> Tensor:
        """The weight of each clip [shape=(B,)] as remembered up to the last `update`, in `like`'s type and device."""
        if self._weights is None:
            known = sorted(self._sums)  # one order in every process and after every resumption
            beliefs = torch.tensor([self._sums[clip] / self._counts[clip] for clip in known], dtype=torch.float64)
            weights = barrier.weight_of(beliefs) if known else beliefs
            mean = weights.mean()
            self._weights = dict(zip(known, (weights / mean).tolist(), strict=True))
        chosen = [self._weights.get(clip, 1.0) for clip in ids]
        return torch.tensor(chosen, dtype=like.dtype).to(like.device, non_blocking=True)

    def note(self, ids: Sequence[str], belief: Tensor, t: Tensor) -> None:
        """Keeps the beliefs of a micro-batch, both (B,), until `update`; nothing waits for the device."""
        self._notes.append((list(ids), belief.detach(), t.detach()))

    def update(self) -> None:
        """Takes in what the micro-batches of a step have noted, on every process the same; waits for the device.

        Micro-batch i of all processes comes before micro-batch i + 1 of any, as one process with more accumulation
        meets them; a process may have fewer of them than another.
        """
        mine = [self._readable(*noted) for noted in self._notes]
        self._notes.clear()
        for parts in zip_longest(*of_all_processes(mine), fillvalue=([], [])):
            for ids, beliefs in parts:
                for clip, value in zip(ids, beliefs, strict=True):
                    self._sums[clip] = self.decay * self._sums.get(clip, 0.0) + value
                    self._counts[clip] = self.decay * self._counts.get(clip, 0.0) + 1.0
                    self._weights = None

    def _readable(self, ids: list[str], belief: Tensor, t: Tensor) -> tuple[list[str], list[float]]:
        """A clip too short to be judged has no belief (NaN), and none is read at or above `below`."""
        rows = zip(ids, belief.tolist(), t.tolist(), strict=True)  # on the device: not every one has doubles
        read = [(clip, value) for clip, value, level in rows if level < self.below and math.isfinite(value)]
        return [clip for clip, _ in read], [value for _, value in read]

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: ids as the bytes of a JSON list, decayed sums and counts in float64."""
        known = sorted(self._sums)
        text = json.dumps(known, ensure_ascii=False).encode("utf-8", "surrogatepass")
        return {
            _IDS: torch.frombuffer(bytearray(text), dtype=torch.uint8).clone(),
            _SUMS: torch.tensor([self._sums[clip] for clip in known], dtype=torch.float64),
            _COUNTS: torch.tensor([self._counts[clip] for clip in known], dtype=torch.float64),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `state_dict` gave; `CheckpointError` where it is none, or does not fit together."""
        missing = [key for key in (_IDS, _SUMS, _COUNTS) if key not in state]
        if missing:
            raise CheckpointError(f"the memory of the clips lacks {', '.join(missing)}; it is of another weighting.")
        try:
            known = json.loads(bytes(state[_IDS].tolist()).decode("utf-8", "surrogatepass"))
        except (ValueError, TypeError) as error:
            raise CheckpointError("the ids in the memory of the clips cannot be read.") from error
        sums, counts = state[_SUMS].double().tolist(), state[_COUNTS].double().tolist()
        if not (isinstance(known, list) and len(known) == len(set(map(str, known))) == len(sums) == len(counts)):
            raise CheckpointError(
                f"the memory of the clips holds {len(sums)} sums and {len(counts)} counts for its ids; it is damaged."
            )
        self._sums = dict(zip(known, sums, strict=True))
        self._counts = dict(zip(known, counts, strict=True))
        self._weights = None
        self._notes.clear()


@dataclass(frozen=True)
class GivenWeights:
    """Weights that a person gave clips: w_k at noise levels t >= above_k, and 1 below.

    Divided by their mean over all clips at that noise level. A clip with weight 0 above 0.7 trains at low noise alone.

    Attributes
    ----------
    clips : mapping of id to (weight >= 0, above in [0, 1])
        Clips that are not in it weigh 1.
    count : int
        Clips that train, those without a weight among them.

    Raises
    ------
    UserError
        A number out of range, or every clip has weight 0 at some noise level.
    """

    clips: Mapping[str, tuple[float, float]]
    count: int
    _levels: Tensor = field(init=False, repr=False, compare=False)
    _means: Tensor = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for clip, (weight, above) in self.clips.items():
            if not (math.isfinite(weight) and weight >= 0 and 0 <= above <= 1):
                raise UserError(
                    f"the clip '{clip}' has weight {weight!r} above {above!r}; a weight is a finite number of at least "
                    "0, and weight_above a noise level t in [0, 1]."
                )
        if self.count < len(self.clips):
            raise UserError(f"{len(self.clips)} clips have weights and {self.count} train.")
        # Means are steps over t: between two neighbouring `above` the same clips act.
        levels = sorted({0.0, *(above for _, above in self.clips.values())})
        means = [
            1.0 + sum(weight - 1.0 for weight, above in self.clips.values() if above <= level) / max(1, self.count)
            for level in levels
        ]
        if any(mean <= 1e-9 for mean in means):
            level = next(level for level, mean in zip(levels, means, strict=True) if mean <= 1e-9)
            raise UserError(
                f"every clip that trains has weight 0 at noise levels from {level:g} on, so nothing would train there; "
                "give some clip a weight, or leave those out of the manifest."
            )
        object.__setattr__(self, "_levels", torch.tensor(levels, dtype=torch.float64))
        object.__setattr__(self, "_means", torch.tensor(means, dtype=torch.float64))

    def __call__(self, ids: Sequence[str], t: Tensor) -> Tensor:
        """The weight of each sample [shape=(B,)], in at least float32; NaN where t is."""
        rows = [self.clips.get(clip, (1.0, 0.0)) for clip in ids]
        level = at_least_float32(t.detach()).contiguous()
        given, levels, means = (
            values.to(level.dtype).to(level.device, non_blocking=True)
            for values in (torch.tensor(rows, dtype=torch.float64), self._levels, self._means)
        )
        weight = torch.where(level >= given[:, 1], given[:, 0], torch.ones_like(level))
        step = torch.searchsorted(levels, level, right=True) - 1
        return weight / means[step.clamp(0, len(means) - 1)] + level * 0  # NaN stays NaN


def memory_from(options: Mapping[str, Any] | ClipMemory | None) -> ClipMemory | None:
    """A memory from what a recipe says of it, `{below: 0.6, decay: 0.9}`.

    Raises
    ------
    UserError
        Another key, no `below`, or a number out of range.
    """
    if options is None or isinstance(options, ClipMemory):
        return options
    if not isinstance(options, Mapping) or "below" not in options or set(options) - {"below", "decay"}:
        raise UserError(
            f"memory must be a group of below (a noise level) and, if you like, decay, such as {{below: 0.6, decay: "
            f"0.9}}; got {options!r}."
        )
    return ClipMemory(**options)


def write_out_level(act_above: Any) -> Any:
    """`act_above` with the noise level of a measured signature written out; a number stays what it is.

    ``{curve: FILE, share: 0.5}`` gains `t`, the level above which that share is decided (`rate_curve.level_decided`),
    and the `log_snr` that t means on the curve's path. A run's ``config.yaml`` has both, and goes on from them without
    the file.

    Raises
    ------
    UserError
        Another key, no `curve`, or as `level_decided`.
    """
    if not isinstance(act_above, Mapping):
        return act_above
    known = ("curve", "share", "t", "log_snr")
    if not isinstance(act_above.get("curve"), str | os.PathLike) or set(act_above) - set(known):
        raise UserError(
            "act_above must be a noise level t in [0, 1], or the file of a signature and the share that is decided "
            f"above the level, such as {{curve: flat.json, share: 0.5}}; got {dict(act_above)!r}."
        )
    if "t" in act_above:
        return dict(act_above)
    share = act_above.get("share", 0.5)
    t, log_snr = level_decided(act_above["curve"], share)
    return {"curve": str(act_above["curve"]), "share": share, "t": t, "log_snr": log_snr}


def act_level(act_above: Any, path: Path | str | None = None) -> float | None:
    """The noise level of an `act_above`; `UserError` where it is none, or is other noise on `path` than where it was
    measured."""
    written = write_out_level(act_above)
    level, measured = (written["t"], written.get("log_snr")) if isinstance(written, dict) else (written, None)
    if level is None:
        return None
    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 <= level <= 1:
        raise UserError(f"act_above must be a noise level t in [0, 1]; got {level!r}.")
    if measured is not None and (isinstance(measured, bool) or not isinstance(measured, int | float)):
        raise UserError(f"act_above's log_snr must be a number, as a run's config.yaml has it; got {measured!r}.")
    if path is not None and measured is not None:
        here = float(get_path(path).log_snr(torch.tensor(float(level), dtype=torch.float64)))
        if not math.isclose(here, measured, rel_tol=1e-3, abs_tol=1e-3):
            raise UserError(
                f"the signature {written['curve']} was measured on another path: its t = {level:.3g} is a log-SNR of "
                f"{measured:.3g} there and of {here:.3g} on the model's; measure the curve of this model."
            )
    return float(level)


def clips_at(ids: Sequence[str] | None, t: Tensor | None, like: Tensor) -> tuple[Sequence[str], Tensor]:
    """(ids, noise levels) of a batch, one of each a sample, on the device of `like`."""
    if ids is None or len(ids) != len(like) or isinstance(ids, str) or t is None or t.shape != like.shape:
        got = "no ids" if ids is None else f"{len(ids)} ids"
        levels = "no noise levels" if t is None else f"noise levels of shape {tuple(t.shape)}"
        raise UserError(
            f"a memory and the weights of clips need the id of each sample's clip and its noise level, {len(like)} of "
            f"each; got {got} and {levels}; pass ids and t (a loop that does not know its clips takes "
            "a weighting without a memory, such as recommended)."
        )
    return ids, t.to(like.device)


def of_all_processes(mine: Gathered) -> list[Gathered]:
    """What every process of `torch.distributed` has, in the order of their ranks; one process has its own alone."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [mine]
    everyone: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(everyone, mine)
    return everyone


def check_memory(judged: bool, reduction: str, by_level: bool) -> None:
    """`UserError` where a memory has no sample weighting (`judged`), or stands beside what it excludes."""
    if not judged:
        raise UserError("a memory keeps what a sample weighting believes of each clip; name a sample weighting.")
    if reduction == "batch":
        raise UserError(
            "a memory weighs clips against each other, and reduction 'batch' makes one scalar a step of them; use "
            "reduction 'sample'."
        )
    if by_level:
        raise UserError(
            "level_means divides a weight by its mean at the noise level where it was read, and a remembered "
            "weight has none (it averages 1 over the clips already); leave level_means or the memory out."
        )
