"""Backbones: networks with their path, target and conditioning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from eisbach.backbones.base import Backbone
from eisbach.config import build_config
from eisbach.errors import UserError
from eisbach.files import read_json

__all__ = ["BACKBONES", "Backbone", "create_backbone", "load_backbone"]


def _tiny_create(values: Mapping[str, Any], seed: int) -> Backbone:
    from eisbach.backbones.tiny import TinyMusicBackbone, TinyMusicConfig

    return TinyMusicBackbone(build_config(TinyMusicConfig, values, "the backbone's configuration"), seed=seed)


def _tiny_load(folder: Path) -> Backbone:
    from eisbach.backbones.tiny import TinyMusicBackbone

    return TinyMusicBackbone.load(folder)


BACKBONES: dict[str, tuple[Callable[[Mapping[str, Any], int], Backbone], Callable[[Path], Backbone]]] = {
    "eisbach-tiny-music": (_tiny_create, _tiny_load),
}
"""For each format name: how to create one at random, how to load one from its folder."""


def create_backbone(
    values: Mapping[str, Any] | None = None, *, kind: str = "eisbach-tiny-music", seed: int = 0
) -> Backbone:
    """A randomly initialised backbone; `values` override the defaults of its configuration.

    Raises
    ------
    UserError
        Unknown kind or configuration keys.
    """
    if kind not in BACKBONES:
        raise UserError(f"there is no backbone '{kind}'; known: {', '.join(sorted(BACKBONES))}.")
    return BACKBONES[kind][0](dict(values or {}), seed)


def load_backbone(name: str | Path = "embedded") -> Backbone:
    """The model that the package carries ("embedded"), or the one saved in a folder.

    Raises
    ------
    UserError
        No such folder, or a format that is not known.
    """
    if str(name) == "embedded":
        with resources.as_file(resources.files("eisbach") / "assets" / "base") as folder:
            return _load_folder(folder)
    return _load_folder(Path(name))


def _load_folder(folder: Path) -> Backbone:
    if not (folder / "config.json").is_file():
        raise UserError(
            f"there is no model in '{folder}'; give 'embedded' or a folder that holds config.json and model.safetensors."
        )
    values = read_json(folder / "config.json", "model configuration")
    kind = values.get("format") if isinstance(values, dict) else None
    if kind not in BACKBONES:
        raise UserError(
            f"the model in '{folder}' has the format '{kind}'; known formats: {', '.join(sorted(BACKBONES))}."
        )
    return BACKBONES[kind][1](folder)
