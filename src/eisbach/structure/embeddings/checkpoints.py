"""Opening a transformers checkpoint for reading only: no code from it, no pickles, and every weight accounted for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eisbach import pretrained
from eisbach.errors import CheckpointError, UserError
from eisbach.tensor_files import has_weights


def model_folder(source: str) -> Path:
    """The folder of a model: `source` itself, or the hub's "owner/name" or "owner/name@revision", fetched into its
    cache.

    Raises
    ------
    UserError
        No such folder or hub id.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if not pretrained.is_hub_id(source):
        raise UserError(
            f"{source} is not a folder; give a model folder with config.json and model.safetensors, or a hub id such "
            "as "
            "laion/clap-htsat-unfused."
        )
    return pretrained.fetch(source, pretrained.EMBEDDING_FILES)


def read_config(folder: Path) -> dict[str, Any]:
    """The checkpoint's config.json.

    Raises
    ------
    CheckpointError
        No configuration, or weights that are not safetensors.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} holds no config.json; give the folder of a transformers checkpoint.")
    config = pretrained.read_object(folder / "config.json", "model's configuration")
    pretrained.check_sizes(config, folder / "config.json")
    if not has_weights(folder):
        pickled = (folder / "pytorch_model.bin").is_file()
        has = "only pytorch_model.bin, a pickle, which is not opened" if pickled else "no weights"
        raise CheckpointError(f"{folder} holds {has}; put model.safetensors there (save_pretrained writes it).")
    return config


def load_model(model_class: Any, folder: Path, config: Any, *, heads: Sequence[str] = ()) -> Any:
    """A transformers model with every weight from the checkpoint, in float32, in evaluation mode.

    Parameters
    ----------
    model_class : a class of transformers
    heads : sequence of str
        Prefixes of weights that the checkpoint may hold beyond the model (heads of its pretraining).

    Raises
    ------
    CheckpointError
        Unreadable weights, a missing weight, or one that is neither the model's nor a head's.
    """
    model, info = pretrained.audio_model(model_class, folder, config)
    missing = sorted(info["missing_keys"])
    unknown = sorted(key for key in info["unexpected_keys"] if not key.startswith(tuple(heads)))
    if missing or unknown:
        first = f"'{missing[0]}' is missing" if missing else f"'{unknown[0]}' has no place"
        raise CheckpointError(
            f"{folder} is not a {model_class.__name__}: {len(missing)} weights are missing and {len(unknown)} unknown "
            f"({first})."
        )
    return model.eval()
