"""What an analysis writes follows from the audio alone: not from the clock, the processes, the threads, or a kill."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from eisbach.audio import write_audio
from eisbach.errors import UserError
from eisbach.structure import Clip, analyze_files
from eisbach.structure import batch as module
from eisbach.structure.record_files import STAMPS
from eisbach.studies.ground_truth import synthetic
from eisbach.types import SkipReport

PROMISED = ("records.jsonl", "records.parquet", "details.jsonl")
NAMES = ("a.flac", "b.wav", "c.flac", "d.wav")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_audio(folder / "a.flac", synthetic.form("ABA", 8.0, 3))
    write_audio(folder / "b.wav", synthetic.loop(2.0, 1, 13.0))
    write_audio(folder / "c.flac", synthetic.drone(1, 9.0))
    write_audio(folder / "d.wav", synthetic.onsets(3.0, 2, 9.0))
    return folder


def written(out):
    return {name: (out / name).read_bytes() for name in PROMISED}


def analyse(folder, out, monkeypatch, **options):
    monkeypatch.chdir(folder)
    analyze_files([Clip(name, {"id": name}) for name in NAMES], out=out, quiet=True, **options)
    return written(out)


@pytest.fixture(scope="module")
def expected(clips, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return analyse(clips, tmp_path_factory.mktemp("first"), patch)


def test_the_clock_leaves_no_trace(clips, expected, tmp_path, monkeypatch):
    monkeypatch.setattr("time.time_ns", lambda: 4_102_444_800_000_000_000)  # the year 2100
    assert analyse(clips, tmp_path, monkeypatch) == expected


def test_copies_of_the_clips_at_another_place_and_time_give_the_same(clips, expected, tmp_path, monkeypatch):
    copy = tmp_path / "moved"
    shutil.copytree(clips, copy)
    for age, path in enumerate(copy.iterdir()):
        os.utime(path, (1e9 + age, 1e9 + age))
    assert analyse(copy, tmp_path / "out", monkeypatch) == expected


@pytest.mark.whole
def test_processes_give_the_same(clips, expected, tmp_path, monkeypatch):
    assert analyse(clips, tmp_path, monkeypatch, jobs=3) == expected


@pytest.mark.parametrize("last", range(len(NAMES)))
def test_a_run_killed_at_any_clip_gives_the_same(clips, expected, tmp_path, monkeypatch, last):
    real = module.measure_file

    def dies(path, **options):
        if str(path) == NAMES[last]:
            raise KeyboardInterrupt
        return real(path, **options)

    monkeypatch.setattr(module, "measure_file", dies)
    with pytest.raises(KeyboardInterrupt):
        analyse(clips, tmp_path, monkeypatch)
    monkeypatch.setattr(module, "measure_file", real)
    assert analyse(clips, tmp_path, monkeypatch) == expected
    assert analyse(clips, tmp_path, monkeypatch) == expected  # and a rerun that finds everything done


def test_a_folder_that_grew_clip_by_clip_holds_the_same(clips, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(clips)
    for count in (2, 3):
        analyze_files([Clip(name, {"id": name}) for name in reversed(NAMES[:count])], out=tmp_path, quiet=True)
    assert analyse(clips, tmp_path, monkeypatch) == expected


def test_a_folder_with_stamps_in_its_details_is_taken_up_and_holds_the_same(clips, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(clips)
    analyse(clips, tmp_path, monkeypatch)
    stamps = [json.loads(line)["stamp"] for line in (tmp_path / STAMPS).read_text().splitlines()]
    rows = [json.loads(line) for line in (tmp_path / "details.jsonl").read_text().splitlines()]
    older = [{**row, "stamp": stamp} for row, stamp in zip(rows, stamps, strict=True)]
    (tmp_path / "details.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in older))
    (tmp_path / STAMPS).unlink()
    monkeypatch.setattr(module, "measure_file", None)  # nothing is left to measure
    assert analyse(clips, tmp_path, monkeypatch) == expected


@pytest.mark.parametrize("threads", ["1", "2", "3"])
@pytest.mark.whole
def test_the_number_of_threads_gives_the_same(clips, expected, tmp_path, threads):
    code = (
        "from eisbach.structure import Clip, analyze_files\n"
        f"analyze_files([Clip(n, {{'id': n}}) for n in {NAMES!r}], out={str(tmp_path)!r}, quiet=True)"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=clips, env=environment)
    assert written(tmp_path) == expected


_COMPARE = """
import json
from dataclasses import replace
import numpy as np
from eisbach.structure.sets import compare_sets, read_clips
one = read_clips(["a.flac"], quiet=True)[0]
rng = np.random.default_rng(3)
def clips(n):
    return [replace(one, name=str(i), texture=one.texture + 3 * rng.standard_normal(64)) for i in range(n)]
a, b = clips(12), clips(10)
rows = {"wide": (rng.standard_normal((12, 256)), rng.standard_normal((10, 256)))}  # narrower ones are not split
print(json.dumps(compare_sets(a, b, embeddings=rows, n_permutations=1).to_dict()))
print(one.texture.tolist(), one.boundaries.tolist())
"""


@pytest.mark.slow
def test_a_comparison_of_sets_is_the_same_on_any_number_of_threads(clips):
    said = []
    for threads in ("1", "2", "4"):
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        command = [sys.executable, "-c", _COMPARE]
        done = subprocess.run(command, check=True, cwd=clips, env=environment, capture_output=True, text=True)
        said.append(done.stdout)
    assert "wide" in said[0]
    assert said[0] == said[1] == said[2]


def test_an_analysis_of_which_everything_fails_leaves_nothing(tmp_path):
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"not audio")
    skips = SkipReport()
    assert (
        analyze_files([broken, tmp_path / "missing.wav"], out=tmp_path / "out" / "deep", skips=skips, quiet=True) == []
    )
    assert len(skips.skipped) == 2
    assert not (tmp_path / "out" / "deep").exists()
    kept = tmp_path / "kept"
    kept.mkdir()
    analyze_files([broken], out=kept, quiet=True)
    assert list(kept.iterdir()) == []


def test_failing_later_does_not_cost_what_was_there(clips, expected, tmp_path, monkeypatch):
    assert analyse(clips, tmp_path, monkeypatch) == expected
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"not audio")
    analyze_files([broken], out=tmp_path, quiet=True)
    assert written(tmp_path) == expected


def test_nothing_given_is_refused_before_a_folder_is_made(tmp_path):
    with pytest.raises(UserError, match="nothing to analyse"):
        analyze_files([], out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
