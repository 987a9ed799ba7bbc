"""The network made ready to take gradients as training makes it, and put back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from eisbach import adapters
from eisbach.adapters.formats import peft as peft_format
from eisbach.diagnostics.probe.subject import Subject
from eisbach.training.assembly import inject_adapter


def starts_fresh(subject: Subject) -> bool:
    """Whether a new adapter is trained, whose B is zero."""
    return subject.config.train.adapter.type != "none" and not _has_peft_adapter(subject)


@contextmanager
def trainable(subject: Subject) -> Iterator[tuple[str, dict[str, nn.Parameter], bool]]:
    """(what trains, its parameters, whether it is a fresh adapter): the network made ready as training makes it.

    A trained adapter in peft's layout is continued, where the recipe trains an adapter too. Other trained weights are
    folded in, and the recipe starts from there. The network is as it was afterwards: layers, weights and what takes
    gradients.
    """
    from eisbach.adapters.layers import ATTACHED

    backbone, config = subject.backbone, subject.config
    module, kind = backbone.module, config.train.adapter.type
    required = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    training = module.training
    continued = kind != "none" and _has_peft_adapter(subject)
    originals = None
    if config.adapter is not None and not continued:
        adapters.attach(backbone, config.adapter)
        originals = ATTACHED.pop(module)  # the trained weights are what a further training would start from
    try:
        if kind == "none":
            module.requires_grad_(True)
        elif continued:
            folder = Path(str(config.adapter))
            chosen = peft_format.read_config(folder)
            chosen.inference_mode = False
            adapters.inject(backbone, chosen)
            peft_format.load_into(module, peft_format.read_weights(folder), folder)
            kind = "dora" if chosen.use_dora else "lora"
        else:
            inject_adapter(config.train, backbone)
        module.to(subject.device).train()
        yield (
            ("all" if kind == "none" else kind),
            adapters.trainable_parameters(module),
            kind != "none" and not continued,
        )
    finally:
        if kind != "none":
            adapters.remove_layers(module)
        if originals is not None:
            ATTACHED[module] = originals
            adapters.detach(backbone)
        module.zero_grad(set_to_none=True)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(required[name])
        module.train(training)


def has_dropout(subject: Subject) -> bool:
    """Whether the network draws random numbers of its own."""
    return any(isinstance(layer, nn.Dropout) and layer.p > 0 for layer in subject.backbone.module.modules())


def _has_peft_adapter(subject: Subject) -> bool:
    return subject.config.adapter is not None and (Path(subject.config.adapter) / peft_format.CONFIG).is_file()
