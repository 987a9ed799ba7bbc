"""The record of a generation: which model, adapters and settings made the audio of a folder, so that no other joins."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from eisbach.audio import audio_hash
from eisbach.config import check_values
from eisbach.errors import UserError
from eisbach.files import read_json
from eisbach.generation.config import GenerateConfig
from eisbach.generation.playing import adapter_records
from eisbach.generation.sampling import curve_stamp
from eisbach.output_folder import refuse_other_settings, weights_identity

if TYPE_CHECKING:
    from eisbach.backbones.base import Backbone
    from eisbach.codecs.base import Codec

STAMP = "generation.json"
"""File beside the manifest that says which model and settings made the audio."""


def generation_stamp(config: GenerateConfig, backbone: Backbone, codec: Codec) -> dict[str, Any]:
    """What decides the audio: the weights and settings, and the words of each prompt. Batching is left out."""
    left_out = {"out", "prompts", "seeds", "batch_size", "model", "adapter", "any_base", "device", "precision"}
    left_out |= {"adapters", "init", "noise", "keep"}
    settings = config.model_dump(mode="json", exclude=left_out)
    settings["headroom"] = backbone.headroom if config.headroom is None else config.headroom
    for key in ("headroom", "apg"):
        if not settings[key]:  # as before there were any: a folder of then goes on
            del settings[key]
    if config.adapters:
        settings["adapters"] = adapter_records(config.adapters)
        settings["adapter_files"] = [item.file for item in config.adapters]
        del settings["adapter_strength"]
    if config.init is not None:
        settings |= {"init": config.init, "init_audio": audio_hash(config.init), "noise": config.start}
        settings |= {"keep": [list(part) for part in config.keep]} if config.keep else {}
    return {
        "model": config.model,
        "model_identity": backbone.identity(),
        "codec_identity": codec.identity(),
        "adapter": config.adapter,
        "adapter_identity": None if config.adapter is None else weights_identity(config.adapter),
        **settings,
        **curve_stamp(config.schedule_options),
        "seeds": list(config.seeds),
        "prompts": {prompt.id: prompt.text for prompt in config.prompts},
    }


_FREE = ("model", "adapter", "adapter_files", "init", "seeds", "prompts", "schedule_options.curve")
"""Paths may move, since what they lead to stands beside them; prompts and seeds may be added."""


class _Stamp(BaseModel, extra="allow"):
    """What a later generation into the same folder reads of `generation.json`."""

    seeds: list[int]
    prompts: dict[str, str]


def _read_stamp(path: Path) -> dict[str, Any]:
    what = "record of earlier generations"
    return check_values(_Stamp, read_json(path, what), f"the {what} {path}").model_dump()


def check_stamp(path: Path, stamp: dict[str, Any]) -> None:
    """Refuses a folder whose audio came from another model or from other settings; without audio there is nothing to
    mix."""
    if not path.is_file() or not any(path.parent.glob("*.flac")):
        return
    old = _read_stamp(path)
    refuse_other_settings(path.parent, "generations", old, stamp, free=_FREE)
    for name, text in stamp["prompts"].items():
        before = old["prompts"].get(name, text)
        if before != text:
            raise UserError(
                f"{path.parent} holds generations for the prompt '{name}' with other words; "
                "give the new prompt another id, or choose another output folder."
            )


def merge_stamp(path: Path, stamp: dict[str, Any]) -> dict[str, Any]:
    """The stamp of everything in the folder: earlier prompts and seeds stay listed."""
    if not path.is_file() or not any(path.parent.glob("*.flac")):
        return stamp
    old = _read_stamp(path)
    seeds = [*old["seeds"], *(seed for seed in stamp["seeds"] if seed not in old["seeds"])]
    return stamp | {"seeds": seeds, "prompts": old["prompts"] | stamp["prompts"]}
