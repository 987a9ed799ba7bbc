"""The toy's page: one self-contained `index.html` with what was found on top, then the paper's figures and all
numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eisbach.files import atomic_write, write_json, write_text
from eisbach.report.page import NumberTable, PagePicture, render_page, save_pictures
from eisbach.studies.erd_toy.axes import DPI, arm_name, path_name, target_name
from eisbach.studies.erd_toy.claims import Claim, judge_claims
from eisbach.studies.erd_toy.comparison import (
    BANDS,
    EXTRA,
    PRIMARY,
    Ratio,
    arm_means,
    compare_weightings,
    tally,
)
from eisbach.studies.erd_toy.comparison_figures import MEASURE_NAMES, curves_picture, ratios_picture
from eisbach.studies.erd_toy.config import BASELINES, ToyConfig
from eisbach.studies.erd_toy.figures import paper_pictures
from eisbach.studies.erd_toy.run import ToyRun, gather

RESULT, PAGE, PICTURES, RECORDS, DATA = "toy.json", "index.html", "figures", "records", "figures.npz"


@dataclass(frozen=True)
class ToyReport:
    """What a finished run says.

    Attributes
    ----------
    claims : list of Claim
    ratios : list of Ratio
    headline : str
    findings : list of str
    """

    claims: list[Claim]
    ratios: list[Ratio]
    headline: str
    findings: list[str]

    def to_json(self, run: ToyRun) -> dict[str, Any]:
        """Plain values: findings, claims, comparison, means and the configuration."""
        measures = [*PRIMARY, *BANDS, *EXTRA]
        return {
            "headline": self.headline,
            "findings": self.findings,
            "claims": [claim.to_json() for claim in self.claims],
            "comparison": [one.to_json() for one in self.ratios],
            "means": arm_means(run.rows, [name for name in measures if any(name in row for row in run.rows)]),
            "config": run.config.model_dump(mode="json"),
            "cpu_seconds": run.cpu_seconds,
        }


def evaluate_toy(run: ToyRun) -> ToyReport:
    """Claims, comparison and sentences of a run."""
    claims = judge_claims(run.figures, run.config.targets)
    arms = run.config.comparison.arms
    ratios: list[Ratio] = []
    if run.rows:
        baselines = [name for name in BASELINES if name in arms]
        candidates = [name for name in arms if name not in baselines]
        measures = [name for name in PRIMARY if any(row.get(name) is not None for row in run.rows)]
        if baselines and candidates:
            ratios = compare_weightings(run.rows, candidates, baselines, measures=measures)
    return ToyReport(claims, ratios, _headline(ratios), [*_comparison_sentences(ratios), *_claim_sentences(claims)])


def _headline(ratios: Sequence[Ratio]) -> str:
    if not any(one.arm == "erd" for one in ratios):
        return "No comparison with ERD weighting was run; the page holds the paper's figures."
    seeds = max(one.seeds for one in ratios)
    parts = []
    for baseline in dict.fromkeys(one.baseline for one in ratios):
        counts = tally(ratios, "erd", "excess", baseline)
        parts.append(
            f"than {arm_name(baseline)} in {counts['lower']} (higher in {counts['higher']}) of {_tested(counts)} cells"
        )
    # Holm's first step multiplies the smallest p that the sign-flip test can give by the number of tests in a family.
    first = next(one for one in ratios if one.arm == "erd" and one.measure == "excess")
    tests = sum(
        one.p is not None and (one.path, one.measure, one.arm) == (first.path, "excess", "erd") for one in ratios
    )
    weak = 2.0 ** (1 - seeds) * tests >= 0.05
    return (
        f"At equal steps, over {seeds} training seeds, ERD weighting left a lower excess over the Bayes floor "
        + ", ".join(parts)
        + " of path and target."
        + (f" With {seeds} seeds no difference can be shown, however large it is: run more." if weak else "")
    )


def _tested(counts: dict[str, int]) -> int:
    return sum(counts.values()) - counts["identical"]


def _comparison_sentences(ratios: Sequence[Ratio]) -> list[str]:
    sentences = []
    for arm in dict.fromkeys(one.arm for one in ratios):
        for measure in dict.fromkeys(one.measure for one in ratios if one.measure in PRIMARY):
            for baseline in dict.fromkeys(one.baseline for one in ratios):
                sentences.append(_sentence(ratios, arm, measure, baseline))
    return [sentence for sentence in sentences if sentence]


def _sentence(ratios: Sequence[Ratio], arm: str, measure: str, baseline: str) -> str:
    chosen = [one for one in ratios if (one.arm, one.measure, one.baseline) == (arm, measure, baseline)]
    if not chosen:
        return ""

    def named(outcome: str) -> str:
        cells = [one for one in chosen if one.outcome == outcome]
        listed = ", ".join(f"{target_name(one.target)} on {path_name(one.path)} ({one.ratio:.2f}×)" for one in cells)
        return f"{outcome} for {listed}" if cells else ""

    said = [text for text in (named("lower"), named("higher")) if text]
    unclear = sum(one.outcome in ("inconclusive", "too few") for one in chosen)
    if unclear:
        said.append(f"not told apart in {unclear}")
    same = sum(one.outcome == "identical" for one in chosen)
    if same:
        said.append(f"the same weight in {same}")
    return f"{arm_name(arm)} against {arm_name(baseline)}, {MEASURE_NAMES[measure]}: {'; '.join(said)}."


def _claim_sentences(claims: Sequence[Claim]) -> list[str]:
    return [f"Figure {claim.figure}: “{claim.text}” {claim.verdict[0].upper()}{claim.verdict[1:]}." for claim in claims]


def toy_pictures(run: ToyRun, report: ToyReport) -> list[PagePicture]:
    """Every picture of the page, the comparison first."""
    pictures = [ratios_picture(report.ratios, arm) for arm in dict.fromkeys(one.arm for one in report.ratios)]
    if run.curve_t is not None:
        pictures.append(curves_picture(run.curves, run.curve_t, run.config.paths, run.config.targets))
    return [*pictures, *paper_pictures(run.figures, run.config.targets, run.config.figures.bins)]


def write_toy(run: ToyRun, out: str | Path, *, command: str = "") -> ToyReport:
    """Writes `toy.json`, `records.parquet` and `.jsonl`, `figures.npz`, `figures/*.png` and `index.html` into `out`.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written.
    """
    from eisbach.statistics.records import save_records

    out = Path(out)
    report = evaluate_toy(run)
    write_json(out / RESULT, report.to_json(run))
    if run.rows:
        save_records((_record(row) for row in run.rows), out, RECORDS)
    _write_arrays(run, out / DATA)
    pictures = toy_pictures(run, report)
    save_pictures(pictures, out / PICTURES)
    write_text(out / PAGE, _render(run, report, pictures, command))
    return report


def write_page(settings: ToyConfig, out: Path, command: str) -> Path:
    """Gathers the cells of a finished run and writes everything of `write_toy`; returns the page."""
    write_toy(gather(settings, out), out, command=command)
    return out / PAGE


def _record(row: dict[str, Any]) -> dict[str, Any]:
    """A trained network as a row of the records' schema: what it was trained on stands where clips have their
    prompt."""
    kept = {key: value for key, value in row.items() if key not in ("arm", "seed")}
    return {
        "arm": row["arm"], "train_seed": row["seed"], "prompt_id": f"{row['path']}/{row['target']}", "seed": 0,
        "path": f"cells/comparison-{row['path']}-{row['seed']:02d}.json", **{k: v for k,
        v in kept.items() if k != "path"},
        "noising_path": row["path"],
    }  # fmt: skip


def _write_arrays(run: ToyRun, path: Path) -> None:
    """Every array behind the figures, named path/array, and the comparison's curves; weights stay in the cells."""
    import numpy as np

    arrays = {
        f"{name}/{key}": value.numpy()
        for name, held in run.figures.items()
        for key, value in held.items()
        if not key.startswith("model/")
    }
    arrays |= {f"comparison/excess/{'/'.join(key)}": value.numpy() for key, value in run.curves.items()}
    if run.curve_t is not None:
        arrays["comparison/t"] = run.curve_t.numpy()

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    atomic_write(path, write)


