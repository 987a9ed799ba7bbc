"""`eisbach signature`: at which noise level classes, words or groups of them are decided."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eisbach.cli.common import (
    AsJson,
    DryRun,
    FullPrecision,
    OptionalDevice,
    Overrides,
    Quiet,
    numbers,
    print_json,
    print_note,
)
from eisbach.errors import UserError

if TYPE_CHECKING:
    from eisbach.diagnostics.signature.config import SignatureConfig
    from eisbach.diagnostics.signature.run import SignatureResult

app = typer.Typer(
    help="At which noise level is a class, a word or a group of them decided? Class-conditional entropy along the "
    "noise.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


_Model = Annotated[str | None, typer.Option(help="'embedded', a model folder or a name of the hub.")]
_Prompts = Annotated[Path | None, typer.Option(help="YAML with classes (name, text, prior, labels) and partitions.")]
_Classes = Annotated[str | None, typer.Option(help="Classes of an image model, by comma, or A..B for whole numbers.")]
_Prior = Annotated[str | None, typer.Option(help="p(z) of each class, by comma; must sum to 1.")]
_Partition = Annotated[
    list[str] | None, typer.Option(help="NAME=GROUP:class,class/GROUP:class,class; repeat for more.")
]
_Source = Annotated[
    list[str] | None,
    typer.Option(help="reverse (chains of the model) or forward (noised samples); repeat for both."),
]
_Data = Annotated[Path | None, typer.Option(help="Safetensors with latents and labels, for the source forward.")]
_Guidance = Annotated[
    list[str] | None, typer.Option(help="SCALE or SCALE:LOW:HIGH (noise levels): further, guided chains; repeat.")
]
_Steps = Annotated[int | None, typer.Option(help="Steps of the chain.")]
_Trajectories = Annotated[int | None, typer.Option(help="Trajectories for each class.")]
_Duration = Annotated[float | None, typer.Option(help="Seconds of music.")]
_Adapter = Annotated[str | None, typer.Option(help="Adapter to measure the model with.")]
_Seed = Annotated[int | None, typer.Option(help="Of the trajectories' noise.")]
_Out = Annotated[Path, typer.Option(help="Folder for results; the same command continues a stopped run.")]


@app.command("run")
def run(
    model: _Model = None,
    prompts: _Prompts = None,
    classes: _Classes = None,
    prior: _Prior = None,
    partition: _Partition = None,
    source: _Source = None,
    data: _Data = None,
    guidance: _Guidance = None,
    steps: _Steps = None,
    trajectories: _Trajectories = None,
    duration: _Duration = None,
    adapter: _Adapter = None,
    seed: _Seed = None,
    overrides: Overrides = None,
    device: OptionalDevice = None,
    precision: FullPrecision = None,
    out: _Out = Path("runs/signature"),
    as_json: AsJson = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Measure a class- or caption-conditional model.

    Examples: --prompts recipes/signature/music.yaml --source reverse --source forward --guidance 3
    or --model FOLDER --classes 0..9 --partition "shape=round:0,6,8,9/open:1,2,3,4,5,7"
    """
    from eisbach.config import dump_yaml
    from eisbach.devices import place

    given = {
        "model": model,
        "adapter": adapter,
        "sources": source or None,
        "data": None if data is None else str(data),
        "steps": steps,
        "trajectories": trajectories,
        "duration": duration,
        "seed": seed,
        "device": device,
        "precision": precision,
    }
    config = _configure(prompts, classes, prior, partition or [], guidance or [], given, overrides or [])
    config.class_set()
    if dry_run:
        place(config.device, config.precision)
        typer.echo(dump_yaml(config), nl=False)
        return
    from eisbach.diagnostics.signature.run import run_signature
    from eisbach.report.signature import write_signature_page

    result = run_signature(config, out, quiet=quiet, notify=(lambda text: None) if quiet else print_note)
    page = write_signature_page(result, out)
    if as_json:
        print_json(result.to_json())
        return
    typer.echo(_table(result))
    typer.echo(f"page: {page}")


