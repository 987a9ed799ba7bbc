"""Whole comparisons of sets, intervals and p values, and reading clips from files."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import soundfile as sf

from eisbach.errors import UserError
from eisbach.structure import analyze
from eisbach.structure.features import extract_features
from eisbach.structure.sets import SET_METRICS, clip_of_detail, compare_sets, describe_clip, read_clips
from eisbach.structure.sets.intervals import jackknife, relabelling_p_value
from eisbach.studies.ground_truth import sets as ladders
from eisbach.studies.ground_truth import synthetic
from eisbach.types import SkipReport

SEED_METRICS = {name for name, metric in SET_METRICS.items() if metric.needs == "prompts x seeds"}


@pytest.fixture(scope="module")
def takes():
    """Six prompts with two takes each."""
    return [
        describe_clip(
            ladders.render(ladders.substitute(ladders.random_notes(p, 9.0), 0.3, 10 * s + p), p),
            f"p{p}s{s}",
            f"prompt {p}",
        )
        for p in range(6)
        for s in range(2)
    ]


def _moved(clips, db, seed):
    rng = np.random.default_rng(seed)
    return [replace(clip, texture=clip.texture + db + rng.normal(0, 1, 64), name=f"b{clip.name}") for clip in clips]


def _rows(found, **wanted):
    return [row for row in found.rows if all(getattr(row, key) == value for key, value in wanted.items())]


@pytest.mark.whole
def test_every_metric_of_two_sets_is_a_row_inside_its_range(takes):
    rng = np.random.default_rng(0)
    other = _moved(takes, 4.0, 1)
    unseen = [describe_clip(ladders.render(ladders.random_notes(50 + i, 9.0), i), "x") for i in range(5)]
    fresh = [
        replace(unseen[i % 5], texture=unseen[i % 5].texture + rng.normal(0, 2, 64), name=f"h{i}") for i in range(20)
    ]
    training = [replace(clip, texture=clip.texture + 20.0, name=f"t{clip.name}") for clip in takes]
    found = compare_sets(
        takes, other, names=("plain", "barrier"), training=training, held_out=fresh, transpositions=False, k=3,
        embeddings={"clap": (rng.normal(size=(12, 4)), rng.normal(size=(12, 4)) + 3.0)}, n_permutations=39,
    )  # fmt: skip
    # `takes` carry no notes: what compares them is held in test_notes.py
    assert {row.metric for row in found.rows} == set(SET_METRICS) - {"note_diversity"}
    for row in found.rows:
        low, high = SET_METRICS[row.metric].range
        if not math.isnan(row.value):
            assert low <= row.value <= high, row
            if not math.isnan(row.low):
                assert low <= row.low <= row.value <= row.high <= high, row
    for embedding in ("texture", "clap"):
        for metric in ("frechet", "kernel_gaussian"):
            (row,) = _rows(found, metric=metric, embedding=embedding)
            assert row.p_value == 2 / 64  # the least that six shared prompts allow
            assert row.value > row.reference
            assert row.sets == "plain vs barrier"
    assert {row.unit_of_interval for row in _rows(found, metric="frechet")} == {"prompt"}
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["sets"] == ["plain", "barrier"]
    assert len(plain["memorisation"]["plain"]) == 12
    # the training excerpts are the clips' own: every one is found in full at its own place, however far its texture was
    # moved
    copy = plain["memorisation"]["plain"][3]
    assert copy["copied_share"] == pytest.approx(1.0)
    assert copy["excerpts"][0]["training"] == f"t{copy['clip']}"
    assert copy["excerpts"][0]["start"] == copy["excerpts"][0]["training_start"]


def test_no_difference_is_not_found_and_a_set_equals_itself(takes):
    same = compare_sets(takes, [replace(clip, name=f"b{clip.name}") for clip in takes], k=3, n_permutations=39)
    values = {row.metric: row.value for row in _rows(same, sets="A vs B")}
    assert values["frechet"] == pytest.approx(0.0, abs=1e-6)
    assert values["precision"] == values["recall"] == values["coverage"] == 1.0
    shuffled = compare_sets(takes[::2], takes[1::2], n_permutations=99, k=3)
    assert _rows(shuffled, metric="kernel_gaussian")[0].p_value > 0.05
    assert any("has two takes" in note for note in shuffled.notes)
    assert not {row.metric for row in shuffled.rows} & SEED_METRICS


def test_unequal_sets_and_small_ones_are_said(takes):
    found = compare_sets(takes, _moved(takes[:4], 0.0, 2), n_permutations=0)
    assert any("hold 12 and 4 clips" in note for note in found.notes)
    assert any("k = 5 neighbours cannot be found among 4" in note for note in found.notes)
    assert not _rows(found, metric="coverage")
    assert _rows(found, metric="frechet")[0].p_value is None


def test_sets_of_unequal_length_and_identical_clips(takes):
    longer = [replace(clip, duration=30.0) for clip in takes]
    assert any("differ in length" in note for note in compare_sets(takes, longer, n_permutations=0, k=3).notes)
    mixed = [replace(clip, duration=clip.duration * (1 + i % 2)) for i, clip in enumerate(takes)]
    assert any("last from" in note for note in compare_sets(mixed).notes)
    still = [replace(clip, texture=np.zeros(64)) for clip in takes]
    found = compare_sets(still, still, names=("x", "y"), n_permutations=9, k=3)
    assert _rows(found, metric="frechet")[0].value == 0.0
    assert _rows(found, metric="distance_icc", sets="x")[0].note == "all clips are identical"
    assert any("identical" in note for note in found.notes)
    assert not _rows(found, metric="kernel_gaussian")


def test_one_set_alone_without_prompts(takes):
    alone = compare_sets([replace(clip, prompt=None) for clip in takes])
    assert {row.metric for row in alone.rows} == {"differentiation", "vendi"}
    assert {row.unit_of_interval for row in alone.rows} == {"clip"}
    assert alone.sizes == (12,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: compare_sets([], t), "the set A holds no clip"),
        (lambda t: compare_sets(t, t[:1]), "the set B holds one clip"),
        (lambda t: compare_sets(t, t, names=("x", "x")), "both sets are called 'x'"),
        (lambda t: compare_sets(t, t, training=t), "held-out ones are missing"),
        (lambda t: compare_sets(t, t, training=[], held_out=t), "training set holds no clip"),
        (lambda t: compare_sets(t, t, embeddings={"clap": (np.ones((3, 2)), np.ones((12, 2)))}), "3 rows for 12 clips"),
        (lambda t: compare_sets(t, t, embeddings={"clap": (np.full((12, 2), np.nan), np.ones((12, 2)))}), "not finite"),
        (lambda t: compare_sets(t, level=1.0), "between 0 and 1"),
    ],
)
def test_comparisons_that_cannot_be_made_are_said(takes, call, message):
    with pytest.raises(UserError, match=message):
        call(takes)


def test_the_jackknife_of_a_mean_is_the_t_interval():
    from scipy import stats

    x = np.random.default_rng(3).normal(size=15)
    found = jackknife(lambda keep: float(x[keep].mean()), range(15))
    expected = stats.t.interval(0.95, 14, x.mean(), stats.sem(x))
    assert (found.low, found.high) == pytest.approx(expected)
    two = jackknife(
        lambda keep: float(x[:9][keep[:9]].mean() - x[9:][keep[9:]].mean()), range(15), strata=[0] * 9 + [1] * 6
    )
    error = math.hypot(stats.sem(x[:9]), stats.sem(x[9:]))
    assert two.high - two.value == pytest.approx(stats.t.ppf(0.975, 13) * error)
    # takes of one prompt are one unit: repeating every clip adds no information
    doubled = np.repeat(x, 2)
    again = jackknife(lambda keep: float(doubled[keep].mean()), np.repeat(np.arange(15), 2).tolist())
    assert (again.low, again.high) == pytest.approx(expected)
    assert jackknife(lambda keep: float(keep.mean()), ["a", "a"]).note == "one clip: no interval"


def test_relabelling_swaps_within_prompts():
    rng = np.random.default_rng(4)
    units = [f"p{i}" for i in range(10)] * 2
    effect = np.repeat(10.0 * np.arange(10)[None], 2, axis=0).ravel() + np.repeat([0.0, 1.0], 10)
    side = np.arange(20) < 10

    def gap(left):
        return abs(effect[left].mean() - effect[~left].mean())

    paired, _ = relabelling_p_value(gap, side, units, rng)
    unpaired, _ = relabelling_p_value(gap, side, list(range(20)), rng)
    assert paired < 0.02 < 0.5 < unpaired


def test_a_clip_out_of_an_analysis_details_equals_one_described_from_its_audio():
    clip = synthetic.form("ABA", 5.0, 3)
    read = describe_clip(clip, "x", "p")
    detail = json.loads(json.dumps(analyze(clip).detail()))
    kept = clip_of_detail(detail, "x", "p", duration=read.duration)
    np.testing.assert_allclose(kept.texture, read.texture, atol=1e-5)
    np.testing.assert_allclose(kept.boundaries, read.boundaries, atol=1e-3)
    np.testing.assert_allclose(kept.onsets.times, read.onsets.times, atol=1e-3)
    np.testing.assert_allclose(kept.onsets.attacks, read.onsets.attacks, atol=1e-12)
    assert len(read.onsets.times) > 5
    assert clip_of_detail({**detail, "embedding": None}, "x", None, duration=1.0) is None
    with pytest.raises(UserError, match="without its audio"):
        compare_sets([kept], training=_moved([read, read], 9, 0), held_out=_moved([read, read], 1, 1))


def test_clips_are_read_from_files_and_broken_ones_named(tmp_path):
    clip = synthetic.form("AB", 4.0, 1)
    sf.write(tmp_path / "good.wav", clip.samples.T, clip.sample_rate, subtype="FLOAT")
    sf.write(tmp_path / "silent.wav", np.zeros(30000), 22050)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    skips = SkipReport()
    paths = [tmp_path / name for name in ("good.wav", "silent.wav", "broken.wav", "none.wav")]
    (found,) = read_clips(paths, ["a", "b", "c", "d"], skips=skips, quiet=True)
    assert (found.name, found.prompt, found.duration) == (str(paths[0]), "a", pytest.approx(8.0))
    direct = describe_clip(extract_features(clip), "x", duration=8.0)
    np.testing.assert_allclose(found.texture, direct.texture, atol=1e-6)
    np.testing.assert_allclose(found.onsets.times, direct.onsets.times)
    assert [item.item for item in skips.skipped] == [str(path) for path in paths[1:]]
    with pytest.raises(UserError, match="none of the 1 files"):
        read_clips(paths[1:2], quiet=True)
    with pytest.raises(UserError, match="1 files came with 2 prompts"):
        read_clips(paths[:1], ["a", "b"])
    with pytest.raises(UserError, match="no file to describe"):
        read_clips([])
    with pytest.raises(UserError, match="jobs must be at least 1"):
        read_clips(paths, jobs=0)
