"""Whether the metrics keep the invariances that they declare: ``python bench/structure_invariances.py --help``.

Synthetic pieces of two families (additive tones; instruments unlike one another) are turned down and up, resampled, panned, sent through Vorbis, given hiss and
made half as long again; every metric is measured before and after, and its largest change is set beside what it declares.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from pathlib import Path

from eisbach.files import write_json
from eisbach.structure.invariances import CONDITIONS
from eisbach.studies.ground_truth import synthetic
from eisbach.studies.ground_truth.invariance_check import Piece, check_invariances
from eisbach.studies.ground_truth.synthetic_varied import varied_form

FORMS = ("ABCA", "AABA", "ABCD", "ABAB")


def pieces(count: int, section_seconds: float) -> list[Piece]:
    made: list[Piece] = []
    for seed in range(count):
        letters = FORMS[seed % len(FORMS)]
        for form in (synthetic.form, varied_form):
            made.append(
                lambda longer, form=form, letters=letters, seed=seed: form(letters, section_seconds * longer, 60 + seed)
            )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pieces", type=int, default=8, help="pieces of each family")
    parser.add_argument("--seconds", type=float, default=7.6, help="length of a section; a piece has four")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "structure_invariances.json")
    args = parser.parse_args()
    outcomes = check_invariances(pieces(args.pieces, args.seconds))
    rows = [{key: _plain(value) for key, value in asdict(outcome).items()} for outcome in outcomes]
    write_json(args.out, {"pieces": 2 * args.pieces, "section_seconds": args.seconds, "outcomes": rows})
    print(" " * 22 + "".join(f"{condition:>22s}" for condition in CONDITIONS))
    for start in range(0, len(outcomes), len(CONDITIONS)):
        row = outcomes[start : start + len(CONDITIONS)]
        cells = [
            f"{o.declared} {'' if o.tolerance in (None, 0.0) else o.tolerance} ({o.largest:.2g})" + "!" * bool(o.broken)
            for o in row
        ]
        print(f"{row[0].metric:22s}" + "".join(f"{cell:>22s}" for cell in cells))
    broken = sum(outcome.broken for outcome in outcomes)
    print(
        f"in brackets the largest change; '!' broke its word ({broken} of {sum(o.pieces for o in outcomes)} comparisons)"
    )


def _plain(value: object) -> object:
    return (
        None
        if isinstance(value, float) and math.isnan(value)
        else round(value, 6)
        if isinstance(value, float)
        else value
    )


if __name__ == "__main__":
    main()
