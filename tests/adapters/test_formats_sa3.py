"""Stability's adapter files: theirs played here, ours by their arithmetic."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from eisbach import adapters
from eisbach import stable_audio3_keys as keys
from eisbach.adapters import convert
from eisbach.adapters.formats import low_rank
from eisbach.adapters.formats import sa3 as sa3_format
from eisbach.adapters.formats.low_rank import Factors, LowRankAdapter
from eisbach.errors import CheckpointError, UserError


def metadata(path: Path) -> dict[str, str]:
    with safe_open(str(path), framework="pt") as file:
        return dict(file.metadata())


def native_weight(path: Path) -> Callable[[str, torch.Tensor], torch.Tensor]:
    """What Stability's parametrisation makes of a checkpoint's tensors, in its own names and rows."""
    tensors, config = load_file(path), json.loads(metadata(path)["lora_config"])
    left = set(tensors)

    def change(name: str, weight: torch.Tensor) -> torch.Tensor:
        layer = name.removeprefix("model.").removeprefix("conditioner.").removesuffix(".weight")
        prefix = f"{layer}.parametrizations.weight.0."
        parts = {
            part: tensors[prefix + part].float() for part in ("lora_A", "lora_B", "magnitude") if prefix + part in left
        }
        if not parts:
            return weight
        v = weight.flatten(1) + config["alpha"] / config["rank"] * parts["lora_B"] @ parts["lora_A"]
        if config["adapter_type"] == "dora-rows":
            v = v / (v.norm(dim=1, keepdim=True) + 1e-12) * parts["magnitude"][:, None]
        return v.view(weight.shape)

    return change


@pytest.mark.parametrize("kind", ["lora", "dora-rows"])
def test_a_native_file_plays_as_stabilitys_code_plays_it(
    sa3: Any, native: Path, play: Any, reference: dict[str, torch.Tensor], kind: str
) -> None:
    base = play(sa3)
    assert adapters.attach(sa3, native / f"{kind}.safetensors") == 31
    wanted = reference[f"velocity_{kind}"]
    assert (wanted - base).abs().max() > 0.05
    assert (play(sa3) - wanted).abs().max() < 1e-5
    with torch.no_grad():
        embedding = sa3.duration_embedder(torch.tensor([2.0, 3.5]))[:, None]
    assert (embedding - reference[f"seconds_embedding_{kind}"]).abs().max() < 1e-5
    adapters.detach(sa3)
    assert torch.equal(play(sa3), base)


@pytest.mark.parametrize("kind", ["lora", "dora-rows"])
@pytest.mark.parametrize("between", ["peft", "diffusers"])
def test_through_a_folder_and_back_every_byte_is_the_same(
    tmp_path: Path, native: Path, kind: str, between: str
) -> None:
    file = native / f"{kind}.safetensors"
    convert.write(convert.read(file), between, tmp_path / "folder")
    convert.write(convert.read(tmp_path / "folder"), "sa3", tmp_path / "back.safetensors")
    assert (tmp_path / "back.safetensors").read_bytes() == file.read_bytes()


SHAPES = [
    {"kind": "lora", "rank": 2, "alpha": 6.0},
    {"kind": "dora", "rank": 3, "alpha": 4.5},
    {"kind": "dora", "rank": 1, "alpha": 2.0},
    {"kind": "lora", "rank": 1, "alpha": 1.0, "exclude": ["duration_embedder.linear", "ff.proj_in"]},
    {"kind": "dora", "rank": 2, "alpha": 1.0, "targets": ["preprocess_conv", "proj_out", "to_qkv", "to_local_embed.0"]},
]


@pytest.mark.parametrize("options", SHAPES)
def test_ours_in_fp32_plays_the_same_by_their_arithmetic_and_ours(
    sa3: Any, play: Any, make_adapter: Any, play_changed: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    played = make_adapter(tmp_path / "ours", **options)
    file = tmp_path / "native.safetensors"
    written = convert.write(convert.read(tmp_path / "ours"), "sa3", file, module=sa3.module, precision="fp32")
    assert written.layers == len({name.partition(".param")[0] for name in load_file(file)})
    assert (played - play(sa3)).abs().max() > 0.01
    torch.testing.assert_close(play_changed(native_weight(file)), played, rtol=0, atol=2e-6)
    adapters.attach(sa3, file)
    torch.testing.assert_close(play(sa3), played, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_ours_in_half_precision_has_their_fields_and_nearly_the_same_output(
    sa3: Any, native: Path, play: Any, make_adapter: Any, tmp_path: Path, kind: str
) -> None:
    everything = [name for name, layer in sa3.module.named_modules() if isinstance(layer, (nn.Linear, nn.Conv1d))]
    played = make_adapter(tmp_path / "ours", kind=kind, rank=4, alpha=4.0, targets=everything, size=0.02)
    file = tmp_path / "native.safetensors"
    convert.write(convert.read(tmp_path / "ours"), "sa3", file, module=sa3.module, precision="fp16")
    theirs = native / ("lora.safetensors" if kind == "lora" else "dora-rows.safetensors")
    ours, wanted = load_file(file), load_file(theirs)
    assert {name: (value.shape, value.dtype) for name, value in ours.items()} == {
        name: (value.shape, value.dtype) for name, value in wanted.items()
    }
    config = json.loads(metadata(file)["lora_config"])
    expected = json.loads(metadata(theirs)["lora_config"])
    assert list(config) == list(expected)
    assert {name: type(value) for name, value in config.items() if name != "include"} == {
        name: type(value) for name, value in expected.items() if name != "include"
    }
    assert json.loads(metadata(file)["eisbach"])["base_identity"] == sa3.identity()
    base = play(sa3)
    adapters.attach(sa3, file)
    assert (play(sa3) - played).norm() < (1e-3 if kind == "lora" else 1e-2) * (played - base).norm()


def expand(pattern: str) -> list[str]:
    """Bracket ranges, as Stability's loader reads them."""
    parts = re.split(r"\[(\d+)-(\d+)\]", pattern)
    ranges = [range(int(a), int(b) + 1) for a, b in zip(parts[1::3], parts[2::3], strict=True)]
    texts = parts[0::3]
    made = []
    for numbers in itertools.product(*ranges):
        made.append(texts[0] + "".join(f"{number}{text}" for number, text in zip(numbers, texts[1:], strict=True)))
    return made