def _configure(
    prompts: Path | None,
    classes: str | None,
    prior: str | None,
    partition: Sequence[str],
    guidance: Sequence[str],
    given: dict[str, Any],
    overrides: Sequence[str],
) -> SignatureConfig:
    from eisbach.config import apply_overrides, build_config
    from eisbach.diagnostics.signature.config import SignatureConfig, parse_guidance, parse_partition, read_prompts

    if (prompts is None) == (classes is None):
        raise UserError("say what Z is: --prompts FILE or --classes A,B,C, and not both.")
    values: dict[str, Any]
    if prompts is not None:
        values = read_prompts(prompts).model_dump(mode="json")
    else:
        values = {"classes": [{"name": name} for name in _names(classes or "")], "partitions": {}}
    if prior is not None:
        shares = numbers(prior, "--prior")
        if len(shares) != len(values["classes"]):
            raise UserError(f"--prior has {len(shares)} numbers for {len(values['classes'])} classes; give one each.")
        for entry, share in zip(values["classes"], shares, strict=True):
            entry["prior"] = share
    for text in partition:
        name, groups = parse_partition(text)
        if name in values["partitions"]:
            raise UserError(f"the partition '{name}' is given twice; rename one.")
        values["partitions"][name] = groups
    values |= {key: value for key, value in given.items() if value is not None}
    if guidance:
        values["guidance"] = [parse_guidance(text) for text in guidance]
    return build_config(SignatureConfig, apply_overrides(values, overrides), "the signature")


def _names(text: str) -> list[str]:
    first, dots, last = text.partition("..")
    if dots:
        if not (first.strip().isdigit() and last.strip().isdigit()):
            raise UserError(f"the classes '{text}' must be whole numbers A..B, or names by comma.")
        if int(last) < int(first):
            raise UserError(f"the classes '{text}' hold none; write the lower number first.")
        return [str(number) for number in range(int(first), int(last) + 1)]
    return [name.strip() for name in text.split(",") if name.strip()]


