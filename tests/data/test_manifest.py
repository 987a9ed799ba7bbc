from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from eisbach.data.manifest import Manifest, ManifestRow, load_manifest, save_manifest
from eisbach.data.selection import merge, merged
from eisbach.data.splits import assign_split
from eisbach.errors import ManifestError


def a_row(name: str = "a", **changes: object) -> ManifestRow:
    digest = hashlib.sha256(name.encode()).hexdigest()
    row = ManifestRow(name, f"clips/{name}.wav", f"caption {name}", 2.5, {"kind": "loop"}, digest, "train")
    return replace(row, **changes)  # type: ignore[arg-type]


def a_folder(root: Path, names: str) -> Manifest:
    (root / "clips").mkdir(parents=True)
    for name in names:
        (root / "clips" / f"{name}.wav").write_bytes(name.encode())
    return Manifest([a_row(name) for name in names], root)


def write_lines(root: Path, lines: list[object]) -> Path:
    path = root / "manifest.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_a_saved_manifest_loads_as_it_was(tmp_path: Path) -> None:
    manifest = a_folder(tmp_path, "ab")
    manifest = Manifest([replace(row, caption="медленно 低音 🎻") for row in manifest], tmp_path)
    assert load_manifest(save_manifest(manifest)).rows == manifest.rows
    assert load_manifest(tmp_path).rows == manifest.rows


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mood": "happy"}, ["unknown key 'mood'", "allowed are id, path"]),
        ({"caption": None}, ["'caption' must be a string"]),
        ({"path": "/etc/passwd"}, ["'path' must be relative"]),
        ({"path": "C:/x.wav"}, ["'path' must be relative"]),
        ({"path": "clips/../../x.wav"}, ["'path' must not leave"]),
        ({"path": "clips\\a.wav"}, ["forward slashes"]),
        ({"path": "clips/none.wav"}, ["'clips/none.wav' does not exist"]),
        ({"duration": "2"}, ["'duration' must be a number"]),
        ({"duration": -1.0}, ["'duration' must be positive"]),
        ({"duration": True}, ["'duration' must be a number"]),
        ({"labels": {"flat": True}}, ["'labels' must map strings to strings", "'flat'"]),
        ({"audio_hash": "abc"}, ["'audio_hash' must be a SHA-256"]),
        ({"split": "test"}, ["'split' must be one of train, held_out"]),
        ({"id": ""}, ["'id' must be a non-empty string"]),
    ],
)
def test_each_fault_names_file_line_and_mend(tmp_path: Path, change: dict[str, object], words: list[str]) -> None:
    a_folder(tmp_path, "ab")
    path = write_lines(tmp_path, [asdict(a_row("a")), {**asdict(a_row("b")), **change}])
    with pytest.raises(ManifestError) as caught:
        load_manifest(path)
    for word in [str(path), "line 2", *words]:
        assert word in str(caught.value)


def test_missing_keys_broken_lines_and_repeated_ids_are_reported_together(tmp_path: Path) -> None:
    a_folder(tmp_path, "a")
    lines = [asdict(a_row("a")), {"id": "x"}, "{not json", "[1]", asdict(a_row("a"))]
    with pytest.raises(ManifestError, match=r"4 faults") as caught:
        load_manifest(write_lines(tmp_path, lines))
    for word in ("line 2: missing key 'path'", "line 3: not valid JSON", "line 4: a list", "already used at line 1"):
        assert word in str(caught.value)


def test_only_ten_faults_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"has 25 faults.*line 10.*and 15 more") as caught:
        load_manifest(write_lines(tmp_path, ["{}}"] * 25))
    assert "line 11" not in str(caught.value)


def test_absent_empty_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="does not exist"):
        load_manifest(tmp_path / "none.jsonl")
    with pytest.raises(ManifestError, match="no rows"):
        load_manifest(write_lines(tmp_path, []))
    (tmp_path / "manifest.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match="UTF-8"):
        load_manifest(tmp_path)


def test_saving_refuses_what_loading_would_refuse(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="row 'a': 'path' must not leave"):
        save_manifest(Manifest([a_row("a", path="../a.wav")], tmp_path))
    with pytest.raises(ManifestError, match="used twice"):
        save_manifest(Manifest([a_row("a"), a_row("a")], tmp_path))
    with pytest.raises(ManifestError, match="not in the manifest's folder"):
        save_manifest(Manifest([a_row("a")], tmp_path), tmp_path / "other" / "manifest.jsonl")


def test_select_by_split_and_labels() -> None:
    rows = [
        a_row("a"), a_row("b", split="held_out"), a_row("c", labels={"kind": "drone"}), a_row("d", labels={}),
    ]  # fmt: skip
    manifest = Manifest(rows, ".")
    assert [row.id for row in manifest.select(split="held_out")] == ["b"]
    assert [row.id for row in manifest.select(split="train", labels={"kind": ["loop", "drone"]})] == ["a", "c"]
    assert len(manifest.select(labels={"kind": "pad"})) == 0
    with pytest.raises(ManifestError, match="no split 'valid'"):
        manifest.select(split="valid")


def test_about_a_tenth_is_held_out_and_a_piece_is_never_divided() -> None:
    hashes = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(3000)]
    share = sum(assign_split(digest) == "held_out" for digest in hashes) / 3000
    assert 0.08 < share < 0.12
    for piece in ("haydn/opus1", "bach/bwv1"):
        assert len({assign_split(digest, {"piece": piece}) for digest in hashes[:50]}) == 1
    pieces = {assign_split(hashes[0], {"piece": str(number)}) for number in range(100)}
    assert pieces == {"train", "held_out"}


def test_merging_adjusts_paths_and_keeps_ids_apart(tmp_path: Path) -> None:
    first, second = a_folder(tmp_path / "one", "ab"), a_folder(tmp_path / "two", "bc")
    third = a_folder(tmp_path / "deep" / "two", "b")
    union = merged([first, second, third])
    assert (union.root, union.audio_root) == (tmp_path, tmp_path)
    assert [row.id for row in union] == ["a", "b", "two/b", "c", "two/b-2"]
    assert union.rows[2].path == "two/clips/b.wav"
    assert load_manifest(save_manifest(union)).rows == union.rows
    assert merged([first]) is first
    with pytest.raises(ManifestError, match="outside"):
        merge([first], tmp_path / "two")


def test_captions_may_hold_line_separators(tmp_path: Path) -> None:
    a_folder(tmp_path, "ab")
    rows = [a_row("a", caption="one\u2028two\u0085three"), a_row("b", caption="four\nfive")]
    save_manifest(Manifest(rows, tmp_path))
    assert list(load_manifest(tmp_path)) == rows