def test_include_picks_the_adapted_layers_and_no_others() -> None:
    blocks = [
        f"model.transformer.layers.{n}.{part}" for n in range(24) for part in ("self_attn.to_qkv", "ff.ff.0.proj")
    ]
    others = ["model.to_cond_embed.0", "model.to_cond_embed.2", "model.transformer.project_in", keys.NATIVE_DURATION]
    chosen = [name for name in blocks if "layers.1." in name or int(name.split(".")[3]) > 10] + [others[0], others[3]]
    patterns = sa3_format.layer_patterns(chosen)
    assert len(patterns) == 6
    picked = [name for name in blocks + others if any(text in name for pattern in patterns for text in expand(pattern))]
    assert sorted(picked) == sorted(chosen)


def test_every_layer_of_the_network_has_a_native_name_of_the_checkpoint(sa3: Any, native: Path) -> None:
    checkpoint = set(load_file(native / "model.safetensors"))
    layers = [name for name, layer in sa3.module.named_modules() if isinstance(layer, (nn.Linear, nn.Conv1d))]
    for layer in layers:
        name = keys.layer_to_native(layer)
        assert name is not None
        assert keys.layer_from_native(name) == layer
        root = "conditioner." if name.startswith("conditioners.") else "model."
        assert f"{root}{name}.weight" in checkpoint
    assert keys.layer_from_native("conditioners.prompt.proj") is None
    assert keys.layer_to_native("dit.proj_in") is None


def test_only_differential_attention_has_other_rows() -> None:
    rows = torch.arange(20.0)
    assert torch.equal(keys.rows_to_diffusers("a.self_attn.to_qkv", rows[:12], 4), rows[:12])
    assert torch.equal(keys.rows_to_diffusers("a.cross_attn.to_kv", rows, 4), rows)
    moved = keys.rows_to_diffusers("a.self_attn.to_qkv", rows, 4)
    assert moved.tolist() == [*range(4), *range(12, 16), *range(4, 8), *range(16, 20), *range(8, 12)]
    assert torch.equal(keys.rows_to_native("a.self_attn.to_qkv", moved, 4), rows)


