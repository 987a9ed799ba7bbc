"""Every kind of page in a real browser: ``python bench/pages_in_browser.py`` writes
bench/results/pages_in_browser.json.

The pages, widths, modes and rules are those of the browser tests (tests/page_checks.py, tests/report/page_cases.py):
axe-core's violations, parts that run off a phone's side, parts that no key reaches, pictures that are not drawn.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from eisbach.files import read_json, write_json

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/report")]


def main() -> None:
    """Looks at every page, and writes what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/pages_in_browser.json")
    parser.add_argument("--page", action="append", help="only this kind of page; the others stay as the file has them")
    options = parser.parse_args()
    from page_cases import PAGES
    from page_checks import MODES, WIDTHS, chromium, page_faults
    from test_pages_browser import _ALL_PARTS

    rows: dict[str, Any] = {}
    if options.page and options.out.is_file():
        rows = read_json(options.out, "result")["by_page"]
    with chromium() as browser:
        version = browser.version
        for name, make in PAGES.items():
            if options.page and name not in options.page:
                continue
            with tempfile.TemporaryDirectory() as folder:
                page = make(Path(folder))
                started = time.monotonic()
                faults = page_faults(browser, page, _ALL_PARTS if name == "listen" else "")
                rows[name] = {"kilobytes": page.stat().st_size // 1024, "looks": len(WIDTHS) * len(MODES),
                              "seconds": round(time.monotonic() - started, 1), "faults": faults}  # fmt: skip
            print(f"{name:16s} {len(faults)} faults", *faults, sep="\n  " if faults else " ")
    count = sum(len(row["faults"]) for row in rows.values())
    write_json(options.out, {
        "browser": f"chromium {version}",
        "axe": importlib.metadata.version("axe-playwright-python"),
        "widths": list(WIDTHS), "modes": list(MODES), "pages": len(rows),
        "looks": sum(row["looks"] for row in rows.values()), "faults": count, "by_page": rows,
    })  # fmt: skip
    print(f"{len(rows)} kinds of page × {len(WIDTHS)} widths × {len(MODES)} modes: {count} faults; {options.out}")
    sys.exit(1 if count else 0)


if __name__ == "__main__":
    main()
