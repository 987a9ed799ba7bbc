"""Opening a transformers checkpoint for reading only: no code from it, no pickles, and every weight accounted for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eisbach.errors import CheckpointError, UserError
from eisbach.files import read_object

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def read_config(source: str) -> dict[str, Any]:
    """The checkpoint's config.json, from a folder or (downloaded by transformers) from the hub.

    Raises
    ------
    UserError
        No such folder or hub id, no configuration, or weights that are not safetensors.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return _read_local(folder)
    if source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise UserError(
            f"{source} is not a folder; give a model folder with config.json and model.safetensors, or a hub id such as laion/clap-htsat-unfused."
        )
    from transformers import PretrainedConfig

    try:
        config, _ = PretrainedConfig.get_config_dict(source)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{source} is neither a folder here nor a model that the hub gave ({reason}); download it and give the folder."
        ) from error
    return dict(config)


def _read_local(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(f"{folder} holds no config.json; give the folder of a transformers checkpoint.")
    config = read_object(file, "model's configuration", error=CheckpointError)
    if not any((folder / name).is_file() for name in _WEIGHTS):
        pickled = (folder / "pytorch_model.bin").is_file()
        has = "only pytorch_model.bin, a pickle, which is not opened" if pickled else "no weights"
        raise CheckpointError(f"{folder} holds {has}; put model.safetensors there (save_pretrained writes it).")
    return config


def load_model(model_class: Any, source: str, config: Any, *, heads: Sequence[str] = ()) -> Any:
    """A transformers model with every weight from the checkpoint, in float32, in evaluation mode.

    Parameters
    ----------
    model_class : a class with `from_pretrained`
    heads : sequence of str
        Prefixes of weights that the checkpoint may hold beyond the model (heads of its pretraining).

    Raises
    ------
    CheckpointError
        Unreadable weights, a missing weight, or one that is neither the model's nor a head's.
    """
    import torch

    folder = Path(source).expanduser()
    try:
        model, info = model_class.from_pretrained(
            str(folder) if folder.is_dir() else source,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=folder.is_dir(),
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (
        Exception
    ) as error:  # transformers raises many kinds for a bad file: OSError, RuntimeError, SafetensorError …
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"the weights in {source} cannot be loaded as {model_class.__name__} ({reason})."
        ) from error
    missing = sorted(info["missing_keys"])
    unknown = sorted(key for key in info["unexpected_keys"] if not key.startswith(tuple(heads)))
    if missing or unknown:
        first = f"'{missing[0]}' is missing" if missing else f"'{unknown[0]}' has no place"
        raise CheckpointError(
            f"{source} is not a {model_class.__name__}: {len(missing)} weights are missing and {len(unknown)} unknown ({first})."
        )
    return model.eval()


def load_feature_extractor(extractor_class: Any, source: str) -> Any:
    """The checkpoint's feature extractor (preprocessor_config.json).

    Raises
    ------
    CheckpointError
        It is missing or of another model.
    """
    folder = Path(source).expanduser()
    try:
        return extractor_class.from_pretrained(
            str(folder) if folder.is_dir() else source, local_files_only=folder.is_dir()
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{source} holds no usable preprocessor_config.json, which says how its model hears; download it, too."
        ) from error
