"""`run_signature`: from a configuration to curves, in pieces that are kept, so that a stopped run continues."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eisbach.config import read_yaml
from eisbach.devices import Placement, place
from eisbach.diagnostics.signature.chain import Guidance, Trajectories, check_chain, follow, trajectory_seed
from eisbach.diagnostics.signature.config import GuidanceConfig, SignatureConfig
from eisbach.diagnostics.signature.curve import SignatureCurve
from eisbach.diagnostics.signature.model import ClassModel, ClassSet, backbone_model
from eisbach.diagnostics.signature.summary import curves
from eisbach.diffusion.paths import Path as DiffusionPath
from eisbach.diffusion.rate_curve import path_options
from eisbach.errors import UserError
from eisbach.files import write_json
from eisbach.output_folder import claim, curve_stamp, weights_identity
from eisbach.progress import Progress
from eisbach.tensor_files import read_tensors, write_tensors

RESULT, PIECES, CURVES = "signature.json", "pieces", "curves"


@dataclass(frozen=True)
class Arm:
    """One set of trajectories: where they come from and how they are guided."""

    name: str
    source: str
    guidance: GuidanceConfig | None = None


@dataclass
class SignatureResult:
    """What was measured: for each arm its curves, and what they were measured on."""

    arms: dict[str, list[SignatureCurve]]
    meta: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain values: `meta`, the curves of each arm, and how far guidance moved the half times."""
        return {
            "meta": self.meta,
            "shifts": half_time_shifts(self),
            "arms": {name: [curve.to_json() for curve in curves_of_arm] for name, curves_of_arm in self.arms.items()},
        }


def arms_of(config: SignatureConfig) -> list[Arm]:
    """The sources, then a reverse chain for each guidance."""
    arms = [Arm(source, source) for source in config.sources]
    arms += [Arm(guidance.label, "reverse", guidance) for guidance in config.guidance]
    if len({arm.name for arm in arms}) != len(arms):
        raise UserError("two guidances are the same; list each once.")
    return arms


