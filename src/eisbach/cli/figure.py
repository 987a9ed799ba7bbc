"""`eisbach figure`: the figures of a paper from any audio, as PNG, PDF or SVG."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from eisbach.errors import UserError

ALL = "all"
_NAMES = ("mel", "ssm", "spectrum", "trajectory", "steps", "baseline", "blocks", "scape", "motifs")


_Kind = Annotated[
    str,
    typer.Argument(
        help=f"What to draw: {', '.join(_NAMES)}, or '{ALL}' for the whole set.", metavar="KIND", show_default=False
    ),
]
_Files = Annotated[
    list[Path],
    typer.Argument(
        help="Audio files, folders or manifests, in the order drawn; NAME=PATH names one.", show_default=False
    ),
]
_Out = Annotated[Path, typer.Option(help="The picture (.png, .pdf or .svg); for 'all' a folder.", show_default=False)]
_By = Annotated[str | None, typer.Option(help="Group clips by a manifest's label, by 'folder' or by 'argument'.")]
_Label = Annotated[
    list[str] | None, typer.Option(help="Title of a clip, in order; repeat. Names of files unless given.")
]
_Baseline = Annotated[
    str | None, typer.Option(help="For 'all': the group that the others are set beside; 'plain' or the first.")
]
_Most = Annotated[
    int | None, typer.Option(help="Draw an even sample of at most this many clips of a larger set.", min=1)
]
_AsPrinted = Annotated[
    bool,
    typer.Option("--as-printed", help="Matrices and trajectories by the paper's definitions (mel frames, cosine)."),
]
_Form = Annotated[str, typer.Option("--format", help="For 'all': png, pdf or svg.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print what was drawn as JSON.")]
_DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be drawn and stop.")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]


def figure(
    kind: _Kind,
    files: _Files,
    out: _Out,
    by: _By = None,
    label: _Label = None,
    baseline: _Baseline = None,
    most: _Most = None,
    as_printed: _AsPrinted = False,
    form: _Form = "png",
    as_json: _AsJson = False,
    dry_run: _DryRun = False,
    quiet: _Quiet = False,
) -> None:
    """Draw a figure of musical structure: mel-spectrograms, self-similarity, spectra, trajectories, scales, repeats.

    Examples: eisbach figure ssm takes/*.flac --out ssm.pdf
    or eisbach figure baseline plain.flac barrier.flac --out beside.png or eisbach figure all run/samples --out figures
    """
    if kind != ALL and kind not in _NAMES:
        raise UserError(f"there is no figure '{kind}'; choose one of {', '.join(_NAMES)}, or '{ALL}'.")
    from eisbach.experiments.sets import collect_clips
    from eisbach.report.structure.figure_set import Drawing, draw, one_figure, paper_set, write_captions

    clips = collect_clips(files, by)
    drawings: Sequence[Drawing]
    if kind == ALL:
        if label:
            raise UserError("--label names the clips of one figure; for 'all' the clips' own names are used.")
        drawings = paper_set(clips, out, form=form, baseline=baseline, most=most)
    else:
        drawings = [one_figure(kind, clips, out, labels=label, most=most)]
    if dry_run:
        typer.echo(json.dumps([one.plan() for one in drawings], indent=2, ensure_ascii=False))
        return
    done = draw(drawings, view="mel" if as_printed else "texture", quiet=quiet)
    if kind == ALL:
        write_captions([one for one in drawings if one.out in done.written], out)
    if as_json:
        typer.echo(json.dumps(_result(drawings, done), indent=2, ensure_ascii=False))
        return
    for one in drawings:
        if one.note and one.out in done.written:
            typer.echo(f"note: {one.out.name}: {one.note}")
    for item in done.skipped:
        typer.echo(f"skipped: {item.item}: {item.reason}", err=True)
    typer.echo("\n".join(str(path) for path in done.written))


def _result(drawings: Sequence[Any], done: Any) -> dict[str, Any]:
    return {
        "figures": [one.plan() for one in drawings if one.out in done.written],
        "skipped": [{"item": item.item, "reason": item.reason} for item in done.skipped],
    }
