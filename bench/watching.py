"""What company costs a training: ``python bench/watching.py`` writes bench/results/watching.json.

1. One training of the embedded model while `eisbach watch` serves it. In every second block of steps the page is asked
   for every five seconds, as an open browser does; the blocks beside it are left alone. The ratio of their step times
   is the cost as it is felt, and the server's CPU seconds a page what it takes away, whatever else the machine does.
2. Trainings alone, with demos and with each tracker, in turns: CPU seconds beyond those of the training alone.
3. Whether all of them end with the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.files import read_json, write_json
from eisbach.statistics.effect_size import mean_moments, t_interval

ROOT = Path(__file__).parents[1]
PERIOD = 5.0  # seconds, as the page asks
BLOCK = 6  # steps
EISBACH = [sys.executable, "-m", "eisbach"]
DEMOS = {"every": 8, "prompts": ["slow strings, a cello melody"], "seeds": [0], "duration": 16,
         "num_inference_steps": 8}  # fmt: skip
COMPANY: dict[str, list[str]] = {
    "alone": [],
    "demos": ["--set", f"demos={json.dumps(DEMOS)}"],
    "tensorboard": ["--set", "trackers=[tensorboard]"],
    "trackio": ["--set", "trackers=[trackio]"],
    "wandb": ["--set", "trackers=[wandb]"],
}
_CHILD = """
import json, sys, time
from eisbach.config import load_config
from eisbach.training import train
from eisbach.training.config import TrainConfig
import eisbach.training.trainer, diffusers, accelerate
config = load_config(TrainConfig, sys.argv[1], sys.argv[2:])
start = time.process_time()
train(config, quiet=True)
print(json.dumps(time.process_time() - start))
"""


def recipe(folder: Path, steps: int) -> Path:
    """A small training of the embedded model on clips that are made here."""
    music = folder / "music"
    command = [*EISBACH, "data", "render", "--out", str(music), "--clips", "8", "--seconds", "16", "--seed", "9"]
    subprocess.run(command, check=True, capture_output=True)
    values = {
        "model": "embedded", "data": {"manifest": str(music), "crop_seconds": 8}, "steps": steps, "batch_size": 4,
        "adapter": {"type": "dora", "rank": 16, "alpha": 16}, "optimiser": {"lr": 1e-3}, "warmup_steps": 2,
        "weighting": {"sample": "recommended"}, "log_every": 1, "held_out": {"every": 0},
        "checkpoint": {"every": steps, "keep": 1}, "trackers": [], "out": str(folder / "run"),
    }  # fmt: skip
    place = folder / "recipe.json"
    write_json(place, values)
    return place


def cpu_of(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rows_of(run: Path) -> list[dict[str, Any]]:
    """Logged steps; a line that is being written is left out."""
    log = run / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True) if log.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def watched(file: Path, out: Path, steps: int) -> dict[str, Any]:
    """One training with blocks that are watched and blocks that are not."""
    training = subprocess.Popen([*EISBACH, "train", str(file), "--set", f"out={out}", "--set", f"steps={steps}", "-q"])
    while not (out / "config.yaml").is_file() and training.poll() is None:
        time.sleep(0.2)
    server = subprocess.Popen([*EISBACH, "watch", str(out), "--port", "0"], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    address = re.search(r"http://\S+", server.stderr.readline())
    assert address is not None
    pages, sizes, spent, last = 0, [], 0.0, 0.0
    urllib.request.urlopen(address[0]).read()  # what is imported for the first page is no cost of the others
    while training.poll() is None:
        step = max((row["step"] for row in rows_of(out)), default=0)
        if (step // BLOCK) % 2 == 1 and time.monotonic() - last >= PERIOD:
            before, last = cpu_of(server.pid), time.monotonic()
            sizes.append(len(urllib.request.urlopen(address[0]).read()))
            spent, pages = spent + cpu_of(server.pid) - before, pages + 1
        time.sleep(0.1)
    server.terminate()
    server.wait()
    seconds = {int(row["step"]): 1 / row["steps_per_second"] for row in rows_of(out) if row.get("steps_per_second")}
    blocks = [
        statistics.median(seconds[step] for step in range(start + 1, start + BLOCK + 1))
        for start in range(0, steps - BLOCK + 1, BLOCK)
    ]
    pairs = np.array([np.log(seen / left) for left, seen in zip(blocks[::2], blocks[1::2], strict=False)])
    low, high = t_interval(mean_moments(pairs), 0.95)
    page, step_seconds = spent / max(1, pages), statistics.median(blocks)
    return {
        "steps": steps, "blocks": [round(value, 3) for value in blocks], "pages": pages,
        "page_kilobytes": max(sizes, default=0) // 1024, "seconds_a_step": round(step_seconds, 3),
        "step_time_watched_to_alone": round(float(np.exp(pairs.mean())), 4),
        "interval": [round(float(np.exp(end)), 4) for end in (low, high)],
        "server_cpu_seconds_a_page": round(page, 4),
        "share_of_one_core": round(page / PERIOD, 5),
        "share_of_a_step": round(page / PERIOD / (os.cpu_count() or 1), 5),
        "exit": training.returncode,
    }  # fmt: skip


def hash_of(run: Path) -> str:
    """SHA-256 of the adapter's weights."""
    from eisbach.tensor_files import read_tensors

    total = hashlib.sha256()
    for name, tensor in sorted(read_tensors(run / "adapter/adapter_model.safetensors").items()):
        total.update(name.encode() + tensor.numpy().tobytes())
    return total.hexdigest()


