"""`eisbach signature`: at which noise level classes, words or groups of them are decided."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eisbach.cli.options import FullPrecision, OptionalDevice
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
_Overrides = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE for any key of the config.")]
_Out = Annotated[Path, typer.Option(help="Folder for results; the same command continues a stopped run.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar and no notes.")]


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
    overrides: _Overrides = None,
    device: OptionalDevice = None,
    precision: FullPrecision = None,
    out: _Out = Path("runs/signature"),
    as_json: _AsJson = False,
    dry_run: _DryRun = False,
    quiet: _Quiet = False,
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
    from eisbach.report.signature.page import write_signature_page

    def note(text: str) -> None:
        if not quiet:
            typer.echo(f"note: {text}", err=True)

    result = run_signature(config, out, quiet=quiet, notify=note)
    page = write_signature_page(result, out)
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2, ensure_ascii=False))
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
        shares = _numbers(prior)
        if len(shares) != len(values["classes"]):
            raise UserError(f"--prior has {len(shares)} numbers for {len(values['classes'])} classes; give one each.")
        for one, share in zip(values["classes"], shares, strict=True):
            one["prior"] = share
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


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UserError(f"'{text}' must be numbers separated by commas.") from error


def _table(result: SignatureResult) -> str:
    rows = [["arm", "Z", "reading", "quantity", "prior", "at the end", "half at t", "95%"]]
    for name, found in result.arms.items():
        for curve in found:
            half = curve.half
            rows.append(
                [
                    name,
                    curve.partition,
                    curve.estimator,
                    curve.quantity,
                    f"{curve.prior_entropy:.3f}",
                    f"{curve.entropy[-1]:.3f}",
                    "never" if half.t is None else f"{half.t:.3f}",
                    "–" if half.t_lo is None or half.t_hi is None else f"{half.t_lo:.3f} to {half.t_hi:.3f}",
                ]
            )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


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
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Exact curves of Gaussian mixtures over dimension, their predicted speciation, and how it scales."""
    from eisbach.diagnostics.signature.mixtures import MixtureStudy, run_study
    from eisbach.files import write_json

    study = MixtureStudy.build(
        dims=_whole(dims),
        components=components,
        weights=None if weights is None else _numbers(weights),
        separation=_numbers(separation),
        variance=_numbers(variance),
        path=path,
        levels=levels,
        samples=samples,
        seed=seed,
    )
    if dry_run:
        typer.echo(json.dumps(study.describe(), indent=2))
        return
    found = run_study(study, quiet=quiet)
    write_json(out / "mixture.json", found)
    from eisbach.report.signature.figures import mixture_picture

    mixture_picture(found, out / "mixture.png")
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for row in found["rows"]:
        if row["half_log_snr"] is None:
            typer.echo(f"d = {row['dim']}: half of the classes' entropy stays open at every noise level")
            continue
        typer.echo(
            f"d = {row['dim']}: half of the entropy at log-SNR {_shown(row['half_log_snr'])}, predicted instability at "
            f"{_shown(row['predicted_log_snr'])}"
        )
    slope = found["vp_time_over_half_ln_d"]
    if slope is not None:
        typer.echo(
            f"VP time over ln(d)/2: slope {slope['slope']:.4f} ({slope['slope_lo']:.4f} to {slope['slope_hi']:.4f})"
        )
    typer.echo(f"mixture.json and mixture.png are in {out}")


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
