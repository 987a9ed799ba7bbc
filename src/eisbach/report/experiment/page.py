"""An experiment's answer: in sentences for `summary.json` and a terminal, and as the page of its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eisbach.config import dump_yaml
from eisbach.experiments.measures import FLAT
from eisbach.experiments.own_material import read_material, shown_clips
from eisbach.experiments.run import ANALYSIS, SUMMARY_FILE, ExperimentResult
from eisbach.experiments.spec import ExperimentSpec
from eisbach.files import read_jsonl, write_json
from eisbach.report.audio_embed import ENCODINGS, seconds_of
from eisbach.report.charts import Series
from eisbach.report.comparison.findings import headline_sentences, headline_verdict, nearness_verdict
from eisbach.report.comparison.page import ArmText, ComparisonPage, write_comparison_page
from eisbach.report.comparison.players import Player, clock, make_players
from eisbach.report.listen.votes import ListeningScore
from eisbach.report.wording import format_value
from eisbach.statistics.results import Results
from eisbach.statistics.sets import sets_of_results
from eisbach.types import Record

_MOST_CLIPS, _LEAST_ROWS = 80, 2
_CURVES = (
    ("Training loss by arm", "unweighted loss", "loss"),
    ("Held-out loss by arm", "unweighted loss", "held_out_loss"),
    ("Effective sample size by arm", "share of the batch that counts", "effective_sample_share"),
)


def summary_with_words(result: ExperimentResult) -> dict[str, Any]:
    """The summary as plain values, led by the verdict and a sentence for every arm, by the first primary metric."""
    results, near = result.summary.results, result.summary.nearness
    phrases = {name: arm.phrase or arm.label for name, arm in result.spec.arms.items()}
    said = headline_verdict(results, phrases, result.spec.apart)
    if near is not None:
        said = nearness_verdict(near, results.arms, phrases, result.spec.apart)
    return {
        "verdict": _lead(result) + (said or ""),
        "sentences": headline_sentences(results, phrases),
        **result.summary.to_json(),
    }


def _lead(result: ExperimentResult) -> str:
    return "A rehearsal (--quick): its numbers mean nothing. " if result.spec.rehearsal else ""


def write_summary(result: ExperimentResult) -> None:
    """Writes the summary with its sentences over the numbers alone that the run left in `summary.json`."""
    write_json(result.folder / SUMMARY_FILE, summary_with_words(result))


def summary_lines(result: ExperimentResult) -> list[str]:
    """For a terminal: one line an arm with its share of flat pieces, then the verdict."""
    labels = {name: arm.label for name, arm in result.spec.arms.items()}
    width = max(map(len, labels.values()))
    lines = []
    for name, row in result.summary.arms.items():
        shown = "?" if row["share_flat"] is None else format_value(FLAT, row["share_flat"], row["clips"])
        lines.append(f"{labels[name]:<{width}}  {shown:>9} flat{_near_line(result, name)}")
    return [*lines, str(summary_with_words(result)["verdict"])]


def _near_line(result: ExperimentResult, name: str) -> str:
    """An arm's mean distance to the reference over the measures that decide, and in how many it is nearer."""
    near = result.summary.nearness
    if near is None:
        return ""
    own = [each for info in near.primary if not info.share and (each := near.distance(name, info.name)) is not None]
    mean = f"{sum(each.value for each in own) / len(own):.2f} SD" if own else "no distance"
    compared = [near.comparison(name, info.name) for info in near.primary]
    verdicts = [each.verdict for each in compared if each is not None]
    counts = ", ".join(f"{word} in {verdicts.count(word)}" for word in ("nearer", "farther") if word in verdicts)
    return f"  {mean} from {near.label} on average{f' ({counts} of {len(verdicts)})' if counts else ''}"


def write_experiment_page(
    result: ExperimentResult, commands: Sequence[str] = (), *, votes: ListeningScore | None = None, quiet: bool = True
) -> Path:
    """Writes `report/index.html` into the experiment's folder, the verdict into its summary; returns the page's path.

    Parameters
    ----------
    commands : sequence of str
        Shell lines that make the same page again.
    votes : ListeningScore or None
        Of a blind test between the arms (`report.listen.votes.votes_about`).

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written.
    """
    write_summary(result)
    return write_comparison_page(result.folder / "report", _page(result, commands, votes), quiet=quiet)


