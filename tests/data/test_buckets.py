from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from eisbach.data.batches import BucketedDataset, Fit, LatentDataset, choose_lengths
from eisbach.data.latents import LatentCache, LatentEntry
from eisbach.data.manifest import ManifestRow
from eisbach.errors import UserError
from eisbach.types import SkipReport


def cache_of(root: Path, lengths: list[list[int]]) -> LatentCache:
    """Clips whose latents hold, in every channel, clip number + frame / 1000: a crop tells where it came from."""
    entries = []
    for number, sections in enumerate(lengths):
        path = root / f"{number}.safetensors"
        arrays = {
            f"section-{place}": np.tile(number + np.arange(frames, dtype=np.float32) / 1000, (2, 1)) + 100 * place
            for place, frames in enumerate(sections)
        }
        save_file(arrays, str(path))
        row = ManifestRow(f"clip{number}", f"{number}.wav", f"caption {number}", 1.0)
        entries.append(LatentEntry(row, path, tuple(sections)))
    return LatentCache(tuple(entries), 2, 10.0, SkipReport())


def brute_force(frames: list[int], count: int, fit: Fit) -> int:
    """The least cost over every division of the sorted clips into at most `count` runs."""
    ordered, best = sorted(frames), None
    for number in range(1, min(count, len(ordered)) + 1):
        for cuts in itertools.combinations(range(1, len(ordered)), number - 1):
            runs = [ordered[a:b] for a, b in itertools.pairwise((0, *cuts, len(ordered)))]
            cost = sum(sum(abs(v - (run[0] if fit == "cut" else run[-1])) for v in run) for run in runs)
            best = cost if best is None else min(best, cost)
    assert best is not None
    return best


def cost_of(frames: list[int], lengths: tuple[int, ...], fit: Fit) -> int:
    if fit == "cut":
        return sum(value - max(length for length in lengths if length <= value) for value in frames)
    return sum(min(length for length in lengths if length >= value) - value for value in frames)


@pytest.mark.parametrize("fit", ["cut", "pad"])
def test_the_lengths_are_the_best_there_are(fit: Fit) -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 3, 5):
        for _ in range(6):
            frames = rng.integers(1, 60, size=9).tolist()
            lengths = choose_lengths(frames, count, fit=fit)
            assert len(lengths) <= count
            assert list(lengths) == sorted(set(lengths))
            assert cost_of(frames, lengths, fit) == brute_force(frames, count, fit)


def test_many_different_lengths_cost_little() -> None:
    frames = np.random.default_rng(0).integers(100, 4000, size=20000).tolist()
    for fit in ("cut", "pad"):
        lengths = choose_lengths(frames, 16, fit=fit)
        assert len(lengths) == 16
        # 16 equal parts of an even spread cost 1/32 of the range for each clip
        assert cost_of(frames, lengths, fit) / len(frames) < 3900 / 32 * 1.05
    with pytest.raises(UserError, match="at least one clip and one length"):
        choose_lengths([], 4)
    with pytest.raises(UserError, match="at least one clip and one length"):
        choose_lengths([3], 0)


MIXED = [[20], [21], [22], [20], [50], [52], [51], [90], [91], [88], [90], [30]]


def test_a_batch_has_one_length_no_padding_and_true_crops(tmp_path: Path) -> None:
    data = BucketedDataset(cache_of(tmp_path, MIXED), 80, seed=3, count=4)
    assert data.lengths.tolist() == [20, 30, 50, 80]  # 80: no clip takes more than the crop
    seen = set()
    for step in range(30):
        batch = data.batch(step, 3)
        frames = batch.latents.shape[2]
        assert batch.mask is None
        assert frames in data.lengths
        assert torch.allclose(batch.durations, torch.full((3,), frames / 10.0))
        seen.add(frames)
        for row, name in enumerate(batch.ids):
            clip = int(name.removeprefix("clip"))
            first = batch.latents[row, 0, 0].item() - clip
            expected = clip + first + torch.arange(frames) / 1000
            assert torch.allclose(batch.latents[row], expected.expand(2, -1), atol=1e-4)
            assert round(first * 1000) + frames <= MIXED[clip][0]
    assert seen == {20, 50, 80}  # the one clip of 30 frames shares a batch with its shorter or its longer neighbours


