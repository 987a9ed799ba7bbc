"""Faults in the configuration of a model that is to be made, found without making it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from eisbach.backbones import BACKBONES
from eisbach.config import build_config
from eisbach.errors import UserError

CONFIGURATIONS: dict[str, tuple[str, str]] = {
    "eisbach-tiny-music": ("tiny", "TinyMusicConfig"),
    "dit": ("dit", "DiTConfig"),
    "uvit": ("uvit", "UViTConfig"),
    "unet": ("unet", "UNetConfig"),
}
"""Module and class of each kind's configuration; a kind that is not here is checked when it is made."""


_MARKERS = ("config.json", "model_config.json", "model_index.json")


def check_model(name: str) -> None:
    """Nothing, when `load_backbone` will find a model by this name; models of the hub are taken at their word.

    Raises
    ------
    UserError
        A folder that is not there, or holds no model.
    """
    from eisbach.pretrained import is_hub_id

    folder = Path(name)
    if name == "embedded" or (not folder.is_dir() and is_hub_id(name)):
        return
    if not any((folder / marker).is_file() for marker in _MARKERS):
        raise UserError(
            f"there is no model in '{folder}'; give 'embedded', a name of the Hugging Face hub, or a folder that holds one of "
            f"{', '.join(_MARKERS)}."
        )


def check_created(values: Mapping[str, Any]) -> None:
    """Nothing, when a model can be made of `values` (`create` of a recipe's `model`).

    Raises
    ------
    UserError
        Unknown kind, or faults in the configuration; all of them are named.
    """
    given = dict(values)
    kind = given.pop("kind", "eisbach-tiny-music")
    if kind not in BACKBONES:
        raise UserError(f"there is no backbone '{kind}'; known: {', '.join(sorted(BACKBONES))}.")
    if kind in CONFIGURATIONS:
        module, name = CONFIGURATIONS[kind]
        build_config(getattr(import_module(f"eisbach.backbones.{module}"), name), given, "model.create")
