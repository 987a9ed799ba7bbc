"""A whole probe: its files, its determinism, and what it refuses."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eisbach.audio import audio_hash, write_audio
from eisbach.config import build_config
from eisbach.data.manifest import Manifest, load_manifest, save_manifest
from eisbach.diagnostics.probe import ProbeConfig, ProbeResult, load_result, run_probe
from eisbach.diagnostics.probe.result import BATCH_COLUMNS, RESULT, ROW_COLUMNS, ROWS, ROWS_PARQUET, plain
from eisbach.diagnostics.probe.subject import choose_pool, load_subject, probed_rows
from eisbach.errors import CheckpointError, ConfigError, ManifestError, UserError
from eisbach.training.data import load_manifests
from eisbach.types import Waveform

Configure = Callable[..., ProbeConfig]


@pytest.fixture(scope="module")
def found(configure: Configure) -> ProbeResult:
    weighting = {"sample": "entropy_barrier", "strength": 1.0, "noise_level": "min_snr"}
    return run_probe(configure({"structure": True, "draws": 2}, weighting=weighting), quiet=True)


def test_a_probe_has_every_part(found: ProbeResult) -> None:
    assert len(found.rows) == 5 * 3 * 2
    assert len({(row["clip"], row["t"], row["draw"]) for row in found.rows}) == len(found.rows)
    assert all(ROW_COLUMNS.keys() <= row.keys() for row in found.rows)
    assert len(found.batches) == 16
    assert all(row.keys() == BATCH_COLUMNS.keys() for row in found.batches)
    assert found.gradients["batches"] == 3
    assert {row["gain_db"] for row in found.gain} >= {-6.0, 0.0}
    assert {row["clip"] for row in found.gain} <= {row["clip"] for row in found.rows}
    assert all(0 < float(row["sample_weight"]) <= 1 for row in found.gain)  # type: ignore[arg-type]
    means = dict(found.level_means)
    assert list(means) == [0.1, 0.5, 0.9]
    at_half = [float(row["sample_weight"]) for row in found.rows if row["t"] == 0.5]  # type: ignore[arg-type]
    assert means[0.5] == pytest.approx(sum(at_half) / len(at_half))
    setup = found.setup
    assert (setup["path"], setup["target"], setup["density"]) == ("linear", "u", "logit_normal")
    assert (setup["clips"], setup["clips_available"], setup["batches_from"]) == (5, 8, 8)
    assert setup["model_identity"].startswith("tiny-music-")
    assert "EntropyBarrier" in setup["weighting"]
    assert (setup["non_finite_rows"], setup["skipped"]) == (0, [])
    assert setup["seconds"]["total"] > 0
    assert setup["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]


def test_what_is_saved_is_what_is_loaded(found: ProbeResult, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    folder = found.save(tmp_path / "probe", {"verdict": {"sentences": ["it is a constant here"], "p": math.nan}})
    assert load_result(folder) == found
    text = (folder / RESULT).read_text(encoding="utf-8")
    assert "NaN" not in text + (folder / ROWS).read_text(encoding="utf-8")
    assert json.loads(text)["verdict"] == {"sentences": ["it is a constant here"], "p": None}
    table = pq.read_table(folder / ROWS_PARQUET).to_pylist()
    assert [{key: row[key] for key in found.rows[0]} for row in table] == found.rows
    with pytest.raises(ValueError, match="setup"):
        found.save(folder, {"setup": {}})


def test_the_same_probe_gives_the_same_numbers_and_leaves_the_random_state(
    configure: Configure, found: ProbeResult
) -> None:
    weighting = {"sample": "entropy_barrier", "strength": 1.0, "noise_level": "min_snr"}
    torch.manual_seed(1)
    state = torch.get_rng_state()
    again = run_probe(configure({"structure": True, "draws": 2}, weighting=weighting), quiet=True)
    assert torch.equal(torch.get_rng_state(), state)
    for part in ("rows", "batches", "gradients", "level_means", "gain"):
        assert getattr(again, part) == getattr(found, part)
    other = run_probe(configure({"structure": True, "draws": 2}, weighting=weighting, seed=1), quiet=True)
    assert other.rows != found.rows


def test_out_writes_the_result(configure: Configure, tmp_path: Path) -> None:
    made = run_probe(configure({"out": str(tmp_path / "p"), "gradient_batches": 0}), quiet=True)
    assert load_result(tmp_path / "p") == made
    assert made.gradients == {}


def test_held_out_clips_and_all_clips_can_be_probed(configure: Configure) -> None:
    ids = {}
    for split in ("train", "held_out", "all"):
        config = configure({"split": split, "clips": 20, "gradient_batches": 0}, batch_size=2)
        ids[split] = {row["clip"] for row in run_probe(config, quiet=True).rows}
    assert ids["train"] | ids["held_out"] == ids["all"]
    assert ids["held_out"] == {"clip8", "clip9"}
    assert len(ids["all"]) == 10


def test_train_means_what_the_recipe_trains_on(configure: Configure) -> None:
    data = configure().train.data.model_dump()
    config = configure({"clips": 20, "gradient_batches": 0}, data={**data, "select": {"flat": "false"}})
    assert {row["label.flat"] for row in run_probe(config, quiet=True).rows} == {"false"}
    whole = configure(data={**data, "split": "all"})
    assert len(probed_rows(load_manifests(whole.train.data.manifest), whole)) == 10


def test_a_large_set_is_sampled_by_seed(configure: Configure, probe_clips: Path) -> None:
    rows = load_manifest(probe_clips).rows
    large = Manifest([replace(rows[0], id=f"c{index}") for index in range(1000)], probe_clips)
    pool = choose_pool(large, configure())
    assert len(pool) == 16 * 3  # one epoch of the simulated batches
    assert pool.rows == choose_pool(large, configure()).rows
    assert pool.rows != choose_pool(large, configure(seed=1)).rows
    numbers = [int(row.id[1:]) for row in pool]
    assert numbers == sorted(numbers)
    assert max(numbers) > 500
    assert len(choose_pool(large, configure({"clips": 300}))) == 300


def test_clips_without_labels(configure: Configure, probe_clips: Path) -> None:
    bare = Manifest([replace(row, labels={}) for row in load_manifest(probe_clips)], probe_clips)
    path = save_manifest(bare, probe_clips / "bare.jsonl")
    config = configure({"gradient_batches": 0}, data={"manifest": str(path), "crop_seconds": 6})
    assert not any(key.startswith("label.") for row in run_probe(config, quiet=True).rows for key in row)


def one_clip(folder: Path, samples: np.ndarray, name: str = "one") -> dict[str, Any]:
    """`data` of a manifest with a single clip at 8 kHz."""
    from eisbach.data.manifest import ManifestRow

    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.wav"
    write_audio(path, Waveform(samples[None].astype(np.float32), 8000))
    row = ManifestRow(name, path.name, "a calm cello", len(samples) / 8000, {}, audio_hash(path), "train")
    return {"manifest": str(save_manifest(Manifest([row], folder))), "crop_seconds": 6}


def test_a_manifest_with_one_clip(configure: Configure, tmp_path: Path) -> None:
    data = one_clip(tmp_path, 0.1 * np.sin(np.arange(48000) / 9))
    made = run_probe(configure({"clips": 64}, data=data, batch_size=1), quiet=True)
    assert len(made.rows) == 3
    assert {row["cv"] for row in made.batches} == {0.0}
    with pytest.raises(ManifestError, match="batch_size is 4"):
        run_probe(configure(data=data, batch_size=4), quiet=True)
    with pytest.raises(ManifestError, match=r"0 of the 1 clips.*batch_size is 1"):
        run_probe(configure({"split": "held_out"}, data=data, batch_size=1), quiet=True)


def test_silence(configure: Configure, tmp_path: Path, probe_clips: Path) -> None:
    with pytest.raises(UserError, match="silent"):
        run_probe(configure(data=one_clip(tmp_path, np.zeros(48000)), batch_size=1), quiet=True)
    samples = np.zeros(48000)
    samples[-4000:] = 0.5 * np.sin(np.arange(4000) / 9)  # a crop of 2 s of this clip is often digital silence
    data = {**one_clip(tmp_path / "part", samples), "crop_seconds": 2}
    quiet = [
        run_probe(
            configure({"structure": True, "gradient_batches": 0}, data=data, batch_size=1, seed=seed), quiet=True
        ).rows[0]
        for seed in range(3)
    ]
    assert None in {row["loudness_db"] for row in quiet}
    row = next(row for row in quiet if row["loudness_db"] is None)
    assert row["structure.flat_probability"] == 1.0
    assert row["structure.level_range"] is None
    assert row["loss"] is not None


def test_a_clip_that_cannot_be_encoded_is_reported(configure: Configure, tmp_path: Path, probe_clips: Path) -> None:
    import shutil

    shutil.copytree(probe_clips, tmp_path / "clips", ignore=shutil.ignore_patterns("latents", "*.jsonl"))
    rows = list(load_manifest(probe_clips))
    write_audio(tmp_path / "clips" / "clip0.wav", Waveform(np.zeros((1, 48000), np.float32), 8000))
    rows[0] = replace(rows[0], audio_hash=audio_hash(tmp_path / "clips" / "clip0.wav"))
    save_manifest(Manifest(rows, tmp_path / "clips"))
    data = {"manifest": str(tmp_path / "clips"), "crop_seconds": 6}
    made = run_probe(configure({"gradient_batches": 0}, data=data), quiet=True)
    assert [item["item"] for item in made.setup["skipped"]] == ["clip0"]
    assert "silent" in made.setup["skipped"][0]["reason"]
    assert "clip0" not in {row["clip"] for row in made.rows}


def test_a_network_without_finite_answers_is_counted_and_not_a_crash(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from eisbach.backbones.tiny import TinyMusicBackbone

    monkeypatch.setattr(TinyMusicBackbone, "predict", lambda self, x_t, t, conditioning: x_t * math.nan)
    made = run_probe(configure({"out": str(tmp_path / "p")}), quiet=True)
    assert made.setup["non_finite_rows"] == len(made.rows)
    assert made.level_means == [[0.1, None], [0.5, None], [0.9, None]]
    assert load_result(tmp_path / "p") == made


@pytest.mark.parametrize("noise_level", ["edm2", "erd", "p2"])
@pytest.mark.whole
def test_noise_level_weightings_alone(configure: Configure, noise_level: str) -> None:
    made = run_probe(configure(weighting={"noise_level": noise_level}), quiet=True)
    assert {row["belief"] for row in made.rows} == {None}
    assert [mean for _, mean in made.level_means] == [1.0, 1.0, 1.0]
    for row in made.rows:
        assert row["weight"] == pytest.approx(row["noise_weight"], rel=1e-6)
    assert made.gradients["skipped_batches"] == 0


def test_several_crop_lengths_use_the_most_frequent_for_rows(configure: Configure, probe_clips: Path) -> None:
    crops = [{"seconds": 3, "share": 1}, {"seconds": 6, "share": 3}]
    data = {"manifest": str(probe_clips), "crop_seconds": crops}
    made = run_probe(configure(data=data), quiet=True)
    assert made.setup["crop_seconds"] == 6
    assert len(made.batches) == 16


@pytest.mark.parametrize(
    ("probe", "recipe", "error", "message"),
    [
        ({"levels": [0.0, 0.5]}, {}, ConfigError, r"levels.*\(0, 1\)"),
        ({"levels": [0.5, 1.0]}, {}, ConfigError, r"levels.*\(0, 1\)"),
        ({"levels": [math.nan]}, {}, ConfigError, r"levels.*\(0, 1\)"),
        ({"levels": [0.5, 0.5]}, {}, ConfigError, "once"),
        ({"levels": []}, {}, ConfigError, "levels"),
        ({"clips": 0}, {}, ConfigError, "clips"),
        ({"draw": 2}, {}, ConfigError, "unknown key 'draw'"),
        ({"split": "test"}, {}, ConfigError, "split"),
        ({}, {"weighting": {"sample": "entropy"}}, UserError, "'entropy' is not known"),
        ({}, {"weighting": {"noise_level": "snr"}}, UserError, "'snr' is not known"),
        ({}, {"weighting": {"sample": "entropy_barrier", "options": {"gamma": 5}}}, UserError, "no option 'gamma'"),
        ({}, {"noise_levels": {"density": "triangle"}}, UserError, "triangle"),
        ({}, {"batch_size": 9}, ManifestError, "batch_size"),
        ({}, {"model": "nowhere"}, UserError, "no model in 'nowhere'"),
        ({"adapter": "nowhere"}, {}, CheckpointError, "no adapter nowhere"),
    ],
)
def test_mistakes_are_one_sentence(
    configure: Configure, probe: dict[str, Any], recipe: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        run_probe(configure(probe, **recipe), quiet=True)
    assert "\n" not in str(caught.value)


def test_a_recipe_for_training_is_taken_as_it_stands(tmp_path: Path) -> None:
    """Every recipe key is accepted, and the default levels are inside (0, 1) and ascending."""
    config = build_config(ProbeConfig, {"train": {"data": {"manifest": "m"}, "steps": 5, "ema_decay": 0.9}})
    assert config.levels == sorted(config.levels)
    assert len(config.levels) == 12
    assert config.train.steps == 5


def test_a_result_that_is_not_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_result(tmp_path)
    (tmp_path / RESULT).write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="lacks setup, batches"):
        load_result(tmp_path)


def test_plain_values() -> None:
    nested = {1: (np.float32(0.5), math.inf), "a": [torch.tensor(math.nan), True, None], "p": Path("x")}
    assert plain(nested) == {"1": [0.5, None], "a": [None, True, None], "p": "x"}


def test_a_stereo_or_resampled_clip_keeps_its_own_loudness(configure: Configure, tmp_path: Path) -> None:
    data = one_clip(tmp_path, 0.5 * np.sin(2 * np.pi * 200 * np.arange(48000) / 8000))
    config = configure({"gradient_batches": 0}, data=data, batch_size=1)
    subject = load_subject(config, quiet=True)
    assert subject.crops()[0].seconds == pytest.approx(6.0, abs=0.6)
    row = run_probe(config, quiet=True).rows[0]
    assert row["loudness_db"] == pytest.approx(10 * math.log10(0.125), abs=0.05)
