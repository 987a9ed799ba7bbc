"""Every page in a real browser, on a phone and on a desk, in light and in dark."""

from __future__ import annotations

from pathlib import Path

import pytest
from page_cases import PAGES
from page_checks import chromium, page_faults

import eisbach.report

_ALL_PARTS = "['intro', 'pair', 'end'].forEach(name => { document.getElementById(name).hidden = false; })"


@pytest.fixture(scope="module")
def browser():
    with chromium() as opened:
        yield opened


LONG = ("experiment", "probe", "signature", "study_digits")
"""The pages that take longest to make: CI looks at what they say, `make test-all` at them in the browser."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in PAGES]
)
@pytest.mark.whole
def test_a_page_can_be_read_by_everybody(browser, tmp_path, name):
    page = PAGES[name](tmp_path)
    assert page_faults(browser, page, _ALL_PARTS if name == "listen" else "") == []


def test_no_kind_of_page_is_forgotten():
    folder = Path(eisbach.report.__file__).parent / "templates"
    kinds = {file.name.split(".")[0] for file in folder.glob("*.html.j2") if "{% extends" in file.read_text("utf-8")}
    # analyses, experiments and compared checkpoints are one template; the toy's page is checked where it is made
    made = {name.removeprefix("study_") for name in PAGES} - {"analysis", "experiment"} | {"comparison", "toy"}
    assert kinds == made


@pytest.mark.whole
def test_the_check_finds_what_it_looks_for(browser, tmp_path):
    page = tmp_path / "bad.html"
    page.write_text(
        '<!DOCTYPE html><html lang="en"><head><title>x</title></head><body><main><h1>x</h1><h3>y</h3>'
        '<div style="overflow-x: auto; width: 300px"><p style="width: 900px; font-size: 10px">small</p></div>'
        '<p style="width: 1300px; color: #bbb; background: #fff">pale</p><img alt="none" src="data:,">'
        "</main></body></html>"
    )
    found = " ".join(page_faults(browser, page))
    for words in ("not drawn", "small", "no key reaches", "wider than the window", "heading-order", "color-contrast"):
        assert words in found


@pytest.mark.whole
def test_a_scrolling_table_moves_by_key_and_a_phone_opens_one_group(browser, tmp_path):
    tab = browser.new_page(viewport={"width": 760, "height": 800})
    tab.goto(PAGES["signature"](tmp_path / "signature").as_uri())
    tab.evaluate("document.querySelector('#numbers .scroll').focus()")
    tab.keyboard.press("ArrowRight")
    tab.wait_for_function("document.querySelector('#numbers .scroll').scrollLeft > 0")
    tab.set_viewport_size({"width": 400, "height": 800})
    assert tab.evaluate("document.querySelector('#numbers table').scrollWidth") <= 400  # row by row, nothing to scroll
    assert "half at t" in tab.evaluate(
        "getComputedStyle(document.querySelector('#numbers td:nth-child(7)'), '::before').content"
    )
    tab.close()
