"""The layers that each host has names for, model by model, as the host's own code names them.

A table is not made by our writer: it lists what the host's classes call their layers, so that a file can be held
against it before it is written and again when it is checked. `N` stands for a block's number.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from eisbach.errors import UserError


@dataclass(frozen=True, eq=False)
class HostTable:
    """A model's layers in a host.

    Attributes
    ----------
    model : str
    source : str
        Where the host's names stand.
    layers : dict
        Our layer's name (in `Backbone.module`) to the host's.
    """

    model: str
    source: str
    layers: Mapping[str, str]

    def to_host(self, layer: str) -> str | None:
        """The host's name of our layer; None where the host has none."""
        return _renamed(layer, self._ours)

    def from_host(self, name: str) -> str | None:
        """Our name of the host's layer; None where the host has no layer of this name."""
        return _renamed(name, self._theirs)

    @cached_property
    def _ours(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_pattern(ours), theirs) for ours, theirs in self.layers.items()]

    @cached_property
    def _theirs(self) -> list[tuple[re.Pattern[str], str]]:
        return [(_pattern(theirs), ours) for ours, theirs in self.layers.items()]


def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.escape(name).replace("N", r"(\d+)"), re.ASCII)


def _renamed(name: str, rules: list[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, target in rules:
        match = pattern.fullmatch(name)
        if match is not None:
            return target.replace("N", match[1]) if match.groups() else target
    return None


def _block(ours: str, theirs: str, names: Mapping[str, str]) -> dict[str, str]:
    return {f"{ours}.{name}": f"{theirs}.{host}" for name, host in names.items()}


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_SA3_BLOCK = {
    **_same("self_attn.to_qkv", "self_attn.to_out", "cross_attn.to_q", "cross_attn.to_kv", "cross_attn.to_out"),
    **_same("to_local_embed.0", "to_local_embed.2"),
    "ff.proj_in": "ff.ff.0.proj",
    "ff.proj_out": "ff.ff.2",
}
_SA3_OUTER = {
    "proj_in": "transformer.project_in",
    "proj_out": "transformer.project_out",
    "global_cond_embedder.0": "transformer.global_cond_embedder.0",
    "global_cond_embedder.2": "transformer.global_cond_embedder.2",
    **_same("preprocess_conv", "postprocess_conv", "to_cond_embed.0", "to_cond_embed.2"),
    **_same("to_global_embed.0", "to_global_embed.2", "to_timestep_embed.0", "to_timestep_embed.2"),
}
_SA3 = {
    **_block("transformer.transformer_blocks.N", "transformer.layers.N", _SA3_BLOCK),
    **{f"transformer.{ours}": theirs for ours, theirs in _SA3_OUTER.items()},
}
_ACE_ATTENTION = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out.0": "o_proj"}
_ACE_INNER = _same("condition_embedder") | _same(
    *(f"{part}.{layer}" for part in ("time_embed", "time_embed_r") for layer in ("linear_1", "linear_2", "time_proj"))
)
_ACE = {
    **_block("transformer.layers.N.self_attn", "decoder.layers.N.self_attn", _ACE_ATTENTION),
    **_block("transformer.layers.N.cross_attn", "decoder.layers.N.cross_attn", _ACE_ATTENTION),
    **_block("transformer.layers.N.mlp", "decoder.layers.N.mlp", _same("gate_proj", "up_proj", "down_proj")),
    **_block("transformer", "decoder", _ACE_INNER),
}
_SAO_BLOCK = (
    *(f"attn{n}.{layer}" for n in (1, 2) for layer in ("to_q", "to_k", "to_v", "to_out.0")),
    *("ff.net.0.proj", "ff.net.2"),
)
_SAO_OUTER = (
    *("proj_in", "proj_out", "preprocess_conv", "postprocess_conv"),
    *(f"{part}.{layer}" for part in ("timestep_proj", "global_proj", "cross_attention_proj") for layer in (0, 2)),
)

HOSTS: dict[str, tuple[HostTable, ...]] = {
    "sa3": (
        HostTable(
            "Stable Audio 3",
            "Stability-AI/stable-audio-3, models/dit.py, transformer.py and conditioners.py",
            {
                **{ours: f"model.{theirs}" for ours, theirs in _SA3.items()},
                "duration_embedder.linear": "conditioners.seconds_total.embedder.embedding.1",
            },
        ),
    ),
    "comfyui": (
        HostTable(
            "Stable Audio 3",
            "Comfy-Org/ComfyUI, comfy/lora.py (model_lora_keys_unet: every weight under diffusion_model. by its own "
            "name) "
            "and the names of Stability's checkpoint, which it loads as they are",
            _SA3,
        ),
        HostTable(
            "ACE-Step 1.5",
            "Comfy-Org/ComfyUI, comfy/lora.py (model_lora_keys_unet) and comfy/ldm/ace/ace_step15.py "
            "(AceStepConditionGenerationModel.decoder, an AceStepDiTModel)",
            _ACE,
        ),
    ),
    "diffusers": (
        HostTable(
            "Stable Audio 3",
            "huggingface/diffusers 0.42, transformer_stable_audio3.py and modeling_stable_audio_3.py: parts of "
            "StableAudio3Pipeline",
            _same(*_SA3, "duration_embedder.linear"),
        ),
        HostTable(
            "ACE-Step 1.5",
            "huggingface/diffusers 0.42, loaders/lora_pipeline.py (AceStepLoraLoaderMixin) and ace_step_transformer.py",
            _same(*_ACE),
        ),
        HostTable(
            "Stable Audio Open",
            "huggingface/diffusers 0.42, stable_audio_transformer.py and modeling_stable_audio.py: parts of "
            "StableAudioPipeline",
            _same(
                *(f"transformer.transformer_blocks.N.{name}" for name in _SAO_BLOCK),
                *(f"transformer.{name}" for name in _SAO_OUTER),
                *(f"projection_model.{end}_number_conditioner.time_positional_embedding.1" for end in ("start", "end")),
            ),
        ),
    ),
}
"""The formats that name layers as a host does, and their models. peft's folders name them as our networks do."""


def table_for(to: str, layers: Iterable[str]) -> HostTable:
    """The table of the model that has all the layers.

    Raises
    ------
    UserError
        The format has names for no such model.
    """
    layers = list(layers)
    tables = HOSTS[to]
    known = {table: [layer for layer in layers if table.to_host(layer) is not None] for table in tables}
    best = max(tables, key=lambda table: len(known[table]))
    strangers = sorted(set(layers) - set(known[best]))
    if strangers:
        models = " or ".join(f"{table.model}'s" for table in tables)
        raise UserError(
            f"{len(strangers)} of the adapter's {len(layers)} layers are not {models} (first: '{strangers[0]}'), and "
            f"{to} has "
            "names for no other; use --to peft, which names layers as the network does."
        )
    return best


def layer_of(to: str, name: str) -> str | None:
    """Our name of a host's layer, of whichever model has it; None where none has."""
    return next((ours for table in HOSTS[to] if (ours := table.from_host(name)) is not None), None)
