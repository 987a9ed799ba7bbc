"""The listening page in a real browser: answered by keyboard, left, taken up again, and scored from what it saves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from eisbach.audio import write_audio
from eisbach.report.listen.trials import ListeningPlan, make_test
from eisbach.report.listen.votes import score_votes
from eisbach.types import Waveform

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    root = tmp_path_factory.mktemp("browser")
    time = np.arange(5 * 22_050) / 22_050
    for index in range(2):
        for name, tone in (("plain", 300.0), ("barrier", 500.0)):
            sound = 0.2 * np.sin(2 * np.pi * (tone + 40 * index) * time * (1 + 0.1 * np.sin(time)))
            write_audio(root / name / f"p{index}.flac", Waveform(sound[None].astype(np.float32), 22_050))
    key, _ = make_test(
        ListeningPlan([root / "plain", root / "barrier"], root / "test", seconds=5.0, repeats=1, anchors=0)
    )
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--mute-audio", "--autoplay-policy=no-user-gesture-required"],
        )
        tab = browser.new_page(viewport={"width": 380, "height": 760})
        faults: list[str] = []
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.goto((root / "test" / "page" / "index.html").as_uri())
        yield tab, key, root / "test"
        browser.close()
        assert not faults


def _hear_both(tab) -> None:
    """Both sides, faster than a listener would."""
    tab.evaluate("document.querySelectorAll('audio').forEach(function (player) { player.defaultPlaybackRate = 4; })")
    for side, key in (("A", "1"), ("B", "2")):
        tab.keyboard.press(key)
        tab.evaluate(f"document.querySelector('#side-{side} audio').playbackRate = 4")
        name = f"#side-{side} .line span"
        tab.wait_for_function(f"parseFloat(document.querySelector('{name}').style.width) > 75", timeout=20_000)
    tab.keyboard.press("2")


@pytest.mark.whole
def test_a_whole_test_by_keyboard_is_what_the_score_reads(page, tmp_path: Path):
    tab, key, folder = page
    tab.click("#begin")
    tab.keyboard.press("Enter")
    assert "Still to do: hear A, hear B, answer" in tab.inner_text("#missing")
    for index in range(len(key.trials)):
        assert tab.inner_text("#test-h") == f"Pair {index + 1} of {len(key.trials)}"
        _hear_both(tab)
        for answer in "anb":
            tab.keyboard.press(answer)
        tab.keyboard.press("Enter")
        if index == 0:  # closed and opened again: nothing is lost
            tab.reload()
            assert tab.inner_text("#begin") == "Go on with pair 2"
            tab.click("#begin")
    assert tab.inner_text("#test-h") == "Done"
    with tab.expect_download() as download:
        tab.click("#save")
    votes = tmp_path / download.value.suggested_filename
    download.value.save_as(votes)
    assert "plain" not in votes.read_text()
    saved = json.loads(votes.read_text())
    assert all(pair["answers"] == {"develops": "A", "repeats": "none", "prefer": "B"} for pair in saved["pairs"])
    score = score_votes(folder, [votes])
    assert score.listeners[0].answered == 2
    # A repeat has its sides changed, so who always says A contradicts himself.
    assert (score.listeners[0].repeats_equal, score.listeners[0].repeats) == (1, 3)
    assert tab.evaluate("document.documentElement.scrollWidth") <= 380
