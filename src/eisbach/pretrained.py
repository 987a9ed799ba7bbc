"""Other people's model folders, opened without running anything from them: the one door to the loaders of transformers,
diffusers and the Hugging Face hub.

A folder chooses among classes that the libraries ship and that the caller names; its own Python is never imported,
whatever it asks for (`auto_map`, custom pipelines, attention kernels of the hub) and whatever stands on stdin. Weights
are safetensors.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from eisbach import files
from eisbach.errors import CheckpointError, UserError
from eisbach.tensor_files import read_weights

# --- the hub

_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([A-Za-z0-9][\w./-]*))?")
_KINDS = ("json", "safetensors", "txt", "model", "jinja")  # nothing that a program runs and no pickle
_PLACES = (
    *("transformer", "vae", "duration_embedder", "text_encoder", "tokenizer", "scheduler", "unet", "feature_extractor"),
    *("projection_model", "condition_encoder", "audio_tokenizer", "audio_token_detokenizer", "t5gemma*"),
)
MODEL_FILES = ("*.json", "model*.safetensors", *(f"{place}/*.{kind}" for place in _PLACES for kind in _KINDS))
"""What `fetch` takes of a model of audio or images."""

EMBEDDING_FILES = ("config.json", "*processor_config.json", "model*.safetensors", "model.safetensors.index.json")
"""What `fetch` takes of a model that turns audio into vectors."""


def is_hub_id(name: str) -> bool:
    """True for `owner/name` or `owner/name@revision` where no folder `owner` is at hand that would make it a mistyped
    path."""
    return _names_a_model(name) and not Path(name.partition("/")[0]).exists()


def _names_a_model(name: str) -> bool:
    return _HUB_ID.fullmatch(name) is not None and ".." not in name  # the cache's folders are named after both parts


def _pinned(name: str) -> tuple[str, dict[str, Any]]:
    repository, _, revision = name.partition("@")
    return repository, {"revision": revision} if revision else {}


def cached_folder(name: str) -> Path | None:
    """The folder of a model in the hub's local cache; None when it was never fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if not _names_a_model(name):
        return None
    repository, pin = _pinned(name)
    try:
        return Path(snapshot_download(repository, local_files_only=True, **pin))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError, ValueError):
        return None


def fetch(name: str, patterns: Collection[str] = MODEL_FILES) -> Path:
    """The folder of a model of the hub, fetched where the local cache lacks it; no code and no pickles.

    Parameters
    ----------
    name : str
        "owner/name", or "owner/name@revision" for a branch, tag or commit: a commit pins every byte.
    patterns : collection of str
        The files to take.

    Raises
    ------
    UserError
        It cannot be fetched: no connection, no such model or revision, or a licence that is not accepted.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, pin = _pinned(name)
    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns), **pin))
    except GatedRepoError as error:
        raise UserError(
            f"the model '{repository}' asks for its licence to be accepted; accept it at "
            f"https://huggingface.co/{repository}, log in with 'hf auth login', and run the same command again."
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(
            f"the model '{repository}' has no revision '{pin['revision']}'; give a branch, tag or commit that "
            f"https://huggingface.co/{repository}/commits lists."
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"there is no folder '{repository}' and no model of this name on the Hugging Face hub that this login may "
            "read; check the name, or log in with 'hf auth login'."
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"there is no folder '{name}', and the model '{name}' could not be fetched from the Hugging Face hub nor "
            f"found in its local cache ({reason}); check the name and the connection, or give the folder of a model on "
            "this machine."
        ) from error


# --- configurations

_OF_ANOTHER_PROGRAM = {
    "auto_map",  # classes from Python files of the folder
    "custom_pipelines",
    "custom_generate",
    "attn_implementation",  # may name a repository of kernels, which transformers downloads and imports
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
    "quantization_config",  # chooses packages to import
    "transformers_weights",  # chooses another file of weights
}


def read_object(file: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file.

    Raises
    ------
    CheckpointError
        No such file, not JSON, or not an object.
    """
    return files.read_object(file, what, error=CheckpointError)


