"""Several adapters on one model at once, each at its strength and at the noise levels that it is given.

With `W_k` the weight that adapter k alone makes of the base's `W0`, the network at noise level t has

    W(t) = W0 + sum over k with t in k's interval of strength_k (W_k - W0).

Changes of weights are added, not factors: DoRA is no low-rank change (it divides by the norms of rows), so factors of a
LoRA and a DoRA, or of two DoRAs, have no sum. Each `W_k` is made from its factors in float64, once for each set of
adapters that act together, which a sampler passes through from noise to data: few changes a clip, and between them the
network costs what the base costs. Where no adapter acts, the base's own weights are in place, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eisbach.adapters import convert
from eisbach.adapters.attach import check_base, detach
from eisbach.adapters.formats import full, low_rank
from eisbach.adapters.formats import peft as peft_format
from eisbach.adapters.formats.low_rank import LowRankAdapter
from eisbach.adapters.inject import ATTACHED, AdaptableModel, has_adapter
from eisbach.errors import CheckpointError, ConfigError
from eisbach.output_folder import weights_identity
from eisbach.tensor_files import foreign_files

_Change = Callable[[Tensor], Tensor]
"""The base's weight (float64) -> the weight that the adapter alone makes of it (float64)."""


@dataclass(frozen=True)
class Part:
    """One adapter of a mix.

    Attributes
    ----------
    path : str or Path
        As `attach` reads it.
    strength : float
        1 is the adapter as it was trained.
    interval : (low, high) within [0, 1]
        Noise levels at which it acts, both ends included; t = 1 is noise.
    """

    path: str | Path
    strength: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)


