"""Runs a study and judges its records."""

from __future__ import annotations

import datetime
import importlib
import importlib.metadata
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from eisbach.config import (
    StrictModel,
    apply_overrides,
    build_config,
    merge,
    override,
    read_yaml,
)
from eisbach.errors import UserError
from eisbach.experiments.spec import ExperimentSpec
from eisbach.files import read_json, write_json
from eisbach.output_folder import claim, exclusive
from eisbach.studies.contract import RECIPE, RESULT, RUN_FACTS, ClaimResult, PlacedSettings, Result, RunFacts, Study

SETTINGS = "settings.json"
"""In a run's folder: what it was run with."""


def resolve_settings(
    study: Study,
    *,
    out: Path,
    jobs: int | None = None,
    quick: bool = False,
    file: Path | None = None,
    changes: Sequence[str] = (),
) -> StrictModel:
    """The settings of a run: the study's own, its `--quick` ones, a file's, and `key=value` changes, later ones first.

    Settings that know an output folder or a number of jobs take `out` and `jobs`.

    Raises
    ------
    ConfigError
        Faults in the file or the changes; all are named.
    UserError
        A file for a study whose run is a recipe.
    """
    if _has_recipe(study):
        from eisbach.experiments.recipes import load_spec

        if file is not None:
            raise UserError(
                f"the run of {study.name} is a recipe, which --config cannot replace; change its keys with --set, or "
                "run your own recipe with `eisbach experiment run FILE`."
            )
        place = [override("out", str(out)), *([] if jobs is None else [f"jobs={jobs}"])]
        return load_spec(study.name, [*changes, *place], quick=quick)
    module = _module(study, "run")
    values: dict[str, Any] = {} if file is None else read_yaml(file)
    if quick:
        values = merge(module.QUICK, values)
    values = apply_overrides(values, changes)
    fields = module.Settings.model_fields
    values |= {"out": str(out)} if "out" in fields else {}
    values |= {"jobs": jobs} if "jobs" in fields and jobs is not None else {}
    settings: StrictModel = build_config(module.Settings, values, str(file) if file else "the configuration")
    return settings


def option_key(study: Study, option: str) -> str:
    """The settings key behind an option that some studies have (`--seeds`, `--first-seed`, `--path` …).

    Raises
    ------
    UserError
        This study does not have it.
    """
    keys = {} if _has_recipe(study) else dict(getattr(_module(study, "run"), "OPTIONS", {}))
    if option not in keys:
        have = f"; it has {', '.join('--' + name for name in keys)}" if keys else ""
        raise UserError(
            f"the study {study.name} has no --{option}{have}; change a key of its settings with --set KEY=VALUE "
            f"(`eisbach study run {study.name} --dry-run` prints them)."
        )
    return keys[option]


def placed_changes(study: Study, device: str | None, precision: str | None) -> list[str]:
    """`--device` and `--precision` as changes of a study's settings.

    Raises
    ------
    UserError
        The study computes without a network, or is judged in fp32 alone.
    """
    fields = ExperimentSpec.model_fields if _has_recipe(study) else _module(study, "run").Settings.model_fields
    changes = []
    for key, value in (("device", device), ("precision", precision)):
        if value is not None and key not in fields:
            why = "computes in fp32" if "device" in fields else "computes on the CPU in its own precision"
            raise UserError(f"the study {study.name} {why}; leave --{key} out.")
        changes += [] if value is None else [override(key, value)]
    return changes


def default_jobs(study: Study, settings: StrictModel) -> int:
    """Processes of a run that names none: what its settings say, or else the study."""
    named = getattr(settings, "jobs", None)
    return int(named) if named is not None else 1 if _has_recipe(study) else getattr(_module(study, "run"), "JOBS", 1)


def run_study(
    study: Study,
    settings: StrictModel,
    out: Path,
    *,
    command: str,
    jobs: int = 1,
    quick: bool = False,
    quiet: bool = False,
) -> Result:
    """Runs what is missing in `out`, judges it and writes `out/result.json`; a killed run continues.

    Raises
    ------
    UserError
        The folder holds a run with other settings; or as the study itself.
    """
    started, before = time.monotonic(), read_facts(out)
    if _has_recipe(study):
        from eisbach.experiments.run import run_experiment
        from eisbach.report.experiment.page import write_experiment_page

        spec: Any = settings
        run_experiment(spec, finish=lambda done: write_experiment_page(done, [command]), quiet=quiet)
    else:
        module = _module(study, "run")
        free = ("out", "jobs", "device", *getattr(module, "FREE", ()))
        if isinstance(settings, PlacedSettings) and not quiet:
            print(f"note: {settings.placement().sentence()}.", file=sys.stderr)
        with exclusive(out):
            claim(out, SETTINGS, f"a run of {study.name}", settings.model_dump(mode="json"), free=free)
            module.run(settings, out, jobs=jobs, quiet=quiet)
            if (study.folder / "page.py").is_file():
                _module(study, "page").write_page(settings, out, command)
    seconds = time.monotonic() - started + ((before.seconds or 0.0) if before is not None else 0.0)
    facts = RunFacts(
        date=datetime.date.today(), command=command, seconds=round(seconds, 1), versions=_versions(), quick=quick
    )
    write_json(out / RUN_FACTS, facts.model_dump(mode="json"))
    return judge_records(study, out)


def judge_records(study: Study, folder: Path, into: Path | None = None) -> Result:
    """The verdicts on a folder of records, also written to the `result.json` of `into` (the same folder unless given).

    Raises
    ------
    UserError
        The folder does not hold the study's records.
    """
    judge: Callable[[Path], list[ClaimResult]] = _module(study, "judge").judge
    result = Result(study=study.name, run=read_facts(folder), claims=judge(folder))
    write_json((into or folder) / RESULT, result.model_dump(mode="json"))
    return result


def read_facts(folder: Path) -> RunFacts | None:
    """How a folder's records were made; None where nobody wrote it down."""
    file = folder / RUN_FACTS
    return build_config(RunFacts, read_json(file, "facts of a run"), str(file)) if file.is_file() else None


def _versions() -> dict[str, str]:
    """What a run's numbers depend on: versions, the processor, and the number of threads."""
    import torch

    from eisbach import __version__

    return {
        "eisbach": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in ("torch", "numpy", "scipy")},
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
    }


def _module(study: Study, part: str) -> Any:
    return importlib.import_module(f"eisbach.studies.{study.name}.{part}")


def _has_recipe(study: Study) -> bool:
    return (study.folder / RECIPE).is_file()
