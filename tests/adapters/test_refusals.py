"""Whatever is wrong with an adapter, in whatever format: one sentence, and the model is as it was, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from eisbach import adapters
from eisbach.adapters import convert
from eisbach.adapters.formats.low_rank import LowRankAdapter
from eisbach.errors import CheckpointError, ConfigError, UserError

FORMATS = ("peft", "diffusers", "sa3", "comfyui", "comfyui-diff", "comfyui-scale")
INNER = {"exclude": ["duration_embedder.linear"]}


def fingerprint(module: torch.nn.Module) -> list[Any]:
    """Everything about a network that an adapter could have left changed."""
    state = module.state_dict()
    return [
        {name: value.clone() for name, value in state.items()},
        [(name, type(layer), layer.training) for name, layer in module.named_modules()],
        [(name, value.requires_grad) for name, value in module.named_parameters()],
    ]


def same(left: list[Any], right: list[Any]) -> bool:
    bits = left[0].keys() == right[0].keys() and all(
        torch.equal(value, right[0][name]) for name, value in left[0].items()
    )
    return bool(bits) and left[1:] == right[1:]


@pytest.fixture
def written(sa3: Any, make_adapter: Any, tmp_path: Path) -> Callable[[str], Path]:
    """`written(format)`: a good adapter in this format, and the file with its weights."""

    def write(name: str) -> Path:
        to, _, dora = name.partition("-")
        make_adapter(tmp_path / "ours", kind="dora" if dora else "lora", **INNER)
        adapter = convert.read(tmp_path / "ours")
        assert isinstance(adapter, LowRankAdapter)
        out = tmp_path / ("made" if to in ("peft", "diffusers") else "made.safetensors")
        convert.write(adapter, to, out, module=sa3.module, dora=dora or "diff", precision="fp32")
        return out

    return write


def weights_file(path: Path) -> Path:
    return path if path.is_file() else next(path.rglob("adapter_model.safetensors"))


def change_last(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    """Changes the tensor of most numbers that comes last: everything before it is right."""

    def damage(path: Path) -> None:
        file = weights_file(path)
        with safe_open(file, "pt") as handle:
            metadata = handle.metadata()
        tensors = {name: value.clone() for name, value in load_file(file).items()}
        last = max(name for name, value in tensors.items() if value.ndim == 2)
        tensors[last] = change(tensors[last])
        save_file(tensors, file, metadata=metadata)

    return damage


def drop_last(path: Path) -> None:
    file = weights_file(path)
    tensors = load_file(file)
    with safe_open(file, "pt") as handle:
        metadata = handle.metadata()
    del tensors[max(name for name in tensors if not name.endswith(".alpha"))]
    if len({name.rpartition(".")[2] for name in tensors}) == 1:  # differences: one less is still an adapter
        tensors["nothing.we.know"] = torch.ones(2, 2)
    save_file(tensors, file, metadata=metadata)


def cut(path: Path) -> None:
    file = weights_file(path)
    file.write_bytes(file.read_bytes()[:-16])


DAMAGE: dict[str, Callable[[Path], None]] = {
    "NaN": change_last(lambda value: value.index_fill(0, torch.tensor([0]), float("nan"))),
    "infinite": change_last(lambda value: value.index_fill(0, torch.tensor([0]), float("inf"))),
    "a row more": change_last(lambda value: torch.cat([value, value[:1]])),
    "a column more": change_last(lambda value: torch.cat([value, value[:, :1]], dim=1)),
    "integers": change_last(lambda value: value.to(torch.int64)),
    "complex": change_last(lambda value: value.to(torch.complex64)),
    "many axes": change_last(lambda value: value.reshape(*value.shape, *[1] * 60)),
    "one axis": change_last(lambda value: value.flatten()),
    "empty": change_last(lambda value: value[:0]),
    "a tensor less": drop_last,
    "truncated": cut,
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_and_changes_nothing(sa3: Any, written: Any, name: str, damage: str) -> None:
    path = written(name)
    DAMAGE[damage](path)
    before = fingerprint(sa3.module)
    with pytest.raises(UserError) as caught:
        adapters.attach(sa3, path)
    assert "\n" not in str(caught.value)
    assert same(fingerprint(sa3.module), before)
    sa3_again = fingerprint(sa3.module)
    adapters.detach(sa3)
    assert same(fingerprint(sa3.module), sa3_again)


@pytest.mark.parametrize("name", FORMATS)
def test_another_base_is_refused_and_changes_nothing(
    sa3: Any, written: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(name)
    before = fingerprint(sa3.module)
    monkeypatch.setattr(type(sa3), "identity", lambda self: "another one")
    with pytest.raises(CheckpointError, match="another one"):
        adapters.attach(sa3, path)
    assert same(fingerprint(sa3.module), before)


@pytest.mark.parametrize("name", FORMATS)
def test_a_network_in_training_keeps_its_layers(sa3: Any, written: Any, name: str) -> None:
    path = written(name)
    adapters.inject(sa3, adapters.adapter_config(sa3, kind="lora", rank=2, alpha=2.0))
    before = fingerprint(sa3.module)
    with pytest.raises(ConfigError, match="attached already"):
        adapters.attach(sa3, path)
    assert same(fingerprint(sa3.module), before)


OPTIONS: list[dict[str, Any]] = [
    {"lora_bias": True},
    {"bias": "all"},
    {"bias": "lora_only"},
    {"fan_in_fan_out": True},
    {"init_lora_weights": "pissa"},
    {"init_lora_weights": "olora"},
    {"layer_replication": [[0, 1]]},
    {"modules_to_save": ["to_cond_embed"]},
    {"trainable_token_indices": [1]},
    {"target_parameters": ["to_qkv.weight"]},
    {"alora_invocation_tokens": [1, 2]},
    {"use_qalora": True},
    {"use_bdlora": {"x": 1}},
    {"megatron_config": {"x": 1}},
    {"arrow_config": {"x": 1}},
    {"an_option_of_tomorrow": "on"},
    {"peft_type": "IA3"},
    {"peft_type": None},
    {"r": "8"},
    {"r": 0},
    {"r": 10**12},
    {"r": 2.5},
    {"r": None},
    {"r": 3},
    {"lora_alpha": "x"},
    {"lora_alpha": [1]},
    {"lora_alpha": -1},
    {"lora_alpha": True},
    {"lora_dropout": 2},
    {"lora_dropout": "much"},
    {"use_dora": 1},
    {"use_dora": True},
    {"use_rslora": "yes"},
    {"rank_pattern": [1]},
    {"rank_pattern": {"to_qkv": "2"}},
    {"rank_pattern": {"(": 2}},
    {"alpha_pattern": {"to_qkv": None}},
    {"alpha_pattern": {"[": 2.0}},
    {"target_modules": 7},
    {"target_modules": {"a": 1}},
    {"target_modules": "(("},
    {"target_modules": ["nowhere"]},
    {"target_modules": None},
    {"exclude_modules": 7},
    {"exclude_modules": "transformer.*"},
    {"layers_to_transform": "x"},
]


@pytest.mark.parametrize("change", OPTIONS, ids=lambda change: str(change)[:40])
def test_an_option_that_is_not_played_is_refused_and_changes_nothing(
    sa3: Any, written: Any, change: dict[str, Any]
) -> None:
    path = written("peft")
    file = path / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    before = fingerprint(sa3.module)
    with pytest.raises(UserError) as caught:
        adapters.attach(sa3, path)
    assert "\n" not in str(caught.value)
    assert same(fingerprint(sa3.module), before)


@pytest.mark.parametrize("text", ["", "[1]", "null", '"x"', "{", "[" * 5000, '{"r": ' + "9" * 6000 + "}", "\x00"])
def test_a_configuration_that_is_none_is_refused(sa3: Any, written: Any, text: str) -> None:
    path = written("peft")
    (path / "adapter_config.json").write_text(text)
    before = fingerprint(sa3.module)
    with pytest.raises(UserError):
        adapters.attach(sa3, path)
    assert same(fingerprint(sa3.module), before)


METADATA = ["", "[1]", "null", '"x"', "{", "[" * 5000, '{"rank": ' + "9" * 6000 + "}", '{"rank": "2"}']
METADATA += ['{"alpha": "x"}', '{"alpha": -1}', '{"alpha": 1e999}', '{"dropout": "x"}', '{"rank": 1.5}', '{"rank": 99}']
METADATA += ['{"adapter_type": 3}', '{"adapter_type": ["lora"]}', '{"include": 3}', '{"exclude": [1]}']


@pytest.mark.parametrize("text", METADATA, ids=lambda text: text[:20])
def test_native_metadata_that_means_nothing_is_refused(sa3: Any, native: Path, tmp_path: Path, text: str) -> None:
    save_file(load_file(native / "lora.safetensors"), tmp_path / "x.safetensors", metadata={"lora_config": text})
    before = fingerprint(sa3.module)
    with pytest.raises(UserError) as caught:
        adapters.attach(sa3, tmp_path / "x.safetensors")
    assert "\n" not in str(caught.value)
    assert same(fingerprint(sa3.module), before)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("text", ["[1]", "{", "null", "[" * 5000])
def test_a_stamp_that_is_none_is_refused(sa3: Any, written: Any, name: str, text: str) -> None:
    path = written(name)
    file = weights_file(path)
    tensors = load_file(file)
    with safe_open(file, "pt") as handle:
        metadata = {**handle.metadata(), "eisbach": text}
    save_file(tensors, file, metadata=metadata)
    for stamp in [] if path.is_file() else path.rglob("eisbach.json"):
        stamp.unlink()
    before = fingerprint(sa3.module)
    with pytest.raises(CheckpointError, match="stamp"):
        adapters.attach(sa3, path)
    assert same(fingerprint(sa3.module), before)


def test_a_target_that_cannot_be_adapted_leaves_no_layer_behind(sa3: Any) -> None:
    before = fingerprint(sa3.module)
    with pytest.raises(ConfigError, match="cannot be used"):
        adapters.inject(sa3, adapters.adapter_config(sa3, kind="lora", rank=2, alpha=2.0, targets="transformer.*"))
    assert same(fingerprint(sa3.module), before)