class AdapterMix:
    """Adapters of one model; `detach(model)` takes them out again.

    Parameters
    ----------
    model : a backbone
    parts : sequence of Part
    any_base : bool
        Play them on another base than the one they were trained on; names and shapes must fit.

    Raises
    ------
    CheckpointError
        One cannot be read, was trained on another base, or does not fit; the model is as before.
    ConfigError
        The model carries an adapter already, or an interval is none.

    Examples
    --------
    With the folder ``run`` of a training: the form of the adapter, the base's timbre.

    >>> import torch
    >>> from eisbach import load_model
    >>> backbone = load_model("embedded")
    >>> mix = AdapterMix(backbone, [Part("run/adapter", strength=0.8, interval=(0.7, 1.0))])
    >>> mix.set_level(0.9), mix.set_level(0.5)
    ((0,), ())
    """

    def __init__(self, model: AdaptableModel, parts: Sequence[Part], *, any_base: bool = False) -> None:
        module = model.module
        if module in ATTACHED or has_adapter(module):
            raise ConfigError("an adapter is attached already; detach it before attaching others.")
        for part in parts:
            _check_interval(part.interval, f"the adapter {part.path}")
        self._model, self._parts = model, tuple(parts)
        self._changes = [read_changes(model, Path(part.path), any_base=any_base) for part in parts]
        self._state = module.state_dict()  # shares its storage with the module
        names = dict.fromkeys(name for changes in self._changes for name in changes)
        self._base = {name: self._state[name].detach().clone() for name in names}
        self._active: tuple[int, ...] = ()
        ATTACHED[module] = self._base

    def acting(self, t: float) -> tuple[int, ...]:
        """The numbers of the parts that act at a noise level."""
        return tuple(
            number
            for number, part in enumerate(self._parts)
            if part.strength != 0 and _single(part.interval[0]) <= _single(t) <= _single(part.interval[1])
        )

    @torch.no_grad()
    def set_level(self, t: float) -> tuple[int, ...]:
        """Puts the weights of a noise level in place; returns the numbers of the parts that act there."""
        active = self.acting(t)
        if active == self._active:
            return active
        for name, base in self._base.items():
            made = self._mixed(name, base, active)
            if made is not base and not bool(torch.isfinite(made).all()):
                for touched, original in self._base.items():
                    self._state[touched].copy_(original)
                self._active = ()
                raise CheckpointError(
                    f"the adapters make weights of '{name}' that are not finite, so they cannot be played together; "
                    "lower their strengths or leave one out."
                )
            self._state[name].copy_(made)
        self._active = active
        return active

    def _mixed(self, name: str, base: Tensor, active: Sequence[int]) -> Tensor:
        acting = [number for number in active if name in self._changes[number]]
        if not acting:
            return base
        # Apple's devices have no float64.
        wide = (base.cpu() if base.device.type == "mps" else base).double()
        changed = wide.clone()
        for number in acting:
            changed += self._parts[number].strength * (self._changes[number][name](wide) - wide)
        return changed.to(base)

    def predict(self, predict: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`predict(x_t, t, …)` with the weights of its noise level, which is one for all rows of a call."""

        def mixed(x_t: Tensor, t: Tensor, *rest: Any) -> Tensor:
            levels = t.detach().float().cpu()
            if not bool((levels == levels[0]).all()):
                raise ConfigError("adapters with intervals need one noise level for all rows of a batch; t differs.")
            self.set_level(float(levels[0]))
            return predict(x_t, t, *rest)

        return mixed

    def detach(self) -> None:
        """The base again, bit for bit."""
        detach(self._model)


def _check_interval(interval: tuple[float, float], what: str) -> None:
    """Refuses what is no interval of noise levels.

    Raises
    ------
    ConfigError
        One sentence.
    """
    low, high = interval
    if not (0 <= low <= 1 and 0 <= high <= 1):
        raise ConfigError(
            f"{what} is to act from {low:g} to {high:g}; noise levels lie from 0 (clean) to 1 (noise): give two of "
            "them, as @0.3-1.0."
        )
    if not low < high:
        raise ConfigError(
            f"{what} is to act from {low:g} to {high:g}, where no noise level lies between; the lower one comes first, "
            "as @0.3-1.0, and strength 0 switches an adapter off."
        )


def _single(t: float) -> float:
    """A noise level as samplers compute with it, so that the ends of intervals are met exactly."""
    return float(torch.tensor(t, dtype=torch.float32))


@foreign_files("the adapter")
def read_changes(model: AdaptableModel, path: Path, *, any_base: bool = False) -> dict[str, _Change]:
    """What an adapter makes of each of the model's weights, by their names.

    Raises
    ------
    CheckpointError
        As `attach`.
    """
    module = model.module
    if path.is_dir() and (path / full.WEIGHTS).is_file() and convert.detect_or_none(path) is None:
        check_base(model, path, full.read_stamp(path), any_base=any_base)
        return {name: _replaced(value) for name, value in full.read(module, path).items()}
    adapter = convert.read(path, convert.weights_of(module))
    check_base(model, path, adapter.stamp, any_base=any_base)
    low_rank.check_fit(adapter, module, path)
    if isinstance(adapter, low_rank.Differences):
        return {f"{layer}.weight": _added(difference) for layer, difference in adapter.layers.items()}
    return {f"{layer}.weight": _adapted(factors, adapter.scale) for layer, factors in adapter.layers.items()}


def _replaced(value: Tensor) -> _Change:
    return lambda weight: value.to(weight)


def _added(difference: Tensor) -> _Change:
    return lambda weight: weight + difference.to(weight).view(weight.shape)


def _adapted(factors: low_rank.Factors, scale: float) -> _Change:
    def change(weight: Tensor) -> Tensor:
        magnitude = None if factors.magnitude is None else factors.magnitude.to(weight.device)
        placed = low_rank.Factors(factors.a.to(weight.device), factors.b.to(weight.device), magnitude)
        return low_rank.adapted_weight(weight, placed, scale)

    return change


# --- DoRA's two parts apart: the directions of one adapter with the magnitudes of another


def swap_magnitudes(direction: Path, magnitude: Path, out: Path) -> None:
    """Writes into `out` the adapter with the directions of the first folder and the magnitudes of the second.

    Parameters
    ----------
    direction, magnitude : Path
        Folders in peft's layout, of DoRA adapters of the same layers of one base; their ranks may differ.
    out : Path
        Its stamp names the base, and both adapters by the hashes of what they play.

    Raises
    ------
    CheckpointError
        One of them is no DoRA adapter or cannot be read, or they are of other layers or of another base.
    StorageError
        The disk is full or the folder is not writable.
    """
    ours, theirs = (peft_format.read_adapter(folder) for folder in (direction, magnitude))
    for folder, adapter in ((direction, ours), (magnitude, theirs)):
        if adapter.kind != "dora":
            raise CheckpointError(f"{folder} is a LoRA adapter, which has no magnitudes to exchange; train it as DoRA.")
    bases = [adapter.stamp.get("base_identity") for adapter in (ours, theirs)]
    if bases[0] != bases[1]:
        raise CheckpointError(
            f"{direction} and {magnitude} were trained on two base models; swap adapters of one base only."
        )
    stamp = {"swap": {"direction": weights_identity(direction), "magnitude": weights_identity(magnitude)}}
    if bases[0] is not None:
        stamp = {"base_identity": bases[0], **stamp}
    made = replace(_exchanged(ours, theirs, direction, magnitude), stamp=stamp, native={})
    peft_format.write_adapter(out, made)


def _exchanged(ours: LowRankAdapter, theirs: LowRankAdapter, direction: Path, magnitude: Path) -> LowRankAdapter:
    apart = sorted(ours.layers.keys() ^ theirs.layers.keys())
    if apart:
        raise CheckpointError(
            f"{direction} and {magnitude} adapt other layers ('{apart[0]}' is in one of them); swap adapters of the "
            "same layers."
        )
    layers = {}
    for name, factors in ours.layers.items():
        lengths = theirs.layers[name].magnitude
        if lengths is None or factors.magnitude is None or lengths.shape != factors.magnitude.shape:
            raise CheckpointError(f"the rows of '{name}' differ in {direction} and {magnitude}; swap one base's.")
        layers[name] = replace(factors, magnitude=lengths)
    return replace(ours, layers=layers)
