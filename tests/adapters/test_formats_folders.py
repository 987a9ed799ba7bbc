"""Folders in peft's layout, whole and by the parts of a diffusers pipeline."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from eisbach import adapters
from eisbach.adapters import convert
from eisbach.adapters.formats import peft as peft_format
from eisbach.errors import CheckpointError, UserError


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_peft_loads_the_folder_of_a_native_file(
    native: Path, reference: dict[str, torch.Tensor], sa3: Any, play: Any, tmp_path: Path, kind: str
) -> None:
    from peft import PeftModel

    name = "lora" if kind == "lora" else "dora-rows"
    convert.write(convert.read(native / f"{name}.safetensors"), "peft", tmp_path / "folder")
    wrapped = PeftModel.from_pretrained(sa3.module, str(tmp_path / "folder"))
    assert wrapped.peft_config["default"].use_dora == (kind == "dora")
    assert (play(sa3) - reference[f"velocity_{name}"]).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_peft_loads_each_part_onto_diffusers_own_classes(
    sa3: Any, play: Any, make_adapter: Any, tmp_path: Path, kind: str
) -> None:
    from peft import PeftModel

    played = make_adapter(tmp_path / "ours", kind=kind, rank=2, alpha=5.0)
    written = convert.write(convert.read(tmp_path / "ours"), "diffusers", tmp_path / "parts", module=sa3.module)
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["duration_embedder", "transformer"]
    assert written.layers == 15
    parts = {name: copy.deepcopy(getattr(sa3, name)) for name in ("transformer", "duration_embedder")}
    other = copy.copy(sa3)
    other.module = copy.copy(sa3.module)
    other.module._modules = {
        name: PeftModel.from_pretrained(part, str(tmp_path / "parts" / name)) for name, part in parts.items()
    }
    torch.testing.assert_close(play(other), played, rtol=0, atol=2e-6)
    adapters.attach(sa3, tmp_path / "parts")
    torch.testing.assert_close(play(sa3), played, rtol=0, atol=2e-6)


def test_parts_of_two_adapters_are_refused(sa3: Any, make_adapter: Any, tmp_path: Path) -> None:
    make_adapter(tmp_path / "a", rank=2)
    make_adapter(tmp_path / "b", rank=3)
    for name in "ab":
        convert.write(convert.read(tmp_path / name), "diffusers", tmp_path / f"{name}-parts")
    (tmp_path / "a-parts" / "transformer").rename(tmp_path / "b-parts" / "other")
    with pytest.raises(CheckpointError, match="one adapter"):
        convert.read(tmp_path / "b-parts")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights pissa"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"bias": "all"}, "bias all"),
        ({"r": 5}, "factors of rank 5"),
    ],
)
def test_what_other_formats_cannot_express_is_refused(
    make_adapter: Any, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    make_adapter(tmp_path / "ours")
    file = tmp_path / "ours" / peft_format.CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(CheckpointError, match=sentence):
        convert.read(tmp_path / "ours")


def test_scaled_by_the_root_of_the_rank(sa3: Any, play: Any, make_adapter: Any, tmp_path: Path) -> None:
    make_adapter(tmp_path / "ours", rank=4, alpha=2.0)
    file = tmp_path / "ours" / peft_format.CONFIG
    file.write_text(json.dumps({**json.loads(file.read_text()), "use_rslora": True}))
    assert convert.read(tmp_path / "ours").scale == 1.0
    adapters.attach(sa3, tmp_path / "ours")
    played = play(sa3)
    adapters.detach(sa3)
    convert.write(convert.read(tmp_path / "ours"), "sa3", tmp_path / "native.safetensors", precision="fp32")
    adapters.attach(sa3, tmp_path / "native.safetensors")
    torch.testing.assert_close(play(sa3), played, rtol=0, atol=2e-6)


def test_lora_is_written_at_a_strength_and_dora_is_not(sa3: Any, play: Any, make_adapter: Any, tmp_path: Path) -> None:
    make_adapter(tmp_path / "lora")
    make_adapter(tmp_path / "dora", kind="dora")
    convert.write(convert.read(tmp_path / "lora"), "peft", tmp_path / "weaker", strength=0.3)
    adapters.attach(sa3, tmp_path / "lora", 0.3)
    played = play(sa3)
    adapters.detach(sa3)
    adapters.attach(sa3, tmp_path / "weaker")
    torch.testing.assert_close(play(sa3), played, rtol=0, atol=2e-6)
    with pytest.raises(UserError, match="scaled DoRA is not DoRA"):
        convert.write(convert.read(tmp_path / "dora"), "peft", tmp_path / "x", strength=0.3)


def test_nothing_is_replaced_unasked(make_adapter: Any, tmp_path: Path) -> None:
    make_adapter(tmp_path / "ours")
    adapter = convert.read(tmp_path / "ours")
    convert.write(adapter, "peft", tmp_path / "made")
    with pytest.raises(UserError, match="exists already"):
        convert.write(adapter, "peft", tmp_path / "made")
    convert.write(adapter, "diffusers", tmp_path / "made", overwrite=True)
    assert convert.detect(tmp_path / "made") == "diffusers"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="holds no adapter"):
        convert.write(adapter, "peft", tmp_path / "mine", overwrite=True)
    with pytest.raises(UserError, match="is a folder, and sa3 is a file"):
        convert.write(adapter, "sa3", tmp_path / "mine", overwrite=True)
    with pytest.raises(UserError, match=r"\.safetensors"):
        convert.write(adapter, "sa3", tmp_path / "native")
    with pytest.raises(UserError, match="--to is 'webui'"):
        convert.write(adapter, "webui", tmp_path / "native")


def test_what_is_no_adapter_is_told_apart(native: Path, make_adapter: Any, tmp_path: Path) -> None:
    make_adapter(tmp_path / "ours")
    (tmp_path / "a.ckpt").write_bytes(b"x")
    (tmp_path / "b.safetensors").write_bytes(b"x")
    for path, sentence in [
        (tmp_path / "nothing", "no adapter .*nothing"),
        (tmp_path, "holds no adapter_config.json"),
        (tmp_path / "a.ckpt", "pickle"),
        (tmp_path / "b.safetensors", "truncated"),
        (tmp_path / "ours" / peft_format.WEIGHTS, "give the folder"),
        (native / "model.safetensors", "none of the"),
    ]:
        with pytest.raises(CheckpointError, match=sentence):
            convert.detect(path)
