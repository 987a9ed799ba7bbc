from __future__ import annotations

import re
import zlib
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from eisbach.audio import write_audio
from eisbach.errors import UserError
from eisbach.experiments import comparing
from eisbach.experiments.sets import short_names
from eisbach.report.audio_embed import embed_all
from eisbach.report.comparison.cards import plan_groups
from eisbach.report.comparison.findings import findings
from eisbach.report.comparison.numbers import SetTable, set_tables
from eisbach.report.comparison.page import ComparisonPage, render_comparison_page
from eisbach.report.comparison.players import clock, section_bars, waveform_path
from eisbach.report.comparison.terminal import _memorisation_lines, terminal_lines
from eisbach.report.structure.draw import Span
from eisbach.structure import METRICS
from eisbach.structure.batch import Clip, sample_clips
from eisbach.structure.sets.whole import measure_sets
from eisbach.studies.ground_truth import synthetic
from eisbach.types import Skipped, SkipReport, Waveform


def record(group, prompt=None, seed=None, path=None, **values):
    rng = np.random.default_rng([len(group), zlib.crc32((prompt or "").encode()), int(seed or 0)])
    name = f"{prompt or rng.integers(1e6)}-{seed or 0}"
    row = {
        "id": name, "group": group, "path": path or f"{group}/{name}.wav", "duration": 30.0, "analysed_seconds": 30.0,
        "flags": "", "is_flat": False, "flat_probability": 0.1, "bandwidth_hz": 9000.0,
    }  # fmt: skip
    row |= {metric: float(rng.uniform(0.2, 0.3)) for metric in METRICS}
    if prompt is not None:
        row |= {"prompt_id": prompt, "seed": seed}
    return row | values


def paired(shift=0.0, prompts=12):
    rows = []
    for index in range(prompts):
        base = record("plain", f"p{index:02}", "0", block_strength=0.2 + 0.01 * index)
        other = dict(base, group="barrier", path=f"barrier/{index}.wav")
        other["block_strength"] = base["block_strength"] + shift + 0.001 * (index % 3)
        rows += [base, other]
    return rows


def test_prompts_and_seeds_pair_sets_and_the_prompt_is_the_unit():
    sets = comparing.compare_sets(paired(0.05))
    one = sets.comparison("barrier", "block_strength")
    assert sets.names == ["plain", "barrier"]
    assert (one.paired, one.unit, one.n_units) == (True, "prompt", 12)
    assert one.difference == pytest.approx(0.051, abs=1e-6)
    assert one.verdict == "higher"
    assert one.p_adjusted >= one.p
    assert "matched by prompt and seed" in sets.how


def test_without_keys_every_clip_is_a_unit():
    sets = comparing.compare_sets(paired(0.05), pair="none")
    one = sets.comparison("barrier", "block_strength")
    assert (one.paired, one.unit, one.n_units) == (False, "clip", 12)
    assert "every clip counts as one" in sets.how


def test_several_folders_of_the_same_prompts_are_trained_models():
    rows = []
    for model in range(3):
        for group in ("plain", "barrier"):
            rows += [
                record(
                    group, f"p{n}", "0", path=f"{group}/seed-{model}/p{n}.wav", block_strength=0.1 * n + 0.01 * model
                )
                for n in range(4)
            ]
    sets = comparing.compare_sets(rows)
    one = sets.comparison("barrier", "block_strength")
    assert (one.unit, one.n_units) == ("trained model", 3)
    assert "trained model" in sets.how
    assert any("no difference can be called shown" in note.replace("  ", " ") for note in sets.notes)


def test_the_papers_quantities_stand_apart_and_are_never_primary():
    sets = comparing.compare_sets(paired(0.05))
    assert {info.name for info in sets.printed} == {name for name, metric in METRICS.items() if metric.as_printed}
    assert len(sets.printed) >= 5
    assert not any(info.primary for info in sets.printed)
    assert not {info.name for info in sets.printed} & {info.name for info in sets.metrics}
    assert all(sets.to_json()["contradicted_by_ground_truth"].values())


