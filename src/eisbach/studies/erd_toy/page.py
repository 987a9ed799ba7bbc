"""The toy's page: one self-contained `index.html` with what was found on top, then the paper's figures and all
numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from eisbach.files import atomic_write, write_json, write_text
from eisbach.report.allocation_figure import COLOURS, INK, SOFT, STYLES
from eisbach.report.page import NumberTable, PagePicture, render_page, save_pictures
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
from eisbach.studies.erd_toy.config import BASELINES, ToyConfig
from eisbach.studies.erd_toy.figures import (
    DPI,
    arm_name,
    finish,
    log_axis,
    panels,
    paper_pictures,
    path_name,
    target_name,
    titles,
)
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
            "comparison": [ratio.to_json() for ratio in self.ratios],
            "means": arm_means(run.rows, [name for name in measures if any(name in row for row in run.rows)]),
            "config": run.config.model_dump(mode="json"),
            "cpu_seconds": run.cpu_seconds,
        }


def _evaluate_toy(run: ToyRun) -> ToyReport:
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
    if not any(ratio.arm == "erd" for ratio in ratios):
        return "No comparison with ERD weighting was run; the page holds the paper's figures."
    seeds = max(ratio.seeds for ratio in ratios)
    parts = []
    for baseline in dict.fromkeys(ratio.baseline for ratio in ratios):
        counts = tally(ratios, "erd", "excess", baseline)
        parts.append(f"against {arm_name(baseline)} {_won(counts['lower'], counts['higher'], _tested(counts))}")
    # Holm's first step multiplies the smallest p that the sign-flip test can give by the number of tests in a family.
    first = next(ratio for ratio in ratios if ratio.arm == "erd" and ratio.measure == "excess")
    tests = sum(
        ratio.p is not None and (ratio.path, ratio.measure, ratio.arm) == (first.path, "excess", "erd")
        for ratio in ratios
    )
    weak = 2.0 ** (1 - seeds) * tests >= 0.05
    return (
        f"Does ERD weighting come nearer to the best possible prediction (in excess over the Bayes floor), at equal "
        f"steps and over {seeds} training seeds? By cells of path and target: {'; '.join(parts)}."
        + (f" With {seeds} seeds no difference can be shown, however large it is: run more." if weak else "")
    )


def _won(lower: int, higher: int, cells: int) -> str:
    """'nearer in 8 of 12', 'farther in 2 of 10', 'nearer in 3 and farther in 1 of 12'."""
    shown = [f"{word} in {count}" for word, count in (("nearer", lower), ("farther", higher)) if count]
    return f"{' and '.join(shown)} of {cells}" if shown else f"no difference was shown in any of {cells}"


def _tested(counts: dict[str, int]) -> int:
    return sum(counts.values()) - counts["identical"]


def _comparison_sentences(ratios: Sequence[Ratio]) -> list[str]:
    sentences = []
    for arm in dict.fromkeys(ratio.arm for ratio in ratios):
        for measure in dict.fromkeys(ratio.measure for ratio in ratios if ratio.measure in PRIMARY):
            for baseline in dict.fromkeys(ratio.baseline for ratio in ratios):
                sentences.append(_sentence(ratios, arm, measure, baseline))
    return [sentence for sentence in sentences if sentence]


def _sentence(ratios: Sequence[Ratio], arm: str, measure: str, baseline: str) -> str:
    chosen = [ratio for ratio in ratios if (ratio.arm, ratio.measure, ratio.baseline) == (arm, measure, baseline)]
    if not chosen:
        return ""

    def named(outcome: str) -> str:
        cells = [ratio for ratio in chosen if ratio.outcome == outcome]
        listed = ", ".join(
            f"{target_name(ratio.target)} on {path_name(ratio.path)} ({ratio.ratio:.2f}×)" for ratio in cells
        )
        return f"{outcome} for {listed}" if cells else ""

    said = [text for text in (named("lower"), named("higher")) if text]
    unclear = sum(ratio.outcome in ("inconclusive", "too few") for ratio in chosen)
    if unclear:
        said.append(f"not told apart in {unclear}")
    same = sum(ratio.outcome == "identical" for ratio in chosen)
    if same:
        said.append(f"the same weight in {same}")
    return f"{arm_name(arm)} against {arm_name(baseline)}, {_MEASURE_NAMES[measure]}: {'; '.join(said)}."


def _claim_sentences(claims: Sequence[Claim]) -> list[str]:
    return [f"Figure {claim.figure}: “{claim.text}” {claim.verdict[0].upper()}{claim.verdict[1:]}." for claim in claims]


def _toy_pictures(run: ToyRun, report: ToyReport) -> list[PagePicture]:
    """Every picture of the page, the comparison first."""
    pictures = [_ratios_picture(report.ratios, arm) for arm in dict.fromkeys(ratio.arm for ratio in report.ratios)]
    if run.curve_t is not None:
        pictures.append(curves_picture(run.curves, run.curve_t, run.config.paths, run.config.targets))
    return [*pictures, *paper_pictures(run.figures, run.config.targets, run.config.figures.bins)]


def _write_toy(run: ToyRun, out: str | Path, *, command: str = "") -> ToyReport:
    """Writes `toy.json`, `records.parquet` and `.jsonl`, `figures.npz`, `figures/*.png` and `index.html` into `out`.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written.
    """
    from eisbach.statistics.records import save_records

    out = Path(out)
    report = _evaluate_toy(run)
    write_json(out / RESULT, report.to_json(run))
    if run.rows:
        save_records((_record(row) for row in run.rows), out, RECORDS)
    _write_arrays(run, out / DATA)
    pictures = _toy_pictures(run, report)
    save_pictures(pictures, out / PICTURES)
    write_text(out / PAGE, _render(run, report, pictures, command))
    return report


def write_page(settings: ToyConfig, out: Path, command: str) -> Path:
    """Gathers the cells of a finished run and writes everything of `_write_toy`; returns the page."""
    _write_toy(gather(settings, out), out, command=command)
    return out / PAGE


def _record(row: dict[str, Any]) -> dict[str, Any]:
    """A trained network as a row of the records' schema: what it was trained on stands where clips have their
    prompt."""
    measures = {key: value for key, value in row.items() if key not in ("arm", "seed")}
    return {
        "arm": row["arm"], "train_seed": row["seed"], "prompt_id": f"{row['path']}/{row['target']}", "seed": 0,
        "path": f"cells/comparison-{row['path']}-{row['seed']:02d}.json", **{k: v for k,
        v in measures.items() if k != "path"},
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
        lead=len({ratio.baseline for ratio in report.ratios}),
        claims=[[claim.figure, claim.text, claim.test, claim.verdict] for claim in report.claims],
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
    return ", ".join(f"{number:g}" for number in value) if isinstance(value, list) else f"{value:g}"


def _ratio_table(ratios: Sequence[Ratio]) -> NumberTable:
    rows = []
    for ratio in ratios:
        interval = "–" if ratio.interval is None else f"{ratio.interval[0]:.2f} to {ratio.interval[1]:.2f}"
        p = "–" if ratio.p_adjusted is None else f"{ratio.p_adjusted:.3f}"
        outcome = "shown, not tested" if ratio.measure in BANDS and ratio.outcome == "inconclusive" else ratio.outcome
        rows.append(
            [f"{arm_name(ratio.arm)} / {arm_name(ratio.baseline)}", path_name(ratio.path), target_name(ratio.target),
             ratio.measure.replace("_", " "), f"{ratio.ratio:.3g}", interval, f"{ratio.wins}/{ratio.seeds}", p, outcome]
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


_MEASURE_NAMES = {
    "excess": "excess over the Bayes floor",
    "likelihood_gap": "likelihood gap",
    "sliced_wasserstein": "sliced Wasserstein distance",
    "coverage_error": "coverage error",
    "outliers": "outliers",
}
_MARKERS = ("o", "s", "^", "D", "v")
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)
_FILLED = ("lower", "higher")


def _ratios_picture(ratios: Sequence[Ratio], arm: str) -> PagePicture:
    """A panel for each primary measure, a row for each path and target, a mark for each baseline."""
    chosen = [ratio for ratio in ratios if ratio.arm == arm and ratio.measure in PRIMARY]
    cells = list(dict.fromkeys((ratio.path, ratio.target) for ratio in chosen))
    baselines = list(dict.fromkeys(ratio.baseline for ratio in chosen))
    measures = [name for name in PRIMARY if any(ratio.measure == name for ratio in chosen)]
    figure, axes = panels(1, len(measures), width=3.4, height=0.42 * len(cells) + 0.6, sharey=True)
    for axis, measure in zip(axes[0], measures, strict=True):
        for ratio in chosen:
            if ratio.measure != measure or ratio.outcome == "identical" or not ratio.ratio > 0:
                continue
            place = len(cells) - 1 - cells.index((ratio.path, ratio.target))
            index = baselines.index(ratio.baseline)
            y = place + 0.25 * ((len(baselines) - 1) / 2 - index)
            colour = COLOURS[index]
            if ratio.interval is not None:
                axis.plot(ratio.interval, [y, y], color=colour, linewidth=1.2)
            axis.plot(
                ratio.ratio, y, marker=_MARKERS[index % len(_MARKERS)], color=colour, markersize=4.5, linestyle="none",
                markerfacecolor=colour if ratio.outcome in _FILLED else "white",
            )  # fmt: skip
        axis.axvline(1, color=INK, linewidth=0.8)
        axis.set_xscale("log")
        shown = [tick for tick in _TICKS if axis.get_xlim()[0] <= tick <= axis.get_xlim()[1]]
        axis.set_xticks(shown, [f"{tick:g}" for tick in shown])
        axis.set_xticks([], minor=True)
        axis.set_title(_MEASURE_NAMES[measure], fontsize=9, color=INK)
        axis.set_xlabel("ratio to the baseline (below 1: lower, better)", fontsize=8)
    axes[0, 0].set_yticks(range(len(cells)), [f"{path_name(p)}, {target_name(y)}" for p, y in reversed(cells)])
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=COLOURS[i],
            marker=_MARKERS[i % len(_MARKERS)],
            markersize=4.5,
            label=f"against {arm_name(name)}",
        )
        for i, name in enumerate(baselines)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)
    return PagePicture(
        f"comparison-{arm}",
        f"{arm_name(arm)} against the baselines, at equal steps",
        "Ratio of geometric means over training seeds with its 95% t interval; filled where the sign-flip test after "
        "Holm's correction is below 0.05. No mark: the two weights are the same function there.",
        "Ratios by path, target and baseline.",
        finish(figure),
    )


def curves_picture(
    curves: Mapping[tuple[str, str, str], Tensor], t: Tensor, paths: Sequence[str], targets: Sequence[str]
) -> PagePicture:
    """Excess over t of every arm, geometric mean over seeds."""
    arms = list(dict.fromkeys(arm for _, _, arm in curves))
    figure, axes = panels(len(targets), len(paths))
    for j, path in enumerate(paths):
        for i, target in enumerate(targets):
            for index, arm in enumerate(arms):
                mean = curves[path, target, arm].clamp(min=1e-12).log().mean(dim=0).exp()
                axes[i, j].plot(
                    t.numpy(), mean.numpy(), color=COLOURS[index], linestyle=STYLES[index % len(STYLES)], linewidth=1.2,
                    label=arm_name(arm),
                )  # fmt: skip
            log_axis(axes[i, j])
    titles(
        axes, [path_name(p) for p in paths], [f"target {target_name(y)}" for y in targets], "noise level t", "excess"
    )
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(arms), frameon=False, fontsize=8, labelcolor=SOFT
    )
    return PagePicture(
        "comparison-curves",
        "Where each weighting leaves error",
        "Excess over the Bayes floor a coordinate, geometric mean over training seeds, unweighted: what a weighting "
        "gains at some noise levels it pays for at others.",
        "Excess over the noise level for each weighting.",
        finish(figure),
    )
