"""Sets held against real music: who is nearer, when nothing is said, and stretches of a person's files."""

import numpy as np
import pytest
import soundfile as sf

from eisbach.backbones.tiny import words_of
from eisbach.config import build_config
from eisbach.data.captions import vocabulary
from eisbach.errors import ConfigError, UserError
from eisbach.experiments.comparing import compare_sets
from eisbach.experiments.cutting import cut_stretches
from eisbach.experiments.own_material import prompts_of
from eisbach.experiments.recipes import demo_spec, load_spec
from eisbach.experiments.reference import Reference, check_reference, collect_reference
from eisbach.experiments.sets import ClipSets
from eisbach.experiments.spec import ExperimentSpec
from eisbach.report.comparison.cards import plan_groups, with_reference
from eisbach.report.comparison.findings import MARKS, nearness_findings, nearness_verdict
from eisbach.report.comparison.terminal import terminal_lines
from eisbach.structure.batch import Clip
from eisbach.types import SkipReport

METRICS = ("is_flat", "block_strength", "motif_coverage")


def rows(group, shift, seconds=30.0, count=20):
    rng = np.random.default_rng(len(group))
    return [
        {"id": f"p{n}", "group": group, "path": f"{group}/{n}.flac", "duration": seconds, "flags": "",
         "analysed_seconds": seconds,
         "is_flat": bool(n % 10 == 0),
         "block_strength": 0.3 + 0.1 * (shift + rng.normal()), "motif_coverage": 0.4 + 0.05 * rng.normal()}
        for n in range(count)
    ]  # fmt: skip


def held_against(seconds=30.0, **options):
    music = [{**row, "arm": "reference"} for row in rows("music", 0.0, seconds, 24)]
    both = rows("plain", 3.0) + rows("new", 0.0)
    return compare_sets(both, metrics=METRICS, primary=METRICS, reference=Reference("your music", music), **options)


def test_the_nearer_set_is_named_and_no_direction_is_called_good():
    sets = held_against()
    compared = sets.nearness.comparison("new", "block_strength")
    assert (compared.verdict, sets.nearness.comparison("new", "motif_coverage").verdict) == ("nearer", "no nearer")
    assert compared.mean == pytest.approx(sets.nearness.distance("new", "block_strength").value)
    said = nearness_verdict(sets.nearness, sets.names)
    assert said.startswith("Is it nearer to your music? Yes with new: nearer than plain in 1 of 3 primary measures")
    assert "block strength" in said
    items = nearness_findings(sets)[0].items
    assert len(items) == 1
    assert "SD from it against" in items[0]
    printed = "\n".join(terminal_lines(sets.records, sets))
    assert MARKS["nearer"] in printed
    assert "better" not in printed
    assert sets.to_json()["nearness"]["label"] == "your music"


def test_an_untrained_base_that_lies_nearest_on_average_is_named():
    music = [{**row, "arm": "reference"} for row in rows("music", 0.0, 30.0, 24)]
    sets = compare_sets(
        rows("plain", 3.0) + rows("new", 2.5) + rows("base", 0.0), metrics=METRICS, primary=METRICS,
        reference=Reference("your music", music),
    )  # fmt: skip
    said = nearness_verdict(sets.nearness, sets.names, {"base": "the untrained base"}, ["base"])
    mean = np.mean([sets.nearness.distance("base", name).value for name in METRICS[1:]])
    assert f"On average over the measures the untrained base lies nearest, {mean:.2f} SD against" in said
    assert said.endswith("with new.")
    assert "On average" not in nearness_verdict(sets.nearness, sets.names, apart=["new"])
    alike = compare_sets(
        rows("plain", 0.0) + rows("base", 0.0), metrics=METRICS, primary=METRICS, reference=Reference("music", music)
    )
    assert "On average" not in nearness_verdict(alike.nearness, alike.names, apart=["plain"])


def test_what_holds_of_several_sets_alike_is_said_once():
    music = [{**row, "arm": "reference"} for row in rows("music", 0.0, 30.0, 24)]
    sets = compare_sets(
        rows("plain", 3.0) + rows("new", 0.0) + rows("other", 3.0) + rows("third", 3.0), metrics=METRICS,
        primary=METRICS, reference=Reference("your music", music),
    )  # fmt: skip
    found = nearness_findings(sets, {"plain": "plain training", "other": "the other weight"})
    assert [len(each.items) for each in found] == [1, 0]
    assert found[1].lead.startswith("The other weight and third: neither nearer to your music than plain training")
    assert nearness_findings(sets)[1].lead.startswith("other and third: neither")


def test_music_of_another_length_gets_numbers_and_no_verdict():
    sets = held_against(seconds=60.0)
    assert {each.verdict for each in sets.nearness.comparisons} == {"not comparable"}
    assert sets.nearness.distance("new", "block_strength").value >= 0
    assert "No verdict" in nearness_verdict(sets.nearness, sets.names)
    assert any("--seconds" in note for note in sets.notes)


