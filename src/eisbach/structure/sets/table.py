"""The table of set metrics (what each is, in what unit and range, what it needs), and a row of a comparison."""

from __future__ import annotations

import math
from dataclasses import dataclass

from eisbach.structure.sets.intervals import Estimate

_INF = math.inf


@dataclass(frozen=True)
class SetMetric:
    """A number about a set of clips, or about two.

    Attributes
    ----------
    name : str
        Key in rows and JSON.
    label : str
        Title for tables.
    unit : str
        "" for a pure number.
    range : (float, float)
    higher_means : str
        What a higher value means, in words a reader understands.
    needs : str
        ``"clips"`` (one set), ``"prompts x seeds"`` (one set in which some prompt has two takes), ``"two sets"``, or
        ``"training and held-out"``.
    reference : float or None
        The value that means nothing: no difference, chance, no memorisation. None where there is no such value.
    unit_of_interval : str
        What the interval is taken over.
    """

    name: str
    label: str
    unit: str
    range: tuple[float, float]
    higher_means: str
    needs: str
    reference: float | None
    unit_of_interval: str


_SEEDS, _TWO, _COPY, _ONE = "prompts x seeds", "two sets", "training and held-out", "clips"
_TABLE = (
    SetMetric("boundary_alignment_3s", "Boundary alignment across seeds, ±3 s", "", (-1.0, 1.0),
              "takes of a prompt change section at the same moments", _SEEDS, 0.0, "prompt"),
    SetMetric("boundary_alignment_05s", "Boundary alignment across seeds, ±0.5 s", "", (-1.0, 1.0),
              "takes of a prompt change section at exactly the same moments", _SEEDS, 0.0, "prompt"),
    SetMetric("boundary_alignment_prompts_3s", "Boundary alignment beyond other prompts, ±3 s", "", (-_INF, 1.0),
              "takes of a prompt agree more than takes of different prompts do", _SEEDS, 0.0, "prompt"),
    SetMetric("detail_diversity", "Onset-level detail diversity across seeds", "", (0.0, _INF),
              "takes of a prompt place and play their notes more differently", _SEEDS, None, "prompt"),
    SetMetric("note_diversity", "Note-level detail diversity across seeds", "", (0.0, _INF),
              "takes of a prompt play more different notes", _SEEDS, None, "prompt"),
    SetMetric("differentiation", "Distance between clips of different prompts", "dB", (0.0, _INF),
              "clips sound more different from one another", _ONE, None, "prompt"),
    SetMetric("distance_icc", "Share of the distance that prompts account for", "", (-_INF, 1.0),
              "prompts, not seeds, decide how a clip sounds", _SEEDS, 0.0, "prompt"),
    SetMetric("vendi", "Vendi score of the set", "clips", (1.0, _INF), "more different clips", _ONE, None, "prompt"),
    SetMetric("frechet", "Fréchet distance", "dB²", (0.0, _INF), "sets that differ more", _TWO, None, "prompt"),
    SetMetric("kernel_gaussian", "Kernel distance, Gaussian (MMD²)", "", (-_INF, _INF), "sets that differ more", _TWO,
    0.0, "prompt"),
    SetMetric("kernel_polynomial", "Kernel distance, polynomial (MMD²)", "", (-_INF, _INF), "sets that differ more",
    _TWO, 0.0, "prompt"),
    SetMetric("precision", "Precision: B inside A's manifold", "", (0.0, 1.0), "more of B sounds like something in A",
    _TWO, None, "prompt"),
    SetMetric("recall", "Recall: A inside B's manifold", "", (0.0, 1.0), "more of A is matched by something in B", _TWO,
    None, "prompt"),
    SetMetric("density", "Density of B in A's manifold", "", (0.0, _INF), "B lies where A is dense", _TWO, 1.0,
    "prompt"),
    SetMetric("coverage", "Coverage of A by B", "", (0.0, 1.0), "more of A has something of B nearby", _TWO, None,
    "prompt"),
    SetMetric("memorised_clips", "Generations closer to training than 95% of unseen clips", "", (0.0, 1.0),
              "more generations lie unusually near a training clip", _COPY, 0.05, "generation"),
    SetMetric("memorised_clips_auc", "AUC of closeness to training, clips", "", (0.0, 1.0),
              "generations are closer to training than unseen clips", _COPY, 0.5, "clip"),
    SetMetric("memorised_excerpts", "Generations with an excerpt closer to training than 95% of unseen clips", "", (0.0,
    1.0),
              "more generations contain a copied excerpt", _COPY, 0.05, "generation"),
    SetMetric("memorised_excerpts_auc", "AUC of closeness to training, excerpts", "", (0.0, 1.0),
              "excerpts of generations are closer to training than those of unseen clips", _COPY, 0.5, "clip"),
    SetMetric("copied_share", "Share of the generated audio in copied excerpts", "", (0.0, 1.0),
              "more of the audio is found in the training clips", _COPY, None, "generation"),
)  # fmt: skip

SET_METRICS: dict[str, SetMetric] = {metric.name: metric for metric in _TABLE}
"""Every set metric by name, in the order of tables. Those that need two sets are computed for every embedding."""

TEXTURE = "texture"
"""Name of the embedding that is always there."""


@dataclass(frozen=True)
class SetRow:
    """One number of a comparison.

    Attributes
    ----------
    metric : str
        Key of `SET_METRICS`.
    label, unit, higher_means : str
    sets : str
        The set's name, or both: "A vs B".
    embedding : str
        "texture", "clap" …; "" where none is involved.
    value, low, high : float
        NaN where undefined.
    n_units : int
    unit_of_interval : str
    reference : float or None
        What no difference, chance or no memorisation reads; for distances the median under exchanged labels.
    p_value : float or None
        Of no difference, by exchanging labels between the sets.
    note : str
    """

    metric: str
    label: str
    unit: str
    higher_means: str
    sets: str
    embedding: str
    value: float
    low: float
    high: float
    n_units: int
    unit_of_interval: str
    reference: float | None = None
    p_value: float | None = None
    note: str = ""


def make_row(
    metric: str, estimate: Estimate, sets: str, embedding: str, p: float | None = None, reference: float | None = None
) -> SetRow:
    """The row of an estimate; `reference` None takes the metric's own from the table."""
    about = SET_METRICS[metric]
    unit = about.unit if embedding in ("", TEXTURE) or about.unit != "dB²" else ""
    return SetRow(
        metric, about.label, unit, about.higher_means, sets, embedding, estimate.value, estimate.low, estimate.high,
        estimate.n_units, estimate.unit, about.reference if reference is None else reference, p, estimate.note,
    )  # fmt: skip
