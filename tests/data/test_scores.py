from __future__ import annotations

import time
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from eisbach.data import scores
from eisbach.data.score_parsing import ScoreError, _Expired, _time_limit, parse_score
from eisbach.data.scores import Piece, licence_rows, list_pieces, load_table, parse_all, piece_licence
from eisbach.errors import UserError

TUNE = "X:1\nT:Small\nM:4/4\nL:1/4\nQ:1/4=90\nK:C\n"


def test_notes_ties_and_tempo_of_a_tune() -> None:
    table = parse_score(TUNE + "C D E2 | E2- E G |]", "t", text=True)
    assert table.onset.tolist() == [0, 1, 2, 4, 7]
    assert table.duration.tolist() == [1, 1, 2, 3, 1]
    assert table.pitch.tolist() == [60, 62, 64, 64, 67]
    assert table.tempo.tolist() == [[0.0, 90.0]]
    assert (table.repeats, table.title, table.length, table.parts) == ("none", "Small", 8.0, 1)


def test_repeats_are_played_with_both_endings() -> None:
    table = parse_score(TUNE + "|: C4 |1 D4 :|2 E4 |: F4 :| G4 |]", "t", text=True)
    assert table.repeats == "expanded"
    assert table.pitch.tolist() == [60, 62, 60, 64, 65, 65, 67]
    assert table.onset.tolist() == [0, 4, 8, 12, 16, 20, 24]


def test_expansion_agrees_with_music21s_own() -> None:
    from music21 import converter

    piece = list_pieces(["airdsAirs/book1#0001"])[0]
    text = scores._tune_texts(piece.path)[0]
    table = parse_score(text, piece.id, text=True)
    expanded = converter.parseData(text, format="abc").expandRepeats().stripTies().flatten().notes
    reference = sorted((float(note.offset), int(note.pitch.midi)) for note in expanded if not note.duration.isGrace)
    assert table.repeats == "expanded"
    ours = sorted(zip(table.onset.tolist(), table.pitch.tolist(), strict=True))
    np.testing.assert_allclose(np.array(ours), np.array(reference))


def test_a_chorale_has_four_parts_from_high_to_low(score_cache: Path) -> None:
    table = load_table(list_pieces(["bach/bwv66.6"])[0], score_cache)
    means = [table.pitch[table.part == part].mean() for part in range(table.parts)]
    assert len(means) == 4
    assert means == sorted(means, reverse=True)
    assert table.length == 36.0


def test_tables_are_cached_and_a_damaged_one_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    piece = list_pieces(["airdsAirs/book1#0003"])[0]
    first = load_table(piece, tmp_path)
    (file,) = tmp_path.rglob("*.npz")
    file.write_bytes(file.read_bytes()[:200])
    again = load_table(piece, tmp_path)
    np.testing.assert_array_equal(first.onset, again.onset)
    monkeypatch.setattr(scores, "parse_score", lambda *a, **k: pytest.fail("parsed although cached"))
    cached = load_table(piece, tmp_path)
    assert (cached.title, cached.repeats, cached.piece) == (first.title, first.repeats, piece.id)
    np.testing.assert_array_equal(first.pitch, cached.pitch)


