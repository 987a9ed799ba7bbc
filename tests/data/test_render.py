from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eisbach.audio import read_audio
from eisbach.data import render as render_module
from eisbach.data.captions import Facts, build_caption, is_minor, vocabulary
from eisbach.data.flat_material import KINDS, flat_clip, loop, render_flat
from eisbach.data.manifest import load_manifest
from eisbach.data.render import DEVELOPING, RenderSpec, pieces_in, plan_caption, plan_clip, render
from eisbach.data.scores import Piece
from eisbach.data.splits import assign_split
from eisbach.errors import UserError
from eisbach.types import SkipReport

PIECES = ("bach/bwv66.6", "bach/bwv269", "airdsAirs/book1#0003", "airdsAirs/book1#0004", "airdsAirs/book1#0005")
SPEC = RenderSpec(seed=3, seconds=(6.0, 9.0), sample_rate=11025, pieces=PIECES)


def audio_bytes(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((folder / "clips").iterdir())]


@pytest.mark.whole
def test_equal_seeds_give_equal_bytes_whatever_the_processes(tmp_path: Path, score_cache: Path) -> None:
    one, report = render(tmp_path / "one", clips=4, spec=SPEC, cache=score_cache, quiet=True)
    two, _ = render(tmp_path / "two", clips=4, spec=SPEC, cache=score_cache, quiet=True, jobs=2)
    assert one.rows == two.rows
    assert audio_bytes(tmp_path / "one") == audio_bytes(tmp_path / "two")
    assert report.skipped == []
    other, _ = render(tmp_path / "other", clips=4, spec=replace(SPEC, seed=4), cache=score_cache, quiet=True)
    assert not {row.audio_hash for row in one} & {row.audio_hash for row in other}
    assert set(pieces_in(one)) <= set(PIECES)
    for row in load_manifest(tmp_path / "one"):
        assert row.labels["kind"] == DEVELOPING
        assert row.labels["flat"] == "false"
        assert row.labels["piece"] in PIECES
        wave = read_audio(one.audio_path(row))
        assert (wave.sample_rate, wave.channels) == (11025, 1)
        assert wave.duration == pytest.approx(row.duration, abs=1e-3)
        assert 6.0 <= row.duration <= 9.0
        assert np.abs(wave.samples[0, [0, -1]]).max() < 1e-3  # fades
        assert -27 < 20 * np.log10(np.sqrt(np.square(wave.samples).mean())) < -13


def test_an_interrupted_folder_is_continued_and_can_grow(
    tmp_path: Path, score_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, _ = render(tmp_path / "whole", clips=3, spec=SPEC, cache=score_cache, quiet=True)
    made: list[int] = []
    original = render_module.developing_clip

    def interrupted(spec: RenderSpec, index: int, cache: Path | None, report: SkipReport) -> render_module.Clip:
        if index == 1 and not made.count(99):
            made.append(99)
            raise KeyboardInterrupt
        made.append(index)
        return original(spec, index, cache, report)

    out = tmp_path / "part"
    with pytest.raises(KeyboardInterrupt):
        render(out, clips=3, spec=SPEC, cache=score_cache, quiet=True, make=interrupted)
    assert [row.id for row in load_manifest(out)] == ["developing-000000"]
    with (out / ".journal.jsonl").open("a") as handle:
        handle.write('{"index": 1, "row": {"pa')  # torn by a death
    manifest, _ = render(out, clips=3, spec=SPEC, cache=score_cache, quiet=True, make=interrupted)
    assert made == [0, 99, 1, 2]
    assert manifest.rows == whole.rows
    assert audio_bytes(out) == audio_bytes(tmp_path / "whole")
    (out / "clips" / "000001.flac").write_bytes(b"cut")
    render(out, clips=4, spec=SPEC, cache=score_cache, quiet=True, make=interrupted)
    assert made == [0, 99, 1, 2, 1, 3]
    assert len(load_manifest(out)) == 4
    assert audio_bytes(out)[:3] == audio_bytes(tmp_path / "whole")


def test_a_folder_of_another_rendering_is_refused(tmp_path: Path, score_cache: Path) -> None:
    render(tmp_path, clips=1, spec=SPEC, cache=score_cache, quiet=True)
    with pytest.raises(UserError, match="holds clips with other settings: seed was"):
        render(tmp_path, clips=1, spec=replace(SPEC, seed=9), cache=score_cache, quiet=True)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "manifest.jsonl").write_text("{}")
    with pytest.raises(UserError, match="not rendered here"):
        render(foreign, clips=1, spec=SPEC, cache=score_cache, quiet=True)


