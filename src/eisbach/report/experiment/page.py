"""An experiment's answer: in sentences for `summary.json` and a terminal, and as the page of its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eisbach.config import dump_yaml
from eisbach.experiments.comparing import sets_of_results
from eisbach.experiments.measures import FLAT
from eisbach.experiments.own_material import read_material
from eisbach.experiments.run import ANALYSIS, SUMMARY_FILE, ExperimentResult
from eisbach.experiments.spec import ExperimentSpec
from eisbach.files import read_jsonl, write_json
from eisbach.report.audio_embed import ENCODINGS, seconds_of
from eisbach.report.charts import Series
from eisbach.report.comparison.findings import headline_sentences, headline_verdict, nearness_verdict
from eisbach.report.comparison.page import ArmText, ComparisonPage, write_comparison_page
from eisbach.report.experiment.material import material_section
from eisbach.report.listen.votes import ListeningScore
from eisbach.report.wording import format_value
from eisbach.statistics.results import Results
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
    said = headline_verdict(results, phrases)
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
    """What an experiment's records cannot show, in sentences."""
    notes = []
    floor = max((each.p_floor or 0.0 for each in results.comparisons), default=0.0)
    counted = [each for each in results.comparisons if each.n_units]
    if any(each.verdict == "too few" for each in results.comparisons):
        notes.append("Some comparisons rest on a single piece or prompt; they show an example and prove nothing.")
    elif counted and floor >= 0.05:
        models = counted[0].unit == "trained model"
        notes.append(
            f"With {counted[0].n_units} {counted[0].unit}s{' an arm' if models else ''} the smallest possible p is "
            f"{floor:.2g}: no difference can be called shown, however large it is."
            f"{' Five trained models an arm are the least that can.' if models else ''}"
        )
    if counted and counted[0].unit == "prompt" and any(row.get("train_seed") is not None for row in records):
        notes.append(
            "One trained model an arm: what is shown is a difference between these checkpoints. Another training of "
            "the same method could come out differently."
        )
    notes.append(
        "The judge of flatness was set on labelled audio and shares no formula with any weighting; textural Vendi is "
        "kin to what the recurrence and development barriers compute, so for their arms it is no independent witness."
    )
    unmatched = max((each.unmatched for each in results.comparisons), default=0)
    if unmatched and results.paired:
        notes.append(f"Up to {unmatched} clips of a comparison had no partner or no value and were left out of it.")
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
