from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from eisbach.config import save_config
from eisbach.data.audio_folder import read_folder
from eisbach.data.manifest import Manifest, Split, load_manifest, save_manifest
from eisbach.errors import UserError
from eisbach.experiments.cutting import cut_stretches
from eisbach.experiments.recipes import OwnExperiment, demo_spec, own_audio_experiment
from eisbach.experiments.reference import manifest_clips
from eisbach.experiments.run import run_experiment
from eisbach.experiments.spec import ExperimentSpec
from eisbach.types import SkipReport


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "mine"
    made.mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        sf.write(str(made / f"{number}.wav"), 0.1 * rng.standard_normal(8000), 8000)
        (made / f"{number}.txt").write_text("медленная 琴\u2028slow")
    (made / "broken.mp3").write_bytes(b"")
    return made


def test_a_look_writes_nothing_and_a_run_writes_only_into_its_own_folder(folder: Path, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    own = own_audio_experiment(folder, out=tmp_path / "run", quick=True, quiet=True)
    assert set(tmp_path.rglob("*")) == before
    own.save_manifest()
    rows = load_manifest(own.spec.training["data"]["manifest"])
    assert {row.caption for row in rows} == {"медленная 琴\u2028slow"}
    assert all(path.is_relative_to(tmp_path / "run") for path in set(tmp_path.rglob("*")) - before)


def test_what_was_left_out_stands_in_the_notes(folder: Path, tmp_path: Path) -> None:
    told: list[str] = []
    spec = own_audio_experiment(folder, out=tmp_path / "run", quick=True, quiet=True, notify=told.append).spec
    assert any("broken.mp3 cannot be read as audio (it is an empty file)" in note for note in spec.notes)
    assert any("broken.mp3 is left out" in line for line in told)
    assert spec.reference is None  # clips of a second
    assert "nearer" not in spec.question


def test_audio_that_changed_under_trained_models_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    own_audio_experiment(folder, out=out, quick=True, quiet=True).save_manifest()
    (folder / "5.txt").write_text("another caption")
    own_audio_experiment(folder, out=out, quick=True, quiet=True).save_manifest()  # nothing has been trained yet
    (out / "arms").mkdir()
    own_audio_experiment(folder, out=out, quick=True, quiet=True).save_manifest()
    manifest = (out / "data" / "manifest.jsonl").read_bytes()
    (folder / "0.wav").unlink()
    (folder / "5.txt").write_text("a third caption")
    with pytest.raises(UserError, match=r"\(1 clips are new or changed, 2 are gone or changed\); restore it"):
        own_audio_experiment(folder, out=out, quick=True, quiet=True)
    assert (out / "data" / "manifest.jsonl").read_bytes() == manifest


@pytest.mark.parametrize("place", [".", "results", "a/b"])
def test_results_do_not_go_into_the_material(folder: Path, place: str) -> None:
    with pytest.raises(UserError, match="would lie within"):
        own_audio_experiment(folder, out=folder / place, quick=True, quiet=True)
    assert not list(folder.rglob("manifest.jsonl"))


def test_a_demo_on_ones_own_music_leaves_a_demo_on_made_material_as_it_was(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "eisbach-demo"
    save_config(demo_spec(out=out, quick=True), out / "experiment.yaml")
    (out / "data").mkdir()
    (out / "data" / "manifest.jsonl").write_text("the list of another\n")
    (out / "arms").mkdir()
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(UserError, match=r"holds another demo, on music that it made itself; give another .* --out"):
        own_audio_experiment(folder, out=out, quick=True, quiet=True)
    own = own_audio_experiment(folder, out=tmp_path / "other", quick=True, quiet=True)
    spec = own.spec.model_copy(update={"out": str(out)})
    manifest = Manifest(own.manifest.rows, out / "data", own.manifest.audio_root)
    with pytest.raises(UserError, match="holds another demo"):  # one that came there meanwhile
        run_experiment(spec, prepare=OwnExperiment(spec, manifest).save_manifest, quiet=True)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != ".lock"} == before


def test_a_demo_on_ones_own_music_goes_beside_the_demo_and_names_the_music(folder: Path) -> None:
    assert own_audio_experiment(folder, quick=True, quiet=True).spec.out == "eisbach-demo-mine"
    chosen = own_audio_experiment(folder, quick=True, quiet=True, overrides=["out=elsewhere"])
    assert chosen.spec.out == "elsewhere"
    assert chosen.manifest.root == Path("elsewhere/data")


def test_the_list_of_clips_is_there_when_the_experiment_starts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = own_audio_experiment(folder, out=tmp_path / "run", quick=True, quiet=True)
    seen: list[int] = []

    def start(spec: ExperimentSpec, *_: object) -> None:
        seen.append(len(load_manifest(spec.training["data"]["manifest"])))

    monkeypatch.setattr("eisbach.experiments.run._run", start)
    run_experiment(own.spec, prepare=own.save_manifest, quiet=True)
    assert seen == [6]


def recordings(place: Path, lengths: list[float], flat: list[str] | None = None) -> Path:
    place.mkdir()
    rng = np.random.default_rng(1)
    for number, seconds in enumerate(lengths):
        sf.write(str(place / f"{number}.wav"), 0.1 * rng.standard_normal(int(seconds * 8000)), 8000)
    if flat is not None:
        rows = "".join(f"{number}.wav,{value}\n" for number, value in enumerate(flat))
        (place / "metadata.csv").write_text("file_name,flat\n" + rows)
    return place


def test_a_recording_with_two_captions_is_one_recording_of_the_reference(tmp_path: Path) -> None:
    music = recordings(tmp_path / "music", [7.0] * 4)
    manifest, _ = read_folder(music, quiet=True)
    twice = replace(manifest.rows[0], id="again", caption="other words")
    save_manifest(manifest.with_rows([*manifest.rows, twice]))
    own = own_audio_experiment(music, out=tmp_path / "run", quick=True, quiet=True, overrides=["generation.duration=6"])
    own.save_manifest()
    assert own.spec.reference is not None
    assert own.spec.reference.source == "everything"
    assert [clip.keys["id"] for clip in manifest_clips(own.spec, None)] == ["0.wav", "1.wav", "2.wav", "3.wav"]


@pytest.mark.parametrize("listed", [False, True])
def test_where_little_is_held_out_the_reference_is_all_music_and_can_be_collected(tmp_path: Path, listed: bool) -> None:
    """A folder with a list of its own, or without: what is asked for before training is there after it."""
    music = recordings(tmp_path / "🎵 music", [5.0, 7.0, 7.0, 7.0, 7.0])
    if listed:
        read_folder(music, quiet=True)
    spec = own_audio_experiment(music, quick=True, quiet=True, overrides=["generation.duration=6"]).spec
    assert spec.out == "eisbach-demo-🎵 music"
    assert spec.reference is not None
    assert spec.reference.source == "everything"
    own = own_audio_experiment(music, out=tmp_path / "run", quick=True, quiet=True, overrides=["generation.duration=6"])
    own.save_manifest()
    assert {row.duration for row in own.manifest if row.split == "held_out"} == {7.0}
    clips = manifest_clips(own.spec, None)
    assert len(cut_stretches(clips, 6.0, 24, tmp_path / "cut", skips=SkipReport())) == 4


@pytest.mark.parametrize("listed", [False, True])  # as by the demo's own next step, `eisbach data folder`
def test_what_has_trained_is_not_held_out_when_the_same_command_goes_on(tmp_path: Path, listed: bool) -> None:
    music, out = recordings(tmp_path / "music", [20.0] * 6), tmp_path / "run"
    own = own_audio_experiment(music, out=out, quick=True, quiet=True)
    (held,) = (row for row in own.manifest if row.split == "held_out")
    other = next(row for row in own.manifest if row.split == "train")
    swap: dict[str, Split] = {held.id: "train", other.id: "held_out"}
    rows = [replace(row, split=swap.get(row.id, row.split)) for row in own.manifest]  # by a rule of before
    save_manifest(Manifest(rows, own.manifest.root, own.manifest.audio_root))
    (out / "arms").mkdir()
    if listed:
        read_folder(music, quiet=True)
    again = own_audio_experiment(music, out=out, quick=True, quiet=True)
    assert [row.split for row in again.manifest] == [row.split for row in rows]


@pytest.mark.parametrize(
    ("flat", "said"),
    [
        (["true"] * 7 + ["false"] * 7, None),
        (["yes"] * 7 + ["no"] * 7, "here it is no, yes, so there is no oracle"),
        (["true"] * 7 + ["false"] * 6 + [""], "here 13 of 14 have it, so"),
        (["true"] * 12 + ["false"] * 2, "clips that train are marked as not flat, fewer than a batch of"),
    ],
)
def test_an_oracle_is_trained_only_where_the_labels_give_one(tmp_path: Path, flat: list[str], said: str | None) -> None:
    music = recordings(tmp_path / "music", [2.0 + 0.1 * n for n in range(14)], flat)
    spec = own_audio_experiment(
        music, out=tmp_path / "run", quick=True, quiet=True, overrides=["training.batch_size=4"]
    ).spec
    assert (spec.oracle is None) == (said is not None)
    assert said is None or any(said in note for note in spec.notes)
