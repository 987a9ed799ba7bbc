"""What the readers of text, JSON, JSON lines and YAML refuse, each in one sentence, whatever stands in the file."""

from __future__ import annotations

import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from eisbach.config import StrictModel, build_config, check_values, merge, read_recipe, read_yaml
from eisbach.errors import CheckpointError, ConfigError, StorageError, UserError, one_line
from eisbach.files import (
    JsonError,
    atomic_write,
    clear_partials,
    parse_json,
    read_journal,
    read_json,
    read_jsonl,
    read_text,
)
from eisbach.yaml_text import parse_yaml

READERS: tuple[Callable[[Path], Any], ...] = (read_text, read_json, read_jsonl, read_yaml, read_recipe)


def _sentence(call: Callable[..., Any], *args: Any) -> str:
    with pytest.raises(UserError) as caught:
        call(*args)
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 600
    return text


@pytest.mark.parametrize("read", READERS)
def test_what_is_no_file_is_not_opened(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "link").symlink_to("/dev/zero")
    for place, said in [
        (Path("/dev/zero"), "a pipe, a device or a socket"),
        (tmp_path / "link", "a pipe, a device or a socket"),
        (tmp_path / "pipe", "a pipe, a device or a socket"),
        (tmp_path, "a folder"),
        (tmp_path / "loop", "symbolic links"),
        (tmp_path / ("n" * 300), "File name too long"),
        (tmp_path / "a\0b", "null byte"),
        (tmp_path / "file" / "below", "does not exist"),
    ]:
        assert said in _sentence(read, place)


def test_a_recipe_may_not_extend_what_is_no_recipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for base in ("/dev/zero", "pipe", "..", "n" * 300, '"a\\0b"', "[a]", "5", "self.yaml"):
        (tmp_path / "self.yaml").write_text(f"extends: {base}\n")
        _sentence(read_recipe, tmp_path / "self.yaml")


def test_files_that_are_too_large_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(100 * 2**30)  # a hole: no byte of it is on the disk
    for read in (read_text, read_json, read_yaml):
        assert "is larger than" in _sentence(read, path)


@pytest.mark.parametrize(
    "text",
    [
        "9" * 6000,
        "-" + "9" * 41,
        "1e999",
        "-1e+9999",
        "NaN",
        "[Infinity]",
        '{"a": -Infinity}',
        '{"a": 1, "a": 1}',
        '"\\ud800"',
        '{"\\udfff": 1}',
        '"a\\u0000b"',
        '"a\0b"',
        "[" * 101 + "]" * 101,
        '{"a":' * 100_000,
        "[" * 10**6,
        '"' * 5 + "[" * 1000,
        '"' + '\\"' * 200_000,
        "\ufeff[]",
        "",
        "[1,]",
        "'a'",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_odd_json(tmp_path: Path, text: str) -> None:
    start = time.monotonic()
    with pytest.raises(JsonError):
        parse_json(text)
    if not text.startswith("\ufeff"):  # a mark at the head of a file is not of its text
        (tmp_path / "a").write_text(text, encoding="utf-8")
        _sentence(read_json, tmp_path / "a")
        if text:
            _sentence(read_jsonl, tmp_path / "a")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize(
    "value",
    [
        10**39,
        1.7e308,
        5e-324,
        "e400 1e999 " + "9" * 50,
        "\U0001d11e \\ud800 \\u0000 [[[[",
        {"[" * 200: "]" * 200},
        [[[[]]]] * 300,
        {"a": [1, 2.5, None, True], "": {"b": "c"}},
    ],
)
def test_what_is_json_comes_back(value: Any) -> None:
    for ascii_only in (True, False):
        assert parse_json(json.dumps(value, ensure_ascii=ascii_only)) == value


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "more than 100,000 values"),
        ("a: &a {b: 1}\n" + BOMB.replace("a:", "x:").replace("&a", "&x").replace("*a", "*x"), "more than 100,000"),
        ("[" * 5000, "nested more than 50 deep"),
        ("- " * 5000, "nested more than 50 deep"),
        ("{a: " * 5000, "nested more than 50 deep"),
        ("a: &a [*a]", "an alias stands for something that holds it"),
        ("a: *b", "undefined alias"),
        ("!!map 5", "tagged as a group of keys and is none"),
        ("a: !!map [1]", "tagged as a group of keys and is none"),
        ("a: !!set {b}", "!!set is not read"),
        ("a: !!binary aGk=", "!!binary is not read"),
        ("a: !!python/object/apply:os.system ['true']", "is not read"),
        ("a: !!python/tuple [1]", "is not read"),
        ("a: !odd b", "!odd is not read"),
        ("a: !!int b", "cannot be read as one"),
        ("a: !!bool b", "cannot be read as one"),
        ("a: !!int ''", "cannot be read as one"),
        ("a: !!str [1]", "expected a scalar"),
        ("? [1]\n: 2", "a key must be text"),
        ("? {a: 1}\n: 2", "a key must be text"),
        ("a: " + "9" * 6000, "more than 40 digits"),
        ("a: 0x" + "f" * 6000, "more than 40 digits"),
        ('a: "\\0"', "NUL"),
        ('"\\0": 1', "NUL"),
        ('a: "\\ud800"', "Unicode"),
        ("a: \x01", "control characters"),
        ("<<: [1]", "merging"),
        ("on: 1\non: 2", "written twice"),
        ("--- 1\n--- 2", "single document"),
    ],
    ids=lambda text: repr(text[:16]),
)
def test_odd_yaml(tmp_path: Path, text: str, said: str) -> None:
    start = time.monotonic()
    (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
    assert said.lower() in _sentence(read_yaml, tmp_path / "recipe.yaml").lower()
    assert time.monotonic() - start < 5


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "bomb.yaml").write_text(BOMB)
    code = "import sys\nfrom eisbach.config import read_yaml\nread_yaml(sys.argv[1])\n"
    limit = 2 * 2**30
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "bomb.yaml")], capture_output=True, text=True, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )  # fmt: skip
    assert "ConfigError" in done.stderr


