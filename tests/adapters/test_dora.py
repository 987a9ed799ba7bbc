"""The closed-form DoRA layer against autograd on the weight as written, against peft's layer, and under a training
loop's conditions."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from eisbach import adapters
from eisbach.adapters.dora import dora_linear, measure_rows, row_norm
from eisbach.adapters.formats import peft as peft_format
from eisbach.backbones import load_backbone
from eisbach.errors import ConfigError

SCALE, ROWS, COLUMNS, RANK = 1.7, 7, 5, 2


def drawn(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def as_written(x, weight, bias, a, b, magnitude, scale, dropped, norm_gradient):
    """W' = m V / ||V||, V = W + s B A, formed in full."""
    v = weight + scale * b @ a
    norm = v.norm(dim=1)
    if norm_gradient == "detached":
        norm = norm.detach()
    branch = x if dropped is None else dropped
    y = (magnitude / norm) * (x @ weight.T + scale * branch @ a.T @ b.T)
    return y if bias is None else y + bias


@pytest.mark.parametrize("norm_gradient", ["detached", "full"])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("drops", [True, False])
def test_output_and_gradients_are_those_of_the_weight_as_written(norm_gradient, has_bias, drops):
    weight, bias, magnitude, x, dropped, a, b, grad = drawn(
        (ROWS, COLUMNS), (ROWS,), (ROWS,), (2, 3, COLUMNS), (2, 3, COLUMNS), (RANK, COLUMNS), (ROWS, RANK), (2, 3, ROWS)
    )
    bias = bias if has_bias else None
    leaves = [tensor.requires_grad_() for tensor in (x, a, b, magnitude, *([dropped] if drops else []))]
    branch = dropped if drops else None
    expected = as_written(x, weight, bias, a, b, magnitude, SCALE, branch, norm_gradient)
    y = dora_linear(
        x, weight, bias, a, b, magnitude, measure_rows(weight), SCALE, dropped=branch, norm_gradient=norm_gradient
    )
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    wanted, found = torch.autograd.grad(expected, leaves, grad), torch.autograd.grad(y, leaves, grad)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-11)


def test_the_full_gradient_is_the_functions_own():
    weight, bias, magnitude, x, a, b = drawn(
        (ROWS, COLUMNS), (ROWS,), (ROWS,), (4, COLUMNS), (RANK, COLUMNS), (ROWS, RANK)
    )
    base = measure_rows(weight)
    leaves = tuple(tensor.requires_grad_() for tensor in (x, a, b, magnitude))

    def function(x, a, b, magnitude):
        return dora_linear(x, weight, bias, a, b, magnitude, base, SCALE, norm_gradient="full")

    assert torch.autograd.gradcheck(function, leaves)


def test_row_norms_are_summed_beyond_single_precision():
    (weight,) = drawn((3, 5000), dtype=torch.float32)
    weight[0] += 1e4
    exact = weight.double().square().sum(dim=1)
    torch.testing.assert_close(measure_rows(weight).squared.double(), exact, rtol=1e-7, atol=0)
    a, b = drawn((RANK, 5000), (3, RANK), dtype=torch.float32)
    exact = (weight.double() + SCALE * b.double() @ a.double()).norm(dim=1)
    found = row_norm(weight, a, b, measure_rows(weight), SCALE).double()
    torch.testing.assert_close(found, exact, rtol=2e-6, atol=0)


@pytest.mark.parametrize("norm_gradient", ["detached", "full"])
def test_a_weight_that_cancels_a_zero_row_and_a_zero_magnitude_stay_finite(norm_gradient):
    a, b, x, magnitude = drawn((RANK, COLUMNS), (ROWS, RANK), (9, COLUMNS), (ROWS,), dtype=torch.float32)
    weight = -SCALE * b @ a  # V = 0 but for rounding: the closed form's terms cancel, to less than nothing in some rows
    weight[0], magnitude[1] = 0.0, 0.0
    leaves = [tensor.requires_grad_() for tensor in (x, a, b, magnitude)]
    y = dora_linear(x, weight, None, a, b, magnitude, measure_rows(weight), SCALE, norm_gradient=norm_gradient)
    assert y.isfinite().all()
    assert y[:, 1].eq(0).all()
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(y.sum(), leaves))


