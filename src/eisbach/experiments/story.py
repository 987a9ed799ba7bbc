"""The demo's assembly: the recipe with a person's choices, or with a person's own folder of audio."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from eisbach.errors import UserError
from eisbach.experiments.recipes import load_spec
from eisbach.experiments.spec import Arm, ExperimentSpec, merge

_OWN_AUDIO = (
    "The models were fine-tuned on the audio in {folder} ({clips} clips). Nobody labelled which of it is flat, so there is "
    "no oracle arm and no recovered share; whether the plain arm goes flat depends on the audio."
)
_SMALL_BATCH = "The folder holds {clips} training clips, so batches hold {batch} instead of the recipe's {recipe}."
_OWN_QUESTION = (
    "A small music model is fine-tuned on a person's own audio, each time with another way of weighting the training "
    "samples. Does the way of weighting change how much its music develops?"
)


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


def own_audio_spec(
    folder: str | Path,
    *,
    out: str | Path | None = None,
    seed: int | None = None,
    quick: bool = False,
    overrides: Sequence[str] = (),
    quiet: bool = False,
    notify: Callable[[str], object] | None = None,
) -> ExperimentSpec:
    """The demo's experiment on a person's folder of audio: the same arms without the oracle, which needs labels.

    Writes the manifest of the folder into `out`. Files that cannot be used are reported through `notify`.

    Raises
    ------
    UserError
        No such folder, or fewer than two usable training clips in it.
    """
    from eisbach.experiments.material import adopt_folder

    spec = demo_spec(out=out, seed=seed, quick=quick, overrides=overrides)
    manifest, clips = adopt_folder(Path(folder), Path(spec.out) / "data", quiet=quiet, notify=notify)
    if clips < 2:
        raise UserError(
            f"the folder {folder} gives {clips} usable training clip{'s' if clips != 1 else ''}; add audio files until "
            "there are at least two."
        )
    values = spec.model_dump()
    recipe_batch = int(values["training"].get("batch_size", 4))
    batch = min(recipe_batch, clips)
    notes = [_OWN_AUDIO.format(folder=folder, clips=clips), *values["notes"]]
    if batch < recipe_batch:
        notes.append(_SMALL_BATCH.format(clips=clips, batch=batch, recipe=recipe_batch))
    arms = {name: Arm(**arm) for name, arm in values["arms"].items() if name != spec.oracle}
    values["training"] = merge(values["training"], {"data": {"manifest": str(manifest)}, "batch_size": batch})
    values |= {"arms": arms, "oracle": None, "material": None, "notes": notes, "question": _OWN_QUESTION}
    return ExperimentSpec(**values)


def _changes(out: str | Path | None, seed: int | None, quick: bool) -> list[str]:
    changes = []
    if out is not None:
        import json

        changes.append(f"out={json.dumps(str(out))}")
    if seed is not None:
        if seed < 0:
            raise UserError(f"--seed is {seed}; give a whole number from 0.")
        base = load_spec("demo", quick=quick)
        changes.append(f"train_seeds={[seed + value for value in base.train_seeds]}")
        changes.append(f"generation.seeds={[seed + value for value in base.generation.seeds]}")
        if base.material is not None:
            changes.append(f"material.seed={seed + base.material.seed}")
    return changes
