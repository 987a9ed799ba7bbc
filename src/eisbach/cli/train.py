"""`eisbach train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from eisbach.cli.common import (
    DryRun,
    OptionalDevice,
    OptionalPrecision,
    Overrides,
    Quiet,
    is_folder_of_audio,
    make_manifests,
    print_note,
)

if TYPE_CHECKING:
    from eisbach.training.config import TrainConfig


def _look_at_data(config: TrainConfig, quiet: bool) -> None:
    """Says which clips would train, as training does; data that is not there is said to be unchecked, because a recipe
    may be looked at where its data is not.

    Raises
    ------
    UserError
        The data is there and training would refuse it.
    """
    from eisbach.data.manifest import MANIFEST_NAME

    unchecked = "the images were not checked" if config.data.images is not None else None
    for place in config.data.manifest:
        if not Path(place).exists():
            unchecked = f"the data was not checked: {place} does not exist"
        elif is_folder_of_audio(place):
            unchecked = f"the clips were not checked: {place} has no {MANIFEST_NAME} yet, which training makes first"
    if unchecked is None:
        from eisbach.training.assembly import open_material

        open_material(config, quiet)
    elif not quiet:
        print_note(f"{unchecked}.")


def train(
    recipe: Path = typer.Argument(..., metavar="RECIPE", help="YAML recipe; copy one from recipes/."),
    overrides: Overrides = None,
    data: list[str] = typer.Option(
        [], "--data", metavar="MANIFEST", help="Train on this manifest or folder instead of the recipe's (repeatable)."
    ),
    out: str = typer.Option("", "--out", metavar="FOLDER", help="Run folder instead of the recipe's."),
    device: OptionalDevice = None,
    precision: OptionalPrecision = None,
    dry_run: DryRun = False,
    quiet: Quiet = False,
) -> None:
    """Train an adapter (or a whole model) by a recipe; the same command continues a stopped run.

    Prints the run folder on standard output. Ctrl-C (or a closed terminal) saves a checkpoint first. With several GPUs:
    accelerate launch -m eisbach train RECIPE.
    """
    from eisbach.config import apply_overrides, build_config, dump_yaml, read_recipe
    from eisbach.training.config import TrainConfig

    values = apply_overrides(read_recipe(recipe), overrides or [])
    if data:
        group = values.get("data")
        values["data"] = {**(group if isinstance(group, dict) else {}), "manifest": data}
    if out:
        values["out"] = out
    values |= {key: value for key, value in (("device", device), ("precision", precision)) if value is not None}
    config = build_config(TrainConfig, values, str(recipe))
    if dry_run:
        from eisbach.backbones import check_created, check_model
        from eisbach.devices import place
        from eisbach.output_folder import check_writable
        from eisbach.training.run_folder import RunFolder, check_settings

        place(config.device, config.precision)
        if isinstance(config.model, dict):
            check_created(config.model["create"])
        else:
            check_model(config.model)
        if config.demos is not None:
            config.demos.resolve_prompts()
        check_writable(config.out)
        check_settings(RunFolder(Path(config.out)), config)
        _look_at_data(config, quiet)
        typer.echo(dump_yaml(config), nl=False)
        return
    make_manifests(config.data.manifest, quiet)
    from eisbach.training.loop import train as run

    folder = run(config, quiet=quiet)
    if (folder / "adapter").is_dir() and os.environ.get("RANK", "0") == "0":
        from eisbach.report.passport import after_training

        after_training(folder, config.device, lambda sentence: None if quiet else print_note(sentence))
    typer.echo(str(folder))