# The layers --------------------------------------------------------------------------------------------------------


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.plain, self.biased = nn.Linear(12, 16, bias=False), nn.Linear(16, 20)
            self.frame, self.wide = nn.Conv1d(20, 10, 1), nn.Conv1d(10, 6, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.wide(self.frame(self.biased(self.plain(x)).transpose(1, 2)))


class Model:
    adapter_targets = ("plain", "biased", "frame", "wide")

    def __init__(self) -> None:
        self.module = Network()

    def identity(self) -> str:
        return "network"


def injected(
    *,
    values: bool = True,
    plain_peft: bool = False,
    exclude: tuple[str, ...] = (),
    dropout: float = 0.0,
    **options: Any,
) -> tuple[Network, dict[str, nn.Parameter]]:
    model = Model()
    config = adapters.adapter_config(model, kind="dora", rank=3, alpha=6.0, dropout=dropout, exclude=exclude)
    if plain_peft:
        from peft import inject_adapter_in_model

        inject_adapter_in_model(config, model.module)
        parameters = {name: value for name, value in model.module.named_parameters() if "lora_" in name}
    else:
        parameters = adapters.inject(model, config, **options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in sorted(parameters) if values else ():
            noise = 0.1 * torch.randn(parameters[name].shape, generator=generator)
            parameters[name].copy_(noise + parameters[name] * ("magnitude" in name))
    return model.module, parameters


def batch() -> torch.Tensor:
    return drawn((2, 11, 12), dtype=torch.float32)[0]


def gradients(network: nn.Module, parameters: dict[str, nn.Parameter], x: torch.Tensor) -> dict[str, torch.Tensor]:
    found = torch.autograd.grad(network(x).float().square().sum(), list(parameters.values()))
    return dict(zip(parameters, found, strict=True))


def test_a_new_adapter_is_the_base_itself():
    network, _ = injected(values=False, exclude=("wide",))
    base = Network()
    x = batch()
    assert torch.equal(network.plain(x), base.plain(x))
    torch.testing.assert_close(network(x), base(x), rtol=1e-6, atol=1e-6)


def test_the_layers_equal_pefts():
    ours, ours_parameters = injected()
    theirs, their_parameters = injected(plain_peft=True)
    assert {n: p.shape for n, p in ours_parameters.items()} == {n: p.shape for n, p in their_parameters.items()}
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = batch()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        gradients(ours, ours_parameters, x), gradients(theirs, their_parameters, x), rtol=1e-4, atol=1e-4
    )


def test_merging_gives_the_layers_output_and_unmerging_the_base():
    network, _ = injected()
    x = batch()
    expected, weight = network(x), network.plain.get_base_layer().weight.clone()
    for layer in (network.plain, network.biased, network.frame):
        layer.merge()
    assert not torch.equal(network.plain.get_base_layer().weight, weight)
    torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-5)
    for layer in (network.plain, network.biased, network.frame):
        layer.unmerge()
    torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-5)


def test_a_frozen_weight_that_changed_is_measured_anew():
    network, _ = injected()
    x = batch()
    network(x)
    with torch.no_grad():
        network.plain.get_base_layer().weight.mul_(3.0)
        network.biased.get_base_layer().weight = nn.Parameter(torch.ones(20, 16), requires_grad=False)
    expected = network(x)
    for layer in (network.plain, network.biased):
        layer.merge()
    torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-5)


def test_dropout_reaches_the_low_rank_branch_alone():
    network, _ = injected(dropout=0.4, exclude=("wide",))
    layer, x = network.plain, batch()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        found = layer(x)
        torch.manual_seed(3)
        dropped = torch.nn.functional.dropout(x, 0.4)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    magnitude = layer.lora_magnitude_vector["default"].weight
    weight = layer.get_base_layer().weight
    expected = as_written(x, weight, None, a, b, magnitude, 2.0, dropped, "detached")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    network.eval()
    torch.testing.assert_close(network(x), injected(exclude=("wide",))[0].eval()(x))


def test_a_full_gradient_through_a_wide_convolution_is_refused_and_leaves_the_model_alone():
    model = Model()
    config = adapters.adapter_config(model, kind="dora", rank=3, alpha=6.0)
    names = list(model.module.state_dict())
    with pytest.raises(ConfigError, match="convolution wide"):
        adapters.inject(model, config, norm_gradient="full", frozen_dtype=torch.bfloat16)
    assert list(model.module.state_dict()) == names
    assert {value.dtype for value in model.module.parameters()} == {torch.float32}
    with pytest.raises(ConfigError, match=r"half.*detached, full"):
        injected(norm_gradient="half")


# A training loop's conditions --------------------------------------------------------------------------------------


@contextmanager
def saved_tensors() -> Iterator[list[torch.Tensor]]:
    kept: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield kept


