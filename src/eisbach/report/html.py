"""The page: one self-contained `index.html` that says what was asked, what came out, how sure that is, and plays it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from eisbach.errors import UserError
from eisbach.experiments.measures import FLAT
from eisbach.files import write_text
from eisbach.progress import Progress
from eisbach.report.audio_embed import BUDGET_BYTES, EmbeddedAudio, embed_all
from eisbach.report.charts import Series, arms_chart, curves_chart
from eisbach.report.page import render_page
from eisbach.report.players import MAX_CLIPS, Picture, PictureMaker, PromptGroup, plan_takes
from eisbach.report.tables import MARK_MEANINGS, arms_table
from eisbach.report.thumbnails import thumbnail_maker
from eisbach.report.wording import format_value, overall_verdict, recovered_sentence, verdict
from eisbach.statistics.metric_info import MetricInfo
from eisbach.statistics.results import Results
from eisbach.types import Record, Skipped

_PICTURE_BUDGET = 8_000_000  # bytes as base64, over all pictures of a page


@dataclass(frozen=True)
class ArmText:
    """How one arm is spoken of.

    Attributes
    ----------
    name : str
        As in the records.
    label : str
        Short title for tables ('Recurrence barrier').
    phrase : str
        Within a sentence ('the recurrence barrier'); the label when empty.
    explanation : str
        One or two sentences for a reader who has not seen the formulas.
    role : 'arm', 'baseline', 'oracle' or 'reference'
        A reference (the untrained base, say) and the oracle are shown but are no candidates for the verdict.
    """

    name: str
    label: str
    phrase: str = ""
    explanation: str = ""
    role: Literal["arm", "baseline", "oracle", "reference"] = "arm"


@dataclass(frozen=True)
class ReportContext:
    """Everything that the page says.

    Attributes
    ----------
    title, question : str
        The heading, and what was asked (blank lines part paragraphs).
    records : sequence of Record
        One row a clip.
    results : Results
        `experiments.results.evaluate(records, ...)`.
    audio_root : Path
        Folder that relative paths in the records start from.
    arms : sequence of ArmText
        In order; arms of the results that are missing here are shown by name.
    prompts : mapping of str to str
        The words of each prompt.
    pictures : callable (paths) -> callable (Path) -> sequence of Picture, or None
        Given all files of the page, returns what makes the pictures of one; None leaves them out.
    curves : sequence of (title, y label, sequence of Series)
        Training curves.
    configuration : str
        The resolved configuration as YAML.
    versions : mapping of str to str
    commands : sequence of str
        Shell lines that make this page again.
    pairing : str
        One sentence on how clips were matched.
    listening : str
        One sentence on what the clips of a row share; empty for the generated ones' (same words, same random start).
    notes : sequence of str
        Limits of this very run, and what was not shown.
    skipped : sequence of Skipped
    max_clips : int
        Clips to embed at most.
    audio_budget : int
        Bytes that all embedded audio may take.
    """

    title: str
    question: str
    records: Sequence[Record]
    results: Results
    audio_root: Path
    arms: Sequence[ArmText] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    pictures: Callable[[Sequence[Path]], PictureMaker] | None = thumbnail_maker
    curves: Sequence[tuple[str, str, Sequence[Series]]] = ()
    configuration: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    commands: Sequence[str] = ()
    pairing: str = ""
    listening: str = ""
    notes: Sequence[str] = ()
    skipped: Sequence[Skipped] = ()
    max_clips: int = MAX_CLIPS
    audio_budget: int = BUDGET_BYTES


def write_report(out_dir: str | Path, context: ReportContext, *, quiet: bool = True) -> Path:
    """Writes `out_dir/index.html` atomically and returns its path.

    Raises
    ------
    UserError
        The results hold no metric.
    StorageError
        The disk is full or the folder cannot be written.
    """
    path = Path(out_dir) / "index.html"
    write_text(path, render_report(context, quiet=quiet))
    return path


def render_report(context: ReportContext, *, quiet: bool = True) -> str:
    """The page as text."""
    return render_page("report.html.j2", **_page(context, quiet))


def _page(context: ReportContext, quiet: bool) -> dict[str, Any]:
    results = context.results
    headline = results.headline
    if headline is None:
        raise UserError("the records hold no metric, so there is nothing to report; analyse the clips first.")
    arms = _arm_texts(context)
    labels = {arm.name: arm.label for arm in arms}
    phrases = {arm.name: arm.phrase or arm.label for arm in arms}
    apart = [arm.name for arm in arms if arm.role in ("oracle", "reference")]
    primary = [info for info in results.metrics if info.primary] or results.metrics[:1]
    rest = [info for info in results.metrics if info not in primary]
    counts = {arm: sum(row["arm"] == arm for row in context.records) for arm in results.arms}
    table = partial(arms_table, arms=results.arms, summaries=results.summaries, labels=labels, n_clips=counts)
    point_name = "prompt" if results.paired else "clip"
    charts = [
        (info, _safe(arms_chart(info, _summaries(results, info), labels, point_name=point_name))) for info in primary
    ]
    groups, left_out = plan_takes(
        context.records,
        results.arms,
        context.prompts,
        paired=results.paired,
        unmatched=results.unmatched_arms,
        max_clips=context.max_clips,
    )
    return {
        "title": context.title,
        "question": [part.strip() for part in context.question.split("\n\n") if part.strip()],
        "verdict": overall_verdict(results.comparisons, headline, phrases, apart=apart),
        "findings": [verdict(one, headline, phrases) for one in results.comparisons if one.metric == headline.name],
        "checkpoint_verdict": overall_verdict(results.checkpoint_comparisons, headline, phrases, apart=apart)
        if results.checkpoint_comparisons
        else "",
        "recovered": [recovered_sentence(one, phrases) for one in results.recovered],
        "headline": headline,
        "arms": [(arm, results.arms.index(arm.name)) for arm in arms],
        "tables": [
            ("Primary measures", "declared before looking", table(primary, comparisons=results.comparisons)),
            *([("Further measures", "exploratory", table(rest, comparisons=results.comparisons))] if rest else []),
        ],
        "checkpoint_table": table(primary, comparisons=results.checkpoint_comparisons)
        if results.checkpoint_comparisons
        else None,
        "mark_meanings": MARK_MEANINGS,
        "chart": charts[0],
        "more_charts": charts[1:],
        "groups": _players(context, groups, headline, primary, quiet),
        "labels": labels,
        "indices": {arm: index for index, arm in enumerate(results.arms)},
        "left_out": left_out,
        "curves": [(title, _safe(curves_chart(series, "training step", y))) for title, y, series in context.curves],
        "metrics": results.metrics,
        "facts": _facts(context),
        "configuration": context.configuration,
        "versions": context.versions,
        "commands": context.commands,
        "pairing": context.pairing,
        "listening": context.listening or _listening(results),
        "notes": [*_own_notes(context), *context.notes],
        "skipped": context.skipped,
        "pictured": context.pictures is not None,
        "paired": results.paired,
    }


def _arm_texts(context: ReportContext) -> list[ArmText]:
    """A text for every arm of the results, in their order, whether or not the caller gave one."""
    given = {arm.name: arm for arm in context.arms}
    roles = {context.results.baseline: "baseline", context.results.oracle: "oracle"}
    return [given.get(name, ArmText(name, name, role=roles.get(name, "arm"))) for name in context.results.arms]  # type: ignore[arg-type]


def _summaries(results: Results, info: MetricInfo) -> list[Any]:
    return [results.summaries[arm, info.name] for arm in results.arms]


def _safe(svg: str) -> Any:
    from markupsafe import Markup

    return Markup(svg)  # made by `charts`, which escapes every text


def _players(
    context: ReportContext,
    groups: Sequence[PromptGroup],
    headline: MetricInfo,
    primary: Sequence[MetricInfo],
    quiet: bool,
) -> list[dict[str, Any]]:
    clips = [row for group in groups for take in group.takes for row in take.clips.values() if row is not None]
    paths = [context.audio_root / str(row["path"]) for row in clips]
    audio = dict(zip(map(id, clips), embed_all(paths, budget=context.audio_budget, quiet=quiet), strict=True))
    pictures = _pictures(context.pictures, paths, quiet)
    pictured = dict(zip(map(id, clips), pictures, strict=True))

    def card(arm: str, row: Record | None) -> dict[str, Any]:
        if row is None:
            return {
                "arm": arm,
                "audio": EmbeddedAudio("", 0.0, "This arm has no such clip."),
                "pictures": [],
                "facts": [],
                "judged": "",
                "name": "",
            }
        facts = [(info.label, format_value(info, _number(row, info))) for info in primary if not info.share]
        matched = context.results.paired and arm not in context.results.unmatched_arms
        name = "" if matched else str(row["prompt_id"])
        return {
            "arm": arm,
            "audio": audio[id(row)],
            "pictures": pictured[id(row)],
            "facts": facts,
            "judged": _judged(headline, row),
            "name": name,
        }

    return [
        {
            "heading": group.heading,
            "text": group.text,
            "takes": [
                {"heading": take.heading, "cards": [card(arm, row) for arm, row in take.clips.items()]}
                for take in group.takes
            ],
        }
        for group in groups
    ]


def _number(row: Record, info: MetricInfo) -> float | None:
    value = row.get(info.name)
    return float(value) if isinstance(value, int | float) else None


def _judged(headline: MetricInfo, row: Record) -> str:
    value = row.get(headline.name)
    if not headline.share or value is None:
        return ""
    if headline.name == FLAT.name:
        return "judged flat" if value else "judged developing"
    return f"{headline.label}: {'yes' if value else 'no'}"


def _pictures(
    prepare: Callable[[Sequence[Path]], PictureMaker] | None, paths: Sequence[Path], quiet: bool
) -> list[list[dict[str, str]]]:
    """Each clip's pictures as data addresses; once the budget is spent, the remaining clips have none."""
    if prepare is None:
        return [[] for _ in paths]
    maker = prepare(paths)
    made: list[list[dict[str, str]]] = []
    spent = 0
    with Progress(len(paths), "draw pictures", quiet=quiet) as bar:
        for path in paths:
            found: Sequence[Picture] = ()
            if spent < _PICTURE_BUDGET:
                try:
                    found = maker(path)
                except UserError:
                    found = ()  # the player beside it already says that the file cannot be read
            entry = [
                {
                    "title": one.title,
                    "alt": one.alt,
                    "uri": f"data:{one.mime};base64,{base64.b64encode(one.data).decode('ascii')}",
                }
                for one in found
            ]
            spent += sum(len(one["uri"]) for one in entry)
            made.append(entry)
            bar.advance()
    return made


