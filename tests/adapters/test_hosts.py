"""Which models a format has names for, what overwriting replaces, and Stability's newest files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from eisbach import adapters, stable_audio3_keys
from eisbach.adapters import convert
from eisbach.adapters.formats import host_names, low_rank, sa3
from eisbach.adapters.formats.low_rank import Factors, LowRankAdapter
from eisbach.backbones import create_backbone
from eisbach.errors import CheckpointError, UserError


def adapter_of(*layers: str) -> LowRankAdapter:
    return LowRankAdapter({layer: Factors(torch.ones(1, 4), torch.ones(4, 1)) for layer in layers}, 1, 1.0)


SAO = "transformer.transformer_blocks.0.attn1.to_q"
UNET = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
STRANGERS = ["dit.proj_in", UNET, "transformer.transformer_blocks.x.attn1.to_q", "proj_in", "transformer.layers.0.q"]


@pytest.mark.parametrize("to", ["sa3", "comfyui", "diffusers"])
@pytest.mark.parametrize("layer", STRANGERS)
def test_a_model_without_a_table_is_refused(tmp_path: Path, to: str, layer: str) -> None:
    out = tmp_path / ("x" if to == "diffusers" else "x.safetensors")
    with pytest.raises(UserError, match=f"1 of the adapter's 1 layers are not .*{to} has names for no other") as caught:
        convert.write(adapter_of(layer), to, out)
    assert "\n" not in str(caught.value)
    assert not out.exists()
    assert list(tmp_path.iterdir()) == []


def test_stable_audio_open_has_names_in_diffusers_alone(tmp_path: Path) -> None:
    convert.write(adapter_of(SAO), "diffusers", tmp_path / "parts")
    assert convert.host_layers(tmp_path / "parts", "diffusers") == ("Stable Audio Open", 1, 1)
    for to in ("sa3", "comfyui"):
        with pytest.raises(UserError, match="not Stable Audio 3's"):
            convert.write(adapter_of(SAO), to, tmp_path / "x.safetensors")


def test_layers_of_two_models_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 of the adapter's 3 layers"):
        convert.write(
            adapter_of("transformer.proj_in", "transformer.proj_out", "transformer.layers.0.self_attn.to_q"),
            "comfyui",
            tmp_path / "x.safetensors",
        )


def test_the_tables_agree_with_the_checkpoints_names(native: Path) -> None:
    """Stability's names of the table are those of its checkpoint; no conversion of ours is asked."""
    weights = load_file(native / "model.safetensors")
    (table,) = host_names.HOSTS["sa3"]
    there = {name.removeprefix("model.").removesuffix(".weight") for name in weights if name.endswith(".weight")}
    there |= {name.removeprefix("conditioner.").removesuffix(".weight") for name in weights if name.endswith(".weight")}
    for ours, theirs in table.layers.items():
        if "global_cond_embedder" not in ours:  # an option that the tiny checkpoint is without
            assert theirs.replace("N", "0") in there, theirs
            assert stable_audio3_keys.layer_from_native(theirs.replace("N", "0")) == ours.replace("N", "0")


@pytest.mark.parametrize(("first", "second"), [("peft", "peft"), ("peft", "diffusers"), ("diffusers", "peft")])
def test_overwriting_replaces_the_adapter_alone(make_adapter: Any, tmp_path: Path, first: str, second: str) -> None:
    make_adapter(tmp_path / "ours")
    adapter, out = convert.read(tmp_path / "ours"), tmp_path / "out"
    convert.write(adapter, first, out)
    (out / "my notes.txt").write_text("keep me")
    (out / "takes").mkdir()
    (out / "takes" / "1.wav").write_bytes(b"sound")
    convert.write(adapter, second, out, overwrite=True)
    assert (out / "my notes.txt").read_text() == "keep me"
    assert (out / "takes" / "1.wav").read_bytes() == b"sound"
    assert convert.detect(out) == second
    convert.write(adapter, second, tmp_path / "fresh")
    expected = {path.relative_to(tmp_path / "fresh") for path in (tmp_path / "fresh").rglob("*")}
    found = {path.relative_to(out) for path in out.rglob("*")}
    assert found - expected == {Path("my notes.txt"), Path("takes"), Path("takes/1.wav")}
    assert expected <= found


