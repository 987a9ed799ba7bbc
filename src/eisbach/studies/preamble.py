"""What the index of claims says around its tables: what it all comes to, how to read it, and what is shared."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import get_args

from eisbach.studies.contract import Study, Verdict

IN_SHORT: list[tuple[str, dict[str, Verdict]]] = [
    (
        "The entropy log-barrier as printed (Eq. 5) does as plain training does, and of what its paper claims "
        "{supported} of {claims} are supported, {refuted} refuted.",
        {"barrier_short/eq5": "refuted", "barrier_steps/sharper-as-printed": "refuted"},
    ),
    (
        "Of the weights, the recurrence barrier (ours) leaves fewer pieces that stand still, loop or are a texture "
        "than plain training, at a high rate and at a gentle one; at the gentle one it learns next to nothing of the "
        "set.",
        {"barrier_short/recurrence-over-draws": "supported", "barrier_gentle/recurrence-where-it-learns": "supported"},
    ),
    (
        "Recoverability weighting (ERD) comes nearer to the exact toy's optimum than Min-SNR and P2, and less near "
        "than a constant weight.",
        {"erd_toy/excess-min-snr": "supported", "erd_toy/excess-p2": "supported", "erd_toy/excess-constant": "refuted"},
    ),
    (
        "Class-conditional entropy reads exact mixtures rightly; in music an instrument is decided higher in the noise "
        "than a tempo.",
        {"signature_exact/chain-converges": "supported", "signature_music/instrument-before-tempo": "supported"},
    ),
    (
        "All trainings are of the embedded model of 7.6 M parameters; nothing is known of a large one.",
        {},
    ),
]
"""What the claims come to, with the verdicts (study/key) that each sentence rests on; a test holds them to it. The
counts are those of the barrier's paper."""
READING = (
    "*Supported* and *refuted* mean what the study's rules say, for the material and the models named there; "
    "*inconclusive* is neither: read the interval, and the smallest effect that could have been shown. Intervals are "
    "95%. **†** marks a verdict of which a rule was declared or changed when some of its records were known, those of "
    "arms shared with another study among them; its notes say which."
)
_WHAT = (
    "Every claim of the papers that a study here has decided, and our own. Written by `eisbach study page` from each "
    "study's `study.yaml` and `result.json` (computed from its records); a test holds these pages to those files. A "
    "study's folder holds its README (what was asked, what came out, what failed on the way), its code and its "
    "records; `eisbach study show NAME` prints one in full, with the rules by which its claims are supported or "
    "refuted, and `eisbach study run NAME` runs it again."
)
SHARED_DRAWS = {
    range(100, 108): ("barrier_main", "barrier_seeds", "barrier_characters", "barrier_dynamics", "barrier_steps"),
    range(110, 118): (
        "barrier_short", "clip_and_level", "clip_and_level_forms", "barrier_strength", "barrier_dora", "barrier_swaps",
        "barrier_heard", "barrier_adherence", "barrier_complements", "signature_control",
    ),
}  # fmt: skip
"""Which studies have the same training sets, by the seeds that draw them."""
_OTHER_DRAWS = """On draws that nobody has used, the same claims are decided by

```sh
eisbach study run barrier_short --set 'train_seeds=[900, 901, 902, 903, 904, 905, 906, 907]' --jobs 2 --out runs/900
```

which makes their sets. `--set arms.NAME=null` leaves an arm out (the oracle with `--set oracle=null` beside it), and
its claims then stand as not run."""
_STANDS = (
    "Where pieces that *stand* decide (still, loops, textures), those that are flat of *any kind* follow: they count "
    "disorder too and decide nothing. By them, over draws at the high rate of most studies, no weight is shown to gain "
    "on plain training, though most lie below it (the paper's, for each sample at λ 1, by p .03 uncorrected); at the "
    "gentle rate the recommended one lies below it in all eight (`barrier_gentle`)."
)


def fill(text: str) -> str:
    """A paragraph of a page, wrapped."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def before_tables(studies: Sequence[Study]) -> list[str]:
    """Paragraphs."""
    return [_in_short(studies), fill(_WHAT), fill(READING), fill(_STANDS)]


def other_draws() -> list[str]:
    """A section on which studies share draws, and on how to ask others."""
    return ["## Other draws", fill(_shared()), _OTHER_DRAWS]


def _in_short(studies: Sequence[Study]) -> str:
    verdicts = [
        result.verdict for study in studies for claim, result in study.rows() if claim.source.paper == "barrier"
    ]
    counts = {verdict: verdicts.count(verdict) for verdict in get_args(Verdict)}
    said = [text.format(claims=len(verdicts), **counts) for text, _ in IN_SHORT]
    return "\n".join(textwrap.fill(text, 120, initial_indent="- ", subsequent_indent="  ") for text in said)


def _shared() -> str:
    groups = [f"{', '.join(names)} (draws {draws[0]} to {draws[-1]})" for draws, names in SHARED_DRAWS.items()]
    return (
        f"Studies that have the same training sets, and where arms are equal the same trainings: {'; '.join(groups)}. "
        "Verdicts of one group are not independent of one another. The other studies over draws have sets of their own."
    )
