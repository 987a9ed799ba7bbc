"""`eisbach recoverability digits`: loss weights compared on scikit-learn's digits, with trained models."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer


def digits(
    quick: Annotated[bool, typer.Option("--quick", help="A corner of the grid, in about a minute.")] = False,
    jobs: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Trainings at once, in processes of one thread each (1).")
    ] = None,
    seeds: Annotated[int | None, typer.Option(metavar="N", help="Training seeds of every cell (3).")] = None,
    first_seed: Annotated[
        int | None, typer.Option(metavar="N", help="The first of them (0); another one repeats the experiment.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. --set samples=640 (repeatable)."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Result folder; the same command continues it (runs/digits)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Train DiT, U-ViT and UNet on 8x8 digits with constant, Min-SNR, P2 and ERD weights, and compare what they draw.

    Quality is the Fréchet distance on the features of a small classifier trained here; differences are paired by seed. About 40
    minutes on two idle cores (--jobs 2); the folder holds records.parquet, summary.json and index.html.
    """
    from eisbach.config import apply_overrides, build_config, dump_yaml
    from eisbach.studies.erd_digits.spec import DigitsConfig

    preset = DigitsConfig().quick() if quick else DigitsConfig()
    chosen = {"seeds": seeds, "first_seed": first_seed}
    named = chosen | {"jobs": jobs, "out": None if out is None else str(out)}
    values = apply_overrides(preset.model_dump(), overrides or [])
    values |= {key: value for key, value in named.items() if value is not None}
    config = build_config(DigitsConfig, values, "the experiment")
    if dry_run:
        typer.echo(dump_yaml(config), nl=False)
        return
    from eisbach.files import read_jsonl
    from eisbach.studies.erd_digits.experiment import run_digits
    from eisbach.studies.erd_digits.page import sentences, write_digits_page

    summary = run_digits(config, quiet=quiet)
    parts = ["eisbach", "recoverability", "digits", *(["--quick"] if quick else [])]
    for key, value in chosen.items():
        parts += [] if value is None else [f"--{key.replace('_', '-')}", str(value)]
    for change in overrides or []:
        parts += ["--set", change]
    command = shlex.join([*parts, "--jobs", str(config.jobs), "--out", config.out])
    records = read_jsonl(Path(config.out) / "records.jsonl", "records")
    page = write_digits_page(config, records, summary, command=command)
    if as_json:
        typer.echo(json.dumps({**summary, "page": str(page)}, indent=2, ensure_ascii=False))
        return
    for text in sentences(summary):
        typer.echo(text)
    typer.echo(f"\n{page}")
