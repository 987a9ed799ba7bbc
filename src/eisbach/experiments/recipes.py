"""Experiment recipes: files of the user's, or the ones that the package carries; and the demo on a person's audio."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from eisbach.config import apply_overrides, build_config, override, read_yaml
from eisbach.data.manifest import MANIFEST_NAME, Manifest, save_manifest
from eisbach.errors import ConfigError, UserError
from eisbach.experiments.material import OwnAudio
from eisbach.experiments.own_material import prompts_of
from eisbach.experiments.spec import ExperimentSpec, merge
from eisbach.generation.prompts import load_prompts


def _built_in() -> dict[str, str]:
    """`demo`, `draws` (what the studies over draws share) and the recipe of each study that is an experiment."""
    home = Path(__file__).parents[1]
    files = [*home.glob("assets/recipes/*.yaml"), *home.glob("studies/*/recipe.yaml")]
    names = {(file.parent.name if file.name == "recipe.yaml" else file.stem): file for file in files}
    return {name: names[name].relative_to(home).as_posix() for name in sorted(names)}


BUILT_IN_RECIPES = _built_in()
"""Recipes inside the package, by name: their place in it. `recipes/` in the repository shows some of these files."""

_PROMPTS = 16  # units of inference: with eight hardly a difference can be shown after correction, however large
_LEAST_REFERENCE = 4  # stretches
_DIRECTIONS = {"is_flat": "lower", "flat_probability": "lower"}  # declared where there is nothing to be near to
_DEPTH = 5  # how long a chain of recipes may be; longer ones are circles
_SHOWN = 10  # files named in a note
_OWN_AUDIO = (
    "The models were fine-tuned on the audio in {folder} ({clips} training clips); whether the plain arm goes flat "
    "depends on that audio."
)
_NO_LABELS = "Nobody labelled which of the audio is flat, so there is no oracle arm and no recovered share of its gain."
_OTHER_LABELS = (
    "The label flat is read as true or false and must stand on every clip; here {found}, so there is no oracle arm, "
    "and no recovered share of its gain."
)
_FEW_DEVELOP = (
    "Only {clips} clips that train are marked as not flat, fewer than a batch of {batch}, so there is no oracle arm, "
    "and no recovered share of its gain."
)
_NO_CAPTIONS = (
    "The audio has no captions, so the models were fine-tuned without text and asked for music in words that name no "
    "instrument."
)
_LITTLE_HELD_OUT = (
    "Of your music {stretches} stretches of {seconds:g} s are held out, too few to hold anything against: the "
    "reference is all of it, so a model that copies its training clips would seem near."
)
_NO_REFERENCE = (
    "The folder holds fewer than four stretches of {seconds:g} s, too few to say what is near to it; the arms are "
    "compared with one another only."
)
_LIMITS = (
    "The model is small, it learnt from scores played by sampled instruments, and its codec loses detail (it is stereo "
    "at 32 kHz, and true to about 11 kHz), so none of this sounds like your recordings: listen to your own clip "
    "through the codec, under 'Your music', for the best that could come out. What carries over to a large model is "
    "which weighting kept the music nearer to yours."
)
_LEFT_OUT = "{count} of the files in {folder} could not be used: {named}."
_SMALL_BATCH = "The folder holds {clips} training clips, so batches hold {batch} instead of the recipe's {recipe}."
_OWN_AIM = (
    "A small music model is fine-tuned on a person's own audio, each time with another way of weighting the training "
    "samples."
)
_NEARER = f"{_OWN_AIM} Which way brings what it plays nearer to that person's music?"
_FORM = f"{_OWN_AIM} Do what it plays and how clear its form is differ by the way?"


def load_spec(recipe: str | Path, overrides: Sequence[str] = (), *, quick: bool = False) -> ExperimentSpec:
    """The experiment of a recipe.

    A recipe may say `extends: NAME` (a built-in recipe, or a file beside it): its own keys are then laid over the
    other's, group by group, and an arm that they set to null is left out. Its `quick` group holds changes for a
    rehearsal of the same chain.

    Parameters
    ----------
    recipe : str or Path
        A name of `BUILT_IN_RECIPES` or the path of a YAML file.
    overrides : sequence of str
        `key=value`, applied last.
    quick : bool
        Apply the recipe's `quick` changes.

    Raises
    ------
    ConfigError
        No such recipe, or faults in it; all of them are named.
    """
    values = read_recipe(recipe)
    rehearsal = values.pop("quick", None)
    if quick:
        if not isinstance(rehearsal, dict):
            raise ConfigError(
                f"the recipe {recipe} has no group 'quick', so there is no rehearsal of it; leave --quick out."
            )
        values = merge(values, rehearsal) | {"rehearsal": True}
    values = _leave_out(values, values.get("arms"), recipe)
    values = _leave_out(apply_overrides(values, overrides), values.get("arms"), recipe)
    return build_config(ExperimentSpec, values, f"the recipe {recipe}")


def read_recipe(recipe: str | Path, depth: int = 0) -> dict[str, Any]:
    """The plain values of a recipe with what it extends filled in."""
    if depth > _DEPTH:
        raise ConfigError(f"the recipe {recipe} extends itself in a circle; remove one 'extends'.")
    if str(recipe) in BUILT_IN_RECIPES:
        with resources.as_file(resources.files("eisbach").joinpath(BUILT_IN_RECIPES[str(recipe)])) as path:
            values = read_yaml(path)
    elif Path(recipe).is_file():
        values = read_yaml(recipe)
    else:
        raise ConfigError(
            f"the recipe {recipe} does not exist; give a YAML file or a built-in recipe: {', '.join(BUILT_IN_RECIPES)}."
        )
    base = values.pop("extends", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"the recipe {recipe} has extends: {base!r}; name one recipe.")
    source = base if base in BUILT_IN_RECIPES else Path(recipe).parent / base
    extended = read_recipe(source, depth + 1)
    return _leave_out(merge(extended, values), extended.get("arms"), recipe)


def _leave_out(values: dict[str, Any], known: Any, recipe: str | Path) -> dict[str, Any]:
    """The values without the arms that are set to null; one that is not among the `known` is a slip."""
    arms = values.get("arms")
    if not isinstance(arms, dict):
        return values
    names = [name for name, arm in known.items() if arm is not None or known is arms] if isinstance(known, dict) else []
    unknown = sorted(str(name) for name, arm in arms.items() if arm is None and name not in names)
    if unknown:
        raise ConfigError(
            f"the recipe {recipe} has no arm '{unknown[0]}' to leave out; its arms are {', '.join(map(str, names))}."
        )
    return values | {"arms": {name: arm for name, arm in arms.items() if arm is not None}}


def demo_spec(
    *,
    out: str | Path | None = None,
    seed: int | None = None,
    quick: bool = False,
    overrides: Sequence[str] = (),
) -> ExperimentSpec:
    """The experiment of `eisbach demo` on material that it makes itself.

    Parameters
    ----------
    out : str, Path or None
        Folder; the recipe's own when None.
    seed : int or None
        Shifts every seed of the recipe: the material's, the trainings' and the generations'.
    quick : bool
        The recipe's rehearsal.
    overrides : sequence of str
        `key=value` changes of the recipe, applied after the above.

    Raises
    ------
    ConfigError
        Faults in the overrides.
    UserError
        A negative seed.
    """
    return load_spec("demo", _changes(out, seed, quick) + list(overrides), quick=quick)


@dataclass(frozen=True)
class OwnExperiment:
    """The demo on a person's audio: its specification, and the manifest that it trains on, which is not written yet."""

    spec: ExperimentSpec
    manifest: Manifest

    def save_manifest(self) -> None:
        """Writes the manifest into the experiment's folder; `run_experiment` does it in a folder that it has claimed.

        Raises
        ------
        StorageError
            The folder cannot be written.
        """
        save_manifest(self.manifest)


