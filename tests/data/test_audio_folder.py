from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_audio import tone, write

from eisbach.data.audio_facts import inspect_audio
from eisbach.data.audio_folder import read_folder
from eisbach.data.caption_files import find_captions
from eisbach.data.doctor import examine
from eisbach.data.manifest import load_manifest
from eisbach.data.selection import TrainingRule
from eisbach.errors import UserError


def _caption(audio: Path, caption_from: str = "files") -> str | None:
    return find_captions(audio.parent, [audio], caption_from).read(audio)


def crops_of(seconds: float) -> TrainingRule:
    return TrainingRule(((seconds, None),))


def bad_folder(root: Path) -> dict[str, str]:
    """One file of each kind of trouble, with captions; the words that its report must hold."""
    write(root / "fine.wav", tone())
    (root / "garbage.wav").write_bytes(b"this is no audio")
    (root / "empty.wav").write_bytes(b"")
    write(root / "no_frames.wav", np.zeros((0, 1)))
    write(root / "one_frame.wav", np.full((1, 1), 0.5))
    write(root / "silent.wav", np.zeros((8000, 2)))
    nan = tone().astype(np.float32)
    nan[100:103] = np.nan
    write(root / "nan.wav", nan, subtype="FLOAT")
    for path in list(root.glob("*.wav")):
        path.with_suffix(".txt").write_text("words")
    write(root / "no_caption.wav", tone(frequency=300))
    write(root / "no_words.wav", tone(frequency=400))
    (root / "no_words.txt").write_text("  \n")
    write(root / "bad_json.wav", tone(frequency=500))
    (root / "bad_json.json").write_text('{"mood": "sad"}')
    write(root / "two.wav", tone(frequency=600))
    (root / "two.json").write_text('{"caption": "one thing"}')
    (root / "two.txt").write_text("another thing")
    return {
        "garbage.wav": "cannot be read as audio",
        "empty.wav": "empty file",
        "no_frames.wav": "holds no samples",
        "one_frame.wav": "single frame",
        "silent.wav": "silent",
        "nan.wav": "3 NaN",
        "no_caption.wav": "no caption",
        "no_words.wav": "empty caption",
        "bad_json.wav": "'caption' or 'prompt'",
        "two.wav": "different things",
    }


def test_what_cannot_be_used_is_left_out_and_reported(tmp_path: Path) -> None:
    expected = bad_folder(tmp_path)
    manifest, report = read_folder(tmp_path, quiet=True)
    assert [row.id for row in manifest] == ["fine.wav"]
    reasons = {item.item: item.reason for item in report.skipped}
    assert reasons.keys() == expected.keys()
    for name, words in expected.items():
        assert words in reasons[name]
    assert load_manifest(tmp_path).rows == manifest.rows


def test_the_doctor_finds_each_kind(tmp_path: Path) -> None:
    expected = bad_folder(tmp_path)
    clipped = np.clip(20 * tone(frequency=700), -1, 1)
    write(tmp_path / "clipped.wav", clipped)
    write(tmp_path / "short.wav", tone(0.2))
    write(tmp_path / "twin.wav", tone())
    write(tmp_path / "other.ogg", tone() * 0.5)
    for name in ("clipped", "short", "twin", "other"):
        (tmp_path / f"{name}.txt").write_text("words")
    report = examine(tmp_path, rule=crops_of(4.0), same_audio=True, quiet=True)
    kinds = {problem.sample: problem.kind for problem in report.problems}
    unusable = ("garbage.wav", "empty.wav", "no_frames.wav", "one_frame.wav", "silent.wav", "nan.wav")
    assert kinds == {
        **dict.fromkeys(unusable, "unusable"),
        "no_caption.wav": "missing_caption", "no_words.wav": "empty_caption", "bad_json.wav": "bad_caption",
        "two.wav": "bad_caption", "clipped.wav": "clipped", "short.wav": "too_short", "twin.wav": "duplicate",
        "other.ogg": "same_audio",
    }  # fmt: skip
    assert report.samples == len(expected) + 5
    assert not report.healthy
    assert report.counts()["unusable"] == 6
    assert {item.sample for item in report.trained} == {"fine.wav", "clipped.wav", "short.wav", "other.ogg"}
    manifest, _ = read_folder(tmp_path, save=False, quiet=True)
    assert [item.sample for item in report.trained] == [row.id for row in manifest]
    short = next(item for item in report.trained if item.sample == "short.wav")
    assert (short.caption, short.sections, short.padding) == ("words", [(0.0, 0.2)], 3.8)
    json.dumps(report.as_json(), allow_nan=False)


def test_a_healthy_manifest_and_one_whose_files_changed(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / f"{name}.wav", tone(frequency=200 + ord(name)))
    read_folder(tmp_path, caption_from="text: a cello ", quiet=True)
    report = examine(tmp_path, quiet=True)
    assert report.healthy
    assert [item.caption for item in report.trained] == ["a cello"] * 2
    assert report.formats == {"16000 Hz, 1 channel": 2}
    write(tmp_path / "a.wav", tone(frequency=900))
    (tmp_path / "b.wav").unlink()
    found = {(problem.sample, problem.kind) for problem in examine(tmp_path / "manifest.jsonl", quiet=True).problems}
    assert found == {("a.wav", "changed"), ("b.wav", "unusable"), ("", "refused")}