def _render(run: ToyRun, report: ToyReport, pictures: Sequence[PagePicture], command: str) -> str:
    config = run.config
    compared = config.comparison.seeds if run.rows else 0
    facts = [("paths", str(len(config.paths))), ("targets", str(len(config.targets)))]
    if compared:
        facts += [("weightings", str(len(config.comparison.arms))), ("training seeds", str(compared))]
    return render_page(
        "toy.html.j2",
        title="Recoverability on a toy with exact truth",
        question="How far from the best possible prediction do networks end at each noise level, and does "
        "recoverability weighting bring "
        "them closer?",
        facts=facts,
        headline=report.headline,
        comparison=_comparison_sentences(report.ratios),
        lead=len({one.baseline for one in report.ratios}),
        claims=report.claims,
        pictures=[picture.embedded(DPI) for picture in pictures],
        tables=[
            table
            for table in (_claim_table(report.claims), _ratio_table(report.ratios), _means_table(run))
            if table.rows
        ],
        command=command,
        config=json.dumps(config.model_dump(mode="json"), indent=2),
        cpu=f"{run.cpu_seconds / 60:.1f}",
        compared=compared,
        steps=config.comparison.steps,
        batch=config.comparison.batch,
        standardised=config.data.standardise,
    )


def _claim_table(claims: Sequence[Claim]) -> NumberTable:
    """Every cell of every claim, so that a reader with another threshold can judge anew."""
    rows = []
    for claim in claims:
        for cell, numbers in claim.cells.items():
            path, target = cell.split(" ")
            said = "; ".join(
                f"{key.replace('_', ' ')} {_plain(value)}" for key, value in numbers.items() if key != "holds"
            )
            holds = "yes" if numbers["holds"] else "no"
            rows.append([claim.figure, claim.text, path_name(path), target_name(target), said, holds])
    head = ["figure", "statement", "path", "target", "measured", "holds"]
    return NumberTable("The statements, cell by cell", "What each verdict above was counted from.", head, rows)


