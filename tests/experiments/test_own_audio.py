from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from eisbach.config import save_config
from eisbach.data.manifest import Manifest, load_manifest
from eisbach.errors import UserError
from eisbach.experiments.recipes import OwnExperiment, demo_spec, own_audio_experiment
from eisbach.experiments.run import run_experiment
from eisbach.experiments.spec import ExperimentSpec


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
