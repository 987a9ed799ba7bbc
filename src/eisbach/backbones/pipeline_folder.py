"""What backbones that live in a diffusers pipeline's folder share: its index, its text encoder, naming, saving."""

from __future__ import annotations

import math
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from eisbach import pretrained
from eisbach.backbones.base import Backbone
from eisbach.backbones.state import adapter_free_state, identity_of
from eisbach.backbones.text_encoder import LazyTextEncoder, LongTexts, save_encoder, token_counts
from eisbach.codecs.base import Codec
from eisbach.codecs.oobleck import OobleckCodec
from eisbach.codecs.weight_files import build_empty, component_config, load_exactly
from eisbach.diffusion.discrete_path import DiscretePath, scheduler_target
from eisbach.errors import CheckpointError, UserError
from eisbach.files import write_json
from eisbach.tensor_files import has_weights, read_weights

INDEX = "model_index.json"
_SCHEDULER = Path("scheduler") / "scheduler_config.json"
_TEXT_MODELS = {"t5": ("T5Config", "T5EncoderModel"), "qwen3": ("Qwen3Config", "Qwen3Model")}
_TIED = {"encoder.embed_tokens.weight": "shared.weight"}  # T5 has one table of word vectors under two names


def pipeline_name(folder: str | Path) -> str | None:
    """The pipeline class that the folder's `model_index.json` names; None without that file or that name.

    Raises
    ------
    CheckpointError
        The index lists code of its own, or is none.
    """
    file = Path(folder) / INDEX
    if not file.is_file():
        return None
    values = pretrained.read_object(file, "pipeline's index")
    _check_index(values, file)
    return values.get("_class_name")


def _check_index(values: Mapping[str, Any], file: Path) -> None:
    """Nothing, when every part that a pipeline's model_index.json lists is a class that a library ships.

    Raises
    ------
    CheckpointError
        A part, or the pipeline itself, is code of the folder or lies elsewhere.
    """
    import diffusers

    pipelines = Path(next(iter(diffusers.pipelines.__path__)))
    if not isinstance(values.get("_class_name"), str | None):
        raise CheckpointError(f"{file} names a pipeline of its own, and code from a model's folder is never run.")
    for part, value in values.items():
        if not isinstance(value, list) or part.startswith("_") or not any(value):
            continue
        if Path(part).name != part or part in ("", ".", ".."):
            raise CheckpointError(f"{file} lists the part '{part}', which is not a folder beside it; fetch it again.")
        library = str(value[0])
        shipped = library in ("diffusers", "transformers") or (
            library.isidentifier() and (pipelines / library / "__init__.py").is_file()
        )
        if len(value) != 2 or not shipped:
            raise CheckpointError(
                f"{file} lists '{part}' as {value}, code of its own, and code from a model's folder is never run; take "
                "a model whose classes diffusers or transformers ships."
            )


def read_index(folder: Path, pipeline: str, parts: Sequence[str]) -> dict[str, Any]:
    """The folder's `model_index.json`.

    Raises
    ------
    CheckpointError
        It is of another pipeline than `pipeline`, or one of the folders `parts` is missing.
    """
    name = pipeline_name(folder)
    if name != pipeline:
        raise CheckpointError(f"{folder / INDEX} describes a {name}, and a {pipeline} is expected.")
    missing = [part for part in parts if not (folder / part).is_dir()]
    if missing:
        raise CheckpointError(
            f"the {pipeline} in {folder} is not complete: {', '.join(missing)} is missing; fetch it again."
        )
    return pretrained.read_object(folder / INDEX, "pipeline's index")


def read_scheduler(folder: Path, **expected: object) -> dict[str, Any]:
    """The scheduler's configuration, for what it says about the training objective.

    Raises
    ------
    CheckpointError
        An option of `expected` has another value: the weights were trained for another objective than the backbone
        states.
    """
    values = pretrained.read_object(folder / _SCHEDULER, "scheduler's configuration")
    for name, value in expected.items():
        if values.get(name, value) != value:
            raise CheckpointError(
                f"{folder / _SCHEDULER} has {name} {values[name]!r}; models of this kind are read with {name} "
                f"{value!r} only."
            )
    return values


