"""Runs an experiment: material → every arm and seed trained and played → measured → compared, continuing what
exists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from eisbach.config import build_config, read_yaml, save_config
from eisbach.devices import place
from eisbach.errors import UserError
from eisbach.executors import available_cpus
from eisbach.experiments.cells import Cell, plan_stages, run_cells
from eisbach.experiments.hearing import adherence_columns, change_column, heard_tags, take_columns
from eisbach.experiments.material import build_material, material_stages, plan_material
from eisbach.experiments.measures import FLAT, known_metrics
from eisbach.experiments.own_material import describe_material
from eisbach.experiments.reference import Reference, beside_reference, experiment_reference, musicnn_rows, texture_rows
from eisbach.experiments.spec import ExperimentSpec, check_spec, merge
from eisbach.experiments.stages import OverallProgress, SpeedBook, Stage
from eisbach.experiments.yardsticks import distance_columns, write_yardsticks
from eisbach.files import write_json
from eisbach.output_folder import exclusive, refuse_other_settings
from eisbach.statistics.records import choose_metrics, save_records
from eisbach.statistics.results import RecoveredShare, Results, evaluate, plain_json, recovered_share
from eisbach.statistics.sets import Nearness
from eisbach.structure import Clip
from eisbach.types import Record, SkipReport

SPEC_FILE, SUMMARY_FILE, ANALYSIS = "experiment.yaml", "summary.json", "analysis"
_SECONDS_PER_MEASURED_CLIP = 0.4
_SECONDS_PER_HEARD_CLIP = 0.5
_HEARD_BY = (("notes", "notes"), ("prompts", "embed"))  # what takes are compared by, and the bar of what hears it
_HELD_OUT_CLIPS = 96  # of a yardstick, at most
_MAX_ANALYSIS_JOBS = 4


@dataclass(frozen=True)
class ExperimentResult:
    """What an experiment left behind.

    Attributes
    ----------
    spec : ExperimentSpec
    folder : Path
    records : list of Record
        One row a generated clip; also in `records.parquet` and `records.jsonl`.
    summary : Summary
        Also in `summary.json`, to which the page adds its sentences.
    reference : Reference or None
        The music that the arms were held against; its records are in `reference/`.
    """

    spec: ExperimentSpec
    folder: Path
    records: list[Record]
    summary: Summary
    reference: Reference | None = None


def run_experiment(
    spec: ExperimentSpec,
    *,
    prepare: Callable[[], object] | None = None,
    finish: Callable[[ExperimentResult], object] | None = None,
    finish_seconds: float = 15.0,
    notify: Callable[[str], object] | None = None,
    quiet: bool = False,
) -> ExperimentResult:
    """Runs what is missing of `spec` in `spec.out` and compares the arms.

    Parameters
    ----------
    spec : ExperimentSpec
    prepare : callable or None
        Called before anything runs, in a folder that was found to be this experiment's: it writes what the experiment
        trains on.
    finish : callable or None
        Called with the result as the last stage under the same progress bar: writing the page.
    finish_seconds : float
        First guess of how long `finish` takes.
    notify : callable or None
        Is told, in a sentence, where it computes, and which words of a prompt the model has no meaning for.
    quiet : bool
        No progress bar.

    Raises
    ------
    ConfigError
        A fault in any arm's configuration, found before anything runs, or another process at work in the folder.
    UserError
        The folder holds an experiment with other settings, or a clip cannot be measured.
    InterruptedRun
        The user stopped it; the same call continues.
    """
    check_spec(spec)
    _check_models(spec, notify)
    root = Path(spec.out)
    with exclusive(root):
        _claim_folder(spec, root)
        if prepare is not None:
            prepare()
        return _run(spec, root, finish, finish_seconds, quiet)


def _run(
    spec: ExperimentSpec,
    root: Path,
    finish: Callable[[ExperimentResult], object] | None,
    finish_seconds: float,
    quiet: bool,
) -> ExperimentResult:
    cells = []
    for seed in spec.train_seeds:
        manifest, cache = (None if path is None else str(path) for path in plan_material(spec, root, seed))
        own = [arm for arm in spec.arms if spec.arms[arm].trained or seed == spec.train_seeds[0]]
        cells += [Cell(arm, seed, root, manifest, cache) for arm in own]  # what is not trained is one model
    stages = _plan(spec, root, cells, finish_seconds if finish is not None else None)
    speeds = SpeedBook(root / "speeds.json")
    with OverallProgress(stages, spec.title, speeds, quiet=quiet) as bar:
        build_material(spec, root, bar.stage)
        clips = run_cells(spec, cells, bar)
        details: dict[str, str] = {}
        with bar.stage("analyse"):
            records = measure(clips, root, details)
            if spec.training_distance:
                sets = {cell.train_seed: Path(cell.manifest) for cell in cells if cell.manifest is not None}
                records = distance_columns(records, details, sets, root)
        if spec.between_takes:
            with bar.stage("takes"):
                records = take_columns(records, details, spec.between_takes, root, root / ANALYSIS)
        if spec.heard_change:
            with bar.stage("changes"):
                records = change_column(records, root, root / ANALYSIS)
        if spec.adherence:
            with bar.stage("tags"):  # kept, so that each of the two networks has a stage of its own
                heard_tags(records, root, root / ANALYSIS)
            with bar.stage("words"):
                records = adherence_columns(records, spec.generation.resolve_prompts(), root, root / ANALYSIS)
        reference, rows = None, {}
        if spec.yardsticks:
            with bar.stage("yardsticks"):
                write_yardsticks(spec, cells, records, _rows(records, details, root), root)
        if spec.reference is not None:
            with bar.stage("reference"):
                reference = experiment_reference(spec, root)
                rows = _rows(records, details, root)
        if spec.own_audio:
            with bar.stage("material"):
                describe_material(spec, root)
        with bar.stage("compare"):
            save_records(records, root)
            summary = summarise(spec, records, reference, rows)
            write_json(root / SUMMARY_FILE, summary.to_json())
        result = ExperimentResult(spec, root, records, summary, reference)
        if finish is not None:
            with bar.stage("report"):
                finish(result)
    return result


def _check_models(spec: ExperimentSpec, notify: Callable[[str], object] | None) -> None:
    """Loads every base once, so that a missing one is found before anything is made."""
    from eisbach.backbones import load_backbone
    from eisbach.generation.generate import unknown_words

    if notify is not None:
        notify(f"{place(spec.device, spec.precision).sentence()}.")
    prompts = spec.generation.resolve_prompts()
    models = [merge(spec.training, arm.overrides).get("model", "embedded") for arm in spec.arms.values()]
    for model in dict.fromkeys(model for model in models if isinstance(model, str)):
        backbone = load_backbone(model)
        if notify is not None:
            for sentence in unknown_words(prompts, backbone):
                notify(sentence)


def _plan(spec: ExperimentSpec, root: Path, cells: list[Cell], finish_seconds: float | None) -> list[Stage]:
    clips = len(cells) * len(spec.generation.resolve_prompts()) * len(spec.generation.seeds)
    stages = material_stages(spec, root)
    for cell in cells:
        stages += plan_stages(spec, cell)
    stages.append(Stage("analyse", "analyse", clips, _SECONDS_PER_MEASURED_CLIP, "measure"))
    if spec.between_takes:
        kind = next((kind for asked, kind in _HEARD_BY if asked in spec.between_takes), "takes")
        seconds = 0.01 if kind == "takes" else _SECONDS_PER_HEARD_CLIP  # nothing is heard
        stages.append(Stage("takes", kind, clips, seconds, "hear what takes share"))
    if spec.heard_change:
        stages.append(Stage("changes", "changes", clips, _SECONDS_PER_HEARD_CLIP, "hear changes"))
    if spec.adherence:
        stages.append(Stage("tags", "tags", clips, _SECONDS_PER_HEARD_CLIP, "hear tags"))
        stages.append(Stage("words", "notes", clips, _SECONDS_PER_HEARD_CLIP, "hear what was asked for"))
    if spec.yardsticks:
        heard = clips + _HELD_OUT_CLIPS * len(spec.yardsticks)
        stages.append(Stage("yardsticks", "yardsticks", heard, _SECONDS_PER_HEARD_CLIP, "measure the held-out clips"))
    if spec.reference is not None:
        heard = clips + spec.reference.clips
        stages.append(Stage("reference", "reference", heard, _SECONDS_PER_HEARD_CLIP, "hear the reference"))
    if spec.own_audio:
        stages.append(Stage("material", "probe", 24, _SECONDS_PER_HEARD_CLIP, "look at your material"))
    stages.append(Stage("compare", "compare", 1, 5.0, "compare"))
    if finish_seconds is not None:
        stages.append(Stage("report", "report", 1, finish_seconds, "write the page"))
    return stages


def _rows(records: list[Record], details: dict[str, str], root: Path) -> dict[str, dict[str, np.ndarray]]:
    """What embeddings hear in the clips, by their paths in the records."""
    textures = {Path(path).relative_to(root).as_posix(): row for path, row in texture_rows(details).items()}
    return {"texture": textures, "musicnn": musicnn_rows(records, root / ANALYSIS, root=root)}


def measure(clips: list[Clip], root: Path, details: dict[str, str] | None = None) -> list[Record]:
    """One record a clip with paths relative to `root`; measurements are kept by the audio's hash in `analysis/`.

    `details` receives each clip's line of ``details.jsonl`` by its path.

    Raises
    ------
    UserError
        A generated clip cannot be read; a comparison must not lose clips silently.
    """
    from eisbach.structure import analyze_files

    skips = SkipReport()
    jobs = max(1, min(_MAX_ANALYSIS_JOBS, available_cpus(), len(clips) // 8))
    rows = analyze_files(clips, jobs=jobs, out=root / ANALYSIS, skips=skips, details=details)
    if skips.skipped:
        first = skips.skipped[0]
        raise UserError(
            f"{len(skips.skipped)} generated clips cannot be measured, first {first.item} ({first.reason}); "
            "delete these files and run the same command again."
        )
    return [row | {"path": Path(str(row["path"])).relative_to(root).as_posix()} for row in rows]


def _claim_folder(spec: ExperimentSpec, root: Path) -> None:
    """Writes `experiment.yaml`, or refuses a folder whose results would not belong to this specification.

    Arms, training seeds, prompts, generation seeds and metrics may be added or left out; whatever decides the sound
    of a cell that exists must stay.

    Raises
    ------
    UserError
        Names the group of keys that changed.
    """
    path = root / SPEC_FILE
    refuse_other_demo(root, own_audio=spec.own_audio)
    if path.is_file():
        old = build_config(ExperimentSpec, read_yaml(path), str(path))
        arms = old.arms.keys() & spec.arms.keys()
        before, now = (_what_decides(spec, arms) for spec in (old, spec))
        # Arms may train on other models or data under these keys' paths: every arm's run folder knows the content of
        # both.
        free = ["training.device", "training.model", "training.data.manifest", "training.data.cache"]
        free += [f"arms.{arm}.{key}" for arm in arms for key in ("device", "model", "data.manifest", "data.cache")]
        way_out = "set them back to continue, or give another folder with --out"
        refuse_other_settings(root, "an experiment", before, now, free=free, way_out=way_out)
    save_config(spec, path)


def refuse_other_demo(root: Path, *, own_audio: bool) -> None:
    """Refuses a folder of a demo on the other kind of material: a person's own, or what the demo makes itself.

    Raises
    ------
    UserError
        It holds one.
    """
    path = root / SPEC_FILE
    before = bool(read_yaml(path).get("own_audio")) if path.is_file() else own_audio
    if before != own_audio:
        held = "recordings of yours" if before else "music that it made itself"
        raise UserError(f"{root} holds another demo, on {held}; give another folder with --out.")


def _what_decides(spec: ExperimentSpec, arms: Iterable[str]) -> dict[str, Any]:
    """What the sound of the cells of these arms depends on; dotted overrides are written as groups."""
    return {
        "material": None if spec.material is None else spec.material.model_dump(),
        "training": merge({}, spec.training),
        "generation": spec.generation.model_dump(exclude={"prompts", "seeds", "batch_size", "device", "precision"}),
        "arms": {name: merge({}, spec.arms[name].overrides) for name in sorted(arms)},
        "plays": {
            name: plays.model_dump(exclude_none=True)
            for name in sorted(arms)
            if (plays := spec.arms[name].plays) is not None
        },
        "swaps": {name: swap.model_dump() for name in sorted(arms) if (swap := spec.arms[name].swap) is not None},
    }


# --- what an experiment found, in numbers: flat share by arm, comparisons, recovered shares


@dataclass(frozen=True)
class Summary:
    """An experiment's answer; `report.experiment.page` says it in sentences.

    Attributes
    ----------
    arms : dict
        By arm: label, explanation, clips and share_flat (None where nothing could be judged).
    results : Results
        Means, comparisons and recovered shares by the first primary metric.
    recovered : list of RecoveredShare
        By arm, for every primary metric; empty without an oracle.
    notes : list of str
    nearness : Nearness or None
        How near each arm lies to the reference; it decides where there is one.
    """

    arms: dict[str, dict[str, Any]]
    results: Results
    recovered: list[RecoveredShare]
    notes: list[str]
    nearness: Nearness | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values; what is undefined is None."""
        value = {
            "arms": self.arms,
            "recovered": [asdict(share) for share in self.recovered],
            "notes": self.notes,
            "nearness": None if self.nearness is None else self.nearness.to_json(),
            "results": self.results.to_json(),
        }
        return cast(dict[str, Any], plain_json(value))


