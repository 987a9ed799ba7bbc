"""Frozen weights in bf16 and gradient checkpointing: what they save, and that they change nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from eisbach.backbones import create_backbone, load_backbone
from eisbach.errors import ConfigError, UserError
from eisbach.training import train
from eisbach.training.assembly import inject_adapter
from eisbach.training.config import TrainConfig
from eisbach.training.devices import checkpoint_activations, compile_blocks, compile_mode, frozen_dtype

Configure = Callable[..., TrainConfig]


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def moved(tensors: dict[str, torch.Tensor]) -> bool:
    return any(value.abs().max() > 0 for name, value in tensors.items() if "lora_B" in name)


def test_frozen_bf16_under_bf16_training_differs_by_rounding_alone(configure: Configure) -> None:
    """Autocast reads linear layers and convolutions in bf16 anyway; free parameters are rounded, and what they are
    added to is bf16 from there on."""
    results = [
        adapter(train(configure(frozen, precision="bf16", frozen=frozen, steps=3), quiet=True))
        for frozen in ("fp32", "bf16")
    ]
    assert moved(results[0])
    assert all(value.dtype == torch.float32 for value in results[1].values())
    assert results[0].keys() == results[1].keys()
    mine, its = (torch.cat([result[name].flatten() for name in sorted(result)]) for result in results)
    assert (mine - its).norm() < 0.02 * mine.norm()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_gives_the_same_adapter_bit_for_bit(configure: Configure, dropout: float) -> None:
    kind = {"type": "dora", "rank": 2, "dropout": dropout}
    results = [
        adapter(train(configure(str(on), adapter=kind, steps=3, gradient_checkpointing=on), quiet=True))
        for on in (False, True)
    ]
    assert moved(results[0])
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


def test_checkpointing_may_be_switched_on_when_a_run_is_continued(configure: Configure) -> None:
    whole = adapter(train(configure("whole"), quiet=True))
    train(configure("parts", steps=3), quiet=True)
    parts = adapter(train(configure("parts", gradient_checkpointing=True), quiet=True))
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


@pytest.mark.parametrize("on", [False, True])
def test_checkpointing_keeps_less_for_the_backward_pass(configure: Configure, tiny_model: Path, on: bool) -> None:
    backbone = create_backbone(
        {"latent_channels": 8, "width": 32, "depth": 4, "heads": 2, "text_width": 16, "vocabulary": ["cello"]}
    )
    inject_adapter(configure(), backbone)
    module = backbone.module.train()
    if on:
        assert checkpoint_activations(module) == 1
    frozen = {value.untyped_storage().data_ptr() for value in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in frozen:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x_t = torch.randn(2, 8, 64, generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        backbone.predict(x_t, torch.tensor([0.3, 0.8]), backbone.condition(["cello"] * 2, [4.0] * 2)).sum().backward()
    blocks = 4 * 2 * (64 + 8) * 32 * 4  # the input of each block, bytes
    assert (sum(kept.values()) < 4 * blocks) == on


def test_a_network_without_checkpointing_is_refused() -> None:
    with pytest.raises(ConfigError, match="gradient_checkpointing is true"):
        checkpoint_activations(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("frozen", "precision", "device", "expected"),
    [
        ("auto", "bf16", "cuda", torch.bfloat16),
        ("auto", "bf16", "cpu", None),
        ("auto", "no", "cuda", None),
        ("fp32", "bf16", "cuda", None),
        ("bf16", "bf16", "cpu", torch.bfloat16),
    ],
)
def test_auto_means_bf16_where_training_is_bf16_on_a_gpu(
    configure: Configure, frozen: str, precision: str, device: str, expected: torch.dtype | None
) -> None:
    accelerator: Any = SimpleNamespace(mixed_precision=precision, device=torch.device(device))
    assert frozen_dtype(configure(frozen=frozen), accelerator) is expected


def test_contradictions_are_refused_together(configure: Configure) -> None:
    with pytest.raises(UserError) as fault:
        configure(
            frozen="bf16", precision="fp32", adapter={"type": "lora", "norm_gradient": "full"}, gradient_checkpointing=3
        )
    for part in ("frozen weights in bf16 need", "norm_gradient", "adapter.type dora alone", "gradient_checkpointing"):
        assert part in str(fault.value)
    with pytest.raises(UserError, match="nothing is frozen"):
        configure(frozen="bf16", adapter={"type": "none"})
    accelerator: Any = SimpleNamespace(mixed_precision="no", device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="precision auto means fp32"):
        frozen_dtype(configure(frozen="bf16"), accelerator)


def test_the_norm_gradient_reaches_the_layers(configure: Configure, tiny_model: Path) -> None:
    found = {}
    for name in (None, "detached", "full"):
        backbone = load_backbone(str(tiny_model))
        config = configure(adapter={"type": "dora", "rank": 2, "norm_gradient": name})
        inject_adapter(config, backbone)
        found[name] = {layer.norm_gradient for layer in backbone.module.modules() if hasattr(layer, "norm_gradient")}
        assert config.adapter.norm_gradient == (name or "detached")
    assert found == {None: {"detached"}, "detached": {"detached"}, "full": {"full"}}
    assert configure(adapter={"type": "lora"}).adapter.norm_gradient is None


# Few bits and compiled blocks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["int8", "fp8", "nf4"])
@pytest.mark.whole
def test_a_run_over_quantised_weights_trains_and_continues_bit_for_bit(configure: Configure, form: str) -> None:
    pytest.importorskip("torchao")
    options: dict[str, Any] = {"frozen": form, "adapter": {"type": "dora", "rank": 2}}
    whole = adapter(train(configure("whole", **options), quiet=True))
    train(configure("parts", steps=3, **options), quiet=True)
    parts = adapter(train(configure("parts", **options), quiet=True))
    plain = adapter(train(configure("plain", adapter={"type": "dora", "rank": 2}), quiet=True))
    assert moved(whole)
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert not all(torch.equal(value, plain[name]) for name, value in whole.items())


def test_an_optimiser_in_eight_bits_trains_and_continues_bit_for_bit(configure: Configure) -> None:
    pytest.importorskip("torchao")
    options: dict[str, Any] = {"optimiser": {"type": "adamw8bit", "lr": 1e-3}, "adapter": {"type": "none"}}

    def model(folder: Path) -> dict[str, torch.Tensor]:
        return load_file(folder / "model" / "model.safetensors")

    straight = train(configure("whole", **options), quiet=True)
    moments = load_file(straight / "checkpoints" / "step-000006" / "optimizer.safetensors")
    assert {value.dtype for name, value in moments.items() if name.startswith("exp_avg_codes")} == {torch.uint8}
    train(configure("parts", steps=3, **options), quiet=True)
    parts = model(train(configure("parts", **options), quiet=True))
    whole = model(straight)
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    exact = model(train(configure("exact", **{**options, "optimiser": {"lr": 1e-3}}), quiet=True))
    start = load_file(Path(configure().model) / "model.safetensors")
    step = sum(float((exact[name] - start[name]).square().sum()) for name in exact) ** 0.5
    apart = sum(float((exact[name] - whole[name]).square().sum()) for name in exact) ** 0.5
    assert 0 < apart < 0.1 * step


@pytest.mark.slow
def test_compiled_blocks_train_what_plain_ones_train(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    from eisbach.training import trainer

    compiled: list[int] = []

    def compile_eagerly(module: nn.Module, **options: Any) -> int:
        compiled.append(compile_blocks(module, backend="eager", **options))
        return compiled[-1]

    monkeypatch.setattr(trainer, "compile_blocks", compile_eagerly)
    native = str(Path(__file__).parent.parent / "fixtures" / "sa3_native_tiny")
    options: dict[str, Any] = {
        "model": native,
        "adapter": {"type": "dora", "rank": 2},
        "optimiser": {"lr": 1e-3},
        "steps": 2,
        "gradient_checkpointing": True,
    }
    plain = adapter(train(configure("plain", **options), quiet=True))
    found = adapter(train(configure("compiled", compile="regional", **options), quiet=True))
    assert compiled == [2]
    assert moved(plain)
    mine, its = (torch.cat([result[name].flatten() for name in sorted(result)]) for result in (plain, found))
    assert (mine - its).norm() < 1e-3 * mine.norm()  # sums in another order, before AdamW's division


def test_what_compile_means_where(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils import _triton

    monkeypatch.setattr(_triton, "has_triton", lambda: True)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert configure().compile == "auto"
    assert compile_mode(configure(), cpu) == "off"
    assert compile_mode(configure(), cuda) == "regional"
    assert compile_mode(configure(frozen="int8"), cuda) == "off"
    assert compile_mode(configure(compile="graphs"), cuda) == "graphs"
    assert configure(compile=True).compile == "whole"
    assert configure(compile=False).compile == "off"
    with pytest.raises(ConfigError, match="needs a CUDA GPU"):
        compile_mode(configure(compile="graphs"), cpu)
    monkeypatch.setattr(_triton, "has_triton", lambda: False)
    assert compile_mode(configure(), cuda) == "off"
    assert compile_blocks(nn.Sequential(nn.Linear(2, 2)), required=False) == 0
    with pytest.raises(ConfigError, match="no repeated blocks"):
        compile_blocks(nn.Sequential(nn.Linear(2, 2)))


def test_a_run_from_before_the_new_keys_goes_on(configure: Configure) -> None:
    """`compile` was a switch and `optimiser.type` was not there: neither makes another recipe of an old run."""
    from eisbach.training.run_folder import recipe_hash

    hashes = {recipe_hash(configure(compile=mode)) for mode in (False, "auto", "whole")}
    assert len(hashes) == 1
    assert recipe_hash(configure(optimiser={"type": "adamw8bit", "lr": 1e-2})) not in hashes