def test_small_factors_survive_half_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(4, 32, generator=generator), 1e-6 * torch.randn(48, 4, generator=generator)
    kept = low_rank.stored(Factors(a, b), "fp16", "layer")
    product, exact = kept.b.double() @ kept.a.double(), b.double() @ a.double()
    assert (product - exact).norm() < 5e-4 * exact.norm()
    rounded = b.half().double() @ a.half().double()
    assert (rounded - exact).norm() > 0.01 * exact.norm()  # what storing them as they are would lose


def test_factors_that_are_exact_are_stored_as_they_are() -> None:
    a, b = torch.tensor([[1.0, 1e-3]]).half(), torch.tensor([[6e-8], [2.0]]).half()
    kept = low_rank.stored(Factors(a.float(), b.float()), "fp16", "layer")
    assert torch.equal(kept.a, a)
    assert torch.equal(kept.b, b)


def rewritten(native: Path, path: Path, damage: str) -> None:
    """A native file with one thing wrong."""
    tensors, told = load_file(native / "dora-rows.safetensors"), metadata(native / "dora-rows.safetensors")
    config = json.loads(told["lora_config"])
    first = "model.to_cond_embed.0.parametrizations.weight.0."
    if damage == "missing":
        tensors.pop(first + "magnitude")
    elif damage == "stranger":
        tensors["model.to_cond_embed.0.weight"] = torch.ones(2)
    elif damage == "stacked":
        tensors["model.to_cond_embed.0.parametrizations.weight.1.lora_A"] = torch.ones(2)
    elif damage == "rank":
        config["rank"] = 8
    elif damage == "columns":
        tensors[first + "magnitude"] = torch.ones(768).half()
    elif damage == "type":
        config["adapter_type"] = "bora"
    elif damage == "untold":
        config.pop("adapter_type")
    elif damage == "text":
        tensors["conditioners.prompt.proj.parametrizations.weight.0.lora_A"] = torch.ones(4, 2)
        tensors["conditioners.prompt.proj.parametrizations.weight.0.lora_B"] = torch.ones(2, 4)
        tensors["conditioners.prompt.proj.parametrizations.weight.0.magnitude"] = torch.ones(2)
    elif damage == "nan":
        tensors[first + "lora_A"][0, 0] = float("nan")
    elif damage == "alpha":
        config["alpha"] = "much"
    elif damage == "nothing":
        tensors = {}
    save_file(tensors, path, metadata={"lora_config": json.dumps(config)})
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("missing", "needs lora_A, lora_B, magnitude"),
        ("stranger", "93 of 94 tensors"),
        ("stacked", "93 of 94 tensors"),
        ("rank", "says rank 8"),
        ("columns", "dora-cols"),
        ("type", "type 'bora'"),
        ("untold", "type 'lora' needs lora_A, lora_B"),
        ("text", "adapts 'conditioners.prompt.proj'"),
        ("nan", "1 of 93 tensors .* not finite"),
        ("alpha", "lora_config that cannot be read"),
        ("nothing", "holds no weights"),
        ("truncated", "truncated"),
    ],
)
def test_bad_files_are_refused_in_a_sentence(
    sa3: Any, native: Path, play: Any, tmp_path: Path, damage: str, sentence: str
) -> None:
    path = tmp_path / "bad.safetensors"
    rewritten(native, path, damage)
    names = list(sa3.module.state_dict())
    with pytest.raises(CheckpointError, match=sentence):
        adapters.attach(sa3, path)
    assert list(sa3.module.state_dict()) == names


def test_an_adapter_of_another_model_is_refused(sa3: Any, tiny_model: Path, native: Path, tmp_path: Path) -> None:
    from eisbach.backbones import load_backbone

    file = native / "lora.safetensors"
    with pytest.raises(CheckpointError, match="0 of the 31 layers"):
        adapters.attach(load_backbone(str(tiny_model)), file)
    adapter = sa3_format.read(file)
    wider = {
        name: Factors(torch.ones(4, 99), f.b) if "to_cond_embed.0" in name else f for name, f in adapter.layers.items()
    }
    sa3_format.write(tmp_path / "wide.safetensors", LowRankAdapter(wider, 4, 4.0))
    with pytest.raises(CheckpointError, match=r"to_cond_embed.0' is for a weight of \[128, 99\]"):
        adapters.attach(sa3, tmp_path / "wide.safetensors")
    with pytest.raises(UserError, match="not Stable Audio 3's"):
        sa3_format.write(
            tmp_path / "x.safetensors",
            LowRankAdapter({"dit.proj_in": Factors(torch.ones(1, 2), torch.ones(2, 1))}, 1, 1.0),
        )