class PipelineTextEncoder(LazyTextEncoder):
    """A text encoder of transformers (T5 or Qwen3) with its tokenizer, read when first needed.

    Parameters
    ----------
    folder : Path
        The pipeline's folder, with `text_encoder` and `tokenizer`.
    max_tokens : int or None
        Tokens of a text that are read; None takes the tokenizer's own limit.

    Raises
    ------
    CheckpointError
        A file is missing, another kind of encoder, or a tokenizer without a limit where one is needed.
    """

    def __init__(self, folder: Path, max_tokens: int | None = None) -> None:
        super().__init__()
        self.folder = folder / "text_encoder"
        self._long_texts = LongTexts()
        missing = [] if (self.folder / "config.json").is_file() else ["config.json"]
        missing += [] if has_weights(self.folder) else ["model.safetensors"]
        if missing:
            raise CheckpointError(
                f"the text encoder in {self.folder} is not complete: {', '.join(missing)} is missing; fetch it again."
            )
        pretrained.refuse_code(self.folder)
        self.tokenizer = pretrained.tokenizer(folder / "tokenizer")
        limit = int(self.tokenizer.model_max_length)
        if max_tokens is None and limit > 1_000_000:
            raise CheckpointError(
                f"the tokenizer in {folder / 'tokenizer'} states no model_max_length, which is the number of tokens "
                "that the model reads; fetch it again."
            )
        self.max_tokens = limit if max_tokens is None else max_tokens

    def _read(self) -> nn.Module:
        import transformers

        config = pretrained.text_config(self.folder, {kind: names[0] for kind, names in _TEXT_MODELS.items()})
        kind: Any = getattr(transformers, _TEXT_MODELS[config.model_type][1])
        model = build_empty(lambda: kind(config), f"the text encoder in {self.folder}")
        expected = model.state_dict().keys()
        state = {name.removeprefix("model."): tensor for name, tensor in read_weights(self.folder).items()}
        # A whole language model has a decoder or an output layer too, which an encoder has no use for.
        state = {name: tensor for name, tensor in state.items() if not name.startswith(("decoder.", "lm_head."))}
        for pair in _TIED.items():
            for lacking, twin in (pair, pair[::-1]):
                if lacking in expected and lacking not in state and twin in state:
                    state[lacking] = state[twin]
        load_exactly(model, state, f"the text encoder in {self.folder}")
        return model.eval().requires_grad_(False)

    def tokens(
        self, texts: Sequence[str], device: torch.device, *, padding: str, limit: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids [shape=(B, S), int64] and their mask [shape=(B, S), bool], padded on the right.

        A longer text is cut at `limit` (None: `max_tokens`), and a warning names each once.
        """
        limit = self.max_tokens if limit is None else limit
        batch = self.tokenizer(list(texts), padding=padding, truncation=True, max_length=limit, return_tensors="pt")
        mask = batch["attention_mask"].to(device=device, dtype=torch.bool)
        full = [text for text, length in zip(texts, mask.sum(dim=1).tolist(), strict=True) if length == limit]
        counts = token_counts(self.tokenizer, full)
        self._long_texts.warn(full, counts, limit)
        return batch["input_ids"].to(device), mask

    def save(self, folder: Path) -> None:
        """Writes the encoder (safetensors) and the tokenizer below `folder`, in diffusers' layout."""
        state = dict(self.model.state_dict())
        for twin, name in _TIED.items():
            if twin in state and name in state:
                del state[twin]
        save_encoder(folder / "text_encoder", state, self.model.config)
        self.tokenizer.save_pretrained(str(folder / "tokenizer"))


class PipelineBackbone(Backbone, ABC):
    """The part of `Backbone` that does not depend on the network: its codec, its name, what is kept of its folder."""

    name: str
    module: nn.Module

    def __init__(self, folder: Path, index: dict[str, Any], text_encoder: PipelineTextEncoder) -> None:
        self.folder, self._index, self.text_encoder = folder, index, text_encoder

    def load_codec(self) -> Codec:
        """The autoencoder that comes with this model."""
        return self._oobleck()

    def _oobleck(self) -> OobleckCodec:
        return OobleckCodec.load(self.folder / "vae")

    def release_text_encoder(self) -> None:
        """Drops the text encoder from memory; a later `condition` reads it again."""
        self.text_encoder.release()

    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """The networks that `module` is made of and that have a folder of their own, by the folder's name."""

    def identity(self) -> str:
        """A 16-digit hash of configuration and weights (in half precision).

        Raises
        ------
        CheckpointError
            The backbone carries an adapter.
        """
        return identity_of(self.name, {part: options(model) for part, model in self.parts().items()}, self.module)

    def save(self, folder: str | Path) -> None:
        """Writes the pipeline as diffusers does; parts that the backbone does not use are copied from where it was
        loaded.

        Raises
        ------
        CheckpointError
            The backbone carries an adapter, or a part to copy is no longer there.
        """
        adapter_free_state(self.module)  # refuses a network that carries an adapter
        folder = Path(folder)
        written = {"text_encoder", "tokenizer", "vae", *self.parts()}
        for part, model in self.parts().items():
            model.save_pretrained(str(folder / part), safe_serialization=True)
        self.text_encoder.save(folder)
        self._oobleck().save(folder / "vae")
        others = [
            part
            for part, value in self._index.items()
            if isinstance(value, list) and all(value) and part not in written
        ]
        copy_parts(self.folder, folder, others)
        write_json(folder / INDEX, self._index)  # last: a folder with it is whole


def copy_parts(source: Path, folder: Path, needed: Iterable[str], optional: Iterable[str] = ()) -> None:
    """Copies parts of a pipeline that a backbone does not hold from the folder it was loaded from.

    Raises
    ------
    CheckpointError
        A needed part is no longer there, or a link leads out of the pipeline: a file of somebody else would go along.
    """
    needed = list(needed)
    for part in (*needed, *optional):
        if not (source / part).is_dir():
            if part not in needed:
                continue
            raise CheckpointError(
                f"{source / part} is no longer there and belongs to the pipeline; put it back, then save again."
            )
        if (source / part).resolve() != (folder / part).resolve():
            _refuse_links_out(source / part, source)
            shutil.copytree(
                source / part, folder / part, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.py", "__pycache__")
            )


def _refuse_links_out(part: Path, source: Path) -> None:
    root = source.resolve()
    own = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]  # the hub's cache
    for path in (part, *sorted(part.rglob("*"))):
        place = Path(os.path.realpath(path))
        whole = place.is_file() or (place.is_dir() and (path == part or not path.is_symlink()))
        if not whole or not any(place.is_relative_to(folder) for folder in own):
            raise CheckpointError(
                f"{path} is a link out of the model in {source}, or no file, and is not copied; put the file itself "
                "there."
            )