def own_demo_folder(folder: str | Path) -> str:
    """Where the demo on a person's audio goes unless told: `eisbach-demo-<name of the folder>`, beside the demo's."""
    name = Path(folder).resolve().name
    own = load_spec("demo").out
    return f"{own}-{name}" if name else own


def own_audio_experiment(
    folder: str | Path,
    *,
    out: str | Path | None = None,
    seed: int | None = None,
    quick: bool = False,
    overrides: Sequence[str] = (),
    caption_from: str | None = None,
    quiet: bool = False,
    notify: Callable[[str], object] | None = None,
) -> OwnExperiment:
    """The demo's experiment on a person's folder of audio: the same arms, without the oracle unless clips are labelled.

    Writes nothing. What could not be used, and every way in which the experiment differs from the recipe, is told
    through `notify` and stands in the page's notes. `out` is `own_demo_folder` when None.

    Raises
    ------
    UserError
        No such folder, no usable training clip in it, or an experiment's folder that holds another demo.
    """
    from eisbach.experiments.material import adopt_folder
    from eisbach.experiments.run import refuse_other_demo

    out = own_demo_folder(folder) if out is None else out
    spec = demo_spec(out=out, seed=seed, quick=quick, overrides=overrides)
    refuse_other_demo(Path(spec.out), own_audio=True)
    data = Path(spec.out) / "data"
    own = adopt_folder(
        Path(folder), data, caption_from=caption_from, stretch=float(spec.generation.duration), quiet=quiet,
        notify=notify,
    )  # fmt: skip
    clips = own.training_clips
    if clips < 1:
        raise UserError(f"the folder {folder} gives no usable training clip; add audio files.")
    recipe_batch = int(spec.training.get("batch_size", 4))
    batch = min(recipe_batch, clips)
    notes = [_OWN_AUDIO.format(folder=folder, clips=clips)]
    if own.skipped:
        shown = [f"{item.item} {item.reason}" for item in own.skipped[:_SHOWN]]
        more = [f"and {len(own.skipped) - _SHOWN} more"] if len(own.skipped) > _SHOWN else []
        notes.append(_LEFT_OUT.format(count=len(own.skipped), folder=folder, named="; ".join([*shown, *more])))
    without_oracle = _why_no_oracle(own, batch)
    notes += without_oracle
    if not own.captioned:
        notes.append(_NO_CAPTIONS)
    if batch < recipe_batch:
        notes.append(_SMALL_BATCH.format(clips=clips, batch=batch, recipe=recipe_batch))
    values = spec.model_dump()
    notes.insert(0, _LIMITS)
    notes += _own_reference(values, own)
    prompted = any(change.replace(" ", "").startswith("generation.prompts=") for change in overrides)
    if not prompted:
        values["generation"]["prompts"] = _own_prompts(own, _PROMPTS // 2 if quick else _PROMPTS)
    if without_oracle and spec.oracle is not None:
        del values["arms"][spec.oracle]
        values["oracle"] = None
    group = {"manifest": str(data / MANIFEST_NAME), "cache": str(data / "latents")}
    values["training"] = merge(values["training"], {"data": group, "batch_size": batch})
    question = _FORM if values["reference"] is None else _NEARER
    values |= {"material": None, "notes": [*notes, *values["notes"]], "question": question, "own_audio": True}
    return OwnExperiment(build_config(ExperimentSpec, values, "the demo on your audio"), own.manifest)


def _why_no_oracle(own: OwnAudio, batch: int) -> list[str]:
    """Why no arm can leave the flat clips out; nothing where one can."""
    flat = [row.labels.get("flat") for row in own.manifest]
    marked = len(flat) - flat.count(None)
    if not marked:
        return [_NO_LABELS]
    if set(flat) != {"true", "false"}:
        values = ", ".join(sorted({str(value) for value in flat if value is not None}))
        found = f"{marked} of {len(flat)} have it" if None in flat else f"it is {values}"
        return [_OTHER_LABELS.format(found=found)]
    if own.developing_clips < batch:
        return [_FEW_DEVELOP.format(clips=own.developing_clips, batch=batch)]
    return []


def _own_prompts(own: OwnAudio, most: int) -> list[dict[str, Any]]:
    """The person's captions, filled up to `most` with words that name no instrument; those alone without any."""
    captions = prompts_of(own.captions, most)
    plain = [prompt.model_dump(exclude_none=True) for prompt in load_prompts("plain")]
    return [*captions, *plain[: most - len(captions)]]


def _own_reference(values: dict[str, Any], own: OwnAudio) -> list[str]:
    """Sets what a person's models are held against: what is held out of the folder, or what there is. Returns what must
    be said of it."""
    if values["reference"] is None:
        return []
    seconds = float(values["generation"]["duration"])
    held_out, everything = (
        sum(int(length / (seconds * 0.99)) for length in lengths) for lengths in (own.held_out_seconds, own.all_seconds)
    )
    values["reference"] |= {"label": "your music"}
    if held_out >= _LEAST_REFERENCE:
        return []
    if everything >= _LEAST_REFERENCE:
        values["reference"]["source"] = "everything"
        return [_LITTLE_HELD_OUT.format(stretches=held_out, seconds=seconds)]
    values["reference"] = None
    values["primary_metrics"] = {name: _DIRECTIONS.get(name, "higher") for name in values["primary_metrics"]}
    return [_NO_REFERENCE.format(seconds=seconds)]


def _changes(out: str | Path | None, seed: int | None, quick: bool) -> list[str]:
    changes = []
    if out is not None:
        changes.append(override("out", str(out)))
    if seed is not None:
        if seed < 0:
            raise UserError(f"--seed is {seed}; give a whole number from 0.")
        base = load_spec("demo", quick=quick)
        changes.append(f"train_seeds={[seed + value for value in base.train_seeds]}")
        changes.append(f"generation.seeds={[seed + value for value in base.generation.seeds]}")
        if base.material is not None:
            changes.append(f"material.seed={seed + base.material.seed}")
    return changes
