"""Adapters from any file or folder that is read, into any that is written; nothing on the way is dropped in silence."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from eisbach.adapters.formats import comfyui, diffusers, host_names, low_rank, peft, sa3
from eisbach.adapters.formats.low_rank import Differences, LowRankAdapter, WeightOf
from eisbach.errors import CheckpointError, UserError, storage_error
from eisbach.tensor_files import read_header

FORMATS = ("sa3", "peft", "diffusers", "comfyui")
"""What adapters are read from and written to: two files (sa3, comfyui) and two kinds of folders."""

_MUCH_LOST = 0.01
PRECISIONS = ("auto", *low_rank.PRECISIONS)
_LAYER_NAME = re.compile(
    r"^(base_model\.model\.|diffusion_model\.)|\.(parametrizations\.weight\.0\.\w+|lora_[AB]\.weight|lora_magnitude_vector|alpha|dora_scale|diff)$"
)
_PICKLES = (".ckpt", ".pt", ".pth", ".bin")


def detect(path: str | Path) -> str:
    """The format of an adapter's file or folder, one of `FORMATS`.

    Raises
    ------
    CheckpointError
        There is nothing, or something else.
    """
    path = Path(path)
    if path.is_dir():
        if (path / peft.CONFIG).is_file():
            return "peft"
        if diffusers.is_pipelines(path):
            return "diffusers"
        raise CheckpointError(
            f"{path} holds no {peft.CONFIG}; give the adapter/ folder of a run, a peft folder, or a native or ComfyUI "
            "file."
        )
    if path.suffix in _PICKLES:
        raise CheckpointError(
            f"{path} is a pickle, which can run code when it is opened, so it is not read; convert it to safetensors "
            "with the "
            "tool that wrote it (Stability's: load_lora_checkpoint and save_lora_safetensors of "
            "stable_audio_3.models.lora.utils)."
        )
    if not path.is_file():
        raise CheckpointError(f"there is no adapter {path}; check the path.")
    header = read_header(path)
    names, metadata = header.shapes, header.metadata
    if sa3.is_native(names, metadata):
        return "sa3"
    if comfyui.is_comfyui(names):
        return "comfyui"
    if any(name.startswith("base_model.model.") for name in names):
        raise CheckpointError(f"{path} is a part of a peft folder; give the folder, which holds {peft.CONFIG} too.")
    first = f"first: '{sorted(names)[0]}'" if names else "it is empty"
    raise CheckpointError(
        f"none of the {len(names)} tensors in {path} have the names of a native Stable Audio 3 or ComfyUI adapter "
        f"({first})."
    )


def read(path: str | Path, weight_of: WeightOf | None = None) -> LowRankAdapter | Differences:
    """The adapter of a file or folder of any format that is read.

    Parameters
    ----------
    path : str or Path
    weight_of : the base model's weights by layer (`weights_of`); ComfyUI's DoRA and Stability's -xs files need them,
    and baked norms are
        held against them.

    Raises
    ------
    CheckpointError
        It cannot be read, or is of a kind that has no counterpart here.
    """
    path = Path(path)
    kind = detect(path)
    if kind == "sa3":
        return sa3.read(path, weight_of)
    if kind == "comfyui":
        return comfyui.read(path, weight_of)
    return peft.read_adapter(path) if kind == "peft" else diffusers.read_adapter(path)


def weights_of(module: nn.Module) -> WeightOf:
    """A network's weights by its layers' names, on the host, where the tensors of files are."""

    def weight(layer: str) -> torch.Tensor:
        try:
            value = module.get_submodule(layer).weight
        except AttributeError as error:
            raise CheckpointError(f"this model has no layer '{layer}'; the adapter is of another model.") from error
        return torch.as_tensor(value).detach().cpu()

    return weight


@dataclass(frozen=True)
class Written:
    """What an export wrote.

    Attributes
    ----------
    path : str
    format, kind, precision : str
        `kind` is "lora", "dora" or "diff"; `precision` "fp16" or "fp32".
    layers, tensors, bytes : int
    rounding : float or None
        Share of the update that the file's precision changes: of LoRA always, of DoRA where the base model was given.
    notes : list of str
        What a person should know: sentences.
    """

    path: str
    format: str
    kind: str
    precision: str
    layers: int
    tensors: int
    bytes: int
    rounding: float | None = None
    notes: list[str] = field(default_factory=list)


def write(
    adapter: LowRankAdapter,
    to: str,
    out: str | Path,
    *,
    module: nn.Module | None = None,
    strength: float = 1.0,
    dora: str = "diff",
    precision: str = "auto",
    bake_norms: bool = False,
    drop_conditioner: bool = False,
    overwrite: bool = False,
) -> Written:
    """Writes an adapter as a file (sa3, comfyui) or a folder (peft, diffusers: fp32).

    Parameters
    ----------
    adapter : LowRankAdapter
    to : one of `FORMATS`
    out : str or Path
    module : the base model's network, which the layers are checked against; DoRA for ComfyUI needs it.
    strength : float
        1 writes the adapter as it was trained.
    dora : "diff" or "scale"
        How DoRA is written for ComfyUI (see `formats.comfyui`).
    precision : "auto", "fp16" or "fp32"
        Of sa3 and comfyui files. Stability's trainer writes fp16; "auto" does where it loses at most 1% of a LoRA's
        update or nothing of a DoRA's (whose magnitudes it would round to 11 bits), and else fp32.
    bake_norms : bool
        Write ‖V‖ of every row of a DoRA beside it, as Stability's newest players want it; needs the base model.
    drop_conditioner : bool
        Leave out what ComfyUI cannot load: the duration embedder's update.
    overwrite : bool
        Replace the adapter at `out`; other files beside it stay.

    Raises
    ------
    UserError
        An unknown format, something at `out`, or an adapter that the format cannot express.
    StorageError
        The disk is full or the folder is not writable.
    """
    out = Path(out)
    _check_options(to, dora, precision, out, overwrite)
    if module is not None:
        low_rank.check_fit(adapter, module, "the adapter")
    notes: list[str] = []
    if drop_conditioner and to == "comfyui":
        adapter = _without_conditioner(adapter, notes)
    weight_of = None if module is None else weights_of(module)
    kind, lost = adapter.kind, None
    if bake_norms and (to != "sa3" or kind != "dora" or module is None):
        raise UserError(
            "--bake-norms is for DoRA written with --to sa3, and needs the base model; give --model, or leave it out."
        )
    if precision == "auto":
        precision = _precision(adapter, to)
    if to == "comfyui" and kind == "dora" and dora == "diff":
        tensors = comfyui.write(out, adapter, weight_of=weight_of, strength=strength, precision=precision)
        kind = "diff"
        notes.append(
            "ComfyUI computes DoRA by another formula, so the whole difference of every weight was written: it plays "
            "as trained on this "
            "base model; --dora scale writes a small file, exact while ComfyUI computes in fp32."
        )
    else:
        adapter = low_rank.with_strength(adapter, strength)
        tensors = _writer(to, out, adapter, weight_of, dora, precision, bake_norms)
        if to == "sa3" and (weight_of is not None or kind == "lora"):
            lost = low_rank.rounding(adapter, weight_of, precision)
            if lost > _MUCH_LOST:
                notes.append(
                    f"half precision changes the update by {lost:.1%} of its size (of DoRA's magnitudes it keeps 11 "
                    "bits); --precision fp32 "
                    "does not, and Stability's loader reads it too."
                )
    return Written(str(out), to, kind, precision, len(adapter.layers), tensors, _size(out), lost, notes)


def _precision(adapter: LowRankAdapter, to: str) -> str:
    """The least precision that loses nearly nothing: ComfyUI's DoRA has no magnitudes in half precision."""
    if to not in ("sa3", "comfyui"):
        return "fp32"
    try:
        if adapter.kind == "dora":
            return "fp16" if to == "comfyui" or low_rank.is_exact(adapter, "fp16") else "fp32"
        return "fp16" if low_rank.rounding(adapter, None, "fp16") <= _MUCH_LOST else "fp32"
    except CheckpointError:  # beyond the range of half precision
        return "fp32"