def companies(file: Path, folder: Path, steps: int, repeats: int) -> dict[str, Any]:
    """CPU seconds of trainings alone and in company, in turns, and the hashes of their adapters."""
    environment = {**os.environ, "WANDB_MODE": "offline", "TRACKIO_DIR": str(folder / "trackio")}
    environment.pop("TRACKIO_SPACE_ID", None)
    cpu: dict[str, list[float]] = {name: [] for name in COMPANY}
    hashes = {}
    for repeat in range(repeats):
        for name, options in COMPANY.items():
            out = folder / f"{name}-{repeat}"
            changes = [option for option in options if option != "--set"] + [f"steps={steps}", f"out={out}"]
            done = subprocess.run(
                [sys.executable, "-c", _CHILD, str(file), *changes], env=environment, capture_output=True, text=True,
                check=False,
            )  # fmt: skip
            if done.returncode:
                raise SystemExit(f"{name}: {done.stderr[-2000:]}")
            cpu[name].append(float(done.stdout.split()[-1]))
            hashes[name] = hash_of(out)
            print(f"{name:12s} {cpu[name][-1]:.1f} s of CPU  {hashes[name][:12]}", flush=True)
    alone = statistics.median(cpu["alone"])
    rows = {
        name: {
            "cpu_seconds": [round(value, 2) for value in values],
            "beyond_alone": round(statistics.median(values) - alone, 2),
            "share_of_the_training": round((statistics.median(values) - alone) / alone, 4),
            "same_bytes": hashes[name] == hashes["alone"],
        }
        for name, values in cpu.items()
    }
    return {"steps": steps, "repeats": repeats, "demos": DEMOS, "companies": rows}


def main() -> None:
    """Measures, and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=96, help="of the watched training")
    parser.add_argument("--short", type=int, default=16, help="steps of the others")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--part",
        choices=("both", "watched", "company"),
        default="both",
        help="one part; the other stays as the file has it",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/watching.json")
    options = parser.parse_args()
    result = read_json(options.out, "result") if options.out.is_file() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = recipe(folder, options.steps)
        if options.part != "company":
            result["watched"] = watched(file, folder / "watched", options.steps)
            plain = folder / "plain"
            subprocess.run([*EISBACH, "train", str(file), "--set", f"out={plain}", "-q"], check=True)
            result["watched"]["same_bytes"] = hash_of(plain) == hash_of(folder / "watched")
            print(json.dumps(result["watched"], indent=1), flush=True)
        if options.part != "watched":
            result["company"] = companies(file, folder, options.short, options.repeats)
    result |= {"cores": os.cpu_count(), "load_average": round(os.getloadavg()[0], 1)}
    write_json(options.out, result)
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