def run_signature(
    config: SignatureConfig,
    out: str | Path | None = None,
    *,
    quiet: bool = False,
    notify: Callable[[str], object] | None = None,
) -> SignatureResult:
    """Measures H[Z | X_t] of a conditional model.

    Parameters
    ----------
    out : path or None
        Folder for `signature.json`, `curves/*.json` and the pieces that a stopped run continues from.
    notify : callable or None
        Is told where it computes, and which words of a prompt the model has no meaning for.

    Raises
    ------
    UserError
        A bad set of classes, a device that is not there, a model trained with optimal-transport pairing, a
        deterministic chain, too few steps, or a folder that holds another measurement.
    """
    classes = config.class_set()
    placement = place(config.device, config.precision)
    refuse_coupled(config)
    backbone, model = _load(config, classes, placement, notify)
    times = check_chain(model.path, model.target, _levels(config, config.steps, model.path), config.eta)
    arms = arms_of(config)
    asked = config.model_dump(mode="json", exclude={"device", "precision"}) | placement.stamp()
    if asked["schedule_options"] is None:
        del asked["schedule_options"]
    asked |= curve_stamp(config.schedule_options)
    meta = {**asked, "model_identity": _identity(backbone, config), "shape": list(model.shape)}
    folder = None if out is None else Path(out)
    if folder is not None:
        _check_folder(folder, meta)
    label = torch.arange(len(classes)).repeat_interleave(config.trajectories)
    data = None if config.data is None else _read_data(config.data, len(classes), model.shape)
    size = max(1, int(config.memory_mb * 2**20 / 8 / (4 * len(classes) * _numbers(model.shape))))
    result = SignatureResult({}, meta)
    pieces = sum(-(-len(_labels(arm, label, data)) // size) for arm in arms)
    with Progress(pieces * (len(times) - 1), "signature", unit=" levels", quiet=quiet) as bar:
        for arm in arms:
            since = time.monotonic()
            own = _labels(arm, label, data)
            parts = [
                _piece(folder, arm, number, rows, own, model, classes, times, config, backbone, data, bar)
                for number, rows in _batches(len(own), size)
            ]
            whole = Trajectories.join(parts)
            result.arms[arm.name] = curves(
                whole,
                classes,
                model.path,
                guided=arm.guidance is not None and arm.guidance.scale != 1,
                resamples=config.resamples,
                seed=config.seed,
                path_options=path_options(model.path),
                meta={
                    **{key: meta[key] for key in ("model", "model_identity", "steps", "seed")},
                    "arm": arm.name,
                    "source": arm.source,
                    "guidance": None if arm.guidance is None else arm.guidance.model_dump(mode="json"),
                    "trajectories": len(own),
                    "seconds": round(time.monotonic() - since, 2),
                },
            )
    if folder is not None:
        _save_result(result, folder)
    return result


def _save_result(result: SignatureResult, folder: Path) -> None:
    """Writes `signature.json` and one file a curve."""
    for name, curves_of_arm in result.arms.items():
        for curve in curves_of_arm:
            curve.save(folder / CURVES / f"{name}-{curve.partition}-{curve.estimator}.json")
    write_json(folder / RESULT, result.to_json())


def half_time_shifts(result: SignatureResult) -> list[dict[str, Any]]:
    """How far each guided arm's half-information point lies from the plain reverse chain's, in t and in log-SNR (chain
    reading).

    Positive in t is nearer to noise: decided earlier in generation.
    """
    plain = {curve.partition: curve for curve in result.arms.get("reverse", []) if curve.estimator == "chain"}
    rows = []
    for name, curves_of_arm in result.arms.items():
        for curve in curves_of_arm:
            base = plain.get(curve.partition)
            if curve.quantity != "cross-entropy" or curve.estimator != "chain" or base is None:
                continue
            both = base.half, curve.half
            known = all(point.t is not None and point.log_snr is not None for point in both)
            rows.append(
                {
                    "arm": name,
                    "partition": curve.partition,
                    "t": both[1].t - both[0].t if known else None,  # type: ignore[operator]
                    "log_snr": both[1].log_snr - both[0].log_snr if known else None,  # type: ignore[operator]
                }
            )
    return rows


def refuse_coupled(config: SignatureConfig) -> None:
    """`UserError` for a model trained with noise paired to data by optimal transport.

    Noise that depends on the data breaks ``x_t = alpha x0 + sigma noise`` with independent noise, on which the kernel,
    and with it every identity here, rests.
    """
    coupled = config.coupling == "optimal_transport"
    for name in (config.model, config.adapter):
        for folder in (
            () if name is None else list(Path(name).parents)[:2]
        ):  # a run folder holds adapter/ and checkpoints/step-N/
            if (folder / "config.yaml").is_file():
                objective = read_yaml(folder / "config.yaml").get("objective")
                coupled = coupled or (isinstance(objective, dict) and objective.get("pairing") == "optimal_transport")
    if coupled:
        raise UserError(
            "this model was trained with noise paired to data by optimal transport; the noise is then not independent "
            "of the data, and neither estimator measures its entropy: use a model trained with independent noise."
        )


def _read_data(path: str, classes: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """(latents (N, ...) float64, labels (N,)) of a safetensors file.

    Raises
    ------
    UserError
        Missing tensors, another shape than the model's, labels that are no class, or a class with fewer than 2 samples.
    """
    tensors = read_tensors(path)
    if not {"latents", "labels"} <= tensors.keys():
        raise UserError(f"{path} must hold 'latents' and 'labels'; it holds {', '.join(sorted(tensors)) or 'nothing'}.")
    latents, labels = tensors["latents"].to(torch.float64), tensors["labels"].to(torch.int64).flatten()
    if tuple(latents.shape[1:]) != shape or len(labels) != len(latents):
        raise UserError(
            f"{path} holds latents {tuple(latents.shape)} with {len(labels)} labels; the model reads (N, "
            f"{', '.join(map(str, shape))})."
        )
    known = bool(((labels >= 0) & (labels < classes)).all())
    if not known or int(torch.bincount(labels, minlength=classes).min()) < 2:
        raise UserError(f"the labels of {path} must be 0 to {classes - 1}, each at least twice.")
    return latents, labels


def _load(
    config: SignatureConfig, classes: ClassSet, placement: Placement, notify: Callable[[str], object] | None
) -> tuple[Any, ClassModel]:
    from eisbach.backbones import load_backbone

    backbone: Any = load_backbone(config.model)
    if config.adapter is not None:
        from eisbach.adapters import load_adapter

        load_adapter(backbone, config.adapter)
    backbone.module.to(placement.device).eval()
    texts = [item.name if item.text is None else item.text for item in config.classes]
    if notify is not None:
        notify(f"{placement.sentence()}.")
        for item, text in zip(config.classes, texts, strict=True):
            unknown = backbone.unknown_words(text)
            if unknown:
                notify(
                    f"class '{item.name}': the model does not know {', '.join(unknown)}; these words change nothing."
                )
    conditioning = backbone.condition(texts, [config.duration] * len(texts))
    if bool((conditioning.tokens == conditioning.tokens[:1]).all()):
        raise UserError(
            f"the model {config.model} hears no difference between the {len(texts)} classes ('{texts[0]}' to "
            f"'{texts[-1]}'), so "
            "nothing could be decided among them; name a model that knows them, or write them in its own words."
        )
    shape = backbone.latent_shape
    if shape is None:
        shape = (backbone.latent_channels, max(1, round(config.duration * backbone.latent_rate)))
    return backbone, backbone_model(backbone, conditioning, tuple(shape), config.batch_rows, placement)


def _identity(backbone: Any, config: SignatureConfig) -> str:
    if config.adapter is None:
        return str(backbone.identity())
    return f"{backbone.identity()}+adapter-{weights_identity(config.adapter)[:16]}"


def _numbers(shape: tuple[int, ...]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _labels(arm: Arm, label: Tensor, data: tuple[Tensor, Tensor] | None) -> Tensor:
    return data[1] if arm.source == "forward" and data is not None else label


def _batches(count: int, size: int) -> Iterator[tuple[int, slice]]:
    for number, start in enumerate(range(0, count, size)):
        yield number, slice(start, min(count, start + size))


def _check_folder(folder: Path, meta: dict[str, Any]) -> None:
    """Refuses a folder of another measurement; arms may be added, and batching and the number of resamples may
    change."""
    request = {
        key: value for key, value in meta.items() if key not in ("batch_rows", "resamples", "sources", "guidance")
    }
    if isinstance(meta["data"], str):
        request["data_identity"] = weights_identity(meta["data"])
    # What the paths lead to is in model_identity and data_identity.
    free = ("model", "adapter", "data", "schedule_options.curve")
    claim(folder, "request.json", "a measurement", request, free=free)


def _piece(
    folder: Path | None,
    arm: Arm,
    number: int,
    rows: slice,
    label: Tensor,
    model: ClassModel,
    classes: ClassSet,
    times: Tensor,
    config: SignatureConfig,
    backbone: Any,
    data: tuple[Tensor, Tensor] | None,
    bar: Progress,
) -> Trajectories:
    """The trajectories `rows` of an arm: read from the folder where an earlier run left them, else followed and
    kept."""
    file = None if folder is None else folder / PIECES / f"{arm.name}-{number:04d}.safetensors"
    if file is not None and file.is_file():
        bar.advance(len(times) - 1, f"{arm.name}, kept")
        return load_piece(file)
    own = label[rows]
    indices = range(rows.start, rows.stop)
    clean = None
    if arm.source == "forward":
        clean = _generated(model, config, own, indices) if data is None else data[0][rows]
    guidance = None if arm.guidance is None else Guidance(arm.guidance.scale, arm.guidance.interval)
    trajectories = follow(
        model,
        classes,
        times,
        own,
        [trajectory_seed(config.seed, index) for index in indices],
        data=clean,
        guidance=guidance,
        eta=config.eta,
        on_level=lambda: bar.advance(1, arm.name),
    )
    if file is not None:
        save_piece(file, trajectories)
    return trajectories


def save_piece(file: Path, trajectories: Trajectories) -> None:
    """Writes trajectories as safetensors, atomically."""
    write_tensors(file, {name: value for name, value in vars(trajectories).items() if value is not None})


def load_piece(file: Path) -> Trajectories:
    """The trajectories of a piece."""
    tensors = read_tensors(file)
    values: dict[str, Any] = {name: tensors.get(name) for name in Trajectories.__dataclass_fields__}
    return Trajectories(**values)


def _levels(config: SignatureConfig, steps: int, path: DiffusionPath) -> Tensor:
    from eisbach.diffusion.schedules import get_schedule

    return get_schedule(config.schedule, steps, path, **(config.schedule_options or {}))


def _generated(model: ClassModel, config: SignatureConfig, label: Tensor, indices: range) -> Tensor:
    """Samples of each trajectory's class along the model's own ODE, without guidance; their own noise, not the
    chain's."""
    from eisbach.diffusion.samplers import sample_ode

    noise = torch.stack(
        [
            torch.randn(model.shape, generator=torch.Generator().manual_seed(trajectory_seed(config.seed, -1 - index)))
            for index in indices
        ]
    )

    def predict(x_t: Tensor, t: Tensor) -> Tensor:
        parts = torch.arange(len(x_t)).split(model.batch_rows)
        return torch.cat([model.by_class(x_t[part], t[part], label[part]) for part in parts])

    times = _levels(config, config.sample_steps, model.path)
    return sample_ode(predict, path=model.path, target=model.target, noise=noise, times=times)