@pytest.mark.parametrize("norm_gradient", ["detached", "full"])
def test_nothing_of_the_weights_size_is_kept_and_the_weight_gets_no_gradient(norm_gradient):
    rows, columns = 96, 64
    weight, x, a, b = drawn((rows, columns), (4, columns), (2, columns), (rows, 2), dtype=torch.float32)
    magnitude = torch.ones(rows)
    weight.requires_grad_(False)
    for tensor in (x, a, b, magnitude):
        tensor.requires_grad_()
    base = measure_rows(weight)
    with saved_tensors() as kept:
        y = dora_linear(x, weight, None, a, b, magnitude, base, 1.0, norm_gradient=norm_gradient)
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
    del storages[weight.untyped_storage().data_ptr()]
    assert sum(storages.values()) < weight.nbytes / 2
    assert y.untyped_storage().data_ptr() in storages  # not a second activation beside the output


class NoHostReads(TorchDispatchMode):
    """Fails on the operators by which a value leaves the device, as a synchronisation would need."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "equal.default")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        assert not any(word in name for word in self.FORBIDDEN), f"{name} reads values on the host"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("options", [{}, {"norm_gradient": "full", "exclude": ("wide",)}, {"dropout": 0.2}])
def test_a_step_reads_no_value_on_the_host(options):
    network, parameters = injected(**options)
    optimiser = torch.optim.AdamW(parameters.values(), fused=True)
    x = batch()
    with NoHostReads(), torch.autograd.set_multithreading_enabled(False):
        network(x).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    with pytest.raises(AssertionError, match="reads values"), NoHostReads():
        x.sum().item()


def check_compiled(norm_gradient: str, mixed: bool, backend: str) -> None:
    network, parameters = injected(norm_gradient=norm_gradient, exclude=("wide",))
    compiled = torch.compile(network, backend=backend, fullgraph=True)
    x = batch()
    loose = {"rtol": 0.05, "atol": 0.05}  # fused code rounds to bf16 less often
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        torch.testing.assert_close(compiled(x), network(x), **(loose if mixed else {"rtol": 1e-5, "atol": 1e-5}))
        found, expected = gradients(compiled, parameters, x), gradients(network, parameters, x)
    for name, gradient in found.items():
        assert (gradient - expected[name]).norm() <= (0.03 if mixed else 1e-5) * expected[name].norm()


@pytest.mark.parametrize("norm_gradient", ["detached", "full"])
@pytest.mark.parametrize("mixed", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.whole
def test_torch_compile_captures_the_whole_graph(norm_gradient, mixed):
    check_compiled(norm_gradient, mixed, "aot_eager")


@pytest.mark.skipif(shutil.which("g++") is None, reason="the default backend needs a C++ compiler")
@pytest.mark.parametrize(
    ("norm_gradient", "mixed"),
    [
        ("detached", False),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("detached", True), ("full", False), ("full", True))
        ),
    ],
)
@pytest.mark.whole
def test_compiled_code_gives_the_same_numbers(norm_gradient, mixed):
    """Not only captured: inductor's own rewriting of sums of products is part of what is trained with."""
    check_compiled(norm_gradient, mixed, "inductor")


def test_a_checkpointed_block_gives_the_same_gradients():
    from torch.utils.checkpoint import checkpoint

    network, parameters = injected(dropout=0.3, exclude=("wide",))
    x = batch()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = gradients(network, parameters, x)
        torch.manual_seed(0)
        found = gradients(lambda value: checkpoint(network, value, use_reentrant=False), parameters, x)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_frozen_weights_in_bf16_leave_the_adapter_in_fp32():
    kept, kept_parameters = injected(exclude=("wide",))
    cast, parameters = injected(exclude=("wide",), frozen_dtype=torch.bfloat16)
    assert {value.dtype for value in parameters.values()} == {torch.float32}
    assert cast.plain.get_base_layer().weight.dtype == cast.wide.weight.dtype == torch.bfloat16
    x = batch()
    with torch.autocast("cpu", torch.bfloat16):
        reference, found = kept(x), cast(x)
        theirs, ours = gradients(kept, kept_parameters, x), gradients(cast, parameters, x)
    assert found.dtype == torch.bfloat16
    # the row norms are those of the rounded weight; nothing else differs
    torch.testing.assert_close(found, reference, rtol=0.02, atol=0.02)
    for name, gradient in ours.items():
        assert gradient.dtype == torch.float32
        assert (gradient - theirs[name]).norm() < 0.02 * theirs[name].norm()


