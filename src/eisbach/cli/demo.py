"""`eisbach demo`: the whole story on the embedded model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from eisbach.cli.common import OptionalDevice, OptionalPrecision, placement_changes


def demo(
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. --set training.steps=200 (repeatable)."),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Your own folder of audio instead of made material.")] = None,
    caption_from: Annotated[
        str | None,
        typer.Option(help="With --data: files, table, tags, name, none or text:WORDS; files, else a table, else none."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(help="Folder for everything; eisbach-demo, or with --data eisbach-demo-NAME.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A rehearsal in a minute or two; its numbers mean nothing.")
    ] = False,
    device: OptionalDevice = None,
    precision: OptionalPrecision = None,
    seed: Annotated[int | None, typer.Option(help="Another draw of material, training and noise.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved recipe and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Fine-tune a music model in several ways, play the same prompts with each, and open a page that compares them.

    Takes about ten minutes on two cores. Stopped at any moment, the same command continues.
    """
    from eisbach.cli.experiment import execute
    from eisbach.experiments.recipes import demo_spec, own_audio_experiment

    choices: dict[str, Any] = {"out": out, "seed": seed, "quick": quick, "overrides": overrides or []}
    choices["overrides"] = [*choices["overrides"], *placement_changes(device, precision)]
    if data is None:
        execute(demo_spec(**choices), dry_run=dry_run, as_json=as_json, quiet=quiet)
        return
    own = own_audio_experiment(
        data,
        **choices,
        caption_from=caption_from,
        quiet=quiet,
        notify=lambda line: typer.echo(f"note: {line}", err=True),
    )
    execute(own.spec, prepare=own.save_manifest, dry_run=dry_run, as_json=as_json, quiet=quiet)
