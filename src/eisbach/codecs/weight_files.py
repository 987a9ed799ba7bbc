"""Weights from safetensors files, one or many shards, into a module: every key on both sides must match."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eisbach.errors import CheckpointError
from eisbach.pretrained import check_sizes, read_object
from eisbach.tensor_files import check_fit, read_weights

WEIGHTS = "diffusion_pytorch_model"
"""Stem of a model's weights in diffusers' layout."""

State = dict[str, torch.Tensor]
"""Tensors by name."""


def component_config(folder: Path, kind: Any, ignored: Iterable[str] = ()) -> dict[str, Any]:
    """The options of a diffusers model that `folder`/config.json gives, with the class's defaults for the rest.

    Raises
    ------
    CheckpointError
        An option that the class does not have and that is not `ignored`.
    """
    values = read_object(folder / "config.json", f"configuration of {kind.__name__}")
    check_sizes(values, folder / "config.json")
    parameters = inspect.signature(kind.__init__).parameters
    known = {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    given = {name: value for name, value in values.items() if not name.startswith("_") and name not in ignored}
    if given.keys() - known.keys():
        raise CheckpointError(
            f"{folder / 'config.json'} has options that diffusers' {kind.__name__} does not know: "
            f"{', '.join(sorted(given.keys() - known.keys()))}; it is of another version of diffusers."
        )
    return {**known, **given}


def load_component(
    folder: Path,
    kind: Any,
    source: str,
    config: Mapping[str, Any] | None = None,
    adapt: Callable[[State, State], State] | None = None,
) -> Any:
    """A diffusers model in fp32 from a folder in diffusers' layout.

    Parameters
    ----------
    folder : Path
    kind : a class of diffusers
    source : str
        What to call it in errors.
    config : mapping or None
        Its options; None reads them (`component_config`).
    adapt : function of (tensors of the file, tensors of the network), or None
        Gives tensors of older files the names and shapes of the network's.

    Raises
    ------
    CheckpointError
        Missing or truncated files, options that are not known, or weights that do not fit.
    """
    options = component_config(folder, kind) if config is None else config
    state = read_weights(folder, WEIGHTS)
    model = build_empty(lambda: kind(**options), source)
    load_exactly(model, state if adapt is None else adapt(state, model.state_dict()), source)
    return model


def build_empty(make: Callable[[], nn.Module], source: str | Path | None = None) -> nn.Module:
    """The module that `make` builds, its parameters without storage: nothing is drawn at random only to be overwritten.

    Raises
    ------
    CheckpointError
        With a `source`, whose configuration cannot be built.
    """
    from accelerate import init_empty_weights

    with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False), warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # torch's, of the weight norm that diffusers' SAME is written with
        try:
            return make()
        except Exception as error:  # of a bad option the classes raise whatever the first use of it raises
            if source is None:
                raise
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"{source} cannot be built as its configuration says ({reason}); fetch it again."
            ) from error


def load_exactly(
    module: nn.Module, state: Mapping[str, torch.Tensor], source: str | Path, recomputed: Iterable[str] = ()
) -> None:
    """Puts `state` into `module` in fp32, after counting keys: none may be missing, left over, misshapen or non-finite.

    Parameters
    ----------
    module : nn.Module
        Its parameters may be without storage (`build_empty`).
    state : tensors by the module's own names
    source : str or Path
        What to call the origin in errors.
    recomputed : names
        Buffers that the module computes itself and `state` may lack.

    Raises
    ------
    CheckpointError
        Anything does not match; the sentence counts the tensors and names the first ones.
    """
    expected = module.state_dict()
    own_buffers = {name: expected[name] for name in set(recomputed) - state.keys()}
    check_fit(expected, {**own_buffers, **state}, source)
    values = {name: _floating(tensor) for name, tensor in state.items()}
    broken = sorted(name for name, tensor in values.items() if not bool(tensor.isfinite().all()))
    if broken:
        raise CheckpointError(
            f"{source} holds NaN or infinite values in {len(broken)} of {len(values)} tensors (first: "
            f"{broken[0]}); fetch the model again."
        )
    module.load_state_dict({**own_buffers, **values}, assign=True)


def _floating(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float().contiguous() if tensor.is_floating_point() else tensor
