"""Faults in the configuration of a model that is to be made, found without making it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
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