def test_a_batch_depends_on_seed_step_and_size_only(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, MIXED)
    one, two = BucketedDataset(cache, 80, seed=1), BucketedDataset(cache, 80, seed=1)
    for step in range(11):
        one.batch(step, 3)
        one.batch(step, 2)
    for step in (10, 0, 7):
        a, b = one.batch(step, 3), two.batch(step, 3)
        assert a.ids == b.ids
        assert torch.equal(a.latents, b.latents)
    other = BucketedDataset(cache, 80, seed=2)
    assert any(one.batch(step, 3).ids != other.batch(step, 3).ids for step in range(4))
    clip, _, first = one.crop_at(5)
    assert one.batch(5, 1).ids == [f"clip{clip}"]
    assert one.batch(5, 1).latents[0, 0, 0].item() == pytest.approx(clip + first / 1000, abs=1e-4)
    assert one.index_at(5) == clip


def test_every_clip_comes_once_an_epoch_and_all_sit_out_equally_often(tmp_path: Path) -> None:
    data = BucketedDataset(cache_of(tmp_path, MIXED), 80, seed=0, count=3)
    drawn = [name for step in range(4) for name in data.batch(step, 3).ids]
    assert sorted(drawn) == sorted(f"clip{number}" for number in range(12))
    counts = dict.fromkeys(range(12), 0)
    epochs = 400
    for epoch in range(epochs):
        clips, _ = data.plan(epoch, 5)
        assert len(set(clips.ravel().tolist())) == 10
        for clip in clips.ravel().tolist():
            counts[clip] += 1
    # binomial with p = 10/12: sd 7.5 clips; five of them either way
    assert all(abs(count - epochs * 10 / 12) < 38 for count in counts.values())


def test_padding_keeps_whole_clips_and_masks_the_rest(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, [[18], [20], [19], [47], [50], [49]])
    silence = torch.full((2, 1), -7.0)
    object.__setattr__(cache, "silence", silence)
    data = BucketedDataset(cache, 100, seed=0, count=2, fit="pad")
    assert data.lengths.tolist() == [20, 50]
    for step in range(4):
        batch = data.batch(step, 3)
        frames = batch.latents.shape[2]
        assert batch.mask is not None
        for row, name in enumerate(batch.ids):
            whole = cache.entries[int(name.removeprefix("clip"))].frames[0]
            assert batch.mask[row].tolist() == [place < whole for place in range(frames)]
            assert (batch.latents[row][:, whole:] == -7.0).all()
            assert batch.durations[row].item() == pytest.approx(whole / 10)
    report = data.report(3)
    assert report.padding_share == pytest.approx((2 + 1 + 3 + 1) / (60 + 150))
    assert report.cut_share == 0.0
    assert data.padding_share() == pytest.approx(report.padding_share)


def test_the_report_is_what_the_batches_show(tmp_path: Path) -> None:
    data = BucketedDataset(cache_of(tmp_path, MIXED), 80, seed=3, count=3)
    kept = sum(data.batch(step, 4).latents.shape[2] * 4 for step in range(9))  # three epochs
    whole = 3 * sum(min(80, sections[0]) for sections in MIXED)
    report = data.report(4)
    assert report.padding_share == 0.0
    assert report.cut_share == pytest.approx(1 - kept / whole)
    assert report.cut_share < 0.2  # 12 clips in batches of 4: one batch of three spans two lengths
    assert sum(report.clips) == 12
    assert report.sentence().startswith("clips by length: ")
    plain = LatentDataset(data.cache, 80, seed=3)
    assert plain.padding_share() == pytest.approx(1 - whole / 3 / (12 * 80))


def test_long_clips_with_several_sections_use_those_that_are_long_enough(tmp_path: Path) -> None:
    data = BucketedDataset(cache_of(tmp_path, [[40, 8, 40], [40]]), 40, seed=0, count=1)
    sections = {data.crops(step, 1)[0][0][:2] for step in range(40)}
    assert sections == {(0, 0), (0, 2), (1, 0)}


def test_bad_options(tmp_path: Path) -> None:
    cache = cache_of(tmp_path, [[20], [30]])
    with pytest.raises(UserError, match="choose cut or pad"):
        BucketedDataset(cache, 40, seed=0, fit="stretch")  # type: ignore[arg-type]
    data = BucketedDataset(cache, 40, seed=0)
    with pytest.warns(UserWarning, match="2 clips fill batches of 3"):
        batch = data.batch(0, 3)
    assert set(batch.ids) == {"clip0", "clip1"}
    assert batch.latents.shape[2] == 20
    with pytest.raises(UserError, match="batch_size at least 1"):
        data.batch(0, 0)
