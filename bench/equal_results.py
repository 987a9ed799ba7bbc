"""Hashes of what a small training, a generation, an analysis and an experiment give: ``python bench/equal_results.py
--out hashes.json``.

Run it on the commit before a change and on the one after (``--against hashes.json``): a change that only moves code
leaves every hash as it was. What is hashed is content, not files: adapters by their tensors, audio by its samples,
records by their numbers, so that a new file name or another order of keys is no difference. Hashes hold for one machine
and one thread count. Whoever commits a pair of files says in the later one, under "changed on purpose", why each hash
that differs does; `tests/test_house.py` holds them to it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from safetensors.numpy import load_file

EXPERIMENT = ("--quick", "--set", "material.clips=24", "--set", "training.batch_size=4", "--quiet")


def digest(parts: Iterable[bytes]) -> str:
    """SHA-256 of parts in their order."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()[:16]


def of_tensors(files: Iterable[Path]) -> str:
    """Names, shapes and bytes of every tensor."""
    return digest(
        f"{name}{tensor.shape}{tensor.dtype}".encode() + np.ascontiguousarray(tensor).tobytes()
        for file in sorted(files)
        for name, tensor in sorted(load_file(file).items())
    )


def of_audio(files: Iterable[Path]) -> str:
    """Samples and rates."""
    read = (soundfile.read(file, dtype="int32") for file in sorted(files))
    return digest(samples.tobytes() + str(rate).encode() for samples, rate in read)


def of_records(file: Path, drop: tuple[str, ...] = ()) -> str:
    """Rows by their values, whatever the order of rows and keys."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    kept = [json.dumps({k: v for k, v in row.items() if k not in drop}, sort_keys=True) for row in rows]
    return digest(line.encode() for line in sorted(kept))


def of_numbers(value: Any) -> str:
    """Every number of a JSON value, as a sorted list: what is called how does not count, nor what stands there twice
    (`shown_interval` is one of the two intervals beside it)."""
    numbers: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            for name, inner in node.items():
                if name != "shown_interval":
                    walk(inner)
        elif isinstance(node, list):
            for inner in node:
                walk(inner)
        elif isinstance(node, float):
            numbers.append(repr(node))

    walk(value)
    return digest(number.encode() for number in sorted(numbers))


def hashes(folder: Path) -> dict[str, str]:
    """Runs the four stages under `folder` and hashes what they wrote."""
    command = (sys.executable, "-m", "eisbach")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    experiment = folder / "experiment"
    subprocess.run([*command, "demo", *EXPERIMENT, "--out", str(experiment)], check=True, env=environment)
    arms = experiment / "arms"
    sets = [str(arms / arm / "seed-0" / "samples") for arm in ("plain", "recommended")]
    out = folder / "analysis"
    subprocess.run([*command, "analyze", *sets, "--out", str(out)], check=True, env=environment)
    summary = json.loads((experiment / "summary.json").read_text(encoding="utf-8"))
    return {
        "material": of_audio((experiment / "data").rglob("*.flac")),
        "latents": of_tensors((experiment / "data" / "latents").rglob("*.safetensors")),
        "training": of_tensors(arms.glob("*/seed-0/train/adapter/*.safetensors")),
        "losses": digest(of_records(f, ("steps_per_second",)).encode() for f in sorted(arms.rglob("metrics.jsonl"))),
        "generation": of_audio(arms.rglob("*.flac")),
        "experiment records": of_records(experiment / "records.jsonl", ("path", "audio_hash", "analysis_version")),
        "experiment verdicts": of_numbers(summary),
        "analysis records": of_records(out / "records.jsonl", ("path", "audio_hash", "analysis_version")),
    }


def main() -> None:
    """Writes the hashes, or compares them with those of another commit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the hashes here")
    parser.add_argument("--against", type=Path, help="hashes to compare with; exit 1 where one differs")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder unless given")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = hashes(options.folder or Path(temporary))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    before = json.loads(options.against.read_text(encoding="utf-8")) if options.against else {}
    for name, value in found.items():
        same = "" if not before else "  equal" if before.get(name) == value else f"  WAS {before.get(name)}"
        print(f"{name:22}{value}{same}")
    if before and before != found:
        sys.exit(1)


if __name__ == "__main__":
    main()
