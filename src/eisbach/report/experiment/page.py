"""The page of an experiment's folder: its arms, prompts, curves, configuration and the commands that make it again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eisbach.config import dump_yaml
from eisbach.experiments.run import ExperimentResult
from eisbach.files import read_jsonl
from eisbach.report.charts import Series
from eisbach.report.experiment.wording import write_summary
from eisbach.report.html import ArmText, ReportContext, write_report

_CURVES = (
    ("Training loss by arm", "unweighted loss", "loss"),
    ("Held-out loss by arm", "unweighted loss", "held_out_loss"),
    ("Effective sample size by arm", "share of the batch that counts", "effective_sample_share"),
)


def write_experiment_page(result: ExperimentResult, commands: Sequence[str] = (), *, quiet: bool = True) -> Path:
    """Writes `report/index.html` into the experiment's folder, the verdict into its summary; returns the page's path.

    Parameters
    ----------
    commands : sequence of str
        Shell lines that make the same page again.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written.
    """
    write_summary(result)
    return write_report(result.folder / "report", report_context(result, commands), quiet=quiet)


def report_context(result: ExperimentResult, commands: Sequence[str] = ()) -> ReportContext:
    """Everything that the page says about an experiment."""
    from eisbach.training.run_folder import versions

    spec = result.spec
    seeds = len(spec.train_seeds)
    return ReportContext(
        title=spec.title,
        question=spec.question,
        records=result.records,
        results=result.summary.results,
        audio_root=result.folder,
        arms=[
            ArmText(name, arm.label, arm.phrase, arm.explanation, _role(name, spec.baseline, spec.oracle))  # type: ignore[arg-type]
            for name, arm in spec.arms.items()
        ],
        prompts={prompt.id: prompt.text for prompt in spec.generation.resolve_prompts()},
        curves=_curves(result),
        configuration=dump_yaml(spec),
        versions=versions(),
        commands=commands,
        pairing=(
            "Every arm was trained from the same base on the same order of batches, and plays every prompt from the "
            "same "
            "starting noise, so clips are compared pair by "
            f"pair{' and training seed by training seed' if seeds > 1 else ''}."
        ),
        notes=spec.notes,
    )


def _role(name: str, baseline: str, oracle: str | None) -> str:
    return "baseline" if name == baseline else "oracle" if name == oracle else "arm"


def _curves(result: ExperimentResult) -> list[tuple[str, str, list[Series]]]:
    """One line an arm (mean over training seeds at equal steps) for each quantity that was logged."""
    found = []
    for title, label, column in _CURVES:
        series = []
        for colour, (name, arm) in enumerate(result.spec.arms.items()):
            steps, values = _mean_curve(result, name, column)
            if steps:
                series.append(Series(arm.label, steps, values, colour))
        if series:
            found.append((title, label, series))
    return found


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
