"""Where an adapter can be played: each format written once, its names looked up, and played where the base is."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eisbach.adapters import convert
from eisbach.adapters.formats.low_rank import LowRankAdapter
from eisbach.adapters.proof import Proof
from eisbach.errors import CheckpointError, UserError, one_line

_LEFT_OUT = " was left out"
Prover = Callable[[str, Path], Proof]
"""Plays what was written in a format (`adapters.proof.prove`)."""


@dataclass(frozen=True)
class Host:
    """One way to play the adapter.

    Attributes
    ----------
    format : str
        Of `convert.FORMATS`.
    model : str
        The model that the host knows its layers as; "" where it cannot be written.
    named, layers : int
        Layers of the written file that the host has a name for, and layers.
    reason : str
        Why it cannot be written.
    proof : Proof or None
        How near its playing is to ours; None where it was not played.
    trouble : str
        Why it could not be played though it was written.
    left_out : str
        What the host cannot load and the file is therefore without.
    """

    format: str
    model: str = ""
    named: int = 0
    layers: int = 0
    reason: str = ""
    proof: Proof | None = None
    trouble: str = ""
    left_out: str = ""


def known_hosts(adapter: LowRankAdapter, module: Any = None, prover: Prover | None = None) -> list[Host]:
    """Every format with what is known of it.

    Parameters
    ----------
    adapter : LowRankAdapter
    module : network or None
        The base's: DoRA for ComfyUI is written with its weights.
    prover : Prover or None
        Plays each file; None looks the names up alone.
    """
    with tempfile.TemporaryDirectory() as folder:
        return [_host(adapter, to, Path(folder), module, prover) for to in convert.FORMATS]


def _host(adapter: LowRankAdapter, to: str, folder: Path, module: Any, prover: Prover | None) -> Host:
    out = folder / (f"{to}.safetensors" if to in ("sa3", "comfyui") else to)
    # Without the base's weights ComfyUI's DoRA cannot be written; its names are those of the plain factors.
    written = _without_magnitudes(adapter) if to == "comfyui" and module is None else adapter
    try:
        done = convert.write(written, to, out, module=module, precision="fp32", drop_conditioner=to == "comfyui")
        named = ("the base", done.layers, done.layers) if to == "peft" else convert.host_layers(out, to)
    except UserError as error:
        return Host(to, reason=str(error).replace(str(out), "the file"))
    left_out = [note.partition(_LEFT_OUT)[0] for note in done.notes if _LEFT_OUT in note]
    host = Host(to, *named, left_out=", ".join(left_out))
    if prover is None:
        return host
    try:
        return replace(host, proof=prover(to, out))
    except (CheckpointError, ImportError, RuntimeError, ValueError, KeyError) as error:
        return replace(host, trouble=one_line(str(error).replace(str(out), "the file"))[:200])


def _without_magnitudes(adapter: LowRankAdapter) -> LowRankAdapter:
    layers = {name: replace(factors, magnitude=None) for name, factors in adapter.layers.items()}
    return replace(adapter, layers=layers)
