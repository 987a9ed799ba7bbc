"""Tensors and arrays on disk: read whole or refused in one sentence, written whole, and put into a network only when
all fit."""

from __future__ import annotations

import json
import math
import stat
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eisbach.errors import CheckpointError, EisbachError, UserError, is_out_of_memory
from eisbach.files import atomic_write, check_regular, parse_object, read_object

if TYPE_CHECKING:
    import numpy as np
    import torch

_DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")
"""What is read, in safetensors' words: what torch computes with."""
_SMALL = ("F8_E4M3", "F8_E5M2")  # read as float32, exactly: torch has few operations for them
_AXES = 8
_HEADER_LIMIT = 64 * 2**20  # bytes; the format's own is 100 MB
_ARRAYS_LIMIT = 2**31  # bytes of an .npz when it is unpacked


@dataclass(frozen=True)
class TensorHeader:
    """What a safetensors file says of itself.

    Attributes
    ----------
    shapes : dict of tuple of int
        By the tensors' names.
    metadata : dict of str
        Texts that came with them.
    """

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]


def read_header(path: str | Path) -> TensorHeader:
    """Names, shapes and metadata of a safetensors file, which is checked as a whole but not read.

    Raises
    ------
    CheckpointError
        The file is missing, truncated or of another format; or has tensors of a dtype or number of axes that no model
        here has.
    """
    with _opened(path) as handle:
        metadata = dict(handle.metadata() or {})
        shapes = {}
        for name in handle.keys():  # noqa: SIM118
            part = handle.get_slice(name)
            dtype, shape = str(part.get_dtype()), tuple(part.get_shape())
            if dtype not in (*_DTYPES, *_SMALL):
                raise CheckpointError(
                    f"{path} holds '{name}' as {dtype}; tensors of {', '.join(_DTYPES)} are read: save it in fp16 or "
                    "fp32."
                )
            if len(shape) > _AXES:
                raise CheckpointError(f"{path} holds '{name}' with {len(shape)} axes; no model has more than {_AXES}.")
            shapes[name] = shape
    return TensorHeader(shapes, metadata)


