"""An adapter with its passport to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from eisbach.errors import UserError, one_line

_FILES = (
    "README.md", "adapter_config.json", "*.safetensors", "eisbach.json",
    "*/adapter_config.json", "*/adapter_model.safetensors", "samples/base/*.flac", "samples/adapter/*.flac",
)  # fmt: skip


def push(source: Path, card: Path, repository: str, *, public: bool = False) -> str:
    """Uploads an adapter's folder or file and its card; returns the address. A new repository is private unless
    `public`.

    Raises
    ------
    UserError
        The hub refuses, cannot be reached, or nobody is logged in: one sentence.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    api = HfApi()
    try:
        address = str(api.create_repo(repository, private=not public, exist_ok=True))
        message = "Adapter with its passport"
        if source.is_dir():
            api.upload_folder(
                repo_id=repository, folder_path=source, allow_patterns=list(_FILES), commit_message=message
            )
        else:
            for path, name in ((source, source.name), (card, "README.md")):
                api.upload_file(path_or_fileobj=path, path_in_repo=name, repo_id=repository, commit_message=message)
    except LocalTokenNotFoundError as error:
        raise UserError("nobody is logged in to the Hugging Face hub; log in with 'hf auth login'.") from error
    except HFValidationError as error:
        raise UserError(f"'{repository}' is no name of a repository; write owner/name.") from error
    except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
        reason = one_line(str(error))[:200]
        raise UserError(
            f"the hub did not take the adapter for '{repository}' ({reason}); look whether the name is yours, log in "
            "with 'hf auth login', and run the same command again."
        ) from error
    return address
