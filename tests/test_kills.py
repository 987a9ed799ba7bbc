"""Long commands that are killed, or find the disk full, end with equal results when run again; on request only."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["analyze", "data flat", "data render", "data encode", "train", "generate", "experiment", "study"]
)
def test_killed_and_starved_commands_end_with_equal_results(tmp_path: Path, command: str) -> None:
    out = tmp_path / "kills.json"
    arguments = ["--trials", "2", "--seed", "5", "--command", command, "--out", str(out)]
    done = subprocess.run(
        [sys.executable, str(BENCH / "kills.py"), *arguments], capture_output=True, text=True, timeout=900
    )
    assert out.is_file(), done.stderr[-2000:]
    assert json.loads(out.read_text())["commands"][command] == {"tried": 4, "failed": 0, "faults": []}
