"""Two embedded models on one page, playing long pieces: ``python bench/base_players.py OLD --help``.

Plays the same prompts from the same noise with the model in OLD (of the first version: docs/base-model.md says where it
lies) and with the embedded one, and analyses both as `eisbach analyze OLD NEW` does. The page with their players
stays in ``--page``; what is judged of every piece goes into ``--out``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import yaml

from eisbach.files import read_jsonl, write_json

PROMPTS = {
    "low-strings": "slow low strings, dark",
    "celesta": "fast celesta, bright",
    "quartet": "string quartet, moderate",
}
MEASURES = ("flat_probability", "motif_coverage", "continuation", "block_strength", "level_range", "flux_gini")


def eisbach(*words: object) -> None:
    """A command as a user gives it."""
    subprocess.run([sys.executable, "-m", "eisbach", *map(str, words)], check=True)


def main() -> None:
    """Plays, analyses, and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="folder of the first version's model")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--page", type=Path, default=Path("base-players"), help="folder of takes and page")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "base_long_pieces.json")
    args = parser.parse_args()
    args.page.mkdir(parents=True, exist_ok=True)
    prompts = args.page / "prompts.yaml"
    prompts.write_text(yaml.safe_dump([{"id": name, "text": text} for name, text in PROMPTS.items()]), encoding="utf-8")
    for name, model in (("first", args.old), ("second", "embedded")):
        eisbach(
            "generate", "--prompts", prompts, "--seeds", args.seeds, "--model", model, "--arm", name, "--duration",
            args.seconds, "--steps", args.steps, "--out", args.page / name,
        )  # fmt: skip
    eisbach("analyze", args.page / "first", args.page / "second", "--out", args.page / "analysis", "--jobs", 1)
    rows = read_jsonl(args.page / "analysis" / "records.jsonl", "records")
    pieces = [
        {"version": row["group"], "prompt": row["prompt_id"], "seed": row["seed"], "flat": row["is_flat"]}
        | {name: None if row[name] is None else round(float(row[name]), 3) for name in MEASURES}
        for row in rows
    ]
    write_json(args.out, {"seconds": args.seconds, "steps": args.steps, "prompts": PROMPTS, "pieces": pieces})
    for piece in pieces:
        print(piece)


if __name__ == "__main__":
    main()
