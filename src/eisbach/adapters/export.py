"""An adapter to where it is played: converted or merged, and checked by playing both on the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field

from eisbach.adapters import convert
from eisbach.adapters.attach import attach, check_base, detach
from eisbach.adapters.convert import detect_or_none, read
from eisbach.adapters.effect import NEGLIGIBLE, Comparison, Effect, PredictingModel, compare, measure
from eisbach.adapters.formats.host_names import HOSTS
from eisbach.adapters.formats.low_rank import Differences, LowRankAdapter, NeedsBaseError
from eisbach.adapters.inject import ATTACHED, AdaptableModel
from eisbach.config import StrictModel
from eisbach.devices import DeviceName, place
from eisbach.errors import ConfigError, UserError
from eisbach.files import write_json


class ExportConfig(StrictModel):
    """What to write of an adapter.

    Attributes
    ----------
    adapter : str
        A file or folder that `eisbach.adapters.convert` reads; merging also takes the folder of a fully trained model.
    to : "sa3", "peft", "diffusers", "comfyui" or None
    out : str or None
        A file (sa3, comfyui) or a folder (peft, diffusers, and the merged model).
    model : str or None
        The base model. Merging, checking and DoRA for ComfyUI need it; without it the adapter's base is not checked.
    strength : float
        1 writes the adapter as it was trained.
    merge : bool
        Write the whole model with the adapter folded in.
    check : bool
        Measure what the adapter changes, and how far what was written is from it.
    dora : "diff" or "scale"
        How DoRA is written for ComfyUI: whole differences, or factors with a scale that its formula makes right.
    precision : "auto", "fp16" or "fp32"
        Of sa3 and comfyui files: "auto" writes fp16 where it loses at most 1% of a LoRA or nothing of a DoRA, else
        fp32.
    bake_norms : bool
        Write the norms of DoRA's rows beside it, as Stability's newest players want them.
    drop_conditioner : bool
        Leave out what ComfyUI cannot load.
    any_base : bool
        Convert for another base model than the one that the adapter was trained on.
    overwrite : bool
        Replace the adapter at `out`; other files beside it stay.
    device : str
        Where the model computes, as `devices.place` reads it; in fp32, as what is measured may be small.
    """

    adapter: str
    to: Literal["sa3", "peft", "diffusers", "comfyui"] | None = None
    out: str | None = None
    model: str | None = None
    strength: float = Field(default=1.0, ge=-2.0, le=4.0)
    merge: bool = False
    check: bool = False
    dora: Literal["diff", "scale"] = "diff"
    precision: Literal["auto", "fp16", "fp32"] = "auto"
    bake_norms: bool = False
    drop_conditioner: bool = False
    any_base: bool = False
    overwrite: bool = False
    device: DeviceName = "auto"


def check_together(config: ExportConfig) -> None:
    """Refuses options that contradict one another, all of them in one sentence.

    Raises
    ------
    ConfigError
        They do.
    """
    writes = config.to is not None or config.merge
    faults = {
        "there is nothing to do, so give --to, --merge or --check": not writes and not config.check,
        "--merge writes a whole model and --to an adapter, so leave one out": config.merge and config.to is not None,
        "something is to be written, so give --out": writes and config.out is None,
        "--out is given and nothing is to be written, so give --to or --merge": not writes and config.out is not None,
        "--merge and --check need the base model, so give --model": (config.merge or config.check)
        and config.model is None,
    }
    sentences = [sentence for sentence, wrong in faults.items() if wrong]
    if sentences:
        raise ConfigError(f"the options do not fit together: {'; '.join(sentences)}.")


class ExportableModel(PredictingModel, Protocol):
    """A backbone, as far as exporting needs it."""

    def save(self, folder: str | Path) -> None:
        """Writes the model."""


@dataclass(frozen=True)
class Exported:
    """What `export` did.

    Attributes
    ----------
    written : Written or None
    merged : dict or None
        The record of a merge (see `eisbach.adapters.export`).
    effect : Effect or None
        What the adapter changes, where it was checked.
    comparison : Comparison or None
        How far the written file is from it, where it was checked.
    host_layers : tuple of (str, int, int) or None
        The host's model, how many of the written layers it has a name for, and how many there are, where it was
        checked.
    notes : list of str
        Sentences for the person.
    """

    written: convert.Written | None = None
    merged: Mapping[str, Any] | None = None
    effect: Effect | None = None
    comparison: Comparison | None = None
    host_layers: tuple[str, int, int] | None = None
    notes: list[str] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "written": None if self.written is None else asdict(self.written),
            "merged": self.merged,
            "effect": None if self.effect is None else {**asdict(self.effect), "overall": self.effect.overall},
            "deviation": None if self.comparison is None else self.comparison.deviation,
            "relative_deviation": None if self.comparison is None else self.comparison.relative_deviation,
            "host_layers": None
            if self.host_layers is None
            else dict(zip(("model", "named", "of"), self.host_layers, strict=True)),
            "notes": self.notes,
        }


def export(
    config: ExportConfig,
    load_model: Callable[[str], ExportableModel],
    notify: Callable[[str], object] = lambda sentence: None,
) -> Exported:
    """Does what a configuration says.

    Parameters
    ----------
    config : ExportConfig
    load_model : function of a model's name
        `eisbach.backbones.load_backbone`.
    notify : function of a sentence
        Is told where the adapter is checked.

    Raises
    ------
    ConfigError
        Options that contradict one another.
    UserError
        Something is at `out`, the format cannot express the adapter, or (CheckpointError) the adapter cannot be read,
        or is of another model, or the device is not there.
    StorageError
        The disk is full or the folder is not writable.
    """
    check_together(config)
    placement = place(config.device, "fp32")
    adapter = None if config.merge else _read_low_rank(config)
    model = None if config.model is None else load_model(config.model)
    notes: list[str] = []
    written = None
    if config.to is not None and config.out is not None:
        adapter = _read_with_base(config, model) if adapter is None or model is not None else adapter
        if model is not None:
            check_base(model, Path(config.adapter), adapter.stamp, any_base=config.any_base)
        written = convert.write(
            adapter,
            config.to,
            config.out,
            module=None if model is None else model.module,
            strength=config.strength,
            dora=config.dora,
            precision=config.precision,
            bake_norms=config.bake_norms,
            drop_conditioner=config.drop_conditioner,
            overwrite=config.overwrite,
        )
        notes += written.notes
    effect = comparison = None
    if config.check and model is not None:
        notify(f"{placement.sentence()}.")
        model.module.to(placement.device)
        effect, comparison = _check(config, model, written)
        model.module.to("cpu")  # adapters are written, and folded in, on the host
        notes += _verdict(effect, comparison)
    merged = None
    if config.merge and model is not None and config.out is not None:
        merged = save_merged(model, config.adapter, config.out, config.strength, any_base=config.any_base)
    host = None
    if config.check and written is not None and written.format in HOSTS:
        host = convert.host_layers(written.path, written.format)
    return Exported(written, merged, effect, comparison, host, notes)


def _read_low_rank(config: ExportConfig) -> LowRankAdapter | None:
    """The adapter, read before the model is: None where that takes the model."""
    if config.to is None:
        return None
    try:
        return _low_rank(convert.read(config.adapter), config)
    except NeedsBaseError:
        if config.model is None:
            raise
        return None


def _read_with_base(config: ExportConfig, model: ExportableModel | None) -> LowRankAdapter:
    weight_of = None if model is None else convert.weights_of(model.module)
    return _low_rank(convert.read(config.adapter, weight_of), config)


def _low_rank(adapter: LowRankAdapter | Differences, config: ExportConfig) -> LowRankAdapter:
    if isinstance(adapter, Differences):
        raise UserError(
            f"{config.adapter} holds whole differences, which are no LoRA or DoRA and cannot be converted back; play "
            "it with generate "
            "--adapter, or write a model with --merge."
        )
    return adapter


def _check(
    config: ExportConfig, model: ExportableModel, written: convert.Written | None
) -> tuple[Effect, Comparison | None]:
    if written is not None:
        comparison = compare(model, config.adapter, written.path, strength=config.strength, any_base=config.any_base)
        return comparison.effect, comparison
    attach(model, config.adapter, config.strength, any_base=config.any_base)
    try:
        return measure(model), None
    finally:
        detach(model)


def _verdict(effect: Effect, comparison: Comparison | None) -> list[str]:
    notes = []
    if effect.negligible:
        notes.append(
            f"the adapter changes the prediction by {effect.overall:.1e} of its size, less than {NEGLIGIBLE:.0e}: it "
            "did next to nothing; "
            "train longer, at a higher learning rate, or look whether it is the file you meant."
        )
    if comparison is not None and comparison.deviation > 0.02:
        notes.append(
            f"what was written differs from the adapter by {comparison.deviation:.1%} of the adapter's own effect "
            "(rounding to half precision is most of it, unless a part was left out); --precision fp32 rounds less."
        )
    return notes


# --- an adapter made part of the model


RECORD = "merged.json"
"""File in the merged model's folder: what was merged into what."""