_MOST, _MOST_LAYERS, _MOST_SAMPLES = 2**27, 1024, 2**20


def check_sizes(values: Any, file: Path, name: str = "", most: int = _MOST) -> None:
    """Nothing, when no number of a configuration is beyond what a model has: building one that is would fill the
    memory.

    Raises
    ------
    CheckpointError
        One is; the sentence names it.
    """
    if isinstance(values, dict | list):
        for key, value in values.items() if isinstance(values, dict) else enumerate(values):
            check_sizes(value, file, name if isinstance(values, list) else str(key), most)
    elif isinstance(values, int | float) and not isinstance(values, bool):
        most = _MOST_LAYERS if re.search(r"(^|_)(layers|depth|blocks)($|_)", name) else most
        if not abs(values) <= most:
            raise CheckpointError(
                f"{file} states {name} = {str(values)[:40]}, beyond what any model has; fetch it again."
            )


def _without_code(values: Any) -> Any:
    """A configuration without the entries by which transformers would run or fetch code, at any depth."""
    if isinstance(values, dict):
        return {name: _without_code(value) for name, value in values.items() if name not in _OF_ANOTHER_PROGRAM}
    return [_without_code(value) for value in values] if isinstance(values, list) else values


def refuse_code(folder: Path) -> None:
    """Nothing, when the folder needs no code of its own; Python files that nothing refers to are ignored with a
    warning.

    Raises
    ------
    CheckpointError
        A configuration in it names classes of its own, or a file is a pipe, a device or far too large.
    """
    # Libraries are handed the folder: they would wait at a pipe, and read a device until the memory is full.
    for file in sorted(folder.iterdir()) if folder.is_dir() else []:
        if file.exists() and not file.is_dir():
            files.check_regular(file, "model's file", error=CheckpointError)
            if file.suffix != ".safetensors" and file.stat().st_size > files.TEXT_LIMIT:
                raise CheckpointError(
                    f"{file} holds {file.stat().st_size / 2**20:.0f} MB, and no tokenizer or configuration holds more "
                    f"than {files.TEXT_LIMIT / 2**20:.0f}; fetch it again."
                )
    for file in sorted(folder.glob("*config*.json")):
        if "auto_map" in read_object(file, "configuration"):
            raise CheckpointError(
                f"{file} asks for code of its own (auto_map), and code from a model's folder is never run; take a "
                "model whose classes transformers ships."
            )
    scripts = sorted(path.name for path in folder.glob("*.py"))
    if scripts:
        warnings.warn(f"{folder} holds {', '.join(scripts)}: code from a model's folder is not run.", stacklevel=3)


def text_config(folder: Path, classes: Mapping[str, str]) -> Any:
    """The configuration of a text encoder in a folder, by `classes`: names of transformers' classes by `model_type`.

    Raises
    ------
    CheckpointError
        Another type, code of its own, or entries that the class refuses.
    """
    import transformers

    refuse_code(folder)
    values = read_object(folder / "config.json", "text encoder's configuration")
    check_sizes(values, folder / "config.json")
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in classes:
        raise CheckpointError(
            f"the text encoder in {folder} is of the type '{model_type}'; {' and '.join(classes)} are read."
        )
    return library_config(getattr(transformers, classes[model_type]), values, folder)


def library_config(config_class: Any, values: Mapping[str, Any], source: str | Path) -> Any:
    """`config_class` of transformers from the entries of a config.json, whatever asks for code left out.

    Raises
    ------
    CheckpointError
        Entries that the class refuses.
    """
    try:
        return config_class.from_dict(_without_code(dict(values)))
    except Exception as error:  # of a bad entry transformers raises whatever the first use of it raises
        raise CheckpointError(f"the configuration of {source} cannot be read ({_reason(error)}).") from error


