"""Peak memory of a page of many files: ``python bench/page_memory.py --help``.

Analyses copies of a folder's recordings, shifted so that no two are equal, as ``eisbach analyze A B`` does, in a
process of its own, and writes the page's size, the peak of the process's memory, and the seconds of CPU of analysis and
page. Goal: under 400 MB for 105 files.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import cycle
from pathlib import Path

import numpy as np
import soundfile as sf

from eisbach.files import write_json

_CHILD = """
import json, resource, sys, time
from typer.testing import CliRunner
from eisbach.cli.main import app
marks = []
for page in ("--no-page", "--page"):
    start = time.process_time()
    result = CliRunner().invoke(app, ["analyze", *sys.argv[1:3], "--out", sys.argv[3], "--jobs", "1", "-q", page])
    assert result.exit_code == 0, result.output
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    marks.append({"cpu_seconds": round(time.process_time() - start, 1), "peak_megabytes": round(peak, 1)})
print(json.dumps(marks))
"""


def write_sets(source: Path, folder: Path, files: int, seconds: float) -> None:
    """Two folders of `files` files in all, each a stretch of a recording that begins elsewhere."""
    paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in {".flac", ".ogg", ".wav", ".mp3"})
    for index, path in zip(range(files), cycle(paths), strict=False):
        samples, rate = sf.read(path, dtype="float32", always_2d=True)
        shifted = np.roll(samples, -index * rate, axis=0)[: round(seconds * rate)]
        place = folder / ("first" if index % 2 else "second") / f"{index:03d}.flac"
        place.parent.mkdir(exist_ok=True)
        sf.write(place, shifted, rate)


def main() -> None:
    """Measures, and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path, help="folder of audio, such as bench/recordings.py makes")
    parser.add_argument("--files", type=int, default=105)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "page_memory.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_sets(args.recordings, folder, args.files, args.seconds)
        out = folder / "analysis"
        command = [sys.executable, "-c", _CHILD, str(folder / "first"), str(folder / "second"), str(out)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        analysis, page = json.loads(said.splitlines()[-1])
        size = (out / "index.html").stat().st_size
    result = {
        "files": args.files, "seconds_each": args.seconds, "analysis": analysis, "with_page": page,
        "page_megabytes": round(size / 1e6, 1), "goal_megabytes": 400,
    }  # fmt: skip
    write_json(args.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
