"""`bench/true_size.py` counts once what passes at any frames and batch, and goes on from the rows that are there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from eisbach.files import read_json

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
import shape_trace
import train_step
import true_size
from shape_trace import BATCH, FRAMES, Dim, Trace, dimension, peaks, sums


def test_a_dimension_says_what_it_is_made_of() -> None:
    assert [dimension(size) for size in (6144, 1536 * 12288)] == [6144, 1536 * 12288]
    for slope, rest, power in (
        (1, 0, 0),
        (1, 64, 0),
        (1, 64, 1),
        (0, 257, 1),
        (2, 3, 2),
        (1536, 0, 0),
        (12288, 786432, 1),
    ):
        made = dimension((FRAMES * slope + rest) * BATCH**power)
        assert made == Dim(slope, rest, power)
        assert made.at(108, 4) == (108 * slope + rest) * 4**power  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="choose other marks"):
        dimension(FRAMES // 2)


def _product(frames: int, batch: int) -> Trace:
    """y = relu(x Wᵀ) of x [shape=(batch, frames, 32)] and W [shape=(48, 32)], of which y alone is kept."""
    with FakeTensorMode():
        weight, x = torch.empty(48, 32), torch.empty(batch, frames, 32)
        trace = Trace()
        trace.hold(weight)
        trace.hold(x)
        with trace:
            trace.enter("product")
            y = nn.functional.linear(x, weight)
            y = torch.relu(y)
            trace.enter("after")
            del x
            y.view(-1)
    return trace


@pytest.mark.parametrize(("frames", "batch"), [(108, 4), (323, 1), (16, 8)])
def test_one_trace_says_what_a_closed_form_says_at_every_size(frames: int, batch: int) -> None:
    trace = _product(FRAMES, BATCH)
    found = sums(trace, frames, batch)
    rows = frames * batch
    assert found["launches"] == 2
    assert found["flops"] == 2 * rows * 32 * 48
    weight, x, y = (4 * count for count in (48 * 32, rows * 32, rows * 48))
    bandwidth = shape_trace.DEVICES["RTX 4070"][1]
    assert found["seconds RTX 4070"] == pytest.approx((weight + x + y + 2 * y) / bandwidth)
    weight, x, y = (-(-size // 512) * 512 for size in (weight, x, y))  # what an allocator hands out
    assert peaks(trace, frames, batch) == {"before": weight + x, "product": weight + x + 2 * y, "after": weight + x + y}


SMALL = {"embed_dim": 64, "num_heads": 2, "num_memory_tokens": 4}


@pytest.mark.filterwarnings("ignore:Accessing the data pointer")
@pytest.mark.whole
def test_a_training_step_is_traced_once_for_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch 1 is the size that could differ: dimensions of 1 are copied, broadcast and laid out by rules of their own.

    Takes seconds: every operation of two training steps is looked at in Python.
    """
    monkeypatch.setattr(true_size, "MODEL", SMALL)
    monkeypatch.setattr(train_step, "PRESETS", dict(train_step.PRESETS))
    at_marks, alone = (true_size.trace_of("DoRA full", "plain", 1, *size) for size in ((), (20, 1)))
    assert true_size.numbers(at_marks, 20, 1) == true_size.numbers(alone, 20, 1)
    assert [segment.name for segment in at_marks.segments] == ["before", "forward 0", "loss", "backward 0", "after"]


def test_the_highest_line_of_the_segments_is_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is highest in a deep network need not be so in a shallow one."""

    def peaks_of(depth: int, frames: int, batch: int) -> dict[str, int]:
        blocks = {f"backward {index}": 1000 + 10 * index for index in range(depth)}
        return {"before": 100, **blocks, "after": 300 * depth}

    monkeypatch.setattr(true_size, "peaks", peaks_of)
    monkeypatch.setattr(true_size, "sums", lambda depth, frames, batch: {"launches": 7 + 5 * depth})
    found = true_size.at_full_depth(list(true_size.DEPTHS), 108, 4)  # type: ignore[arg-type]
    assert found == {"launches": 7 + 5 * 24, "bytes": 300 * 24}


def test_it_writes_each_row_and_goes_on_from_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, traced = tmp_path / "true_size.json", []

    def count(case: str, form: str) -> list[dict[str, Any]]:
        if len(traced) == 2:
            raise KeyboardInterrupt
        traced.append((case, form))
        numbers = {"launches": 1, "flops": 2, "bytes": 3, "seconds H100": 4.0, "seconds RTX 4070": 5.0}
        rows = [{"adapter": case, "form": form, "frames": frames, "batch": b} for frames, b in true_size.SHAPES]
        return [row | numbers for row in rows]

    monkeypatch.setattr(true_size, "measure", count)
    monkeypatch.setattr(sys, "argv", ["true_size.py", "--adapters", "LoRA", "sampling", "--out", str(file)])
    with pytest.raises(KeyboardInterrupt):
        true_size.main()
    assert traced == [("LoRA", "plain"), ("sampling", "plain")]
    assert len(read_json(file, "rows")["rows"]) == 2 * len(true_size.SHAPES)
    traced[:] = [("x", "y")]  # one more, and again an interruption
    with pytest.raises(KeyboardInterrupt):
        true_size.main()
    assert traced[1:] == [("LoRA", "checkpointing")]
    assert len(read_json(file, "rows")["rows"]) == 3 * len(true_size.SHAPES)