def test_small_sets_say_what_they_cannot_show():
    assert any("single prompt" in note for note in comparing.compare_sets(paired(prompts=1)).notes)
    assert any("smallest possible p is 0.25" in note for note in comparing.compare_sets(paired(prompts=3)).notes)
    assert any("about 0.8 standard deviations" in note for note in comparing.compare_sets(paired(prompts=12)).notes)
    # eight pairs allow p = 0.0078, which Holm over eight measures turns into 0.06
    corrected = comparing.compare_sets(paired(prompts=8), primary=list(METRICS)[:8]).notes
    assert any("once it is corrected for 8 primary measures" in note for note in corrected)
    assert not any(
        "corrected for" in note for note in comparing.compare_sets(paired(prompts=8), primary=["flux_gini"]).notes
    )


def test_what_is_true_of_several_sets_is_said_once_and_nothing_of_a_refused_one():
    rows = [*paired(prompts=3), *(row | {"group": "ot{h}er"} for row in paired(prompts=3) if row["group"] == "barrier")]
    rows += [row | {"group": "long", "duration": 60.0} for row in paired(prompts=3) if row["group"] == "barrier"]
    (note,) = [note for note in comparing.compare_sets(rows).notes if "smallest possible p" in note]
    assert "of barrier and ot{h}er" in note


