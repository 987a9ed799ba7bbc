"""An experiment as a file: arms that differ in a few training keys, trained, played and judged alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import AliasChoices, Field, field_validator, model_validator

from eisbach.config import StrictModel, build_config, merge
from eisbach.devices import DeviceName, PrecisionName, place
from eisbach.errors import ConfigError, UserError
from eisbach.experiments.material_config import MaterialConfig
from eisbach.generation.config import PlayConfig
from eisbach.training.config import TrainConfig

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
TakeMeasure = Literal["boundaries", "details", "notes", "prompts"]
_SET_BY_RUNNER = ("out", "seed", "data.manifest", "data.cache")


class ReferenceConfig(StrictModel):
    """The music that every arm is held against: never trained on, as long as the clips that are played.

    Attributes
    ----------
    source : str
        "held_out": what the manifest holds out, or, for material that the experiment makes, new performances of
        held-out scores; "everything": what trains as well, where too little is held out; otherwise a folder or
        manifest of audio.
    label : str
        What sentences call it.
    clips : int
        How many at most; several stretches of a long file may be taken.
    heard : int
        How many of them stand in every row of players.
    """

    source: str = "held_out"
    label: str = "held-out music"
    clips: int = Field(default=24, ge=4, le=200)
    heard: int = Field(default=2, ge=0, le=4)


class Swap(StrictModel):
    """An adapter made of two trained ones of the same draw.

    Attributes
    ----------
    direction, magnitude : str
        Arms trained with DoRA: the first gives the directions of the weights' rows, the second their lengths
        (`adapters.mix.swap_magnitudes`).
    """

    direction: str
    magnitude: str


class Yardstick(StrictModel):
    """Held-out clips of the sets, by their labels, that every model is held against.

    Attributes
    ----------
    labels : mapping of str to str
        What the clips have, such as ``{kind: drone}``.
    prompts : tuple of str
        Ids of the prompts whose generations are held against them; empty takes all.
    """

    labels: dict[str, str] = Field(min_length=1)
    prompts: tuple[str, ...] = ()


class Checkpointed(StrictModel):
    """Another arm's model: as its training kept it at a step (`checkpoint.steps`, counted from 1; None is its last), or
    with its adapter acting at the noise levels of an interval alone (both ends included; t = 1 is noise)."""

    arm: str
    step: int | None = Field(default=None, ge=1)
    interval: tuple[float, float] | None = None

    @field_validator("interval")
    @classmethod
    def _check_interval(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not 0 <= value[0] < value[1] <= 1:
            raise ValueError("an interval is two noise levels that rise within 0 (clean) and 1 (noise), as [0.7, 1.0]")
        return value

    @model_validator(mode="after")
    def _differs(self) -> Checkpointed:
        if self.step is None and self.interval is None:
            raise ValueError("it would play what its arm plays; name a step or an interval")
        return self


class Arm(StrictModel):
    """One training condition.

    Attributes
    ----------
    label : str
        Short name for tables and pictures.
    phrase : str
        The same within a sentence, with its article; the label when empty.
    explanation : str
        One or two sentences for a reader who has not seen the formulas.
    overrides : mapping
        Keys of the training configuration that this arm changes, nested or dotted.
    trained : bool
        False plays the base as it is: to hear what the training changed. It is no candidate for the verdict.
    swap : Swap or None
        The arm is not trained but made of two arms that are; it is no candidate either.
    plays : Checkpointed or None
        The arm is not trained but plays a checkpoint of one that is, or its adapter at some noise levels alone; it is
        no candidate either.
    """

    label: str = Field(min_length=1)
    phrase: str = ""
    explanation: str = ""
    overrides: dict[str, Any] = Field(default={})
    trained: bool = True
    swap: Swap | None = None
    plays: Checkpointed | None = None

    @property
    def trains(self) -> bool:
        """Whether a training of its own belongs to it."""
        return self.trained and self.swap is None and self.plays is None


class ExperimentSpec(StrictModel):
    """Arms × training seeds × prompts × generation seeds, and what would count as a difference.

    Attributes
    ----------
    title, question : str
        Printed at the head of the page.
    out : str
        The experiment's folder.
    material : MaterialConfig or None
        The fine-tuning set to make; None trains on `training.data.manifest`.
    training : mapping
        A `TrainConfig` as plain values, shared by all arms. The runner sets `out` and `seed`, and, with `material`,
        `data.manifest` and `data.cache`.
    arms : mapping of str to Arm
        At least two.
    baseline, oracle : str, str or None
        Every arm is compared with the baseline; the oracle (flat clips removed by label) says what knowing the material
        gains, and 'recovered share' is a share of that.
    train_seeds : tuple of int
        Trainings an arm; one seed compares two checkpoints, several compare two methods.
    generation : PlayConfig
    reference : ReferenceConfig or None
        Music that the arms are held against.
    primary_metrics : mapping of str to {"nearer", "higher", "lower"}
        Declared before looking: which metrics decide. "nearer" judges by the distance to the reference.
    own_audio : bool
        The material is a person's: the page says what it is, and which of its clips a weighting would favour.
    rehearsal : bool
        The numbers mean nothing, and the verdict says so.
    notes : tuple of str
        Sentences that the page prints with the result (shortened sampling, missing oracle, ...).
    jobs : int
        Trainings that run at once in processes of their own.
    between_takes : tuple of {"boundaries", "details", "notes", "prompts"}
        Also measure what the takes of a prompt share and what tells prompts apart
        (`experiments.hearing.take_columns`); needs two generation seeds.
    heard_change : bool
        Also measure how much what musicnn hears changes over each clip: a second judge of what stands still.
    adherence : bool
        Also measure whether each clip follows its prompt's words (`experiments.hearing.adherence_columns`).
    training_distance : bool
        Also measure each clip's distance to developing music that no model trained on, and to what its own trained on
        (`experiments.yardsticks.distance_columns`); needs `material`. Read as `nearness` too, its name before.
    yardsticks : mapping of str to Yardstick
        Held-out clips of the sets that the experiment makes; each model's distances to them go into `models.jsonl`
        (`experiments.yardsticks`).
    held_out_loss : bool
        Also each model's loss on the clips of each yardstick.
    store : str or None
        Folder in which sets, trainings and generations lie by their settings, so that experiments which name the same
        store make equal ones once; this experiment's folder then holds links.
    device, precision : str
        Of trainings, generations and encoding, where `training` and `generation` name none of their own; as
        `devices.place` reads them.
    """

    title: str = Field(min_length=1)
    question: str = ""
    out: str = "runs/experiment"
    material: MaterialConfig | None = None
    training: dict[str, Any]
    arms: dict[str, Arm]
    baseline: str = "plain"
    oracle: str | None = None
    train_seeds: tuple[int, ...] = (0,)
    generation: PlayConfig = PlayConfig()
    reference: ReferenceConfig | None = None
    primary_metrics: dict[str, Literal["nearer", "higher", "lower"]]
    own_audio: bool = False
    rehearsal: bool = False
    notes: tuple[str, ...] = ()
    jobs: int = Field(default=1, ge=1, le=64)
    between_takes: tuple[TakeMeasure, ...] = ()
    heard_change: bool = False
    adherence: bool = False
    training_distance: bool = Field(default=False, validation_alias=AliasChoices("training_distance", "nearness"))
    yardsticks: dict[str, Yardstick] = Field(default={})
    held_out_loss: bool = False
    store: str | None = None
    device: DeviceName = "auto"
    precision: PrecisionName = "auto"

    @field_validator("arms")
    @classmethod
    def _check_arms(cls, value: dict[str, Arm]) -> dict[str, Arm]:
        if len(value) < 2:
            raise ValueError("a comparison needs at least two arms")
        bad = [name for name in value if not _NAME.fullmatch(name)]
        if bad:
            raise ValueError(f"arm names are lower-case letters, digits, '-' or '_' (not {', '.join(bad)})")
        labels = [arm.label for arm in value.values()]
        if len(set(labels)) != len(labels):
            raise ValueError("the labels of the arms must differ")
        return value

    @field_validator("train_seeds")
    @classmethod
    def _check_seeds(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) != len(value) or min(value) < 0:
            raise ValueError("give at least one training seed; seeds are distinct and not negative")
        return value

    @field_validator("primary_metrics")
    @classmethod
    def _check_metrics(cls, value: dict[str, str]) -> dict[str, str]:
        if not value:
            raise ValueError("declare at least one primary metric and its direction")
        return value

    @property
    def apart(self) -> list[str]:
        """Arms that are no candidates for the verdict: the oracle, and what was not trained."""
        return [name for name, arm in self.arms.items() if name == self.oracle or not arm.trains]

    @model_validator(mode="after")
    def _check_names(self) -> ExperimentSpec:
        for role, name in (("baseline", self.baseline), ("oracle", self.oracle)):
            if name is not None and name not in self.arms:
                raise ValueError(f"{role} is '{name}', and the arms are {', '.join(self.arms)}")
        if self.training_distance and self.material is None:
            raise ValueError("training_distance needs clips whose labels say which develop: make them with material")
        if self.yardsticks and self.material is None:
            raise ValueError("yardsticks are held-out clips of the sets that the experiment makes: add material")
        if self.held_out_loss and not self.yardsticks:
            raise ValueError("held_out_loss is measured on the clips of yardsticks: name them")
        if self.oracle is not None and self.oracle == self.baseline:
            raise ValueError("the oracle and the baseline must be different arms")
        for name, arm in self.arms.items():
            self._check_sources(name, arm)
        if self.between_takes and len(self.generation.seeds) < 2:
            raise ValueError("between_takes compares takes of one prompt; give generation.seeds two or more")
        if not self.arms[self.baseline].trains:
            raise ValueError(f"the baseline '{self.baseline}' is not trained; compare with an arm that is")
        if self.reference is not None and self.reference.source == "everything" and self.material is not None:
            raise ValueError(
                "reference.source 'everything' is what a manifest holds; the experiment makes its own material"
            )
        directions = set(self.primary_metrics.values())
        if self.reference is None and "nearer" in directions:
            raise ValueError("primary_metrics say 'nearer' and there is no reference to be nearer to; add reference")
        if self.reference is not None and directions != {"nearer"}:
            raise ValueError("with a reference every primary metric is 'nearer': distances to it decide")
        return self

    def _check_sources(self, name: str, arm: Arm) -> None:
        """Refuses an arm that is made of others which do not train, or that would also train."""
        if arm.swap is not None and arm.plays is not None:
            raise ValueError(f"arm '{name}' has both swap and plays; give one of them")
        sources = [] if arm.swap is None else [arm.swap.direction, arm.swap.magnitude]
        sources += [] if arm.plays is None else [arm.plays.arm]
        for part in sources:
            if part not in self.arms or not self.arms[part].trains:
                trained = [other for other, each in self.arms.items() if each.trains]
                does = (
                    "swaps with"
                    if arm.plays is None
                    else f"plays {'a checkpoint' if arm.plays.step else 'the adapter'} of"
                )
                raise ValueError(f"arm '{name}' {does} '{part}'; name one that trains: {', '.join(trained)}")
        if sources and (arm.overrides or not arm.trained):
            raise ValueError(f"arm '{name}' is made of others, so it has neither overrides nor trained: false")


def arm_training(
    spec: ExperimentSpec, arm: str, train_seed: int, *, out: str, manifest: str | None, cache: str | None
) -> TrainConfig:
    """The training configuration of one arm and seed; of a swap, that of the arm that gives the directions; of a
    checkpoint, that of its arm.

    Raises
    ------
    ConfigError
        Every fault of the merged configuration.
    """
    swap, plays = spec.arms[arm].swap, spec.arms[arm].plays
    arm = swap.direction if swap is not None else plays.arm if plays is not None else arm
    shared = {"device": spec.device, "precision": spec.precision}
    values = shared | merge(spec.training, spec.arms[arm].overrides) | {"out": out, "seed": train_seed}
    if manifest is not None:
        values["data"] = merge(values.get("data") or {}, {"manifest": manifest, "cache": cache})
    return build_config(TrainConfig, values, "its training")


def check_spec(spec: ExperimentSpec) -> None:
    """Builds every arm's training configuration and reads the prompts, so that no fault waits for hour three.

    Raises
    ------
    ConfigError
        All faults of all arms in one message, or keys that the runner sets itself.
    UserError
        A device that is not there, or notes without onnxruntime.
    """
    faults = []
    for owner, values in [
        ("training", spec.training),
        *((f"arms.{k}.overrides", a.overrides) for k, a in spec.arms.items()),
    ]:
        flat = _flatten(values)
        for key in _SET_BY_RUNNER:
            if key in flat and (key in ("out", "seed") or spec.material is not None):
                faults.append(f"{owner} sets '{key}', which the experiment sets itself: remove it.")
    manifest = "data/manifest.jsonl" if spec.material is not None else None
    arms_of: dict[str, list[str]] = {}
    for name in spec.arms:
        try:
            trained = arm_training(spec, name, spec.train_seeds[0], out="run", manifest=manifest, cache=None)
            if trained.demos is not None:
                trained.demos.resolve_prompts()
        except UserError as error:
            arms_of.setdefault(str(error), []).append(name)
            continue
        faults += _checkpoint_fault(spec, name, trained)
        swaps = [arm.swap for arm in spec.arms.values() if arm.swap is not None]
        if trained.adapter.type != "dora" and any(name in (swap.direction, swap.magnitude) for swap in swaps):
            faults.append(f"arm '{name}' trains {trained.adapter.type}, and a swap is made of two DoRA adapters.")
    for fault, names in arms_of.items():
        who = "every arm" if len(names) == len(spec.arms) else " and ".join(f"arm '{name}'" for name in names)
        faults.append(f"{who}: {fault}")
    if faults:
        raise ConfigError(" ".join(faults))
    prompts = {prompt.id for prompt in spec.generation.resolve_prompts()}
    for name, yardstick in spec.yardsticks.items():
        if unknown := [prompt for prompt in yardstick.prompts if prompt not in prompts]:
            raise ConfigError(f"the yardstick '{name}' names prompts that nobody plays: {', '.join(unknown)}.")
    if spec.adherence or "notes" in spec.between_takes:
        from eisbach.structure.embeddings.notes import check_notes

        check_notes()
    for placed in (spec, spec.generation):
        place(placed.device, placed.precision)


def _checkpoint_fault(spec: ExperimentSpec, name: str, training: TrainConfig) -> list[str]:
    """Why the checkpoint that an arm plays will not be there, or is not what would be played."""
    plays = spec.arms[name].plays
    if plays is None:
        return []
    if plays.interval is not None and training.adapter.type == "none":
        return [f"arm '{name}' plays an interval of '{plays.arm}', which trains a whole model; only adapters have one."]
    if plays.step is None:
        return []
    start = f"arm '{name}' plays step {plays.step} of '{plays.arm}', "
    if plays.step != training.steps and (plays.step > training.steps or plays.step not in training.checkpoint.steps):
        kept = ", ".join(map(str, sorted({*training.checkpoint.steps, training.steps})))
        return [f"{start}which keeps the steps {kept}: choose one of them, or name it in training.checkpoint.steps."]
    if training.ema_decay is not None or training.adapter.type == "none":
        return [f"{start}and only checkpoints of adapters without an average (ema_decay) are played."]
    return []


def _flatten(values: Mapping[str, Any], prefix: str = "") -> set[str]:
    keys = set()
    for key, value in values.items():
        keys.add(prefix + key)
        if isinstance(value, Mapping):
            keys |= _flatten(value, f"{prefix}{key}.")
    return keys
