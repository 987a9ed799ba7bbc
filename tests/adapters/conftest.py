"""The tiny native Stable Audio 3 checkpoint, adapters of it, and what a changed checkpoint gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from eisbach import adapters
from eisbach.adapters.formats import peft as peft_format
from eisbach.backbones.stable_audio3 import StableAudio3Backbone, load_native

NATIVE = Path(__file__).parent.parent / "fixtures" / "sa3_native_tiny"


@pytest.fixture(scope="session")
def native() -> Path:
    return NATIVE


@pytest.fixture(scope="session")
def reference() -> dict[str, torch.Tensor]:
    return load_file(NATIVE / "reference.safetensors")


@pytest.fixture(scope="session")
def _sa3() -> StableAudio3Backbone:
    return load_native(NATIVE)


@pytest.fixture
def sa3(_sa3: StableAudio3Backbone) -> Iterator[StableAudio3Backbone]:
    """The checkpoint's backbone, without an adapter before and after."""
    yield _sa3
    adapters.detach(_sa3)
    adapters.remove_layers(_sa3.module)


@pytest.fixture(scope="session")
def play(_sa3: StableAudio3Backbone, reference: dict[str, torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`play(backbone)`: the velocity on the reference's inputs."""
    told = json.loads((NATIVE / "reference.json").read_text())
    conditioning = _sa3.condition(told["prompts"], told["seconds_total"])

    @torch.no_grad()
    def velocity(backbone: Any) -> torch.Tensor:
        return backbone.predict(reference["x_t"], reference["t"], conditioning)

    return velocity


@pytest.fixture
def make_adapter(sa3: StableAudio3Backbone, play: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`make_adapter(folder, kind=, rank=, alpha=, ...)`: a peft folder with weights far from their start, and what it
    plays."""

    def make(folder: Path, stamp: dict[str, Any] | None = None, size: float = 0.1, **options: Any) -> torch.Tensor:
        chosen = {"kind": "lora", "rank": 2, "alpha": 2.0, **options}
        stamp = {"base_identity": sa3.identity()} if stamp is None else stamp
        config = adapters.adapter_config(sa3, **chosen)
        parameters = adapters.inject(sa3, config, seed=1)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in parameters.values():
                parameter += size * torch.randn(parameter.shape, generator=generator)
        peft_format.save(folder, sa3.module, config, stamp)
        played = play(sa3)
        adapters.remove_layers(sa3.module)
        return played

    return make


@pytest.fixture
def play_changed(
    tmp_path: Path, play: Callable[..., torch.Tensor]
) -> Callable[[Callable[[str, torch.Tensor], torch.Tensor]], torch.Tensor]:
    """`play_changed(change)`: the velocity of the native checkpoint with every tensor replaced by `change(name,
    tensor)`.

    What an adapter's file does to a checkpoint can so be written down in a test in the file's own names and rows,
    without any of the package's conversions of adapters.
    """

    def changed(change: Callable[[str, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        folder = tmp_path / "changed"
        folder.mkdir()
        tensors = load_file(NATIVE / "model.safetensors")
        save_file(
            {name: change(name, value).contiguous() for name, value in tensors.items()}, folder / "model.safetensors"
        )
        for other in ("model_config.json", "t5gemma-b-b-ul2"):
            (folder / other).symlink_to(NATIVE / other)
        return play(load_native(folder))

    return changed
