"""The examples in the docstrings of what users call first run, and give what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["analyze", "metrics", "flatness"])
def test_examples_run(name):
    module = importlib.import_module(f"eisbach.structure.{name}")
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