def read_tensors(path: str | Path, wanted: Callable[[str], bool] | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, by name.

    Parameters
    ----------
    path : str or Path
    wanted : function of a tensor's name, or None
        Only these are read; None reads all.

    Raises
    ------
    CheckpointError
        As in `read_header`.

    Eight-bit floats come as float32.
    """
    names = read_header(path).shapes
    with _opened(path) as handle:
        tensors = {name: handle.get_tensor(name) for name in names if wanted is None or wanted(name)}
    wide = {
        name: tensor.float()
        for name, tensor in tensors.items()
        if tensor.element_size() == 1 and tensor.is_floating_point()
    }
    return {**tensors, **wide}


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    check_regular(path, "file of tensors", error=CheckpointError)
    try:
        with safe_open(str(path), framework="pt") as handle:
            yield handle
    # The library lets through what Python, torch and its own parser raise for an odd header.
    except (OSError, SafetensorError, RuntimeError, ValueError, TypeError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        raise CheckpointError(f"{path} cannot be read: it is truncated or not a safetensors file ({error}).") from error


def read_metadata_object(metadata: Mapping[str, str], key: str, path: str | Path) -> dict[str, Any]:
    """The JSON object that a safetensors file's metadata holds under `key`; {} where it has none, `CheckpointError` for
    others."""
    return parse_object(metadata.get(key, "{}"), f"the metadata '{key}' of {path}", error=CheckpointError)


def write_tensors(
    path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a safetensors file atomically: equal tensors and metadata give equal bytes.

    Parameters
    ----------
    path : str or Path
    tensors : tensors by name
        On any device, contiguous or not.
    metadata : mapping of str to str, or None

    Raises
    ------
    StorageError
        The disk is full or the folder is not writable; `path` keeps its old content.
    """
    import torch
    from safetensors.numpy import save_file as save_arrays
    from safetensors.torch import save_file

    values = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    texts = None if metadata is None else dict(metadata)

    def write(partial: Path) -> None:
        partial.touch()
        mode = partial.stat().st_mode  # as of any new file; the library makes its own for the owner alone
        if any(value.dtype == torch.bfloat16 for value in values.values()):  # numpy has no such type
            save_file(values, str(partial), metadata=texts)
        else:  # ten times faster where tensors are many and small
            save_arrays({name: value.numpy() for name, value in values.items()}, str(partial), metadata=texts)
        _sort_metadata(partial)
        partial.chmod(stat.S_IMODE(mode))

    atomic_write(path, write)


def _sort_metadata(path: Path) -> None:
    """Puts a file's metadata in order; the library writes them in the order of a hash table, which differs each
    time."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        if len(header.get("__metadata__", {})) < 2:
            return
        ordered = {"__metadata__": dict(sorted(header.pop("__metadata__").items())), **header}
        content = json.dumps(ordered, ensure_ascii=False, separators=(",", ":")).encode()
        if len(content) > size:
            raise RuntimeError(f"the header of {path} grew from {size} to {len(content)} bytes when it was sorted")
        file.seek(8)
        file.write(content.ljust(size))  # the format fills up with spaces


_HEADERS = threading.Lock()
"""NumPy reads a header with `ast.literal_eval`, which in two threads at once may fail with a SystemError about a
recursion depth (CPython gh-106905): a sound file would be taken for a damaged one."""


def read_arrays(
    path: str | Path, what: str = "file of arrays", *, error: type[UserError] = UserError
) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, by name.

    Raises
    ------
    UserError
        (or `error`) The file is missing, damaged, of another format, larger than 2 GiB unpacked, or holds Python
        objects, which are never unpickled.
    """
    import numpy as np

    check_regular(path, what, error=error)
    size = 0
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(item.file_size for item in archive.infolist())
        if size > _ARRAYS_LIMIT:
            raise error(f"the {what} {path} unpacks to {size / 2**30:.1f} GiB; at most 2 GiB are read.")
        with _HEADERS, np.load(path, allow_pickle=False) as archive:
            arrays = {str(name): archive[name] for name in archive.files}
    except Exception as fault:  # zip, zlib, ast, struct and numpy have many ways to refuse a foreign file
        if isinstance(fault, UserError) or _is_the_machines(fault, size):
            raise
        raise error(f"the {what} {path} cannot be read as .npz without pickles ({_reason(fault)}).") from fault
    strangers = [name for name, value in arrays.items() if not isinstance(value, np.ndarray)]
    if strangers:
        raise error(f"the {what} {path} holds '{strangers[0]}', which is no array.")
    return arrays


def read_array(path: str | Path, what: str = "array", *, error: type[UserError] = UserError) -> np.ndarray:
    """The array of an .npy file, mapped from the disk: nothing is in memory before it is used; errors as in
    `read_arrays`."""
    import numpy as np

    check_regular(path, what, error=error)
    try:
        with open(path, "rb") as file:
            magic = file.read(6)
        if magic != b"\x93NUMPY":  # np.load would take a zip or a pickle for one
            raise ValueError("it does not begin as one")
        with _HEADERS:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        expected = math.prod(array.shape) * array.dtype.itemsize
        if Path(path).stat().st_size < expected:
            raise ValueError("it is truncated")
    except Exception as fault:  # as above
        if _is_the_machines(fault, Path(path).stat().st_size):
            raise
        raise error(f"the {what} {path} cannot be read as .npy without pickles ({_reason(fault)}).") from fault
    return array


def _is_the_machines(fault: Exception, most: int) -> bool:
    """Whether the interpreter or the memory failed: no file is damaged by it, and none is left out for it. A memory
    error is the file's own fault where its header is nested too deeply for the parser (then it names no array), or
    claims an array larger than `most` bytes, what the file can hold."""
    if isinstance(fault, MemoryError):
        shape, dtype = getattr(fault, "shape", None), getattr(fault, "dtype", None)
        return shape is not None and math.prod(shape) * getattr(dtype, "itemsize", 1) <= most
    return isinstance(fault, SystemError) or is_out_of_memory(fault)


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def check_fit(
    expected: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], source: str | Path, owner: str = "model"
) -> None:
    """Nothing, when `tensors` has exactly the names and shapes of `expected`, and floats where it has floats.

    Parameters
    ----------
    expected, tensors : tensors by name
        What is to be filled, and what was read.
    source : str or Path
        Where `tensors` came from, for the message.
    owner : str
        What has the expected tensors, for the message.

    Raises
    ------
    CheckpointError
        They differ; the sentence counts what matches, is missing and is unknown, and names the first.
    """
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing or unknown:
        first = f"the file lacks '{missing[0]}'" if missing else f"the {owner} has no '{unknown[0]}'"
        raise CheckpointError(
            f"{source} does not fit the {owner}: {len(expected) - len(missing)} of {len(expected)} tensors match, "
            f"{len(missing)} are missing and {len(unknown)} unknown ({first})."
        )
    for name, tensor in expected.items():
        if tensor.shape != tensors[name].shape:
            raise CheckpointError(
                f"{source} does not fit the {owner}: '{name}' has shape {list(tensors[name].shape)}, the {owner} needs "
                f"{list(tensor.shape)}."
            )
        if tensor.is_floating_point() != tensors[name].is_floating_point():
            raise CheckpointError(
                f"{source} does not fit the {owner}: '{name}' is of {tensors[name].dtype}, the {owner}'s of "
                f"{tensor.dtype}."
            )


