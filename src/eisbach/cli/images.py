"""`eisbach images`: draw images from an image model, and measure a set of images against a reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eisbach.cli.common import AsJson, Device, DryRun, Precision, Quiet, print_json, print_note

if TYPE_CHECKING:
    from eisbach.image_quality.features import FeatureNetwork
    from eisbach.image_quality.quality import ImageStatistics

app = typer.Typer(help="Images: draw them from a model, and measure their quality.", no_args_is_help=True)


@app.command("sample")
def sample(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Folder of a saved image model.", show_default=False)],
    count: Annotated[int, typer.Option(metavar="N", min=1, help="Images to draw, the classes in turn.")] = 64,
    classes: Annotated[
        list[str] | None, typer.Option("--class", metavar="NAME", help="Only this class (repeatable); '' is no class.")
    ] = None,
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Sampling steps.")] = 50,
    schedule: Annotated[str, typer.Option(help="uniform, karras, log_snr or rescaled_entropic.")] = "karras",
    schedule_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Option of the schedule, as curve=FILE of rescaled_entropic; repeat."),
    ] = None,
    method: Annotated[str, typer.Option(help="euler (DDIM), heun or edm_heun.")] = "edm_heun",
    guidance: Annotated[float, typer.Option(metavar="W", help="Guidance scale; 1 is none.")] = 1.0,
    interval: Annotated[
        tuple[float, float] | None, typer.Option(metavar="LOW HIGH", help="Guide only at noise levels t within it.")
    ] = None,
    clip: Annotated[
        bool, typer.Option("--clip", help="Keep data estimates within [-1, 1] (models of pixels).")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the noise; image n depends on the seed and n alone.")] = 0,
    batch_size: Annotated[int, typer.Option(metavar="N", min=1, help="Images at once.")] = 64,
    device: Device = "auto",
    precision: Precision = "auto",
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="PNG files go here, in a folder for each class.")] = Path(
        "runs/images"
    ),
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Draw images from a trained model: PNG files by class, and samples.json with how they were drawn."""
    from eisbach.config import apply_overrides, build_config, dump_yaml
    from eisbach.devices import place
    from eisbach.generation.images import ImageSampling

    values = {
        "num_inference_steps": steps,
        "schedule": schedule,
        "schedule_options": apply_overrides({}, schedule_option) if schedule_option else None,
        "method": method,
        "guidance_scale": guidance,
        "guidance_interval": interval,
        "clip": clip,
        "batch_size": batch_size,
    }
    sampling = build_config(ImageSampling, values, "the command", OPTIONS)
    if dry_run:
        from eisbach.backbones import check_model
        from eisbach.output_folder import check_writable

        place(device, precision)
        check_model(model)
        check_writable(out)
        typer.echo(f"{dump_yaml(sampling)}device: {device}\nprecision: {precision}")
        return
    from eisbach.generation.images import write_images

    written = write_images(
        model, sampling, out, count=count, classes=classes, seed=seed, device=device, precision=precision, quiet=quiet,
        notify=print_note,
    )  # fmt: skip
    typer.echo(f"{written} images in {out}")


OPTIONS = {
    "num_inference_steps": "--steps",
    "guidance_scale": "--guidance",
    "guidance_interval": "--interval",
    "schedule_options": "--schedule-option",
    **{key: f"--{key.replace('_', '-')}" for key in ("schedule", "method", "clip", "batch_size")},
}


@app.command("quality")
def quality(
    reference: Annotated[
        str, typer.Option(metavar="FILE|FOLDER", help="ADM's .npz, saved statistics, or a folder of images.")
    ],
    samples: Annotated[str, typer.Option(metavar="FILE|FOLDER", help="Folder of images, or an .npz of them.")],
    features: Annotated[str, typer.Option(help="inception, or digits.")] = "inception",
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="The feature network's weights: Inception's file, or a classifier's folder; nothing is downloaded.",
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Resize and crop images to this; without it sizes must agree.")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the reference's statistics as an .npz for the next time.")
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """FID, sFID, inception score, precision and recall of images against a reference."""
    from eisbach.devices import place

    placement = place(device, "fp32")  # distances between features compare sets that others measured in fp32
    if dry_run:
        request = {"reference": reference, "samples": samples, "features": features, "weights": weights, "size": size}
        request["device"] = device
        typer.echo(json.dumps(request, indent=2, default=str))
        return
    from dataclasses import asdict

    from eisbach.image_quality.features import load_features
    from eisbach.image_quality.quality import image_quality

    print_note(f"{placement.sentence()}.")
    network = load_features(features, weights, placement.device)
    real = _statistics(reference, network, size)
    if save is not None:
        real.save(save)
    result = image_quality(real, _statistics(samples, network, size))
    if as_json:
        print_json(asdict(result))
        return
    _print(asdict(result))


def _statistics(source: str, network: FeatureNetwork, size: int | None) -> ImageStatistics:
    from eisbach.image_quality.quality import read_statistics, statistics_of_folder

    if source.endswith(".npz"):
        return read_statistics(source, network)
    statistics, skipped = statistics_of_folder(source, network, size)
    for item in skipped:
        typer.echo(f"left out: {item.item} {item.reason}", err=True)
    return statistics


def _print(result: dict[str, Any]) -> None:
    names = {"fid": "FID", "sfid": "sFID", "inception_score": "IS", "precision": "precision", "recall": "recall"}
    for key, name in names.items():
        typer.echo(f"{name:10} {'–' if result[key] is None else format(result[key], '.4g')}")
    typer.echo(
        f"{'images':10} {result['samples']} against {result['reference'] or 'an unstated number'}, {result['network']}"
    )
    for note in result["notes"]:
        typer.echo(f"note: {note}.")
