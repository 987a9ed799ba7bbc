"""A passport written: the card beside an adapter, its texts in the header, its samples below."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from eisbach.adapters import convert
from eisbach.adapters.attach import attach, detach
from eisbach.adapters.effect import Effect, base_levels, measure, predictions
from eisbach.adapters.formats.low_rank import LowRankAdapter
from eisbach.adapters.proof import Proof, prove
from eisbach.config import read_yaml
from eisbach.devices import place
from eisbach.errors import EisbachError, UserError, one_line
from eisbach.files import read_object, read_text, write_text
from eisbach.generation import GenerateConfig
from eisbach.report.passport.card import (
    ADAPTER,
    Heard,
    card_text,
    compare,
    demos_of,
    nearest_training,
    nothing_done,
    play,
)
from eisbach.report.passport.facts import Facts, gather, training_rows
from eisbach.report.passport.hosts import Host, known_hosts
from eisbach.tensor_files import read_header, read_tensors, write_tensors

_CARD = "README.md"
_OURS = "- eisbach"
SAMPLES = "samples"


@dataclass(frozen=True)
class WrittenPassport:
    """What was written.

    Attributes
    ----------
    card : Path
    warning : str
        That the adapter does nothing; "" where it does something or was not measured.
    facts : Facts
    heard : Heard or None
    """

    card: Path
    warning: str
    facts: Facts
    heard: Heard | None


def write_passport(
    adapter: str | Path,
    *,
    model: str | None = None,
    device: str = "auto",
    any_base: bool = False,
    play_config: GenerateConfig | None = None,
    quiet: bool = True,
    notify: Callable[[str], object] = lambda sentence: None,
) -> WrittenPassport:
    """Writes the passport of an adapter: `README.md` in its folder (`NAME.md` beside a file) and the file's header.

    Parameters
    ----------
    adapter : str or Path
        A folder or file as `adapters.convert` reads it; in a run, the run's recipe, set and demos are told too.
    model : str or None
        The base: measures the effect by noise level. None takes a run's own.
    play_config : GenerateConfig or None
        Plays base and adapter into `samples/` and compares them; None takes the demos of the training, where it made
        some.
    notify : callable
        Is told the warning first, and where it computes.

    Raises
    ------
    UserError
        The adapter cannot be read or is of another base, or a card is there that was not written here.
    StorageError
        The folder cannot be written.
    """
    path = Path(adapter)
    card = path / _CARD if path.is_dir() else path.with_suffix(".md")
    if card.is_file() and _OURS not in read_text(card, "card").partition("\n---")[0]:
        raise UserError(f"{card} was not written here; move it elsewhere, and run the same command again.")
    facts = gather(path)
    run = _run_of(path)
    model = model or (None if run is None else _model_of(run))
    if model is not None:
        effect, hosts = _on_its_base(path, model, device, any_base, notify)
        facts = replace(facts, effect=effect, hosts=hosts)
    warning = nothing_done(facts)
    if warning:
        notify(warning)
    if play_config is not None and model is not None:
        play_config = play_config.model_copy(update={"model": model})
    heard = _heard(path, run, play_config, quiet)
    write_text(card, card_text(facts, heard, path.name if path.is_file() else "THIS_FOLDER"))
    for file in _files(path):
        _write_header(file, facts)
    return WrittenPassport(card, warning, facts, heard)


def after_training(run: Path, device: str, notify: Callable[[str], object]) -> None:
    """The passport of a finished run's adapter; what goes wrong is said, since the training is worth more."""
    adapter = run / "adapter"
    files = _files(adapter) if adapter.is_dir() else []
    try:
        if files and not (all(_has_header(file) for file in files) and (adapter / _CARD).is_file()):
            write_passport(adapter, device=device, notify=notify)
    except EisbachError as error:
        notify(f"the adapter's passport was not written: {error}")


def _run_of(path: Path) -> Path | None:
    run = path.resolve().parent
    return run if path.is_dir() and path.name == "adapter" and (run / "config.yaml").is_file() else None


def _model_of(run: Path) -> str | None:
    model = read_yaml(run / "config.yaml", "configuration of the run").get("model", "embedded")
    return model if isinstance(model, str) else None


