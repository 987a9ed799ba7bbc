"""What a generation plays on: the network with its adapters, the codec, and where both compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eisbach.errors import UserError
from eisbach.generation.config import GenerateConfig, PlayedAdapter

if TYPE_CHECKING:
    from eisbach.adapters.mix import AdapterMix
    from eisbach.backbones.base import Backbone
    from eisbach.codecs.base import Codec
    from eisbach.devices import Placement
    from eisbach.generation.source import Source


@dataclass(frozen=True)
class Player:
    """A model that is ready to play.

    Attributes
    ----------
    backbone, codec : on their device
    placement : Placement
    mix : AdapterMix or None
        Several adapters, or one with an interval; None where the weights stay the same at all noise levels.
    source : Source or None
        Audio to start from.
    """

    backbone: Backbone
    codec: Codec
    placement: Placement
    mix: AdapterMix | None = None
    source: Source | None = None

    def network(self) -> Callable[..., Any]:
        """The backbone's `predict` where it computes, with the weights of its noise level."""
        predict = self.placement.predict(self.backbone.predict)
        return predict if self.mix is None else self.mix.predict(predict)


def settle_adapters(config: GenerateConfig) -> GenerateConfig:
    """The configuration with files for folders of runs, and a single adapter that acts everywhere as `adapter`, so that
    one way of playing has one record.

    Raises
    ------
    UserError
        A file that is not there.
    """
    if config.adapter is not None:
        return config.model_copy(update={"adapter": adapter_file(config.adapter)})
    played = tuple(item.model_copy(update={"file": adapter_file(item.file)}) for item in config.adapters)
    if len(played) == 1 and played[0].everywhere:
        single = {"adapter": played[0].file, "adapter_strength": played[0].strength, "adapters": ()}
        return config.model_copy(update=single)
    return config.model_copy(update={"adapters": played})


def adapter_file(name: str) -> str:
    """The adapter of a name: itself, or the one in the folder of a run.

    Raises
    ------
    UserError
        There is none.
    """
    path = Path(name)
    if not path.exists():
        raise UserError(
            f"the adapter {name} does not exist; give a run's folder, its adapter/ folder or an adapter file."
        )
    return str(path / "adapter") if (path / "adapter" / "adapter_config.json").is_file() else name


def play_adapters(backbone: Backbone, config: GenerateConfig) -> AdapterMix | None:
    """Puts the configuration's adapters into the backbone; returns what changes them with the noise level.

    Raises
    ------
    CheckpointError
        As `adapters.attach`.
    """
    from eisbach.adapters import load_adapter
    from eisbach.adapters.mix import AdapterMix, Part

    if config.adapter is not None:
        load_adapter(backbone, config.adapter, strength=config.adapter_strength, any_base=config.any_base)
    if not config.adapters:
        return None
    parts = [Part(item.file, item.strength, item.interval) for item in config.adapters]
    return AdapterMix(backbone, parts, any_base=config.any_base)


def adapter_records(adapters: tuple[PlayedAdapter, ...]) -> list[dict[str, Any]]:
    """Name, strength, interval and content of each adapter; not the way to its file, which may move."""
    from eisbach.output_folder import weights_identity

    return [
        {
            "name": item.name,
            "strength": item.strength,
            "interval": list(item.interval),
            "identity": weights_identity(item.file),
        }
        for item in adapters
    ]
