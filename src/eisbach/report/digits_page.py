"""The page of the digits experiment: one self-contained `index.html` with the answer on top."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eisbach.experiments.digits_spec import DigitsConfig
from eisbach.files import write_text
from eisbach.report.digits_pictures import LABELS, curves_picture, differences_picture, samples_picture
from eisbach.report.page import render_page
from eisbach.report.probe_page import NumberTable
from eisbach.types import Record

_SHOWN_DPI = 144 / 96
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
        question="Does recoverability weighting give better digits than constant, Min-SNR and P2 weights, at equal steps?",
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
            f"{names[0]} against {names[1]}: {verdict}. {change} (95% interval {_percent(low)} to {_percent(high)}, lower in "
            f"{entry['lower_in']} of {entry['settings']} settings, p = {p:.3f}"
            f"{' after Holm' if 'p_holm' in entry else ''})."
        )
    return found or ["Nothing can be compared: a baseline and another arm are needed."]


def _percent(difference: float) -> str:
    """A difference of logarithms as a change in per cent."""
    import math

    return f"{100 * math.expm1(difference):+.0f}%"


def _pictures(config: DigitsConfig, records: Sequence[Record], summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    made = [
        (
            "Quality over steps",
            "Fréchet distance to held-out digits (features of the classifier, averaged weights); thin lines are seeds, the dotted line "
            "real digits. Both axes of a row are shared.",
            curves_picture(records, float(summary["floor"]["frechet"])),
        )
    ]
    if summary["comparisons"]:
        made.append(
            (
                "Differences",
                "Arm minus baseline at the last checkpoint: dots are means over seeds with 95% t intervals, the diamond is the mean over "
                "settings.",
                differences_picture(summary),
            )
        )
    arms = [arm for arm in LABELS if any(row["arm"] == arm for row in records)]
    for backbone in config.backbones:
        png = samples_picture(config.out, backbone, arms, list(config.targets))
        if png is not None:
            made.append(
                (
                    f"Digits of the {backbone}",
                    "0 to 9, twice; seed 0, last checkpoint, the same noise in every arm.",
                    png,
                )
            )
    return [_embedded(title, caption, png) for title, caption, png in made]


def _embedded(title: str, caption: str, png: bytes) -> dict[str, Any]:
    width, height = struct.unpack(">II", png[16:24])  # PNG's header
    return {
        "title": title,
        "caption": caption,
        "alt": title,
        "width": round(width / _SHOWN_DPI),
        "height": round(height / _SHOWN_DPI),
        "uri": f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}",
    }


def _comparison_table(summary: Mapping[str, Any]) -> NumberTable:
    rows = []
    for one in summary["comparisons"]:
        names = f"{LABELS[one['arm']]} − {LABELS[one['baseline']]}"
        entries = [("all settings", one["log_frechet"]), *one["by_setting"].items()]
        for setting, entry in entries:
            interval = entry["interval"]
            rows.append(
                [
                    f"{names}, {setting}",
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
        cells = [f"{entry['backbone']}, {entry['target']}, {LABELS[entry['arm']]}"]
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
