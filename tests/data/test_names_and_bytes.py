"""Names in every spelling, links, and bytes that change: manifests and caches notice."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_audio import tone, write

from eisbach import audio
from eisbach.codecs import DEFAULT_CODEC, load_codec
from eisbach.data.audio_folder import read_folder, scan_folder
from eisbach.data.caption_files import clean_caption
from eisbach.data.latents import encode_manifest
from eisbach.data.manifest import load_manifest, save_manifest
from eisbach.errors import ManifestError

NAME = "Käse élan ガ"


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("written", ["NFC", "NFD"])
def test_spellings_of_one_name_meet(tmp_path: Path, on_disk: str, written: str) -> None:
    folder = tmp_path / unicodedata.normalize(on_disk, "Übung")  # type: ignore[arg-type]
    path = write(folder / f"{unicodedata.normalize(on_disk, NAME)}.wav", tone())  # type: ignore[arg-type]
    (folder / f"{unicodedata.normalize(written, NAME)}.txt").write_text("words")  # type: ignore[arg-type]
    manifest, report = read_folder(tmp_path, quiet=True)
    assert [row.caption for row in manifest] == ["words"]
    assert not report.skipped
    file = tmp_path / "manifest.jsonl"
    values = json.loads(file.read_text())
    values["path"] = unicodedata.normalize(written, values["path"])  # type: ignore[arg-type]
    file.write_text(json.dumps(values, ensure_ascii=False) + "\n")
    loaded = load_manifest(tmp_path)
    assert loaded.audio_path(loaded.rows[0]) == path


def test_a_link_out_of_the_folder_is_refused_like_a_path(tmp_path: Path) -> None:
    write(tmp_path / "set" / "a.wav", tone())
    write(tmp_path / "out" / "b.wav", tone(frequency=300))
    read_folder(tmp_path / "set", caption_from="none", quiet=True)
    (tmp_path / "set" / "a.wav").rename(tmp_path / "set" / "real.wav")
    (tmp_path / "set" / "a.wav").symlink_to("real.wav")
    assert len(load_manifest(tmp_path / "set")) == 1  # a link within the folder is a file of it
    for target in ("../out/b.wav", str(tmp_path / "out" / "b.wav")):
        (tmp_path / "set" / "a.wav").unlink()
        (tmp_path / "set" / "a.wav").symlink_to(target)
        for check in (True, False):
            with pytest.raises(ManifestError, match="link that leaves"):
                load_manifest(tmp_path / "set", check_files=check)
    linked = tmp_path / "other"
    write(linked / "sub.wav", tone())
    manifest, _ = read_folder(linked, caption_from="none", save=False, quiet=True)
    (linked / "deep").symlink_to(tmp_path / "out")
    save_manifest(manifest.with_rows([type(manifest.rows[0])("x", "deep/b.wav", "", 1.0, {}, "0" * 64, "train")]))
    with pytest.raises(ManifestError, match="link that leaves"):
        load_manifest(linked)


@pytest.mark.parametrize("key", ["id", "caption", "path"])
@pytest.mark.parametrize("text", [r"half \ud800", r"nul \u0000 nul"])
def test_what_no_text_may_hold_is_one_sentence(tmp_path: Path, key: str, text: str) -> None:
    write(tmp_path / "a.wav", tone())
    read_folder(tmp_path, caption_from="none", quiet=True)
    values = json.loads((tmp_path / "manifest.jsonl").read_text())
    line = json.dumps({**values, key: "MARK"}).replace("MARK", text)
    (tmp_path / "manifest.jsonl").write_text(line + "\n")
    with pytest.raises(ManifestError, match="line 1") as refused:
        load_manifest(tmp_path)
    str(refused.value).encode()
    assert "\n" not in str(refused.value)


def test_captions_are_cleaned_of_what_cannot_be_seen(tmp_path: Path) -> None:
    assert clean_caption("slow\u200b cello\x1b[31m\u202e") == "slow cello [31m"
    assert clean_caption("نمی\u200cخواهم") == "نمی\u200cخواهم"
    write(tmp_path / "a.wav", tone()).with_suffix(".txt").write_bytes("a\u200bb".encode())
    write(tmp_path / "b.wav", tone(frequency=300)).with_suffix(".txt").write_bytes(b"a\0b\0c\0")
    scan = scan_folder(tmp_path, quiet=True)
    assert [sample.caption for sample in scan.samples] == ["ab", None]
    assert "NUL" in str(scan.samples[1].refused)


def test_an_edited_file_is_found_whatever_its_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.wav", tone(1.0))
    manifest, _ = read_folder(tmp_path, caption_from="none", quiet=True)
    read: list[Path] = []
    digest = audio.audio_hash

    def counted(file: Path) -> str:
        read.append(file)
        return digest(file)

    monkeypatch.setattr(audio, "audio_hash", counted)
    monkeypatch.setattr("eisbach.audio._RACY_NS", -(10**18))

    def encode() -> None:
        encode_manifest(manifest, load_codec(), tmp_path / "cache", crop_seconds=1, quiet=True)

    encode()
    encode()
    assert len(read) == 1  # size and times settle it
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
    encode()
    assert len(read) == 2  # touched: the content settles it
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(ManifestError, match="has changed"):
        encode()


@pytest.mark.whole
def test_latents_are_the_same_bytes_for_any_number_of_jobs_and_threads(tmp_path: Path) -> None:
    for number, seconds in enumerate((3.0, 1.7, 5.1)):
        noise = 0.1 * np.random.default_rng(number).standard_normal((round(seconds * 22050), 1))
        write(tmp_path / f"{number}.wav", noise, 22050)
    manifest, _ = read_folder(tmp_path, caption_from="none", quiet=True)
    made: list[list[torch.Tensor]] = []
    before = torch.get_num_threads()
    try:
        ways = [(1, 1, None), (2, 1, None), (4, 2, None), (2, 2, DEFAULT_CODEC)]
        for number, (threads, jobs, source) in enumerate(ways):
            torch.set_num_threads(threads)
            cache = encode_manifest(
                manifest,
                load_codec(),
                tmp_path / f"cache{number}",
                crop_seconds=30,
                jobs=jobs,
                source=source,
                quiet=True,
            )
            assert torch.get_num_threads() == threads
            made.append([load_file(entry.path)["section-0"] for entry in cache.entries])
    finally:
        torch.set_num_threads(before)
    for other in made[1:]:
        assert all(torch.equal(a, b) for a, b in zip(made[0], other, strict=True))