def copy_named(
    targets: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], source: str | Path, owner: str = "model"
) -> int:
    """Copies `tensors` into `targets` of the same names and shapes, all of them or none; returns how many.

    Raises
    ------
    CheckpointError
        As in `check_fit`.
    """
    import torch

    check_fit(targets, tensors, source, owner)
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(tensors[name])
    return len(targets)


@contextmanager
def foreign_files(what: str, todo: str = "fetch it again") -> Iterator[None]:
    """Around code that reads what others wrote: what its contents make us index, cast or call becomes one
    `CheckpointError`.

    Parameters
    ----------
    what : str
        What is read, for the message: "the model in models/x".
    todo : str
        What to do.
    """
    try:
        yield
    except EisbachError:
        raise
    except (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip() or "no reason given"
        raise CheckpointError(f"{what} cannot be read ({type(error).__name__}: {reason[:300]}); {todo}.") from error


# --- a model's weights, whole or in shards


def has_weights(folder: str | Path, stem: str = "model") -> bool:
    """True when `folder` holds `stem`.safetensors, or the index of its shards."""
    folder = Path(folder)
    return (folder / f"{stem}.safetensors").is_file() or (folder / f"{stem}.safetensors.index.json").is_file()


def read_weights(folder: str | Path, stem: str = "model", wanted: Callable[[str], bool] = lambda name: True) -> Any:
    """The tensors, by name, of `stem`.safetensors, or of the shards that `stem`.safetensors.index.json lists.

    Parameters
    ----------
    folder : str or Path
    stem : str, default "model"
    wanted : function of a tensor's name
        Only these are read.

    Raises
    ------
    CheckpointError
        No such file, a missing shard, or a file that cannot be read.
    """
    tensors: dict[str, Any] = {}
    for file in _shards(Path(folder), stem):
        tensors |= read_tensors(file, wanted)
    return tensors


def _shards(folder: Path, stem: str) -> list[Path]:
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        raise CheckpointError(f"there is no {single.name} in {folder}; fetch the model again, with all its files.")
    names = read_object(index, "index of weights", error=CheckpointError).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(f"{index} lists no weights; fetch the model again, with all its files.")
    strange = sorted(name for name in names.values() if Path(name).name != name)
    if strange:
        raise CheckpointError(f"{index} names the file '{strange[0]}', which is not beside it; fetch the model again.")
    files = [folder / name for name in sorted(set(names.values()))]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(
            f"{len(missing)} of {len(files)} files with weights are missing from {folder} (first: {missing[0]}); fetch "
            "them again."
        )
    return files