def _page(result: ExperimentResult, commands: Sequence[str], votes: ListeningScore | None) -> ComparisonPage:
    """Everything that the page says about an experiment."""
    from eisbach.training.run_folder import versions

    spec, results = result.spec, result.summary.results
    models = " and training seed by training seed" if len(spec.train_seeds) > 1 else ""
    how = (
        "Every arm was trained from the same base on the same order of batches, and plays every prompt from the same "
        f"starting noise, so clips are compared pair by pair{models}."
    )
    return ComparisonPage(
        sets_of_results(result.records, results, how, result.summary.nearness),
        commands=commands,
        title=spec.title,
        question=spec.question,
        noun="arm",
        arms=[ArmText(name, spec.arms[name].label, spec.arms[name].phrase, spec.arms[name].explanation)
              for name in results.arms],
        notes=[*result.summary.notes, *limits(results, result.records)],
        apart=spec.apart,
        lead=_lead(result),
        reference=result.reference,
        heard=0 if spec.reference is None else spec.reference.heard,
        material=material_section(read_material(result.folder), result.folder),
        curves=_curves(result),
        captions={prompt.id: prompt.text for prompt in spec.generation.resolve_prompts()},
        audio_root=result.folder,
        analysis=result.folder / ANALYSIS,
        listen=clips_heard(spec),
        configuration=dump_yaml(spec),
        versions=versions(),
        votes=votes,
    )  # fmt: skip


def clips_heard(spec: ExperimentSpec) -> int:
    """Clips of the arms on the page: as many rows, with what stands beside them, as fit in its best encoding.

    A few that sound as the model does say more than all of them muffled.
    """
    beside = 0 if spec.reference is None else spec.reference.heard
    row = float(spec.generation.duration) * (len(spec.arms) + beside)
    return min(_MOST_CLIPS, len(spec.arms) * max(_LEAST_ROWS, int(seconds_of(ENCODINGS[0]) / row)))


def limits(results: Results, records: Sequence[Record]) -> list[str]:
    """What an experiment's records cannot show, in sentences: of the measures that decide. One of which hardly any clip
    has a value says nothing about the others."""
    notes = []
    labels = {info.name: info.label for info in results.metrics}
    primary = {info.name for info in results.metrics if info.primary}
    deciding = [each for each in results.comparisons if each.metric in primary] or results.comparisons
    counted = sorted((each for each in deciding if each.n_units), key=lambda each: each.p_floor or 0.0)
    if any(each.verdict == "too few" for each in deciding):
        notes.append("Some comparisons rest on a single piece or prompt; they show an example and prove nothing.")
    elif counted and (counted[0].p_floor or 0.0) >= 0.05:
        least, models = counted[0], counted[0].unit == "trained model"
        notes.append(
            f"With {least.n_units} {least.unit}s{' an arm' if models else ''} the smallest possible p is "
            f"{least.p_floor:.2g}: no difference can be called shown, however large it is."
            f"{' Five trained models an arm are the least that can.' if models else ''}"
        )
    if counted and counted[0].unit == "prompt" and any(row.get("train_seed") is not None for row in records):
        notes.append(
            "One trained model an arm: what is shown is a difference between these checkpoints. Another training of "
            "the same method could come out differently."
        )
    notes.append(
        "The judge of flatness was set on labelled audio. For arms of the development barrier, to which it is kin, it "
        "is no independent witness; nor is textural Vendi for arms of the recurrence and development barriers."
    )
    most = max(results.comparisons, key=lambda each: each.unmatched, default=None)
    if most is not None and most.unmatched and results.paired:
        notes.append(
            f"Up to {most.unmatched} clips of a comparison ({labels.get(most.metric, most.metric)}) had no partner or "
            "no value and were left out of it."
        )
    return notes


def _curves(result: ExperimentResult) -> list[tuple[str, str, list[Series]]]:
    """One line an arm (mean over training seeds at equal steps) for each quantity that was logged."""
    charts = []
    for title, label, column in _CURVES:
        series = []
        for colour, name in enumerate(result.summary.results.arms):
            steps, values = _mean_curve(result, name, column)
            if steps:
                series.append(Series(result.spec.arms[name].label, steps, values, colour))
        if series:
            charts.append((title, label, series))
    return charts


