"""Judges a run of the toy: sixteen statements about its figures, and ERD weighting against other weights at equal
steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.files import read_json
from eisbach.statistics.effect_size import mean_moments, t_interval
from eisbach.statistics.resampling import sign_flip_test
from eisbach.studies.contract import ClaimResult, Effect
from eisbach.studies.judging import judged, not_run

_STATEMENTS = {
    "fig7-excess-massive": "The excess of the global model is massive",
    "fig7-excess-smallest": "The excess is smallest where",
    "fig7-piecewise": "Piecewise models come much closer",
    "fig3-eps-noise": "eps is dominated by Bayes noise",
    "fig3-x0-noise": "x0 is dominated by Bayes noise",
    "fig3-v-u-balanced": "v and u avoid domination",
    "fig9-shrink": "Clusters shrink towards the origin",
    "fig9-entangle": "Clusters become entangled",
    "fig10-monotone": "For x0 and u the top eigenvalue drops",
    "fig10-u-shape": "For eps the top eigenvalue is U-shaped",
    "fig10-attenuation": "The attenuation of the top-3",
    "fig11-rank": "The effective rank collapses",
    "fig12-blocks": "The Gram matrix is block diagonal",
    "fig12-clusters-lost": "The Gram matrix has lost the clusters",
    "fig12-uniform": "The Gram matrix is uniform",
    "fig4-coupled": "Noise levels are coupled",
}
"""Claim to the first words of the statement in `claims.py`."""
_COMPARISONS = [
    *(
        (f"excess-{baseline.replace('_', '-')}", "erd", "excess", baseline)
        for baseline in ("constant", "min_snr", "p2")
    ),
    ("gap-constant", "erd", "likelihood_gap", "constant"),
    ("samples-constant", "erd", "sliced_wasserstein", "constant"),
    ("corrected-gap", "erd_corrected", "likelihood_gap", "constant"),
]
"""Claim, arm, measure, baseline."""


def judge(folder: Path) -> list[ClaimResult]:
    """All claims from `toy.json`, with `replication.json` beside the comparisons where it is there."""
    report = read_json(folder / "toy.json", "records")
    replication: Any = {}
    if (folder / "replication.json").is_file():
        replication = read_json(folder / "replication.json", "records")
    claims = [_statement(key, words, report["claims"]) for key, words in _STATEMENTS.items()]
    for key, arm, measure, baseline in _COMPARISONS:
        cells = _cells(report["comparison"], arm, measure, baseline)
        again = _cells(replication.get("comparison", []), arm, measure, baseline)
        claims.append(_comparison(key, cells, again) if cells else not_run(key))
    return claims


def _statement(key: str, words: str, claims: Sequence[Mapping[str, Any]]) -> ClaimResult:
    for claim in claims:
        if claim["text"].startswith(words):
            effect = Effect(
                name="holds in", value=claim["holds"], unit=f"of {claim['judged']} cells", n=claim["judged"]
            )
            return judged(
                key, [effect], supported=claim["holds"] == claim["judged"],
                refuted=claim["holds"] == 0,
                note=f"Counts where {claim['test']}.",
            )  # fmt: skip
    return not_run(key)


def _cells(rows: Sequence[Mapping[str, Any]], arm: str, measure: str, baseline: str) -> list[Mapping[str, Any]]:
    """The cells of path and target that were tested: those where the two weights are one function are left out."""
    return [
        row
        for row in rows
        if (row["arm"], row["measure"], row["baseline"]) == (arm, measure, baseline) and row["outcome"] != "identical"
    ]


def _comparison(key: str, cells: Sequence[Mapping[str, Any]], again: Sequence[Mapping[str, Any]]) -> ClaimResult:
    lower, higher = (sum(cell["outcome"] == outcome for cell in cells) for outcome in ("lower", "higher"))
    effects = [
        _ratio("geometric mean ratio over cells", cells),
        Effect(name="lower in", value=lower, unit=f"of {len(cells)} cells", n=len(cells)),
        Effect(name="higher in", value=higher, unit=f"of {len(cells)} cells", n=len(cells)),
    ]
    if again:
        for outcome in ("lower", "higher"):
            count = sum(cell["outcome"] == outcome for cell in again)
            effects.append(
                Effect(name=f"repeated with other seeds, {outcome} in", value=count, unit=f"of {len(again)} cells")
            )
    return judged(
        key, effects, supported=higher == 0 and 2 * lower > len(cells), refuted=lower == 0 and higher > 0,
        note=f"Lower in {lower} and higher in {higher} of {len(cells)} cells of path and target.",
    )  # fmt: skip


def _ratio(name: str, cells: Sequence[Mapping[str, Any]]) -> Effect:
    logs = np.log([cell["ratio"] for cell in cells])
    ends = t_interval(mean_moments(logs), 0.95)
    return Effect(
        name=name,
        value=float(np.exp(logs.mean())),
        low=None if ends is None else float(np.exp(ends[0])),
        high=None if ends is None else float(np.exp(ends[1])),
        unit="×",
        p=sign_flip_test(logs, np.random.default_rng(0))[0],
        n=len(logs),
    )
