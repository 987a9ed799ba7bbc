"""`bench/gpu.py` plans itself into its minutes, writes each part as it ends, and goes on from there."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from eisbach.devices import place

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
import gpu


def _parts(done: list[str]) -> list[Any]:
    def measured(name: str) -> Any:
        def measure(bench: Any) -> dict[str, Any]:
            done.append(name)
            if name == "broken":
                raise RuntimeError("no such kernel")
            return {"same": True, "apart": 0.0}

        return measure

    names = {"same as on the CPU: first": 1.0, "broken": 1.0, "long": 1e4, "same as on the CPU: last": 1.0}
    return [gpu.Part(name, measured(name), seconds) for name, seconds in names.items()]


def test_it_leaves_out_what_does_not_fit_and_goes_on(tmp_path: Path) -> None:
    bench, file, done = gpu.Bench(place("cpu"), quick=True, repeats=2), tmp_path / "gpu.json", []
    content = gpu.measure_all(bench, _parts(done), file, time.monotonic() + 60, {})
    assert done == ["same as on the CPU: first", "broken", "same as on the CPU: last"]
    assert content == json.loads(file.read_text())
    assert list(content["left_out"]) == ["long"]
    assert "no such kernel" in content["parts"]["broken"]["failed"]
    assert "| first | 0 | yes |" in gpu.table(content)
    again: list[str] = []
    kept = {name: found for name, found in content["parts"].items() if "failed" not in found}
    gpu.measure_all(bench, _parts(again), file, time.monotonic() + 60, kept)
    assert again == ["broken"]


def test_every_size_of_the_table_has_its_part_and_the_smoke_tests_come_first() -> None:
    names = [part.name for part in gpu.parts_of(quick=False)]
    assert len(set(names)) == len(names)
    assert sum(name.startswith("step") for name in names) == len(gpu.STEPS) + 1
    assert all(name.startswith("same as") for name in names[:6])


def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(SystemExit, match="add --quick"):
        gpu.main(["--device", "cpu", "--minutes", "1"])


def test_a_part_is_measured_on_tiny_shapes() -> None:
    found = gpu.training_step(16, 2)(gpu.Bench(place("cpu"), quick=True, repeats=2))
    assert list(found["forms"]) == list(gpu.FORMS)
    assert all(row["steps_per_second"] > 0 for row in found["forms"].values())
