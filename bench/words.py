"""How long the pages are: ``python bench/words.py`` writes bench/results/words.json.

Words as tests/cli/test_documented_commands.py counts them, code and tables included, and apart from fenced code. The
first three pages are read by musicians: the formulas in them are counted too.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from eisbach.files import write_json

ROOT = Path(__file__).parents[1]
MOST = 1_500
FIRST = ("README.md", "docs/start.md", "docs/own-music.md")


def main() -> None:
    """Counts, prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "bench/results/words.json")
    options = parser.parse_args()
    pages = {}
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        prose = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
        pages[str(page.relative_to(ROOT))] = {"words": len(text.split()), "without_code": len(prose.split())}
    formulas = {page: len(re.findall(r"\\\(|\\\[|\$\$|λ|σ|‖", (ROOT / page).read_text("utf-8"))) for page in FIRST}
    longest = max(pages, key=lambda page: pages[page]["words"])
    for page, row in sorted(pages.items(), key=lambda item: -item[1]["words"]):
        print(f"{row['words']:6d} {row['without_code']:6d}  {page}")
    write_json(options.out, {
        "most_allowed": MOST, "pages": len(pages), "longest": longest, "longest_words": pages[longest]["words"],
        "over": [page for page, row in pages.items() if row["words"] > MOST], "formulas_on_the_first_pages": formulas,
        "words": pages,
    })  # fmt: skip
    print(f"{len(pages)} pages, the longest {longest} with {pages[longest]['words']} words; {options.out}")


if __name__ == "__main__":
    main()
