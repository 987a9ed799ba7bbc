"""Putting a low-rank adapter into a model for training: peft's layers (DoRA's with a faster forward), and only their
parameters trainable.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import nn

from eisbach.adapters.dora import NORM_GRADIENTS, NormGradient
from eisbach.adapters.quantised import QuantisedFormat, quantise_frozen
from eisbach.errors import ConfigError


def adapter_config(
    model: AdaptableModel,
    *,
    kind: str,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    targets: Sequence[str] | str | None = None,
    exclude: Sequence[str] = (),
) -> Any:
    """peft's `LoraConfig` for an adapter of this model.

    Parameters
    ----------
    kind : "lora" or "dora"
        DoRA (Liu et al. 2024) also learns the norm of every row of the adapted weight.
    rank, alpha : the update is (alpha / rank)·B·A with A (rank, in) and B (out, rank).
    targets : names
        A list matches the ends of layer names, a string is a regular expression for the whole name; None takes
        `model.adapter_targets`.
    exclude : names left out of `targets`
        Ends of layer names, or parts of the network ("duration_embedder") with every layer in them.

    Raises
    ------
    ConfigError
        An excluded name that no layer has.
    """
    from peft import LoraConfig

    chosen = model.adapter_targets if targets is None else targets
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        use_dora=kind == "dora",
        target_modules=chosen if isinstance(chosen, str) else list(chosen),
        exclude_modules=_excluded(model.module, exclude) or None,
        bias="none",
    )


def _excluded(module: nn.Module, exclude: Sequence[str]) -> list[str]:
    """The names as peft understands them, which are ends of layer names: a part of the network becomes the layers in
    it."""
    layers = [name for name, layer in module.named_modules() if _is_linear(layer)]
    names: list[str] = []
    for wanted in exclude:
        within = [name for name in layers if f".{wanted}." in f".{name}."]
        if not within:
            ends = sorted({name.rpartition(".")[2] for name in layers})
            parts = sorted({name.partition(".")[0] for name in layers})
            raise ConfigError(
                f"adapter.exclude names '{wanted}', and no layer of this model has that name; parts of it are "
                f"{', '.join(parts)}, "
                f"and its layers end in {', '.join(ends)}."
            )
        at_end = any(f".{name}".endswith(f".{wanted}") for name in within)
        names += [wanted] if at_end else within
    return names


def inject(
    model: AdaptableModel,
    config: Any,
    seed: int = 0,
    *,
    norm_gradient: NormGradient = "detached",
    frozen_dtype: torch.dtype | None = None,
    quantised: QuantisedFormat | None = None,
) -> dict[str, nn.Parameter]:
    """Injects the adapter in place, freezes everything else and returns the adapter's parameters by name.

    At the start the adapter changes nothing (B = 0; DoRA's magnitudes are the rows' own norms). A is drawn from
    `seed` alone; the global random state is left as it was.

    Parameters
    ----------
    norm_gradient : "detached" or "full"
        Whether DoRA's row norm is a constant to the gradient (see `eisbach.adapters.dora`); means nothing to LoRA.
    frozen_dtype : torch.dtype or None
        What the frozen parameters are stored in from now on (see `store_frozen`); the adapter stays in their old one.
    quantised : "int8", "fp8", "nf4" or None
        What the weights of the frozen linear layers are stored in through torchao (see `adapters.quantised`). DoRA's
        row norms are then those of the dequantised weights.

    Raises
    ------
    ConfigError
        No layer has one of the target names, the model carries an adapter already, `norm_gradient` cannot be had, or
        torchao is missing.
    """
    from peft import inject_adapter_in_model

    module = model.module
    if module in ATTACHED or has_adapter(module):
        raise ConfigError("an adapter is attached already; detach it first, or load the model anew.")
    if norm_gradient not in NORM_GRADIENTS:
        raise ConfigError(f"norm_gradient is {norm_gradient!r}; allowed are {', '.join(NORM_GRADIENTS)}.")
    if config.use_dora:
        from eisbach.adapters.dora_layers import layer_classes

        config._register_custom_module(layer_classes())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            inject_adapter_in_model(config, module, adapter_name=ADAPTER_NAME)
        except (ValueError, re.error) as error:
            remove_layers(
                module
            )  # peft stops at the first layer that it cannot adapt, with the ones before it in place
            layers = sorted({name.rpartition(".")[2] for name, layer in module.named_modules() if _is_linear(layer)})
            raise ConfigError(
                f"the adapter's targets {config.target_modules!r} cannot be used ({' '.join(str(error).split())}); "
                f"the model's linear layers end in: {', '.join(layers)}."
            ) from error
    if config.use_dora and norm_gradient == "full":
        _refuse_wide_convolutions(module)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(is_adapter_parameter(name))
    if frozen_dtype is not None:
        store_frozen(module, frozen_dtype)
    if quantised is not None:
        quantise_frozen(module, quantised)
    if config.use_dora:
        _prepare_dora(module, norm_gradient)
    return trainable_parameters(module)


def store_frozen(module: nn.Module, dtype: torch.dtype) -> None:
    """Casts every frozen floating parameter but those of normalisations.

    Linear layers and convolutions are read in this dtype under autocast anyway. A free parameter in fp32 (memory
    tokens, a block's modulation) would promote whatever it is added to: with it the whole residual stream, at twice the
    memory, and a cast before every product. Normalisations compute in fp32 whatever comes, and buffers are tables of
    frequencies: in bf16 the positions beyond 256 would fall together.
    """
    for layer in module.modules():
        if not type(layer).__name__.endswith(("Norm", "Norm1d", "Norm2d")):
            for parameter in layer.parameters(recurse=False):
                if not parameter.requires_grad and parameter.is_floating_point():
                    parameter.data = parameter.data.to(dtype)


def _refuse_wide_convolutions(module: nn.Module) -> None:
    """Takes the adapter out again and says so if a layer's norm cannot take part in the gradient."""
    from eisbach.adapters.dora_layers import DoraConv1d, is_framewise

    for name, layer in module.named_modules():
        if isinstance(layer, DoraConv1d) and not is_framewise(layer.get_base_layer()):
            remove_layers(module)
            raise ConfigError(
                f"norm_gradient full is not available for the convolution {name}, which is more than a linear map of "
                "each frame; "
                "use detached, or exclude the layer."
            )


def _prepare_dora(module: nn.Module, norm_gradient: NormGradient) -> None:
    from eisbach.adapters.dora_layers import DoraConv1d, DoraLinear, StepRows, is_framewise

    layers = [layer for layer in module.modules() if isinstance(layer, (DoraLinear, DoraConv1d))]
    for layer in layers:
        layer.prepare(ADAPTER_NAME, norm_gradient)
    shared = [layer for layer in layers if not isinstance(layer, DoraConv1d) or is_framewise(layer.get_base_layer())]
    HOOKS[module] = StepRows(shared).attach(module)


def _is_linear(layer: nn.Module) -> bool:
    return isinstance(layer, (nn.Linear, nn.Conv1d))


# --- which networks carry an adapter's layers, which parameters are its own, and taking the layers out


ADAPTER_NAME = "default"
"""peft's name for the one adapter that a model carries."""

ATTACHED: WeakKeyDictionary[nn.Module, dict[str, torch.Tensor]] = WeakKeyDictionary()
"""The weights that attached adapters replaced, by network, so that detaching restores them bit for bit."""

HOOKS: WeakKeyDictionary[nn.Module, list[Any]] = WeakKeyDictionary()
"""Handles of what watches a network's forward passes for its adapter, by network."""


class AdaptableModel(Protocol):
    """What an adapter needs to know of a backbone (see `eisbach.backbones.base.Backbone`)."""

    @property
    def module(self) -> nn.Module:
        """The network."""

    @property
    def adapter_targets(self) -> Sequence[str] | str:
        """Names of the layers adapted by default."""

    def identity(self) -> str:
        """Hash of configuration and weights."""


def has_adapter(module: nn.Module) -> bool:
    """True when the network holds adapter layers."""
    return any(is_adapter_parameter(name) for name, _ in module.named_parameters())


def is_adapter_parameter(name: str) -> bool:
    """True for the parameters that peft's LoRA and DoRA layers add."""
    return any(part.startswith("lora_") for part in name.split("."))


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that take gradients, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def remove_layers(module: nn.Module) -> None:
    """Puts the base layers back in the places of peft's layers; what the adapter had learned is lost."""
    from peft.tuners.lora import LoraLayer

    for handle in HOOKS.pop(module, []):
        handle.remove()
    for name, layer in list(module.named_modules()):
        if isinstance(layer, LoraLayer):
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, layer.get_base_layer())
    if hasattr(module, "peft_config"):
        del module.peft_config
    leftover = [name for name, _ in module.named_parameters() if is_adapter_parameter(name)]
    if leftover:
        raise RuntimeError(f"adapter parameters were left in the network: {leftover[:3]}")