def frame_rate(folder: Path) -> float:
    """Latent frames a second, of the folder's `vae`.

    Raises
    ------
    CheckpointError
        Its configuration has options that diffusers' class does not know.
    """
    from diffusers import AutoencoderOobleck

    config = component_config(folder / "vae", AutoencoderOobleck)
    return float(config["sampling_rate"]) / math.prod(config["downsampling_ratios"])


def check_durations(captions: Sequence[str], durations: Sequence[float], limit: float) -> None:
    """Nothing, when each caption has one finite number of seconds, at most `limit`; otherwise a `UserError`."""
    if len(captions) != len(durations):
        raise UserError(f"{len(captions)} captions came with {len(durations)} durations; give each caption one.")
    if not all(0 <= value < math.inf for value in durations):
        raise UserError(f"the durations {list(durations)[:8]} arrived; give finite numbers of seconds.")
    if any(value > limit for value in durations):
        raise UserError(
            f"a duration of {max(durations):g} s arrived; this model makes at most {limit:.4g} s at a time: ask for "
            "less, or cut clips shorter."
        )


def options(model: Any) -> dict[str, Any]:
    """The configuration of a diffusers model, without diffusers' own entries."""
    return {name: value for name, value in dict(model.config).items() if not name.startswith("_")}


# --- pipelines of one network whose path is the table of their scheduler


@dataclass(frozen=True)
class SchedulerTable:
    """What a pipeline's scheduler says about its network.

    Attributes
    ----------
    values : dict
        The scheduler's configuration, as it is written.
    path : DiscretePath
    target : str
        "eps", "x0" or "v", of its `prediction_type`.
    """

    values: dict[str, Any]
    path: DiscretePath
    target: str


def read_table(folder: Path) -> SchedulerTable:
    """The scheduler in a pipeline's folder.

    Raises
    ------
    CheckpointError
        A scheduler that diffusers does not have.
    UserError
        One that is no discrete variance-preserving one, or of another target.
    """
    values = read_scheduler(folder)
    table = pretrained.scheduler(values, folder)
    target = scheduler_target(str(table.config.get("prediction_type", "epsilon")))
    return SchedulerTable(values, DiscretePath.from_scheduler(table), target)


class TablePipeline:
    """`identity` and `save` of a backbone whose `module` is the part `network_part` of a diffusers pipeline.

    Subclasses set what is annotated here; `copied_parts` must lie in the folder, `optional_parts` may.
    """

    name: str
    network_part: str
    copied_parts: tuple[str, ...]
    optional_parts: tuple[str, ...] = ()
    module: nn.Module
    folder: Path
    _files: dict[str, Any]
    _table: SchedulerTable

    def identity(self) -> str:
        """A 16-digit hash of the network's configuration and weights, and of the scheduler's.

        Raises
        ------
        CheckpointError
            The backbone carries an adapter.
        """
        return identity_of(self.name, {**options(self.module), "scheduler": self._table.values}, self.module)

    def save(self, folder: str | Path) -> None:
        """Writes the pipeline as diffusers does; all but the network is copied from where it was loaded.

        Raises
        ------
        CheckpointError
            The backbone carries an adapter, or a part to copy is no longer there.
        """
        adapter_free_state(self.module)  # refuses a network that carries an adapter
        network: Any = self.module  # diffusers' own class
        folder = Path(folder)
        copy_parts(self.folder, folder, self.copied_parts, self.optional_parts)
        network.save_pretrained(str(folder / self.network_part), safe_serialization=True)
        write_json(folder / INDEX, self._files)  # last: a folder with it is whole