def summarise(
    spec: ExperimentSpec,
    records: Sequence[Record],
    reference: Reference | None = None,
    rows: Mapping[str, Mapping[str, np.ndarray]] | None = None,
) -> Summary:
    """The summary of an experiment's records.

    Raises
    ------
    UserError
        A declared primary metric was not measured.
    """
    metrics = choose_metrics(known_metrics(records), primary=spec.primary_metrics)
    if spec.reference is not None:  # distances decide: the plain differences only describe
        metrics = [replace(info, better=None) for info in metrics]
    arms = list(spec.arms)
    results = evaluate(records, metrics, spec.baseline, arms=arms, oracle=spec.oracle, redrawn=_redrawn(spec))
    near, order = None, [spec.baseline, *(name for name in spec.arms if name != spec.baseline)]
    if reference is not None:
        ours = [info for info in metrics if not info.contradicted_by]
        near = beside_reference(records, reference, ours, order, rows=rows, redrawn=_redrawn(spec))
    return Summary(
        arms={name: _arm_row(spec, name, records) for name in spec.arms},
        results=results,
        recovered=_recovered(spec, records, results),
        notes=[*([] if near is None else near.notes), *spec.notes],
        nearness=near,
    )


def _redrawn(spec: ExperimentSpec) -> bool:
    """Each training seed draws a training set of its own: its models are a pair."""
    return spec.material is not None and spec.material.redraw


def _recovered(spec: ExperimentSpec, records: Sequence[Record], results: Results) -> list[RecoveredShare]:
    if spec.oracle is None:
        return []
    candidates = [name for name in spec.arms if name not in (spec.baseline, spec.oracle)]
    return [
        recovered_share(records, info.name, spec.baseline, spec.oracle, arm, redrawn=_redrawn(spec))
        for info in results.metrics
        if info.primary
        for arm in candidates
    ]


def _arm_row(spec: ExperimentSpec, name: str, records: Sequence[Record]) -> dict[str, Any]:
    rows = [row for row in records if row["arm"] == name]
    judged = [bool(row[FLAT.name]) for row in rows if row.get(FLAT.name) is not None]
    return {
        "label": spec.arms[name].label,
        "explanation": spec.arms[name].explanation,
        "clips": len(rows),
        "share_flat": sum(judged) / len(judged) if judged else None,
    }
