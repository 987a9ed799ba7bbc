"""`eisbach signature entropy`, `structure` and `gate`: curves for sampling schedules, and gates of sample
weightings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from eisbach.cli.common import FullPrecision, OptionalDevice, print_note
from eisbach.errors import UserError


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
    overrides: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE for any key of the config.")] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The curve, as JSON.")] = Path("runs/entropic-curve.json"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the curve.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
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

    found = measure_entropic(config, out, quiet=quiet, notify=None if quiet else print_note)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for t, mse in zip(found["t"], found["mse"], strict=True):
        typer.echo(f"t {t:.4f}  E|x0 - D|^2 / {found['dims']} = {mse / found['dims']:.4g}")
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


def structure(
    rows: Annotated[Path, typer.Argument(metavar="ROWS", help="rows.jsonl of `eisbach probe` on labelled clips.")],
    label: Annotated[str, typer.Option(help="The label that is Z.")] = "flat",
    statistic: Annotated[str, typer.Option(help="What tells of it: a column of the rows.")] = "belief",
    path: Annotated[str, typer.Option(help="The model's noising path.")] = "linear",
    seed: Annotated[int, typer.Option(help="Of the folds and the intervals.")] = 0,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The signature, as JSON.")] = Path(
        "runs/structure-signature.json"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the signature.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the settings and stop.")] = False,
) -> None:
    """At which noise level does a probe's belief tell a label, such as flat? An upper bound of H[Z | X_t]."""
    if dry_run:
        settings = {"rows": str(rows), "label": label, "statistic": statistic, "path": path, "seed": seed}
        typer.echo(json.dumps(settings, indent=2))
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
        typer.echo(json.dumps(curve.to_json(), indent=2))
        return
    for t, value, low, high in zip(curve.t, curve.entropy, curve.entropy_lo, curve.entropy_hi, strict=True):
        typer.echo(f"t {t:.3f}  at most {value:.3f} nats ({low:.3f} to {high:.3f}) of {curve.prior_entropy:.3f}")
    typer.echo(f"signature: {out}")


def gate(
    curve: Annotated[Path, typer.Argument(metavar="CURVE", help="A signature's file.")],
    share: Annotated[
        tuple[float, float], typer.Option(metavar="LOW HIGH", help="Off below LOW decided, fully on from HIGH.")
    ] = (0.5, 0.8),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of YAML.")] = False,
) -> None:
    """Print the gate of a sample weighting that acts where the signature says Z is decided, for `weighting.options`."""
    from eisbach.diagnostics.signature.curve import gate_from_curve, load_curve

    found = gate_from_curve(load_curve(curve), share)
    if as_json:
        typer.echo(json.dumps(found))
        return
    for key, value in found.items():
        typer.echo(f"{key}: {value:g}")