def test_the_same_recording_twice_is_said():
    rows = [record(group, f"p{index}", "0", audio_hash=f"{group}{index}") for group in ("a", "b") for index in range(6)]
    assert not any("byte for byte" in note for note in comparing.compare_sets(rows).notes)
    rows[1]["audio_hash"] = rows[0]["audio_hash"]
    rows[7]["audio_hash"] = rows[3]["audio_hash"]
    notes = " ".join(comparing.compare_sets(rows).notes)
    assert "1 clip repeats another file of the same set" in notes
    assert "1 recording is in several sets" in notes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "nobody"}, "plain, barrier"),
        ({"pair": "mood"}, "nothing can be matched"),
        ({"pair": " , "}, "--pair is empty"),
        ({"metrics": ["beauty"]}, "'beauty'"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(UserError, match=message):
        comparing.compare_sets(paired(), **options)


def test_short_names_tell_folders_apart():
    assert short_names(["run/a/samples", "run/b/samples"]) == {"run/a/samples": "a", "run/b/samples": "b"}
    assert short_names(["x/one", "y/two"]) == {"x/one": "one", "y/two": "two"}
    assert short_names(["only/this"]) == {"only/this": "this"}
    assert short_names(["a", "b/a"]) == {"a": "a", "b/a": "b/a"}


def test_samples_are_even_over_sets_and_over_each_set():
    clips = [
        Clip(Path(f"{group}{n}"), {"group": group}) for group, size in (("a", 10_000), ("b", 3)) for n in range(size)
    ]
    taken = sample_clips(clips, 12)
    own = [int(str(clip.path)[1:]) for clip in taken if clip.keys["group"] == "a"]
    assert len(taken) == 12
    assert len(own) == 9
    assert np.diff(own).min() > 1000
    assert taken == sample_clips(clips, 12)
    assert sample_clips(clips[:5], 12) == clips[:5]


def test_section_bars_end_with_the_audio():
    bars = section_bars([Span(0.0, 4.0, "A"), Span(4.0, 8.0, "B"), Span(8.0, 20.0, "A")], 10.0)
    assert [(bar.left, bar.width, bar.tone) for bar in bars] == [(0.0, 40.0, 0), (40.0, 40.0, 1), (80.0, 20.0, 0)]
    assert bars[1].said == "Section B, 0:04 to 0:08"
    assert section_bars([Span(0.0, 4.0, "A")], 0.0) == []
    assert section_bars([Span(0.0, 4.0, "A")], 4.0, "Part")[0].said == "Part A, 0:00 to 0:04"
    assert clock(65.4) == "1:05"


def test_the_waveform_is_as_tall_as_its_peaks(tmp_path):
    samples = np.concatenate([0.1 * np.ones(1000), 0.8 * np.ones(1000)]).astype(np.float32)
    write_audio(tmp_path / "x.wav", Waveform(samples[None], 8000))
    path, seconds = waveform_path(tmp_path / "x.wav")
    heights = [int(b) - int(a) for a, b in re.findall(r"M\d+ (\d+)V(\d+)", path)]
    assert seconds == pytest.approx(0.25)
    assert len(heights) == 360
    assert heights[-1] / heights[0] == pytest.approx(8, abs=0.5)
    assert waveform_path(tmp_path / "none.wav") == ("", 0.0)


class Outline(HTMLParser):
    """Ids, links within the page, and tags that are left open."""

    def __init__(self):
        super().__init__()
        self.ids, self.links, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"][1:]] if found.get("href", "").startswith("#") else []
        if tag not in {"meta", "link", "img", "br", "path"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in {"meta", "link", "img", "br", "path"}:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """Two sets of two clips with sound, prompts in common, and one file that has vanished since."""
    root = tmp_path_factory.mktemp("sets")
    rows = []
    for group, form in (("plain", "AAAA"), ("barrier", "ABCA")):
        for seed in range(2):
            path = root / f"{group}-{seed}.wav"
            write_audio(path, synthetic.form(form, 3.0, seed))
            rows.append(record(group, "piglet", str(seed), path=str(path), flags="clipped;undefined:closure"))
    Path(str(rows[-1]["path"])).unlink()
    return comparing.compare_sets(rows)


@pytest.mark.whole
def test_the_page_is_whole(heard):
    page = ComparisonPage(
        heard, ["eisbach analyze a b"], skipped=[Skipped("x", "x <b>is</b> broken")] * 201,
        captions={"piglet": "a & b"},
        set_tables=[SetTable("Distances", ["what", "value"], [["Fréchet", "1"]])], set_notes=["only four clips"],
        files=[("records.jsonl", "rows")],
    )  # fmt: skip
    html = render_comparison_page(page)
    outline = Outline()
    outline.feed(html)
    assert outline.open == []
    assert len(set(outline.ids)) == len(outline.ids)
    assert set(outline.links) <= set(outline.ids)
    assert "x &lt;b&gt;is&lt;/b&gt; broken" in html
    assert "201 files left out" in html
    assert "and 1 more" in html
    assert "a &amp; b" in html
    assert "The audio file is missing" in html
    assert html.count("<audio") == 3
    assert "<li>only four clips</li>" in html
    assert "overdriven" in html
    assert "nothing to measure" in html  # what an undefined metric means


def test_listening_can_be_chosen(heard):
    assert plan_groups(heard, 0, {}) == []
    chosen = plan_groups(heard, 24, {}, ["piglet-1"])
    assert [row["id"] for group in chosen for take in group.takes for row in take.clips] == ["piglet-1", "piglet-1"]
    with pytest.raises(UserError, match="piglet-0"):
        plan_groups(heard, 24, {}, ["nobody"])


def test_sets_as_wholes(tmp_path):
    rows = []
    for group, make in (
        ("loops", lambda s: synthetic.loop(1.0, s, 5.0)),
        ("forms", lambda s: synthetic.form("AB", 2.5, s)),
    ):
        for seed in range(7):
            path = tmp_path / f"{group}-{seed}.wav"
            write_audio(path, make(seed))
            rows.append(record(group, f"p{seed}", "0", path=str(path)))
    sets = comparing.sets_of(rows)
    made = measure_sets(sets, skips=SkipReport())
    titles = {table.title: table for table in set_tables(list(sets), made.comparisons)}
    between = titles["Distances between the sets"].rows
    assert {row[1] for row in between} == {"loops vs forms"}
    assert any(row[0].startswith("Fréchet") for row in between)
    assert made.to_json()[0]["sets"] == ["loops", "forms"]
    alone = measure_sets({"loops": rows[:1]}, skips=SkipReport())
    tables = set_tables(["loops"], alone.comparisons)
    assert tables
    assert "Distances between the sets" not in {table.title for table in tables}
    assert [note for note in alone.notes if "across seeds" in note] == [
        "loops: its clips name no prompts, so what varies across seeds and prompts is not measured."
    ]
    with pytest.raises(UserError, match="held-out"):
        measure_sets(sets, training=[str(tmp_path)])


def test_findings_say_what_a_measure_sounds_like():
    sets = comparing.compare_sets(paired(prompts=8))
    primary = [info for info in sets.metrics if info.primary]
    (found,) = findings(sets, primary)
    assert "barrier" in found.lead
    assert "plain" in found.lead
    assert all("igher: " in item or "lat: " in item for item in found.items)
    alone = comparing.compare_sets([row for row in paired(prompts=8) if row["group"] == "plain"])
    (one,) = findings(alone, primary)
    assert "name a second folder" in one.rest


def test_long_clips_are_cut_so_that_a_page_stays_small(tmp_path):
    rng = np.random.default_rng(0)
    for name, seconds in (("short", 4), ("long", 40)):
        noise = 0.1 * rng.standard_normal((1, 22_050 * seconds)).astype(np.float32)
        write_audio(tmp_path / f"{name}.wav", Waveform(noise, 22_050))
    paths = [tmp_path / "short.wav", tmp_path / "long.wav"]
    short, long = embed_all(paths, budget=80_000)
    assert short.seconds == pytest.approx(4.0)
    assert 12.0 < long.seconds < 18.0
    assert sum(len(one.uri) for one in (short, long)) < 90_000
    _, seconds = waveform_path(paths[1], long.seconds)
    assert seconds == pytest.approx(long.seconds, abs=0.01)  # the waveform is of what can be heard


def test_one_clip_is_named_and_has_no_chart_of_one_dot(heard):
    one = comparing.compare_sets([{**heard.records[0], "group": "plain"}])
    html = render_comparison_page(ComparisonPage(one, ["eisbach analyze x"], listen=0))
    assert "<h1>The musical structure of piglet-0</h1>" in html
    assert "Every clip by every primary measure" not in html
    assert 'class="chart"' not in html


def test_a_set_of_another_length_gets_its_refusal_and_no_numbers_in_a_terminal():
    rows = paired(prompts=8)
    rows += [row | {"group": "long", "duration": 60.0} for row in rows if row["group"] == "barrier"]
    sets = comparing.compare_sets(rows)
    lines = terminal_lines(sets.records, sets)
    assert [line for line in lines if "No verdict on long" in line] == ["\n" + sets.refused["long"]]
    assert any(line.startswith("\nbarrier against plain") for line in lines)
    assert not any(line.startswith("\nlong against") for line in lines)


def test_a_share_that_few_held_out_clips_cannot_say_is_left_out_and_why_is_said():
    def row(metric, label, value, reference=None):
        return SimpleNamespace(sets="new", metric=metric, label=label, value=value, reference=reference)

    part = SimpleNamespace(
        rows=[
            row("memorised_clips", "Generations closer to training", float("nan"), 0.05),
            row("copied_share", "Share in copied excerpts", 0.35),
            row("vendi", "Diversity", 3.0),
        ],
        notes=["4 held-out clips allow no p value under 0.200; give at least 19.", "one clip has no texture"],
    )
    whole = SimpleNamespace(comparisons=[part, part])
    assert _memorisation_lines(whole) == [
        "", "memorisation:", "  new: share in copied excerpts: 35%", f"  note: {part.notes[0]}"
    ]  # fmt: skip
    assert _memorisation_lines(SimpleNamespace(comparisons=[])) == []