def test_the_stamp_is_checked_and_may_be_overridden(sa3: Any, play: Any, make_adapter: Any, tmp_path: Path) -> None:
    played = make_adapter(tmp_path / "ours", stamp={"base_identity": "the-other-one"})
    file = tmp_path / "ours.safetensors"
    convert.write(convert.read(tmp_path / "ours"), "sa3", file, precision="fp32")
    for path in (file, tmp_path / "ours"):
        with pytest.raises(CheckpointError, match=r"the-other-one.*--any-base"):
            adapters.attach(sa3, path)
        adapters.attach(sa3, path, any_base=True)
        torch.testing.assert_close(play(sa3), played, rtol=0, atol=2e-6)
        adapters.detach(sa3)


def test_another_rank_in_some_layers_becomes_one_rank(sa3: Any, play: Any, make_adapter: Any, tmp_path: Path) -> None:
    """peft's patterns of ranks and alphas have no counterpart in other formats: zeros fill up, B carries the scale."""
    from peft import LoraConfig

    from eisbach.adapters.formats import peft as peft_format

    config = LoraConfig(
        r=4, lora_alpha=2.0, target_modules=["to_out", "to_q"], rank_pattern={"to_q": 2}, alpha_pattern={"to_q": 6.0}
    )
    parameters = adapters.inject(sa3, config)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter += 0.1
    peft_format.save(tmp_path / "ours", sa3.module, config, {})
    played = play(sa3)
    adapters.remove_layers(sa3.module)
    adapter = peft_format.read_adapter(tmp_path / "ours")
    assert adapter.rank == 4
    convert.write(adapter, "sa3", tmp_path / "native.safetensors", precision="fp32")
    adapters.attach(sa3, tmp_path / "native.safetensors")
    torch.testing.assert_close(play(sa3), played, rtol=0, atol=2e-6)


@pytest.mark.parametrize("form", ["no configuration", "dora", "columns of one"])
def test_older_native_files(
    sa3: Any, native: Path, play: Any, reference: dict[str, torch.Tensor], tmp_path: Path, form: str
) -> None:
    """Stability's loader fills in rank, alpha = rank and plain LoRA, and takes `dora` and magnitudes of (out, 1) for
    rows."""
    kind = "lora" if form == "no configuration" else "dora-rows"
    tensors, told = load_file(native / f"{kind}.safetensors"), metadata(native / f"{kind}.safetensors")
    if form == "no configuration":
        told = {"format": "pt"}
    else:
        told["lora_config"] = told["lora_config"].replace("dora-rows", "dora")
    if form == "columns of one":
        tensors = {name: value[:, None] if name.endswith("magnitude") else value for name, value in tensors.items()}
    save_file(tensors, tmp_path / "old.safetensors", metadata=told)
    adapters.attach(sa3, tmp_path / "old.safetensors")
    assert (play(sa3) - reference[f"velocity_{kind}"]).abs().max() < 1e-5


def test_what_half_precision_loses_of_a_small_dora_is_said(sa3: Any, make_adapter: Any, tmp_path: Path) -> None:
    for size, precision, least, most in (
        (0.1, "fp16", 1e-4, 0.02),
        (1e-3, "fp16", 0.03, 1.0),
        (1e-3, "fp32", 0.0, 1e-4),
    ):
        make_adapter(tmp_path / "ours", kind="dora", size=size)
        adapter, file = convert.read(tmp_path / "ours"), tmp_path / "native.safetensors"
        written = convert.write(adapter, "sa3", file, module=sa3.module, precision=precision, overwrite=True)
        assert written.rounding is not None
        assert least <= written.rounding < most
        assert len(written.notes) == (written.rounding > 0.02)


def test_generations_of_two_files_are_told_apart(native: Path, tmp_path: Path) -> None:
    from eisbach.output_folder import weights_identity

    convert.write(convert.read(native / "lora.safetensors"), "diffusers", tmp_path / "parts")
    paths = [native / "lora.safetensors", native / "dora-rows.safetensors", tmp_path / "parts", tmp_path]
    assert len({weights_identity(path) for path in paths}) == 4
