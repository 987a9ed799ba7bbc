"""Audio that lies about itself, through every door that reads audio."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from small_audio import tone, write

from eisbach.audio import AUDIO_SUFFIXES, UNREAD_SUFFIXES, list_audio, read_audio
from eisbach.audio_file import AudioFile
from eisbach.codecs import load_codec
from eisbach.data.audio_facts import CodecInput, inspect_audio
from eisbach.data.audio_folder import read_folder, scan_folder
from eisbach.data.doctor import examine
from eisbach.data.latents import encode_manifest
from eisbach.errors import AudioError, UserError
from eisbach.structure.sources import FileSource
from eisbach.structure.survey import survey

DOORS: dict[str, Callable[[Path], object]] = {
    "read": lambda path: read_audio(path, allow_silent=True),
    "survey": lambda path: survey(FileSource(path), 600.0),
    "inspect": inspect_audio,
}
CUT = {  # format and subtype of files that still open when their end is cut off
    ".wav": ("WAV", "PCM_16"), ".aiff": ("AIFF", "PCM_24"), ".w64": ("W64", "PCM_16"), ".rf64": ("RF64", "PCM_16"),
    ".au": ("AU", "PCM_16"), ".mp3": ("MP3", "MPEG_LAYER_III"),
}  # fmt: skip


def counted(path: Path) -> int:
    return sum(len(block) for block in AudioFile(path).blocks())


def music(seconds: float, rate: int = 22050) -> np.ndarray:
    rng = np.random.default_rng(3)
    return tone(seconds, rate) + 0.05 * rng.standard_normal((round(seconds * rate), 1))


@pytest.mark.parametrize("ending", CUT)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_a_file_that_is_cut_short_counts_what_is_there(tmp_path: Path, ending: str, share: float) -> None:
    form, subtype = CUT[ending]
    whole, cut = tmp_path / f"whole{ending}", tmp_path / f"cut{ending}"
    sf.write(str(whole), music(20.0), 22050, format=form, subtype=subtype)
    content = whole.read_bytes()
    cut.write_bytes(content[: max(3000, int(len(content) * share))])
    facts = inspect_audio(cut)
    there = counted(cut) / 22050
    assert 0 < there < 0.95 * 20.0
    assert facts.problem is None
    assert facts.duration == there
    assert facts.missing is not None
    assert f"end after {there:.2f} s" in facts.missing
    assert facts.peak < 1.0
    assert inspect_audio(cut) == facts  # nothing is read that is not there, so nothing changes from run to run
    waveform = read_audio(cut)
    assert waveform.duration == there
    assert np.abs(waveform.samples).max() < 1.0
    source = FileSource(cut)
    assert sum(block.shape[1] for block in source.blocks()) / 22050 == there
    assert source.faults(round(there * 22050)) == ["truncated"]
    manifest, report = read_folder(tmp_path, caption_from="none", save=False, quiet=True)
    assert {row.id: row.duration for row in manifest} == {
        f"cut{ending}": there,
        f"whole{ending}": pytest.approx(20.0, abs=0.06),
    }
    assert not report.skipped
    assert {(p.sample, p.kind) for p in examine(tmp_path, quiet=True).problems if p.kind == "truncated"} == {
        (f"cut{ending}", "truncated")
    }


@pytest.mark.parametrize(
    ("form", "subtype", "rate"),
    [("WAV", "MS_ADPCM", 22050), ("WAV", "IMA_ADPCM", 22050), ("WAV", "GSM610", 8000), ("WAV", "ULAW", 8000),
     ("MP3", "MPEG_LAYER_III", 44100), ("MP3", "MPEG_LAYER_III", 16000), ("OGG", "VORBIS", 44100),
     ("OGG", "OPUS", 48000),
     ("FLAC", "PCM_24", 96000), ("CAF", "ALAC_16", 44100), ("AIFF", "IMA_ADPCM", 22050), ("W64", "FLOAT", 44100)],
)  # fmt: skip
@pytest.mark.parametrize("samples", [12345, 100_001])
def test_whole_files_of_every_codec_are_whole(tmp_path: Path, form: str, subtype: str, rate: int, samples: int) -> None:
    path = tmp_path / "a"
    with sf.SoundFile(str(path), "w", rate, 1, format=form, subtype=subtype) as handle:
        handle.write(music(samples / rate, rate)[:samples, 0])
    assert inspect_audio(path).missing is None
    assert FileSource(path).faults(counted(path)) == []


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM"])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_header_with_a_wrong_byte_rate_says_nothing_about_length(tmp_path: Path, subtype: str, share: float) -> None:
    path = tmp_path / "a.wav"
    sf.write(str(path), music(5.0, 8000), 8000, format="WAV", subtype=subtype)
    content = bytearray(path.read_bytes())
    place = content.index(b"fmt ") + 16
    content[place : place + 4] = (16000).to_bytes(4, "little")  # what ffmpeg writes for every rate
    path.write_bytes(content[: int(share * len(content))])
    assert FileSource(path).faults(counted(path)) == ["truncated"] * (share < 1.0)


def test_a_stream_whose_header_knows_no_length_is_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", tone(1.0))
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[4:8] = content[place : place + 4] = b"\xff\xff\xff\xff"  # what encoders that write into a pipe leave
    path.write_bytes(content)
    facts = inspect_audio(path)
    assert (facts.duration, facts.missing, facts.problem) == (1.0, None, None)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("rate", [1, 2, 50, 99, 768_001, 2_000_000_000])
def test_rates_that_no_recording_has_are_refused_in_a_sentence(tmp_path: Path, door: str, rate: int) -> None:
    path = tmp_path / "a.wav"
    sf.write(str(path), np.zeros((44_000, 1)) + 0.1, 8000, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    content[24:28] = struct.pack("<I", rate)
    path.write_bytes(content)
    said = "100 to 768000 Hz are read"
    if door == "inspect":
        assert said in str(inspect_audio(path).problem)
    else:
        with pytest.raises(AudioError, match=said):
            DOORS[door](path)


@pytest.mark.parametrize("door", ["read", "survey"])
@pytest.mark.parametrize("rate", [100, 768_000])
def test_the_outermost_rates_are_read(tmp_path: Path, door: str, rate: int) -> None:
    DOORS[door](write(tmp_path / "a.wav", tone(1.0, rate, frequency=min(110.0, rate / 4)), rate))


def test_a_header_that_declares_gigabytes_costs_no_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", tone(1.0))
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F  # the upper bits of STREAMINFO's count of samples: 64 billion of them
    content[22:26] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\n"
        "from eisbach.data.audio_facts import inspect_audio; facts = inspect_audio(sys.argv[1]); print(facts.problem "
        "or facts.missing)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "cannot be read as audio beyond 0.00 s" in done.stdout or "data end after 1.00 s" in done.stdout


@pytest.mark.parametrize("scale", [128.0, 32768.0, 8388608.0, 2147483648.0])
def test_floats_on_an_integers_scale_are_refused(tmp_path: Path, scale: float) -> None:
    path = write(tmp_path / "a.wav", tone(1.0) * scale * 8, subtype="FLOAT")
    for door in ("read", "survey"):
        with pytest.raises(AudioError, match="integer's scale"):
            DOORS[door](path)
    assert "integer's scale" in str(inspect_audio(path).problem)
    hot = write(tmp_path / "hot.wav", tone(1.0) * 40, subtype="FLOAT")  # a mix that peaks at 4 is hot, and nothing else
    assert inspect_audio(hot).problem is None


@pytest.mark.parametrize("offset", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("level", [1e-7, 1e-4, 1e-3])
def test_any_offset_and_level_has_an_extent(tmp_path: Path, offset: float, level: float) -> None:
    samples = offset + level * np.sign(tone(1.0))
    found = survey(FileSource(write(tmp_path / "a.wav", samples, subtype="DOUBLE")), 60.0)
    assert 0 <= found.first <= found.last


def test_silence_is_judged_on_what_the_codec_is_given(tmp_path: Path) -> None:
    wave = tone(1.0, 44100)
    inverted = write(tmp_path / "inverted.wav", np.concatenate([wave, -wave], axis=1), 44100)
    nearly = write(tmp_path / "nearly.wav", np.concatenate([wave, -0.9 * wave], axis=1), 44100)
    write(tmp_path / "wide.wav", np.concatenate([wave, music(1.0, 44100)], axis=1), 44100)
    fade = np.hanning(44100)[:, None]  # what begins at once sounds at every frequency
    high = write(tmp_path / "high.wav", fade * tone(1.0, 44100, frequency=15000.0), 44100, subtype="FLOAT")
    mono = CodecInput(22050, 1)
    assert "cancel each other" in str(inspect_audio(inverted, mono).problem)
    assert inspect_audio(inverted, CodecInput(44100, 2)).problem is None
    assert "above 11.025 kHz" in str(inspect_audio(high, mono).problem)
    assert inspect_audio(high, CodecInput(44100, 1)).problem is None
    assert "mix it down" in str(
        inspect_audio(write(tmp_path / "six.wav", tone(1.0, 8000, 6)), CodecInput(44100, 2)).problem
    )
    manifest, report = read_folder(tmp_path, caption_from="none", heard=mono, quiet=True)
    assert {row.id for row in manifest} == {"nearly.wav", "wide.wav", "six.wav"}
    assert {item.item for item in report.skipped} == {"inverted.wav", "high.wav"}
    problems = examine(tmp_path, heard=mono, quiet=True).problems
    assert [problem.sample for problem in problems if problem.kind == "cancelling"] == ["nearly.wav"]
    assert nearly.is_file()


def test_what_the_codec_would_hear_as_silence_is_not_encoded(tmp_path: Path) -> None:
    wave, mono = tone(1.0), CodecInput(22050, 1)
    write(tmp_path / "fine.wav", wave)
    write(tmp_path / "inverted.wav", np.concatenate([wave, -wave], axis=1))
    manifest, _ = read_folder(tmp_path, caption_from="none", save=False, heard=mono, quiet=True)
    scan = scan_folder(tmp_path, caption_from="none", heard=mono, quiet=True)
    digest = next(sample.audio_hash for sample in scan.samples if sample.refused)
    bad = manifest.with_rows([*manifest, type(manifest.rows[0])("x", "inverted.wav", "", 1.0, {}, digest, "train")])
    cache = encode_manifest(bad, load_codec("bands"), tmp_path / "cache", crop_seconds=1, quiet=True)
    assert [entry.row.id for entry in cache.entries] == ["fine.wav"]
    assert "silent" in cache.report.skipped[0].reason


def test_the_default_input_is_the_embedded_codecs() -> None:
    codec = load_codec()
    assert CodecInput() == CodecInput(codec.sample_rate, codec.audio_channels)


@pytest.mark.parametrize("ending", AUDIO_SUFFIXES)
def test_every_ending_that_libsndfile_reads_is_found(tmp_path: Path, ending: str) -> None:
    forms = {".aif": "AIFF", ".aifc": "AIFF", ".bwf": "WAV", ".wave": "WAV", ".mp2": "MP3", ".oga": "OGG",
    ".opus": "OGG",
             ".snd": "AU", ".sph": "NIST"}  # fmt: skip
    form = forms.get(ending, ending[1:].upper())
    subtype = "OPUS" if ending == ".opus" else sf.default_subtype(form)
    sf.write(str(tmp_path / f"a{ending}"), tone(1.0, 48000), 48000, format=form, subtype=subtype)
    manifest, report = read_folder(tmp_path, caption_from="none", quiet=True)
    assert [row.id for row in manifest] == [f"a{ending}"]
    assert not report.skipped
    assert examine(tmp_path, quiet=True).healthy


def test_what_is_not_read_is_named_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "set" / "a.wav", tone())
    for ending in UNREAD_SUFFIXES:
        (tmp_path / "set" / f"b{ending.upper()}").write_bytes(b"x")
    write(tmp_path / "elsewhere" / "c.wav", tone(frequency=330))
    folder = tmp_path / "set"
    (folder / "c.wav").symlink_to(tmp_path / "elsewhere" / "c.wav")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    (folder / "a_again.wav").symlink_to(folder / "a.wav")
    odd = b"bad\xff.wav"
    with open(bytes(folder) + b"/" + odd, "wb") as handle:
        handle.write((folder / "a.wav").read_bytes())
    (folder / "notes.txt").write_text("nothing")
    manifest, report = read_folder(folder, caption_from="none", quiet=True)
    assert [row.id for row in manifest] == ["a.wav"]
    reasons = {item.item: item.reason for item in report.skipped}
    assert len(reasons) == len(UNREAD_SUFFIXES) + 5
    assert "leaves the folder" in reasons["c.wav"]
    assert "link to a folder" in reasons["linked"]
    assert "link to nothing" in reasons["gone.wav"]
    assert "same bytes as a.wav" in reasons["a_again.wav"]
    assert "not UTF-8" in reasons["bad\udcff.wav"]
    (folder / "manifest.jsonl").unlink()
    assert examine(folder, quiet=True).counts() == {"left_out": len(UNREAD_SUFFIXES) + 4, "duplicate": 1}
    assert len(list_audio(folder).left_out) == len(UNREAD_SUFFIXES) + 3
    with pytest.raises(UserError, match="not UTF-8"):
        read_audio(folder / "bad\udcff.wav")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"<!DOCTYPE html><html></html>" * 9, "a web page"), (b"hello there, no music", "it is text"), (b"", "an empty "
                                                                                                          "file"),
     (b"\0" * 4000, "zeros alone"), (b"\0\0\0\x20ftypM4A " + bytes(range(200)) * 9, "an MP4 or M4A file"),
     (bytes(np.random.default_rng(0).integers(0, 256, 70000, dtype=np.uint8)), "no format of audio is recognised")],
)  # fmt: skip
@pytest.mark.parametrize("ending", [".mp3", ".wav", ".ogg"])
def test_what_is_no_audio_is_called_what_it_is(
    tmp_path: Path, content: bytes, said: str, ending: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(content)
    with pytest.raises(AudioError, match=said):
        read_audio(path)
    assert said in str(inspect_audio(path).problem)
    assert capfd.readouterr() == ("", "")


def test_the_mp3_decoder_does_not_speak_past_us(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.mp3"
    sf.write(str(path), music(10.0, 44100), 44100)
    content = path.read_bytes()
    junk = bytes(np.random.default_rng(1).integers(0, 255, 5000, dtype=np.uint8))
    path.write_bytes(content[:8000] + junk + content[13000:])
    sys.stderr.write("before\n")
    facts = inspect_audio(path)
    sys.stderr.write("after\n")
    assert capfd.readouterr().err == "before\nafter\n"
    assert facts.problem is not None
    assert "beyond" in facts.problem
    with pytest.raises(AudioError, match="beyond"):
        read_audio(path)
    assert survey(FileSource(path), 60.0).seconds > 0.1  # an analysis takes what there is, and says so
    assert FileSource(path).faults(9000) == ["truncated"]


@pytest.mark.parametrize("loudest", ["both", "left", "apart"])
def test_clipping_is_judged_on_what_the_codec_is_given(tmp_path: Path, loudest: str) -> None:
    clipped = np.clip(20 * tone(1.0), -1, 1)
    other = {"both": clipped, "left": np.zeros_like(clipped), "apart": tone(1.0, frequency=330.0)}[loudest]
    path = write(tmp_path / "a.wav", np.concatenate([clipped, other], axis=1))
    mixed = inspect_audio(path, CodecInput(16000, 1)).clipped
    apart = inspect_audio(path, CodecInput(16000, 2)).clipped
    share = float((np.abs(clipped) >= 0.999).mean()) - 2 * 440 / 16000  # a run's two last samples begin no three
    assert apart == pytest.approx(share if loudest == "both" else share / 2, abs=0.01)
    assert mixed == pytest.approx(apart if loudest == "both" else 0.0, abs=1e-3)  # half of full scale, or what is left


@pytest.mark.parametrize("ending", CUT)
def test_a_length_is_counted_and_not_taken_from_the_header(tmp_path: Path, ending: str) -> None:
    form, subtype = CUT[ending]
    whole, cut = tmp_path / f"whole{ending}", tmp_path / f"cut{ending}"
    sf.write(str(whole), music(8.0), 22050, format=form, subtype=subtype)
    content = whole.read_bytes()
    cut.write_bytes(content[: len(content) // 3])
    assert AudioFile(whole).seconds() == pytest.approx(8.0, abs=0.1)
    assert AudioFile(whole).seconds(2.5) == pytest.approx(2.5, abs=1e-3)
    assert AudioFile(cut).seconds() == counted(cut) / 22050 < 4.0
