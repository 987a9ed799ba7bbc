from __future__ import annotations

import errno
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from eisbach.errors import StorageError, UserError
from eisbach.files import (
    atomic_write,
    find_files,
    read_json,
    read_jsonl,
    walk_files,
    write_json,
    write_jsonl,
    write_text,
)


def test_a_write_creates_folders_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c.txt"
    write_text(path, "eins\u2028zwei\nдва")
    assert path.read_text(encoding="utf-8") == "eins\u2028zwei\nдва"
    write_text(path, "new")
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "No space left"),
    ],
)
def test_a_full_disk_keeps_the_old_content(tmp_path: Path, error: Exception, reason: str) -> None:
    path = tmp_path / "state.json"
    write_text(path, "old")

    def write(partial: Path) -> None:
        partial.write_text("half of the n")
        raise error

    with pytest.raises(StorageError, match=rf"state.json could not be written \({reason}.*free some space") as caught:
        atomic_write(path, write)
    assert caught.value.__cause__ is error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SafetensorError])
def test_other_interruptions_keep_the_old_content_and_their_own_kind(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "x"
    write_text(path, "old")

    def write(partial: Path) -> None:
        partial.write_text("new")
        raise error("no matter of the disk")

    with pytest.raises(error):
        atomic_write(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_safetensors_really_says_it_that_way(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="could not be written"):
        atomic_write(tmp_path / "m", lambda _: save_file({"a": torch.zeros(1)}, str(tmp_path / "no folder" / "m")))


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "file" / "x.txt", tmp_path / "file" / "y" / "x.txt"):
        with pytest.raises(StorageError, match="a file is where a folder should be"):
            write_text(target, "")


def test_json_round_trip_and_refusals(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    value = {"ß": [1, 2.5, None, True], "琴": {"x": "\u2028"}}
    write_json(path, value)
    assert read_json(path) == value
    assert "琴" in path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"x": float("nan")})
    assert read_json(path) == value


def test_lines_round_trip_whatever_a_text_holds(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"caption": text} for text in ("a\nb", "c\u2028d\u2029e\x85f", "g\x0bh\x1ci", "", "\r\n")]
    write_jsonl(path, iter(rows))
    assert read_jsonl(path) == rows
    assert len(path.read_bytes().split(b"\n")) == len(rows) + 1
    path.write_text('\n{"a": 1}\r\n  \n{"a": 2}')
    assert read_jsonl(path) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1}\n{"a": \n', r"is malformed at line 2 .*; each line must be one JSON object"),
        (b'{"a": 1}\n[1]\n', "has a list at line 2"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_jsonl(path, "list of clips")


@pytest.mark.parametrize("read", [read_json, read_jsonl])
def test_files_that_are_not_there(tmp_path: Path, read: object) -> None:
    assert callable(read)
    with pytest.raises(UserError, match=r"the record .*a.json does not exist; check the path"):
        read(tmp_path / "a.json", "record")
    with pytest.raises(UserError, match="cannot be read"):
        read(tmp_path, "record")


def test_malformed_json_names_the_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{\n"a": 1,\n}')
    with pytest.raises(UserError, match=r"is not valid JSON \(line 3"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(json.dumps("ß").encode("latin-1") + b"\xff")
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path / "a.json")


def test_a_name_as_long_as_the_disk_allows(tmp_path: Path) -> None:
    for name in ("n" * 250 + ".json", "\N{MUSICAL SYMBOL G CLEF}" * 62 + ".json"):  # 255 and 253 bytes
        write_json(tmp_path / name, [1])
        assert read_json(tmp_path / name) == [1]


def test_a_folder_that_vanishes_while_it_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1.flac", "gone/2.flac", ".hidden/3.flac", "b/.4.flac", "b/5.FLAC", "b/6.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    scandir = os.scandir

    def racing(path: str) -> object:
        if str(path).endswith("gone"):
            shutil.rmtree(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", racing)
    assert find_files(tmp_path, (".flac",)) == [tmp_path / "a/1.flac", tmp_path / "b/5.FLAC"]
    assert not (tmp_path / "gone").exists()


def test_a_folder_that_may_not_be_read_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError, match=r"closed cannot be read \(Permission denied\)"):
        find_files(tmp_path, (".flac",))


def test_links(tmp_path: Path) -> None:
    (tmp_path / "nowhere.flac").symlink_to(tmp_path / "missing.flac")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert sorted(walk_files(tmp_path)) == [tmp_path / "loop", tmp_path / "nowhere.flac"]
    assert find_files(tmp_path, (".flac",)) == []


def test_threads_may_write_the_same_file(tmp_path: Path) -> None:
    both = Barrier(2)

    def write(partial: Path) -> None:
        partial.write_text("whole")
        both.wait(timeout=60)  # both have written, neither has renamed

    with ThreadPoolExecutor(2) as pool:
        for made in [pool.submit(atomic_write, tmp_path / "same", write) for _ in range(2)]:
            made.result()
    assert [path.name for path in tmp_path.iterdir()] == ["same"]
    assert (tmp_path / "same").read_text() == "whole"
