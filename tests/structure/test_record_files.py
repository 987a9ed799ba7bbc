from __future__ import annotations

import json
import os
import time

import numpy as np
import pytest
import soundfile as sf

from eisbach.audio import stamp
from eisbach.errors import AudioError
from eisbach.structure import analyze, analyze_files, read_details
from eisbach.structure import batch as module
from eisbach.structure.features import extract_features
from eisbach.structure.record_files import (
    JOURNAL,
    STAMPS,
    MeasuredClip,
    is_unchanged,
    journal,
    measured_clips,
)
from eisbach.structure.rhythm import onset_times
from eisbach.studies.ground_truth import synthetic
from eisbach.types import SkipReport, Waveform

PAST = time.time() - 3600


def tiny(path, level=0.1, seconds=0.2):
    sf.write(path, level * np.random.default_rng(0).standard_normal(int(8000 * seconds)), 8000)
    os.utime(path, (PAST, PAST))
    return path


@pytest.mark.whole
def test_hundreds_of_clips_with_broken_ones_and_a_quick_resume(tmp_path, monkeypatch):
    paths = []
    for index in range(300):
        path = tmp_path / f"{index:03d}.wav"
        if index % 30 == 4:
            path.write_bytes(b"RIFF broken" if index % 60 == 4 else b"")
        else:
            tiny(path, 0.001 * (index + 1))
        paths.append(path)
    skips, out = SkipReport(), tmp_path / "out"
    records = analyze_files(paths, out=out, skips=skips, quiet=True)
    assert (len(records), len(skips.skipped)) == (290, 10)
    details = read_details(out)
    assert list(details) == [record["path"] for record in records]
    assert all(details[r["path"]]["audio_hash"] == r["audio_hash"] for r in records)
    # what is known is neither measured nor, once it has rested for a while, read again
    rows = [json.loads(line) for line in (out / STAMPS).read_text().splitlines()]
    for row in rows:
        row["stamp"]["seen_ns"] += 10_000_000_000
    (out / STAMPS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr("eisbach.structure.record_files.audio_hash", None)
    monkeypatch.setattr(module, "measure_file", lambda path, **_: (_ for _ in ()).throw(AudioError(str(path))))
    again = SkipReport()
    assert analyze_files(paths, out=out, skips=again, quiet=True) == records
    assert len(again.skipped) == 10


def test_appending_costs_the_same_however_long_the_journal_is(tmp_path):
    with journal(tmp_path) as append:
        sizes = []
        for index in range(50):
            append(MeasuredClip({"path": f"{index:04d}"}, "{}"))
            sizes.append((tmp_path / JOURNAL).stat().st_size)
    assert set(np.diff(sizes)) == {sizes[1] - sizes[0]}


def test_a_changed_file_is_never_taken_for_the_old_one(tmp_path):
    path = tiny(tmp_path / "a.wav")
    clip = module.measure_file(path)
    assert is_unchanged(clip)
    # same size, same time of modification: the time of change and, when in doubt, the content tell
    tiny(path, 0.2)
    assert stamp(path)["mtime_ns"] == clip.stamp["mtime_ns"]
    assert stamp(path)["size"] == clip.stamp["size"]
    assert not is_unchanged(clip)
    path.unlink()
    assert not is_unchanged(clip)


def test_a_touched_file_is_known_by_its_content(tmp_path):
    path = tiny(tmp_path / "a.wav")
    clip = module.measure_file(path)
    os.utime(path)
    assert is_unchanged(clip)
    clip.stamp = {"seen_ns": "yesterday"}  # a damaged stamp: the content tells
    assert is_unchanged(clip)


def test_a_file_written_meanwhile_is_reported(tmp_path, monkeypatch):
    path = tiny(tmp_path / "a.wav")
    real = module.analyze

    def slow(name, **options):
        found = real(name, **options)
        tiny(path, 0.3, 0.4)
        return found

    monkeypatch.setattr(module, "analyze", slow)
    with pytest.raises(AudioError, match="was written to while"):
        module.measure_file(path)


def test_an_unexpected_error_costs_one_clip_and_is_named(tmp_path, monkeypatch):
    paths = [tiny(tmp_path / "a.wav"), tiny(tmp_path / "b.wav")]
    real = module.analyze

    def odd(name, **options):
        if str(name).endswith("a.wav"):
            raise np.linalg.LinAlgError("did not converge")
        return real(name, **options)

    monkeypatch.setattr(module, "analyze", odd)
    skips = SkipReport()
    assert len(analyze_files(paths, skips=skips, quiet=True)) == 1
    assert "LinAlgError: did not converge" in skips.skipped[0].reason


def test_rows_of_other_versions_and_torn_lines_are_dropped(tmp_path):
    path = tiny(tmp_path / "a.wav")
    clip = module.measure_file(path)
    record = clip.record
    good = {"record": record, "detail": clip.detail, "stamp": clip.stamp}
    old = {"record": {**record, "analysis_version": "0"}, "detail": None}
    (tmp_path / JOURNAL).write_bytes(
        b"\n".join([json.dumps(old).encode(), b'{"record": {"path": "\xc3', json.dumps(good).encode()])
    )
    found = measured_clips(tmp_path, [str(path)], list(record), record["analysis_version"])
    assert list(found) == [str(path)]
    assert measured_clips(tmp_path, [str(path)], list(record), "1") == {}
    assert measured_clips(tmp_path, [str(path)], [*record, "new_metric"], record["analysis_version"]) == {}


def test_details_are_json_and_count_from_the_start_of_the_file():
    piece = synthetic.form("ABA", 8.0, 3)
    pause = np.zeros((1, 22050 * 2), np.float32)
    plain, late = (
        analyze(w).detail() for w in (piece, Waveform(np.concatenate([pause, piece.samples], axis=1), 22050))
    )
    assert json.loads(json.dumps(plain)) == plain
    assert len(plain["embedding"]) == 64
    sections = plain["sections"]
    assert len(sections["labels"]) == len(sections["boundaries"]) + 1 == len(sections["strengths"]) + 1
    np.testing.assert_allclose(late["sections"]["boundaries"], np.array(sections["boundaries"]) + 2.0, atol=0.1)
    np.testing.assert_allclose(late["onsets"][:20], np.array(plain["onsets"][:20]) + 2.0, atol=0.05)
    assert analyze(synthetic.drone(1, 1.0)).detail()["embedding"] is None


@pytest.mark.parametrize("rate", [1.0, 4.0, 8.0])
def test_onsets_are_found_where_they_are(rate):
    truth = np.arange(0.1, 23.9, 1.0 / rate)
    found = onset_times(extract_features(synthetic.onsets(rate, 3)))
    assert len(found) == pytest.approx(len(truth), rel=0.05)
    assert np.mean(np.abs(found[:, None] - truth).min(axis=0) < 0.03) > 0.95
    assert len(onset_times(extract_features(synthetic.drone(2, 20.0)))) <= 3
