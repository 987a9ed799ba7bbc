from __future__ import annotations

import itertools
import re
import struct
from dataclasses import replace

import numpy as np
import pytest

from eisbach.errors import UserError
from eisbach.report.figures import cosine_similarity, mel_frames
from eisbach.report.structure import figures, maps, style
from eisbach.report.structure.draw import Span, draw_sections, large_spans, pc1_share, section_spans
from eisbach.report.structure.style import PictureClip
from eisbach.structure.features import extract_features
from eisbach.structure.motif_map import MotifMap
from eisbach.structure.sets.clips import mean_spectrum
from eisbach.studies.ground_truth import synthetic
from eisbach.types import Waveform

FORM = extract_features(synthetic.form("ABAC", 7.0, 3))
DRONE = extract_features(synthetic.drone(2, 26.0))
SILENCE = extract_features(Waveform(np.zeros((1, 30_000), np.float32), 22050))
SHORT = extract_features(synthetic.drone(2, 1.0))
CLIPS = [PictureClip("form", FORM, "a"), PictureClip("drone", DRONE, "b")]


def texts(svg: bytes) -> list[str]:
    """Words of an SVG: they are text, not outlines."""
    return [re.sub(r"&#\d+;", "", word) for word in re.findall(r"<text[^>]*>([^<]*)</text>", svg.decode())]


@pytest.mark.parametrize("name", list(figures.KINDS))
@pytest.mark.whole
def test_every_figure_is_a_vector_with_real_text(name):
    svg = figures.KINDS[name].draw(CLIPS, form="svg")
    words = texts(svg)
    assert {"form", "drone"} & {word.split(",")[0] for word in words} or {"a", "b"} & {
        word.split(",")[0] for word in words
    }
    assert any("(" in word for word in words)  # some axis states its unit
    assert figures.KINDS[name].draw(CLIPS, form="svg") == svg  # the same picture is the same file


def test_a_png_has_300_dots_an_inch_and_a_pdf_embeds_its_fonts():
    png = figures.blocks_figure(CLIPS)
    width, _ = struct.unpack(">II", png[16:24])
    assert width == pytest.approx(style.PAGE * 0.72 * 300, abs=2)
    assert b"/FontFile2" in figures.blocks_figure(CLIPS, form="pdf")


@pytest.mark.parametrize("name", ["mel", "ssm", "trajectory", "steps", "scape", "motifs"])
@pytest.mark.whole
def test_silent_and_short_clips_have_a_panel_that_says_so(name):
    clips = [PictureClip("form", FORM), PictureClip("quiet", SILENCE), PictureClip("short", SHORT)]
    words = " ".join(texts(figures.KINDS[name].draw(clips, form="svg")))
    assert "quiet" in words
    assert "no sound" in words or "under" in words or "short" in words


@pytest.mark.parametrize("name", list(figures.KINDS))
def test_nothing_but_silence_is_refused(name):
    count = figures.KINDS[name].exactly or 1
    with pytest.raises(UserError, match="quiet is silent"):
        figures.KINDS[name].draw([PictureClip("quiet", SILENCE)] * count)


def test_counts_are_checked():
    with pytest.raises(UserError, match="needs 2 clips"):
        figures.baseline_figure(CLIPS[:1])
    with pytest.raises(UserError, match="1 to 12"):
        figures.mel_figure([])
    with pytest.raises(UserError, match="8 groups"):
        figures.spectrum_figure([PictureClip(str(n), FORM, str(n)) for n in range(8)])
    with pytest.raises(UserError, match="no clip of short is 8 s long"):
        figures.blocks_figure([PictureClip("short", SHORT)])


def test_the_detected_letters_stand_over_the_matrix():
    letters = [span.letter for span in section_spans(FORM)]
    assert len(letters) >= 3
    words = texts(figures.ssm_figure(CLIPS[:1], form="svg"))
    assert [word for word in words if word in set(letters)] == letters


def test_spans_cover_the_clip_in_order():
    spans = section_spans(FORM)
    assert spans[0].start == pytest.approx(FORM.trimmed_start)
    assert spans[-1].end == pytest.approx(FORM.trimmed_start + FORM.duration)
    assert all(a.end == b.start for a, b in itertools.pairwise(spans))
    assert section_spans(SILENCE) == []


def test_parts_of_the_large_form_are_drawn_where_they_are_fewer_than_the_sections():
    sections = {"boundaries": [5.0, 9.0], "labels": ["A", "B", "A"], "large": [9.0], "large_labels": ["A", "B"]}
    end = FORM.trimmed_start + FORM.duration
    parts = large_spans(FORM, {"sections": sections})
    assert [(part.end, part.letter) for part in parts] == [(9.0, "A"), (end, "B")]
    assert large_spans(FORM, {"sections": sections | {"large": [5.0, 9.0], "large_labels": list("ABC")}}) == []
    assert large_spans(FORM, {"sections": sections | {"large": [], "large_labels": ["A"]}}) == []
    assert large_spans(SILENCE) == []


def test_the_share_of_pc1_stands_beside_surrogates():
    share = pc1_share(FORM)
    assert share is not None
    words = " ".join(texts(figures.trajectory_figure(CLIPS, form="svg")))
    assert share.text() in words
    rng = np.random.default_rng(1)
    wander = replace(FORM, texture=rng.standard_normal((240, 32)).cumsum(axis=0))
    walk = pc1_share(wander)
    assert walk is not None
    assert walk.clip == pytest.approx(walk.walk, abs=0.25)  # a random walk is no more than a random walk
    assert walk.walk > 0.4
    assert pc1_share(SHORT) is None