class SavableModel(AdaptableModel, Protocol):
    """A backbone, as far as merging needs it."""

    def save(self, folder: str | Path) -> None:
        """Writes the model."""


def merge(model: AdaptableModel, path: str | Path, strength: float = 1.0, *, any_base: bool = False) -> dict[str, Any]:
    """Folds an adapter into the model for good (it can be adapted again) and returns a record of it.

    Raises
    ------
    CheckpointError, ConfigError
        As in `eisbach.adapters.attach`.
    """
    base = model.identity()
    changed = attach(model, path, strength, any_base=any_base)
    del ATTACHED[model.module]
    stamp = read(path).stamp if detect_or_none(path) in ("sa3", "peft", "diffusers") else {}
    return {
        "base_identity": base,
        "adapter": str(path),
        "strength": strength,
        "tensors_changed": changed,
        "stamp": stamp,
    }


def save_merged(
    model: SavableModel, path: str | Path, out: str | Path, strength: float = 1.0, *, any_base: bool = False
) -> dict[str, Any]:
    """Merges an adapter and writes the whole model, which `load_backbone(out)` reads; returns the record.

    Raises
    ------
    UserError
        There is something at `out`.
    CheckpointError, ConfigError
        As in `eisbach.adapters.attach`.
    StorageError
        The disk is full or the folder is not writable.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already; give a new folder for the merged model.")
    record = merge(model, path, strength, any_base=any_base)
    model.save(out)
    record["merged_identity"] = model.identity()
    write_json(out / RECORD, record)
    return record