def test_the_rows_scale_keeps_its_precision_in_bf16():
    """1.01 is 1.0078 in bf16; applied in fp32 it is 1.01 in the mean, although each output is rounded."""
    weight, x = drawn((4, 64), (4096, 64), dtype=torch.bfloat16)
    a, b = torch.zeros(2, 64), torch.zeros(4, 2)
    base = measure_rows(weight)
    outputs = [
        dora_linear(x, weight, None, a, b, factor * base.squared.sqrt(), base, 1.0).float() for factor in (1.0, 1.01)
    ]
    ratio = (outputs[1] * outputs[0]).sum() / outputs[0].square().sum()
    assert ratio.item() == pytest.approx(1.01, abs=5e-4)


# Files ------------------------------------------------------------------------------------------------------------


def output(backbone: Any) -> torch.Tensor:
    x_t = drawn((2, backbone.latent_channels, 11), dtype=torch.float32)[0]
    conditioning = backbone.condition(["a calm cello", "a bright celesta"], [4.0, 4.0])
    with torch.no_grad():
        return backbone.predict(x_t, torch.tensor([0.3, 0.8]), conditioning)


def test_what_peft_saves_loads_here_and_gives_the_same_output(tiny_model: Path, tmp_path: Path):
    from peft import PeftModel, get_peft_model

    backbone = load_backbone(str(tiny_model))
    config = adapters.adapter_config(backbone, kind="dora", rank=3, alpha=6.0)
    wrapped = get_peft_model(backbone.module, config)
    assert isinstance(wrapped, PeftModel)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    expected = output(backbone)
    wrapped.save_pretrained(str(tmp_path / "theirs"))

    ours = load_backbone(str(tiny_model))
    base = output(ours)
    read = peft_format.read_config(tmp_path / "theirs")
    read.inference_mode = False
    adapters.inject(ours, read)
    names = load_file(tmp_path / "theirs" / peft_format.WEIGHTS)
    assert peft_format.load_into(ours.module, names, tmp_path) == len(names) > 0
    assert (expected - base).abs().max() > 0.01
    torch.testing.assert_close(output(ours), expected, rtol=1e-5, atol=1e-5)
    peft_format.save(tmp_path / "ours", ours.module, read, {})
    written = load_file(tmp_path / "ours" / peft_format.WEIGHTS)
    assert written.keys() == names.keys()
    assert all(torch.equal(written[name], names[name]) for name in names)


def test_the_written_configuration_is_pefts_own(tiny_model: Path):
    backbone = load_backbone(str(tiny_model))
    config = adapters.adapter_config(backbone, kind="dora", rank=3, alpha=6.0)
    before = peft_format.config_values(config)
    adapters.inject(backbone, config, norm_gradient="full")
    assert before["use_dora"] is True
    assert peft_format.config_values(config) == before


# The rows of a step ------------------------------------------------------------------------------------------------


