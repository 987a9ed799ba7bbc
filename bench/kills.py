"""Long commands killed (SIGKILL) at random moments, or met by a full disk, and run again: they must end with equal
results.

A trial starts the command in an empty folder, kills it and all its processes up to three times, and runs it to its end;
what is promised to be equal (docs/experiments.md) is hashed against a run that nobody disturbed, and no partial file
may be left.

    python bench/kills.py --trials 3 --out bench/results/kills.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))


@dataclass(frozen=True)
class Command:
    """A command and the files (patterns below its folder) that are promised to be equal bit for bit."""

    name: str
    arguments: tuple[str, ...]
    promised: tuple[str, ...]


RECIPE = """
model: {model}
data: {{manifest: {clips}, crop_seconds: 1.0, cache: OUT/cache}}
out: OUT/run
adapter: {{type: dora, rank: 2}}
weighting: {{sample: entropy_barrier}}
batch_size: 2
steps: 60
held_out: {{every: 0}}
checkpoint: {{every: 10, keep: 2}}
tensorboard: false
"""

EXPERIMENT = """
title: Killed
question: Does a killed experiment end as one that nobody disturbed?
out: runs/killed
training:
  model: {model}
  data: {{manifest: {clips}/manifest.jsonl, crop_seconds: 1.0}}
  adapter: {{type: lora, rank: 2}}
  batch_size: 2
  steps: 4
  held_out: {{every: 0}}
  checkpoint: {{every: 2, keep: 1}}
  tensorboard: false
arms:
  plain: {{label: plain}}
  barrier: {{label: barrier, overrides: {{weighting: {{sample: entropy_barrier}}}}}}
