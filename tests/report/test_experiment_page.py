import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile as sf

from eisbach.audio import write_audio
from eisbach.errors import StorageError, UserError
from eisbach.experiments.measures import FLAT
from eisbach.experiments.recipes import load_spec
from eisbach.report.audio_embed import ENCODINGS, embed, embed_all, encoding_for, seconds_of
from eisbach.report.charts import Series
from eisbach.report.comparison.cards import plan_takes
from eisbach.report.comparison.numbers import group_pictures
from eisbach.report.comparison.page import ArmText, ComparisonPage, render_comparison_page, write_comparison_page
from eisbach.report.experiment.page import clips_heard, limits, material_section
from eisbach.report.structure.style import COLOURS, INK
from eisbach.statistics.records import MetricInfo
from eisbach.statistics.results import evaluate
from eisbach.statistics.sets import sets_of_results
from eisbach.types import Skipped, Waveform

METRICS = [FLAT, MetricInfo("level", "level range", unit="dB", better="higher", primary=True, meaning="How <loud>.")]
ARMS = ("plain", "barrier", "oracle")


class Page(HTMLParser):
    """Collects tags, checks nesting, and keeps visible text."""

    VOID = frozenset({"meta", "link", "img", "br", "input", "hr"})

    def __init__(self, text):
        super().__init__()
        self.stack, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.stack):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def named(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def make(root, prompts=3, seeds=(1, 2), models=(0,), audio=True):
    rng = np.random.default_rng(0)
    rows = []
    for arm in ARMS:
        for model in models:
            for p in range(prompts):
                for seed in seeds:
                    path = root / arm / f"{model}_{p}_{seed}.flac"
                    if audio and model == models[0]:
                        samples = 0.1 * rng.standard_normal((1, 8_000)).astype(np.float32)
                        write_audio(path, Waveform(samples, 8_000))
                    rows.append(
                        {"arm": arm, "train_seed": model, "prompt_id": f"prompt-{p}", "seed": seed,
                         "path": path.relative_to(root).as_posix(), "is_flat": bool(rng.random() < 0.5),
                         "level": float(rng.normal(10, 3))}
                    )  # fmt: skip
    return rows


def page_of(root, rows, results=None, **changes):
    results = results or evaluate(rows, METRICS, "plain", oracle="oracle", n_resamples=100)
    values = {
        "title": "A <title>", "question": "First & asked.\n\nThen asked.", "noun": "arm", "audio_root": root,
        "arms": [ArmText("plain", "Plain", "plain training", "All count the same."),
                 ArmText("barrier", "Barrier", "the barrier", "Flat counts less.")],
        "captions": {"prompt-0": "a “celesta” <script>alert(1)</script>"}, "listen": 80,
        "curves": [("Loss", "loss", [Series("Plain", [0, 1, 2], [3.0, 2.0, 1.5])])],
        "configuration": "steps: 400\n", "versions": {"eisbach": "0"}, "commands": ["eisbach demo"],
        "notes": [*limits(results, rows), "A note."], "skipped": [Skipped("x.wav", "broken.")],
    }  # fmt: skip
    return ComparisonPage(sets_of_results(rows, results, "Matched by prompt."), **(values | changes))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    path = write_comparison_page(root / "report", page_of(root, make(root)))
    assert path == root / "report/index.html"
    return path.read_text()


def test_the_page_is_well_formed_and_asks_nothing_of_the_network(page):
    parsed = Page(page)
    for tag, attrs in parsed.tags:
        for key in ("src", "href"):
            assert attrs.get(key, "#").startswith(("#", "data:")), (tag, attrs)
    assert not re.search(r"https?://|@import|url\(", page)
    assert [attrs["lang"] for attrs in parsed.named("html")] == ["en"]
    ids = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for attrs in parsed.named("a"):
        assert attrs["href"][1:] in ids
    for attrs in parsed.named("button"):
        assert attrs.get("aria-controls", ids[0]) in ids


def test_a_measure_of_which_hardly_any_clip_has_a_value_limits_itself_alone(tmp_path):
    """Six trained models an arm, and a further measure with a value in two of them: the others can still show much."""
    rows = make(tmp_path, models=range(6), audio=False)
    further = MetricInfo("rare", "rarely there", primary=False)
    for row in rows:
        row["rare"] = float(row["level"]) if row["train_seed"] < 2 else None
    said = limits(evaluate(rows, [*METRICS, further], "plain", n_resamples=100), rows)
    assert not any("smallest possible p" in note for note in said)
    assert "Up to 48 clips of a comparison (rarely there) had no partner or no value and were left out of it." in said
    deciding = replace(further, primary=True)  # even then the others can
    said = limits(evaluate(rows, [*METRICS, deciding], "plain", n_resamples=100), rows)
    assert not any("smallest possible p" in note for note in said)
    few = [row for row in rows if row["train_seed"] < 2]
    said = limits(evaluate(few, [*METRICS, further], "plain", n_resamples=100), few)
    assert any(note.startswith("With 2 trained models an arm the smallest possible p is") for note in said)


def test_everything_that_should_be_said_is_said_in_order(page):
    text = Page(page).text
    assert text.index("First & asked.") < text.index("Then asked.") < text.index("The verdict")
    ids = [attrs["id"] for _, attrs in Page(page).tags if str(attrs.get("id", "")).endswith("-h")]
    assert ids == [
        f"{name}-h" for name in ("verdict", "numbers", "arms", "listen", "pictures", "curves", "measures", "files")
    ]
    for words in (
        "Flat counts less.",
        "How <loud>.",
        "Matched by prompt.",
        "eisbach demo",
        "steps: 400",
        "A note.",
        "x.wav: broken.",
    ):
        assert words in text
    assert "One trained model an arm" in text


def test_texts_are_escaped(page):
    assert "<script>alert" not in page
    assert "<title>A &lt;title&gt;</title>" in page


def test_every_clip_can_be_heard_and_seen_by_name(page):
    parsed = Page(page)
    players = parsed.named("audio")
    assert len(players) == 18
    for attrs in players:
        assert attrs["preload"] == "none"
        assert "controls" in attrs
        sound, rate = sf.read(io.BytesIO(base64.b64decode(attrs["src"].split(",")[1])))
        assert len(sound) / rate == pytest.approx(1.0, abs=0.15)
    labels = {attrs["aria-label"] for attrs in players}
    assert len(labels) == 18
    assert "Barrier, prompt-2, seed 1" in labels
    pictures = [attrs["alt"] for attrs in parsed.named("img") if "width" in attrs]
    assert len(pictures) == 18
    assert all("of a clip of 1 seconds" in alt for alt in pictures)
    assert parsed.text.count("judged flat") + parsed.text.count("judged developing") == 18


def test_charts_and_tables_do_not_rest_on_colour(page):
    parsed = Page(page)
    assert all(attrs.get("aria-label") for attrs in parsed.named("svg") if attrs.get("role") == "img")
    assert len(parsed.named("caption")) == len(parsed.named("table")) - 1  # the table of every clip has a heading
    assert "? not clear" in parsed.text or "▲ better" in parsed.text
    assert parsed.text.count("baseline") >= 2


def test_missing_audio_and_missing_clips_are_said_not_hidden(tmp_path):
    rows = make(tmp_path, prompts=2, seeds=(1,))
    (tmp_path / rows[0]["path"]).unlink()
    rows = [row for row in rows if not (row["arm"] == "barrier" and row["prompt_id"] == "prompt-1")]
    parsed = Page(render_comparison_page(page_of(tmp_path, rows)))
    assert "The audio file is missing or cannot be read." in parsed.text
    assert "This arm has no such clip." in parsed.text
    assert "had no partner" in parsed.text
    assert len(parsed.named("audio")) == 4


def test_several_trainings_show_both_claims_and_play_the_first(tmp_path):
    rows = make(tmp_path, models=(3, 4, 5))
    parsed = Page(render_comparison_page(page_of(tmp_path, rows, pictures=False)))
    assert "each trained model counts once" in parsed.text
    assert "the smallest possible p is 0.1" in parsed.text
    assert "Only the first training seed of each arm is played here" in parsed.text
    assert len(parsed.named("audio")) == 18
    assert parsed.named("img") == []


def test_unpaired_arms_and_a_bare_context_make_a_page(tmp_path):
    rows = [row | {"prompt_id": f"{row['arm']}-{row['prompt_id']}"} for row in make(tmp_path, seeds=(1,))]
    results = evaluate(rows, METRICS, "plain", paired=False, n_resamples=100)
    bare = ComparisonPage(sets_of_results(rows, results, ""), noun="arm", audio_root=tmp_path, pictures=False)
    parsed = Page(render_comparison_page(bare))
    assert "not matched" in parsed.text
    assert "plain-prompt-0" in parsed.text
    assert len(parsed.named("audio")) == 9


def test_one_clip_an_arm_says_that_nothing_is_proved(tmp_path):
    rows = make(tmp_path, prompts=1, seeds=(1,))
    text = Page(render_comparison_page(page_of(tmp_path, rows))).text
    assert "one prompt only" in text
    assert "prove nothing" in text


def test_a_page_without_metrics_or_place_is_refused(tmp_path):
    rows = make(tmp_path, prompts=1, seeds=(1,), audio=False)
    with pytest.raises(UserError, match="no metric"):
        render_comparison_page(page_of(tmp_path, rows, results=evaluate(rows, [], "plain")))
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        write_comparison_page(tmp_path / "file", page_of(tmp_path, rows, pictures=False))


def test_takes_keep_arms_together_and_every_prompt_before_second_seeds(tmp_path):
    rows = make(tmp_path, audio=False)
    groups = plan_takes(rows, ARMS, {}, 12)
    assert [len(group.takes) for group in groups] == [2, 1, 1]
    assert all(None not in take.clips for group in groups for take in group.takes)
    assert sum(len(take.clips) for group in plan_takes(rows, ARMS, {}, 80) for take in group.takes) == 18


def test_what_is_left_out_is_said(tmp_path):
    rows = make(tmp_path)
    some = Page(render_comparison_page(page_of(tmp_path, rows, listen=12, pictures=False)))
    assert "12 of 18 clips are on this page" in some.text
    assert "The statistics use all 18 clips." in some.text
    assert len(some.named("audio")) == 12
    whole = Page(render_comparison_page(page_of(tmp_path, rows, pictures=False)))
    assert "All clips are here." in whole.text


def test_embedded_audio_keeps_to_its_budget(tmp_path):
    paths = []
    for index in range(4):
        path = tmp_path / f"{index}.wav"
        noise = 0.2 * np.random.default_rng(index).standard_normal((2, 44_100 * 5)).astype(np.float32)
        write_audio(path, Waveform(noise, 44_100))
        paths.append(path)
    roomy = sum(len(one.uri) for one in embed_all(paths, budget=10_000_000))
    tight = sum(len(one.uri) for one in embed_all(paths, budget=120_000))
    assert tight < 135_000 < roomy
    assert embed(tmp_path / "none.wav").fault
    assert embed(paths[0]).seconds == pytest.approx(5.0)


def decoded(audio):
    return sf.read(io.BytesIO(base64.b64decode(audio.uri.split(",")[1])), always_2d=True)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_page_keeps_what_its_bit_rate_can_carry(tmp_path, encoding):
    time = np.arange(2 * 44_100) / 44_100
    both = 0.3 * np.stack([np.sin(2 * np.pi * 440 * time), np.sin(2 * np.pi * 9_000 * time)]).astype(np.float32)
    write_audio(tmp_path / "two.wav", Waveform(both, 44_100))
    write_audio(tmp_path / "one.wav", Waveform(both[:1], 44_100))
    write_audio(tmp_path / "five.wav", Waveform(np.repeat(both[:1], 5, axis=0), 44_100))
    two, one, five = (embed(tmp_path / f"{name}.wav", encoding) for name in ("two", "one", "five"))
    samples, rate = decoded(two)
    assert (samples.shape[1], rate) == (encoding.channels, encoding.sample_rate)
    assert decoded(one)[0].shape[1] == decoded(five)[0].shape[1] == 1
    assert len(two.uri) * 0.75 * 8 / 2 == pytest.approx(encoding.bit_rate, rel=0.1)
    assert len(one.uri) == pytest.approx(len(two.uri) * (2 / 3 if encoding.channels == 2 else 1), rel=0.05)
    spectrum = np.abs(np.fft.rfft(samples[:, -1]))
    low, high = (spectrum[np.argmin(np.abs(np.fft.rfftfreq(len(samples), 1 / rate) - f))] for f in (440, 9_000))
    if encoding.channels == 2:  # each channel is its own
        assert low < 0.05 * high
    elif encoding.bit_rate > 40_000:
        assert low == pytest.approx(high, rel=0.2)


def test_encodings_fall_with_the_length_of_a_page():
    said = [str(encoding_for(seconds)) for seconds in (0.0, 970.0, 1_400.0, 1_800.0, 3_000.0)]
    assert said == ["stereo, 32 kHz", "stereo, 32 kHz", "mono, 32 kHz", "mono, 32 kHz", "mono, 22 kHz"]
    assert encoding_for(seconds_of(ENCODINGS[0])) == ENCODINGS[0]
    assert encoding_for(1e6) == encoding_for(1.0, 1) == ENCODINGS[-1]


def test_a_minute_is_embedded_where_mp3_cannot_be_written(tmp_path, monkeypatch):
    formats = sf.available_formats()
    monkeypatch.setattr(sf, "available_formats", lambda: {key: formats[key] for key in formats if key != "MP3"})
    path = tmp_path / "long.wav"
    noise = 0.2 * np.random.default_rng(0).standard_normal((1, 8_000 * 70)).astype(np.float32)
    write_audio(path, Waveform(noise, 8_000))
    head, text = embed(path).uri.split(",")
    assert head == "data:audio/ogg;base64"
    with sf.SoundFile(io.BytesIO(base64.b64decode(text))) as sound:
        assert sound.frames == pytest.approx(32_000 * 70, rel=1e-3)


def test_an_experiment_plays_as_many_rows_as_sound_well():
    spec = load_spec("demo")
    row = 30 * (len(spec.arms) + spec.reference.heard)
    heard = clips_heard(spec)
    assert heard == 4 * len(spec.arms)
    assert encoding_for(heard / len(spec.arms) * row) == ENCODINGS[0]
    assert clips_heard(load_spec("demo", ["generation.duration=120"])) == 2 * len(spec.arms)
    assert clips_heard(load_spec("demo", ["generation.duration=5"])) == 80


def test_a_persons_clips_are_heard_wide_and_the_codec_in_stereo(tmp_path):
    rng = np.random.default_rng(0)
    for name, seconds in (("long", 90), ("short", 8), ("before", 6), ("after", 6)):
        noise = 0.1 * rng.standard_normal((2, 16_000 * seconds)).astype(np.float32)
        write_audio(tmp_path / f"{name}.wav", Waveform(noise, 16_000))
    clips = [
        {
            "name": name,
            "path": f"{name}.wav",
            "weight": weight,
            "flat_probability": 0.2,
            "kind": "none",
            "tags": ["drums"],
        }
        for name, weight in (("long", 1.4), ("short", 0.6))
    ]  # fmt: skip
    material = {
        "clips": 2, "train": 2, "held_out": 0, "minutes": 1.6, "seconds": [8.0, 49.0, 90.0], "looked_at": 2, "flat": 0,
        "stretch": 90.0, "kinds": {"none": 2}, "styles": {"drums": 2}, "weighed": clips,
        "through_codec": {"name": "before", "path": "before.wav", "seconds": 6.0, "decoded": "after.wav",
                          "sample_rate": 32_000},
    }  # fmt: skip
    section = material_section(material, tmp_path)
    (long,), (short,) = section["favoured"], section["passed_over"]
    assert long["player"].audio.seconds == pytest.approx(30.0, abs=0.1)
    assert long["said"].endswith("drums; heard here: the first 0:30")
    assert "heard here" not in short["said"]
    pair = [section["codec"][side].audio for side in ("original", "decoded")]
    assert [str(audio.encoding) for audio in pair] == ["stereo, 32 kHz"] * 2
    assert pair[0].seconds == pytest.approx(6.0, abs=0.1)
    assert dict(section["facts"])["Judged flat"].startswith("0 of 2 stretches of 90 s.")
    without = material_section(material | {"through_codec": None, "weighed": []}, tmp_path)
    assert (without["codec"], without["favoured"], without["passed_over"]) == (None, [], [])


def test_the_music_held_against_is_drawn_beside_the_sets_in_ink():
    def sketch(level):
        energy = [level] * 64
        return {"energy": energy, "spread": energy, "scales": [1.0, 2.0, 3.0], "strengths": [0.1, level / 10, 0.1]}

    sets = [("plain", sketch(1.0)), ("plain", sketch(2.0)), ("new", sketch(3.0))]

    def drawn(picture):
        return base64.b64decode(picture.uri.partition(",")[2]).decode()

    beside = group_pictures([*sets, ("your music", sketch(4.0))], "your music")
    for picture, alone in zip(beside, group_pictures(sets), strict=True):
        assert "your music" in picture.alt
        assert drawn(picture).count(f"stroke: {INK}") > drawn(alone).count(f"stroke: {INK}")
        assert COLOURS[2] not in drawn(picture)  # no third set is there
