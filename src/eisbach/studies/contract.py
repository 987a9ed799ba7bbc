"""What a study's folder holds: `study.yaml`, declared before the run, and `result.json`, what came out.

A study is a folder beside this file with a `study.yaml`; it needs no entry anywhere else. In it lie

- `study.yaml`: a `Declaration`;
- `run.py` with `Settings`, `QUICK` and `run(settings, out, jobs=, quiet=)`, or `recipe.yaml`, an experiment;
- `judge.py` with `judge(folder) -> list[ClaimResult]`, which reads the records of a run and nothing else;
- `records/`: the records of the last full run (in the repository, not in an installed package), with `run.json`;
- `result.json`: a `Result`, equal to `judge(records)`;
- `README.md`: what was asked, what came out, what failed on the way, how to run it.
"""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from eisbach.config import StrictModel, build_config, read_yaml
from eisbach.devices import DeviceName, Placement, place
from eisbach.errors import EisbachError, UserError
from eisbach.files import read_json

DECLARATION, RESULT, RUN_FACTS, RECORDS, RECIPE = "study.yaml", "result.json", "run.json", "records", "recipe.yaml"
Verdict = Literal["supported", "refuted", "inconclusive", "not run"]


class PlacedSettings(StrictModel):
    """Settings of a study that computes with networks: where they do, as `devices.place` reads it; in fp32, in which
    the claims were judged."""

    device: DeviceName = "auto"

    def placement(self) -> Placement:
        """The device that is chosen; `UserError` where it is not there."""
        return place(self.device, "fp32")


class Source(StrictModel):
    """Where a claim stands.

    Attributes
    ----------
    paper : {"barrier", "erd", "signature", "entropic time", "ours"}
        The entropy log-barrier, recoverability weighting, class-conditional entropy, entropic time for sampling
        (arXiv 2504.13612), or this project.
    place : str
        Section, equation, figure or prediction.
    """

    paper: Literal["barrier", "erd", "signature", "entropic time", "ours"]
    place: str = ""

    def __str__(self) -> str:
        return f"{self.paper}, {self.place}" if self.place else self.paper


class Measure(StrictModel):
    """A primary measure: its name in the records, the direction that the claim predicts, and a margin where one is
    used."""

    name: str
    direction: Literal["higher", "lower", "equal", "none"]
    margin: str = ""


class ClaimDeclaration(StrictModel):
    """One claim, and what decides it.

    Attributes
    ----------
    key : str
        Names the claim in `result.json`.
    claim : str
        The claim in our words.
    unit : str
        Unit of inference: what the interval and the test count.
    seeds : str
        How many of them, or of trainings.
    smallest_effect : str
        The smallest effect that so many can show.
    measures : list of Measure
    supported_if, refuted_if : str
    """

    key: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    claim: str
    source: Source
    unit: str
    seeds: str
    smallest_effect: str
    measures: list[Measure] = Field(min_length=1)
    supported_if: str
    refuted_if: str

    @field_validator("seeds", "smallest_effect", mode="before")
    @classmethod
    def _in_words(cls, value: Any) -> Any:
        return f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else value


class Declared(StrictModel):
    """When the design was written down, and the commit that holds it: "this" is the one that brought `study.yaml`.

    `known` says what was known when the design was written down, or was changed in it, before the run. `note` says what
    was declared or changed when some of the records that it is judged by were known, those of arms shared with another
    study among them: it marks the study's verdicts (†). An older commit holds a design in other words,
    without the rules of verdict of `study.yaml`: then a note is required.
    """

    date: datetime.date
    commit: str = Field(pattern=r"^([0-9a-f]{7,40}|this)$")
    known: str = ""
    note: str = ""

    @model_validator(mode="after")
    def _says_what_came_later(self) -> Declared:
        if self.commit != "this" and not self.note:
            raise ValueError("note: the design is older than study.yaml; say which of its rules came after the run")
        return self


