from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from eisbach.data.manifest import load_manifest
from eisbach.errors import UserError
from eisbach.experiments.recipes import own_audio_spec


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
    look = own_audio_spec(folder, out=tmp_path / "run", quick=True, save=False, quiet=True)
    assert set(tmp_path.rglob("*")) == before
    spec = own_audio_spec(folder, out=tmp_path / "run", quick=True, quiet=True)
    assert spec == look
    rows = load_manifest(spec.training["data"]["manifest"])
    assert {row.caption for row in rows} == {"медленная 琴\u2028slow"}
    assert all(path.is_relative_to(tmp_path / "run") for path in set(tmp_path.rglob("*")) - before)


def test_what_was_left_out_stands_in_the_notes(folder: Path, tmp_path: Path) -> None:
    told: list[str] = []
    spec = own_audio_spec(folder, out=tmp_path / "run", quick=True, quiet=True, notify=told.append)
    assert any("broken.mp3 cannot be read as audio (it is an empty file)" in note for note in spec.notes)
    assert any("broken.mp3 is left out" in line for line in told)


def test_audio_that_changed_under_trained_models_is_refused(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    own_audio_spec(folder, out=out, quick=True, quiet=True)
    (folder / "5.txt").write_text("another caption")
    own_audio_spec(folder, out=out, quick=True, quiet=True)  # nothing has been trained yet
    (out / "arms").mkdir()
    own_audio_spec(folder, out=out, quick=True, quiet=True)
    manifest = (out / "data" / "manifest.jsonl").read_bytes()
    (folder / "0.wav").unlink()
    (folder / "5.txt").write_text("a third caption")
    with pytest.raises(UserError, match=r"\(1 clips are new or changed, 2 are gone or changed\); restore it"):
        own_audio_spec(folder, out=out, quick=True, quiet=True)
    assert (out / "data" / "manifest.jsonl").read_bytes() == manifest


@pytest.mark.parametrize("place", [".", "results", "a/b"])
def test_results_do_not_go_into_the_material(folder: Path, place: str) -> None:
    with pytest.raises(UserError, match="would lie within"):
        own_audio_spec(folder, out=folder / place, quick=True, quiet=True)
    assert not list(folder.rglob("manifest.jsonl"))
