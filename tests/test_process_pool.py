from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CALL = "with process_pool(2) as pool:\n    print(pool.submit(abs, -3).result())\n"


@pytest.mark.parametrize(
    ("body", "code", "out", "said"),
    [
        (CALL, 1, "", "UserError: the processes for jobs > 1 could not start; in a script, put the call under"),
        ("if __name__ == '__main__':\n    " + CALL.replace("\n", "\n    ").rstrip(), 0, "3\n", ""),
    ],
    ids=["unguarded", "guarded"],
)
def test_a_script_without_a_guard_is_told_so(tmp_path: Path, body: str, code: int, out: str, said: str) -> None:
    """Each process would import the script and start processes again; the pool would lose every task in silence."""
    script = tmp_path / "script.py"
    script.write_text(f"from eisbach.processes import process_pool\n\n{body}\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (code, out), done.stderr
    assert said in done.stderr
