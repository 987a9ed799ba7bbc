"""A manifest that is made again keeps what a person set in it, and says so; tables give labels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from small_audio import tone, write
from typer.testing import CliRunner

from eisbach.cli.data import app
from eisbach.data.audio_folder import read_folder
from eisbach.data.doctor import examine
from eisbach.data.manifest import ManifestRow, load_manifest, save_manifest
from eisbach.errors import ManifestError, UserError


def songs(folder: Path, count: int = 3) -> Path:
    for number in range(count):
        write(folder / f"{number}.wav", tone(1.0 + number / 10))
    return folder


def edit(folder: Path, **changes: object) -> None:
    """Sets these keys in the row of `0.wav`."""
    manifest = load_manifest(folder)
    rows = [replace(row, **changes) if row.path == "0.wav" else row for row in manifest]  # type: ignore[arg-type]
    save_manifest(manifest.with_rows(rows))


def again(folder: Path, **options: object) -> tuple[dict[str, ManifestRow], list[str]]:
    told: list[str] = []
    manifest, _ = read_folder(folder, quiet=True, notify=told.append, **options)  # type: ignore[arg-type]
    assert load_manifest(folder).rows == manifest.rows
    return {row.path: row for row in manifest}, told


def test_what_was_set_by_hand_stays_and_is_said_in_one_line(tmp_path: Path) -> None:
    read_folder(songs(tmp_path), labels={"kind": "drone"}, quiet=True)
    edit(tmp_path, labels={"flat": "true"}, weight=0.5, weight_above=0.7, split="held_out", id="mine")
    before = load_manifest(tmp_path).rows[0]
    write(tmp_path / "new.wav", tone(2.0))
    rows, told = again(tmp_path)
    assert rows["0.wav"] == before
    assert rows["1.wav"].labels == {"kind": "drone"}
    assert (rows["new.wav"].labels, rows["new.wav"].weight) == ({}, None)
    assert told == [
        "kept from the manifest of before: the labels of 3 clips, the weights of 1 clip, the splits of 1 clip, the ids "
        "of 1 clip; --fresh starts anew."
    ]
    rows, _ = again(tmp_path, labels={"flat": "false"})
    assert rows["0.wav"].labels == {"flat": "false"}  # what is given now comes first


def test_a_clip_is_told_by_its_audio_wherever_it_lies(tmp_path: Path) -> None:
    read_folder(songs(tmp_path), quiet=True)
    edit(tmp_path, labels={"flat": "true"})
    (tmp_path / "flat").mkdir()
    (tmp_path / "0.wav").rename(tmp_path / "flat" / "x.wav")
    rows, _ = again(tmp_path)
    assert (rows["flat/x.wav"].id, rows["flat/x.wav"].labels) == ("flat/x.wav", {"flat": "true"})
    write(tmp_path / "flat" / "x.wav", tone(3.0))
    rows, told = again(tmp_path)
    assert rows["flat/x.wav"].labels == {}
    assert told == ["with their audio, which changed or is gone, went labels or weights of flat/x.wav."]


def test_captions_of_the_folder_come_first_and_those_of_the_manifest_alone_stay(tmp_path: Path) -> None:
    read_folder(songs(tmp_path), quiet=True)
    edit(tmp_path, caption="slow cello")
    rows, told = again(tmp_path)
    assert rows["0.wav"].caption == "slow cello"
    (tmp_path / "1.txt").write_text("fast flute")
    rows, _ = again(tmp_path)  # words beside one recording do not put out one whose words stand in the manifest
    assert {path: row.caption for path, row in rows.items()} == {"0.wav": "slow cello", "1.wav": "fast flute"}
    (tmp_path / "0.txt").write_text("low strings")
    rows, told = again(tmp_path)
    assert rows["0.wav"].caption == "low strings"
    assert [line for line in told if "will not train" not in line] == ["another caption than before in 1 clip: 0.wav."]
    rows, _ = again(tmp_path, caption_from="none")
    assert {row.caption for row in rows.values()} == {""}


def test_a_manifest_that_cannot_be_read_is_not_replaced_unless_asked(tmp_path: Path) -> None:
    read_folder(songs(tmp_path), quiet=True)
    edit(tmp_path, labels={"flat": "true"})
    file = tmp_path / "manifest.jsonl"
    file.write_text(broken := file.read_text() + "{\n")
    with pytest.raises(ManifestError, match=r"line 4: not valid JSON .*; mend it, or add --fresh"):
        read_folder(tmp_path, quiet=True)
    assert file.read_text() == broken
    done = CliRunner().invoke(app, ["folder", str(tmp_path), "--fresh"])
    assert done.exit_code == 0
    assert all(row.labels == {} for row in load_manifest(tmp_path))


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
@pytest.mark.parametrize("words", ["files", "table", "none"])
def test_further_columns_of_a_table_are_labels(tmp_path: Path, name: str, words: str) -> None:
    songs(tmp_path)
    lines = [
        {"file_name": "0.wav", "Flat": "TRUE", "mood": "", "weight": "0.5", "split": "test"},
        {"file_name": "1.wav", "Flat": "false", "mood": "calm", "weight": "", "split": "test"},
        {"file_name": "gone.wav", "Flat": "false", "mood": "", "weight": "", "split": "test"},
    ]
    for line in lines:
        line |= {"caption": "slow"} if words == "table" else {}
    if name.endswith("csv"):
        text = "\n".join([",".join(lines[0]), *(",".join(line.values()) for line in lines)])
    else:
        text = "\n".join(json.dumps(line | {"Flat": line["Flat"] == "TRUE", "tags": ["a"]}) for line in lines)
    (tmp_path / name).write_text(text)
    if words == "files":
        for number in range(3):
            (tmp_path / f"{number}.txt").write_text("words")
    rows, told = again(tmp_path)
    assert rows["0.wav"].labels == {"flat": "true"}
    assert rows["1.wav"].labels == {"flat": "false", "mood": "calm"}
    assert (rows["0.wav"].weight, rows["1.wav"].weight) == (0.5, None)
    assert ("2.wav" in rows) == (words != "table")
    told = [line for line in told if "will not train" not in line]
    assert told[0] == "labels in a table: flat (3), mood (1)."
    ignored = "split" if name.endswith("csv") else "split, tags"
    assert told[1] == f"of {tmp_path / name} the columns {ignored} are not read: they are no labels."
    (tmp_path / "manifest.jsonl").unlink()
    report = examine(tmp_path, quiet=True)
    assert any("labels in a table: flat (3), mood (1)" in note for note in report.notes)
    assert [(item.sample, item.kind) for item in report.problems if item.kind == "left_out"] == [
        ("gone.wav", "left_out")
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("0.wav,a,true,heavy", "row 1, has weight 'heavy'; write a number"),
        ("0.wav,a,true,-1", "row 1: 'weight' must be a finite number of at least 0"),
        ("0.wav,a,true,1\n0.wav,a,false,1", "gives 0.wav a second, different flat; keep one"),
    ],
)
def test_a_table_that_contradicts_itself_is_one_sentence(tmp_path: Path, line: str, words: str) -> None:
    songs(tmp_path)
    (tmp_path / "metadata.csv").write_text(f"file_name,caption,flat,weight\n{line}\n")
    with pytest.raises(UserError, match=words):
        read_folder(tmp_path, quiet=True)
    _, told = again(tmp_path, caption_from="name")
    assert "a table is not read" in told[0]