def feature_extractor(extractor_class: Any, folder: Path) -> Any:
    """The model's feature extractor, of preprocessor_config.json or its part of processor_config.json.

    Raises
    ------
    CheckpointError
        It is missing or of another model.
    """
    own, joint = folder / "preprocessor_config.json", folder / "processor_config.json"
    try:
        file = own if own.is_file() or not joint.is_file() else joint
        values = read_object(file, "feature extractor's configuration")
        if not own.is_file():
            values = values["feature_extractor"]
        check_sizes(values, file, most=_MOST_SAMPLES)  # building one makes a filter bank of its sizes
        return extractor_class.from_dict(_without_code(values))
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{folder} holds no usable preprocessor_config.json, which says how its model hears; download it, too."
        ) from error


def audio_model(model_class: Any, folder: Path, config: Any) -> tuple[Any, dict[str, Any]]:
    """A transformers model in fp32 with the folder's weights, and what the loader says of missing and unexpected keys.

    transformers is handed tensors, never the folder: it follows adapter_config.json to other models, for one.

    Raises
    ------
    CheckpointError
        Unreadable weights, or ones that do not fit.
    """
    import torch

    try:
        model, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict=read_weights(folder),
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:  # OSError, RuntimeError, SafetensorError, KeyError …
        raise CheckpointError(
            f"the weights in {folder} cannot be loaded as {model_class.__name__} ({_reason(error)})."
        ) from error
    return model, dict(info)


def tokenizer(folder: Path, kind: str = "AutoTokenizer") -> Any:
    """The tokenizer in a folder, padding on the right; `kind` is a class of transformers.

    Raises
    ------
    CheckpointError
        There is none, it asks for code of its own, or it cannot be read or used.
    """
    import transformers

    if not folder.is_dir():
        raise CheckpointError(f"there is no tokenizer in {folder}; fetch the model again, with all its files.")
    refuse_code(folder)
    try:
        value: Any = getattr(transformers, kind).from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        # On the right, the real tokens of a caption are a prefix that can be cut out and cached: what a caption becomes
        # does not depend on its batch. Positions of the encoders read here are relative, so the side changes nothing
        # else.
        value.padding_side = "right"
        value.model_max_length = int(value.model_max_length)
        if value.model_max_length < 1:
            raise ValueError(f"a text of {value.model_max_length} tokens")
        value(["a", "a a"], padding="longest", truncation=True, max_length=2, return_tensors="pt")
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # of the library's Rust
            raise
        raise CheckpointError(
            f"the tokenizer in {folder} cannot be read ({_reason(error)}); fetch it again."
        ) from error
    return value


# --- peft


def peft_network(network: Any, folder: Path) -> Any:
    """The network with peft's own layers and the adapter of a folder in them, which is read as safetensors alone.

    Raises
    ------
    CheckpointError
        There is no `adapter_model.safetensors`, without which peft would open a pickle.
    """
    from peft import PeftModel

    if not (folder / "adapter_model.safetensors").is_file():
        raise CheckpointError(f"there is no adapter_model.safetensors in {folder}.")
    return PeftModel.from_pretrained(network, str(folder), local_files_only=True, trust_remote_code=False)


# --- diffusers


def scheduler(values: Mapping[str, Any], folder: Path) -> Any:
    """diffusers' scheduler of a scheduler_config.json.

    Raises
    ------
    CheckpointError
        A class that diffusers does not have or that is no scheduler, or options that it refuses.
    """
    import diffusers

    name = values.get("_class_name")
    kind = None
    if isinstance(name, str) and not name.startswith("_"):
        # Not `vars`: diffusers fills its modules as names are asked for, so that it knows only what was used before.
        with contextlib.suppress(ImportError, RuntimeError):
            kind = getattr(diffusers.schedulers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise CheckpointError(f"{folder / 'scheduler'} names the scheduler {name!r}, which diffusers does not have.")
    steps = values.get("num_train_timesteps", 1000)
    if type(steps) is not int or not 1 <= steps <= 100_000:
        raise CheckpointError(
            f"{folder / 'scheduler'} has num_train_timesteps {steps!r}; give a number from 1 to 100000."
        )
    try:
        return kind.from_config(dict(values))  # type: ignore[attr-defined]
    except Exception as error:  # of a bad option diffusers raises whatever the first use of it raises
        raise CheckpointError(f"the scheduler in {folder / 'scheduler'} cannot be read ({_reason(error)}).") from error


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
