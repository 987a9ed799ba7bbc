"""Clips cut to one length: the right stretch, without loss, from files of every kind, and never the original."""

import numpy as np
import pytest
import soundfile as sf

from eisbach.audio import audio_hash, read_audio
from eisbach.errors import UserError
from eisbach.experiments.cutting import cut_sets
from eisbach.experiments.sets import collect_sets
from eisbach.types import SkipReport

RATE = 8_000


@pytest.fixture
def ramp(tmp_path):
    """Twelve seconds whose samples say where they are, loudest from 7 to 9 s, in two channels."""
    samples = np.linspace(0.0, 0.2, 12 * RATE)
    samples[7 * RATE : 9 * RATE] += 0.5
    folder = tmp_path / "audio"
    folder.mkdir()
    sf.write(folder / "ramp.flac", np.stack([samples, -samples], 1), RATE, subtype="PCM_24")
    return folder


def cut(folder, seconds, start, out, skips=None):
    return cut_sets(collect_sets([folder]), seconds, start, out, skips=skips or SkipReport(), quiet=True)


@pytest.mark.parametrize(
    ("start", "seconds", "first"),
    [("start", 5.0, 0.0), ("middle", 5.0, 3.5), ("loudest", 2.0, 7.0), ("loudest", 12.0, 0.0), ("middle", 12.0, 0.0)],
)
def test_the_stretch_is_the_one_asked_for_sample_by_sample(ramp, tmp_path, start, seconds, first):
    (clip,) = cut(ramp, seconds, start, tmp_path / "cut").clips
    whole, stretch = read_audio(ramp / "ramp.flac"), read_audio(clip.path)
    begin = round(first * RATE)
    assert np.array_equal(stretch.samples, whole.samples[:, begin : begin + round(seconds * RATE)])
    assert (clip.keys["cut_from"], clip.keys["cut_start"]) == (str(ramp / "ramp.flac"), pytest.approx(first))


def test_samples_above_full_scale_stay(tmp_path):
    folder = tmp_path / "hot"
    folder.mkdir()
    samples = 1.5 * np.sin(np.arange(3 * RATE))
    sf.write(folder / "hot.wav", samples, RATE, subtype="FLOAT")
    (clip,) = cut(folder, 2.0, "start", tmp_path / "cut").clips
    assert np.array_equal(read_audio(clip.path).samples[0], samples[: 2 * RATE].astype(np.float32))


def test_short_and_broken_files_are_left_out_with_a_reason_and_originals_are_untouched(ramp, tmp_path):
    sf.write(ramp / "short.wav", np.zeros(3 * RATE) + 0.1, RATE)
    sf.write(ramp / "nearly.wav", np.full(int(4.97 * RATE), 0.1), RATE)  # as much as a codec's delay takes
    (ramp / "broken.mp3").write_bytes(b"no")
    before = {path.name: audio_hash(path) for path in ramp.iterdir()}
    skips = SkipReport()
    sets = cut(ramp, 5.0, "start", tmp_path / "cut", skips)
    assert sorted(str(clip.keys["id"]) for clip in sets.clips) == ["nearly", "ramp"]
    assert sorted(sets.names.values()) == ["nearly", "ramp"]
    reasons = {item.item.rsplit("/", 1)[1]: item.reason for item in skips.skipped}
    assert "lasts 3.0 s, less than the 5 s" in reasons["short.wav"]
    assert "broken.mp3" in reasons["broken.mp3"]
    assert {path.name: audio_hash(path) for path in ramp.iterdir()} == before


def test_a_rerun_takes_up_what_is_cut_and_a_changed_file_is_cut_anew(ramp, tmp_path):
    out = tmp_path / "cut"
    (first,) = cut(ramp, 5.0, "start", out).clips
    stamp = first.path.stat().st_mtime_ns
    (again,) = cut(ramp, 5.0, "start", out).clips
    assert (again.path, again.path.stat().st_mtime_ns) == (first.path, stamp)
    sf.write(ramp / "ramp.flac", np.full((12 * RATE, 2), 0.25), RATE)
    (changed,) = cut(ramp, 5.0, "start", out).clips
    assert changed.path != first.path


@pytest.mark.parametrize(
    ("seconds", "start"), [(0.5, "start"), (float("inf"), "start"), (5.0, "end"), (-3.0, "middle")]
)
def test_what_cannot_be_is_refused(ramp, tmp_path, seconds, start):
    with pytest.raises(UserError, match=r"--seconds is|--from is"):
        cut(ramp, seconds, start, tmp_path / "cut")
    with pytest.raises(UserError, match="none of the 1 clips can be cut to 60 s"):
        cut(ramp, 60.0, "start", tmp_path / "cut")
