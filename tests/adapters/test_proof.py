"""Each host plays what was written as we play it, by its own loader or formula; a file that is wrong is found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from eisbach import adapters
from eisbach.adapters import convert
from eisbach.adapters.effect import Levels, base_levels
from eisbach.adapters.proof import prove, reference_of
from eisbach.errors import CheckpointError

INNER = {"exclude": ["duration_embedder.linear"]}
EQUAL = 1e-6


@pytest.fixture
def levels(sa3: Any) -> Iterator[Levels]:
    return base_levels(sa3, frames=32, steps=3)  # type: ignore[return-value]


def written(adapter: Path, to: str, out: Path, module: Any, **options: Any) -> Path:
    out = out / (f"{to}.safetensors" if to in ("sa3", "comfyui") else to)
    convert.write(convert.read(adapter), to, out, module=module, precision="fp32", **options)  # type: ignore[arg-type]
    return out


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("to", convert.FORMATS)
@pytest.mark.whole
def test_every_host_plays_the_adapter(
    sa3: Any, make_adapter: Any, levels: Levels, tmp_path: Path, to: str, kind: str
) -> None:
    make_adapter(tmp_path / "ours", kind=kind, rank=3, alpha=4.5, **(INNER if to == "comfyui" else {}))
    file = written(tmp_path / "ours", to, tmp_path, sa3.module)
    before = {name: value.clone() for name, value in sa3.module.state_dict().items()}
    proof = prove(sa3, to, file, levels, reference_of(sa3, tmp_path / "ours", levels))
    assert proof.deviation < EQUAL
    assert proof.change > 1e-2
    assert ("formula" in proof.how) == (to in ("sa3", "comfyui"))
    after = sa3.module.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    adapters.attach(sa3, tmp_path / "ours")  # nothing of the host is left in the network


def test_comfyuis_scale_of_dora_is_played_too(sa3: Any, make_adapter: Any, levels: Levels, tmp_path: Path) -> None:
    make_adapter(tmp_path / "ours", kind="dora", rank=2, alpha=2.0, **INNER)
    file = written(tmp_path / "ours", "comfyui", tmp_path, sa3.module, dora="scale")
    assert prove(sa3, "comfyui", file, levels, reference_of(sa3, tmp_path / "ours", levels)).deviation < EQUAL


@pytest.mark.parametrize("to", ["sa3", "comfyui"])
def test_a_file_that_plays_something_else_is_found(
    sa3: Any, make_adapter: Any, levels: Levels, tmp_path: Path, to: str
) -> None:
    make_adapter(tmp_path / "ours", kind="lora", rank=2, alpha=2.0, **INNER)
    file = written(tmp_path / "ours", to, tmp_path, sa3.module)
    reference = reference_of(sa3, tmp_path / "ours", levels)
    with safe_open(str(file), framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    name = next(name for name in tensors if "self_attn.to_qkv" in name and "lora_B" in name)
    rows = tensors[name].clone()
    save_file({**tensors, name: rows.flip(0)}, file, metadata=metadata)  # another order of rows, as a reader may have
    assert prove(sa3, to, file, levels, reference).deviation > 1e-4
    save_file({name.replace("layers.0", "layers.x"): value for name, value in tensors.items()}, file, metadata=metadata)
    with pytest.raises(CheckpointError, match="has no such layer"):
        prove(sa3, to, file, levels, reference)
