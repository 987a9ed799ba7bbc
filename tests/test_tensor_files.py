from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_process import OwnProcess
from safetensors.torch import load_file, save_file

from eisbach.errors import CheckpointError, StorageError, UserError
from eisbach.tensor_files import read_array, read_arrays, read_header, read_metadata_object, read_tensors, write_tensors

TENSORS = {"b": torch.arange(6.0).view(2, 3).T, "a": torch.tensor(3, dtype=torch.int64), "c": torch.ones(2).bfloat16()}
METADATA = {name: f"{name} ß \x1f \u2028 \U0001d11e" for name in "zyxwvutsrq"}


@pytest.mark.parametrize("names", ["abc", "ab"])  # with and without what numpy lacks
def test_equal_content_gives_equal_bytes_in_any_process(tmp_path: Path, names: str) -> None:
    tensors = {name: TENSORS[name] for name in names}
    hashes = set()
    for turn in range(8):
        path = tmp_path / f"{turn}.safetensors"
        write_tensors(path, dict(reversed(tensors.items())) if turn % 2 else tensors, METADATA)
        hashes.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(hashes) == 1
    header = read_header(tmp_path / "0.safetensors")
    assert header.metadata == METADATA
    assert header.shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    back = load_file(tmp_path / "0.safetensors")
    assert all(torch.equal(back[name], tensor) and back[name].dtype == tensor.dtype for name, tensor in tensors.items())
    size = int.from_bytes((tmp_path / "0.safetensors").read_bytes()[:8], "little")
    order = json.loads((tmp_path / "0.safetensors").read_bytes()[8 : 8 + size])["__metadata__"]
    assert list(order) == sorted(METADATA)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_mode_is_that_of_any_new_file(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_tensors(tmp_path / "x.safetensors", TENSORS, {"a": "b"})
    finally:
        os.umask(before)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == mode


def _write_more_than_the_disk_takes(path: str) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
    try:
        write_tensors(path, {"a": torch.zeros(100000)}, {"a": "b"})
    except StorageError as error:
        print(error)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    done = OwnProcess(_write_more_than_the_disk_takes, str(tmp_path / "x.safetensors")).wait()
    assert "x.safetensors could not be written (File too large" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_eight_bit_floats_come_as_float32(tmp_path: Path) -> None:
    values = torch.tensor([0.5, -1.5, 448.0])
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        save_file({"a": values.to(dtype)}, tmp_path / "x.safetensors")
        back = read_tensors(tmp_path / "x.safetensors")["a"]
        assert back.dtype == torch.float32
        assert torch.equal(back, values.to(dtype).float())


def _file(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234",
        b"\xff" * 100,
        _file({}, b"more"),
        _file(b"[" * 100_000, b""),
        _file(b"\xff\xfe", b""),
        _file({"a": {"dtype": "F32", "shape": [1] * 65, "data_offsets": [0, 4]}}, bytes(4)),
        _file({"a": {"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]}}, bytes(4)),
        _file({"a": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]}}, bytes(4)),
        _file({"a": {"dtype": "U16", "shape": [2], "data_offsets": [0, 4]}}, bytes(4)),
        _file({"a": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)),
        _file({"a": {"dtype": "ODD", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
        _file({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 4]}}, bytes(4)),
        _file({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, bytes(4)),
        _file({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}, bytes(4)),
        _file({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "__metadata__": {"a": 5}}, bytes(4)),
        pickle.dumps({"a": 1}),
    ],
)
def test_odd_files_of_tensors_are_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    for read in (read_tensors, read_header):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert "\n" not in str(caught.value)


def test_what_is_no_file_of_tensors_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero"), tmp_path / "none", tmp_path / "a\0b"):
        for read in (read_tensors, read_arrays, read_array):
            with pytest.raises(UserError):
                read(path)


@pytest.mark.parametrize("text", ["5", "null", "[1]", "[" * 2000, '{"a": NaN}', "{", '{"a": 1, "a": 2}'])
def test_metadata_that_is_no_object(text: str) -> None:
    with pytest.raises(CheckpointError, match="the metadata 'stamp' of x"):
        read_metadata_object({"stamp": text}, "stamp", "x")
    assert read_metadata_object({}, "stamp", "x") == {}


def test_archives_come_back_and_odd_ones_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, a=np.arange(3), title=np.array("ß"))
    back = read_arrays(path)
    assert back["a"].tolist() == [0, 1, 2]
    assert str(back["title"]) == "ß"
    whole = path.read_bytes()
    odd = [whole[:size] for size in (0, 10, len(whole) // 2, len(whole) - 5)]
    np.savez(path, a=np.array([{"a": 1}], dtype=object), allow_pickle=True)
    odd += [path.read_bytes(), pickle.dumps([1]), b"PK\x05\x06" + bytes(17)]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "a.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999,), }"
        )
    odd.append(path.read_bytes())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", b"text")
    odd.append(path.read_bytes())
    for content in odd:
        path.write_bytes(content)
        with pytest.raises(UserError) as caught:
            read_arrays(path, "reference")
        assert "\n" not in str(caught.value)


def test_an_archive_that_unpacks_to_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    path, packer = tmp_path / "bomb.npz", zlib.compressobj(wbits=-15)
    block = packer.compress(bytes(64 * 2**20)) + packer.flush(zlib.Z_FULL_FLUSH)  # such blocks may follow each other
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", 40 * block + packer.flush())
        entry = archive.getinfo("a.npy")  # what the archive's directory says of it
        entry.compress_type, entry.file_size = zipfile.ZIP_DEFLATED, 40 * 64 * 2**20
    assert path.stat().st_size < 10 * 2**20
    with zipfile.ZipFile(path) as archive, archive.open("a.npy") as file:
        assert file.read(2**20) == bytes(2**20)
    with pytest.raises(UserError, match=r"unpacks to 2.5 GiB"):
        read_arrays(path)


def test_arrays_are_mapped_and_odd_ones_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.arange(6.0).reshape(2, 3))
    assert read_array(path).tolist() == [[0, 1, 2], [3, 4, 5]]
    whole = path.read_bytes()
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    odd = [whole[:size] for size in (0, 5, 60, len(whole) - 1)] + [path.read_bytes(), pickle.dumps([1]), b"PK\x03\x04"]
    odd.append(whole.replace(b"(2, 3)", b"(9, 9)"))
    odd.append(whole.replace(b"'<f8'", b"'|O' "))
    for content in odd:
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"cannot be read as \.npy without pickles"):
            read_array(path)


def test_other_errors_of_the_disk_are_storage_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(StorageError, match="Read-only file system"):
        write_tensors(tmp_path / "x.safetensors", TENSORS)


def test_headers_are_read_by_one_thread_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once may take a sound file for a damaged one (CPython gh-106905)."""
    import threading
    import time
    from concurrent.futures import ThreadPoolExecutor

    np.save(tmp_path / "a.npy", np.ones((2, 3), np.float32))
    np.savez(tmp_path / "b.npz", x=np.ones(3))
    inside, load, door = [], np.load, threading.Lock()

    def slowly(*arguments: object, **options: object) -> object:
        assert door.acquire(blocking=False), "two headers are read at once"
        try:
            time.sleep(0.01)
            inside.append(1)
            return load(*arguments, **options)
        finally:
            door.release()

    monkeypatch.setattr(np, "load", slowly)
    with ThreadPoolExecutor(6) as pool:
        made = [pool.submit(read_array, tmp_path / "a.npy") for _ in range(8)]
        made += [pool.submit(read_arrays, tmp_path / "b.npz") for _ in range(8)]
        assert all(len(each.result()) for each in made)
    assert len(inside) == 16


@pytest.mark.parametrize(
    "fault",
    [
        SystemError("AST constructor recursion depth mismatch (before=69, after=70)"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        np._core._exceptions._ArrayMemoryError((3,), np.dtype(np.float64)),
    ],
)
@pytest.mark.parametrize("read", [read_array, read_arrays])
def test_what_fails_in_the_machine_is_no_damaged_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object], fault: Exception
) -> None:
    """A reader of many files leaves a damaged one out; what the interpreter or the memory did is no fault of it."""
    np.save(tmp_path / "a.npy", np.ones(3))
    np.savez(tmp_path / "a.npz", x=np.ones(3))

    def fail(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(np, "load", fail)
    with pytest.raises(type(fault)):
        read(tmp_path / ("a.npy" if read is read_array else "a.npz"))


def test_a_header_nested_too_deeply_is_a_damaged_file(tmp_path: Path) -> None:
    """The parser says MemoryError of it, and the machine has enough."""
    header = b"-" * 9000 + b"1"
    header += b" " * (64 - (10 + len(header) + 1) % 64) + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(UserError, match=r"cannot be read as \.npy"):
        read_array(tmp_path / "a.npy")


def test_an_array_larger_than_its_file_is_a_damaged_file(tmp_path: Path) -> None:
    """NumPy makes room for what the header of a packed array claims; a foreign file claims what it likes."""
    header = str({"descr": "<f8", "fortran_order": False, "shape": (2**50,)}).encode()
    header += b" " * (64 - (10 + len(header) + 1) % 64) + b"\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 8)
    with pytest.raises(UserError, match=r"cannot be read as \.npz"):
        read_arrays(tmp_path / "a.npz")
