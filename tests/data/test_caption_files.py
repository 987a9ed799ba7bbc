"""Captions from every place where people keep them: side files, tables, tags, shards; and what a hostile one does."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from pathlib import Path

import pytest
from small_audio import tone, write

from eisbach.data.audio_folder import read_folder
from eisbach.data.caption_files import find_captions, find_shards, unpack_shards
from eisbach.data.doctor import examine
from eisbach.errors import UserError
from eisbach.structure.batch import Clip, analyze_files


def _captions(folder: Path, mode: str = "auto") -> dict[str, str]:
    manifest, _ = read_folder(folder, caption_from=mode, save=False, quiet=True)
    return {row.id: row.caption for row in manifest}


@pytest.mark.parametrize("ending", [".txt", ".caption.txt", ".caption"])
def test_every_side_file_is_read_and_two_that_disagree_are_refused(tmp_path, ending):
    write(tmp_path / "a.wav", tone())
    (tmp_path / f"a{ending}").write_text("low strings")
    assert _captions(tmp_path) == {"a.wav": "low strings"}
    (tmp_path / "a.json").write_text('{"caption": "low strings"}')
    assert _captions(tmp_path) == {"a.wav": "low strings"}
    (tmp_path / "a.json").write_text('{"caption": "high strings"}')
    with pytest.raises(UserError, match="say different things"):
        find_captions(tmp_path, [tmp_path / "a.wav"]).read(tmp_path / "a.wav")


def _table(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [";".join(rows[0]), *(";".join(row.values()) for row in rows)]
        path.write_text("\ufeff" + "\n".join(lines))


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "captions.csv"])
@pytest.mark.parametrize("columns", [("file_name", "caption"), ("filename", "text"), ("Path", "Prompt")])
def test_a_table_names_files_from_where_it_lies(tmp_path, name, columns):
    for index, place in enumerate(("a.wav", "deep/é.wav", "deep/none.wav")):
        write(tmp_path / place, tone(1.0 + 0.1 * index))
    rows = [("e\u0301.wav", "dark choir, slow"), ("gone.wav", "nothing")]  # the other spelling of é
    _table(tmp_path / "deep" / name, [dict(zip(columns, row, strict=True)) for row in rows])
    manifest, report = read_folder(tmp_path, save=False, quiet=True)
    assert {row.id: row.caption for row in manifest} == {"deep/é.wav": "dark choir, slow"}
    reasons = {skip.item: skip.reason for skip in report.skipped}
    assert "is in no table" in reasons["a.wav"]
    assert "is in no table" in reasons["deep/none.wav"]
    assert "not in the folder" in reasons["gone.wav"]
    assert "1 " not in examine(tmp_path, quiet=True).notes[0].partition("beside")[0]
    assert "2 in a table; the table is used" in examine(tmp_path, quiet=True).notes[0]


def test_files_beside_the_audio_come_before_a_table(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.wav", tone(1.0 if name == "a" else 1.2))
    (tmp_path / "a.txt").write_text("from a file")
    (tmp_path / "b.txt").write_text("from a file too")
    _table(tmp_path / "metadata.jsonl", [{"file_name": "a.wav", "text": "from the table"}])
    assert set(_captions(tmp_path).values()) == {"from a file", "from a file too"}
    assert _captions(tmp_path, "table") == {"a.wav": "from the table"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"caption": "x"}', "has no text under file_name"),
        ('{"file_name": "a.wav"}', "has no text under caption"),
        ('{"file_name": "a.wav", "caption": 3}', "has no text under caption"),
        ('{"file_name": "a.wav", "caption": "x"}\n{"file_name": "a.wav", "caption": "y"}', "a second, different"),
        ("{", "metadata.jsonl"),
        ('{"file_name": "a.wav", "caption": "\\ud800"}', "half a surrogate"),
    ],
)
def test_a_table_that_cannot_be_understood_is_one_sentence(tmp_path, content, words):
    write(tmp_path / "a.wav", tone())
    (tmp_path / "metadata.jsonl").write_text(content)
    with pytest.raises(UserError, match=words) as raised:
        read_folder(tmp_path, save=False, quiet=True)
    assert "\n" not in str(raised.value)


def _tagged(path: Path, tags: dict[str, str]) -> Path:
    """A WAV with an INFO list, as RIFF defines it."""
    write(path, tone())
    chunks = b""
    for name, value in tags.items():
        data = value.encode("utf-8") + b"\0"
        chunks += name.encode() + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    content = path.read_bytes() + b"LIST" + struct.pack("<I", len(chunks) + 4) + b"INFO" + chunks
    path.write_bytes(content[:4] + struct.pack("<I", len(content) - 8) + content[8:])
    return path


def test_a_misspelt_column_of_captions_is_named_and_is_no_label(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", tone())
    table = tmp_path / "metadata.csv"
    table.write_text("file_name,captions,mood\na.wav,slow,calm\n")
    words = f"{table} has no column of captions (it has: file_name, captions, mood); name 'captions' caption."
    with pytest.raises(UserError) as caught:
        read_folder(tmp_path, caption_from="table", quiet=True)
    assert str(caught.value) == words
    told: list[str] = []
    manifest, _ = read_folder(tmp_path, quiet=True, notify=told.append)
    assert told == ["labels in a table: mood (1).", words]
    assert manifest.rows[0].labels == {"mood": "calm"}
    table.write_text("file_name,flat\na.wav,true\n")
    with pytest.raises(UserError, match=r"\(it has: file_name, flat\); name the column of words caption\.$"):
        read_folder(tmp_path, caption_from="table", quiet=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "file_name,caption,mood\na.wav,fine,calm\nb.wav,slow, dark,calm\n",
            "csv, line 3, has more cells than the head",
        ),
        ("file_name,caption,Flat,flat\na.wav,x,1,0\n", "has the columns Flat and flat, which are one name; rename one"),
        ("file_name,caption,flat,flat\na.wav,x,1,0\n", "has the column flat twice; keep one"),
        ("file_name,weight\na.wav,0.5\na.wav,1\n", "gives a.wav a second, different weight; keep one"),
    ],
)
def test_a_table_whose_cells_cannot_be_told_apart_is_refused(tmp_path: Path, content: str, words: str) -> None:
    write(tmp_path / "a.wav", tone())
    (tmp_path / "metadata.csv").write_text(content)
    with pytest.raises(UserError, match=words):
        read_folder(tmp_path, quiet=True)


def test_empty_cells_behind_the_last_column_are_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", tone())
    (tmp_path / "metadata.csv").write_text("file_name,caption\na.wav,slow,,\n")
    assert _captions(tmp_path) == {"a.wav": "slow"}


def test_columns_that_records_have_are_no_labels_and_many_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", tone())
    measured = ["sample_rate", "flags", "arm", "seed", "prompt_id", "train_seed", "unit", "loudness_lufs"]
    own = [f"own{number}" for number in range(50)]
    columns = ["file_name", "path", *measured, *own]
    (tmp_path / "metadata.csv").write_text(f"{','.join(columns)}\na.wav{',1' * (len(columns) - 1)}\n")
    told: list[str] = []
    manifest, _ = read_folder(tmp_path, quiet=True, notify=told.append)
    assert list(manifest.rows[0].labels) == own
    assert told[0].endswith("own8 (1), own9 (1) and 40 more.")
    assert told[1] == (
        f"of {tmp_path / 'metadata.csv'} the columns {', '.join(sorted(measured))} are not read: they are no labels."
    )
    assert len(analyze_files([Clip(tmp_path / "a.wav", dict(manifest.rows[0].labels))], jobs=1, quiet=True)) == 1


def test_tags_become_captions_by_a_template(tmp_path):
    _tagged(tmp_path / "a.wav", {"INAM": "Under\x07 ice", "IART": "Åse", "IGNR": "ambient"})
    _tagged(tmp_path / "b.wav", {"INAM": "Untitled"})
    write(tmp_path / "c.wav", tone(1.3))
    (tmp_path / "b.wav").write_bytes((tmp_path / "b.wav").read_bytes() + b"\0\0")
    manifest, report = read_folder(tmp_path, caption_from="tags", save=False, quiet=True)
    assert {row.id: row.caption for row in manifest} == {"a.wav": "ambient, Under  ice, Åse", "b.wav": "Untitled"}
    assert "none of the tags" in report.skipped[0].reason
    assert _captions(tmp_path, "tags:{artist} plays {title}") == {
        "a.wav": "Åse plays Under  ice",
        "b.wav": "plays Untitled",
    }
    with pytest.raises(UserError, match="no caption"):
        read_folder(tmp_path, caption_from="files", save=False, quiet=True)
    notes = examine(tmp_path, quiet=True).notes
    assert any("2 in tags; none are used" in note for note in notes)


def _mp3(path: Path, seed: float, *frames: bytes) -> Path:
    """An MP3 with an ID3v2.3 tag of these title frames: a byte of encoding and the text."""
    write(path, tone(seed))
    body = b"".join(b"TIT2" + struct.pack(">I", len(frame)) + b"\0\0" + frame for frame in frames)
    size = bytes((len(body) >> shift) & 127 for shift in (21, 14, 7, 0))
    path.write_bytes(b"ID3\x03\0\0" + size + body + path.read_bytes())
    return path


def test_tags_in_any_encoding_are_read_or_named_and_the_sound_stays_whole(tmp_path):
    _mp3(tmp_path / "latin.mp3", 1.0, b"\0" + "Étude".encode("latin-1"))
    _mp3(tmp_path / "utf16.mp3", 1.1, b"\1" + "\ufeffМузыка".encode("utf-16-le"))
    _mp3(tmp_path / "broken.mp3", 1.2, b"\3\xff\xfebad\xc3")
    _mp3(tmp_path / "unknown.mp3", 1.3, b"\x09seen")
    write(tmp_path / "plain.mp3", tone(1.4))
    manifest, report = read_folder(tmp_path, caption_from="tags", save=False, quiet=True)
    captions = {row.id: row.caption for row in manifest}
    assert (captions["latin.mp3"], captions["utf16.mp3"]) == ("Étude", "Музыка")
    reasons = {skip.item: skip.reason for skip in report.skipped}
    assert "encoding that cannot be told" in reasons["broken.mp3"]
    assert reasons.keys() == {"broken.mp3", "plain.mp3"}
    problems = {
        (item.sample, item.kind): item.detail for item in examine(tmp_path, caption_from="tags", quiet=True).problems
    }
    assert not any(kind == "damaged" for _, kind in problems)
    assert "tag it" in problems["plain.mp3", "missing_caption"]


@pytest.mark.parametrize(
    "template", ["{nobody}", "words", "{title", "{title!r}", "{title.__class__}", "{0}", "{title:>9999999999}"]
)
def test_a_template_that_names_no_tags_is_one_sentence(tmp_path, template):
    write(tmp_path / "a.wav", tone())
    with pytest.raises(UserError, match="template"):
        read_folder(tmp_path, caption_from=f"tags:{template}", save=False, quiet=True)


def _shard(path: Path, members: dict[str, bytes], extra: list[tarfile.TarInfo] = ()) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in extra:
            tar.addfile(info)
    return path


def test_shards_are_unpacked_and_nothing_leaves_the_folder(tmp_path):
    sounds = [write(tmp_path / "made" / f"{i}.wav", tone(1.0 + i / 10)).read_bytes() for i in range(3)]
    link = tarfile.TarInfo("0002.txt")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    shards = tmp_path / "shards"
    shards.mkdir()
    _shard(
        shards / "train-000.tar",
        {
            "0000.wav": sounds[0], "0000.txt": b"slow cello", "0001.wav": sounds[1],
            "0001.json": b'{"caption": "fast flute"}', "../../evil/0002.wav": sounds[2], "0003.npy": b"x",
            "0004.m4a": b"x",
        },
        [link],
    )  # fmt: skip
    out = tmp_path / "out"
    report = unpack_shards(find_shards(shards), out, quiet=True)
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == [
        "train-000/0000.txt", "train-000/0000.wav", "train-000/0001.json", "train-000/0001.wav",
        "train-000/evil-0002.wav",
    ]  # fmt: skip
    reasons = {skip.item: skip.reason for skip in report.skipped}
    assert "link" in reasons["train-000.tar/0002.txt"]
    assert "neither audio nor a caption" in reasons["train-000.tar/0003.npy"]
    assert "convert it" in reasons["train-000.tar/0004.m4a"]
    manifest, _ = read_folder(out, save=False, quiet=True)
    assert {row.caption for row in manifest} == {"slow cello", "fast flute"}
    before = (out / "train-000" / "0000.wav").stat().st_mtime_ns
    unpack_shards(find_shards(shards), out, quiet=True)
    assert (out / "train-000" / "0000.wav").stat().st_mtime_ns == before
    (shards / "train-001.tar").write_bytes((shards / "train-000.tar").read_bytes()[:700])
    with pytest.raises(UserError, match=r"train-001\.tar is not a whole tar"):
        unpack_shards(find_shards(shards), out, quiet=True)


def test_a_folder_of_shards_says_how_they_are_unpacked(tmp_path):
    _shard(tmp_path / "train-000.tar", {"0000.txt": b"slow cello"})
    with pytest.raises(UserError, match=r"WebDataset shards .*; unpack them first: eisbach data folder .* --out"):
        examine(tmp_path, quiet=True)