@pytest.mark.parametrize(
    "change", [{"seconds": (0.1,)}, {"sample_rate": 100}, {"channels": 6}, {"format": "mp3"}, {"seconds": (9.0, 700.0)}]
)
def test_specs_that_cannot_be(change: dict[str, object]) -> None:
    with pytest.raises(UserError, match="cannot render"):
        replace(SPEC, **change)  # type: ignore[arg-type]


def test_pieces_that_fail_are_reported_and_replaced_by_others(
    tmp_path: Path, score_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.abc"
    broken.write_text("X:1\nK:C\nz4|]\n")
    fine = render_module.list_pieces(["airdsAirs/book1#0003"])
    pool = render_module._Pool([Piece("airdsAirs/broken", str(broken), "airdsAirs", "tune"), *fine])
    monkeypatch.setattr(render_module, "_pool", lambda *a: pool)
    manifest, report = render(tmp_path / "out", clips=6, spec=SPEC, cache=score_cache, quiet=True)
    assert {row.labels["piece"] for row in manifest} == {"airdsAirs/book1#0003"}
    assert {item.item for item in report.skipped} == {"airdsAirs/broken"}
    assert json.loads((tmp_path / "out" / "skipped.json").read_text())[0]["item"] == "airdsAirs/broken"
    only_broken = render_module._Pool([Piece("airdsAirs/broken", str(broken), "airdsAirs", "tune")])
    monkeypatch.setattr(render_module, "_pool", lambda *a: only_broken)
    with pytest.raises(UserError, match="could be played"):
        render(tmp_path / "none", clips=1, spec=SPEC, cache=score_cache, quiet=True)


def test_the_instrumentation_changes_within_clips_and_low_is_low(score_cache: Path) -> None:
    spec = replace(SPEC, seconds=(24.0,))
    changing = 0
    for index in range(12):
        performance, _ = plan_clip(spec, index, score_cache, SkipReport())
        ends = [float(track.onset.max()) for track in performance.tracks]
        starts = [float(track.onset.min()) for track in performance.tracks]
        changing += len(performance.tracks) > 1 and (max(starts) > 3.0 or min(ends) < 20.0)
        for track in performance.tracks:
            assert track.onset.min() >= 0
            assert track.onset.max() < 24.0 + 0.1
    assert changing >= 4
    energy = {}
    for style in ("contrabass and cello", "celesta"):
        clip = render_module.developing_clip(replace(spec, styles=(style,)), 0, score_cache, SkipReport())
        power = np.abs(np.fft.rfft(clip.waveform.samples[0])) ** 2
        hertz = np.fft.rfftfreq(clip.waveform.samples.shape[1], 1 / 11025)
        energy[style] = (power[hertz < 200].sum() / power.sum(), power[hertz > 2000].sum() / power.sum())
        assert style.split()[0] in clip.caption.lower()
    assert energy["contrabass and cello"][0] > 0.3 > 0.01 > energy["celesta"][0]


def test_short_pieces_are_followed_by_others_of_their_split(tmp_path: Path, score_cache: Path) -> None:
    spec = replace(SPEC, seconds=(60.0,), sample_rate=8000, pieces=("airdsAirs/book1#000*",))
    manifest, _ = render(tmp_path, clips=3, spec=spec, cache=score_cache, quiet=True)
    followers = [row.labels["followed_by"].split(" | ") for row in manifest if "followed_by" in row.labels]
    assert followers
    for row in manifest:
        for piece in row.labels.get("followed_by", row.labels["piece"]).split(" | "):
            assert assign_split("", {"piece": piece}) == row.split
    assert set(pieces_in(manifest)) == {row.labels["piece"] for row in manifest} | {p for f in followers for p in f}


def test_captions_say_what_the_notes_are() -> None:
    facts = Facts(("bassoon", "contrabass"), "quartet", 40.0, 1.2, True, 80.0, "legato")
    assert (facts.register, facts.tempo) == ("low", "slow")
    captions = {build_caption(facts, np.random.default_rng(seed)) for seed in range(40)}
    assert len(captions) > 20
    assert all("assoon" in caption for caption in captions)
    assert build_caption(facts, np.random.default_rng(1)) == build_caption(facts, np.random.default_rng(1))
    high = replace(facts, pitch=90.0, density=7.0, minor=False, instruments=("celesta",))
    assert (high.register, high.tempo) == ("high", "fast")
    c_major, a_minor = (
        np.array([60, 62, 64, 65, 67, 69, 71, 72, 60, 64, 67]),
        np.array([57, 60, 64, 57, 59, 68, 69, 65]),
    )
    assert not is_minor(c_major, np.ones(len(c_major)))
    assert is_minor(a_minor, np.ones(len(a_minor)))


def test_the_vocabulary_is_closed_small_and_says_nothing_about_structure(score_cache: Path) -> None:
    words = vocabulary()
    assert len(words) < 300
    assert not words & {
        "loop", "drone", "pad", "texture", "noise", "static", "repeat", "repeated", "then", "changing", "developing",
        "flat",
    }  # fmt: skip
    for wanted in [
        "celesta",
        "pizzicato",
        "bassoon",
        "contrabassoon",
        "contrabass",
        "cello",
        "horn",
        "harpsichord",
        "low",
        "high",
        "playful",
        "majestic",
        "brooding",
        "chamber",
        "dance",
        "slow",
        "fast",
    ]:
        assert wanted in words
    for index in range(30):
        _, caption, _ = plan_caption(SPEC, index, score_cache, SkipReport())
        assert set(caption.lower().replace(",", " ").split()) <= words


@pytest.mark.whole
def test_a_classifier_of_words_cannot_tell_flat_from_developing(score_cache: Path) -> None:
    count, report = 300, SkipReport()
    flat_spec = replace(SPEC, kind="flat-loop")
    captions = [plan_caption(spec, i, score_cache, report)[1] for spec in (SPEC, flat_spec) for i in range(count)]
    vocabulary_order = sorted(vocabulary())
    bags = np.array(
        [[word in c.lower().replace(",", " ").split() for word in vocabulary_order] for c in captions], float
    )
    label = np.repeat([0.0, 1.0], count)
    train = np.arange(2 * count) % 2 == 0

    def separates(target: np.ndarray) -> float:
        """Share of held-out captions that naive Bayes with Laplace smoothing puts right."""
        rates = [(bags[train & (target == k)].sum(0) + 1) / ((train & (target == k)).sum() + 2) for k in (0, 1)]
        odds = bags @ (np.log(rates[1]) - np.log(rates[0])) + (1 - bags) @ (np.log1p(-rates[1]) - np.log1p(-rates[0]))
        return float(((odds > 0) == target)[~train].mean())

    assert separates(label) < 0.58  # chance is 0.5, sd 0.03
    celesta = bags[:, vocabulary_order.index("celesta")]
    assert separates(celesta) > 0.8  # the same classifier finds what captions do tell


def test_flat_clips_are_flat_and_loops_repeat_exactly(tmp_path: Path, score_cache: Path) -> None:
    spec = replace(SPEC, seconds=(12.0,))
    manifest, _ = render_flat(tmp_path, clips=8, spec=spec, cache=score_cache, quiet=True)
    assert [row.labels["kind"] for row in manifest] == list(KINDS) * 2
    for row in load_manifest(tmp_path):
        samples = read_audio(manifest.audio_path(row)).samples[0]
        assert row.labels["flat"] == "true"
        if row.labels["kind"] == "loop":
            period = round(float(row.labels["loop_seconds"]) * 11025)
            assert 1.0 <= period / 11025 <= 4.0
            np.testing.assert_allclose(
                samples[period + 500 : 2 * period], samples[500 + 2 * period : 3 * period], atol=1e-4
            )
            jumps = np.abs(np.diff(samples))
            assert jumps[period - 2 : period + 2].max() <= np.quantile(jumps, 0.9999) + 1e-3  # no click at the joint
        else:
            thirds = np.array([np.square(part).mean() for part in np.array_split(samples[1000:-1000], 3)])
            assert 10 * np.log10(thirds.max() / thirds.min()) < 2.5
    with pytest.raises(UserError, match="kinds must be among"):
        render_flat(tmp_path / "x", clips=1, spec=spec, kinds=("riff",))


def test_textures_have_the_colour_of_the_music(score_cache: Path) -> None:
    def low_share(style: str, index: int) -> float:
        spec = replace(SPEC, seconds=(8.0,), styles=(style,), kind="flat-texture")
        samples = flat_clip(spec, index, score_cache, SkipReport(), kinds=("texture",)).waveform.samples[0]
        power = np.abs(np.fft.rfft(samples)) ** 2
        return float(power[np.fft.rfftfreq(len(samples), 1 / 11025) < 300].sum() / power.sum())

    for index in range(4):  # noise and note clouds
        assert low_share("contrabass and cello", index) > 5 * low_share("celesta", index)


def test_a_loop_longer_than_its_clip_is_one_sentence(score_cache: Path) -> None:
    performance, rng = plan_clip(SPEC, 0, score_cache, SkipReport(), seconds=6.0)
    for period in (0.0, -1.0, 5.99, 6.0, 60.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"cannot be cut from a clip of 6 s; give a period of at most 5\.97 s"):
            loop(performance, period, 11025, rng, stereo=False)
    assert loop(performance, 5.97, 11025, rng, stereo=False).duration == pytest.approx(6.0)


@pytest.mark.parametrize("mode", ["major", "minor"])
def test_a_mode_is_what_is_heard_and_said(mode: str, score_cache: Path) -> None:
    spec, report = replace(SPEC, mode=mode), SkipReport()
    for index in range(5):
        performance, caption, _ = plan_caption(spec, index, score_cache, report)
        assert performance.facts.minor == (mode == "minor")
        assert f"{'major' if mode == 'minor' else 'minor'} key" not in caption
    assert {item.reason for item in report.skipped} == {f"is not heard in {mode}"}
    with pytest.raises(UserError, match=r"mode must be major or minor \(got 'dorian'\)"):
        replace(SPEC, mode="dorian")


def test_a_folder_rendered_before_modes_continues(tmp_path: Path, score_cache: Path) -> None:
    render(tmp_path, clips=1, spec=SPEC, cache=score_cache, quiet=True)
    assert "mode" not in json.loads((tmp_path / "render.json").read_text())
    assert len(render(tmp_path, clips=2, spec=SPEC, cache=score_cache, quiet=True)[0]) == 2
    with pytest.raises(UserError, match="mode was not set and is now 'minor'"):
        render(tmp_path, clips=2, spec=replace(SPEC, mode="minor"), cache=score_cache, quiet=True)


def test_noise_and_clouds_are_kinds_of_their_own(tmp_path: Path, score_cache: Path) -> None:
    spec = replace(SPEC, seconds=(6.0,))
    found = {}
    for kind in ("noise", "cloud"):
        clip = flat_clip(spec, 0, score_cache, SkipReport(), kinds=(kind,))
        assert clip.labels["kind"] == kind
        power = np.abs(np.fft.rfft(clip.waveform.samples[0, 22050:44100])) ** 2
        found[kind] = float(np.exp(np.log(power + 1e-12).mean()) / power.mean())  # spectral flatness
    assert found["noise"] > 3 * found["cloud"]
    with pytest.raises(UserError, match="kinds must be among drone, pad, loop, texture, noise, cloud"):
        render_flat(tmp_path, clips=1, spec=spec, kinds=("rain",), cache=score_cache, quiet=True)
