"""Pictures draw every character for which a font is installed, whatever the font is called, and say once what none
has."""

from __future__ import annotations

import io
import warnings

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry
from matplotlib.image import imread

from eisbach.report import fonts
from eisbach.report.fonts import OWN_FAMILY, drawable, font_families, save_figure


def make_font(path, family, characters):
    """A font that draws each of the characters as a full block, and anything else as nothing."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 800), (1000, 800), (1000, 0)):
        pen.lineTo(point)
    pen.closePath()
    names = [".notdef", *(f"g{index}" for index in range(len(characters)))]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(character): f"g{index}" for index, character in enumerate(characters)})
    builder.setupGlyf({name: TTGlyphPen(None).glyph() if name == ".notdef" else pen.glyph() for name in names})
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWeightClass=400)
    builder.setupPost()
    builder.save(str(path))
    return str(path)


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """matplotlib with its own font and the fonts of a test: `listed` are in its list, `unlisted` only on the system."""

    def install(listed=(), unlisted=()):
        manager = font_manager.fontManager
        own = [entry for entry in manager.ttflist if entry.name == OWN_FAMILY or entry.name.startswith("Last Resort")]
        monkeypatch.setattr(manager, "ttflist", own)
        for family, characters in listed:
            manager.addfont(make_font(tmp_path / f"{family}.ttf", family, characters))
        files = [make_font(tmp_path / f"{family}.ttf", family, characters) for family, characters in unlisted]
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda: files)
        monkeypatch.setattr(fonts, "_looked_beyond", False)
        monkeypatch.setattr(fonts, "_coverage", {})
        monkeypatch.setattr(fonts, "_said", set())
        return manager

    yield install
    font_manager.fontManager._findfont_cached.cache_clear()  # it remembers files that go with the test


def test_plain_text_needs_matplotlibs_own_font_alone(installed):
    installed(listed=[("Everything", "abc音")])
    assert font_families(["Écoute: Ω ≥ 3 dB\n"]) == ([OWN_FAMILY], "")


@pytest.mark.parametrize("text", ["音楽", "음악", "संगीत", "דרור", "дщя音", "🎵"])
@pytest.mark.parametrize("where", ["listed", "unlisted"])
def test_a_font_is_found_by_what_it_draws(installed, text, where):
    characters = "".join(sorted(set(text)))
    installed(**{where: [("Nobody Knows This Name", characters)]})
    families, missing = font_families([text])
    assert missing == ""
    assert families[0] == OWN_FAMILY
    own = not any(ord(character) > 0x900 for character in text)  # Hebrew and Cyrillic are in matplotlib's own
    assert families[1:] == ([] if own else ["Nobody Knows This Name"])


def test_characters_are_shared_between_fonts_and_the_rest_is_named(installed):
    installed(listed=[("Small", "音"), ("Wide", "音楽"), ("Other", "曲"), ("Unneeded", "楽")])
    assert font_families(["音楽", "曲 水"]) == ([OWN_FAMILY, "Wide", "Other"], "水")


def test_the_shapes_of_the_language_are_taken_where_fonts_differ_in_nothing_else(installed):
    everything = "音楽あ한"
    installed(listed=[(f"Song CJK {region}", everything) for region in ("HK", "JP", "KR", "SC", "TC")])
    assert font_families(["音"])[0] == [OWN_FAMILY, "Song CJK SC"]
    assert font_families(["音あ"])[0] == [OWN_FAMILY, "Song CJK JP"]
    assert font_families(["音한"])[0] == [OWN_FAMILY, "Song CJK KR"]


def test_fonts_without_shapes_and_files_that_are_gone_are_no_help(installed, tmp_path):
    manager = installed(listed=[("Adobe Blank", "音")])
    torn = tmp_path / "torn.ttf"
    torn.write_bytes(b"\x00\x01\x00\x00 not a font")
    for name, file in (("Torn", torn), ("Gone", tmp_path / "gone.ttf")):
        manager.ttflist.append(FontEntry(str(file), 0, name, "normal", "normal", 400, "normal", "scalable"))
    assert font_families(["音"]) == ([OWN_FAMILY], "音")


def test_what_is_missing_is_said_once(installed, recwarn):
    installed(listed=[("Some", "音")])

    def draw(text):
        figure = Figure()
        FigureCanvasAgg(figure)
        figure.text(0.1, 0.5, text)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            save_figure(figure, io.BytesIO(), format="png")
        return [str(warning.message) for warning in caught]

    assert draw("音 ok") == []
    (message,) = draw("音 水 火")
    assert "水 (U+6C34), 火 (U+706B)" in message
    assert "Noto Sans CJK" in message
    assert "音" not in message
    assert draw("水 火") == []
    assert len(draw("木")) == 1


def test_the_character_is_drawn_with_the_font_that_was_found(installed):
    installed(unlisted=[("Full Block", "音")])
    buffer = io.BytesIO()
    figure = Figure(figsize=(2, 2), dpi=50)
    FigureCanvasAgg(figure)
    figure.text(0.25, 0.25, "音", fontsize=50)
    save_figure(figure, buffer, format="png", dpi=50)
    buffer.seek(0)
    dark = (imread(buffer)[..., 0] < 0.1).mean()
    assert dark == pytest.approx(
        (1.0 * 0.8 * (50 / 72) ** 2) / 4.0, rel=0.15
    )  # an em wide, 0.8 high, of four square inches


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("bad\udcff.wav", "bad\\xff.wav"),
        ("\ud800", "\\ud800"),
        ("a\x1b[31m\x00", "a\\x1b[31m\\x00"),
        ("tab\there\nline", "tab here\nline"),
        ("zero\u200bwidth\u202e", "zerowidth"),
        ("Ünï音🎵", "Ünï音🎵"),
    ],
)
def test_what_no_font_can_draw_becomes_text_that_can(text, shown):
    assert drawable(text) == shown


def test_an_installed_cjk_font_is_found():
    listed = [entry for entry in font_manager.fontManager.ttflist if "CJK" in entry.name or "Hei" in entry.name]
    if not listed:
        pytest.skip("no CJK font is installed (Debian: apt install fonts-noto-cjk)")
    families, missing = font_families(["音楽"])
    assert (len(families), missing) == (2, "")
