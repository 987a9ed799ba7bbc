from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from eisbach import audio
from eisbach.audio import audio_hash, read_audio, resample, to_mono, write_audio
from eisbach.errors import AudioError, StorageError
from eisbach.types import Waveform


def tone(seconds: float = 1.0, rate: int = 8000, channels: int = 1, frequency: float = 440.0) -> np.ndarray:
    """(channels, n), float32; channel k is k + 1 times as loud as the first."""
    time = np.arange(round(seconds * rate)) / rate
    wave = 0.05 * np.sin(2 * np.pi * frequency * time)
    return (wave[None] * np.arange(1, channels + 1)[:, None]).astype(np.float32)


def save(path: Path, samples: np.ndarray, rate: int = 8000, subtype: str = "FLOAT") -> Path:
    sf.write(str(path), samples.T, rate, subtype=subtype)
    return path


@pytest.mark.parametrize("rate", [8000, 22050, 192000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_any_rate_and_channels_are_read_whole(tmp_path: Path, rate: int, channels: int) -> None:
    samples = tone(0.1, rate, channels)
    made = read_audio(save(tmp_path / "a.wav", samples, rate))
    assert (made.sample_rate, made.channels, made.samples.dtype) == (rate, channels, np.float32)
    np.testing.assert_array_equal(made.samples, samples)
    assert made.duration == pytest.approx(0.1)


@pytest.mark.parametrize("ending", [".wav", ".flac", ".ogg", ".mp3"])
def test_every_ending_that_folders_are_searched_for_is_read(tmp_path: Path, ending: str) -> None:
    assert ending in audio.AUDIO_SUFFIXES
    samples = tone(1.0, 22050)
    sf.write(str(tmp_path / f"a{ending}"), samples.T, 22050)
    made = read_audio(tmp_path / f"a{ending}").samples[0, 2000:20000]
    spectrum = np.abs(np.fft.rfft(made * np.hanning(len(made))))
    assert spectrum.argmax() * 22050 / len(made) == pytest.approx(440, abs=2)


def test_only_the_section_asked_for(tmp_path: Path) -> None:
    samples = np.arange(1, 8001, dtype=np.float32)[None] / 10000
    path = save(tmp_path / "a.wav", samples)
    np.testing.assert_array_equal(read_audio(path, start=0.25, duration=0.5).samples, samples[:, 2000:6000])
    np.testing.assert_array_equal(read_audio(path, start=0.75, duration=9.0).samples, samples[:, 6000:])
    np.testing.assert_array_equal(read_audio(path, start=-1.0).samples, samples)
    for start, duration in ((1.0, None), (99.0, 1.0), (0.0, 0.0)):
        with pytest.raises(AudioError, match="holds no samples"):
            read_audio(path, start=start, duration=duration)


def test_mono_is_the_mean_and_comes_before_resampling(tmp_path: Path) -> None:
    samples = tone(0.5, 16000, 2)
    path = save(tmp_path / "a.wav", samples, 16000)
    np.testing.assert_allclose(read_audio(path, mono=True).samples, samples.mean(0, keepdims=True), atol=1e-7)
    made = read_audio(path, mono=True, sample_rate=8000)
    assert (made.channels, made.sample_rate, made.samples.shape[1]) == (1, 8000, 4000)
    single = Waveform(samples[:1], 16000)
    assert to_mono(single) is single


@pytest.mark.parametrize(("source", "target"), [(8000, 22050), (44100, 22050), (192000, 22050), (22050, 8000)])
def test_resampling_keeps_pitch_level_and_length(source: int, target: int) -> None:
    made = resample(Waveform(tone(1.0, source, 2), source), target)
    assert made.samples.shape == (2, target)
    assert made.samples.dtype == np.float32
    middle = slice(target // 4, 3 * target // 4)
    expected = tone(1.0, target, 2)[:, middle]
    np.testing.assert_allclose(made.samples[:, middle], expected, atol=1e-3)
    same = Waveform(expected, target)
    assert resample(same, target) is same


def test_what_the_new_rate_cannot_hold_is_gone() -> None:
    high = resample(Waveform(tone(1.0, 44100, frequency=9000.0), 44100), 8000)
    assert np.abs(high.samples[:, 500:-500]).max() < 1e-4


def broken(folder: Path) -> dict[str, Path]:
    """One file of each kind that cannot be used."""
    (folder / "text.wav").write_text("no audio")
    (folder / "zero.flac").write_bytes(b"")
    whole = save(folder / "whole.flac", tone(1.0), subtype="PCM_16").read_bytes()
    (folder / "head.flac").write_bytes(whole[:40])
    nan = tone(0.5)
    nan[0, 99] = np.nan
    infinite = tone(0.5)
    infinite[0, 0] = -np.inf
    return {
        "missing": folder / "missing.wav",
        "folder": folder,
        "text": folder / "text.wav",
        "zero bytes": folder / "zero.flac",
        "header only": folder / "head.flac",
        "empty": save(folder / "empty.wav", np.zeros((1, 0))),
        "nan": save(folder / "nan.wav", nan),
        "infinite": save(folder / "inf.wav", infinite),
        "silent": save(folder / "silent.wav", np.full((2, 800), 9e-5)),
    }


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "does not exist or is not a file"),
        ("folder", "does not exist or is not a file"),
        ("text", "cannot be read as audio"),
        ("zero bytes", "cannot be read as audio"),
        ("header only", "cannot be read as audio|holds no samples"),
        ("empty", "holds no samples"),
        ("nan", "holds 1 NaN or infinite samples"),
        ("infinite", "holds 1 NaN or infinite samples"),
        ("silent", "is silent"),
    ],
)
def test_unusable_files_are_one_sentence_that_names_them(tmp_path: Path, kind: str, said: str) -> None:
    path = broken(tmp_path)[kind]
    with pytest.raises(AudioError, match=said) as caught:
        read_audio(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_silence_and_single_frames_where_they_are_wanted(tmp_path: Path) -> None:
    silent = read_audio(broken(tmp_path)["silent"], allow_silent=True)
    assert silent.samples.shape == (2, 800)
    one = save(tmp_path / "one.wav", np.full((1, 1), 0.5), 192000)
    assert read_audio(one).samples.tolist() == [[0.5]]
    with pytest.raises(AudioError, match="at 8000 Hz holds no samples"):
        read_audio(one, sample_rate=8000)


@pytest.mark.parametrize("ending", ["wav", "flac", "ogg"])
def test_written_audio_reads_back(tmp_path: Path, ending: str) -> None:
    samples = tone(0.5, 22050, 2)
    path = tmp_path / "new" / "folder" / f"ä 音.{ending}"
    write_audio(path, Waveform(samples, 22050))
    made = read_audio(path)
    assert made.samples.shape == samples.shape
    tolerance = 0.02 if ending == "ogg" else 3.2e-5  # one step of 16 bits
    np.testing.assert_allclose(made.samples[:, 1000:-1000], samples[:, 1000:-1000], atol=tolerance)
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_audio_above_full_scale_is_scaled_not_cut(tmp_path: Path) -> None:
    samples = tone(0.5) * 40
    write_audio(tmp_path / "loud.wav", Waveform(samples, 8000))
    made = read_audio(tmp_path / "loud.wav").samples
    np.testing.assert_allclose(made, samples / np.abs(samples).max() * 0.999, atol=5e-5)
    quiet = tone(0.5)
    write_audio(tmp_path / "quiet.wav", Waveform(quiet, 8000))
    np.testing.assert_allclose(read_audio(tmp_path / "quiet.wav").samples, quiet, atol=5e-5)


def test_what_cannot_be_written_is_refused_before_a_file_appears(tmp_path: Path) -> None:
    bad = tone(0.1)
    bad[0, 3] = np.inf
    for name, samples, said in (
        ("a.wav", bad, "1 NaN or infinite"),
        ("a.wav", np.zeros((1, 0), np.float32), "no samples"),
        ("a.aiff", tone(0.1), "choose one of .flac, .wav, .ogg"),
        ("a", tone(0.1), "choose one of"),
    ):
        with pytest.raises(AudioError, match=said):
            write_audio(tmp_path / name, Waveform(samples, 8000))
    assert list(tmp_path.iterdir()) == []


def full_disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = audio.shutil.disk_usage("/")
    monkeypatch.setattr(audio.shutil, "disk_usage", lambda _: usage._replace(free=free))


@pytest.mark.parametrize(("free", "reason"), [(0, "No space left on device"), (1 << 40, "System error")])
def test_a_failing_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, reason: str
) -> None:
    path = tmp_path / "a.flac"
    write_audio(path, Waveform(tone(0.2), 8000))
    before = path.read_bytes()

    def fail(handle: sf.SoundFile, _: np.ndarray) -> None:
        Path(handle.name).write_bytes(b"half a file")
        raise sf.LibsndfileError(2)  # "System error", whatever it was

    monkeypatch.setattr(sf.SoundFile, "write", fail)
    full_disk(monkeypatch, free)
    with pytest.raises(StorageError, match=rf"a.flac could not be written \({reason}\); free some space"):
        write_audio(path, Waveform(tone(0.3), 8000))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_ended_early_without_a_word_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = sf.SoundFile.write
    monkeypatch.setattr(sf.SoundFile, "write", lambda file, data: write(file, data[:-10]))
    with pytest.raises(StorageError, match="the file is cut short"):
        write_audio(tmp_path / "a.ogg", Waveform(tone(0.3), 8000))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not be written"):
        write_audio(tmp_path / "file" / "a.wav", Waveform(tone(0.1), 8000))


def test_the_hash_is_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert audio_hash(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(AudioError, match="cannot be read"):
        audio_hash(tmp_path / "b")
    assert errno.ENOSPC == 28  # what the command line calls a full disk


def test_a_minute_of_vorbis_is_written(tmp_path: Path) -> None:
    """Encoded at once it ends the process: libsndfile's stack overflows."""
    noise = np.random.default_rng(0).standard_normal((1, 60 * 44100)).astype(np.float32) * 0.1
    write_audio(tmp_path / "long.ogg", Waveform(noise, 44100))
    assert sf.info(str(tmp_path / "long.ogg")).frames == noise.shape[1]