def _writer(
    to: str, out: Path, adapter: LowRankAdapter, weight_of: WeightOf | None, dora: str, precision: str, bake_norms: bool
) -> int:
    if to == "sa3":
        return sa3.write(out, adapter, precision, weight_of if bake_norms else None)
    if to == "comfyui":
        return comfyui.write(out, adapter, weight_of=weight_of, dora=dora, precision=precision)
    partial = out / f".{os.getpid()}.partial"  # a folder inside the other one, so that moving is renaming
    try:
        count = (peft if to == "peft" else diffusers).write_adapter(partial, adapter)
        _replace(out, partial)
    except OSError as error:
        raise storage_error(out, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if out.is_dir() and not any(out.iterdir()):
            out.rmdir()
    return count


def _replace(out: Path, partial: Path) -> None:
    """Moves the new adapter's files into `out` and removes what is left of an older one; other files are not
    touched."""
    new = {file.relative_to(partial) for file in partial.rglob("*") if file.is_file()}
    old = {file.relative_to(out) for file in _adapter_files(out) if partial not in file.parents}
    for name in sorted(new):
        (out / name).parent.mkdir(exist_ok=True)
        (partial / name).replace(out / name)
    for name in old - new:
        (out / name).unlink()
        if name.parent != Path() and not any((out / name.parent).iterdir()):
            (out / name.parent).rmdir()


def _adapter_files(folder: Path) -> list[Path]:
    """The files of the adapter in a folder, in any layout that is written."""
    places = [folder, *(file.parent for file in folder.glob(f"*/{peft.CONFIG}"))]
    names = (peft.CONFIG, peft.WEIGHTS, peft.STAMP)
    places_of_files = [place / name for place in places if (place / peft.CONFIG).is_file() for name in names]
    return [file for file in (*places_of_files, folder / diffusers.LORA_FILE) if file.is_file()]


def host_layers(path: str | Path, to: str) -> tuple[str, int, int]:
    """Of the layers that a written file or folder names: the host's model that has them, how many it has, and how many
    there are.

    The names are read anew and looked up in the host's table (`formats.host_names`); nothing of the writer is used.
    """
    path = Path(path)
    files = [path] if path.is_file() else [file for file in _adapter_files(path) if file.suffix == ".safetensors"]
    names = set()
    for file in files:
        part = "" if file.parent == path or path.is_file() else f"{file.parent.name}."
        names |= {part + _LAYER_NAME.sub("", name) for name in read_header(file).shapes}
    tables = host_names.HOSTS[to]
    known = [sum(table.from_host(name) is not None for name in names) for table in tables]
    best = max(range(len(tables)), key=lambda index: known[index])
    return tables[best].model, known[best], len(names)


def _check_options(to: str, dora: str, precision: str, out: Path, overwrite: bool) -> None:
    for name, value, allowed in (
        ("--to", to, FORMATS),
        ("--dora", dora, comfyui.DORA),
        ("--precision", precision, PRECISIONS),
    ):
        if value not in allowed:
            raise UserError(f"{name} is '{value}'; allowed are {', '.join(allowed)}.")
    if out.exists() and not overwrite:
        raise UserError(f"{out} exists already; choose another --out, or replace it with --overwrite.")
    folder = to in ("peft", "diffusers")
    if out.exists() and out.is_dir() != folder:
        raise UserError(
            f"{out} is a {'folder' if out.is_dir() else 'file'}, and {to} is a {'folder' if folder else 'file'}."
        )
    if folder and out.is_dir() and any(out.iterdir()) and detect_or_none(out) is None:
        raise UserError(f"{out} is a folder that holds no adapter, so it is not replaced; choose another --out.")
    if not folder and out.suffix != ".safetensors":
        raise UserError(f"--out is '{out}', and {to} is a file; give a name that ends in .safetensors.")


def detect_or_none(path: str | Path) -> str | None:
    """The format of an adapter, or None where there is no adapter."""
    try:
        return detect(path)
    except CheckpointError:
        return None


def _without_conditioner(adapter: LowRankAdapter, notes: list[str]) -> LowRankAdapter:
    outside = comfyui.unreachable(adapter.layers)
    if not outside:
        return adapter
    reachable = {name: factors for name, factors in adapter.layers.items() if name not in outside}
    if not reachable:
        raise UserError(
            f"the adapter changes {', '.join(outside)} alone, and ComfyUI loads adapters of the transformer alone."
        )
    notes.append(
        f"{', '.join(outside)} was left out, which ComfyUI cannot load: the file sounds different from the adapter."
    )
    return LowRankAdapter(reachable, adapter.rank, adapter.alpha, adapter.dropout, adapter.stamp)


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
