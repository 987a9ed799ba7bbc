"""A manifest that is made again keeps what a person set in it, and says so; tables give labels."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from small_audio import tone, write
from typer.testing import CliRunner

from eisbach.cli.data import app
from eisbach.data.audio_folder import read_folder
from eisbach.data.doctor import examine
from eisbach.data.manifest import ManifestRow, load_manifest, save_manifest
from eisbach.data.splits import assign_split
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
    assert told == ["with their audio, which changed or is gone, went labels of flat/x.wav."]


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


def test_pieces_marked_by_hand_are_on_one_side(tmp_path: Path) -> None:
    read_folder(songs(tmp_path, 20), quiet=True)
    manifest = load_manifest(tmp_path)
    rows = [replace(row, labels={"piece": f"p{number // 2}"}) for number, row in enumerate(manifest)]
    save_manifest(manifest.with_rows(rows))
    made, told = again(tmp_path)
    assert told == ["kept from the manifest of before: the labels of 20 clips; --fresh starts anew."]
    before = {row.labels["piece"] for row in rows if row.split == "held_out"}  # beside clips of theirs that trained
    now = {row.labels["piece"] for row in made.values() if row.split == "held_out"}
    assert len(now) == min(len(before), 2)
    assert now <= before
    # one clip of a piece that is put on the other side by hand takes the piece with it, and that is said
    chosen = next(row for row in made.values() if row.split == "train")
    manifest = load_manifest(tmp_path)
    save_manifest(manifest.with_rows(replace(row, split="held_out") if row == chosen else row for row in manifest))
    made, told = again(tmp_path)
    sides = {
        row.labels["piece"]: {other.split for other in made.values() if other.labels == row.labels} for row in rows
    }
    assert all(len(split) == 1 for split in sides.values())
    assert sides[chosen.labels["piece"]] == {"held_out"}
    (other,) = (row.id for row in made.values() if row.labels == chosen.labels and row.id != chosen.id)
    assert "the splits of " in told[0]
    assert told[1] == f"a piece is on one side, so another split than before has {other}."


def test_a_manifest_that_holds_nothing_out_stays_so_and_that_is_said(tmp_path: Path) -> None:
    """By a person's hand, or by a rule of before: all of it may have trained."""
    read_folder(songs(tmp_path, 5), quiet=True)
    manifest = load_manifest(tmp_path)
    assert [assign_split(row.audio_hash) for row in manifest] == ["train"] * 5  # by these tones' hashes
    save_manifest(manifest.with_rows(replace(row, split="train") for row in manifest))
    rows, told = again(tmp_path)
    assert {row.split for row in rows.values()} == {"train"}
    assert told == ["nothing is held out, as before; --fresh deals the clips anew, or set a split in the manifest."]


