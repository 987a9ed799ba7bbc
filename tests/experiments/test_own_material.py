"""A person's material: what is heard, judged and weighed are the same seconds of their recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from eisbach.audio import read_audio
from eisbach.experiments.own_material import describe_material, shown_clips
from eisbach.experiments.recipes import own_audio_experiment
from eisbach.structure import analyze

RATE = 8000
LONG = ("first", "second", "third", "fourth", "fifth")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five long recordings whose second half is a held tone, and a short one."""
    made = tmp_path / "mine"
    made.mkdir()
    rng = np.random.default_rng(1)
    time = np.arange(24 * RATE) / RATE
    for name in LONG:
        pitches = np.repeat(2.0 ** (rng.integers(0, 24, 48) / 12.0), RATE // 2)
        tune = 0.4 * np.sin(2 * np.pi * np.cumsum(200.0 * pitches) / RATE) * np.exp(-3.0 * (time % 0.5))
        held = 0.2 * np.sin(2 * np.pi * 300.0 * time) + 1e-4 * rng.standard_normal(len(time))
        sf.write(made / f"{name}.wav", np.concatenate([tune, held]), RATE)
    sf.write(made / "short.wav", 0.1 * rng.standard_normal(9 * RATE), RATE)
    return made


@pytest.mark.whole
def test_what_is_weighed_is_judged_and_heard_over_the_same_seconds(folder: Path, tiny_model: Path, tmp_path: Path):
    out = tmp_path / "run"
    changes = [f"training.model={tiny_model}", "generation.duration=12", "training.data.crop_seconds=12"]
    own = own_audio_experiment(folder, out=out, quick=True, overrides=changes, quiet=True)
    own.save_manifest()
    spec = own.spec
    made = describe_material(spec, out)
    assert (made["clips"], made["held_out"], made["stretch"]) == (6, 1, 12.0)
    names = {clip["name"] for clip in made["weighed"]}
    (held_out,) = {f"{name}.wav" for name in LONG} - {name.split(" at ")[0] for name in names}
    assert spec.reference is not None
    assert spec.reference.source == "held_out"
    places = [f"{name}.wav at {place}" for name in LONG for place in ("0:00", "0:12", "0:24", "0:36")]
    assert names == {"short.wav", *(name for name in places if not name.startswith(held_out))}
    assert np.mean([clip["weight"] for clip in made["weighed"]]) == pytest.approx(1.0)
    for clip in made["weighed"]:
        sound = read_audio(out / clip["path"])
        assert sound.duration == pytest.approx(9.0 if clip["name"] == "short.wav" else 12.0)
        assert clip["flat_probability"] == pytest.approx(1.0 - analyze(sound).kinds["none"], abs=1e-9)
        assert len(clip["tags"]) == 3
    still = {clip["name"]: clip["kind"] for clip in made["weighed"] if clip["name"].endswith(("0:24", "0:36"))}
    assert set(still.values()) == {"still"}  # the held halves, though both recordings begin with a tune
    favoured, passed_over = shown_clips(made)
    assert favoured[-1]["weight"] >= passed_over[-1]["weight"]
    decoded = read_audio(out / made["through_codec"]["decoded"])
    assert decoded.duration == pytest.approx(made["through_codec"]["seconds"], abs=0.1)
    assert describe_material(spec, out) == made
    assert {path.stem for path in folder.iterdir()} == {*LONG, "short"}