def _listening(results: Results) -> str:
    if not results.paired:
        return "These clips are not matched with one another."
    return "In each row every arm was given the same words and the same random start, so what differs is the training."


def _facts(context: ReportContext) -> list[tuple[str, str]]:
    """What was compared, in numbers."""
    rows = context.records
    models = {(row["arm"], row.get("train_seed")) for row in rows if row.get("train_seed") is not None}
    seeds = len({row["seed"] for row in rows})
    facts = [("arms", str(len(context.results.arms))), ("clips", str(len(rows)))]
    if context.results.paired:
        facts.append(("prompts", str(len({row["prompt_id"] for row in rows}))))
        if seeds > 1:
            facts.append(("seeds a prompt", str(seeds)))
    if models:
        number = len({seed for _, seed in models})
        facts.append(("trained model an arm" if number == 1 else "trained models an arm", str(number)))
    return facts


def _own_notes(context: ReportContext) -> list[str]:
    """Limits that follow from the records themselves."""
    results = context.results
    notes = []
    floor = max((one.p_floor or 0.0 for one in results.comparisons), default=0.0)
    units = [one for one in results.comparisons if one.n_units]
    if any(one.verdict == "too few" for one in results.comparisons):
        notes.append("Some comparisons rest on a single piece or prompt; they show an example and prove nothing.")
    elif units and floor >= 0.05:
        notes.append(
            f"With {units[0].n_units} {units[0].unit}s an arm the smallest possible p is {floor:.2g}: "
            "no difference can be called shown, however large it is. Five trained models an arm are the least that can."
            if units[0].unit == "trained model"
            else f"With {units[0].n_units} {units[0].unit}s the smallest possible p is {floor:.2g}: no difference can "
            "be "
            "called shown, however large it is."
        )
    if units and units[0].unit == "prompt" and any(row.get("train_seed") is not None for row in context.records):
        notes.append(
            "One trained model an arm: what is shown is a difference between these checkpoints. Another training of "
            "the "
            "same method could come out differently."
        )
    unmatched = max((one.unmatched for one in results.comparisons), default=0)
    if unmatched and results.paired:
        notes.append(f"Up to {unmatched} clips of a comparison had no partner or no value and were left out of it.")
    return notes
