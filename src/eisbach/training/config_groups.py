"""The groups of a recipe: what a run is shown (data), what it changes (adapter), and what for (noise levels, weights
of losses, the task in a step)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from eisbach.config import StrictModel
from eisbach.errors import UserError

_DEFAULT_BUCKETS = 16
_RANGE = re.compile(r"(\d+(?:\.\d+)?)\s*-\s*(\d+(?:\.\d+)?)")


class CropShare(StrictModel):
    """One crop length and how often a step draws it.

    Attributes
    ----------
    seconds : float
        Length of the crop, s; at most an hour. With `buckets`, the most that a clip takes.
    share : float
        Relative frequency among the steps; the shares need not sum to 1.
    buckets : int or None
        Batch clips of (nearly) equal length, of at most this many lengths; None pads every clip to `seconds`.
    fit : "cut" or "pad"
        Within a bucket: cut to the shortest (for models that cannot mask padding), or pad to the longest, masked.
    min_seconds : float or None
        Shorter clips are left out and named.
    """

    seconds: float = Field(gt=0, le=3600)
    share: float = Field(default=1.0, gt=0)
    buckets: int | None = Field(default=None, ge=1, le=256)
    fit: Literal["cut", "pad"] = "cut"
    min_seconds: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _in_order(self) -> CropShare:
        if self.min_seconds is not None and self.min_seconds > self.seconds:
            raise ValueError(f"min_seconds {self.min_seconds:g} is longer than seconds {self.seconds:g}; swap them")
        if self.buckets is None and self.fit == "pad":
            raise ValueError("fit pad means something with buckets alone; every clip is padded without them")
        return self


class ImagesConfig(StrictModel):
    """Which images are trained on.

    Attributes
    ----------
    folder : str or None
        A folder of images, or of class folders (a class is a folder directly below it).
    source : "folder" or "digits"
        "digits" is scikit-learn's 8x8 digits, which need no folder.
    resize : "crop" or "none"
        Scale and cut images of other sizes to the model's (as ADM does), or leave them out and name them.
    flip : bool
        Train on mirrored images too.
    classes : "auto", "folders" or "none"
        Whether folders are classes; auto: where every image lies in one.
    only : list of str
        Names of the classes to train on; empty takes all.
    held_out_share : float
        In [0, 1): share of the images that is held out, by a hash of their content.
    """

    folder: str | None = None
    source: Literal["folder", "digits"] = "folder"
    resize: Literal["crop", "none"] = "crop"
    flip: bool = False
    classes: Literal["auto", "folders", "none"] = "auto"
    only: list[str] = Field(default_factory=list)
    held_out_share: float = Field(default=0.05, ge=0, lt=1)

    @model_validator(mode="after")
    def _one_source(self) -> ImagesConfig:
        if self.source == "folder" and self.folder is None:
            raise ValueError("source folder needs a folder: name the folder of the images")
        if self.source == "digits" and self.folder is not None:
            raise ValueError("source digits brings its own images; leave folder out")
        return self


class LabelWeight(StrictModel):
    """A weight for the clips whose labels have these values, in place of what the manifest says of them.

    Attributes
    ----------
    select : mapping of str to str
    weight : float
        At least 0, against 1 of the other clips.
    above : float
        Noise level t from which on it holds; 1 below.
    """

    select: dict[str, str] = Field(min_length=1)
    weight: float = Field(ge=0, allow_inf_nan=False)
    above: float = Field(default=0.0, ge=0, le=1)

    @field_validator("select", mode="before")
    @classmethod
    def _as_text(cls, value: object) -> object:
        return _labels_as_text(value)


def _labels_as_text(value: object) -> object:
    """YAML reads an unquoted false as a boolean, while labels are text: "false" is what the manifest holds."""
    if isinstance(value, Mapping):
        return {key: str(item).lower() if isinstance(item, bool) else item for key, item in value.items()}
    return value


class DataConfig(StrictModel):
    """Which clips, or which images, are trained on: `manifest` for audio, `images` for images.

    Attributes
    ----------
    manifest : list of str
        Manifest files or folders that hold a `manifest.jsonl`; one path may be given without a list.
    images : ImagesConfig or None
        Images instead of audio; a text is the folder. The keys about clips (crop_seconds, select) then mean nothing.
    crop_seconds : list of CropShare
        Length of the training crops; a plain number is one length. With several, each step draws one of them,
        so that every batch has a single length. ``full`` takes whole clips (of up to an hour), and ``20-60`` whole
        clips of 20 to 60 s (longer ones are cropped), in 16 buckets of equal length.
    select : mapping of str to str
        Only clips whose labels have these values (the *oracle* arm: ``{flat: "false"}``).
    weights : list of LabelWeight or None
        Weights of clips by their labels; a later one holds where several do.
    split : "train" or "all"
        Which clips train; "all" trains on the held-out clips too and switches the held-out loss off.
    cache : str or None
        Folder of the latent cache; None is `latents/` beside each manifest, and `.latents/` in the folder of images.
    """

    manifest: list[str] = Field(default_factory=list)
    images: ImagesConfig | None = None
    crop_seconds: list[CropShare] = Field(default=[CropShare(seconds=30.0)])
    select: dict[str, str] = Field(default_factory=dict)
    weights: list[LabelWeight] | None = None
    split: Literal["train", "all"] = "train"
    cache: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _images_have_no_length(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("images") is not None:
            return {"crop_seconds": [], **values}
        return values

    @model_validator(mode="after")
    def _some_length(self) -> DataConfig:
        if self.images is None and not self.crop_seconds:
            raise ValueError("crop_seconds lists no length; give one, or leave it out for 30 s")
        return self

    @field_validator("manifest", mode="before")
    @classmethod
    def _one_manifest(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("images", mode="before")
    @classmethod
    def _one_folder(cls, value: object) -> object:
        return {"folder": value} if isinstance(value, str) else value

    @field_validator("crop_seconds", mode="before")
    @classmethod
    def _one_length(cls, value: object) -> object:
        # text too: YAML 1.1 reads 1e2 as text, and the field itself knows what is a number
        if isinstance(value, str) and value.strip() == "full":
            return [{"seconds": 3600.0, "buckets": _DEFAULT_BUCKETS}]
        if isinstance(value, str) and (ends := _RANGE.fullmatch(value.strip())):
            return [{"seconds": ends[2], "min_seconds": ends[1], "buckets": _DEFAULT_BUCKETS}]
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            return [{"seconds": value}]
        return [value] if isinstance(value, Mapping) else value

    @field_validator("crop_seconds")
    @classmethod
    def _distinct_lengths(cls, value: list[CropShare]) -> list[CropShare]:
        if len({crop.seconds for crop in value}) != len(value):
            raise ValueError("each crop length may be listed once; give it a larger share instead")
        return value

    @field_validator("select", mode="before")
    @classmethod
    def _labels_are_text(cls, value: object) -> object:
        return _labels_as_text(value)


_ADAPTER_DEFAULTS: dict[str, Any] = {"rank": 16, "alpha": 16.0, "dropout": 0.0, "exclude": []}


class AdapterConfig(StrictModel):
    """The low-rank adapter; type "none" trains every parameter of the model.

    Attributes
    ----------
    type : "dora", "lora" or "none"
    rank : int or None
        Rank r of the update B·A (default 16; None with type "none").
    alpha : float or None
        The update is scaled by alpha / rank (default 16).
    dropout : float or None
        In [0, 1): share of the adapter's inputs dropped (default 0).
    targets : list of str, str or None
        Names of the linear layers (suffixes, or one regular expression); None is the backbone's own choice.
    exclude : list of str or None
        Layers left out of `targets` (default none).
    norm_gradient : "detached", "full" or None
        DoRA only: whether the row norm is a constant to the gradient (detached, the default: the DoRA paper and peft),
        or takes part in it (full: Stability's own trainer). The adapter's file and its meaning are the same.
    """

    type: Literal["dora", "lora", "none"] = "dora"
    rank: int | None = Field(default=None, ge=1, json_schema_extra={"also": ["r", "dim", "network_dim"]})
    alpha: float | None = Field(default=None, gt=0, json_schema_extra={"also": ["lora_alpha", "network_alpha"]})
    dropout: float | None = Field(default=None, ge=0, lt=1)
    targets: list[str] | str | None = None
    exclude: list[str] | None = None
    norm_gradient: Literal["detached", "full"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        filled = dict(values)
        if filled.get("type", "dora") != "none":
            for key, default in _ADAPTER_DEFAULTS.items():
                if filled.get(key) is None:
                    filled[key] = default
        if filled.get("type", "dora") == "dora" and filled.get("norm_gradient") is None:
            filled["norm_gradient"] = "detached"
        return filled


class WeightingConfig(StrictModel):
    """How the losses of a batch are weighted (see `eisbach.weighting`).

    Attributes
    ----------
    sample : str
        Weight on the sample axis: "none", "recommended" (written out with its settings, `weighting.build`), or a name
        of `weighting.SAMPLE_WEIGHTINGS`.
    noise_level : str
        Weight on the noise-level axis: "none", or a name of `weighting.NOISE_WEIGHTINGS`.
    reduction : "sample" or "batch"
        A weight for each sample (§5 of the barrier paper), or one scalar a step (its Eq. 5, as printed).
    normalisation : "none" or "mean1"
        Whether the weights are rescaled to mean 1 over the global batch.
    strength : float
        λ of Eq. 5, in [0, 1]: 0 is the unweighted loss.
    options : mapping
        Further options of the weighting that was named, and what shapes a sample weighting over the noise levels
        (gate_below, gate_above, gate_width, level_means), or remembers it by clip (memory, act_above). These two may
        stand beside the name: ``memory: {below: 0.6}`` means ``options: {memory: {below: 0.6}}``. A signature's file in
        ``act_above: {curve: FILE}`` is read when the recipe is, and its level written out.
    """

    sample: str = "none"
    noise_level: str = "none"
    reduction: Literal["sample", "batch"] = "sample"
    normalisation: Literal["none", "mean1"] = "none"
    strength: float = Field(default=0.5, ge=0, le=1, json_schema_extra={"also": ["lambda", "lam", "lambda_"]})
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _write_out(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not isinstance(values.get("options", {}), Mapping):
            return values
        beside = {key: values[key] for key in ("memory", "act_above") if values.get(key) is not None}
        if beside.keys() & values.get("options", {}).keys():
            raise ValueError("memory and act_above stand in weighting or in weighting.options, not in both")
        rest = {key: value for key, value in values.items() if key not in ("memory", "act_above")}
        rest |= {"options": {**values.get("options", {}), **beside}} if beside else {}
        if not (rest.get("sample") == "recommended" or "act_above" in rest.get("options", {})):
            return rest  # nothing to write out: torch need not be there
        from eisbach.weighting.build import write_out

        return write_out(rest)

    @field_validator("options")
    @classmethod
    def _only_options(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key in value.keys() & cls.model_fields.keys():
            raise ValueError(f"{key} is not an option of a weighting: set weighting.{key} itself")
        for key in value.keys() & {"latent_rate", "path", "density"}:
            raise ValueError(f"{key} comes from the model and the noise levels; leave it out")
        return value


class NoiseLevelConfig(StrictModel):
    """The density that training noise levels t are drawn from; None is the backbone's own."""

    density: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)


