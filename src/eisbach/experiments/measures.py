"""The measures of structure as statistics read them: what each is called, which direction is wanted, what it means."""

from __future__ import annotations

from collections.abc import Sequence

from eisbach.errors import UserError
from eisbach.statistics.metric_info import MetricInfo
from eisbach.statistics.records import value_columns
from eisbach.structure.analyze import CONDITIONS as structure_conditions
from eisbach.structure.flatness import FLAT_KINDS
from eisbach.structure.metrics import METRICS
from eisbach.types import Record

FLAT = MetricInfo(
    "is_flat",
    "share of flat pieces",
    better="lower",
    primary=True,
    share=True,
    outcome="came out flat",
    margin=0.1,
    meaning="How many of the pieces stand still, loop, are a texture or have their parts in no order, by a judge that "
    "was set on labelled audio. For ambient or trance that may be the aim.",
)
"""The headline: whether a piece develops at all."""

_MEANINGS = {
    "block_strength": "How clearly a piece falls into sections that sound unlike one another; 0 for a drone, about 0.3 "
    "for four different sections.",
    "block_scale": "How long the sections are.",
    "continuation": "Whether what comes next follows from what was heard; near 0 for music that was cut up and "
    "shuffled, near 1 for loops, in between for music.",
    "section_contrast": "How different the stretches of a piece sound from one another, in decibels.",
    "textural_vendi": "How many different sound textures a piece passes through, counted so that near-copies count "
    "once.",
    "motif_coverage": "How much of the piece is heard again elsewhere in it, in any key.",
    "level_range": "How far apart the loud and the quiet passages are.",
    "flux_gini": "Whether change is gathered in few strong moments (high) or trickles evenly (low).",
    "closure": "How far the end is from the beginning: 0 returns to where it started, 1 is a typical distance.",
    "lag_similarity": "How well a piece matches itself some seconds later; near 1 for loops and for drones.",
    "loop_strength": "How exactly one period repeats; high only for loops.",
    "note_motifs": "How many of the melody's notes lie in a motif of five that was heard before, in any key and at any "
    "tempo; 0 for ever new music, a half for a tune played twice.",
    "notes_per_second": "How many notes begin in a second.",
    "flat_probability": "The judge's estimate that a piece is flat in any way, before it is rounded to yes or no.",
    "flat_still": "The judge's estimate that a piece is one held or slowly turning sound.",
    "flat_loop": "The judge's estimate that a piece is one short cycle again and again.",
    "flat_texture": "The judge's estimate that a piece moves all the time and goes nowhere: noise, rain, grains.",
    "flat_shuffled": "The judge's estimate that the parts of a piece follow one another in no order.",
}


_OF_NOTES = {
    "note_motifs": ("share of notes in a motif heard before", ""),
    "notes_per_second": ("notes a second", "1/s"),
}
"""Columns of `analyze --notes`, with label and unit."""

_OF_EXPERIMENTS = {
    "boundary_alignment": ("boundary alignment of takes", "", "Whether takes of a prompt change section at the same "
        "moments (within 3 s): 1 = the same, 0 = chance."),
    "boundary_alignment_prompts": ("boundary alignment beyond other prompts'", "", "The same, where chance is what "
        "takes of other prompts have in common."),
    "detail_diversity": ("onset detail diversity of takes", "", "How differently takes of a prompt place and play "
        "their onsets: 0 = identical, about 1 = unrelated."),
    "note_diversity": ("note detail diversity of takes", "", "The same of the notes that a network hears."),
    "musicnn_icc": ("share of differences by prompt, musicnn", "", "How much of the squared distance between pieces "
        "the prompt accounts for, against the seed, in what musicnn hears: 1 = only the prompt decides."),
    "texture_icc": ("share of differences by prompt, textures", "", "The same of our textures."),
    "tag_rank": ("rank of the prompt's tags", "", "How many of musicnn's other tags are less probable than those that "
        "the prompt names: 1 = none is more probable, 0.5 = chance."),
    "tag_lift": ("rank of the prompt's tags beyond other prompts'", "", "The same less these tags' rank in the "
        "model's pieces of prompts that do not name them."),
    "register_distance": ("distance to the prompt's register", "semitones", "How far the median pitch lies outside "
        "the register that the prompt names."),
}  # fmt: skip
"""Columns that experiments add where their recipe asks (`takes`, `adherence`), with label, unit and meaning."""

CONDITIONS = frozenset([*structure_conditions, "analysis_version"])
"""Columns that say under which conditions a clip was measured; they are held equal and not compared."""


def known_metrics(records: Sequence[Record]) -> list[MetricInfo]:
    """One `MetricInfo` for every metric column in the records: primary ones first, in the order of the metric table.

    Columns that the table of `structure` does not hold keep their own name, have no direction and are not primary;
    `CONDITIONS` are left out.
    """
    table = _table() | {
        name: MetricInfo(name, label, unit, None, False, meaning)
        for name, (label, unit, meaning) in _OF_EXPERIMENTS.items()
    }
    columns = [column for column in value_columns(records) if column not in CONDITIONS]
    infos = [table.get(column) or _unknown(records, column) for column in columns]
    order = list(table)
    return sorted(infos, key=lambda info: (not info.primary, order.index(info.name) if info.name in table else 999))


def check_measures(names: Sequence[str]) -> None:
    """Raises `UserError` for a name that no analysis of audio could ever give, before hours are spent on it."""
    known = _table()
    wrong = [name for name in names if name not in known]
    if wrong:
        raise UserError(
            f"there is no metric named {', '.join(repr(name) for name in wrong)}; choose from: {', '.join(known)}."
        )


def _unknown(records: Sequence[Record], column: str) -> MetricInfo:
    share = all(isinstance(row.get(column), bool | None) for row in records)
    return MetricInfo(column, column.replace("_", " "), share=share)


def _table() -> dict[str, MetricInfo]:
    table = {FLAT.name: FLAT}
    for metric in METRICS.values():
        label = metric.label[:1].lower() + metric.label[1:]
        meaning = " ".join([_MEANINGS.get(metric.name, ""), f"A higher value means {metric.higher_means}."]).strip()
        if metric.as_printed:
            meaning += f" As the paper prints it, and contradicted by ground truth: {metric.contradicted_by}."
        table[metric.name] = MetricInfo(metric.name, label, metric.unit, None, metric.primary, meaning)
    for name, (label, unit) in _OF_NOTES.items():
        table[name] = MetricInfo(name, label, unit, None, False, _MEANINGS[name])
    for name, label in (("flat_probability", "flat"), *((f"flat_{kind}", f"flat: {kind}") for kind in FLAT_KINDS)):
        table[name] = MetricInfo(name, f"probability of being {label}", "", None, False, _MEANINGS[name])
    return table
