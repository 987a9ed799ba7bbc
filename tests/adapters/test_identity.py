"""Which adapter it is: what plays counts, in every format, and how it is written down does not."""

from __future__ import annotations

import json
import random
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from eisbach import adapters
from eisbach.adapters import convert
from eisbach.adapters.formats.low_rank import Factors, LowRankAdapter
from eisbach.errors import CheckpointError
from eisbach.output_folder import weights_identity
from eisbach.stable_audio3_keys import DURATION
from eisbach.tensor_files import read_header, read_tensors, write_tensors

ACE = "layers.0.self_attn.to_q"


@pytest.fixture
def adapter(make_adapter: Any, tmp_path: Path) -> LowRankAdapter:
    make_adapter(tmp_path / "made", alpha=4.0)
    made = convert.read(tmp_path / "made")
    assert isinstance(made, LowRankAdapter)
    return made


def shuffled(path: Path) -> None:
    """The same file with its metadata, and the entries of every object in them, in another order."""

    def turned(value: Any) -> Any:
        return {key: turned(value[key]) for key in reversed(value)} if isinstance(value, dict) else value

    def turned_text(text: str) -> str:
        try:
            return json.dumps(turned(json.loads(text)), indent=1)
        except ValueError:
            return text

    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    texts = {key: turned_text(text) for key, text in reversed(header.pop("__metadata__", {}).items())}
    entries = list(header.items())
    random.Random(0).shuffle(entries)
    made = json.dumps({**dict(entries), "__metadata__": {"note": "another", **texts}}).encode()
    made += b" " * (-len(made) % 8)
    path.write_bytes(struct.pack("<Q", len(made)) + made + content[8 + size :])


@pytest.mark.parametrize("kind", convert.FORMATS)
def test_equal_factors_of_another_alpha_are_another_adapter(
    adapter: LowRankAdapter, sa3: Any, tmp_path: Path, kind: str
) -> None:
    places = [tmp_path / f"{alpha}.safetensors" for alpha in (4.0, 6.0)]
    for place, alpha in zip(places, (4.0, 6.0), strict=True):
        convert.write(replace(adapter, alpha=alpha), kind, place, module=sa3.module, drop_conditioner=True)
    first, second = map(weights_identity, places)
    assert first != second

    for file in [places[0], *places[0].rglob("*")] if places[0].is_dir() else [places[0]]:
        if file.suffix == ".safetensors" and file.is_file():
            shuffled(file)
        elif file.name == "adapter_config.json":
            values = json.loads(file.read_text())
            values |= {"lora_alpha": int(values["lora_alpha"]), "base_model_name_or_path": "elsewhere"}
            file.write_text(json.dumps(dict(reversed(values.items()))))
    assert weights_identity(places[0]) == first
    assert set(convert.read(places[0]).layers) == set(adapter.layers) - ({DURATION} if kind == "comfyui" else set())


@pytest.mark.parametrize(
    ("config", "same"),
    [
        ({"alpha": 2, "adapter_type": "lora"}, True),
        ({"alpha": 2.0, "rank": 2}, True),
        ({"dropout": 0.5, "step": 9, "include": ["x"]}, True),
        ({"alpha": 2.5}, False),
        ({"adapter_type": "dora-rows"}, False),
    ],
)
def test_a_native_file_without_an_alpha_is_the_one_that_states_its_rank(
    tmp_path: Path, config: dict[str, Any], same: bool
) -> None:
    name = "model.transformer.layers.0.self_attn.to_q.parametrizations.weight.0"
    tensors = {f"{name}.lora_A": torch.ones(2, 4), f"{name}.lora_B": torch.ones(3, 2)}
    for file, values in (("plain", {}), ("told", config)):
        write_tensors(tmp_path / file, tensors, {"lora_config": json.dumps(values)})
    assert (weights_identity(tmp_path / "plain") == weights_identity(tmp_path / "told")) == same


# --- diffusers' own configuration