def name_faults(weighting: Mapping[str, Any], noise_levels: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(key, what is wrong) where these groups of a recipe name weightings, densities or options that do not exist.

    Everything is built once without a model, so that such a name is found before hour three. A group with faults of its
    own (a strength of 7) is built no further than its names.
    """
    from eisbach.diffusion.noise_levels import check_density
    from eisbach.weighting import build_weighting
    from eisbach.weighting.build import check_weighting_name

    faults: list[tuple[str, str]] = []

    def attempt(key: str, build: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        try:
            return build(*arguments, **options)
        except UserError as error:
            faults.append((key, str(error).rstrip(".")))

    # The model's own path and density are not known here; a weighting that corrects for the density is tried with one.
    density = None
    if isinstance(name := noise_levels.get("density"), str):
        options = noise_levels.get("options")
        key = "noise_levels.options" if options else "noise_levels.density"
        density = attempt(key, check_density, name, options if isinstance(options, Mapping) else {})
    for axis in ("sample", "noise_level"):
        if isinstance(name := weighting.get(axis), str):
            attempt(f"weighting.{axis}", check_weighting_name, axis, name)
    if not any(key.startswith("weighting.") for key, _ in faults):
        try:
            chosen = WeightingConfig.model_validate(weighting)
        except ValidationError:
            return faults  # the faults of single keys are named elsewhere
        values = chosen.model_dump()
        options = values.pop("options")
        density = density or check_density("uniform", {})
        attempt("weighting", build_weighting, **values, latent_rate=1.0, density=density, **options)
    return faults


class InpaintingConfig(StrictModel):
    """What a model with an inpainting condition is shown in training; the defaults are Stability's.

    Attributes
    ----------
    segments, full, causal : float
        Probabilities, summing to 1, of: random stretches to be made and the rest known; everything to be made; a
        beginning known.
    max_segments : int
        Most stretches of the first case.
    context_weight : float
        Weight of the loss over what is known, beside 1 for what is to be made.
    """

    segments: float = Field(default=0.1, ge=0, le=1)
    full: float = Field(default=0.8, ge=0, le=1)
    causal: float = Field(default=0.1, ge=0, le=1)
    max_segments: int = Field(default=10, ge=1, le=1000)
    context_weight: float = Field(default=1.0, ge=0)

    @model_validator(mode="after")
    def _sum_to_one(self) -> InpaintingConfig:
        total = self.segments + self.full + self.causal
        if abs(total - 1) > 1e-6:
            raise ValueError(f"segments, full and causal must sum to 1; they sum to {total:g}")
        return self


class ObjectiveConfig(StrictModel):
    """What the network is asked in a step, beside noise levels and weights (see docs/sa3-training.md).

    Attributes
    ----------
    inpainting : InpaintingConfig or None
        Needs a model with an inpainting condition; `true` takes the defaults, None trains plain generation only.
    pairing : "independent" or "optimal_transport"
        Optimal transport exchanges the noise of a micro-batch's clips for the shortest paths; it makes noise and data
        dependent, which the class-conditional-entropy identities exclude.
    silence_extension : float
        Mean, s, of an exponential draw: how much of the silence behind a clip that is shorter than its crop counts in
        the loss. 0 leaves padding out; 4 in Stability's trainer.
    """

    inpainting: InpaintingConfig | None = None
    pairing: Literal["independent", "optimal_transport"] = "independent"
    silence_extension: float = Field(default=0.0, ge=0, le=3600)

    @field_validator("inpainting", mode="before")
    @classmethod
    def _switch(cls, value: object) -> object:
        if isinstance(value, bool):
            return {} if value else None
        return value
