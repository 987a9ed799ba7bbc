"""Who may go on in an output folder: settings by value, weights by content."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from eisbach.errors import ConfigError, StorageError
from eisbach.output_folder import claim, differences, exclusive, weights_identity


def test_differences_are_named_by_key_with_both_values(tmp_path: Path) -> None:
    claim(tmp_path, "request.json", "a measurement", {"a": {"b": (1, 2)}, "path": "x", "c": None})
    claim(tmp_path, "request.json", "a measurement", {"a": {"b": [1, 2]}, "path": "./x", "c": None}, free=("path",))
    with pytest.raises(ConfigError) as error:
        claim(tmp_path, "request.json", "a measurement", {"a": {"b": [1, 3]}, "path": "x", "d": 1}, free=("path",))
    said = str(error.value)
    assert said.startswith(f"{tmp_path} holds a measurement with other settings: a.b was [1, 2] and is now [1, 3]; ")
    assert "d was not set and is now 1" in said
    assert "delete" not in said
    assert json.loads((tmp_path / "request.json").read_text())["path"] == "./x"


def test_no_two_different_settings_pass_for_equal() -> None:
    draw = random.Random(3)
    values = (None, 0, 1, 1.5, "1", "", [], {}, [1], {"x": 1}, True)
    for _ in range(500):
        first, second = ({key: draw.choice(values) for key in "abc"} for _ in range(2))
        assert bool(differences(first, second)) == (first != second), (first, second)
        assert not differences(first, first)
    assert not differences({"a": 1, "b": {"c": 1}}, {"a": 1, "b": {"c": 2}}, free=("b",))
    assert not differences({"a": 1, "b": {"c": 1}}, {"a": 1, "b": {"c": 2}}, free=("b.c",))
    assert differences({"bc": 1}, {"bc": 2}, free=("b",))


def test_only_one_process_holds_a_folder(tmp_path: Path) -> None:
    with exclusive(tmp_path / "new"), pytest.raises(ConfigError, match="another process"), exclusive(tmp_path / "new"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is a file"), exclusive(tmp_path / "file"):
        pass
    with pytest.raises(StorageError, match="cannot be made"), exclusive(tmp_path / "file" / "below"):
        pass


def adapter(folder: Path, metadata: dict[str, str], alpha: float = 1.0, **changes: torch.Tensor) -> Path:
    folder.mkdir()
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)} | changes
    save_file(dict(reversed(tensors.items())), folder / "adapter_model.safetensors", metadata=metadata)
    (folder / "adapter_config.json").write_text(
        json.dumps({"r": 2, "lora_alpha": alpha, "base_model_name_or_path": str(folder)})
    )
    return folder


def test_weights_are_known_by_their_tensors(tmp_path: Path) -> None:
    one = weights_identity(adapter(tmp_path / "one", {"stamp": "x", "other": "y"}))
    assert weights_identity(adapter(tmp_path / "two", {"other": "z"})) == one
    others = [
        adapter(tmp_path / "alpha", {}, alpha=2.0),
        adapter(tmp_path / "shape", {}, a=torch.arange(6.0).view(3, 2)),
        adapter(tmp_path / "kind", {}, a=torch.arange(6, dtype=torch.int32).view(2, 3)),
        adapter(tmp_path / "value", {}, b=torch.zeros(4, dtype=torch.bfloat16)),
        adapter(tmp_path / "more", {}, c=torch.zeros(1)),
    ]
    assert len({one, *map(weights_identity, others)}) == 6
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 40)  # for its loader to refuse
    assert weights_identity(tmp_path / "broken.safetensors") != one