def _on_its_base(
    path: Path, model: str, device: str, any_base: bool, notify: Callable[[str], object]
) -> tuple[Effect, list[Host]]:
    """What the adapter does to its base, and how near each host's playing is to it."""
    from eisbach.backbones import load_backbone

    placement = place(device, "fp32")
    notify(f"{placement.sentence()}.")
    backbone: Any = load_backbone(model)
    attach(backbone, path, any_base=any_base)
    try:
        backbone.module.to(placement.device)
        levels = base_levels(backbone)
        effect, reference = measure(backbone, levels), predictions(backbone, levels)
        detach(backbone)

        def prover(to: str, written: Path) -> Proof:
            return prove(backbone, to, written, levels, reference)

        read = convert.read(path, convert.weights_of(backbone.module))
        hosts = known_hosts(read, backbone.module, prover) if isinstance(read, LowRankAdapter) else []
        return effect, hosts
    finally:
        backbone.module.to("cpu")
        detach(backbone)


def _heard(path: Path, run: Path | None, play_config: GenerateConfig | None, quiet: bool) -> Heard | None:
    if play_config is None:
        made = None if run is None else demos_of(run)
        return None if made is None else compare(*made, path, quiet=quiet)
    root = path if path.is_dir() else path.parent
    base, adapter = play(play_config.model_copy(update={"adapter": str(path)}), root / SAMPLES, quiet=quiet)
    heard = compare(base, adapter, root, quiet=quiet)
    rows = [] if run is None else training_rows(read_yaml(run / "config.yaml"), run)
    return replace(heard, nearest=nearest_training(root / SAMPLES / ADAPTER, rows, quiet=quiet) if rows else None)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    names = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
    places = [path, *(config.parent for config in sorted(path.glob("*/adapter_config.json")))]
    return [place / name for place in places for name in names if (place / name).is_file()]


# --- an adapter with its passport to the Hugging Face hub


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
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

    api = HfApi()
    # Where the network fails its client raises errors of the HTTP library that it is made of, which has changed.
    refusals: Any = (*HfHubHTTPError.__bases__, OSError, ValueError)
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
    except refusals as error:
        reason = one_line(str(error))[:200]
        raise UserError(
            f"the hub did not take the adapter for '{repository}' ({reason}); look whether the name is yours, log in "
            "with 'hf auth login', and run the same command again."
        ) from error
    return address


# --- the header of an adapter's file: ModelSpec's keys, and peft's configuration as diffusers keeps it


_LONGEST = 400
MARK = "modelspec.sai_model_spec"
"""A key of every header that was written here."""


def _header_texts(facts: Facts, tensors_hash: str) -> dict[str, str]:
    """`modelspec.*` of version 1.0.0: one line each, whatever the names hold."""
    base = facts.base or "a local model"
    interval = "" if facts.interval is None else f" at noise levels {facts.interval[0]:.2f} to {facts.interval[1]:.2f}"
    said = {
        "sai_model_spec": "1.0.0",
        "architecture": f"{base}/{facts.kind}",
        "implementation": "https://github.com/huggingface/peft",
        "title": facts.name,
        "description": f"{facts.kind} of rank {facts.rank} for {base} ({facts.base_identity or 'identity unknown'})",
        "hash_sha256": f"0x{tensors_hash}",
        "usage_hint": nothing_done(facts) or f"strength 1{interval}",
        "tags": f"audio, music, {facts.kind}",
    }
    if facts.trained_on is not None and facts.trained_on.licences:
        said["license"] = ", ".join(facts.trained_on.licences)
    return {f"modelspec.{key}": one_line(value)[:_LONGEST] for key, value in said.items()}


def _content_hash(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of what follows the header of a file with these tensors, as ModelSpec has it."""
    from safetensors.torch import save

    data = save({name: value.contiguous() for name, value in tensors.items()})
    (length,) = struct.unpack("<Q", data[:8])
    return hashlib.sha256(memoryview(data)[8 + length :]).hexdigest()


def _has_header(path: Path) -> bool:
    """Whether a file carries a passport already."""
    return MARK in read_header(path).metadata


def _write_header(path: Path, facts: Facts) -> None:
    """Writes the file anew with the passport's texts beside those that it has; its tensors stay.

    Raises
    ------
    StorageError
        The folder cannot be written.
    """
    tensors, metadata = read_tensors(path), read_header(path).metadata
    texts = {**metadata, **_header_texts(facts, _content_hash(tensors))}
    config = path.with_name("adapter_config.json")
    if config.is_file():
        values = read_object(config, "adapter configuration")
        texts["lora_adapter_metadata"] = json.dumps({f"transformer.{key}": values[key] for key in sorted(values)})
    write_tensors(path, tensors, texts)
