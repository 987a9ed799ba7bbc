"""What the house promises of itself: the way of a file to its page, the length of functions, and equal results."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import house  # type: ignore[import-not-found]

ROOT = Path(__file__).parents[1]


def test_the_way_of_a_file_to_its_page_stays_straight() -> None:
    way = house.measure_way(ROOT)
    assert way["way"] == next(iter(house.WAYS)), "a step of bench/house.py's first way is gone; trace the way anew"
    assert way["moves"] <= 12
    assert way["climbs"] <= 3


def test_no_function_is_longer_than_two_screens() -> None:
    longer = [
        f"{file.relative_to(ROOT)}:{node.name}"
        for file in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (node.end_lineno or 0) - node.lineno + 1 > house.LONGEST_FUNCTION
    ]
    assert longer == []


def test_no_module_is_longer_than_400_lines() -> None:
    lengths = {file: file.read_text(encoding="utf-8").count("\n") for file in (ROOT / "src").rglob("*.py")}
    assert len(lengths) > 300
    assert {str(file.relative_to(ROOT)): length for file, length in lengths.items() if length > 400} == {}


def test_results_that_changed_have_a_reason() -> None:
    before, after = (
        json.loads((ROOT / f"bench/results/equal_{when}.json").read_text(encoding="utf-8"))
        for when in ("before", "after")
    )
    purposes = after.pop("changed on purpose", {})
    changed = {name for name, value in after.items() if before[name] != value}
    assert set(before) == set(after)
    assert changed == set(purposes)
    assert all(purposes.values())


def test_prose_is_wrapped() -> None:
    """Tables, code, pictures and headings apart, no line of a page is longer than a line of code."""
    pages = [*ROOT.glob("*.md"), *(page for folder in ("docs", "src", "recipes", "examples", "bench", "tests")
                                   for page in (ROOT / folder).rglob("*.md"))]  # fmt: skip
    long = []
    for page in pages:
        code = False
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            code ^= line.lstrip().startswith("```")
            if len(line) > 120 and not code and not line.startswith(("|", "![", "#")):
                long.append(f"{page.relative_to(ROOT)}:{number}")
    assert len(pages) > 50
    assert long == []
