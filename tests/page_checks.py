"""What holds of every page, in a real browser: no fault that axe-core finds, nothing that runs off a phone's side, and
nothing that only a mouse can reach.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (400, 1280)
MODES = {"light": "", "dark": "runOnly: ['color-contrast']"}
"""Rules by mode: of what axe asks, only contrast can differ in the dark."""

_PLAIN = "resultTypes: ['violations'], selectors: false, iframes: false, preload: false"
_OPEN = "document.querySelectorAll('details').forEach(part => { part.open = true; })"
_UNREACHED = """[...document.querySelectorAll('body *')].filter(part => {
  const way = getComputedStyle(part).overflowX;
  return (way === 'auto' || way === 'scroll') && part.scrollWidth > part.clientWidth + 1 && part.tabIndex < 0;
}).map(part => part.outerHTML.slice(0, 120))"""
_EMPTY = """[...document.images].filter(image => !(image.complete && image.naturalWidth > 0))
  .map(image => image.alt.slice(0, 80))"""
_SMALL = """[...document.querySelectorAll('body *')].filter(part => part.checkVisibility() && part.tagName !== 'OPTION'
  && [...part.childNodes].some(node => node.nodeType === 3 && node.textContent.trim())
  && parseFloat(getComputedStyle(part).fontSize) < 12.5)
  .map(part => getComputedStyle(part).fontSize + ' ' + part.outerHTML.slice(0, 100))"""
_WIDER = """[...document.querySelectorAll('body *')].filter(part => {
  const box = part.getBoundingClientRect();
  return box.width > 0 && box.right > innerWidth + 1 && !part.closest('.scroll, pre');
}).slice(0, 5).map(part => part.outerHTML.slice(0, 120))"""


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser; the test is skipped, with a sentence, where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--mute-audio", "--autoplay-policy=no-user-gesture-required"],
        )
        yield browser
        browser.close()


def page_faults(browser: Any, path: Path, prepare: str = "") -> list[str]:
    """A sentence a fault of the page, over widths and light and dark.

    `prepare` is a script that is run once everything that folds was opened.
    """
    package = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    axe = (Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
    faults: list[str] = []
    for width in WIDTHS:
        tab = browser.new_page(viewport={"width": width, "height": 800})
        tab.on("pageerror", lambda error, found=faults: found.append(f"script: {error}"))
        tab.goto(path.as_uri())
        tab.evaluate(_OPEN)
        if prepare:
            tab.evaluate(prepare)
        tab.wait_for_timeout(50)
        for name, script in (("not drawn", _EMPTY), ("small", _SMALL), ("scrolls, and no key reaches it", _UNREACHED)):
            faults += [f"{width} px, {name}: {where}" for where in tab.evaluate(script)]
        if tab.evaluate("document.documentElement.scrollWidth") > width:
            faults += [f"{width} px, wider than the window: {where}" for where in tab.evaluate(_WIDER) or ["the page"]]
        tab.evaluate(axe)
        for mode, rules in MODES.items():
            tab.emulate_media(color_scheme=mode)
            found = tab.evaluate(f"axe.run(document, {{{_PLAIN}, {rules}}})")
            faults += [
                f"{width} px, {mode}: {rule['impact']} {rule['id']}, {len(rule['nodes'])} times: "
                f"{rule['nodes'][0]['html'][:160]} ({(rule['nodes'][0]['failureSummary'] or '')[:200]})"
                for rule in found["violations"]
            ]
        tab.close()
    return faults
