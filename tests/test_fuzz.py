"""The fuzz command of the repository: damaged files of every kind, 300 in CI and 2,000 in `make test-all`, none met
with a traceback."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

import pytest
from own_process import script

BENCH = Path(__file__).parents[1] / "bench"
sys.path.insert(0, str(BENCH))


@pytest.mark.parametrize(("inputs", "least"), [(300, 1), pytest.param(2000, 6, marks=pytest.mark.slow)])
@pytest.mark.whole
def test_damaged_files_of_every_kind(tmp_path: Path, inputs: int, least: int) -> None:
    out = tmp_path / "fuzz.json"
    words = ["--inputs", str(inputs), "--seed", "20", "--out", str(out)]
    done = script(BENCH / "fuzz.py", *words, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert out.is_file(), done.stderr[-2000:]
    result = json.loads(out.read_text())
    assert result["failures"] == {}
    assert done.returncode == 0
    assert sum(kind["tried"] for kind in result["kinds"].values()) == inputs
    assert all(kind["tried"] >= least for kind in result["kinds"].values())


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".yaml", ".csv", ".safetensors", ".npz", ".npy", ".wav", ".bin"])
def test_damage_is_real_and_the_same_for_a_seed(tmp_path: Path, suffix: str) -> None:
    import fuzz_mutations  # type: ignore[import-not-found]
    import numpy as np
    import torch
    from safetensors.torch import save_file

    path = tmp_path / f"a{suffix}"
    match suffix:
        case ".npz":
            np.savez(path, a=np.arange(4.0))
        case ".npy":
            np.save(path, np.arange(4.0))
        case ".safetensors":
            save_file({"a": torch.zeros(2, 3)}, path, metadata={"stamp": "{}"})
        case _:
            path.write_bytes(b'{"a": [1, 2], "b": "c"}' if suffix in (".json", ".jsonl", ".yaml") else b"a,b,c" * 20)
    good, changed = path.read_bytes(), 0
    for seed in range(40):
        made = []
        for _ in range(2):
            path.write_bytes(good)
            fuzz_mutations.mutate(path, random.Random(seed))
            made.append(path.read_bytes())
        assert suffix == ".npz" or made[0] == made[1]  # a zip archive holds the time
        changed += made[0] != good
    assert changed >= 34


def test_a_fault_is_counted(tmp_path: Path) -> None:
    import fuzz  # type: ignore[import-not-found]
    from fuzz_kinds import Kind  # type: ignore[import-not-found]

    from eisbach.errors import UserError

    def make(folder: Path) -> None:
        (folder / "a.txt").write_text("text, and more")

    def run(error: BaseException | None) -> str | None:
        def read(folder: Path, target: Path, draw: random.Random) -> None:
            if error is not None:
                raise error

        (tmp_path / "good").mkdir(exist_ok=True)
        make(tmp_path / "good")
        kind = Kind("any", 1, make, ("*.txt",), read)
        return fuzz.run_one(kind, tmp_path / "good", tmp_path / "work", random.Random(1))

    assert run(None) is None
    assert run(UserError("a sentence.")) is None
    assert "KeyError: 'a'" in str(run(KeyError("a")))
    assert "is empty" in str(run(UserError("")))
    assert "more than 10 s" in str(run(fuzz.TooSlow()))
    assert (tmp_path / "good" / "a.txt").read_text() == "text, and more"
