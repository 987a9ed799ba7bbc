"""The room of statistics stands alone: its examples run, and comparing needs nothing but numpy and scipy."""

import doctest
import importlib
import pkgutil
import subprocess
import sys

import pytest

import eisbach.statistics

MODULES = [f"eisbach.statistics.{module.name}" for module in pkgutil.iter_modules(eisbach.statistics.__path__)]

ALONE = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ImportError(name + " is not allowed here")

sys.meta_path.insert(0, Refuse())
from eisbach.statistics.records import MetricInfo
from eisbach.statistics.results import evaluate
rows = [
    {{"arm": arm, "prompt_id": "p%d" % n, "seed": seed, "path": "x", "level": n + gain + 0.1 * (n % 3) + 0.01 * seed}}
    for arm, gain in (("a", 0.0), ("b", 1.0), ("c", 2.0)) for n in range(8) for seed in (0, 1)
]
results = evaluate(rows, [MetricInfo("level", "level", primary=True)], "a", oracle="c", n_resamples=99)
assert [each.verdict for each in results.comparisons] == ["higher", "higher"]
assert results.recovered[0].share is not None
assert {{name for name in sys.modules if name.startswith("eisbach.")}} <= {allowed!r} | {{
    name for name in sys.modules if name.startswith("eisbach.statistics")
}}
"""


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_what_people_call_first_has_an_example():
    for name in ("comparison", "results", "resampling"):
        module = importlib.import_module(f"eisbach.statistics.{name}")
        assert doctest.testmod(module).attempted > 0, name
    assert ">>>" in importlib.import_module("eisbach.statistics.results").recovered_share.__doc__


def test_comparing_needs_numpy_and_scipy_alone():
    names = {"torch", "pandas", "statsmodels", "pyarrow", "matplotlib", "pydantic", "soundfile", "librosa", "yaml"}
    program = ALONE.format(names=names, allowed={"eisbach.errors", "eisbach.types", "eisbach.files"})
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
