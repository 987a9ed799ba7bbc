from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf

from eisbach.audio import write_audio
from eisbach.errors import StorageError, UserError
from eisbach.executors.local import Processes
from eisbach.experiments.sets import find_audio
from eisbach.structure import Clip, analyze_files
from eisbach.structure import batch as module
from eisbach.studies.ground_truth import synthetic
from eisbach.types import SkipReport


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_audio(folder / "drone.flac", synthetic.drone(1, 13.0))
    write_audio(folder / "loop.wav", synthetic.loop(2.0, 1, 13.0))
    sf.write(folder / "six.wav", 0.1 * np.random.default_rng(0).standard_normal((8000 * 13, 6)), 8000)
    return folder


def files(folder):
    return [folder / name for name in ("drone.flac", "loop.wav", "six.wav")]


def test_records_keep_the_order_and_the_keys(folder):
    clips = [Clip(path, {"id": path.stem, "arm": "plain"}) for path in files(folder)]
    records = analyze_files(clips, quiet=True)
    assert [r["id"] for r in records] == ["drone", "loop", "six"]
    assert records[2]["sample_rate"] == 8000
    assert "narrow_band" in str(records[2]["flags"])


@pytest.mark.whole
def test_processes_give_the_same_records(folder):
    assert analyze_files(files(folder)[:2], jobs=2, quiet=True) == analyze_files(files(folder)[:2], quiet=True)


def test_broken_files_are_skipped_and_reported(folder, tmp_path):
    broken, empty, nan = tmp_path / "broken.wav", tmp_path / "empty.wav", tmp_path / "nan.wav"
    broken.write_bytes(b"not audio")
    sf.write(empty, np.zeros((0, 1)), 22050)
    sf.write(nan, np.full(3000, np.nan), 22050, subtype="FLOAT")
    skips = SkipReport()
    paths = [broken, files(folder)[0], empty, nan, tmp_path / "missing.flac"]
    records = analyze_files(paths, skips=skips, quiet=True)
    assert [r["path"] for r in records] == [str(files(folder)[0])]
    assert [Path(s.item).name for s in skips.skipped] == ["broken.wav", "empty.wav", "nan.wav", "missing.flac"]
    assert all(Path(s.item).name in s.reason for s in skips.skipped)


def count_calls(monkeypatch):
    calls = []
    real = module.measure_file

    def counted(path, **options):
        calls.append(Path(path).name)
        return real(path, **options)

    monkeypatch.setattr(module, "measure_file", counted)
    return calls


def test_a_killed_run_continues_where_it_was(folder, tmp_path, monkeypatch):
    calls = count_calls(monkeypatch)
    real = module.measure_file

    def dies(path, **options):
        if Path(path).name == "six.wav":
            raise KeyboardInterrupt
        return real(path, **options)

    monkeypatch.setattr(module, "measure_file", dies)
    with pytest.raises(KeyboardInterrupt):
        analyze_files(files(folder), out=tmp_path, quiet=True)
    journal = tmp_path / ".records.partial.jsonl"
    with journal.open("a") as handle:
        handle.write('{"path": "torn')  # what a kill in the middle of a write leaves
    monkeypatch.setattr(module, "measure_file", real)
    calls.clear()
    records = analyze_files(files(folder), out=tmp_path, quiet=True)
    assert calls == ["six.wav"]
    assert not journal.exists()
    assert records == analyze_files(files(folder), quiet=True)


def test_a_rerun_computes_only_changed_files_and_takes_new_keys(folder, tmp_path, monkeypatch):
    source = tmp_path / "a.wav"
    write_audio(source, synthetic.noise(1, 4.0))
    out = tmp_path / "out"
    first = analyze_files([Clip(source, {"arm": "old", "note": "x"})], out=out, quiet=True)
    calls = count_calls(monkeypatch)
    again = analyze_files([Clip(source, {"arm": "new"})], out=out, quiet=True)
    assert calls == []
    assert again[0]["arm"] == "new"
    assert "note" not in again[0]
    write_audio(source, synthetic.noise(2, 4.0))
    changed = analyze_files([source], out=out, quiet=True)
    assert calls == ["a.wav"]
    assert changed[0]["audio_hash"] != first[0]["audio_hash"]


def test_both_files_hold_the_same_rows(folder, tmp_path):
    records = analyze_files(files(folder), out=tmp_path, quiet=True)
    rows = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert rows == records == pq.read_table(tmp_path / "records.parquet").to_pylist()


def test_user_mistakes_are_one_sentence(folder, tmp_path):
    with pytest.raises(UserError, match="nothing to analyse"):
        analyze_files([])
    with pytest.raises(UserError, match="twice"):
        analyze_files([files(folder)[0]] * 2)
    with pytest.raises(UserError, match="at least 1"):
        analyze_files(files(folder), jobs=0)
    with pytest.raises(UserError, match="names of measured columns"):
        analyze_files([Clip(files(folder)[0], {"closure": "x"})])
    occupied = tmp_path / "file"
    occupied.write_text("x")
    with pytest.raises(StorageError, match="could not be written"):
        analyze_files(files(folder)[:1], out=occupied, quiet=True)


@pytest.mark.whole
def test_a_dying_process_costs_only_its_own_file(folder, tmp_path, monkeypatch):
    class Fragile(Processes):
        """Its processes die on any file called six.wav."""

        def call(self, function, name, *rest):
            return super().call(_die if name.endswith("six.wav") else function, name, *rest)

    monkeypatch.setattr("eisbach.executors.local.Processes", Fragile)
    skips = SkipReport()
    records = analyze_files(files(folder), jobs=2, skips=skips, quiet=True)
    assert [Path(str(r["path"])).name for r in records] == ["drone.flac", "loop.wav"]
    assert [Path(s.item).name for s in skips.skipped] == ["six.wav"]


def _die(name, *rest):
    import os

    os._exit(9)


def test_find_audio_looks_below_and_not_into_hidden_folders(tmp_path):
    for name in ("b/x.WAV", "a.mp3", ".cache/y.wav", "notes.txt", "b/.z.flac"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [p.name for p in find_audio(tmp_path)] == ["a.mp3", "x.WAV"]
    with pytest.raises(UserError, match="no audio files"):
        find_audio(tmp_path / ".cache" / "nothing")
