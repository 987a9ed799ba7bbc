from __future__ import annotations

import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from safetensors.torch import load_file
from small_audio import tone, write

from eisbach.audio import audio_hash, resample, to_mono
from eisbach.codecs import load_codec
from eisbach.data.audio_folder import read_folder
from eisbach.data.batches import LatentDataset
from eisbach.data.latents import MAX_SECTIONS, LatentCache, encode_manifest, sections_of
from eisbach.data.manifest import Manifest, ManifestRow
from eisbach.errors import ManifestError, UserError
from eisbach.types import Waveform


class LevelCodec:
    """Mean and standard deviation of each 0.1 s."""

    name, sample_rate, channels, samples_per_frame, latent_rate = "level", 8000, 2, 800, 10.0
    audio_channels, model = 1, None

    def __init__(self) -> None:
        self.calls = 0

    def identity(self) -> str:
        return "level-1"

    def frames_for(self, seconds: float) -> int:
        return max(1, round(seconds * self.latent_rate))

    def encode(self, waveform: Waveform) -> torch.Tensor:
        self.calls += 1
        samples = to_mono(resample(waveform, self.sample_rate)).samples[0]
        count = max(1, len(samples) // self.samples_per_frame)
        frames = np.resize(samples, (count, self.samples_per_frame))
        return torch.from_numpy(np.stack([frames.mean(1), frames.std(1)])).float()

    def decode(self, latents: torch.Tensor) -> list[Waveform]:
        raise NotImplementedError


def folder_of(root: Path, seconds: list[float]) -> Manifest:
    for number, length in enumerate(seconds):
        write(root / f"{number}.wav", tone(length, frequency=200.0 + 50 * number))
    return read_folder(root, caption_from="name", quiet=True)[0]


def encoded(root: Path, seconds: list[float], crop: float = 1.0) -> LatentCache:
    return encode_manifest(folder_of(root, seconds), LevelCodec(), root / "cache", crop_seconds=crop, quiet=True)


def test_only_what_is_missing_is_encoded(tmp_path: Path) -> None:
    manifest, codec = folder_of(tmp_path, [2.0, 2.0, 2.5]), LevelCodec()
    first = encode_manifest(
        Manifest(manifest.rows[:2], tmp_path), codec, tmp_path / "cache", crop_seconds=1, quiet=True
    )
    assert codec.calls == 2
    cache = encode_manifest(manifest, codec, tmp_path / "cache", crop_seconds=1, quiet=True, jobs=2)
    assert codec.calls == 3
    assert cache.entries[:2] == first.entries
    assert [entry.frames for entry in cache.entries] == [(20,), (20,), (25,)]
    damaged = cache.entries[1].path
    whole = load_file(str(damaged))["section-0"].clone()  # what is loaded is a view of the file
    damaged.write_bytes(damaged.read_bytes()[:-40])
    encode_manifest(manifest, codec, tmp_path / "cache", crop_seconds=1, quiet=True)
    assert codec.calls == 4
    assert torch.equal(load_file(str(damaged))["section-0"], whole)
    whole = encode_manifest(manifest, codec, tmp_path / "cache", crop_seconds=2, quiet=True)
    assert codec.calls == 4  # clips that are encoded whole are the same for every crop
    assert [(entry.path, entry.frames) for entry in whole.entries] == [(e.path, e.frames) for e in cache.entries]
    short = encode_manifest(manifest, codec, tmp_path / "cache", crop_seconds=0.4, quiet=True)
    assert codec.calls == 4 + sum(len(entry.frames) for entry in short.entries) == 10  # sections are of the crop
    codec.identity = lambda: "level-2"  # type: ignore[method-assign]
    encode_manifest(manifest, codec, tmp_path / "cache", crop_seconds=2, quiet=True)
    assert codec.calls == 13


def test_a_batch_depends_on_seed_and_step_only(tmp_path: Path) -> None:
    cache = encoded(tmp_path, [2.0, 2.2, 2.4, 2.6, 2.8])
    one, two = LatentDataset(cache, 10, seed=1), LatentDataset(cache, 10, seed=1)
    for step in range(9):
        one.batch(step, 2)  # history
    for step in (8, 3):
        a, b = one.batch(step, 2), two.batch(step, 2)
        assert a.ids == b.ids
        assert torch.equal(a.latents, b.latents)
        assert a.mask is None
        assert a.durations.tolist() == [1.0, 1.0]
    other = LatentDataset(cache, 10, seed=2)
    assert any(one.batch(step, 2).ids != other.batch(step, 2).ids for step in range(10))


def test_every_epoch_holds_every_clip_once_in_a_new_order(tmp_path: Path) -> None:
    data = LatentDataset(encoded(tmp_path, [2.0] * 3 + [2.5] * 4), 10, seed=0)
    orders = [[data.index_at(epoch * 7 + place) for place in range(7)] for epoch in range(6)]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert len({tuple(order) for order in orders}) > 3
    drawn = [clip for step in range(7) for clip in data.batch(step, 2).ids]
    assert all(drawn[:7].count(f"{n}.wav") == 1 for n in range(7))


def test_processes_share_a_batch_without_overlap(tmp_path: Path) -> None:
    cache = encoded(tmp_path, [2.0, 2.1, 2.2, 2.3, 2.4, 2.5])
    whole = LatentDataset(cache, 10, seed=5)
    parts = [LatentDataset(cache, 10, seed=5, rank=rank, world_size=3) for rank in range(3)]
    for step in range(4):
        joined = [part.batch(step, 2) for part in parts]
        together = whole.batch(step, 6)
        assert [clip for batch in joined for clip in batch.ids] == together.ids
        assert torch.equal(torch.cat([batch.latents for batch in joined]), together.latents)
    with pytest.raises(UserError, match="rank must be within"):
        LatentDataset(cache, 10, seed=5, rank=3, world_size=3)


def test_crops_are_stretches_of_the_clip_and_begin_everywhere(tmp_path: Path) -> None:
    cache = encoded(tmp_path, [3.0])
    data = LatentDataset(cache, 10, seed=0)
    whole = load_file(str(cache.entries[0].path))["section-0"]
    starts = set()
    for step in range(200):
        clip, section, start = data.crop_at(step)
        assert (clip, section) == (0, 0)
        assert torch.equal(data.batch(step, 1).latents[0], whole[:, start : start + 10])
        starts.add(start)
    assert starts == set(range(21))


def test_short_clips_are_padded_and_masked(tmp_path: Path) -> None:
    data = LatentDataset(encoded(tmp_path, [0.5, 3.0]), 10, seed=0)
    batch = data.batch(0, 2)
    short = batch.ids.index("0.wav")
    assert batch.mask is not None
    assert batch.mask[short].tolist() == [True] * 5 + [False] * 5
    assert batch.mask[1 - short].all()
    assert not batch.latents[short, :, 5:].any()
    assert batch.durations[short].item() == pytest.approx(0.5)


def test_three_clips_fill_a_batch_of_four_and_say_so(tmp_path: Path) -> None:
    data = LatentDataset(encoded(tmp_path, [2.0, 2.1, 2.2]), 10, seed=0)
    with pytest.warns(UserWarning, match="3 clips fill batches of 4"):
        batch = data.batch(0, 4)
    assert len(set(batch.ids)) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.batch(1, 4)  # said once


def test_long_audio_is_read_in_sections_with_bounded_memory(tmp_path: Path) -> None:
    path, rate = tmp_path / "hour.wav", 8000
    block = (3000 * np.sin(np.arange(rate * 60) / 20)).astype(np.int16)
    with sf.SoundFile(str(path), "w", rate, 1) as handle:
        for _ in range(60):
            handle.write(block)
    manifest = Manifest([ManifestRow("hour", "hour.wav", "an hour", 3600.0, {}, audio_hash(path))], tmp_path)
    tracemalloc.start()
    cache = encode_manifest(manifest, LevelCodec(), tmp_path / "cache", crop_seconds=10.0, quiet=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6  # an hour in memory would be 115 MB
    assert cache.entries[0].frames == (400,) * MAX_SECTIONS
    assert "only 8 sections (320 of 3600 s)" in cache.report.skipped[0].reason
    data = LatentDataset(cache, 100, seed=0)
    assert {data.crop_at(position)[1] for position in range(100)} == set(range(MAX_SECTIONS))


def test_sections_cover_short_clips_and_spread_over_long_ones() -> None:
    assert sections_of(100.0, 30.0) == [(0.0, 100.0)]
    spread = sections_of(3600.0, 30.0)
    assert len(spread) == MAX_SECTIONS
    assert spread[0] == (0.0, 120.0)
    assert spread[-1] == (3480.0, 120.0)
    assert len(sections_of(250.0, 30.0)) == 3


def test_unusable_clips_are_reported_and_changed_ones_refused(tmp_path: Path) -> None:
    manifest = folder_of(tmp_path, [2.0, 2.0])
    silent = write(tmp_path / "silent.wav", np.zeros((16000, 1)))
    rows = [*manifest.rows, ManifestRow("silent", "silent.wav", "x", 1.0, {}, audio_hash(silent))]
    cache = encode_manifest(Manifest(rows, tmp_path), LevelCodec(), tmp_path / "cache", crop_seconds=1, quiet=True)
    assert len(cache.entries) == 2
    assert [item.item for item in cache.report.skipped] == ["silent"]
    with pytest.raises(UserError, match=r"none of the 1 clips .*silent"):
        encode_manifest(Manifest(rows[2:], tmp_path), LevelCodec(), tmp_path / "c2", crop_seconds=1, quiet=True)
    write(tmp_path / "1.wav", tone(1.0))
    with pytest.raises(ManifestError, match=r"1\.wav has changed since"):
        encode_manifest(manifest, LevelCodec(), tmp_path / "c3", crop_seconds=1, quiet=True)
    with pytest.raises(UserError, match="crop_seconds must be positive"):
        encode_manifest(manifest, LevelCodec(), tmp_path / "c4", crop_seconds=0, quiet=True)


def test_a_codec_that_gives_nan_is_told(tmp_path: Path) -> None:
    class Broken(LevelCodec):
        def encode(self, waveform: Waveform) -> torch.Tensor:
            return super().encode(waveform) * float("nan")

    with pytest.raises(UserError, match="non-finite latents"):
        encode_manifest(folder_of(tmp_path, [2.0]), Broken(), tmp_path / "cache", crop_seconds=1, quiet=True)


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (192000, 2), (44100, 6)])
def test_any_rate_and_channels(tmp_path: Path, rate: int, channels: int) -> None:
    write(tmp_path / "a.wav", tone(1.5, rate, channels), rate)
    manifest, _ = read_folder(tmp_path, caption_from="name", quiet=True)
    cache = encode_manifest(manifest, LevelCodec(), tmp_path / "cache", crop_seconds=1, quiet=True)
    assert cache.entries[0].frames == (15,)
    stereo = encode_manifest(manifest, load_codec(), tmp_path / "cache", crop_seconds=1, quiet=True)
    assert stereo.entries[0].frames == (4,)  # six channels are mixed, as by a codec of one