# --- Stability's newest files


def rewritten(source: Path, out: Path, change: Any) -> Path:
    tensors, metadata = low_rank.read_file(source)
    config = json.loads(metadata[sa3.CONFIG])
    tensors = {name: value.clone() for name, value in tensors.items()}
    change(tensors, config, metadata)
    metadata[sa3.CONFIG] = json.dumps(config)
    save_file(tensors, out, metadata=metadata)
    return out


def bake(native: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any], factor: float = 1.0) -> None:
    """Stability's formula on the native checkpoint's own tensors: ‖W + alpha / rank B A‖ of each row."""
    weights = load_file(native / "model.safetensors")
    for name in [name for name in tensors if name.endswith(".lora_A")]:
        prefix = name.removesuffix("lora_A")
        layer = name.split(".parametrizations")[0]
        weight = (
            weights[f"{'model' if layer.startswith('model.') else 'conditioner'}.{layer}.weight"].flatten(1).double()
        )
        update = tensors[prefix + "lora_B"].double() @ tensors[name].double()
        v = weight + config["alpha"] / config["rank"] * update
        tensors[prefix + "baked_vnorm_row"] = (factor * v.norm(dim=1)).float()
    config |= {"baked_norms": len(tensors) // 4, "norm_base": "medium-base"}


def test_baked_norms_are_read_and_held_against_the_model(sa3: Any, play: Any, native: Path, tmp_path: Path) -> None:
    source = native / "dora-rows.safetensors"
    adapters.attach(sa3, source)
    played = play(sa3)
    adapters.detach(sa3)
    baked = rewritten(source, tmp_path / "baked.safetensors", lambda t, c, m: bake(native, t, c))
    adapters.attach(sa3, baked)
    assert torch.equal(play(sa3), played)
    adapters.detach(sa3)
    before = {name: value.clone() for name, value in sa3.module.state_dict().items()}
    other = rewritten(source, tmp_path / "other.safetensors", lambda t, c, m: bake(native, t, c, 1.05))
    with pytest.raises(CheckpointError, match=r"baked into .* are of another base model.*5\.0%"):
        adapters.attach(sa3, other)
    assert all(torch.equal(value, before[name]) for name, value in sa3.module.state_dict().items())


def test_baked_norms_are_written_on_request(sa3: Any, native: Path, tmp_path: Path) -> None:
    adapter = convert.read(native / "dora-rows.safetensors")
    assert isinstance(adapter, LowRankAdapter)
    file = tmp_path / "x.safetensors"
    with pytest.raises(UserError, match="--bake-norms"):
        convert.write(adapter, "sa3", file, bake_norms=True)
    convert.write(adapter, "sa3", file, module=sa3.module, bake_norms=True)
    expected, config = load_file(native / "dora-rows.safetensors"), {"alpha": adapter.alpha, "rank": adapter.rank}
    bake(native, expected, config)
    written = load_file(file)
    assert written.keys() == expected.keys()
    for name, value in written.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=0)
    _, metadata = low_rank.read_file(file)
    assert json.loads(metadata["lora_config"])["baked_norms"] == len(adapter.layers)
    convert.write(convert.read(file), "sa3", tmp_path / "plain.safetensors")  # type: ignore[arg-type]
    assert "baked_norms" not in json.loads(low_rank.read_file(tmp_path / "plain.safetensors")[1]["lora_config"])


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("kind", ["lora-xs", "dora-rows-xs"])
def test_xs_is_read_as_the_lora_that_it_is(
    sa3: Any, play: Any, native: Path, tmp_path: Path, play_changed: Any, kind: str, stored: bool
) -> None:
    weights, rank = load_file(native / "model.safetensors"), 3
    names = [name for name in sorted(weights) if name.startswith("model.model.")]
    layers = [name for name in names if name.endswith(("self_attn.to_qkv.weight", "ff.ff.0.proj.weight"))]
    tensors, meant = {}, {}
    for index, name in enumerate(layers):
        weight = weights[name]
        u, _, vh = torch.linalg.svd(weight, full_matrices=False)
        signs = u[u.abs().argmax(dim=0), torch.arange(u.shape[1])].sign()
        u, v = (u * signs)[:, :rank], (vh * signs[:, None])[:rank].T
        core = torch.randn(rank, rank, generator=torch.Generator().manual_seed(index))
        changed = weight + 2.0 / rank * (u @ core @ v.T)
        prefix = name.removeprefix("model.").removesuffix(".weight") + ".parametrizations.weight.0."
        tensors[prefix + "M_xs"] = core
        if stored:
            tensors |= {prefix + "U": u.contiguous(), prefix + "V": v.contiguous()}
        if kind.startswith("dora"):
            magnitude = weight.norm(dim=1) * 1.1
            tensors[prefix + "magnitude"] = magnitude
            changed = changed * (magnitude / changed.norm(dim=1))[:, None]
        meant[name] = changed
    file = tmp_path / "xs.safetensors"
    save_file(tensors, file, metadata={"lora_config": json.dumps({"rank": rank, "alpha": 2.0, "adapter_type": kind})})
    expected = play_changed(lambda name, value: meant.get(name, value))
    adapters.attach(sa3, file)
    torch.testing.assert_close(play(sa3), expected, rtol=0, atol=3e-5)
    adapters.detach(sa3)
    if not stored:
        with pytest.raises(UserError, match=r"-xs type.*give --model"):
            convert.read(file)
    adapter = convert.read(file, convert.weights_of(sa3.module))
    assert isinstance(adapter, LowRankAdapter)
    convert.write(adapter, "sa3", tmp_path / "plain.safetensors", precision="fp32")
    adapters.attach(sa3, tmp_path / "plain.safetensors")
    torch.testing.assert_close(play(sa3), expected, rtol=0, atol=3e-5)


