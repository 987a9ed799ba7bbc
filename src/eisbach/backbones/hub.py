"""Models of the Hugging Face hub, fetched into its local cache."""

from __future__ import annotations

import re
from pathlib import Path

from eisbach.errors import UserError

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_PATTERNS = [
    "*.json",
    "model*.safetensors",
    "t5gemma*/*",
    *(f"{part}/*" for part in ("transformer", "vae", "duration_embedder", "text_encoder", "tokenizer", "scheduler")),
    *(f"{part}/*" for part in ("projection_model", "condition_encoder", "audio_tokenizer", "audio_token_detokenizer")),
]
_IGNORED = ["*.ckpt", "*.bin", "*.pt", "*.onnx", "*.gguf", "*.msgpack"]


def is_hub_id(name: str) -> bool:
    """True for `owner/name` where no folder `owner` is at hand that would make it a mistyped path."""
    return _HUB_ID.fullmatch(name) is not None and not Path(name.partition("/")[0]).exists()


def cached_folder(name: str) -> Path | None:
    """The folder of a model in the hub's local cache; None when it was never fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError, ValueError):
        return None


def fetch(name: str) -> Path:
    """The folder of a model of the hub, fetched where the local cache lacks it; weights as safetensors only.

    Raises
    ------
    UserError
        It cannot be fetched: no connection, no such model, or a licence that is not accepted.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=_PATTERNS, ignore_patterns=_IGNORED))
    except GatedRepoError as error:
        raise UserError(
            f"the model '{name}' asks for its licence to be accepted; accept it at https://huggingface.co/{name}, log in with "
            "'hf auth login', and run the same command again."
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"there is no folder '{name}' and no model of this name on the Hugging Face hub that this login may read; check "
            "the name, or log in with 'hf auth login'."
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"there is no folder '{name}', and the model '{name}' could not be fetched from the Hugging Face hub nor found in "
            f"its local cache ({reason}); check the name and the connection, or give the folder of a model on this machine."
        ) from error
