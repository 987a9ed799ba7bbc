"""Every backbone declares what others ask of it; nobody feels for an attribute."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from pkgutil import resolve_name

import pytest

import eisbach
from eisbach.backbones import BACKBONES, PIPELINES, Backbone, _resolve, create_backbone
from eisbach.codecs import CODECS, IMAGE_CODECS
from eisbach.diffusion.paths import Path as NoisingPath

SMALL = {
    "dit": {"width": 16, "depth": 1, "heads": 2, "latent_size": 8},
    "uvit": {"width": 16, "depth": 3, "heads": 2, "latent_size": 8},
}
METHODS = ("inpainting", "with_durations", "release_text_encoder")
DECLARED = (
    "modality",
    "latent_size",
    "latent_shape",
    "distilled",
    "retimes",
    "unknown_words",
    "text_length",
    "load_codec",
    "with_durations",
    "release_text_encoder",
)


@pytest.mark.parametrize("kind", ["eisbach-tiny-music", *SMALL])
def test_a_backbone_declares_all_of_it(kind: str) -> None:
    backbone = create_backbone(SMALL.get(kind), kind=kind)
    assert isinstance(backbone, Backbone)
    image = kind != "eisbach-tiny-music"
    assert backbone.modality == ("image" if image else "audio")
    assert backbone.latent_shape == ((backbone.latent_channels, 8, 8) if image else None)
    assert backbone.distilled is False
    assert isinstance(backbone.path, NoisingPath)
    assert backbone.load_codec() is None
    assert (backbone.unknown_words("zzz") == ["zzz"]) is not image


@pytest.mark.parametrize("name", [*BACKBONES.values(), *PIPELINES.values()])
def test_every_entry_of_the_tables_can_be_imported(name: str) -> None:
    assert callable(_resolve(name))


def test_inpainting_is_declared_where_predict_takes_it() -> None:
    for name in (*BACKBONES.values(), *PIPELINES.values()):
        _resolve(name)
    kinds, seen = [Backbone], []
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        seen.append(kind.inpainting)
        assert kind.inpainting == ("inpainting" in inspect.signature(kind.predict).parameters), kind
    assert any(seen)
    assert not all(seen)


@pytest.mark.parametrize("table", [CODECS, IMAGE_CODECS])
def test_codecs_are_names_until_they_are_used(table: dict[str, str]) -> None:
    assert all(callable(resolve_name(f"eisbach.codecs.{name}")) for name in table.values())


def test_nobody_asks_whether_a_backbone_has_something() -> None:
    package = Path(eisbach.__file__).parent
    found = []
    for file in package.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("getattr", "hasattr")
            ):
                name = node.args[1]
                if isinstance(name, ast.Constant) and name.value in (*DECLARED, *METHODS):
                    found.append(f"{file.relative_to(package)}:{node.lineno}")
    assert found == []


@pytest.mark.parametrize("name", ["tiny", "dit", "uvit", "unet", "edm2"])
def test_no_network_has_more_layers_than_can_be_built(name: str) -> None:
    """A configuration's count of layers is bounded: building a thousand million of them would never end."""
    import importlib
    import inspect

    from eisbach.config import StrictModel

    module = importlib.import_module(f"eisbach.backbones.{name}")
    configs = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if issubclass(kind, StrictModel)]
    counts = [
        (kind.__name__, field)
        for kind in configs
        for field, info in kind.model_fields.items()
        if field in ("depth", "blocks", "num_blocks") and not any(getattr(m, "le", None) for m in info.metadata)
    ]
    assert configs
    assert not counts
