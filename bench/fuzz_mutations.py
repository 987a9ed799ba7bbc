"""Ways to damage a file, by its format: its structure (keys, values, headers) or its bytes, all drawn from one seed."""

from __future__ import annotations

import copy
import io
import json
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

NAN = float("nan")
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 7, 0.5, -0.0, 1e-320, 1e308, NAN, float("inf"), 2**31, 2**63, 10**39, 10**400, "",
    " ", "1", "x",
    "nan", "é" * 9, "\U0001d11e", "\ud800", "a\0b", "\x1b[31m", "\u202e\u200b", "a\nb", "/dev/zero", "..",
    "../../etc/passwd", "x" * 5000,
    "n" * 300, [], {}, [[]], [None], [1, "a"], {"": None}, {"a": {"b": []}}, [0] * 500, [1e308] * 8,
)  # fmt: skip
ODD_KEYS = ("", "x", "null", "__class__", "path", "\ud800", "a\0b", "é", "on", "1", "self", "n" * 300)
ODD_YAML = (
    "null: 1", "on: 1", "seed: 2024-13-45", "? [1]\n: 2", "odd: &a [*a]", "odd: *nothing", "!!map 5", "odd: !!set {a}",
    "odd: !!int b",
    "odd: !!python/name:os.system x", "a: 1\na: 2", "<<: 5", "<<: {b: 1}", "extends: /dev/zero", "extends: [a]",
    "odd: 1:30", "\todd: 1",
    "- a\nb: 1", "odd: |\n", "--- 1\n--- 2", "%YAML 9", "odd: .nan", "odd: " + "9" * 6000, "odd: " + "[" * 400,
    "odd: \x07", 'odd: "\\0"',
    'odd: "\\ud800"', "&a a: *a", "a: &x [1,1,1,1,1,1]\nb: &y [*x,*x,*x,*x,*x]\nc: [*y,*y,*y,*y]",
)  # fmt: skip


def mutate(path: Path, draw: random.Random) -> None:
    """Damages a file in place: by its format where one is known, else, or by chance, by its bytes."""
    change = _BY_SUFFIX.get(path.suffix)
    content = path.read_bytes()
    if change is not None and draw.random() < 0.8:
        try:
            content = change(content, draw)
        except (RecursionError, OverflowError):  # a second change finds the deep list or long integer of the first
            content = damage_bytes(content, draw)
        if draw.random() < 0.85:
            path.write_bytes(content)
            return
    path.write_bytes(damage_bytes(content, draw))