def ace_file(folder: Path, told: dict[str, Any] | None, rank: int = 2) -> Path:
    """`pytorch_lora_weights.safetensors` as `save_lora_weights` writes it, with or without its configuration."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"transformer.{ACE}.lora_A.weight": torch.randn(rank, 8, generator=generator),
        f"transformer.{ACE}.lora_B.weight": torch.randn(6, rank, generator=generator),
    }
    texts = {} if told is None else {"lora_adapter_metadata": json.dumps({f"transformer.{k}": told[k] for k in told})}
    write_tensors(folder / "pytorch_lora_weights.safetensors", tensors, {"format": "pt", **texts})
    return folder


def factors_of(adapter: Any) -> Factors:
    assert list(adapter.layers) == [f"transformer.{ACE}"] or list(adapter.layers) == [ACE]
    factors = next(iter(adapter.layers.values()))
    assert isinstance(factors, Factors)
    return factors


@pytest.mark.parametrize("options", [{"use_rslora": False}, {"use_rslora": True}, {"alpha_pattern": {"to_q": 10}}])
def test_the_scale_that_diffusers_states_is_the_one_that_plays(tmp_path: Path, options: dict[str, Any]) -> None:
    from peft import LoraConfig, inject_adapter_in_model
    from peft.utils import set_peft_model_state_dict

    told = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["to_q"], **options}
    folder = ace_file(tmp_path / "told", told)
    ours = convert.read(folder)
    assert isinstance(ours, LowRankAdapter)
    factors = factors_of(ours)

    # what peft makes of the same configuration and tensors
    net = torch.nn.ModuleDict({"to_q": torch.nn.Linear(8, 6, bias=False)})
    torch.nn.init.zeros_(net["to_q"].weight)
    config = LoraConfig(**{key: value for key, value in told.items() if key != "peft_type"})
    inject_adapter_in_model(config, net, "default")
    tensors = read_tensors(folder / "pytorch_lora_weights.safetensors")
    set_peft_model_state_dict(net, {f"to_q.{name.partition('to_q.')[2]}": value for name, value in tensors.items()})
    net["to_q"].merge()
    torch.testing.assert_close(ours.scale * factors.b @ factors.a, net["to_q"].base_layer.weight.detach())

    plain = convert.read(ace_file(tmp_path / "plain", None))
    assert isinstance(plain, LowRankAdapter)
    assert plain.scale == 1.0
    assert weights_identity(tmp_path / "plain") != weights_identity(tmp_path / "told")
    assert read_header(folder / "pytorch_lora_weights.safetensors").metadata["format"] == "pt"


@pytest.mark.parametrize(
    "told", [{"r": 3}, {"r": "x"}, {"r": 2, "bias": "all"}, {"peft_type": "LOHA"}, {"r": 2, "modules_to_save": ["x"]}]
)
def test_a_configuration_that_does_not_fit_is_refused(tmp_path: Path, told: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError) as caught:
        convert.read(ace_file(tmp_path / "told", told))
    assert "\n" not in str(caught.value)


# --- what a foreign adapter asks for beside its factors


@pytest.mark.parametrize(
    "entries",
    [
        {"auto_mapping": {"base_model_class": "Evil", "parent_library": "evil.module"}},
        {"base_model_name_or_path": "owner/another-model", "revision": "main"},
        {"base_model_name_or_path": "/etc/passwd", "runtime_config": {"ephemeral_gpu_offload": True}},
        {"modules_to_save": [], "peft_version": "99.0"},
    ],
)
def test_what_a_peft_folder_says_of_elsewhere_is_not_followed(
    make_adapter: Any, sa3: Any, play: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: dict[str, Any]
) -> None:
    import socket

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    played = make_adapter(tmp_path / "ours")
    file = tmp_path / "ours" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    adapters.attach(sa3, tmp_path / "ours")
    torch.testing.assert_close(play(sa3), played, rtol=0, atol=2e-6)


def test_modules_that_are_saved_whole_are_refused(make_adapter: Any, sa3: Any, tmp_path: Path) -> None:
    make_adapter(tmp_path / "ours")
    before = sa3.identity()
    file = tmp_path / "ours" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "modules_to_save": ["proj_out"]}))
    with pytest.raises(CheckpointError, match="modules_to_save"):
        adapters.attach(sa3, tmp_path / "ours")
    assert sa3.identity() == before


def test_a_comfyui_file_without_alphas_plays_as_with_its_rank(adapter: LowRankAdapter, tmp_path: Path) -> None:
    adapter = replace(adapter, alpha=float(adapter.rank))
    convert.write(adapter, "comfyui", tmp_path / "told.safetensors", drop_conditioner=True)
    tensors = read_tensors(tmp_path / "told.safetensors")
    plain = {name: value for name, value in tensors.items() if not name.endswith(".alpha")}
    assert len(plain) < len(tensors)
    write_tensors(tmp_path / "plain.safetensors", plain, {})
    told, silent = convert.read(tmp_path / "told.safetensors"), convert.read(tmp_path / "plain.safetensors")
    assert isinstance(told, LowRankAdapter)
    assert isinstance(silent, LowRankAdapter)
    assert told.scale == silent.scale == 1.0