def test_a_clip_stays_on_its_side_when_others_come(tmp_path: Path) -> None:
    """Whatever the lengths, words and hashes of those that come: what has trained is not held out later."""
    read_folder(songs(tmp_path, 6), quiet=True)
    sides = {row.id: row.split for row in load_manifest(tmp_path)}
    assert sorted(sides.values()) == ["held_out", *["train"] * 5]
    for number in range(6, 24):
        write(tmp_path / f"{number}.wav", tone(1.0 + 0.37 * number))
        (tmp_path / f"{number}.txt").write_text("words")
        rows, _ = again(tmp_path)
        now = {row.id: row.split for row in rows.values()}
        assert {name: now[name] for name in sides if name in now} == {n: s for n, s in sides.items() if n in now}
        sides |= now
        assert sum(split == "held_out" for split in now.values()) <= max(1, len(now) // 5)


def test_where_the_audio_of_a_name_changes_its_words_stay_and_the_rest_is_named(tmp_path: Path) -> None:
    read_folder(songs(tmp_path), quiet=True)
    edit(tmp_path, caption="slow cello")
    write(tmp_path / "0.wav", tone(4.0))
    rows, told = again(tmp_path)
    assert rows["0.wav"].caption == "slow cello"
    assert told == ["the audio changed and the words did not in 1 clip: 0.wav."]
    edit(tmp_path, id="mine", split="held_out")
    write(tmp_path / "0.wav", tone(5.0))
    rows, told = again(tmp_path)
    assert (rows["0.wav"].id, rows["0.wav"].caption, rows["0.wav"].split) == ("0.wav", "", "train")
    assert told == ["with their audio, which changed or is gone, went words, an id, a split of mine."]
    # audio that moved takes its words with it, whatever lies in its old place
    edit(tmp_path, caption="slow cello")
    (tmp_path / "0.wav").rename(tmp_path / "moved.wav")
    write(tmp_path / "0.wav", tone(6.0))
    rows, _ = again(tmp_path)
    assert {path: row.caption for path, row in rows.items() if row.caption} == {"moved.wav": "slow cello"}


def test_further_rows_of_one_file_stay(tmp_path: Path) -> None:
    read_folder(songs(tmp_path), quiet=True)
    edit(tmp_path, caption="slow cello")
    manifest = load_manifest(tmp_path)
    second = replace(manifest.rows[0], id="0-b", caption="low strings", labels={"mood": "calm"})
    save_manifest(manifest.with_rows([second, *manifest]))
    (tmp_path / "1.txt").write_text("fast flute")
    told: list[str] = []
    made, _ = read_folder(tmp_path, quiet=True, notify=told.append)
    assert [(row.id, row.caption) for row in made] == [
        ("0.wav", "slow cello"), ("0-b", "low strings"), ("1.wav", "fast flute")
    ]  # fmt: skip
    assert made.rows[1] == second
    made, _ = read_folder(tmp_path, quiet=True, caption_from="name", notify=told.append)
    assert [row.id for row in made] == ["0.wav", "1.wav", "2.wav"]
    assert told[-1] == "of audio with several captions one row stays with --caption-from: without 0-b."


def test_a_label_taken_back_in_a_table_goes_and_one_that_it_overwrites_is_named(tmp_path: Path) -> None:
    songs(tmp_path)
    table = tmp_path / "metadata.csv"
    table.write_text("file_name,flat,weight\n0.wav,true,0.5\n1.wav,false,\n")
    again(tmp_path)
    table.write_text("file_name,flat,weight\n0.wav,,\n1.wav,true,\n")
    rows, told = again(tmp_path)
    assert (rows["0.wav"].labels, rows["0.wav"].weight, rows["1.wav"].labels) == ({}, None, {"flat": "true"})
    assert told[-2:] == [
        "another label than before in 2 clips: 0.wav, 1.wav.",
        "another weight than before in 1 clip: 0.wav.",
    ]
    table.write_text("file_name,mood\n0.wav,calm\n")  # a column that is not there takes nothing back
    rows, _ = again(tmp_path)
    assert rows["1.wav"].labels == {"flat": "true"}


def test_a_label_that_analyze_refuses_goes_when_the_manifest_is_made_again(tmp_path: Path) -> None:
    read_folder(songs(tmp_path), labels={"sample_rate": "44100", "arm": "x"}, quiet=True)
    rows, told = again(tmp_path)
    assert rows["0.wav"].labels == {"arm": "x"}  # manifests of generated clips have it
    assert "the labels sample_rate are not kept: records of clips have columns of these names." in told


def test_an_id_that_is_a_new_files_name_is_refused_with_the_mend(tmp_path: Path) -> None:
    read_folder(songs(tmp_path), quiet=True)
    edit(tmp_path, id="new.wav")
    write(tmp_path / "new.wav", tone(2.0))
    with pytest.raises(
        ManifestError, match=r"id 'new\.wav', which is now the name .*; give that clip another id there"
    ):
        read_folder(tmp_path, quiet=True)


def test_accents_composed_in_another_way_are_no_id_set_by_hand(tmp_path: Path) -> None:
    name = "caf\u00e9.wav"
    write(tmp_path / name, tone())
    read_folder(tmp_path, quiet=True)
    manifest = load_manifest(tmp_path)
    apart = unicodedata.normalize("NFD", name)
    save_manifest(manifest.with_rows([replace(manifest.rows[0], id=apart, path=apart)]))
    rows, told = again(tmp_path)
    assert (rows[name].id, told) == (name, [])


def test_a_broken_note_of_the_audio_s_place_names_fresh_too(tmp_path: Path) -> None:
    songs(tmp_path / "music")
    out = tmp_path / "out"
    read_folder(tmp_path / "music", out=out, quiet=True)
    (out / "manifest.audio.json").write_text("{")
    with pytest.raises(ManifestError, match="mend it, or add --fresh"):
        read_folder(tmp_path / "music", out=out, quiet=True)


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
