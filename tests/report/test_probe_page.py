import io
import itertools
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

sys.path.insert(0, str(Path(__file__).parents[1] / "diagnostics"))

from probe_cases import make_result

from eisbach.diagnostics.probe.explain import explain
from eisbach.diagnostics.probe.verdict import verdict
from eisbach.report.probe import number_tables, probe_pictures, weighting_name, write_probe_page

ALL = ["levels", "auc"]


class Page(HTMLParser):
    """Checks nesting and keeps tags and visible words."""

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

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if "style" not in self.stack:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def probed():
    result = make_result("loudness", clips=24)
    result.setup["skipped"] = [{"item": "bad.wav", "reason": "it is <empty>"}]
    explanation = explain(result, resamples=60)
    return result, explanation, verdict(explanation)


@pytest.fixture(scope="module")
def page(probed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    path = write_probe_page(*probed, folder, command="eisbach probe --data 'my music'")
    return path, path.read_text(encoding="utf-8")


def test_the_page_holds_everything_and_asks_nothing_of_the_network(page, probed):
    path, text = page
    shown = Page(text)
    _, _, said = probed
    assert said.headline in shown.text
    for sentence in said.sentences:
        assert " ".join(sentence.split()) in shown.text
    assert "normalisation: mean1" in shown.text
    assert "eisbach probe --data 'my music'" in shown.text
    assert "bad.wav: it is <empty>" in shown.text
    images = [attrs for tag, attrs in shown.tags if tag == "img"]
    assert len(images) == len(ALL)
    assert all(image["src"].startswith("data:image/png;base64,") and image["alt"] for image in images)
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", text)
    assert sorted(file.stem for file in (path.parent / "pictures").glob("*.png")) == sorted(ALL)


def test_every_picture_is_drawn_and_not_blank(probed):
    _, explanation, _ = probed
    pictures = probe_pictures(explanation)
    assert [picture.name for picture in pictures] == ALL
    for picture in pictures:
        pixels = imread(io.BytesIO(picture.png))
        assert pixels.shape[0] > 100
        assert float(np.std(pixels[..., :3])) > 0.03
        assert picture.caption.endswith(".")
        assert picture.alt.endswith(".")


def test_every_table_that_may_scroll_is_reached_by_keyboard_and_headings_skip_no_rank(page):
    tags = Page(page[1]).tags
    regions = [attrs for tag, attrs in tags if tag == "div" and attrs.get("class") == "scroll"]
    assert len(regions) == sum(tag in ("table", "img") for tag, _ in tags) >= 6
    assert all((attrs["tabindex"], attrs["role"]) == ("0", "region") and attrs["aria-label"] for attrs in regions)
    ranks = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h[1-6]", tag)]
    assert ranks[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(ranks))


def test_pictures_without_numbers_are_left_out(tmp_path):
    bare = make_result("nothing", clips=5, sample="none", noise_level="min_snr", kinds=False)
    bare.gradients.clear()
    explanation = explain(bare)
    assert [picture.name for picture in probe_pictures(explanation)] == ["levels"]
    text = Page(write_probe_page(bare, explanation, verdict(explanation), tmp_path).read_text("utf-8")).text
    assert "What min snr would do" in text


def test_a_single_level_and_a_label_with_odd_letters_can_be_drawn(tmp_path):
    result = make_result("structure", clips=14, levels=(0.3,), kinds=False)
    for index, row in enumerate(result.rows):
        row["label.room"] = "$nass_{1}$ <b>" if index % 2 else "trocken 乾"
    explanation = explain(result, label="room", resamples=30)
    text = write_probe_page(result, explanation, verdict(explanation), tmp_path).read_text("utf-8")
    assert {"levels", "auc"} <= {file.stem for file in (tmp_path / "pictures").iterdir()}
    assert "<b>" not in re.sub(r"<b>(By|What|AUC|Belief|Noise|The)", "", text)
    assert "$nass_{1}$ <b>" in Page(text).text


def test_tables_hold_what_the_explanation_holds(probed):
    _, explanation, _ = probed
    tables = {table.title: table for table in number_tables(explanation)}
    levels = tables["By noise level"]
    assert [row[0] for row in levels.rows] == [f"{one.t:g}" for one in explanation.levels]
    shares = tables["Noise level or clip?"].rows
    assert [row[0] for row in shares] == ["as trained", "sample weight"]
    assert float(shares[0][1].partition("%")[0]) == pytest.approx(100 * explanation.variance.level.value, abs=0.5)
    measures = [m for prediction in explanation.predictions for m in prediction.measures]
    assert [row[0] for row in tables["The barrier paper's predictions"].rows] == [name for name, _ in measures]
    assert "Turned up by 6 dB" not in tables  # there was no experiment
    assert all(len(row) == len(table.head) for table in tables.values() for row in table.rows)
    assert len(tables["AUC of the sample weight"].rows) == 2


def test_names_of_weightings():
    assert weighting_name({"sample": "entropy_barrier", "noise_level": "min_snr"}) == "the entropy barrier with min snr"
    assert weighting_name({"sample": "none", "noise_level": "none"}) == "no weighting"
