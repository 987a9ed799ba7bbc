"""What a passport writes into the header of an adapter's file: ModelSpec's keys, and peft's configuration as diffusers
keeps it."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import torch

from eisbach.errors import one_line
from eisbach.files import read_object
from eisbach.report.passport.card import nothing_done
from eisbach.report.passport.facts import Facts
from eisbach.tensor_files import read_header, read_tensors, write_tensors

_LONGEST = 400
MARK = "modelspec.sai_model_spec"
"""A key of every header that was written here."""


def header_texts(facts: Facts, tensors_hash: str) -> dict[str, str]:
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


def has_header(path: Path) -> bool:
    """Whether a file carries a passport already."""
    return MARK in read_header(path).metadata


def write_header(path: Path, facts: Facts) -> None:
    """Writes the file anew with the passport's texts beside those that it has; its tensors stay.

    Raises
    ------
    StorageError
        The folder cannot be written.
    """
    tensors, metadata = read_tensors(path), read_header(path).metadata
    texts = {**metadata, **header_texts(facts, _content_hash(tensors))}
    config = path.with_name("adapter_config.json")
    if config.is_file():
        values = read_object(config, "adapter configuration")
        texts["lora_adapter_metadata"] = json.dumps({f"transformer.{key}": values[key] for key in sorted(values)})
    write_tensors(path, tensors, texts)