def _plain(value: Any) -> str:
    return ", ".join(f"{one:g}" for one in value) if isinstance(value, list) else f"{value:g}"


def _ratio_table(ratios: Sequence[Ratio]) -> NumberTable:
    rows = []
    for one in ratios:
        interval = "–" if one.interval is None else f"{one.interval[0]:.2f} to {one.interval[1]:.2f}"
        p = "–" if one.p_adjusted is None else f"{one.p_adjusted:.3f}"
        outcome = "shown, not tested" if one.measure in BANDS and one.outcome == "inconclusive" else one.outcome
        rows.append(
            [f"{arm_name(one.arm)} / {arm_name(one.baseline)}", path_name(one.path), target_name(one.target),
             one.measure.replace("_", " "), f"{one.ratio:.3g}", interval, f"{one.wins}/{one.seeds}", p, outcome]
        )  # fmt: skip
    head = ["arms", "path", "target", "measure", "ratio", "95% interval", "seeds lower", "p (Holm)", "outcome"]
    return NumberTable("Ratios", "Geometric means over seeds; below 1 the first arm is better.", head, rows)


def _means_table(run: ToyRun) -> NumberTable:
    measures = [name for name in (*PRIMARY, *EXTRA) if any(row.get(name) is not None for row in run.rows)]
    rows = [
        [path_name(entry["path"]), target_name(entry["target"]), arm_name(entry["arm"])]
        + ["–" if entry[name] is None else f"{entry[name]:.4g}" for name in measures]
        for entry in arm_means(run.rows, measures)
    ]
    return NumberTable(
        "Means by arm",
        "Over training seeds.",
        ["path", "target", "arm", *(name.replace("_", " ") for name in measures)],
        rows,
    )
