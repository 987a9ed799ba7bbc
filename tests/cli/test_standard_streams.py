"""Output that cannot be encoded, written or heard costs neither the work nor a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

NAMES = ("音楽-café.wav", "Ωmega \u200b.wav", "plain.wav")
ENCODINGS = [
    pytest.param({"PYTHONIOENCODING": "cp1252"}, marks=pytest.mark.slow),
    pytest.param({"PYTHONIOENCODING": "latin-1"}, marks=pytest.mark.slow),
    {"PYTHONIOENCODING": "ascii"},
    pytest.param({"PYTHONIOENCODING": "cp437:strict"}, marks=pytest.mark.slow),
    pytest.param({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, marks=pytest.mark.slow),
    {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"},
]
DOCTORED = ({"PYTHONIOENCODING": "cp1252"}, ENCODINGS[-1])
"""Where `data doctor` is asked, too: it loads a model, which takes longer than all else here."""


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    """A folder of tones under names that few encodings have."""
    folder = tmp_path / "Lieder ☃"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        t = np.arange(22050 * 4) / 22050
        sf.write(folder / name, 0.3 * np.sin(2 * np.pi * (220 + 55 * number) * t) * np.sign(np.sin(9 * t)), 22050)
    return folder


def run(words: list[str], redirect: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = f'"$0" "$@" {redirect}'
    kept = {k: v for k, v in os.environ.items() if k not in ("LC_ALL", "LANG", "PYTHONIOENCODING", "PYTHONUTF8")}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command, sys.executable, *words],
        env={**kept, **environment},
        capture_output=True,
        check=False,
    )


def unharmed(done: subprocess.CompletedProcess[bytes]) -> None:
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    for words in (b"Traceback", b"Error", b"Exception ignored"):
        assert words not in done.stderr


_COMMANDS = """
import sys
from eisbach.cli.main import main
words = sys.argv[1:]
while words:
    end = words.index("then")
    sys.argv[1:], words = words[:end], words[end + 1 :]
    try:
        main()
    except SystemExit as said:
        if said.code:
            raise
"""
"""Each of the commands that "then" ends, in one process: they start alike, and what they import is read once."""


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
@pytest.mark.whole
def test_every_encoding_of_the_streams_and_the_locale(songs: Path, tmp_path: Path, encoding: dict[str, str]) -> None:
    out = tmp_path / "out ☃"
    commands = [
        ["data", "folder", str(songs), "--caption-from", "text:Klänge ♪"],
        ["analyze", str(songs), "--out", str(out), "--quiet"],
    ]
    if encoding in DOCTORED:
        commands.append(["data", "doctor", str(songs)])
    unharmed(run(["-c", _COMMANDS, *[word for command in commands for word in (*command, "then")]], **encoding))
    manifest = (songs / "manifest.jsonl").read_text(encoding="utf-8")
    assert "Klänge ♪" in manifest or "Kl\\u00e4nge" in manifest
    assert manifest.count("\n") == len(NAMES)
    assert (out / "index.html").is_file()


WAYS = ["<&- >&- 2>&-", "| head -c 1", "2>&-", ">&- 2>&-", "| true"]


@pytest.mark.parametrize("redirect", [*WAYS[:2], *(pytest.param(way, marks=pytest.mark.slow) for way in WAYS[2:])])
@pytest.mark.whole
def test_closed_streams_and_readers_that_leave(songs: Path, tmp_path: Path, redirect: str) -> None:
    out = tmp_path / "out"
    unharmed(run(["-m", "eisbach", "analyze", str(songs), "--out", str(out)], redirect))
    assert (out / "index.html").is_file()
    assert (out / "records.jsonl").read_text(encoding="utf-8").count("\n") == len(NAMES)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.whole
def test_a_full_disk_for_the_log_is_said_after_the_work_is_done(songs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(["-m", "eisbach", "analyze", str(songs), "--out", str(out), "--quiet"], "> /dev/full")
    assert done.returncode == 2
    assert b"could not be written" in done.stderr
    assert b"Traceback" not in done.stderr
    assert (out / "index.html").is_file()