def test_what_a_trainer_noted_is_kept(native: Path, tmp_path: Path) -> None:
    def note(tensors: Any, config: dict[str, Any], metadata: dict[str, str]) -> None:
        config |= {"step": 120, "epoch": 3, "base_model": "sa3-medium"}
        metadata["trained_with"] = "underfit"

    noted = rewritten(native / "lora.safetensors", tmp_path / "noted.safetensors", note)
    for to, out in (("sa3", "a.safetensors"), ("peft", "b"), ("diffusers", "c")):
        adapter = convert.read(noted)
        assert isinstance(adapter, LowRankAdapter)
        convert.write(adapter, to, tmp_path / out)
        back = convert.read(tmp_path / out)
        assert isinstance(back, LowRankAdapter)
        convert.write(back, "sa3", tmp_path / "again.safetensors", overwrite=True)
        _, metadata = low_rank.read_file(tmp_path / "again.safetensors")
        config = json.loads(metadata["lora_config"])
        assert (config["step"], config["epoch"], config["base_model"]) == (120, 3, "sa3-medium")
        assert metadata["trained_with"] == "underfit"


@pytest.mark.parametrize(("kind", "precision"), [("lora", "fp16"), ("dora", "fp32")])
def test_the_precision_loses_nothing_that_matters(make_adapter: Any, tmp_path: Path, kind: str, precision: str) -> None:
    make_adapter(tmp_path / "ours", kind=kind, size=0.003)
    adapter = convert.read(tmp_path / "ours")
    assert isinstance(adapter, LowRankAdapter)
    written = convert.write(adapter, "sa3", tmp_path / "x.safetensors")
    assert written.precision == precision
    if kind == "lora":
        assert written.rounding is not None
        assert written.rounding < 0.01


def test_an_embedded_model_has_no_host() -> None:
    backbone = create_backbone()
    layers = [name for name, layer in backbone.module.named_modules() if isinstance(layer, torch.nn.Linear)]
    for to in host_names.HOSTS:
        with pytest.raises(UserError, match="use --to peft"):
            host_names.table_for(to, layers)


def test_an_excluded_part_of_the_network_is_excluded(sa3: Any) -> None:
    names = adapters.inject(
        sa3, adapters.adapter_config(sa3, kind="lora", rank=2, alpha=2.0, exclude=["duration_embedder", "cross_attn"])
    )
    assert names
    assert not any("duration_embedder" in name or "cross_attn" in name for name in names)
    with pytest.raises(UserError, match=r"adapter\.exclude names 'durations'.*duration_embedder"):
        adapters.adapter_config(sa3, kind="lora", rank=2, alpha=2.0, exclude=["durations"])
