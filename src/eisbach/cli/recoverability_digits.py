"""`eisbach recoverability digits`: loss weights compared on scikit-learn's digits, with trained models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def digits(
    quick: Annotated[bool, typer.Option("--quick", help="A corner of the grid, in about a minute.")] = False,
    jobs: Annotated[
        int, typer.Option(metavar="N", min=1, help="Trainings at once, in processes of one thread each.")
    ] = 1,
    seeds: Annotated[int | None, typer.Option(metavar="N", help="Training seeds of every cell (3).")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key, e.g. --set samples=640 (repeatable)."),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Result folder; the same command continues it.")] = Path(
        "runs/digits"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Train DiT, U-ViT and UNet on 8x8 digits with constant, Min-SNR, P2 and ERD weights, and compare what they draw.

    Quality is the Fréchet distance on the features of a small classifier trained here; differences are paired by seed. About 40
    minutes on two idle cores (--jobs 2); the folder holds records.parquet, summary.json and index.html.
    """
    from eisbach.config import build_config, dump_yaml, load_config
    from eisbach.experiments.digits_spec import DigitsConfig

    given = load_config(DigitsConfig, None, [*(overrides or [])])
    if quick:
        given = given.quick()
    values = given.model_dump() | {"jobs": jobs, "out": str(out)} | ({} if seeds is None else {"seeds": seeds})
    config = build_config(DigitsConfig, values, "the experiment")
    if dry_run:
        typer.echo(dump_yaml(config), nl=False)
        return
    from eisbach.experiments.digits import run_digits
    from eisbach.files import read_jsonl
    from eisbach.report.digits_page import sentences, write_digits_page

    summary = run_digits(config, quiet=quiet)
    command = f"eisbach recoverability digits{' --quick' if quick else ''} --jobs {jobs} --out {out}"
    page = write_digits_page(config, read_jsonl(out / "records.jsonl", "records"), summary, command=command)
    if as_json:
        typer.echo(json.dumps({**summary, "page": str(page)}, indent=2, ensure_ascii=False))
        return
    for text in sentences(summary):
        typer.echo(text)
    typer.echo(f"\n{page}")