def test_pieces_that_cannot_be_parsed_are_reported(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mxl"
    broken.write_bytes(b"no zip")
    silent = tmp_path / "silent.abc"
    silent.write_text(TUNE + "z4 | z4 |]")
    fine = list_pieces(["airdsAirs/book1#0003"])[0]
    pieces = [Piece("x/broken", str(broken), "x", "tune"), Piece("x/silent", str(silent), "x", "tune"), fine]
    for _ in range(2):  # the second time from the cache
        good, report = parse_all(pieces, cache=tmp_path / "cache", quiet=True)
        assert good == [fine]
        assert [item.item for item in report.skipped] == ["x/broken", "x/silent"]
        assert "cannot be parsed" in report.skipped[0].reason
        assert "holds no notes" in report.skipped[1].reason


def test_a_parser_that_takes_too_long_is_given_up_and_not_remembered(tmp_path: Path) -> None:
    piece = list_pieces(["haydn/opus74no1/movement1"])[0]
    with pytest.raises(ScoreError, match=r"longer than 0\.01 s"):
        load_table(piece, tmp_path, timeout=0.01)
    assert not list(tmp_path.rglob("*.json"))


def test_an_alarm_that_is_swallowed_rings_again() -> None:
    def parse() -> None:
        with suppress(_Expired):  # as in a finaliser, where what is raised goes no further
            time.sleep(60)
        time.sleep(60)

    with pytest.raises(_Expired), _time_limit(0.01):
        parse()


def test_selection_by_id_collection_family_and_pattern() -> None:
    assert {piece.collection for piece in list_pieces(["quartet"])} == {"beethoven", "haydn", "mozart", "schubert"}
    assert len(list_pieces(["haydn"])) == 9
    assert all(piece.id.startswith("bach/bwv2") for piece in list_pieces(["bach/bwv2*"]))
    everything = list_pieces()
    assert len(everything) == len({piece.id for piece in everything}) > 3000
    with pytest.raises(UserError, match="no score matches 'hayden'"):
        list_pieces(["hayden"])


def test_restricted_scores_are_left_out() -> None:
    kept = {piece.collection for piece in list_pieces(redistributable=True)}
    assert {"beethoven", "bach", "joplin"} <= kept
    # "Rights to all derivative electronic formats reserved"; "for non-commercial distribution"
    assert not {"palestrina", "essenFolksong"} & kept
    rows = licence_rows(list_pieces(["palestrina/Agnus", "joplin"]))
    assert [row["redistributable"] for row in rows] == [True, False]
    assert "John Miller" in str(rows[1]["stated_licence"])


@pytest.mark.parametrize(
    ("name", "content", "free", "stated"),
    [
        ("a.xml", "<rights>All Rights Reserved</rights>", False, "All Rights Reserved"),
        ("a.xml", "<rights>© 2003 Some Publisher</rights>", False, "© 2003 Some Publisher"),
        ("a.xml", "<rights>Copyright © </rights>", True, "Copyright ©"),
        ("a.xml", "<rights>2014, CC-BY-NC 4.0</rights>", False, "2014, CC-BY-NC 4.0"),
        ("a.xml", "<rights>© 2014, Creative Commons License (CC-BY)</rights>", True, "© 2014, Creative Commons "
                                                                                     "License (CC-BY)"),
        ("a.xml", "<credit-words>Not to be redistributed</credit-words>", False, "Not to be redistributed"),
        ("a.xml", "<credit-words>Allegro</credit-words>", True, ""),
        ("a.krn", "!!!YEC: Copyright 1994, A\n!!!YEM: Rights to all derivative electronic formats reserved.\n", False,
         None),
        ("a.krn", "!!!ENC: Somebody\n**kern\n", True, ""),
        ("a.abc", "% for personal use only\nX:1\nK:C\nC\n", False, None),
        ("a.abc", "X:1\nN:not for redistribution\nK:C\nC\n", False, None),
        ("a.abc", "X:1\nT:The Licence to Play\nK:C\nC\n", True, ""),
    ],
)  # fmt: skip
def test_what_files_state(tmp_path: Path, name: str, content: str, free: bool, stated: str | None) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    note = piece_licence(path)
    assert note.redistributable is free
    assert stated is None or note.stated == stated


def test_licences_inside_mxl_and_beside_files(tmp_path: Path) -> None:
    path = tmp_path / "a.mxl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("META-INF/container.xml", "<rights>none</rights>")
        archive.writestr("a.xml", "<rights>Public Domain</rights>")
    assert piece_licence(path).stated == "Public Domain"
    beside = tmp_path / "folder"
    beside.mkdir()
    (beside / "license.txt").write_text("permission for non-commercial use")
    (beside / "b.abc").write_text("X:1\nK:C\nC\n")
    assert not piece_licence(beside / "b.abc").redistributable


@pytest.mark.parametrize("book", [False, True])
def test_an_edited_score_is_parsed_again(tmp_path: Path, book: bool) -> None:
    path = tmp_path / "tune.abc"
    piece = Piece("x/tune", str(path), "x", "tune", 0 if book else None)
    for notes, pitches in (("C D |]", [60, 62]), ("z4 |]", None), ("C E |]", [60, 64]), ("E |]", [64])):
        path.write_text(TUNE + notes)
        for _ in range(2):  # the second time from the cache
            if pitches is None:
                with pytest.raises(ScoreError, match="holds no notes"):
                    load_table(piece, tmp_path / "cache")
            else:
                assert load_table(piece, tmp_path / "cache").pitch.tolist() == pitches
    path.unlink()
    with pytest.raises(ScoreError, match="cannot be read"):
        load_table(piece, tmp_path / "cache")


@pytest.mark.parametrize("content", [b"no zip", b"PK\x03\x04" + bytes(60), None])
def test_a_damaged_score_states_no_licence_and_may_not_be_passed_on(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "a.mxl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.xml", "<rights>CC0</rights>" + "x" * 5000)
    if content is None:  # a whole directory over damaged data
        damaged = bytearray(path.read_bytes())
        damaged[40:50] = bytes(10)
        content = bytes(damaged)
    path.write_bytes(content)
    note = piece_licence(path)
    assert (note.stated, note.redistributable) == ("", False)
    assert "cannot be read" in note.reason
