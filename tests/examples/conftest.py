"""The examples as a user meets them: run as they stand, and imported to look at what they compute."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from own_process import script

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="session")
def run_example() -> Callable[..., str]:
    """Runs `python examples/NAME.py ARGUMENTS` in a process of its own and gives what it printed."""

    def run(name: str, *arguments: str, expect: int = 0, env: dict[str, str] | None = None) -> str:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **(env or {})}
        result = script(EXAMPLES / f"{name}.py", *arguments, env=environment)
        assert result.returncode == expect, result.stdout + result.stderr
        return result.stdout if expect == 0 else result.stdout + result.stderr

    return run


@pytest.fixture(scope="session")
def load_example() -> Callable[[str], ModuleType]:
    """The module of `examples/NAME.py`; importing it runs nothing."""

    def load(name: str) -> ModuleType:
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    return load
