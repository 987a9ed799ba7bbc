"""The page of the digits experiment: one self-contained `index.html` with the answer on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eisbach.files import read_json, read_jsonl, write_text
from eisbach.report.page import NumberTable, PagePicture, render_page
from eisbach.studies.erd_digits.pictures import (
    BACKBONES,
    DPI,
    LABELS,
    curves_picture,
    differences_picture,
    samples_picture,
    setting_name,
)
from eisbach.studies.erd_digits.spec import DigitsConfig
from eisbach.types import Record

_ALPHA = 0.05


def write_digits_page(
    config: DigitsConfig, records: Sequence[Record], summary: Mapping[str, Any], *, command: str = ""
) -> Path:
    """Writes `index.html` into the experiment's folder and returns its path.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written.
    """
    page = render_page(
        "digits.html.j2",
        title="Loss weights on digits",
        question="Does recoverability weighting give better digits than constant, Min-SNR and P2 weights, at equal "
        "steps?",
        facts=[
            ("trainings", len({(r["backbone"], r["target"], r["arm"], r["seed"]) for r in records})),
            ("training seeds", f"{config.first_seed} to {config.first_seed + config.seeds - 1}"),
            ("classifier's accuracy", f"{summary['classifier_accuracy']:.1%}"),
            ("distance of real digits", f"{summary['floor']['frechet']:.2f}"),
        ],
        sentences=sentences(summary),
        pictures=_pictures(config, records, summary),
        tables=[_comparison_table(summary), _means_table(summary)],
        declared=list(summary["declared"].items()),
        command=command,
    )
    path = Path(config.out) / "index.html"
    write_text(path, page)
    return path


def write_page(settings: DigitsConfig, out: Path, command: str) -> Path:
    """The page of a finished run."""
    records = read_jsonl(out / "records.jsonl", "records")
    summary = read_json(out / "summary.json", "summary")
    return write_digits_page(settings.model_copy(update={"out": str(out)}), records, summary, command=command)


def sentences(summary: Mapping[str, Any]) -> list[str]:
    """The pooled comparisons in words: how much, with which interval, and whether that is anything."""
    found = []
    for one in summary["comparisons"]:
        entry, names = one["log_frechet"], (LABELS[one["arm"]], LABELS[one["baseline"]])
        if entry["mean"] is None:
            continue
        change = f"{_percent(entry['mean'])} in Fréchet distance"
        if entry["interval"] is None:
            found.append(f"{names[0]} against {names[1]}: {change} in the one setting there is; no interval.")
            continue
        low, high = entry["interval"]
        p = entry.get("p_holm", entry["p"])
        # An interval that leaves out 0 is not enough where three baselines were tried.
        unclear = low <= 0 <= high or entry.get("p_holm", entry["p"]) >= _ALPHA
        verdict = "no clear difference" if unclear else "better" if high < 0 else "worse"
        found.append(
            f"{names[0]} against {names[1]}: {verdict}. {change} (95% interval {_percent(low)} to {_percent(high)}, "
            "lower in "
            f"{entry['lower_in']} of {entry['settings']} settings, p = {p:.3f}"
            f"{' after Holm' if 'p_holm' in entry else ''})."
        )
    return found or ["Nothing can be compared: a baseline and another arm are needed."]


def _percent(difference: float) -> str:
    """A difference of logarithms as a change in per cent."""
    import math

    return f"{100 * math.expm1(difference):+.0f}%".replace("-", "−")


def _pictures(config: DigitsConfig, records: Sequence[Record], summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    made = [
        PagePicture(
            "quality",
            "Quality over steps",
            "Fréchet distance to held-out digits (features of the classifier, averaged weights; lower is better); "
            "thin lines are seeds, "
            "thick ones their geometric mean, the dotted line real digits. Both axes of a row are shared.",
            "Fréchet distance over training steps for every network, target and weighting.",
            curves_picture(records, float(summary["floor"]["frechet"])),
        )
    ]
    if summary["comparisons"]:
        made.append(
            PagePicture(
                "differences",
                "Which weighting is better, setting by setting",
                "Fréchet distance at the last checkpoint over the baseline's: left of the line the first arm is "
                "better. Dots are means "
                "over seeds with 95% t intervals, the diamond is the mean over settings; an interval across the line "
                "shows no difference.",
                "; ".join(sentences(summary)),
                differences_picture(summary),
            )
        )
    arms = [arm for arm in LABELS if any(row["arm"] == arm for row in records)]
    for backbone in config.backbones:
        png = samples_picture(config.out, backbone, arms, list(config.targets), config.first_seed)
        if png is not None:
            name = BACKBONES.get(backbone, backbone)
            made.append(
                PagePicture(
                    f"digits-{backbone}",
                    f"Digits of the {name}",
                    f"0 to 9, twice; seed {config.first_seed}, last checkpoint, the same noise in every arm; columns "
                    "are targets.",
                    f"Digits that the {name} drew, by weighting and target.",
                    png,
                )
            )
    return [picture.embedded(DPI) for picture in made]


def _comparison_table(summary: Mapping[str, Any]) -> NumberTable:
    rows = []
    for one in summary["comparisons"]:
        names = f"{LABELS[one['arm']]} − {LABELS[one['baseline']]}"
        entries = [("all settings", one["log_frechet"]), *one["by_setting"].items()]
        for setting, entry in entries:
            interval = entry["interval"]
            rows.append(
                [
                    f"{names}, {setting_name(setting)}",
                    "–" if entry["mean"] is None else f"{entry['mean']:+.3f}",
                    "–" if interval is None else f"{interval[0]:+.3f} to {interval[1]:+.3f}",
                    "–" if entry["p"] is None else f"{entry['p']:.3f}",
                    f"{entry['p_holm']:.3f}" if "p_holm" in entry else "–",
                ]
            )
    return NumberTable(
        "Differences of ln Fréchet distance",
        "Below 0: the first is better.",
        ["comparison", "mean", "95% interval", "p", "p (Holm)"],
        rows,
    )


def _means_table(summary: Mapping[str, Any]) -> NumberTable:
    rows = []
    for entry in summary["means"]:
        setting = setting_name(f"{entry['backbone']}/{entry['target']}")
        cells = [f"{setting}, {LABELS[entry['arm']]}"]
        for metric, digits in (
            ("frechet", 2),
            ("accuracy", 3),
            ("precision", 3),
            ("recall", 3),
            ("inception_score", 2),
        ):
            spread = entry[f"{metric}_sd"]
            cells.append(f"{entry[metric]:.{digits}f}" + ("" if spread is None else f" ± {spread:.{digits}f}"))
        rows.append(cells)
    return NumberTable(
        "Means at the last checkpoint",
        "± standard deviation over seeds.",
        ["setting and arm", "Fréchet distance", "class seen", "precision", "recall", "IS"],
        rows,
    )