def _mean_curve(result: ExperimentResult, arm: str, column: str) -> tuple[list[float], list[float]]:
    by_step: dict[int, list[float]] = {}
    for seed in result.spec.train_seeds:
        path = result.folder / "arms" / arm / f"seed-{seed}" / "train" / "metrics.jsonl"
        rows: list[dict[str, Any]] = read_jsonl(path, "training log") if path.is_file() else []
        for row in rows:
            if row.get(column) is not None:
                by_step.setdefault(int(row["step"]), []).append(float(row[column]))
    steps = sorted(by_step)
    return [float(step) for step in steps], [sum(by_step[step]) / len(by_step[step]) for step in steps]


# --- the section 'Your music' of an experiment on a person's audio


_BUDGET = 2_000_000  # bytes of base64 for the clips that are weighed, and for the two of the codec
_HEARD_SECONDS = 30.0  # of a weighed stretch: six of them at 32 kHz
_KINDS = {
    "still": "still: a held sound or a pad",
    "loop": "a loop",
    "texture": "a texture without events",
    "shuffled": "joins that do not follow from one another",
}


def material_section(material: Mapping[str, Any] | None, root: Path) -> dict[str, Any] | None:
    """What the template shows of `experiments.own_material.describe_material`; None without a material."""
    if material is None:
        return None
    favoured, passed_over = shown_clips(material)
    codec = material["through_codec"]

    def players(paths: Sequence[str], seconds: float) -> list[Player]:
        records: list[Record] = [{"path": path, "duration": 0.0} for path in paths]
        return make_players(records, budget=_BUDGET, root=root, pictures=False, seconds=seconds)

    shown = [*favoured, *passed_over]
    heard = players([clip["path"] for clip in shown], _HEARD_SECONDS)
    cut = material["stretch"] > _HEARD_SECONDS
    weighed = [_weighed(clip, player, cut) for clip, player in zip(shown, heard, strict=True)]
    # on their own, in the page's best encoding: a narrower one would hide what the codec does
    pair = [] if codec is None else players([codec["path"], codec["decoded"]], codec["seconds"])
    return {
        "facts": _facts(material),
        "favoured": weighed[: len(favoured)],
        "passed_over": weighed[len(favoured) :],
        "looked_at": material["looked_at"],
        "codec": None if codec is None else {
            "name": codec["name"], "rate": f"what is left of it, at {codec['sample_rate'] / 1000:g} kHz",
            "original": pair[0], "decoded": pair[1],
        },
    }  # fmt: skip


def _facts(material: Mapping[str, Any]) -> list[tuple[str, str]]:
    shortest, median, longest = material["seconds"]
    looked_at, flat, length = material["looked_at"], material["flat"], material["stretch"]
    kinds = [f"{count} {_KINDS.get(kind, kind)}" for kind, count in material["kinds"].items() if kind != "none"]
    judged = f"{flat} of {looked_at} stretches of {length:g} s{f' ({_listed(kinds)})' if kinds else ''}"
    facts = [
        ("Recordings", f"{material['clips']}: {material['train']} train, {material['held_out'] or 'none'} "
         f"{'is' if material['held_out'] == 1 else 'are'} held out"),
        ("Length", f"{clock(shortest)} to {clock(longest)}, half are longer than {clock(median)}; "
         f"{material['minutes']:.0f} minutes in all"),
        ("Judged flat", f"{judged}. For drones, ambient and trance that may be the aim."),
    ]  # fmt: skip
    styles = _listed([f"{tag} ({count})" for tag, count in material["styles"].items()])
    return [*facts, ("Sounds like", f"{styles}, by an automatic tagger")] if styles else facts


def _weighed(clip: Mapping[str, Any], player: Player, cut: bool) -> dict[str, Any]:
    flat = clip["flat_probability"]
    said = [f"counts {clip['weight']:.2f} times the mean"]
    said += [] if flat is None else [f"probability of being flat {flat:.2f}"]
    said += [", ".join(clip["tags"])] if clip["tags"] else []
    said += [f"heard here: the first {clock(player.seconds)}"] if cut and player.seconds >= _HEARD_SECONDS - 0.1 else []
    return {"name": clip["name"], "said": "; ".join(said), "player": player}


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts)
