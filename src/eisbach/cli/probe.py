"""`eisbach probe`: what a weighting would do on a model and its data, before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eisbach.cli.common import (
    AsJson,
    DryRun,
    OptionalDevice,
    OptionalPrecision,
    Overrides,
    Quiet,
    make_manifests,
    numbers,
    print_json,
    print_note,
    typed_line,
)
from eisbach.errors import UserError

if TYPE_CHECKING:
    from eisbach.diagnostics.probe.explain import Explanation
    from eisbach.diagnostics.probe.result import ProbeConfig, ProbeResult

_DEFAULT_FOLDER = "runs/probe"
_REQUEST = "request"

_Recipe = Annotated[
    Path | None,
    typer.Argument(metavar="RECIPE", help="YAML recipe of the training in question.", show_default=False),
]
_Model = Annotated[str | None, typer.Option(help="'embedded' or a saved model's folder, instead of the recipe's.")]
_Data = Annotated[
    list[str] | None,
    typer.Option(metavar="MANIFEST", help="Manifest or folder, instead of the recipe's (repeatable)."),
]
_Sample = Annotated[str | None, typer.Option(metavar="NAME", help="Sample weighting: recommended, entropy_barrier, …")]
_NoiseLevel = Annotated[
    str | None, typer.Option(metavar="NAME", help="Noise-level weighting, e.g. min_snr, soft_min_snr, erd.")
]
_Clips = Annotated[int | None, typer.Option(metavar="N", help="Clips measured at every noise level (64).")]
_Levels = Annotated[str | None, typer.Option(metavar="T,T,…", help="Noise levels t within (0, 1), e.g. 0.1,0.5,0.9.")]
_Draws = Annotated[int | None, typer.Option(metavar="N", help="Draws of noise a clip and level (1).")]
_Split = Annotated[str | None, typer.Option(help="Clips of which split: train, held_out or all.")]
_Adapter = Annotated[str | None, typer.Option(metavar="FOLDER", help="Probe the model with this trained adapter.")]
_Label = Annotated[
    str | None,
    typer.Option(metavar="KEY", help="Two-valued label to judge the weights by; kind or flat where there is one."),
]
_Out = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help=f"Result folder; {_DEFAULT_FOLDER}/<weighting> unless named."),
]
_Gradients = Annotated[bool, typer.Option("--gradients/--no-gradients", help="Compare weighted with plain gradients.")]
_Structure = Annotated[
    bool, typer.Option("--structure/--no-structure", help="Measure the structure of the clips' audio.")
]
_Fresh = Annotated[bool, typer.Option("--fresh", help="Measure anew, and replace the probe in the folder.")]


def probe(
    recipe: _Recipe = None,
    model: _Model = None,
    data: _Data = None,
    sample: _Sample = None,
    noise_level: _NoiseLevel = None,
    overrides: Overrides = None,
    clips: _Clips = None,
    levels: _Levels = None,
    draws: _Draws = None,
    split: _Split = None,
    adapter: _Adapter = None,
    label: _Label = None,
    out: _Out = None,
    device: OptionalDevice = None,
    precision: OptionalPrecision = None,
    as_json: AsJson = False,
    dry_run: DryRun = False,
    gradients: _Gradients = True,
    structure: _Structure = True,
    fresh: _Fresh = False,
    quiet: Quiet = False,
) -> None:
    """See what a weighting would do on your model and data, without training: where it acts, and what it prefers.

    Works without a recipe: eisbach probe --data FOLDER --sample recommended. Prints the verdict; the result folder
    holds probe.json, rows, pictures and index.html. The same command again reuses what was measured.
    """
    from eisbach.config import dump_yaml
    from eisbach.devices import place

    config = _configure(
        recipe,
        overrides or [],
        train={
            "model": model,
            "manifest": data or None,
            "sample": sample,
            "noise_level": noise_level,
            "device": device,
            "precision": precision,
        },
        probe={
            "clips": clips,
            "levels": None if levels is None else numbers(levels, "--levels"),
            "draws": draws,
            "split": split,
            "adapter": adapter,
            "gradient_batches": None if gradients else 0,
            "structure": None if structure else False,
            "out": None if out is None else str(out),
        },
    )
    folder = Path(config.out or _DEFAULT_FOLDER)
    if dry_run:
        place(config.train.device, config.train.precision)  # a device that is not there is refused here too
        typer.echo(dump_yaml(config), nl=False)
        return
    from eisbach.diagnostics.probe.explain import explain
    from eisbach.diagnostics.probe.verdict import verdict
    from eisbach.progress import Progress
    from eisbach.report.probe import write_probe_page

    make_manifests(config.train.data.manifest, quiet)
    result, reused = _measure(config, folder, fresh=fresh, quiet=quiet)
    with Progress(2, "explain", quiet=quiet) as bar:
        explanation = explain(result, label=label)
        judged = verdict(explanation)
        bar.advance()
        page = write_probe_page(result, explanation, judged, folder, command=typed_line("probe"))
        bar.advance()
    said = {"explanation": explanation.to_json(), "verdict": judged.to_json()}
    result.save(folder, {_REQUEST: _request(config), **said})
    if as_json:
        print_json({**said, "setup": result.setup, "folder": str(folder), "page": str(page), "reused": reused})
        return
    for line in (judged.headline, "", *(f"- {text}" for text in judged.sentences), "", _table(explanation), ""):
        typer.echo(line)
    typer.echo(f"A setting to try: {judged.recommendation.reason}\n\n{judged.recommendation.yaml}\npage: {page}")


def _configure(
    recipe: Path | None, overrides: Sequence[str], train: dict[str, Any], probe: dict[str, Any]
) -> ProbeConfig:
    from eisbach.config import apply_overrides, build_config, read_recipe
    from eisbach.diagnostics.probe.result import ProbeConfig
    from eisbach.training.config import TrainConfig

    values = apply_overrides(read_recipe(recipe) if recipe is not None else {}, overrides)

    def put(group: str, key: str, value: object) -> None:
        if value is not None:
            held = values.get(group)
            values[group] = {**(held if isinstance(held, dict) else {}), key: value}

    values |= {key: train[key] for key in ("model", "device", "precision") if train[key] is not None}
    put("data", "manifest", train["manifest"])
    put("weighting", "sample", train["sample"])
    put("weighting", "noise_level", train["noise_level"])
    if isinstance(values.get("data"), dict) and values["data"].get("images"):
        raise UserError(
            "a probe looks at clips of audio and this recipe trains on images; give a recipe with data.manifest."
        )
    if not isinstance(values.get("data"), dict) or not values["data"].get("manifest"):
        raise UserError("the probe has no data; add --data FOLDER, or name a recipe.")
    source = str(recipe) if recipe is not None else "the configuration"
    config = build_config(TrainConfig, values, source)  # alone first, so that faults name the recipe's own keys
    given = {key: value for key, value in probe.items() if value is not None}
    given.setdefault("out", f"{_DEFAULT_FOLDER}/{_name(config.weighting)}")
    return build_config(ProbeConfig, {"train": config.model_dump(mode="json"), **given}, "the probe")


def _name(weighting: Any) -> str:
    parts = [name for name in (weighting.sample, weighting.noise_level) if name != "none"]
    if weighting.reduction == "batch" and weighting.sample != "none":
        parts.append("batch")
    return "-".join(parts) or "none"


def _measure(config: ProbeConfig, folder: Path, *, fresh: bool, quiet: bool) -> tuple[ProbeResult, bool]:
    """The result, measured or found in the folder, and whether it was found."""
    from eisbach.diagnostics.probe.result import RESULT, load_result
    from eisbach.files import read_json
    from eisbach.output_folder import refuse_other_settings

    request = _request(config)
    if (folder / RESULT).is_file() and not fresh:
        held = read_json(folder / RESULT, "probe result")
        before = held.get(_REQUEST) if isinstance(held, dict) else None
        if not isinstance(before, dict) or "train" not in before:
            before, request = {"probe": "of an earlier version"}, {"probe": "of this one"}
        way_out = "add --fresh to replace it, or choose another --out"
        refuse_other_settings(folder, "a probe", before, request, way_out=way_out)
        if not quiet:
            print_note(f"reusing the measurements in {folder} (--fresh measures anew)")
        return load_result(folder), True
    from eisbach.devices import place
    from eisbach.diagnostics.probe import run_probe

    if not quiet:
        print_note(f"{place(config.train.device, config.train.precision).sentence()}.")
    result = run_probe(config.model_copy(update={"out": None}), quiet=quiet)
    result.save(
        folder, {_REQUEST: request}
    )  # before anything is judged: a mistyped label must not cost the measurements
    return result, False


def _request(config: ProbeConfig) -> dict[str, Any]:
    """What a measurement depends on: the configuration without its paths, and hashes of what they lead to."""
    from eisbach import __version__
    from eisbach.output_folder import weights_identity

    def weights(name: object) -> object:
        return weights_identity(name) if isinstance(name, str) and Path(name).exists() else name

    left_out: Any = {"out": True, "adapter": True, "train": {"out", "data", "model", "device"}}
    values = config.model_dump(mode="json", exclude=left_out)
    data = config.train.data.model_dump(mode="json", exclude={"manifest", "cache"})
    values["train"] |= {
        "data": {**data, "content": [_content(Path(path)) for path in config.train.data.manifest]},
        "model": weights(config.train.model),
    }
    return {**values, "adapter": weights(config.adapter), "version": __version__}


def _content(data: Path) -> str:
    """A hash of a manifest, or of the names and sizes in a folder of latents."""
    import hashlib

    from eisbach.data.manifest import MANIFEST_NAME

    manifest = data / MANIFEST_NAME if data.is_dir() else data
    if manifest.is_file():
        return hashlib.sha256(manifest.read_bytes()).hexdigest()[:12]
    files = sorted(file for file in data.rglob("*") if file.is_file()) if data.is_dir() else []
    listed = [[file.relative_to(data).as_posix(), file.stat().st_size] for file in files]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()[:12]


def _table(explanation: Explanation) -> str:
    """Noise levels in rows, in plain text."""
    from eisbach.diagnostics.probe.grid import percent
    from eisbach.report.page import plain_table

    def text(value: float | None) -> str:
        return "–" if value is None else f"{value:.3g}"

    rows = []
    for level in explanation.levels:
        belief, weight, loss = (text(level.columns[name].mean.value) for name in ("belief", "sample_weight", "loss"))
        spreads = percent(level.cv_sample_weight.value), percent(level.cv.value)
        rows.append([f"{level.t:g}", belief, weight, *spreads, loss])
    return plain_table(["t", "belief", "sample weight", "differs between clips", "as trained", "loss"], rows)
