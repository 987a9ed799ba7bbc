"""Watching a training: what its log says, what looks wrong, and a page that keeps up without losing a playing sound."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from eisbach.audio import audio_hash, write_audio
from eisbach.data.manifest import Manifest, ManifestRow, save_manifest
from eisbach.errors import UserError
from eisbach.report.run.page import watch_app, write_watch_page
from eisbach.report.run.state import find_runs, read_run
from eisbach.types import Waveform

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def _run(folder: Path, losses, *, held=(), weighting="none", steps=200, spread=0.3, share=0.8) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(f"steps: {steps}\nweighting: {{sample: {weighting}}}\n")
    rows = [
        {"step": 10 * (index + 1), "loss": loss, "weight_cv": spread, "effective_sample_share": share,
         "belief_mean": 0.4, "steps_per_second": 2.0}
        for index, loss in enumerate(losses)
    ]  # fmt: skip
    rows += [{"step": int(step), "held_out_loss": value, "held_out_loss_t0.5": value} for step, value in held]
    rows.sort(key=lambda row: row["step"])
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _demo(folder: Path, step: int, names=("low", "high")) -> None:
    place = folder / "samples" / f"step-{step}"
    lines = []
    for index, name in enumerate(names):
        sound = 0.1 * np.sin(np.arange(4 * 8000) * 0.1 * (index + 1))
        write_audio(place / f"{name}.wav", Waveform(sound[None].astype(np.float32), 8000))
        row = {"id": name, "path": f"{name}.wav", "caption": f"{name} <b>strings</b>", "duration": 4.0}
        lines.append(json.dumps({**row, "labels": {"prompt_id": name, "seed": "0"}}))
    (place / "manifest.jsonl").write_text("\n".join(lines) + "\n")


FALLING = np.linspace(1.2, 0.8, 20) + 0.01 * np.sin(np.arange(20))
FLAT = 1.0 + 0.05 * np.sin(np.arange(20) * 2.1)


@pytest.mark.parametrize(
    ("losses", "options", "words"),
    [
        (FALLING, {}, None),
        (FALLING, {"weighting": "entropy_barrier"}, None),
        (FLAT, {}, "has not fallen"),
        (FALLING[::-1], {}, "has risen"),
        (FALLING, {"held": [(0, 1.0), (50, 1.05), (100, 1.01)]}, "No step was better than the base model"),
        (FALLING, {"held": [(0, 1.0), (50, 0.95), (100, 1.01)]}, None),
        (FALLING, {"held": [(0, 1.0), (100, 1.0004)]}, "does next to nothing"),
        (FALLING, {"held": [(0, 1.0), (100, 0.97)]}, None),
        (FALLING, {"weighting": "entropy_barrier", "spread": 0.0}, "All weights are equal"),
        (FALLING, {"spread": 0.0}, None),
        (FALLING, {"weighting": "recurrence_barrier", "share": 0.1}, "as much as 10% of the clips"),
        ([*FALLING[:-1], None], {}, "not a number"),
    ],
)
def test_what_looks_wrong_is_said_and_nothing_else(tmp_path, losses, options, words):
    state = read_run("run", _run(tmp_path / "run", losses, **options))
    assert len(state.troubles) == (words is not None)
    if words:
        assert words in state.troubles[0]


def test_a_held_out_loss_that_rises_names_its_lowest_step(tmp_path):
    held = [(0, 1.0), (50, 0.9), (100, 0.85), (150, 0.88), (200, 0.95)]
    state = read_run("run", _run(tmp_path, FALLING, held=held))
    assert "lowest at step 100 (0.8500) and is 0.9500 now" in state.notes[0]
    assert read_run("run", _run(tmp_path, FALLING, held=held[:3])).notes == []


def test_status_and_time_left(tmp_path):
    folder = _run(tmp_path, FALLING, steps=400)
    assert read_run("run", folder).status == "stopped"
    with (folder / ".lock").open("w") as handle:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX)
        state = read_run("run", folder)
        assert (state.status, state.seconds_left) == ("running", 100.0)
    (folder / "result.json").write_text("{")  # being written
    assert read_run("run", folder).status == "stopped"
    (folder / "result.json").write_text("{}")
    assert read_run("run", folder).status == "finished"


def test_a_log_that_is_being_written_and_half_a_checkpoint_are_no_faults(tmp_path):
    folder = _run(tmp_path, FALLING)
    whole = read_run("run", folder)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 999, "lo')
    (folder / "checkpoints" / "step-000100").mkdir(parents=True)
    (folder / "samples" / "step-100").mkdir(parents=True)
    assert read_run("run", folder) == whole
    _run(tmp_path / "young", [])
    (tmp_path / "young" / "metrics.jsonl").unlink()
    assert read_run("young", tmp_path / "young").status == "not begun"


def test_runs_of_an_experiment_are_found_and_told_apart(tmp_path):
    for arm in ("plain", "barrier"):
        for seed in (0, 1):
            _run(tmp_path / "exp" / "arms" / arm / f"seed-{seed}" / "train", FALLING)
    (tmp_path / "exp" / "experiment.yaml").write_text("title: x\n")
    _run(tmp_path / "alone", FALLING)
    names = find_runs([tmp_path / "exp", tmp_path / "alone"])
    assert list(names) == ["barrier/seed-0", "barrier/seed-1", "plain/seed-0", "plain/seed-1", "alone"]
    with pytest.raises(UserError, match="neither a training run"):
        find_runs([tmp_path])


def test_a_static_page_holds_its_demos_and_escapes_captions(tmp_path):
    folder = _run(tmp_path / "run", FALLING, held=[(0, 1.0), (100, 0.9)])
    _demo(folder, 100)
    _demo(folder, 200, ("low",))
    text = write_watch_page([folder], tmp_path / "page.html").read_text()
    assert text.count("data:audio/") == 3
    assert "<b>strings" not in text
    assert "low &lt;b&gt;strings" in text
    assert "setInterval(ask" in text
    assert "watch(5000)" not in text
    assert re.search(r'id="demo-0-1-200">\s*<span class="soft">none', text)


def test_only_demos_are_served(tmp_path):
    pytest.importorskip("starlette")
    from starlette.testclient import TestClient

    folder = _run(tmp_path / "run", FALLING)
    _demo(folder, 100)
    (folder / "samples" / "step-100" / "secret.wav").write_bytes(b"x")
    outside = {"id": "out", "path": "../../config.yaml", "caption": "", "duration": 1.0}
    with (folder / "samples" / "step-100" / "manifest.jsonl").open("a") as file:
        file.write(json.dumps(outside) + "\n")
    before = sorted(str(path) for path in folder.rglob("*"))
    client = TestClient(watch_app([folder]))
    assert "watch(5000)" in client.get("/").text
    assert client.get("/demo/0/100/low.wav").content[:4] == b"RIFF"
    for address in ("/demo/0/100/secret.wav", "/demo/0/100/config.yaml", "/demo/1/100/low.wav", "/demo/0/7/low.wav",
                    "/demo/0/100/..%2f..%2fconfig.yaml", "/config.yaml"):  # fmt: skip
        assert client.get(address).status_code == 404
    (folder / "config.yaml").write_text("{")
    assert "is not" in client.get("/").text or "cannot" in client.get("/").text  # said on the page, which goes on
    assert sorted(str(path) for path in folder.rglob("*")) == before


def _weighing(root: Path) -> Path:
    """A run that logs its samples, with the set that it trains on, and demos that were measured."""
    folder = _run(root / "run", FALLING, weighting="entropy_barrier")
    rows = []
    for index in range(9):
        path = root / "music" / f"c{index}.wav"
        write_audio(path, Waveform(0.1 * np.sin(np.arange(4000) * 0.1 * (index + 1))[None].astype(np.float32), 8000))
        caption = f"song {index} <script>alert(1)</script>"
        split = "held_out" if index == 8 else "train"
        rows.append(ManifestRow(f"c/{index} ü", path.name, caption, 0.5, {}, audio_hash(path), split))
    save_manifest(Manifest(rows, root / "music"))
    values = {"steps": 200, "weighting": {"sample": "entropy_barrier"}, "data": {"manifest": str(root / "music")}}
    (folder / "config.yaml").write_text(json.dumps(values))
    log = [
        {"step": step, "id": f"c/{index} ü", "t": 0.5, "weight": 0.25 * index} for step in (1, 2) for index in range(8)
    ]
    once = {"step": 3, "id": "c/8 ü", "t": 0.5, "weight": 99.0}
    lines = [json.dumps(row) for row in (*log, once, {"step": 3, "id": "gone", "weight": 1.0})]
    (folder / "sample_log.jsonl").write_text("\n".join(lines) + '\n{"step": 4, "id": "c/0', encoding="utf-8")
    _demo(folder, 100)
    place = folder / "samples" / "step-100"
    for name, flat, letters in (("low", True, ["A", "B", "A′"]), ("high", False, [])):
        with (place / "records.jsonl").open("a") as file:
            file.write(json.dumps({"path": f"elsewhere/{name}.wav", "is_flat": flat, "flat_loop": 0.9}) + "\n")
        with (place / "details.jsonl").open("a") as file:
            file.write(json.dumps({"path": f"elsewhere/{name}.wav", "sections": {"labels": letters}}) + "\n")
    return folder


def test_the_clips_that_weigh_most_and_least_are_named_and_played(tmp_path):
    pytest.importorskip("starlette")
    from starlette.testclient import TestClient

    folder = _weighing(tmp_path)
    state = read_run("run", folder)
    assert [(clip.id, clip.weight, clip.looks) for clip in state.clips] == [
        (f"c/{index} ü", 0.25 * index, 2) for index in (7, 6, 5, 2, 1, 0)
    ]
    client = TestClient(watch_app([folder]))
    text = client.get("/").text
    addresses = re.findall(r'src="(clip/[^"]+)"', text)
    assert len(addresses) == 6
    assert all(client.get(f"/{address}").content[:4] == b"RIFF" for address in addresses)
    assert client.get(addresses[0].replace("7", "4")).status_code == 404  # it is not on the page
    assert "<script>alert(1)" not in text
    page = write_watch_page([folder], tmp_path / "page.html").read_text()
    assert page.count("data:audio/") == 2 + 6
    (folder / "sample_log.jsonl").unlink()
    assert "log_samples: {every: 10}" in client.get("/").text
    (tmp_path / "music" / "manifest.jsonl").write_text("{")
    assert read_run("run", folder).clips == []


def test_a_demo_says_what_was_heard_in_it(tmp_path):
    clips = {clip.key: clip for clip in read_run("run", _weighing(tmp_path)).demos[100]}
    assert (clips["low-0"].judged, clips["low-0"].form) == ("judged flat, a loop", "A B A′")
    assert (clips["high-0"].judged, clips["high-0"].form) == ("judged developing", "")
    text = write_watch_page([tmp_path / "run"], tmp_path / "page.html").read_text()
    assert "judged flat, a loop, form A B A′" in text


@pytest.mark.parametrize(
    ("captions", "words"), [(["", " "], "No clip has a caption"), (["x", "x"], "one caption"), (["x", "y"], None)]
)
def test_words_that_teach_nothing_are_said(tmp_path, captions, words):
    folder = _run(tmp_path / "run", FALLING)
    rows = []
    for index, caption in enumerate(captions):
        path = tmp_path / f"c{index}.wav"
        write_audio(path, Waveform(np.full((1, 800), 0.1 * (index + 1), np.float32), 8000))
        rows.append(ManifestRow(f"c{index}", path.name, caption, 0.1, {}, audio_hash(path), "train"))
    save_manifest(Manifest(rows, tmp_path))
    (folder / "config.yaml").write_text(json.dumps({"steps": 200, "data": {"manifest": [str(tmp_path)]}}))
    notes = read_run("run", folder).notes
    assert [words in note for note in notes] == ([True] if words else [])


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine (apt-get install chromium)")
@pytest.mark.whole
def test_the_page_keeps_up_and_keeps_a_playing_sound(tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    uvicorn = pytest.importorskip("uvicorn")
    folder = _run(tmp_path / "run", FALLING[:5])
    _demo(folder, 50)
    server = uvicorn.Server(uvicorn.Config(watch_app([folder]), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--mute-audio", "--autoplay-policy=no-user-gesture-required"],
        )
        tab = browser.new_page(viewport={"width": 380, "height": 700})
        tab.goto(f"http://127.0.0.1:{port}/")
        tab.evaluate("watch(300)")  # beside the page's own five seconds
        tab.evaluate("var a = document.querySelector('audio'); a.loop = true; a.play(); window.scrollTo(0, 200);")
        tab.wait_for_function("document.querySelector('audio').currentTime > 0")
        _run(folder, FALLING)
        _demo(folder, 150)
        tab.wait_for_function("document.body.innerText.includes('step 200 of 200')", timeout=15_000)
        assert tab.evaluate("!document.querySelector('audio').paused")
        assert tab.evaluate("window.scrollY") == 200
        tab.evaluate("document.querySelector('audio').pause()")
        tab.wait_for_function("document.querySelectorAll('audio').length === 4", timeout=15_000)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 380
        server.should_exit = True
        thread.join(10)
        tab.wait_for_function("document.body.innerText.includes('does not answer')", timeout=15_000)
        browser.close()
