import numpy as np
import pytest

from eisbach.audio import write_audio
from eisbach.data.manifest import Manifest, ManifestRow, save_manifest
from eisbach.errors import UserError
from eisbach.experiments.folders import choose_pairing, condition_notes, measure_arms, pairing_sentence, parse_arms
from eisbach.types import Waveform

RATE = 8_000


def tone(path, hz=220.0, seconds=2.0):
    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(int(RATE * seconds)) / RATE
    write_audio(path, Waveform((0.2 * np.sin(2 * np.pi * hz * t))[None].astype(np.float32), RATE))
    return path


def folder(root, name, stems):
    for index, stem in enumerate(stems):
        tone(root / name / f"{stem}.wav", 200.0 + 10 * index + 100 * len(name))
    return root / name


def manifest(root, name, rows):
    folder = root / name
    saved = []
    for number, labels in enumerate(rows):
        tone(folder / f"{number}.wav", 300.0 + 20 * number)
        saved.append(
            ManifestRow(f"c{number}", f"{number}.wav", f"words {labels.get('prompt_id', '')}", 2.0, labels, "0" * 64)
        )
    save_manifest(Manifest(saved, folder))
    return folder


def test_folders_are_matched_by_name_and_may_be_renamed(tmp_path):
    a, b = folder(tmp_path, "a", ["x", "y", "z"]), folder(tmp_path, "b", ["x", "y"])
    sources = parse_arms([str(a), f"barrier={b}"])
    assert [(one.name, len(one.clips)) for one in sources] == [("a", 3), ("barrier", 2)]
    assert choose_pairing(sources, "a") == ("name", [])
    assert choose_pairing(sources, "a", "none") == ("none", ["barrier"])


def test_names_count_below_the_folder_and_endings_do_not(tmp_path):
    tone(tmp_path / "a/deep/x.wav")
    tone(tmp_path / "a/x.flac")
    tone(tmp_path / "a/x.wav", 330.0)
    names = {clip.name for clip in parse_arms([str(tmp_path / "a"), f"b={folder(tmp_path, 'b', ['x'])}"])[0].clips}
    assert names == {"deep/x", "x.flac", "x.wav"}


def test_a_stray_common_name_is_chance_and_one_lonely_arm_does_not_unpair_the_rest(tmp_path):
    a = folder(tmp_path, "a", ["one", "two", "three", "four"])
    b = folder(tmp_path, "b", ["one", "two", "three", "four"])
    c = folder(tmp_path, "c", ["one", "p", "q", "r"])
    sources = parse_arms([str(a), str(b), str(c)])
    assert choose_pairing(sources, "a") == ("name", ["c"])
    assert choose_pairing(sources, "a", "name") == ("name", [])
    assert choose_pairing([sources[0], sources[2]], "a") == ("none", ["c"])
    assert "Not so c" in pairing_sentence("name", ["c"])


def test_manifests_are_matched_by_prompt_and_seed_whatever_the_file_names(tmp_path):
    labels = [{"prompt_id": p, "seed": s} for p in ("cat", "seal") for s in ("1", "2")]
    a = manifest(tmp_path, "a", labels)
    b = manifest(tmp_path, "b", [entry | {"train_seed": "3"} for entry in reversed(labels)])
    sources = parse_arms([str(a), str(b / "manifest.jsonl")])
    assert choose_pairing(sources, "a") == ("prompt", [])
    measured = measure_arms(sources, "prompt", quiet=True)
    assert [(r["arm"], r["prompt_id"], r["seed"], r["train_seed"]) for r in measured.records][3:5] == [
        ("a", "seal", 2, None), ("b", "seal", 2, 3)
    ]  # fmt: skip
    assert measured.prompts == {"cat": "words cat", "seal": "words seal"}


def test_one_manifest_of_several_arms_is_several_arms(tmp_path):
    rows = [{"arm": arm, "prompt_id": "p", "seed": "0"} for arm in ("plain", "barrier")]
    path = manifest(tmp_path, "all", rows)
    assert [one.name for one in parse_arms([str(path)])] == ["plain", "barrier"]
    assert [one.name for one in parse_arms([f"run={path}"])] == ["run/plain", "run/barrier"]


def test_broken_files_are_reported_and_an_arm_of_only_broken_files_is_refused(tmp_path):
    a, b = folder(tmp_path, "a", ["x", "y"]), folder(tmp_path, "b", ["x", "y"])
    (b / "bad.wav").write_bytes(b"RIFF nothing")
    (b / "empty.flac").write_bytes(b"")
    measured = measure_arms(parse_arms([str(a), str(b)]), "name", out=tmp_path / "out", quiet=True)
    assert len(measured.records) == 4
    assert sorted(item.item.rsplit("/", 1)[1] for item in measured.skips.skipped) == ["bad.wav", "empty.flac"]
    assert (tmp_path / "out/records.parquet").is_file()
    (tmp_path / "c").mkdir()
    (tmp_path / "c/bad.wav").write_bytes(b"no")
    with pytest.raises(UserError, match="none of the 1 files of the arm 'c' can be read"):
        measure_arms(parse_arms([str(a), str(tmp_path / "c")]), "none", quiet=True)


def test_mistakes_get_one_sentence(tmp_path):
    a, b = folder(tmp_path, "a", ["x"]), folder(tmp_path, "b", ["y"])
    (tmp_path / "empty").mkdir()
    for arguments, said in [
        ([str(a)], "at least two arms"),
        ([str(a), str(tmp_path / "none")], "does not exist"),
        ([str(a), str(tmp_path / "empty")], "holds no audio"),
        ([str(a), f"again={a}"], "very same files"),
        ([str(a), f"a={b}"], "two arms are called 'a'"),
        ([str(a), f"={b}"], "must look like"),
        ([str(a), str(a / "x.wav")], "single file"),
    ]:
        with pytest.raises(UserError, match=said):
            parse_arms(arguments)
    sources = parse_arms([str(a), str(b)])
    for wanted, said in [
        ("prompt", "labels prompt_id and seed"),
        ("name", "shares any file names"),
        ("x", "no pairing 'x'"),
    ]:
        with pytest.raises(UserError, match=said):
            choose_pairing(sources, "a", wanted)


def test_unequal_lengths_bandwidths_and_silence_are_pointed_out():
    rows = [
        {"arm": "a", "duration": 30.0, "bandwidth_hz": 3_900.0, "flags": "narrow_band"},
        {"arm": "b", "duration": 60.0, "bandwidth_hz": 16_000.0, "flags": "silent;clipped"},
    ]
    notes = " ".join(condition_notes(rows))
    for said in ("from 30.0 to 60.0 s", "a 3.9 kHz, b 16.0 kHz", "1 clip is silent", "1 clip is clipped"):
        assert said in notes
    assert condition_notes(rows[:1]) == []
