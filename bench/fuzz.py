"""Damaged and hostile files of every kind that the program reads: each must end in success or in one sentence.

Every input is a good file with a few changes to its structure or its bytes, drawn from a seed. An input fails when it
raises anything but a `UserError` of one printable line, takes more than 10 seconds, or adds more than 1 GiB of memory.

    python bench/fuzz.py --inputs 2000 --seed 1
    python bench/fuzz.py --inputs 20000 --seed 2 --out bench/results/fuzz.json
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from fuzz_kinds import KINDS, Kind, check_sentence
from fuzz_mutations import mutate

SECONDS = 10.0
BYTES = 2**30
ADDRESS_SPACE = 6 * 2**30  # more than the interpreter has before the first input: what asks for it gets a MemoryError


class TooSlow(BaseException):
    """An input took too long."""


def _too_slow(number: int, frame: Any) -> None:
    raise TooSlow


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE, resource.RLIM_INFINITY))


def run_one(kind: Kind, good: Path, work: Path, draw: random.Random) -> str | None:
    """What was wrong with how one input was met; None when nothing was."""
    from eisbach.errors import UserError

    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(good, work, copy_function=os.link)
    files = sorted({path for pattern in kind.files for path in work.glob(pattern) if path.is_file()})
    target = draw.choice(files)
    content = target.read_bytes()
    target.unlink()  # it is a second name of the good file
    target.write_bytes(content)
    mutate(target, draw)
    before, fault = _peak(), None
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        kind.read(work, target, draw)
    except UserError as error:
        try:
            check_sentence(str(error))
        except AssertionError as odd:
            fault = str(odd)
    except TooSlow:
        fault = f"more than {SECONDS:g} s"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        place = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in place if "/eisbach/" in frame.filename] or list(place)
        fault = f"{type(error).__name__}: {str(error)[:150]} ({Path(ours[-1].filename).name}:{ours[-1].lineno})"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if _peak() - before > BYTES:
        fault = f"{(_peak() - before) / 2**30:.1f} GiB of memory ({fault})"
    return None if fault is None else f"{target.relative_to(work)}: {fault}"


def fuzz(inputs: int, seed: int, kinds: list[Kind], keep: Path | None = None) -> dict[str, Any]:
    """Tries `inputs` damaged files; input n depends on the seed and n alone."""
    tried: collections.Counter[str] = collections.Counter()
    failed: dict[str, list[str]] = {}
    spent: collections.Counter[str] = collections.Counter()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        for kind in kinds:
            (Path(place) / kind.name).mkdir()
            kind.make(Path(place) / kind.name)
        _limit_memory()
        shares = [kind.share for kind in kinds]
        for number in range(inputs):
            draw = random.Random(f"{seed}/{number}")
            kind = draw.choices(kinds, shares)[0]
            tried[kind.name] += 1
            began = time.monotonic()
            fault = run_one(kind, Path(place) / kind.name, Path(place) / "work", draw)
            spent[kind.name] += time.monotonic() - began
            if fault is not None:
                failed.setdefault(kind.name, []).append(f"input {number}: {fault}")
                if keep is not None:
                    _copied(Path(place) / "work", keep / f"{seed}-{number}")
    return {
        "inputs": inputs,
        "seed": seed,
        "failed": sum(map(len, failed.values())),
        "seconds": round(time.monotonic() - start, 1),
        "kinds": {
            kind.name: {
                "tried": tried[kind.name],
                "failed": len(failed.get(kind.name, [])),
                "seconds": round(spent[kind.name], 1),
            }
            for kind in kinds
        },
        "failures": failed,
    }


def _copied(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return Path(shutil.copytree(source, target))


def main() -> int:
    """Prints and writes what was tried and what failed; exit code 1 where anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", action="append", help="only kinds whose name has this word (repeatable)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that fail")
    options = parser.parse_args()
    kinds = [kind for kind in KINDS if not options.kind or any(word in kind.name for word in options.kind)]
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _too_slow)
    errors = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:  # decoders write to the descriptor
        os.dup2(nowhere.fileno(), 2)
        try:
            result = fuzz(options.inputs, options.seed, kinds, options.keep)
        finally:
            os.dup2(errors, 2)
    for name, counts in result["kinds"].items():
        print(f"{name:30} {counts['tried']:6} tried {counts['failed']:5} failed {counts['seconds']:7} s")
        for fault in result["failures"].get(name, [])[:20]:
            print(f"    {fault}")
    print(f"{result['inputs']} inputs, {result['failed']} failed, {result['seconds']} s")
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    return int(result["failed"] > 0)


if __name__ == "__main__":
    sys.exit(main())