def test_very_long_audio_is_told_with_its_sections(tmp_path: Path) -> None:
    write(tmp_path / "long.flac", np.tile(tone(60.0, 8000), (31, 1)), 8000)
    report = examine(tmp_path, rule=crops_of(10.0), caption_from="name", quiet=True)
    assert report.counts() == {"very_long": 1}
    assert len(report.trained[0].sections) == 8
    assert report.trained[0].sections[-1] == (1820.0, 40.0)


@pytest.mark.parametrize(
    ("rate", "channels", "suffix"),
    [(8000, 1, "wav"), (192000, 2, "flac"), (44100, 6, "wav"), (44100, 2, "ogg"), (44100, 1, "mp3")],
)
def test_any_format(tmp_path: Path, rate: int, channels: int, suffix: str) -> None:
    path = write(tmp_path / "deep" / "er" / f"a.{suffix.upper()}", tone(1.0, rate, channels), rate)
    facts = inspect_audio(path)
    assert (facts.sample_rate, facts.channels, facts.problem) == (rate, channels, None)
    manifest, _ = read_folder(tmp_path, caption_from="none", quiet=True)
    assert manifest.rows[0].path == f"deep/er/a.{suffix.upper()}"
    assert manifest.rows[0].duration == pytest.approx(1.0, abs=0.06)  # mp3 pads


def test_captions_are_kept_as_written(tmp_path: Path) -> None:
    audio = tmp_path / "a_slow-tune.wav"
    assert _caption(audio) is None
    audio.with_suffix(".txt").write_bytes("\ufeffМрачный фагот 🎻\n".encode())
    assert _caption(audio) == "Мрачный фагот 🎻"
    audio.with_suffix(".txt").unlink()
    for key in ("caption", "prompt"):
        audio.with_suffix(".json").write_text(json.dumps({key: "低いファゴット", "bpm": 60}))
        assert _caption(audio) == "低いファゴット"
    audio.with_suffix(".txt").write_text("低いファゴット", encoding="utf-8")
    assert _caption(audio) == "低いファゴット"  # both files, the same words
    assert _caption(audio, "name") == "a slow tune"
    assert _caption(audio, "none") == ""
    assert _caption(audio, "text:low bassoon") == "low bassoon"


@pytest.mark.parametrize(
    ("suffix", "content", "words"),
    [
        (".json", b"{", "not valid JSON"),
        (".json", b'["a"]', "must be an object"),
        (".json", b'{"caption": 3}', "must be an object with one text"),
        (".json", b'{"caption": "a", "prompt": "b"}', "one text under"),
        (".txt", b"\xff\xfe\xfa", "not UTF-8"),
    ],
)
def test_captions_that_cannot_be_understood(tmp_path: Path, suffix: str, content: bytes, words: str) -> None:
    (tmp_path / f"a{suffix}").write_bytes(content)
    with pytest.raises(UserError, match=words):
        _caption(tmp_path / "a.wav")


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a folder"):
        read_folder(tmp_path / "none")
    with pytest.raises(UserError, match="holds no audio"):
        read_folder(tmp_path)
    write(tmp_path / "a.wav", tone())
    with pytest.raises(UserError, match="captions cannot come from 'magic'"):
        read_folder(tmp_path, caption_from="magic")
    with pytest.raises(UserError, match=r"none of the 1 files .*no caption"):
        read_folder(tmp_path, caption_from="files", quiet=True)
    assert not (tmp_path / "manifest.jsonl").exists()


def test_recordings_without_words_beside_others_are_said_first_and_are_not_the_broken_ones(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"{number}.wav", tone(5.0 + number, 22050), 22050)
    (tmp_path / "0.txt").write_text("slow cello")
    (tmp_path / "broken.wav").write_bytes(b"this is no audio")
    report = examine(tmp_path, quiet=True)
    assert report.counts() == {"missing_caption": 2, "unusable": 1}
    (said,) = report.first
    assert said.startswith("2 of 4 recordings will not train: captions come from files, and these have none (1.wav")
    assert said.endswith("add a .txt or .json of its name for each, or train all without words (--caption-from none)")
    told: list[str] = []
    read_folder(tmp_path, save=False, quiet=True, notify=told.append)
    assert told == [f"{said}."]
    told.clear()
    read_folder(tmp_path, caption_from="none", save=False, quiet=True, notify=told.append)
    assert told == []


def test_narrow_bands_and_clips_too_short_to_judge_are_told(tmp_path: Path) -> None:
    import torch

    from eisbach.data.doctor import JUDGED_SECONDS
    from eisbach.weighting.sample import RecurrenceBarrier

    rng = np.random.default_rng(0)
    write(tmp_path / "telephone.wav", 0.1 * rng.standard_normal((8 * 8000, 1)), 8000)
    write(tmp_path / "short.wav", 0.1 * rng.standard_normal((4 * 32000, 2)), 32000)
    write(tmp_path / "fine.wav", 0.1 * rng.standard_normal((5 * 32000, 2)), 32000)
    report = examine(tmp_path, quiet=True)
    assert report.healthy
    assert any(
        note.startswith("1 of 3 training clips sound like a telephone") and "(telephone.wav)" in note
        for note in report.notes
    )
    assert any(
        note.startswith("1 of 3 training clips are shorter than 4.5 s") and "(short.wav)" in note
        for note in report.notes
    )
    barrier = RecurrenceBarrier(latent_rate=20.0)
    latents = torch.randn(1, 8, round(JUDGED_SECONDS * 20.0))
    assert barrier.statistic(latents)[1] == 2  # windows
    assert barrier.statistic(latents[..., :-1])[1] < 2
