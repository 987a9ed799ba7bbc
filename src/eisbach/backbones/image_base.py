"""What image backbones share: classes as conditioning, the network's time, shape checks, saving, counting parameters.

A subclass is a configuration and a function that builds the network ``network(x_t, time, class ids or None)``;
everything that training, sampling, adapters and probes ask of a `Backbone` is here.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import nn

from eisbach.backbones.base import Backbone
from eisbach.backbones.state import CONFIG, WEIGHTS, adapter_free_state, identity_of, read_saved, write_saved
from eisbach.codecs.weight_files import build_empty, load_exactly
from eisbach.config import StrictModel, build_config
from eisbach.diffusion.paths import EDMPath, expand_like, get_path
from eisbach.errors import UserError
from eisbach.tensor_files import read_tensors
from eisbach.types import Conditioning

_NUM_TIMESTEPS = 1000
"""Steps of the "cosine" path, DDPM's T."""


class ImageConfig(StrictModel):
    """What every image backbone declares.

    Attributes
    ----------
    latent_channels, latent_size : int
        Shape of what the network reads: (channels, size, size), latents or pixels.
    path : "cosine", "linear", "vp", "gvp" or "edm"
        "cosine" is the table of IDDPM's schedule with 1,000 steps.
    target : "eps", "x0", "v" or "u"
    codec : str
        "pixels", or the folder of an AutoencoderKL.
    classes : list of str
        Names of the classes; empty for an unconditional model. A number n stands for n classes that are still to be
        named (`name_classes`), called "0" to "n - 1".
    density, schedule : str
        Training density of noise levels, and sampling schedule, unless a recipe says otherwise.
    time_scale : float or None
        The network is shown ``t * time_scale``. None is DDPM's index 1000 t - 1 on "cosine" and 1000 t elsewhere; 1 is
        what SiT does.
    """

    latent_channels: int = Field(4, ge=1)
    latent_size: int = Field(32, ge=1)
    path: Literal["cosine", "linear", "vp", "gvp", "edm"] = "cosine"
    target: Literal["eps", "x0", "v", "u"] = "eps"
    codec: str = "pixels"
    classes: list[str] = Field(default_factory=list)
    density: str = "uniform"
    schedule: str = "uniform"
    time_scale: float | None = Field(None, gt=0)

    @field_validator("classes", mode="before")
    @classmethod
    def _numbered(cls, value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 1_000_000:
            return [str(number) for number in range(value)]
        return value

    @field_validator("classes")
    @classmethod
    def _distinct(cls, names: list[str]) -> list[str]:
        if len(set(names)) != len(names) or "" in names:
            raise ValueError("class names must be unique, and none of them empty")
        return names

    @model_validator(mode="after")
    def _time_is_the_index(self) -> Self:
        if self.path == "cosine" and self.time_scale is not None:
            raise ValueError(
                "time_scale means nothing on the cosine path, whose time is the index of its step; leave it out"
            )
        return self


def fill_size(values: Any, sizes: Mapping[str, Mapping[str, Any]]) -> Any:
    """`values` with what its `size` stands for filled in where it is not given.

    Raises
    ------
    ValueError
        No such size; the sentence lists the known ones (in a validator, it becomes one of the configuration's faults).
    """
    if not isinstance(values, Mapping) or values.get("size") is None:
        return values
    size = values["size"]
    if size not in sizes:
        raise ValueError(
            f"there is no size {size!r}; choose one of {', '.join(sizes)}, or give the shape without a size"
        )
    given = {name: value for name, value in values.items() if value is not None}
    return {**values, **sizes[size], **given}


class ImageBackbone(Backbone, ABC):
    """`Backbone` of an image network. `latent_rate` is 1: an image is one frame that lasts a second, as far as code
    that counts frames of audio goes, and durations mean nothing.

    Subclasses set `name` (also the format in `config.json`), `config_class`, `adapter_targets` and `network`.

    Parameters
    ----------
    config : ImageConfig
    seed : int, default 0
        Of the random initialisation.
    module : nn.Module or None
        A network that is already there, instead of a random one.

    A `Conditioning` holds class ids [shape=(B, 1), int64], the number of classes standing for the learned null token,
    and a `global_embed` of zeros [shape=(B, 1)].
    """

    name: str
    config_class: type[ImageConfig]
    adapter_targets: str
    latent_rate = 1.0
    other_sizes = "resize them, or make a model with their latent_channels and latent_size"
    """What to do with images of another shape."""

    def __init__(self, config: Any, *, seed: int = 0, module: nn.Module | None = None) -> None:
        self.config = config
        if module is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                module = self.network(config)
        self.module: nn.Module = module
        self.latent_channels: int = config.latent_channels
        self.latent_size: int = config.latent_size
        self.path = get_path(config.path)
        self.target: str = config.target
        self.codec: str = config.codec
        self.density: str = config.density
        self.schedule: str = config.schedule
        self._index = {name: number for number, name in enumerate(config.classes)}

    @classmethod
    @abstractmethod
    def network(cls, config: Any) -> nn.Module:
        """The network of a configuration, initialised from torch's global generator (which callers fork)."""

    @classmethod
    def create(cls, values: Mapping[str, Any], seed: int = 0) -> Self:
        """A randomly initialised backbone; `ConfigError` lists all faults of `values`."""
        return cls(build_config(cls.config_class, values, "the backbone's configuration"), seed=seed)

    @classmethod
    def count_parameters(cls, values: Mapping[str, Any]) -> int:
        """Number of parameters of a configuration, built without storage."""
        config = build_config(cls.config_class, values, "the backbone's configuration")
        return sum(parameter.numel() for parameter in build_empty(lambda: cls.network(config)).parameters())

    @property
    def classes(self) -> list[str]:
        """Names of the classes; empty for an unconditional model."""
        return list(self.config.classes)

    @property
    def null_id(self) -> int:
        """The id that stands for no class: the number of classes."""
        return len(self.config.classes)

    def name_classes(self, names: Sequence[str]) -> None:
        """Gives the classes of a model that was made for a number of them their names, in the order of their ids.

        Raises
        ------
        UserError
            Another number of names than of classes, or the classes have other names already.
        """
        if list(names) == self.classes:
            return
        if len(names) != len(self.classes):
            raise UserError(
                f"{len(names)} class names arrived for a model of {len(self.classes)} classes; give one for each."
            )
        if self.classes != [str(number) for number in range(len(names))]:
            raise UserError(
                f"the model's classes have names already ({', '.join(self.classes[:3])}, …) and others arrived "
                f"({', '.join(names[:3])}, …); make a model with classes: {len(names)}, or use images of the model's "
                "classes."
            )
        values = {**self.config.model_dump(), "classes": list(names)}
        self.config = build_config(self.config_class, values, "the named classes")
        self._index = {name: number for number, name in enumerate(names)}

    def condition(self, captions: Sequence[str], durations: Sequence[float] = ()) -> Conditioning:
        """Ids of the classes that `captions` name, one each; "" is no class. `durations` are not looked at.

        Raises
        ------
        UserError
            A name that is none of the model's classes; the sentence gives the nearest ones.
        """
        ids = [self._class_id(caption) for caption in captions]
        return Conditioning(torch.tensor(ids, dtype=torch.int64).reshape(-1, 1), torch.zeros(len(ids), 1))

    def _class_id(self, caption: str) -> int:
        if caption == "":
            return len(self.config.classes)
        if caption in self._index:
            return self._index[caption]
        if not self._index:
            raise UserError(
                f"the class '{caption}' arrived and this model has no classes; make one with classes, or pass '' (no "
                "class)."
            )
        lower = {name.casefold(): name for name in self._index}
        near = [lower[name] for name in difflib.get_close_matches(caption.casefold(), lower, n=3, cutoff=0.4)]
        hint = "the nearest" if near else "the first"
        raise UserError(
            f"the model has no class '{caption}'; {hint} of its {self.null_id} classes: "
            f"{', '.join(near or self.classes[:3])}."
        )

    def null_condition(self, conditioning: Conditioning) -> Conditioning:
        """The learned null token in every row (an unconditional model has none, and nothing changes)."""
        return Conditioning(torch.full_like(conditioning.tokens, self.null_id), conditioning.global_embed)

    def network_time(self, t: torch.Tensor) -> torch.Tensor:
        """What the network is shown for t [shape=(B,)]: see `ImageConfig.time_scale`."""
        if self.config.path == "cosine":
            return t * _NUM_TIMESTEPS - 1
        return t * (_NUM_TIMESTEPS if self.config.time_scale is None else self.config.time_scale)

    def predict(self, x_t: torch.Tensor, t: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """The network's output [shape=(B, C, H, W)] at x_t [shape=(B, C, H, W)] and t [shape=(B,)].

        On the "edm" path the network reads x_t / sqrt(1 + sigma^2), as it would otherwise meet values of up to 80
        standard deviations; on the others it reads x_t.

        Raises
        ------
        UserError
            Images of another shape than the model's.
        """
        self._check_shape(x_t)
        if isinstance(self.path, EDMPath):
            x_t = x_t * expand_like(torch.rsqrt(1 + self.path.sigma(t) ** 2), x_t)
        return self._run(x_t, self.network_time(t), conditioning.tokens[:, 0] if self.config.classes else None)

    def _check_shape(self, x_t: torch.Tensor) -> None:
        if tuple(x_t.shape[1:]) != self.latent_shape:
            got, own = " x ".join(map(str, x_t.shape[1:])), " x ".join(map(str, self.latent_shape or ()))
            raise UserError(
                f"images of {got} (channels x height x width) arrived and this model reads {own}; {self.other_sizes}."
            )

    def _run(self, x_t: torch.Tensor, time: torch.Tensor, ids: torch.Tensor | None) -> torch.Tensor:
        return self.module(x_t, time, ids)

    def identity(self) -> str:
        """A 16-digit hash of configuration and weights (in half precision).

        Raises
        ------
        CheckpointError
            The backbone carries an adapter.
        """
        return identity_of(self.name, self.config.model_dump(mode="json"), self.module)

    def save(self, folder: str | Path) -> None:
        """Writes `config.json` and `model.safetensors` (fp32: loading gives the same numbers) into `folder`."""
        write_saved(Path(folder), self.name, self.config, adapter_free_state(self.module))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The backbone saved in `folder`.

        Raises
        ------
        CheckpointError
            Missing or truncated files, tensors that do not match the configuration key by key, or non-finite weights.
        """
        folder = Path(folder)
        values = read_saved(folder, cls.name, f"a model of the format '{cls.name}'")
        config = build_config(cls.config_class, values, str(folder / CONFIG))
        module = build_empty(lambda: cls.network(config))
        load_exactly(module, read_tensors(folder / WEIGHTS), folder / WEIGHTS)
        return cls(config, module=module)


# --- what the image transformers share: patches to tokens and back, and the fields of their shape


class ImageTransformerConfig(ImageConfig):
    """Shape of a transformer on patches.

    Attributes
    ----------
    patch : int
        Latent pixels on a side of a patch; must divide `latent_size`.
    width, depth, heads : int
        Hidden dimension, number of blocks, attention heads; filled in from `size` where it is given.
    mlp_ratio : float
        Hidden dimension of the feed-forward layers over `width`.
    """

    patch: int = Field(2, ge=1)
    width: int = Field(ge=8)
    depth: int = Field(ge=1, le=1024)
    heads: int = Field(ge=1, le=1024)
    mlp_ratio: float = Field(4.0, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        faults = []
        if self.latent_size % self.patch:
            faults.append(
                f"latent_size {self.latent_size} is no multiple of patch {self.patch}: choose a patch that divides it"
            )
        if self.width % self.heads:
            faults.append(f"width {self.width} is no multiple of heads {self.heads}: choose heads that divide it")
        if self.width % 4:
            faults.append(f"width {self.width} is no multiple of 4, which sines and cosines on two axes need")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def network_options(self) -> dict[str, Any]:
        """The options that every such network has."""
        names = ("latent_channels", "latent_size", "patch", "width", "depth", "heads", "mlp_ratio")
        return {**{name: getattr(self, name) for name in names}, "num_classes": len(self.classes)}


def from_patches(tokens: torch.Tensor, patch: int, channels: int) -> torch.Tensor:
    """Images [shape=(B, C, H, W)] of tokens [shape=(B, N, patch * patch * C)] in row order; channels vary fastest in a
    token."""
    side = round(tokens.shape[1] ** 0.5)
    grid = tokens.reshape(-1, side, side, patch, patch, channels)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(-1, channels, side * patch, side * patch)