def test_the_mean_spectrum_ignores_gain_and_finds_the_tone():
    t = np.arange(22050 * 4) / 22050
    quiet, loud = (
        extract_features(Waveform((g * np.sin(2 * np.pi * 1000 * t)).astype(np.float32)[None], 22050))
        for g in (0.05, 0.8)
    )
    np.testing.assert_allclose(mean_spectrum(quiet)[0], mean_spectrum(loud)[0], atol=0.05)
    assert quiet.mel_hz[mean_spectrum(quiet)[0].argmax()] == pytest.approx(1000, rel=0.05)


def test_the_papers_matrix_is_the_cosine_of_mel_frames():
    frames, rate = mel_frames(FORM)
    assert rate == 10.0
    matrix = cosine_similarity(frames)
    i, j = 7, 100
    expected = frames[i] @ frames[j] / np.linalg.norm(frames[i]) / np.linalg.norm(frames[j])
    assert matrix[i, j] == pytest.approx(expected)
    assert figures.ssm_figure(CLIPS, view="mel", form="svg") != figures.ssm_figure(CLIPS, form="svg")


def motifs(pairs, shift=0):
    start = np.arange(0, 30, 0.25)
    match, recurs = np.full(len(start), np.nan), np.zeros(len(start), bool)
    for a, b, length in pairs:
        inside = (start >= a) & (start <= a + length - 4.0)
        match[inside], recurs[inside] = start[inside] + b - a, True
    return MotifMap(start, match, np.full(len(start), shift), recurs.astype(float), recurs, 4.0, 34.0)


def test_windows_that_return_together_are_one_passage():
    found = maps.motif_passages(motifs([(2.0, 18.0, 8.0), (18.0, 2.0, 8.0)]))
    assert [(one.start, one.to, one.length) for one in found] == [(2.0, 18.0, 8.0)]
    apart = maps.motif_passages(motifs([(0.0, 20.0, 5.0), (8.0, 26.0, 6.0)]))
    assert [(one.start, one.length) for one in apart] == [(0.0, 5.0), (8.0, 6.0)]
    assert maps.motif_passages(motifs([])) == []


def test_a_transposition_is_said_from_the_first_to_the_second_place():
    later = maps.motif_passages(motifs([(20.0, 2.0, 6.0)], shift=5))
    assert [(one.start, one.to, one.transposition) for one in later] == [(2.0, 20.0, -5)]


def test_endings_are_checked_and_titles_are_cut_in_the_middle():
    with pytest.raises(UserError, match="png, pdf, svg"):
        style.format_of("x.bmp")
    assert style.shorten("a" * 30 + "end", 10) == "aaaa…aaend"
    assert style.shorten("short", 10) == "short"


@pytest.mark.filterwarnings("ignore:Glyph .* missing from")
@pytest.mark.parametrize("name", list(figures.KINDS))
@pytest.mark.whole
def test_no_text_leaves_the_page(name, monkeypatch):
    long = "a_name_without_any_place_to_break_it_" * 4
    clips = [
        PictureClip(f"{long}1", FORM, f"{long}a"),
        PictureClip("平均律クラヴィーア曲集第一巻" * 4, FORM, "平均律" * 20),
    ]
    found = []

    def keep(figure, all_axes, out=None, *, form=None):
        data = style.render(figure, all_axes, out, form=form)
        found.append((figure.get_tightbbox(figure.canvas.get_renderer()), figure.get_size_inches()))
        return data

    monkeypatch.setattr(figures, "render", keep)
    for count in (1, 2) if figures.KINDS[name].exactly is None else (2,):
        figures.KINDS[name].draw(clips[:count])
    for box, (width, height) in found:
        assert box.x0 >= -0.02
        assert box.y0 >= -0.02
        assert box.x1 <= width + 0.02
        assert box.y1 <= height + 0.02


def test_a_common_time_axis_keeps_its_numbers_beside_a_clip_that_is_too_short():
    clips = [PictureClip("form", FORM), PictureClip("short", SHORT)]
    assert {"10", "20"} <= set(texts(figures.motifs_figure(clips, form="svg")))
    assert {"10", "20"} <= set(texts(figures.mel_figure([clips[0], PictureClip("quiet", SILENCE)], form="svg")))


def test_where_nothing_repeats_no_segment_is_ringed():
    from matplotlib.figure import Figure

    rings = []
    for clip in (FORM, extract_features(synthetic.form("AB", 9.0, 2))):
        axes = Figure().subplots()
        image = maps.draw_scape(axes, clip)
        rings.append((len(axes.lines), float(np.nanmax(image.get_array()))))
    assert rings[0][0] == 2
    assert rings[0][1] > 0
    assert all(lines == 0 for lines, top in rings if top == 0)


def test_many_sections_are_outlined_and_not_drawn_across():
    from matplotlib.figure import Figure

    for count, lines, outlines in ((4, 12, 0), (40, 0, 80)):
        edges = np.linspace(0.0, 28.0, count + 1)
        spans = [Span(float(a), float(b), "A") for a, b in itertools.pairwise(edges)]
        axes = Figure().subplots()
        draw_sections(axes, FORM, spans)
        assert (len(axes.lines), len(axes.patches)) == (lines, outlines)


def test_titles_count_ideographs_as_two_letters():
    assert style.shorten("平均律クラ", 10) == "平均律クラ"
    assert style.shorten("平均律クラヴィーア", 9) == "平均…ーア"
    assert style.shorten("abcdefghij", 5) == "ab…ij"
