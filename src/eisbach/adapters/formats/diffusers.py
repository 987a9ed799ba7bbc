"""A folder for diffusers' pipelines: one folder in peft's layout for each part of the pipeline that is adapted.

`PeftModel.from_pretrained(pipe.transformer, folder / "transformer")` loads one. diffusers' own `load_lora_weights` has
no part in it: of its classes, `StableAudio3DiTModel` (0.42) is not a `PeftAdapterMixin`, and the pipeline has no
loader.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from eisbach.adapters.formats import peft
from eisbach.adapters.formats.low_rank import Factors, LowRankAdapter
from eisbach.errors import CheckpointError

_USUAL = ("transformer", "duration_embedder")


def is_split(folder: Path) -> bool:
    """Whether a folder holds folders in peft's layout, named as the parts of a pipeline."""
    return any((folder / part / peft.CONFIG).is_file() for part in _USUAL)


def _parts(folder: Path) -> list[Path]:
    return sorted(file.parent for file in folder.glob(f"*/{peft.CONFIG}"))


def write_adapter(folder: Path, adapter: LowRankAdapter) -> int:
    """Writes `folder`/<part>/ for each part (transformer, duration_embedder) and returns the number of tensors."""
    parts: dict[str, dict[str, Factors]] = {}
    for layer, factors in adapter.layers.items():
        part, _, name = layer.partition(".")
        parts.setdefault(part, {})[name] = factors
    return sum(peft.write_adapter(folder / part, replace(adapter, layers=layers)) for part, layers in parts.items())


def read_adapter(folder: Path) -> LowRankAdapter:
    """The adapter of a folder that `write_adapter` wrote, or whose parts peft wrote.

    Raises
    ------
    CheckpointError
        A part cannot be read, or the parts are of different ranks, alphas or stamps.
    """
    parts = {part.name: peft.read_adapter(part) for part in _parts(folder)}
    first = next(iter(parts.values()))
    layers: dict[str, Factors] = {}
    for name, adapter in parts.items():
        same = (adapter.rank, adapter.alpha, adapter.kind) == (first.rank, first.alpha, first.kind)
        if not same or adapter.stamp.get("base_identity") != first.stamp.get("base_identity"):
            raise CheckpointError(
                f"the parts of {folder} ({', '.join(parts)}) are of different ranks, alphas, kinds or base models; "
                "give one adapter."
            )
        layers |= {f"{name}.{layer}": factors for layer, factors in adapter.layers.items()}
    return replace(first, layers=layers)
