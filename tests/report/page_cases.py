"""Every kind of page that the package writes, small: {name: file}."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "diagnostics"))

from probe_cases import make_result
from test_comparison_page import record
from test_experiment_page import make, page_of
from test_listening_test import _ballot, _clip, _for_barrier, _save
from test_signature_page import curve, result
from test_watch import FALLING, _demo, _run, _weighing

from eisbach.audio import write_audio
from eisbach.diagnostics.probe.explain import explain
from eisbach.diagnostics.probe.verdict import verdict
from eisbach.experiments import comparing
from eisbach.files import read_json, read_jsonl
from eisbach.report.comparison.numbers import SetTable
from eisbach.report.comparison.page import ComparisonPage, write_comparison_page
from eisbach.report.listen.page import write_score
from eisbach.report.listen.trials import ListeningPlan, TestKey, make_test
from eisbach.report.listen.votes import score_votes
from eisbach.report.probe import write_probe_page
from eisbach.report.run.page import write_watch_page
from eisbach.report.signature import write_signature_page
from eisbach.studies.erd_digits import spec as digits
from eisbach.studies.erd_digits.page import write_digits_page
from eisbach.studies.ground_truth import synthetic
from eisbach.studies.page import write_pages
from eisbach.types import Skipped

_MEASURES = ["is_flat", "block_strength", "textural_vendi", "level_range", "flux_gini", "closure", "paper_pc1_share"]


def analysis(folder: Path) -> Path:
    """Three sets, the last of another length: warnings, tables of wholes, flags, files left out."""
    rows = []
    for group, form in (("plain", "AAAA"), ("barrier_with_a_rather_long_name", "ABCA"), ("longer", "ABAC")):
        for prompt in range(2):
            path = folder / "sounds" / f"{group}-{prompt}.wav"
            write_audio(path, synthetic.form(form, 1.0, prompt))
            length = 60.0 if group == "longer" else 30.0
            flags = "clipped;undefined:closure" if prompt else ""
            rows.append(record(group, f"p{prompt}", "0", path=str(path), duration=length, flags=flags))
    page = ComparisonPage(
        comparing.compare_sets(rows, metrics=_MEASURES), ["eisbach analyze plain barrier longer"],
        skipped=[Skipped("sounds/broken.wav", "sounds/broken.wav cannot be read.")],
        captions={f"p{prompt}": "a cello and a celesta, slow & dark" for prompt in range(2)},
        set_tables=[
            SetTable("Distances", ["what", "sets", "value", "interval", "of itself"], [["Fréchet", "a", "1", "b", "2"]])
        ],
        set_notes=["Only four clips."],
        files=[("records.jsonl", "rows")],
        pictures=False,
    )  # fmt: skip
    return write_comparison_page(folder, page)


def experiment(folder: Path) -> Path:
    return write_comparison_page(
        folder / "report", page_of(folder, make(folder, prompts=2, seeds=(1,), models=(3, 4, 5)))
    )


def probe(folder: Path) -> Path:
    outcome = make_result("loudness", clips=24)
    explanation = explain(outcome, resamples=60)
    return write_probe_page(outcome, explanation, verdict(explanation), folder, command="eisbach probe --data music")


def signature(folder: Path) -> Path:
    late = [replace(curve(name), groups=["a", "b"]) for name in ("tempo", "key")]
    arms = {"reverse": [*late, curve(), curve(estimator="rate")], "guided-3": [curve(quantity="cross-entropy")]}
    return write_signature_page(result(**arms), folder)


def watch(folder: Path) -> Path:
    run = _run(folder / "run", FALLING, held=[(0, 1.0), (50, 0.9), (100, 0.85), (150, 0.95)])
    for step in (50, 100, 150, 200):
        _demo(run, step)
    equal = _run(folder / "equal", FALLING, weighting="entropy_barrier", spread=0.0)
    return write_watch_page([run, equal, _weighing(folder / "weighing")], folder / "page.html")


def _listening(folder: Path) -> tuple[Path, TestKey]:
    sets = [folder / "secret-plain", folder / "secret-barrier"]
    for index in range(3):
        for place, arm in enumerate(sets):
            write_audio(arm / f"p{index}.flac", _clip(50 * place + index, gain=0.1, channels=1))
    return folder / "test", make_test(ListeningPlan(sets, folder / "test", seconds=5.0, repeats=1, anchors=1))[0]


def listen(folder: Path) -> Path:
    return _listening(folder)[0] / "page" / "index.html"


def score(folder: Path) -> Path:
    test, key = _listening(folder)
    votes = _save(folder / "votes", *(_ballot(key, f"listener{i}", _for_barrier(key)) for i in range(3)))
    (votes / "forged.json").write_text(json.dumps({"format": "other"}))
    return write_score(score_votes(test, [votes]), folder / "out")


def study_claims(folder: Path) -> Path:
    write_pages(folder / "claims.html", folder / "markdown")
    return folder / "claims.html"


def study_digits(folder: Path) -> Path:
    records = Path(digits.__file__).parent / "records"
    config = digits.DigitsConfig(out=str(folder))
    rows = read_jsonl(records / "records.jsonl", "records")
    summary = read_json(records / "summary.json", "summary")
    return write_digits_page(config, rows, summary, command="eisbach study run erd_digits")


PAGES: dict[str, Callable[[Path], Path]] = {
    build.__name__: build
    for build in (analysis, experiment, probe, signature, watch, listen, score, study_claims, study_digits)
}