class Declaration(StrictModel):
    """A study as `study.yaml` declares it; `needs` is what a run needs that it does not make itself."""

    title: str
    question: str
    declared: Declared
    needs: str = ""
    minutes: float | None = Field(default=None, gt=0, description="CPU minutes of a full run")
    claims: list[ClaimDeclaration] = Field(min_length=1)

    @field_validator("claims")
    @classmethod
    def _once(cls, claims: list[ClaimDeclaration]) -> list[ClaimDeclaration]:
        keys = [claim.key for claim in claims]
        if len(set(keys)) != len(keys):
            raise ValueError("two claims have one key")
        return claims


class Effect(StrictModel):
    """A number that a verdict rests on.

    Attributes
    ----------
    name : str
        What it is, with the sides of a difference.
    value : float
    low, high : float or None
        95% interval; both or neither.
    unit : str
        Of the value: "points", "ratio", "dB", "nats" …; "" is a pure number.
    p : float or None
        After correction where several were tested.
    n : int or None
        Units of inference behind it.
    """

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    unit: str = ""
    p: float | None = Field(default=None, ge=0, le=1)
    n: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _ends(self) -> Effect:
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval has two ends")
        return self


class ClaimResult(StrictModel):
    """What a run says of one claim; the first effect is the one that the verdict is read from."""

    key: str
    verdict: Verdict
    effects: list[Effect] = Field(default_factory=list)
    note: str = ""


class RunFacts(StrictModel):
    """How records came to be; `by_hand` names what was not written by the run itself and where it was taken from."""

    date: datetime.date | None = None
    command: str
    seconds: float | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    quick: bool = False
    by_hand: str = ""


class Result(StrictModel):
    """`result.json`."""

    study: str
    run: RunFacts | None = None
    claims: list[ClaimResult]


@dataclass(frozen=True)
class Study:
    """A study's folder, read.

    Attributes
    ----------
    name : str
    folder : Path
    declaration : Declaration
    result : Result
        Its last; every claim "not run" where there is none.
    """

    name: str
    folder: Path
    declaration: Declaration
    result: Result

    def rows(self) -> list[tuple[ClaimDeclaration, ClaimResult]]:
        """Every declared claim with what came out."""
        results = {claim.key: claim for claim in self.result.claims}
        return [
            (claim, results.get(claim.key, ClaimResult(key=claim.key, verdict="not run")))
            for claim in self.declaration.claims
        ]


def study_names() -> list[str]:
    """Names of all studies: the folders here with a `study.yaml`."""
    return sorted(file.parent.name for file in Path(__file__).parent.glob(f"*/{DECLARATION}"))


def load_study(name: str) -> Study:
    """A study by its name, with a hyphen or an underscore.

    Raises
    ------
    UserError
        No study has this name.
    EisbachError
        Its result speaks of a claim that it does not declare.
    """
    names = study_names()
    chosen = name.replace("-", "_")
    if chosen not in names:
        near = difflib.get_close_matches(chosen, names, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"no study is called {name!r}{hint}; choose one of {', '.join(names)}.")
    folder = Path(__file__).parent / chosen
    declaration = _read_declaration(folder)
    result = Result(study=chosen, claims=[])
    if (folder / RESULT).is_file():
        result = _read_result(folder / RESULT)
    undeclared = {claim.key for claim in result.claims} - {claim.key for claim in declaration.claims}
    if undeclared:
        raise EisbachError(
            f"the result of {chosen} has claims that its study.yaml lacks: {', '.join(sorted(undeclared))}."
        )
    return Study(chosen, folder, declaration, result)


def load_studies(names: Sequence[str] = ()) -> list[Study]:
    """These studies, or all."""
    return [load_study(name) for name in names or study_names()]


def _read_declaration(folder: Path) -> Declaration:
    """A folder's `study.yaml`; `ConfigError` lists every fault in it."""
    return build_config(Declaration, read_yaml(folder / DECLARATION), str(folder / DECLARATION))


def _read_result(file: Path) -> Result:
    """A `result.json`; `ConfigError` lists every fault in it."""
    return build_config(Result, read_json(file, "result"), str(file))