def _whole(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UserError(f"the dimensions '{text}' must be whole numbers separated by commas.") from error


def _table(result: SignatureResult) -> str:
    from eisbach.report.page import plain_table
    from eisbach.report.signature import half_cells

    rows = [
        [name, curve.partition, curve.estimator, curve.quantity, *half_cells(curve)]
        for name, curves in result.arms.items()
        for curve in curves
    ]
    return plain_table(["arm", "Z", "reading", "quantity", "prior", "at the end", "half at t", "95%"], rows)


@app.command("mixture")
def mixture(
    dims: Annotated[str, typer.Option(help="Dimensions, by comma.")] = "4,16,64,256,1024,4096",
    components: Annotated[int, typer.Option(help="Gaussians; 2 has the closed form.", min=2)] = 2,
    weights: Annotated[str | None, typer.Option(help="Priors, by comma; equal without.")] = None,
    separation: Annotated[
        str, typer.Option(help="Distance of each mean from the centre, per sqrt(dimension); one number or one each.")
    ] = "1",
    variance: Annotated[str, typer.Option(help="Variance within a component; one number or one each.")] = "1",
    path: Annotated[str, typer.Option(help="Noising path: linear, vp, gvp, cosine or edm.")] = "vp",
    levels: Annotated[int, typer.Option(help="Noise levels of a curve.", min=8)] = 48,
    samples: Annotated[int, typer.Option(help="Monte Carlo draws at each level.", min=16)] = 2000,
    seed: Annotated[int, typer.Option(help="Of means and draws.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for mixture.json and mixture.png.")] = Path(
        "runs/signature-mixture"
    ),
    as_json: AsJson = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Exact curves of Gaussian mixtures over dimension, their predicted speciation, and how it scales."""
    from eisbach.diagnostics.signature.mixtures import MixtureStudy, run_study
    from eisbach.files import write_json

    study = MixtureStudy.build(
        dims=_whole(dims),
        components=components,
        weights=None if weights is None else numbers(weights, "--weights"),
        separation=numbers(separation, "--separation"),
        variance=numbers(variance, "--variance"),
        path=path,
        levels=levels,
        samples=samples,
        seed=seed,
    )
    if dry_run:
        print_json(study.describe())
        return
    result = run_study(study, quiet=quiet)
    write_json(out / "mixture.json", result)
    from eisbach.report.signature import mixture_picture

    mixture_picture(result, out / "mixture.png")
    if as_json:
        print_json(result)
        return
    for row in result["rows"]:
        if row["half_log_snr"] is None:
            typer.echo(f"d = {row['dim']}: half of the classes' entropy stays open at every noise level")
            continue
        typer.echo(
            f"d = {row['dim']}: half of the entropy at log-SNR {_shown(row['half_log_snr'])}, predicted instability at "
            f"{_shown(row['predicted_log_snr'])}"
        )
    slope = result["vp_time_over_half_ln_d"]
    if slope is not None:
        typer.echo(
            f"VP time over ln(d)/2: slope {slope['slope']:.4f} ({slope['slope_lo']:.4f} to {slope['slope_hi']:.4f})"
        )
    typer.echo(f"mixture.json and mixture.png are in {out}")


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"


# --- curves for sampling schedules, and the signature of a statistic


@app.command()
def entropy(
    data: Annotated[
        str, typer.Option(metavar="FOLDER|digits", help="Manifest of clips, folder of images, or 'digits'.")
    ],
    model: Annotated[str, typer.Option(help="'embedded' or a model folder.")] = "embedded",
    adapter: Annotated[str | None, typer.Option(help="Adapter to measure the model with.")] = None,
    samples: Annotated[int, typer.Option(help="Clips or images, each met at every level.")] = 64,
    levels: Annotated[int, typer.Option(help="Noise levels, evenly spaced in log-SNR.")] = 24,
    unconditional: Annotated[
        bool, typer.Option("--unconditional", help="Without the captions or classes of the data.")
    ] = False,
    crop_seconds: Annotated[float, typer.Option(help="Length of the clips.")] = 30.0,
    seed: Annotated[int, typer.Option(help="Of the order of the data and of the noise.")] = 0,
    device: OptionalDevice = None,
    precision: FullPrecision = None,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The curve, as JSON.")] = Path("runs/entropic-curve.json"),
    as_json: AsJson = False,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Measure where a model's knowledge of the data arrives: E|x0 - D|^2 over the noise level.

    `eisbach generate --schedule rescaled_entropic --schedule-option curve=FILE` spaces its steps by it.
    """
    from eisbach.config import apply_overrides, build_config, dump_yaml
    from eisbach.devices import place
    from eisbach.diagnostics.signature.entropic import EntropicConfig

    values: dict[str, Any] = {
        "model": model,
        "adapter": adapter,
        "data": _data(data, crop_seconds),
        "samples": samples,
        "levels": levels,
        "conditional": not unconditional,
        "seed": seed,
    }
    values |= {key: value for key, value in (("device", device), ("precision", precision)) if value is not None}
    config = build_config(EntropicConfig, apply_overrides(values, overrides or []), "the measurement")
    if dry_run:
        place(config.device, config.precision)
        typer.echo(dump_yaml(config), nl=False)
        return
    from eisbach.diagnostics.signature.entropic import measure_entropic

    curve = measure_entropic(config, out, quiet=quiet, notify=None if quiet else print_note)
    if as_json:
        print_json(curve)
        return
    for t, mse in zip(curve["t"], curve["mse"], strict=True):
        typer.echo(f"t {t:.4f}  E|x0 - D|^2 / {curve['dims']} = {mse / curve['dims']:.4g}")
    typer.echo(f"curve: {out}")


def _data(data: str, crop_seconds: float) -> dict[str, Any]:
    if data == "digits":
        return {"images": {"source": "digits", "held_out_share": 0.25}}
    place = Path(data)
    if not place.exists():
        raise UserError(f"the data {data} does not exist; give a manifest, a folder of images, or 'digits'.")
    if place.is_file() or (place / "manifest.jsonl").is_file():
        return {"manifest": [data], "crop_seconds": crop_seconds}
    return {"images": {"folder": data}}


@app.command()
def structure(
    rows: Annotated[Path, typer.Argument(metavar="ROWS", help="rows.jsonl of `eisbach probe` on labelled clips.")],
    label: Annotated[str, typer.Option(help="The label that is Z.")] = "flat",
    statistic: Annotated[str, typer.Option(help="What tells of it: a column of the rows.")] = "belief",
    path: Annotated[str, typer.Option(help="The model's noising path.")] = "linear",
    seed: Annotated[int, typer.Option(help="Of the folds and the intervals.")] = 0,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The signature, as JSON.")] = Path(
        "runs/structure-signature.json"
    ),
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """At which noise level does a probe's belief tell a label, such as flat? An upper bound of H[Z | X_t]."""
    if dry_run:
        settings = {"rows": str(rows), "label": label, "statistic": statistic, "path": path, "seed": seed}
        print_json(settings)
        return
    from eisbach.diagnostics.signature.statistic import statistic_signature
    from eisbach.files import read_jsonl

    curve = statistic_signature(
        read_jsonl(rows, "rows of a probe"),
        label=label,
        statistic=statistic,
        path=path,
        seed=seed,
        meta={"rows": str(rows)},
    )
    curve.save(out)
    if as_json:
        print_json(curve.to_json())
        return
    for t, value, low, high in zip(curve.t, curve.entropy, curve.entropy_lo, curve.entropy_hi, strict=True):
        typer.echo(f"t {t:.3f}  at most {value:.3f} nats ({low:.3f} to {high:.3f}) of {curve.prior_entropy:.3f}")
    typer.echo(f"signature: {out}")
