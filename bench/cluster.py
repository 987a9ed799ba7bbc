"""What a Ray cluster costs: overhead a cell, efficiency of two workers, and the driver with many cells and workers.

    python bench/cluster.py --out cluster.json                        # all of it, about five minutes
    python bench/cluster.py --part overhead --cells 200

Cells sleep, since the processors of one machine are not those of a hundred: what is measured is what Ray and the driver
add, not computation. A Ray of its own starts on this machine's loopback, with as many processors as a part says.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import psutil

from eisbach.executors import Executor, on_ray, open_executor, send
from eisbach.executors.local import Processes
from eisbach.files import read_json, write_json


def cell(number: int, seconds: float) -> int:
    """Sleeps in parts, and reports each as a training does."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(1.0, left))
        send((number, 1.0 - max(0.0, left) / max(seconds, 1e-9)))
    return os.getpid()


def run_cells(executor: Executor, cells: int, seconds: float) -> dict[str, Any]:
    """Wall seconds of many cells, who ran them, and what the driver used meanwhile."""
    driver = psutil.Process()
    before, cpu = driver.memory_info().rss, sum(driver.cpu_times()[:2])
    peak, heard, workers = before, 0, set()
    start = time.monotonic()
    first = None

    def listen(message: Any) -> None:
        nonlocal heard
        heard += 1

    for _, pid in executor.each(cell, [(number, seconds) for number in range(cells)], listen=listen):
        first = time.monotonic() - start if first is None else first
        workers.add(pid)
        peak = max(peak, driver.memory_info().rss)
    wall = time.monotonic() - start
    return {
        "cells": cells,
        "seconds_a_cell": seconds,
        "wall_seconds": round(wall, 3),
        "first_result_seconds": round(first or 0.0, 3),
        "workers": len(workers),
        "messages": heard,
        "driver_cpu_seconds": round(sum(driver.cpu_times()[:2]) - cpu, 3),
        "driver_mib_before": round(before / 2**20, 1),
        "driver_mib_peak": round(peak / 2**20, 1),
    }


def on_workers(workers: int, measure: Callable[[Executor], dict[str, Any]]) -> dict[str, Any]:
    """Measures on a Ray of its own that has so many processors, once its workers are up."""
    import ray

    ray.init(
        address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        _node_ip_address="127.0.0.1",
    )  # fmt: skip
    try:
        with on_ray(), open_executor(1, 1) as executor:
            start = time.monotonic()
            warm = run_cells(executor, 2 * workers, 1.0)
            return {"start_seconds": round(time.monotonic() - start, 3), "warm_workers": warm["workers"]} | measure(
                executor
            )
    finally:
        ray.shutdown()


def overhead(cells: int) -> dict[str, Any]:
    """Wall milliseconds that a cell costs beyond its own time: cells of no length on one worker, after a warm start."""

    def a_cell(executor: Executor) -> dict[str, Any]:
        measured = run_cells(executor, cells, 0.0)
        return measured | {"milliseconds_a_cell": round(1000 * measured["wall_seconds"] / cells, 3)}

    with Processes(1) as processes:
        run_cells(processes, 2, 0.0)
        local = a_cell(processes)
    return {"ray": on_workers(1, a_cell), "local": local}


def efficiency(workers: int, cells: int, seconds: float) -> dict[str, Any]:
    """The cells' own time over what the workers had, from the first cell asked for to the last result; then as many
    cells of no length, whose rate is what can be scheduled."""

    def of_cells(executor: Executor) -> dict[str, Any]:
        measured = run_cells(executor, cells, seconds)
        waves = -(-cells // workers)
        at_once = run_cells(executor, cells, 0.0)
        return measured | {
            "efficiency": round(cells * seconds / (workers * measured["wall_seconds"]), 4),
            "of_full_waves": round(waves * seconds / measured["wall_seconds"], 4),
            "cells_a_second": round(cells / measured["wall_seconds"], 2),
            "of_no_length": at_once | {"cells_a_second": round(cells / at_once["wall_seconds"], 1)},
        }

    return on_workers(workers, of_cells)


def main() -> None:
    """Runs the parts; prints one JSON object, or puts each part, as it ends, into the file beside the others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", choices=("all", "overhead", "two", "many"), default="all")
    parser.add_argument("--cells", type=int, default=300, help="of the part overhead")
    parser.add_argument("--minute", type=float, default=60.0, help="seconds of a cell of the part two")
    parser.add_argument("--many", type=int, nargs=2, default=(1000, 100), metavar=("CELLS", "WORKERS"))
    parser.add_argument("--many-seconds", type=float, default=10.0, help="seconds of a cell of the part many")
    parser.add_argument("--out", type=Path, help="JSON file; printed unless given")
    args = parser.parse_args()
    import ray

    parts: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
        "overhead": ("overhead", lambda: overhead(args.cells)),
        "two": ("two_workers", lambda: efficiency(2, 4, args.minute)),
        "many": ("many", lambda: efficiency(args.many[1], args.many[0], args.many_seconds)),
    }
    results: dict[str, Any] = {}
    if args.out is not None and args.out.is_file():
        results = read_json(args.out, "benchmark results")
    results |= {"python": platform.python_version(), "processors": os.cpu_count(), "cells": "sleep"}
    for part, (name, measure) in parts.items():
        if args.part in ("all", part):
            around = {"ray": ray.__version__, "load_before": os.getloadavg()}
            results[name] = measure() | around
            results[name]["driver_mib_most"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
            if args.out is not None:
                write_json(args.out, results)
    if args.out is None:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
