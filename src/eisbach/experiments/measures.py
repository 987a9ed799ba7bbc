"""The measures of structure as statistics read them: what each is called, which direction is wanted, what it means."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Sequence

from eisbach.errors import UserError
from eisbach.statistics.records import MetricInfo, value_columns
from eisbach.statistics.results import Results
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
    "heard_change": "How much what a network that nobody here trained hears varies over a piece's windows of 3 s, in "
    "any order: of rendered clips of 16 s twice as much in music as in held chords, drones, textures and short loops.",
    "flat_probability": "The judge's estimate that a piece is flat in any way, before it is rounded to yes or no.",
    "flat_still": "The judge's estimate that a piece is one held or slowly turning sound.",
    "flat_loop": "The judge's estimate that a piece is one short cycle again and again.",
    "flat_texture": "The judge's estimate that a piece moves all the time and goes nowhere: noise, rain, grains.",
    "flat_shuffled": "The judge's estimate that the parts of a piece follow one another in no order.",
}


HEARD = {
    "note_motifs": ("share of notes in a motif heard before", ""),
    "notes_per_second": ("notes a second", "1/s"),
    "heard_change": ("change heard by musicnn", ""),
}
"""Columns of `analyze --notes` and `--embedding musicnn` that are compared, with label and unit."""

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
    "standing": ("share that stands still, loops or is a texture", "", "The judge's probability of these three kinds, "
        "averaged over pieces."),
    "copied": ("share nearer to training than to held-out clips", "", "Whether a piece lies nearer to what its model "
        "trained on than to music that no model heard."),
    "held_out_distance": ("distance to unseen music", "dB", "To the nearest held-out developing clip, by textures."),
    "training_distance": ("distance to training music", "dB", "To the nearest developing clip that trained, by "
        "textures."),
    "held_out_loss": ("held-out loss", "", "Of a model on material that it has not heard."),
    "texture_frechet": ("Fréchet distance of textures", "dB²", "Of a model's pieces to the material."),
    "musicnn_frechet": ("Fréchet distance by musicnn", "", "The same in what musicnn hears."),
    "texture_kernel": ("kernel distance of textures", "", "Of a model's pieces to the material."),
    "musicnn_kernel": ("kernel distance by musicnn", "", "The same in what musicnn hears."),
}  # fmt: skip
"""Columns that experiments or judges add (takes, adherence, distances), with label, unit and meaning."""

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
        table[metric.name] = MetricInfo(
            metric.name, label, metric.unit, None, metric.primary, meaning, contradicted_by=metric.contradicted_by
        )
    for name, (label, unit) in HEARD.items():
        table[name] = MetricInfo(name, label, unit, None, False, _MEANINGS[name])
    for name, label in (("flat_probability", "flat"), *((f"flat_{kind}", f"flat: {kind}") for kind in FLAT_KINDS)):
        table[name] = MetricInfo(name, f"probability of being {label}", "", None, False, _MEANINGS[name])
    return table


# --- what must be known before a difference is trusted: lengths, bandwidths, repeats, too few clips


_LENGTH_TOLERANCE = 1.1
_PAIRS_UNLIKE = 0.1  # share of pairs of unequal length from which the pairs say nothing
_POWER = 2.8  # z(0.975) + z(0.8): what a test at 5% finds four times out of five, in standard errors


def length_faults(records: Sequence[Record], names: Sequence[str], unmatched: Collection[str] = ()) -> dict[str, str]:
    """Sets whose clips last longer or shorter than the first set's, each with the sentence that refuses a verdict.

    A set is refused when the median or mean length differs by more than a tenth, or, where clips are matched, when more
    than a tenth of the pairs do.
    """
    seconds: dict[str, dict[tuple[object, ...], float]] = {name: {} for name in names}
    for row in records:
        value = _seconds(row)
        if value is not None:
            key = (row.get("train_seed"), row["prompt_id"], row["seed"])
            seconds[str(row["arm"])][key] = value
    first = seconds[names[0]]
    faults = {}
    for name in names[1:]:
        own = seconds[name]
        if not own or not first:
            continue
        pairs = [] if name in unmatched else [(own[key], first[key]) for key in own.keys() & first.keys()]
        unlike = sum(not _alike(*pair) for pair in pairs) > _PAIRS_UNLIKE * len(pairs)
        medians = statistics.median(own.values()), statistics.median(first.values())
        means = statistics.fmean(own.values()), statistics.fmean(first.values())
        if unlike or not _alike(*medians) or not _alike(*means):
            said = "differ in length pair by pair" if _alike(*medians) and _alike(*means) else (
                f"last {medians[0]:.1f} s (median) and those of {names[0]} {medians[1]:.1f} s"
            )  # fmt: skip
            faults[name] = (
                f"No verdict on {name}: its clips {said}, and most measures grow with length. {_cut_to(seconds, names)}"
            )
    return faults


def _cut_to(seconds: dict[str, dict[tuple[object, ...], float]], names: Sequence[str]) -> str:
    """The length to which nine of ten clips of every set can be cut."""
    tenth = (sorted(seconds[name].values())[len(seconds[name]) // 10] for name in names if seconds[name])
    common = math.floor(min(tenth))
    if common < 5:
        return "Leave out the short clips, then cut the others to one length with --seconds."
    return f"Cut all clips to one length with --seconds {common}."


def _alike(first: float, second: float) -> bool:
    return max(first, second) <= _LENGTH_TOLERANCE * min(first, second)


def _seconds(row: Record) -> float | None:
    value = row.get("duration")
    return float(value) if isinstance(value, int | float) else None


def condition_notes(records: Sequence[Record], *, lengths: bool = True) -> list[str]:
    """What a reader must know about the recordings themselves: lengths, bandwidths, silence, that could pass for
    structure."""
    notes = []
    seconds = [value for row in records if (value := _seconds(row)) is not None]
    if lengths and seconds and max(seconds) > _LENGTH_TOLERANCE * min(seconds):
        notes.append(
            f"The clips last from {min(seconds):.1f} to {max(seconds):.1f} s. Most measures grow with length, so cut "
            "the "
            "clips to one length (--seconds) before you trust a difference."
        )
    bands = _by_arm(records, "bandwidth_hz")
    if bands and max(bands.values()) > 1.5 * min(bands.values()):
        said = ", ".join(f"{arm} {value / 1000:.1f} kHz" for arm, value in bands.items())
        notes.append(
            f"The sets differ in bandwidth ({said}): part of a difference may come from the recording, not the music."
        )
    for flag, words in (("silent", "silent, and so count as flat"), ("clipped", "clipped (overdriven)")):
        count = sum(flag in str(row.get("flags") or "").split(";") for row in records)
        if count:
            notes.append(f"{count} clip{'s are' if count > 1 else ' is'} {words}.")
    return notes


def _by_arm(records: Sequence[Record], column: str) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for row in records:
        value = row.get(column)
        if isinstance(value, int | float):
            values.setdefault(str(row["arm"]), []).append(float(value))
    return {arm: sum(own) / len(own) for arm, own in values.items()}


def duplicate_notes(records: Sequence[Record]) -> list[str]:
    """Recordings that count more than once: within a set they make intervals too narrow, across sets differences too
    small."""
    heard: dict[str, list[str]] = {}
    for row in records:
        heard.setdefault(str(row.get("audio_hash") or row["path"]), []).append(str(row["arm"]))
    within = sum(len(arms) - len(set(arms)) for arms in heard.values())
    across = sum(len(set(arms)) > 1 for arms in heard.values())
    notes = []
    if within:
        notes.append(
            f"{within} clip{'s repeat' if within > 1 else ' repeats'} another file of the same set byte for byte: "
            "intervals are too narrow by that."
        )
    if across:
        notes.append(
            f"{across} recording{'s are' if across > 1 else ' is'} in several sets byte for byte: there, nothing can "
            "differ."
        )
    return notes


def power_notes(results: Results | None, refused: Collection[str] = ()) -> list[str]:
    """What so few units cannot show, in words; sets of which the same is true share a sentence."""
    if results is None:
        return []
    arms_of: dict[str, list[str]] = {}
    for arm in dict.fromkeys(each.arm for each in results.comparisons):
        if arm not in refused:
            arms_of.setdefault(_power_note(results, arm), []).append(arm)
    return [note.format(arms=_listed(arms)) for note, arms in arms_of.items()]


def _power_note(results: Results, arm: str) -> str:
    """One set's note, with {arms} where its name stands."""
    own = [each for each in results.comparisons if each.arm == arm and each.n_units]
    baseline = results.baseline.replace("{", "{{").replace("}", "}}")
    if not own:
        return f"{{arms}} against {baseline}: no measured clip in common, so nothing can be said."
    most = max(own, key=lambda each: each.n_units)
    if most.n_units < 2:
        return f"{{arms}} against {baseline} rests on a single {most.unit}: an example, which proves nothing."
    least = most.p_floor or 0.0
    if least >= 0.05:
        return (
            f"With {most.n_units} {most.unit}s of {{arms}} the smallest possible p is {least:.2g}: no difference can "
            "be called shown, however large it is."
        )
    primary = sum(info.primary for info in results.metrics)
    if primary > 1 and least * primary >= 0.05:
        return (
            f"With {most.n_units} {most.unit}s of {{arms}} the smallest possible p is {least:.2g}, and "
            f"{least * primary:.2g} once it is corrected for {primary} primary measures: none can be called shown. "
            "Name fewer with --primary before you look, or make more clips."
        )
    size = _POWER * math.sqrt((1.0 if most.paired else 2.0) / most.n_units)
    of = "of the differences between pairs" if most.paired else "of the clips"
    side = "" if most.paired else " on the smaller side"
    return (
        f"{{arms}} against {baseline}: {most.n_units} {most.unit}s{side}. A difference has to be about "
        f"{size:.1f} standard deviations {of} to be found four times out of five, before any correction."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
