"""Three experiments, one a target domain in which flatness is right: models learn it from sets of that kind alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from eisbach.config import override
from eisbach.experiments.recipes import load_spec
from eisbach.experiments.run import run_experiment
from eisbach.experiments.spec import ExperimentSpec
from eisbach.report.experiment.page import write_experiment_page
from eisbach.studies.contract import PlacedSettings

RECIPE = Path(__file__).parent / "domain.yaml"
KINDS = {"noise": "noise", "texture": "cloud", "drone": "drone"}
"""Kinds of `data.flat_material` by domain; a cloud is the texture that is no noise."""
Domain = Literal["noise", "texture", "drone"]


class Settings(PlacedSettings):
    """What to run.

    Attributes
    ----------
    domains : list of {"noise", "texture", "drone"}
    rehearsal : bool
        The recipe's `quick` group is laid over it: the numbers mean nothing.
    changes : list of str
        `key=value` of every domain's recipe (`domain.yaml`).
    jobs : int
        Trainings at once.
    """

    domains: list[Domain] = Field(default=["noise", "texture", "drone"], min_length=1)
    rehearsal: bool = False
    changes: list[str] = Field(default_factory=list)
    jobs: int = Field(default=1, ge=1, le=64)

    @field_validator("domains")
    @classmethod
    def _once(cls, value: list[Domain]) -> list[Domain]:
        if len(set(value)) != len(value):
            raise ValueError("each domain may be named once")
        return value


QUICK: dict[str, Any] = {"domains": ["noise", "drone"], "rehearsal": True}
FREE = ("domains",)


def domain_spec(settings: Settings, domain: str, out: Path) -> ExperimentSpec:
    """The experiment of a domain; `ConfigError` for faults in the changes."""
    own = [
        override("out", str(out / domain)),
        override("title", f"The barrier where the target is {domain}"),
        f"material.kinds=[{KINDS[domain]}]",
        override("device", settings.device),
        "precision=fp32",
        f"jobs={settings.jobs}",
    ]
    return load_spec(RECIPE, [*settings.changes, *own], quick=settings.rehearsal)


def run(settings: Settings, out: Path, *, jobs: int = 1, quiet: bool = False) -> None:
    """Runs what is missing of each domain in `out/DOMAIN`."""
    specs = [domain_spec(settings.model_copy(update={"jobs": jobs}), domain, out) for domain in settings.domains]
    for spec in specs:
        run_experiment(spec, finish=write_experiment_page, quiet=quiet)