def damage_bytes(content: bytes, draw: random.Random) -> bytes:
    """One to four cuts, flips, insertions, repetitions or runs of zeros."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(data) + 1) if draw.random() < 0.5 else draw.randrange(min(len(data), 120) + 1)
        match draw.randrange(7):
            case 0:
                del data[place:]
            case 1:
                del data[place : place + draw.randint(1, 64)]
            case 2 if place < len(data):
                data[place] ^= 1 << draw.randrange(8)
            case 3:
                data[place:place] = draw.randbytes(draw.randint(1, 16))
            case 4:
                data[place : place + 4] = draw.choice(
                    (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x01\0\0\0", b"\0\0\0\x80", b"\x7f\xff\xff\xff")
                )
            case 5:
                data[place:place] = data[place : place + draw.randint(1, 200)]
            case _:
                data[place:place] = draw.choice(
                    (b"{", b"[" * 2000, b'"', b"\\", b"\xff\xfe", b"\n", b"NaN", b"9" * 5000, b"\xef\xbb\xbf")
                )
    return bytes(data)


def damage_value(value: Any, draw: random.Random) -> Any:
    """A copy of nested values with one to three of them replaced, removed, repeated or renamed."""
    value = copy.deepcopy(value)
    for _ in range(draw.randint(1, 3)):
        places: list[tuple[Any, Any]] = []
        _places(value, places)
        if not places:
            return draw.choice(ODD_VALUES)
        group, key = draw.choice(places)
        match draw.randrange(8):
            case 0:
                del group[key]
            case 1 if isinstance(group, dict):
                group[draw.choice(ODD_KEYS)] = group.pop(key)
            case 1:
                group.insert(key, draw.choice(ODD_VALUES))
            case 2 if isinstance(group, dict):
                group[draw.choice(ODD_KEYS)] = draw.choice(ODD_VALUES)
            case 2:
                group.extend(group[:20])
            case 3:
                deep: Any = group[key]
                for _ in range(draw.choice((1, 2, 60, 300))):
                    deep = [deep] if draw.random() < 0.5 else {"a": deep}
                group[key] = deep
            case 4 if isinstance(group[key], int | float):
                group[key] *= draw.choice((-1, 0, 1.5, 1e9))
            case _:
                group[key] = copy.deepcopy(draw.choice(ODD_VALUES))
    return value if draw.random() < 0.95 else copy.deepcopy(draw.choice(ODD_VALUES))


def _places(value: Any, places: list[tuple[Any, Any]]) -> None:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys)[:60]:
        places.append((value, key))
        _places(value[key], places)


def _dump(value: Any) -> str:
    text = json.dumps(value)
    return text.replace(str(10**400), "9" * 6000)  # printing an integer of that length is refused by Python itself


def damage_json(content: bytes, draw: random.Random) -> bytes:
    return _dump(damage_value(json.loads(content), draw)).encode("utf-8", "surrogatepass")


def damage_jsonl(content: bytes, draw: random.Random) -> bytes:
    lines = content.rstrip(b"\n").split(b"\n")
    for _ in range(draw.randint(1, 2)):
        number = draw.randrange(len(lines))
        match draw.randrange(5):
            case 0:
                lines.insert(number, lines[draw.randrange(len(lines))])
            case 1:
                lines[number] = lines[number][: draw.randrange(len(lines[number]) + 1)]
            case _ if lines[number].startswith(b"{"):
                try:
                    lines[number] = damage_json(lines[number], draw)
                except ValueError:
                    lines[number] = b"{"
    return b"\n".join(lines) + b"\n"


def damage_yaml(content: bytes, draw: random.Random) -> bytes:
    import yaml

    text = content.decode()
    if draw.random() < 0.5:
        return _dump(damage_value(yaml.safe_load(text), draw)).encode("utf-8", "surrogatepass")
    lines = text.split("\n")
    for _ in range(draw.randint(1, 2)):
        number = draw.randrange(len(lines))
        line = lines[number]
        indent = " " * (len(line) - len(line.lstrip()))
        odd = draw.choice(ODD_YAML)
        match draw.randrange(3):
            case 0:
                lines.insert(number, odd)
            case 1 if ":" in line:
                lines[number] = line.split(":")[0] + ": " + odd.partition(": ")[2]
            case _:
                lines[number] = indent + odd
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def damage_text(content: bytes, draw: random.Random) -> bytes:
    cells = content.decode("utf-8", "replace").split(",")
    for _ in range(draw.randint(1, 3)):
        odd = draw.choice(ODD_VALUES)
        shown = odd if isinstance(odd, str) else repr(odd)[:4000] if odd != 10**400 else "9" * 6000
        cells[draw.randrange(len(cells))] = shown if draw.random() < 0.7 else f'"{shown}\n'
    return ",".join(cells).encode("utf-8", "surrogatepass")


_DTYPES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "U16": 2,
    "ODD": 4,
}


def damage_tensors(content: bytes, draw: random.Random) -> bytes:
    """A safetensors file with other metadata, header, names, types, shapes or values; often a valid one of something
    else."""
    size = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + size]), bytearray(content[8 + size :])
    metadata = header.pop("__metadata__", {})
    names = list(header)
    name = draw.choice(names)
    match draw.randrange(9):
        case 0 if metadata:
            key = draw.choice(list(metadata))
            try:
                metadata[key] = _dump(damage_value(json.loads(metadata[key]), draw))
            except ValueError:
                metadata[key] = draw.choice(("", "{", "[]", "5", "[" * 2000, '{"a": NaN}'))
        case 1:
            header[draw.choice((*names, "x", "", "base_model.model.x", name + ".alpha", "a\0b"))] = header.pop(name)
        case 2:
            header[name] = damage_value(header[name], draw)
        case 3:
            return _packed({one: header[one] for one in names if one != name}, data, metadata, draw, repack=True)
        case 4:
            header[name]["dtype"] = draw.choice(list(_DTYPES))
            return _packed(header, data, metadata, draw, repack=True)
        case 5:
            shape = list(header[name]["shape"])
            header[name]["shape"] = draw.choice(
                ([1] * 63 + shape, [1, *shape], [*shape, 1], shape[::-1], [], [0], [3], [2, 2])
            )
            return _packed(header, data, metadata, draw, repack=True)
        case 6:
            begin, end = header[name]["data_offsets"]
            data[begin:end] = draw.choice((b"\xff", b"\x00", b"\x7f", b"\x7c")) * (end - begin)
        case 7:
            metadata = damage_value(metadata, draw)
        case _:
            header = damage_value(header, draw)
    return _packed(header, data, metadata, draw)


def _packed(header: Any, data: bytearray, metadata: Any, draw: random.Random, repack: bool = False) -> bytes:
    if repack:  # offsets that fit the shapes and types, so that the container is whole
        place = 0
        for entry in header.values():
            count = int(np.prod(entry["shape"], dtype=np.int64)) * _DTYPES[entry["dtype"]]
            entry["data_offsets"], place = [place, place + count], place + count
        data = (data * (place // max(1, len(data)) + 1))[:place]
    text = _dump({"__metadata__": metadata, **header} if isinstance(header, dict) else header)
    encoded = text.encode("utf-8", "surrogatepass")
    return len(encoded).to_bytes(8, "little") + encoded + bytes(data)


def _odd_array(array: np.ndarray, draw: random.Random) -> np.ndarray:
    match draw.randrange(9):
        case 0:
            return array.astype(object)
        case 1:
            return array.astype(str)
        case 2:
            return array.reshape(-1)[: draw.randrange(array.size + 1)]
        case 3:
            return np.full(array.shape, NAN)
        case 4:
            return array[None]
        case 5:
            return np.array(draw.choice((NAN, -1, 1e300, 2**62, True, b"\xff", "text")))
        case 6:
            return np.zeros(array.shape, dtype=draw.choice(("u1", "f2", "c8", "?", "S3", "i8", "M8[s]")))
        case 7:
            return array.T
        case _:
            return np.zeros((0,) * array.ndim, dtype=array.dtype)


def damage_npz(content: bytes, draw: random.Random) -> bytes:
    with np.load(io.BytesIO(content)) as archive:
        arrays = {name: archive[name] for name in archive.files}
    name = draw.choice(list(arrays))
    match draw.randrange(4):
        case 0:
            del arrays[name]
        case 1:
            arrays[draw.choice(ODD_KEYS[:6]) or "x"] = arrays.pop(name)
        case _:
            arrays[name] = _odd_array(arrays[name], draw)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive_out:
        for key, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array, allow_pickle=True)
            archive_out.writestr(f"{key.encode('ascii', 'ignore').decode()}.npy", member.getvalue())
    return buffer.getvalue()


def damage_npy(content: bytes, draw: random.Random) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, _odd_array(np.load(io.BytesIO(content)), draw), allow_pickle=True)
    return buffer.getvalue()


def damage_wav(content: bytes, draw: random.Random) -> bytes:
    """A WAV whose format chunk or lengths say something else."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 2)):
        place, width = draw.choice(((4, 4), (16, 4), (20, 2), (22, 2), (24, 4), (28, 4), (32, 2), (34, 2), (40, 4)))
        value = draw.choice((0, 1, 2, 3, 8, 255, 65535, 2**31 - 1, 2**32 - 1, draw.randrange(2**32)))
        data[place : place + width] = (value % 256**width).to_bytes(width, "little")
    return bytes(data)


_BY_SUFFIX: dict[str, Callable[[bytes, random.Random], bytes]] = {
    ".json": damage_json, ".jsonl": damage_jsonl, ".yaml": damage_yaml, ".csv": damage_text, ".txt": damage_text,
    ".abc": damage_text,
    ".safetensors": damage_tensors, ".npz": damage_npz, ".npy": damage_npy, ".wav": damage_wav,
}  # fmt: skip