baseline: plain
generation: {{seeds: [0], duration: 30.0, num_inference_steps: 2, prompts: [{{id: cello, text: slow cello}}]}}
primary_metrics: {{is_flat: lower}}
jobs: 2
"""

STUDY = ("seeds=2", "steps=40", "samples=32", "levels=5", "generated=32", "sampling_steps=5", "arms=[constant,p2]")


def commands(material: Path) -> list[Command]:
    """The commands, and the small material that they work on."""
    from conftest import save_tiny_model
    from fuzz_kinds import _clips

    from eisbach.data.audio_folder import read_folder

    (material / "clips").mkdir()
    _clips(material / "clips")
    read_folder(material / "clips", jobs=1, quiet=True)
    model = save_tiny_model(material)
    (material / "train.yaml").write_text(RECIPE.format(model=model, clips=material / "clips"))
    (material / "experiment.yaml").write_text(EXPERIMENT.format(model=model, clips=material / "clips"))
    toy = [part for key in STUDY for part in ("--set", f"comparison.{key}")]
    toy += ["--path", "linear", "--target", "u", "--set", "figures.steps=20", "--set", "figures.ntk_samples=6"]
    return [
        Command(
            "analyze",
            ("analyze", str(material / "clips"), "--out", "OUT", "--jobs", "2", "--no-page"),
            ("records.*", "details.jsonl"),
        ),
        Command(
            "data flat", ("data", "flat", "--out", "OUT", "--clips", "6", "--jobs", "2"), ("manifest.jsonl", "clips/*")
        ),
        Command("train", ("train", "OUT.yaml"), ("run/adapter/*", "run/checkpoints/*/*.safetensors")),
        Command(
            "generate",
            (
                "generate",
                "slow cello",
                "calm piano",
                "--model",
                str(model),
                "--steps",
                "20",
                "--out",
                "OUT",
                "--seeds",
                "0,1",
                "--batch-size",
                "1",
            ),
            ("*.flac", "manifest.jsonl", "generation.json"),
        ),
        Command(
            "data render",
            ("data", "render", "--out", "OUT", "--clips", "4", "--seconds", "6-8", "--jobs", "2"),
            ("manifest.jsonl", "clips/*"),
        ),
        Command(
            "data encode",
            (
                "data",
                "encode",
                str(material / "clips"),
                "--model",
                str(model),
                "--crop-seconds",
                "1",
                "--jobs",
                "2",
                "--out",
                "OUT",
            ),
            ("**/*.safetensors",),
        ),
        Command(
            "experiment",
            ("experiment", "run", str(material / "experiment.yaml"), "--out", "OUT", "--jobs", "2"),
            ("arms/*/*/train/adapter/*", "arms/*/*/samples/*.flac", "records.jsonl"),
        ),
        Command(
            "study",
            ("study", "run", "erd_toy", "--quick", "--jobs", "2", "--out", "OUT", *toy),
            ("records.*", "**/*.safetensors"),
        ),
    ]


def _start(command: Command, out: Path, file_limit: int | None = None) -> subprocess.Popen[bytes]:
    arguments = [part.replace("OUT", str(out)) for part in command.arguments]
    if command.name == "train":
        text = (out.parent.parent / "material" / "train.yaml").read_text()
        Path(f"{out}.yaml").write_text(text.replace("OUT", str(out)))

    def limit() -> None:
        if file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))

    return subprocess.Popen(
        [sys.executable, "-m", "eisbach", *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=limit,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def _hashes(out: Path, promised: tuple[str, ...]) -> dict[str, str]:
    files = sorted({path for pattern in promised for path in out.glob(pattern) if path.is_file()})
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(
            path.read_bytes().replace(str(out).encode(), b"OUT")
        ).hexdigest()
        for path in files
    }


def _to_the_end(command: Command, out: Path) -> str | None:
    process = _start(command, out)
    _, err = process.communicate(timeout=600)
    return None if process.returncode == 0 else f"exit code {process.returncode}: {err.decode(errors='replace')[-300:]}"


def killed(command: Command, out: Path, seconds: float, draw: random.Random) -> str | None:
    """Up to three kills; the fault of the last run, if any."""
    for _ in range(draw.randint(1, 3)):
        process = _start(command, out)
        time.sleep(draw.uniform(0.2, 1.0) * seconds)
        done = process.poll() is not None
        if not done:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if done:
            break
    return _to_the_end(command, out)


def starved(command: Command, out: Path, draw: random.Random) -> str | None:
    """Files may not grow beyond a size, as on a full disk: one sentence, exit code 2; then a run to the end."""
    process = _start(command, out, file_limit=draw.choice((512, 2000, 8000)))
    _, err = process.communicate(timeout=600)
    text = err.decode(errors="replace")
    if process.returncode not in (0, 2) or "Traceback" in text:
        return f"exit code {process.returncode} under a full disk: {text[-300:]}"
    return _to_the_end(command, out)


def main() -> int:
    """Prints and writes what was tried and what failed; exit code 1 where anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=3, help="kills a command, and as many full disks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--command", action="append", help="only these (repeatable)")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results: dict[str, Any] = {}
    if options.command and options.out is not None and options.out.is_file():  # those of other commands stay
        results = json.loads(options.out.read_text())["commands"]
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "material").mkdir()
        for command in commands(Path(place) / "material"):
            if options.command and command.name not in options.command:
                continue
            folder = Path(place) / command.name.replace(" ", "-")
            folder.mkdir()
            start = time.monotonic()
            fault = _to_the_end(command, folder / "whole")
            seconds = time.monotonic() - start
            expected = _hashes(folder / "whole", command.promised)
            faults = [] if fault is None and expected else [f"undisturbed: {fault or 'nothing was made'}"]
            draw = random.Random(f"{options.seed}/{command.name}")
            for trial in range(0 if faults else 2 * options.trials):
                out = folder / f"trial-{trial}"
                kind = "killed" if trial < options.trials else "full disk"
                fault = killed(command, out, seconds, draw) if kind == "killed" else starved(command, out, draw)
                made = _hashes(out, command.promised)
                if fault is None and made != expected:
                    different = sorted(name for name in {*made, *expected} if made.get(name) != expected.get(name))
                    fault = f"not equal: {', '.join(different[:5])}"
                left = [str(path.relative_to(out)) for path in out.rglob(".*.partial")]
                if fault is None and left:
                    fault = f"left behind: {', '.join(left[:3])}"
                if fault is not None:
                    faults.append(f"{kind} {trial}: {fault}")
            results[command.name] = {"tried": 2 * options.trials, "failed": len(faults), "faults": faults}
            print(
                f"{command.name:12} {2 * options.trials} tried, {len(faults)} failed {'; '.join(faults)[:600]}",
                flush=True,
            )
            if options.out is not None:
                options.out.write_text(json.dumps({"seed": options.seed, "commands": results}, indent=2) + "\n")
    return int(any(result["failed"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
