"""One answer to what trains, whoever is asked."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from small_audio import tone, write
from typer.testing import CliRunner

from eisbach.cli.data import app
from eisbach.data.audio_folder import read_folder
from eisbach.data.doctor import examine
from eisbach.data.manifest import Manifest, ManifestRow, load_manifest, save_manifest
from eisbach.data.selection import TrainingRule, choose_clips, unheard_words
from eisbach.data.splits import afford_held_out, assign_split, hold_out_more
from eisbach.errors import ManifestError
from eisbach.experiments.recipes import own_audio_experiment
from eisbach.training.assembly import AudioMaterial
from eisbach.training.config import TrainConfig


def songs(folder: Path, count: int, *, captions: bool = True) -> Path:
    for number in range(count):
        path = write(folder / f"{number}.wav", tone(1.0, frequency=150.0 + 31 * number))
        if captions:
            path.with_suffix(".txt").write_text(f"song {number}")
    return folder


def trained_by(folder: Path, batch_size: int = 1) -> tuple[set[str], int]:
    """What training takes, by its own door."""
    config = TrainConfig.model_validate(
        {"model": "embedded", "out": str(folder / "run"), "data": {"manifest": [str(folder)]}, "batch_size": batch_size,
         "steps": 1}
    )  # fmt: skip
    material = AudioMaterial.open(config, quiet=True)
    return {row.id for row in material.rows}, len(material.held_out)


@pytest.mark.parametrize("captions", [True, False])
@pytest.mark.parametrize("count", [1, 2, 4, 5, 8, 13, 30])
def test_doctor_folder_demo_and_training_agree(tmp_path: Path, count: int, captions: bool) -> None:
    folder = songs(tmp_path / "songs", count, captions=captions)
    before = examine(folder, quiet=True)
    assert before.healthy
    told: list[str] = []
    own = own_audio_experiment(folder, out=tmp_path / "demo", quick=True, quiet=True, notify=told.append)
    own.save_manifest()
    spec = own.spec
    out = CliRunner().invoke(app, ["folder", str(folder)]).stdout
    after = examine(folder, quiet=True)
    trained, held_out = trained_by(folder)
    assert {item.sample for item in before.trained} == {item.sample for item in after.trained} == trained
    assert len(before.held_out) == len(after.held_out) == held_out == count - len(trained)
    assert held_out <= count // 5
    demo = choose_clips(load_manifest(tmp_path / "demo" / "data"), TrainingRule())
    assert {row.id for row in demo.train} == trained
    assert spec.training["batch_size"] == min(len(trained), 8)
    assert before.selection == after.selection
    assert before.selection in out
    assert f"{before.selection}." in told
    assert f"{count} clip" in before.selection
    assert f"{len(trained)} train" in before.selection


def test_too_few_for_a_batch_is_said_in_the_words_of_training(tmp_path: Path) -> None:
    folder = songs(tmp_path, 3)
    read_folder(folder, quiet=True)
    report = examine(folder, rule=TrainingRule(batch_size=4), quiet=True)
    with pytest.raises(ManifestError) as refused:
        trained_by(folder, batch_size=4)
    assert [(problem.kind, problem.detail) for problem in report.problems] == [("refused", str(refused.value))]


def test_the_doctor_judges_by_a_recipe(tmp_path: Path) -> None:
    folder = songs(tmp_path / "songs", 6)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "model: embedded\nout: run\nsteps: 1\nbatch_size: 2\nheld_out: {every: 0}\n"
        "data: {manifest: [x], split: all, crop_seconds: [{seconds: 3}, {seconds: 7}]}\n"
    )
    report = json.loads(CliRunner().invoke(app, ["doctor", str(folder), "--recipe", str(recipe), "--json"]).stdout)
    assert (report["crop_seconds"], len(report["trained"]), report["held_out"]) == (7.0, 6, [])
    assert report["trained"][0]["padding"] == 6.0


def test_equal_bytes_train_once_and_are_never_held_out_too() -> None:
    def row(name: str, digest: str, **changes: object) -> ManifestRow:
        return replace(ManifestRow(name, f"{name}.wav", "words", 2.0, {}, digest * 64, "train"), **changes)  # type: ignore[arg-type]

    rows = [row("a", "0"), row("b", "0"), row("c", "0", caption="others"), row("d", "0", split="held_out"),
            row("e", "1", split="held_out"), row("f", "2", duration=0.5)]  # fmt: skip
    choice = choose_clips(Manifest(rows, "."), TrainingRule(((30.0, 1.0), (10.0, 0.6))))
    assert [item.id for item in choice.train] == ["a", "c"]  # several captions of one sound are meant
    assert [item.id for item in choice.held_out] == ["e"]
    assert {item.item for item in choice.left_out} == {"b", "d", "f"}
    assert choice.sentence().startswith("6 clips: 2 train, 1 held out, 3 left out (b: has the same bytes as a;")


def piece_of(row: ManifestRow) -> str:
    return row.labels.get("piece", row.id)


def hashed(count: int, salt: str, pieces: bool) -> list[ManifestRow]:
    rows = []
    for number in range(count):
        digest = hashlib.sha256(f"{salt}{number}".encode()).hexdigest()
        labels = {"piece": f"{salt}{number // 3}"} if pieces else {}
        seconds = 60.0 if number % 2 else 5.0
        rows.append(ManifestRow(str(number), "x.wav", "", seconds, labels, digest, assign_split(digest, labels)))
    return rows


@pytest.mark.parametrize("pieces", [False, True])
def test_small_sets_hold_out_what_they_can_afford(pieces: bool) -> None:
    forced = fewer = 0
    for salt in "abcdefghij":
        trained: set[str] = set()
        before = 0
        for count in range(1, 80):
            rows = hashed(count, salt, pieces)
            made = afford_held_out(rows)
            by_hash = {piece_of(row) for row in rows if row.split == "held_out"}
            held = {piece_of(row) for row in made if row.split == "held_out"}
            room = len({piece_of(row) for row in rows}) // 5
            assert len(held) == (min(room, len(by_hash)) if by_hash else min(room, 1))
            assert held <= by_hash or not by_hash
            assert not held & {piece_of(row) for row in made if row.split == "train"}  # never on both sides
            if not by_hash and held:
                forced += 1
                assert all(row.duration == 60.0 for row in made if row.split == "held_out") or pieces
            fewer += len(by_hash) > room
            if by_hash and room == before:  # what has trained is not held out later
                assert not held & trained
            before, trained = room, {piece_of(row) for row in made if row.split == "train"}
    assert forced > 20
    assert fewer > 5


def test_what_is_held_out_of_a_small_set_has_words_and_is_not_half_of_it() -> None:
    def held(rows: list[ManifestRow]) -> set[str]:
        return {row.id for row in afford_held_out(rows) if row.split == "held_out"}

    rows = [replace(row, split="train", duration=9.0) for row in hashed(40, "w", pieces=False)]
    for worded in range(6):
        assert held([replace(row, caption="words" * (n == worded)) for n, row in enumerate(rows[:6])]) == {str(worded)}
        assert held([replace(row, duration=9.0 + 9 * (n == worded)) for n, row in enumerate(rows[:6])]) == {str(worded)}
        (one,) = held([replace(row, duration=9.0 + 900 * (n == worded)) for n, row in enumerate(rows[:6])])
        assert one != str(worded)
    assert len(held([replace(row, labels={"piece": row.id if n < 4 else "long"}) for n, row in enumerate(rows)])) == 1


def test_a_folder_of_which_chance_holds_nothing_out_still_has_music_to_hold_models_against() -> None:
    def of(lengths: dict[str, float], pieces: int = 0) -> list[ManifestRow]:
        return [
            ManifestRow(name, "x.wav", "", seconds, {"piece": f"{n % pieces}"} if pieces else {}, f"{9 - n:x}" * 64)
            for n, (name, seconds) in enumerate(lengths.items())
        ]

    lengths = {name: 10.0 if name in "hij" else 200.0 for name in "abcdefghij"}
    made = hold_out_more(of(lengths), 30.0)
    assert {row.id for row in made if row.split == "held_out"} == {"g", "f"}  # the lowest hashes of those long enough
    assert hold_out_more(made, 30.0) == made
    already = [replace(row, split="held_out") if row.id == "a" else row for row in of(lengths)]
    assert {row.id for row in hold_out_more(already, 30.0) if row.split == "held_out"} == {"a", "g"}
    short = [replace(row, split="held_out") if row.id in "hij" else row for row in of(lengths)]  # three of ten
    assert {row.id for row in hold_out_more(short, 30.0) if row.split == "held_out"} == {"g", "f"}
    for rows in (of(dict.fromkeys("abcd", 200.0)), of(dict.fromkeys("abcdefghij", 10.0))):
        assert hold_out_more(rows, 30.0) == rows
    sides: dict[str, set[str]] = {}
    for row in hold_out_more(of(lengths, pieces=5), 30.0):
        sides.setdefault(row.labels["piece"], set()).add(row.split)
    assert sorted(len(splits) for splits in sides.values()) == [1] * 5
    assert list(sides.values()).count({"held_out"}) == 1


def test_a_manifest_elsewhere_trains_read_only_audio(tmp_path: Path) -> None:
    folder = songs(tmp_path / "songs", 5)
    listed = sorted(os.listdir(folder))  # noqa: PTH208
    result = CliRunner().invoke(app, ["folder", str(folder), "--out", str(tmp_path / "made"), "--json"])
    assert json.loads(result.stdout)["clips"] == 5
    assert sorted(os.listdir(folder)) == listed  # noqa: PTH208
    manifest = load_manifest(tmp_path / "made")
    assert all(manifest.audio_path(row).is_file() for row in manifest)
    assert len(trained_by(tmp_path / "made")[0]) + trained_by(tmp_path / "made")[1] == 5
    assert examine(tmp_path / "made", quiet=True).healthy
    save_manifest(Manifest(manifest.rows, folder))
    assert load_manifest(folder).rows == manifest.rows
    (tmp_path / "made" / "manifest.audio.json").write_text('{"audio": "songs"}')
    with pytest.raises(ManifestError, match="absolute path"):
        load_manifest(tmp_path / "made")


def test_words_that_a_model_does_not_know_are_counted() -> None:
    known = {"slow", "cello"}

    def unknown(caption: str) -> list[str]:
        return [word for word in caption.split() if word not in known]

    assert unheard_words(["slow cello", "slow"], unknown) is None
    said = unheard_words(["slow チェロ", "チェロ", "slow", "a b c d"], unknown)
    assert said is not None
    assert said.startswith("the model does not know 'チェロ', ")  # the most frequent first
    assert " and 2 more words, in 3 of 4 captions; " in said


def test_the_doctor_names_every_caption_that_the_model_cuts(tmp_path: Path) -> None:
    for name, words in {"a": "slow " * 50, "b": "a celesta", "c": "bright " * 60}.items():
        write(tmp_path / f"{name}.wav", tone(frequency=200 + ord(name))).with_suffix(".txt").write_text(words)
    native = Path(__file__).parents[1] / "fixtures" / "sa3_native_tiny"
    report = json.loads(CliRunner().invoke(app, ["doctor", str(tmp_path), "--model", str(native), "--json"]).stdout)
    (note,) = [note for note in report["notes"] if note.startswith("the model reads 32 tokens of a caption")]
    assert all(said in note for said in ("'a.wav' has 101", "'c.wav' has 241"))
    assert "and 2 of 3 captions are longer" in note
    embedded = json.loads(CliRunner().invoke(app, ["doctor", str(tmp_path), "--json"]).stdout)
    assert any("'a.wav' has 50" in note and "'c.wav' has 60" in note for note in embedded["notes"])


def test_the_doctor_says_what_the_model_does_not_hear(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", tone()).with_suffix(".txt").write_text("低いファゴット", encoding="utf-8")
    out = CliRunner().invoke(app, ["doctor", str(tmp_path), "--strict"])
    assert out.exit_code == 0
    assert "does not know '低いファゴット', in 1 of 1 captions" in out.stdout