@pytest.mark.parametrize("key", ["null", "on", "off", "yes", "1", "1.5", "~", "2024-01-01", ".nan"])
def test_every_key_is_text_as_it_is_written(key: str) -> None:
    assert parse_yaml(f"{key}: 1") == {key: 1}
    with pytest.raises(ConfigError, match=rf"unknown key '{key.replace('.', '[.]')}'"):
        build_config(StrictModel, parse_yaml(f"{key}: 1"))


@pytest.mark.parametrize("text", ["2024-13-45", "2024-01-01", "2024-01-01 25:00:00", "2001-12-14t21:59:43.10-05:00"])
def test_dates_are_text(text: str) -> None:
    assert parse_yaml(f"seed: {text}") == {"seed": text}


def test_anchors_and_merge_keys_work() -> None:
    assert parse_yaml("a: &a {b: 1, c: 2}\nd: {<<: *a, b: 3}\ne: *a") == {
        "a": {"b": 1, "c": 2}, "d": {"b": 3, "c": 2}, "e": {"b": 1, "c": 2},
    }  # fmt: skip
    assert parse_yaml("") is None
    assert math.isinf(parse_yaml("-.inf"))
    with pytest.raises(yaml.YAMLError, match="surrogate"):
        parse_yaml("a: \udcff")


@pytest.mark.parametrize("odd", [None, "text", 5, [1], {"deep": None}])
def test_groups_of_any_kind_merge(odd: Any) -> None:
    for base, over in [({"a": {"b": 1}}, {"a": odd}), ({"a": odd}, {"a": {"b": 1}}), ({"a": odd}, {"a.b": 1})]:
        merged = merge(base, over)
        with pytest.raises(ConfigError):
            build_config(StrictModel, merged)
    with pytest.raises(ConfigError):
        build_config(StrictModel, [odd])  # type: ignore[arg-type]


def test_values_are_checked_against_a_schema() -> None:
    assert check_values(dict[str, float], {"a": 1}, "it") == {"a": 1.0}
    for odd in (None, [], "a", {"a": None}, {"a": [1]}, {"a": "b" * 9000}):
        with pytest.raises(CheckpointError, match="it is not as it was written") as caught:
            check_values(dict[str, float], odd, "it", error=CheckpointError)
        assert len(str(caught.value)) < 300


def test_a_journal_gives_the_lines_that_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    assert read_journal(path) == []
    path.write_bytes(b'{"a": 1}\n{"a": 2}{"a"\n\xff\xfe\n[3]\n{"a": NaN}\n\n{"a": "\xc3\xa9"}\n{"a": 4')
    assert read_journal(path) == [{"a": 1}, {"a": "é"}]
    assert "a folder" in _sentence(read_journal, tmp_path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\r\n  c\u2028d", "a b c d"),
        ("\x1b[31mred\x00", "\\x1b[31mred\\x00"),
        ("\udcff \u200b \u202e", "\\udcff \\u200b \\u202e"),
        ("Ärger 琴 \U0001d11e", "Ärger 琴 \U0001d11e"),
    ],
)
def test_a_sentence_is_one_line_that_a_terminal_shows_as_it_is(text: str, shown: str) -> None:
    assert one_line(text) == shown
    assert str(UserError(text)) == str(StorageError(text)) == shown


def test_partial_files_of_the_dead_are_cleared_and_those_of_the_living_stay(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {
        f".a.json.{dead.pid}-1.partial": False,
        f".a.json.{child.pid}-1.partial": True,
        f".old.json.{child.pid}-2.partial": False,  # written before the process of this number began
        ".foreign.json.1-1-00000000.partial": True,  # another machine's
        ".note.partial": True,
        f"a.json.{dead.pid}-1.partial": True,  # a person's
    }
    for name in names:
        (tmp_path / name).write_text("half")
    os.utime(tmp_path / f".old.json.{child.pid}-2.partial", (1e9, 1e9))
    clear_partials(tmp_path)
    child.communicate(b"\n")
    assert {name: (tmp_path / name).exists() for name in names} == names
    atomic_write(tmp_path / "sub" / "x", lambda path: path.write_text("x"))  # type: ignore[arg-type,return-value]
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["x"]


def test_the_first_write_into_a_folder_clears_it(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".x.{dead.pid}-7.partial").write_text("half")
    atomic_write(tmp_path / "y", lambda path: path.write_text("y"))  # type: ignore[arg-type,return-value]
    assert [path.name for path in tmp_path.iterdir()] == ["y"]
