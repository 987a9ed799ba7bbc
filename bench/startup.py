"""How long the command line takes before it does anything: import and every --help, each in a fresh process.

`python bench/startup.py` writes bench/results/startup.json. The first run of each command, which may read from a cold
disk, is reported apart. The goal is under one second.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

from eisbach.files import write_json

COMMANDS: dict[str, list[str]] = {
    "python (nothing)": ["-c", "pass"],
    "import eisbach": ["-c", "import eisbach"],
    "import eisbach.weighting": ["-c", "import eisbach.weighting"],
    **{
        " ".join(["eisbach", *words, "--help"]): ["-m", "eisbach", *words, "--help"]
        for words in (
            [], ["demo"], ["data"], ["data", "render"], ["data", "folder"], ["train"], ["generate"], ["analyze"],
            ["compare"], ["experiment", "run"],
        )
    },
}  # fmt: skip


def seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


def measure(runs: int) -> dict[str, dict[str, float]]:
    results = {}
    for name, arguments in COMMANDS.items():
        first = seconds(arguments)
        times = [seconds(arguments) for _ in range(runs)]
        results[name] = {
            "first_s": round(first, 3),
            "min_s": round(min(times), 3),
            "median_s": round(statistics.median(times), 3),
        }
        print(f"{name:32s} min {min(times):.3f} s, median {statistics.median(times):.3f} s")
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("bench/results/startup.json"))
    options = parser.parse_args()
    results = measure(options.runs)
    helps = [value["median_s"] for name, value in results.items() if name.endswith("--help")]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    write_json(
        options.out,
        {
            "runs": options.runs,
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "load_average": load,
            "slowest_help_median_s": max(helps),
            "results": results,
        },
    )
    print(f"slowest --help: {max(helps):.3f} s (median of {options.runs}); written to {options.out}")


if __name__ == "__main__":
    main()
