"""A newcomer's path, from a clone to hearing a model fine-tuned on their own recordings: ``python bench/newcomer.py``.

Clones the repository, makes its environment as the README prints it, and types the commands of docs/own-music.md one
after the other, as they are printed, on a folder of recordings. Writes how long each took and whether it succeeded.
`--quick` adds small settings to what trains and plays; `--python` takes an environment that is there. With `--place` a
walk that was stopped goes on: commands that succeeded are not typed again.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from eisbach.files import read_json, write_json

ROOT = Path(__file__).parents[1]
PAGE = "docs/own-music.md"
QUICK: dict[str, list[str]] = {
    "train": ["--set", "steps=20", "--set", "data.crop_seconds=16", "--set", "held_out.every=10",
              "--set", "checkpoint.every=10"],
    "generate": ["--steps", "8", "--duration", "16", "--seeds", "0"],
}  # fmt: skip
"""What `--quick` adds to a command; the demos are left out: nobody needs them to hear a model of their own."""


def printed_commands(page: Path) -> list[str]:
    """The `eisbach` lines of a page's shell blocks, in their order."""
    blocks = re.findall(r"^```(?:sh|bash)\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.partition("  #")[0].strip() for line in lines if line.startswith("eisbach ")]


def typed(line: str, quick: bool) -> list[str] | None:
    """A printed command as words, with what `--quick` adds; None where it leaves the command out."""
    words = shlex.split(line)[1:]
    if not quick:
        return words
    if words[0] == "demo":
        return None
    return words + QUICK.get(words[0], [])


def run(name: str, command: list[str], place: Path, environment: dict[str, str], log: Any) -> dict[str, Any]:
    """Runs a command to its end; seconds on the clock and of CPU, and how it ended. One that succeeded in an earlier
    walk is not run again."""
    journal = Path(log.name).with_name("rows.json")
    known = read_json(journal, "rows")["rows"] if journal.is_file() else []
    for row in known:
        if row["command"] == name and row["exit"] == 0:
            return dict(row)
    log.write(f"\n$ {name}\n")
    log.flush()
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, cwd=place, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    row = {"command": name, "seconds": round(time.monotonic() - started, 1), "cpu_seconds": round(cpu, 1),
           "exit": done.returncode}  # fmt: skip
    write_json(journal, {"rows": [*known, row]})
    print(f"{row['seconds']:8.1f} s  exit {row['exit']}  {name}", flush=True)
    return row


def make_environment(clone: Path, place: Path, environment: dict[str, str], log: Any) -> list[dict[str, Any]]:
    """The README's lines without `make`."""
    python = str(clone / ".venv/bin/python")
    lines = [
        [sys.executable, "-m", "venv", str(clone / ".venv")],
        [python, "-m", "pip", "install", "-q", "torch==2.13.0"],
        [python, "-m", "pip", "install", "-q", "--constraint", "constraints.txt", "--editable", ".[web]"],
    ]
    names = ["python -m venv .venv", "python -m pip install torch==2.13.0",
             "python -m pip install --constraint constraints.txt --editable '.[web]'"]  # fmt: skip
    return [run(name, line, clone, environment, log) for name, line in zip(names, lines, strict=True)]


def recordings(folder: Path, count: int, python: str, environment: dict[str, str], log: Any) -> None:
    """Files without captions or manifest, such as anybody has: short performances that differ in form."""
    made = folder.parent / "made"
    for kind, number, seed in (("render", (count + 1) // 2, "900"), ("flat", count // 2, "901")):
        out = made / kind
        subprocess.run(
            [python, "-m", "eisbach", "data", kind, "--out", str(out), "--clips", str(number), "--seconds", "30",
             "--seed", seed, "--stereo", "--sample-rate", "44100"],
            env=environment, stdout=log, stderr=subprocess.STDOUT, check=True,
        )  # fmt: skip
        folder.mkdir(exist_ok=True)
        for file in sorted(out.rglob("*.flac")):
            file.replace(folder / f"{kind} {file.name}")


def main() -> None:
    """Walks the path, and writes what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--music", type=Path, help="a folder of recordings; made here where none is given")
    parser.add_argument("--recordings", type=int, default=8, help="how many are made")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--python", help="an interpreter with the dependencies: skips making the environment")
    parser.add_argument("--place", type=Path, help="an empty folder to work in, which stays; else a temporary one")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/newcomer.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name) if options.place is None else options.place.resolve()
        place.mkdir(parents=True, exist_ok=True)
        clone, rows = place / "eisbach", []
        environment = {**os.environ, "PYTHONPATH": str(clone / "src")} if options.python else dict(os.environ)
        with (place / "log.txt").open("a") as log:
            rows.append(run("git clone", ["git", "clone", "-q", str(ROOT), str(clone)], place, environment, log))
            if not options.python:
                rows += make_environment(clone, place, environment, log)
            python = options.python or str(clone / ".venv/bin/python")
            music = clone / "my_music"
            if music.exists():
                pass
            elif options.music is None:
                recordings(music, options.recordings, python, environment, log)
            else:
                music.symlink_to(options.music.resolve())
            for line in printed_commands(clone / PAGE):
                words = typed(line, options.quick)
                if words is not None:
                    rows.append(run(shlex.join(["eisbach", *words]), [python, "-m", "eisbach", *words], clone,
                                    environment, log))  # fmt: skip
        files = len([path for path in music.iterdir() if path.is_file() and path.suffix != ".jsonl"])
        failed = [row["command"] for row in rows if row["exit"]]
        if failed:
            print((place / "log.txt").read_text()[-4000:], file=sys.stderr)
    heard = next((place for place, row in enumerate(rows) if "generate" in row["command"]), len(rows) - 1)
    minutes = sum(row["seconds"] for row in rows[: heard + 1]) / 60
    write_json(options.out, {
        "page": PAGE, "quick": options.quick, "environment_made": options.python is None, "recordings": files,
        "python": platform.python_version(), "cores": os.cpu_count(), "load_average": round(os.getloadavg()[0], 1),
        "commands_until_heard": heard + 1, "minutes_until_heard": round(minutes, 1),
        "cpu_minutes_until_heard": round(sum(row["cpu_seconds"] for row in rows[: heard + 1]) / 60, 1),
        "failed": failed, "commands": rows,
    })  # fmt: skip
    print(f"{heard + 1} commands and {minutes:.1f} minutes until one's own model is heard; {options.out}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