class Blocks(nn.Module):
    """Three blocks of two layers each, the last two equal in shape; one of them may be left out."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.blocks = nn.ModuleList(
                nn.Sequential(nn.Linear(8, 12, bias=bool(i)), nn.SiLU(), nn.Linear(12, 8)) for i in range(3)
            )
        self.skipped: int | None = None
        self.checkpointing = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from torch.utils.checkpoint import checkpoint

        for number, block in enumerate(self.blocks):
            if number == self.skipped:
                continue
            x = x + (checkpoint(block, x, use_reentrant=False) if self.checkpointing else block(x))
        return x


class BlocksModel:
    adapter_targets = r"blocks\.\d+\.(0|2)"

    def __init__(self) -> None:
        self.module = Blocks()

    def identity(self) -> str:
        return "blocks"


def blocks(norm_gradient: str = "full", *, shared: bool = True) -> tuple[Blocks, dict[str, nn.Parameter]]:
    """`shared=False` takes the rows of the step away: each layer makes its own."""
    from eisbach.adapters.inject import HOOKS

    model = BlocksModel()
    config = adapters.adapter_config(model, kind="dora", rank=2, alpha=3.0)
    parameters = adapters.inject(model, config, norm_gradient=norm_gradient)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name in sorted(parameters):
            noise = 0.1 * torch.randn(parameters[name].shape, generator=generator)
            parameters[name].copy_(noise + parameters[name] * ("magnitude" in name))
    if not shared:
        for handle in HOOKS[model.module]:
            handle.remove()
    return model.module, parameters


def run_blocks(network: Blocks, parameters: dict[str, nn.Parameter], x: torch.Tensor) -> list[torch.Tensor | None]:
    network(x).square().sum().backward()
    found = [parameter.grad for parameter in parameters.values()]
    for parameter in parameters.values():
        parameter.grad = None
    return found


@pytest.mark.parametrize("norm_gradient", ["detached", "full"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("skipped", [None, 1])
def test_rows_made_together_are_the_rows_that_layers_make_alone(norm_gradient, checkpointing, skipped):
    """Bit for bit, with blocks that are computed again and with a layer that takes no part, which gets no gradient."""
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(3))
    results = []
    for shared in (True, False):
        network, parameters = blocks(norm_gradient, shared=shared)
        network.checkpointing, network.skipped = checkpointing, skipped
        results.append((run_blocks(network, parameters, x), run_blocks(network, parameters, 2 * x)))
    for together, alone in zip(*results, strict=True):
        for mine, its in zip(together, alone, strict=True):
            assert (mine is None) == (its is None)
            assert mine is None or torch.equal(mine, its)
    missing = sum(gradient is None for gradient in results[0][0])
    assert missing == (0 if skipped is None else 6)


def test_rows_follow_every_kind_of_change_between_two_steps():
    """A fused optimiser does not raise a parameter's version, and a layer may be called by itself after a step."""
    network, parameters = blocks()
    alone, alone_parameters = blocks(shared=False)
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(3))
    for net, values in ((network, parameters), (alone, alone_parameters)):
        optimiser = torch.optim.AdamW(values.values(), lr=0.1, fused=True)
        for _ in range(2):
            net(x).square().sum().backward()
            optimiser.step()
            optimiser.zero_grad()
    assert torch.equal(network.blocks[0](x), alone.blocks[0](x))
    with torch.no_grad():
        network(x)
        for values in (parameters, alone_parameters):
            values["blocks.0.0.lora_B.default.weight"].add_(1.0)
        assert torch.equal(network.blocks[0](x), alone.blocks[0](x))
    first, second = network(x), network(2 * x)  # two forward passes before one backward pass
    expected = alone(x).sum() + alone(2 * x).sum()
    (first.sum() + second.sum()).backward()
    expected.backward()
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.grad, alone_parameters[name].grad, rtol=0, atol=0)


def test_rows_are_made_once_a_shape_and_not_again_in_recomputation(monkeypatch: pytest.MonkeyPatch):
    from eisbach.adapters import dora_layers

    made: list[int] = []
    make = dora_layers.make_rows
    monkeypatch.setattr(dora_layers, "make_rows", lambda stack, *rest: made.append(len(rest[1])) or make(stack, *rest))
    network, parameters = blocks()
    network.checkpointing = True
    run_blocks(network, parameters, torch.ones(2, 8))
    assert sorted(made) == [3, 3]  # six layers of two shapes


def test_nothing_of_a_step_outlives_it():
    """Rows lead to a graph whose node knows the layers that hold the rows: none of it may wait for a garbage collector,
    whether a backward pass follows or not."""
    import gc
    import weakref

    network, _ = blocks()
    x = torch.ones(2, 8)
    gc.collect()
    gc.disable()
    try:
        output = network(x)
        rows = [layer.shared.rows.b for layer in network.modules() if hasattr(layer, "shared")]
        held = [weakref.ref(row) for row in rows]
        del rows
        output.sum().backward()
        del output
        assert not any(reference() is not None for reference in held)
        network(x)
        held = [weakref.ref(layer.shared.rows.b) for layer in network.modules() if hasattr(layer, "shared")]
        network(x)
        assert not any(reference() is not None for reference in held)
    finally:
        gc.enable()


def test_a_copy_of_a_network_in_mid_step_makes_its_own_rows():
    import copy

    network, _ = blocks()
    x = torch.ones(2, 8)
    output = network(x)
    twin = copy.deepcopy(network)
    assert torch.equal(twin(x), output)
    assert all(layer.shared.rows is None for layer in copy.deepcopy(twin).modules() if hasattr(layer, "shared"))


def test_taking_the_adapter_out_ends_the_watch():
    from eisbach.adapters.inject import remove_layers

    network, _ = blocks()
    assert network._forward_pre_hooks
    assert network._forward_hooks
    remove_layers(network)
    assert not network._forward_pre_hooks
    assert not network._forward_hooks


def test_compiled_blocks_read_the_rows_of_the_step():
    """To rounding: the compiler adds the residual's gradients in another order."""
    network, parameters = blocks()
    plain, plain_parameters = blocks()
    for block in network.blocks:
        block.compile(backend="eager", fullgraph=True)
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(3))
    for _ in range(2):
        for mine, its in zip(run_blocks(network, parameters, x), run_blocks(plain, plain_parameters, x), strict=True):
            torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-6)