def test_every_row_of_players_gets_other_clips_of_the_reference():
    sets = held_against(pair="name", names={f"{g}/{n}.flac": f"p{n}" for g in ("plain", "new") for n in range(20)})
    groups = plan_groups(sets, 8, {})
    music = [{"path": f"{n}"} for n in range(3)]
    takes = [take for group in with_reference(groups, music, 2) for take in group.takes]
    assert all(len(take.beside) == 2 for take in takes)
    assert takes[0].beside != takes[1].beside
    assert with_reference(groups, [], 2) == groups
    cut = [{"path": f"{n}", "unit": f"{n // 3}.ogg"} for n in range(12)]
    for take in (take for group in with_reference(groups, cut, 2) for take in group.takes):
        assert len({row["unit"] for row in take.beside}) == 2  # not twice the same recording


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for name, seconds in (("long", 13.0), ("short", 4.5), ("scrap", 1.0)):
        noise = np.random.default_rng(0).normal(0, 0.1, int(seconds * 8000))
        sf.write(folder / f"{name}.wav", noise, 8000)
    return folder


def test_stretches_share_the_room_and_name_their_recording(recordings, tmp_path):
    clips = [Clip(path, {"id": path.stem, "group": "reference"}) for path in sorted(recordings.glob("*.wav"))]
    skips = SkipReport()
    stretches = cut_stretches(clips, 4.0, 3, tmp_path, skips=skips)
    units = [clip.keys["unit"] for clip in stretches]
    assert sorted(units.count(str(clip.path)) for clip in clips) == [0, 1, 2]
    assert [item.item for item in skips.skipped] == [str(recordings / "scrap.wav")]
    starts = [clip.keys["cut_start"] for clip in stretches if "long" in str(clip.keys["unit"])]
    assert starts[1] - starts[0] >= 4.0
    assert all(sf.info(str(clip.path)).duration == pytest.approx(4.0, abs=0.01) for clip in stretches)


def test_shorter_recordings_are_taken_whole_where_that_is_asked(recordings, tmp_path):
    clips = [Clip(path, {"id": path.stem}) for path in sorted(recordings.glob("*.wav"))]
    skips = SkipReport()
    stretches = cut_stretches(clips, 4.0, 10, tmp_path, skips=skips, shorter=True)
    assert not skips.skipped
    (scrap,) = [clip for clip in stretches if clip.keys["unit"] == str(recordings / "scrap.wav")]
    assert scrap.keys["id"] == "scrap"
    assert sf.info(str(scrap.path)).frames == sf.info(str(recordings / "scrap.wav")).frames
    named = [str(clip.keys["id"]) for clip in stretches]
    assert len(set(named)) == len(named)
    assert any(" at 0:0" in name for name in named)


def test_a_reference_that_is_one_of_the_sets_is_refused(recordings):
    music = collect_reference([recordings])
    with pytest.raises(UserError, match="share 3 files"):
        check_reference(ClipSets(list(music.clips), {}), music)


def test_prompts_come_from_captions_and_else_name_no_instrument():
    captions = [f"caption {n % 20}" for n in range(60)] + [" ", ""]
    prompts = prompts_of(captions)
    assert len({prompt["text"] for prompt in prompts}) == 8
    assert {prompt["text"] for prompt in prompts} <= set(captions)
    assert prompts_of(["", " "]) == []
    plain = demo_spec(overrides=["generation.prompts=plain"]).generation.resolve_prompts()
    assert len(plain) == 16
    assert not any(word in prompt.text.lower() for prompt in plain for word in ("piano", "string", "flute", "drum"))


@pytest.mark.parametrize("chosen", [[], ["generation.prompts=plain"]])
def test_the_demo_has_enough_prompts_to_show_a_difference(chosen):
    spec = demo_spec(overrides=chosen)
    prompts = spec.generation.resolve_prompts()
    compared = len(spec.primary_metrics) + 2  # kernel distances on texture and on musicnn
    assert 2 / 2 ** len(prompts) * compared < 0.01
    known = {part for word in vocabulary() for part in words_of(word)}
    assert not [word for prompt in prompts for word in words_of(prompt.text) if word not in known]
    assert len({prompt.text for prompt in prompts}) == len(prompts)


def test_a_rehearsal_says_so_and_the_base_is_no_candidate():
    spec = demo_spec(quick=True)
    assert spec.rehearsal
    assert not demo_spec().rehearsal
    assert set(spec.apart) == {"oracle", "base"}
    assert set(spec.primary_metrics.values()) == {"nearer"}
    assert "motif_coverage" in spec.primary_metrics


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reference": None}, "no reference to be nearer to"),
        ({"primary_metrics": {"is_flat": "lower"}}, "every primary metric is 'nearer'"),
        ({"baseline": "base"}, "is not trained"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        build_config(ExperimentSpec, demo_spec().model_dump() | changes, "a test")


def test_committed_studies_keep_their_directions():
    for name in ("curation", "levels", "gated"):
        spec = load_spec(name)
        assert spec.reference is None
        assert set(spec.primary_metrics.values()) <= {"higher", "lower"}
