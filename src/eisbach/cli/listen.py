"""`eisbach listen`: a blind listening test of sets as one page, and what its votes say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


class _MakeByDefault(TyperGroup):
    """`listen A/ B/` is `listen make A/ B/`: the first word is a command only where it names one."""

    default_command = "make"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As click does, after the command that was left out is put in."""
        helping = args and args[0] in ("-h", "--help")
        if args and not helping and args[0] not in self.commands:
            args = [self.default_command, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="listen",
    cls=_MakeByDefault,
    help="A blind listening test: `eisbach listen A/ B/ --out test` makes it (its options: eisbach listen make "
    "--help), `eisbach listen score votes/*.json --test test` counts the votes.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]


@app.command()
def make(
    paths: Annotated[
        list[Path],
        typer.Argument(help="Sets: folders or manifests; NAME=PATH names one.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the test.")] = Path("listening-test"),
    pairs: Annotated[int, typer.Option(help="Pairs that a listener hears, at most.", min=1, max=500)] = 24,
    seconds: Annotated[float, typer.Option(help="Length of an excerpt.")] = 30.0,
    start: Annotated[str, typer.Option("--from", help="Where excerpts are taken: start or middle.")] = "middle",
    questions: Annotated[str, typer.Option(help="Of develops, repeats and prefer.")] = "develops,repeats,prefer",
    repeats: Annotated[int, typer.Option(help="Pairs heard again with sides changed.", min=0, max=100)] = 3,
    anchors: Annotated[int, typer.Option(help="Clips heard against a loop of themselves.", min=0, max=100)] = 3,
    baseline: Annotated[str | None, typer.Option(help="The set that scores are told against; the first.")] = None,
    by: Annotated[str | None, typer.Option(help="What makes a set, as for analyze.")] = None,
    pair: Annotated[str, typer.Option(help="How clips are matched, as for analyze.")] = "auto",
    seed: Annotated[int, typer.Option(help="Draws the pairs and the names of sounds.", min=0)] = 0,
    serve: Annotated[bool, typer.Option("--serve", help="Serve the test and collect votes until stopped.")] = False,
    host: Annotated[str, typer.Option(help="With --serve: 127.0.0.1 is this computer alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="With --serve.", min=1, max=65535)] = 8765,
    as_json: _Json = False,
    quiet: _Quiet = False,
) -> None:
    """Make a blind listening test: pairs of one prompt and seed at one loudness, on a page that names no arm.

    Send listeners the folder OUT/page (zipped, or on any web space); keep OUT/key.json to yourself. Each sends back a
    file of votes: eisbach listen score votes/*.json --test OUT
    """
    from eisbach.report.listen.trials import ListeningPlan, make_test

    asked: tuple[Any, ...] = tuple(name.strip() for name in questions.split(",") if name.strip())
    place: Any = start
    plan = ListeningPlan(
        paths, out, pairs=pairs, seconds=seconds, start=place, questions=asked, repeats=repeats, anchors=anchors,
        baseline=baseline, by=by, pair=pair, seed=seed,
    )  # fmt: skip
    key, skips = make_test(plan, quiet=quiet)
    for skip in skips.skipped:
        typer.echo(f"skipped: {skip.item}: {skip.reason}", err=True)
    page = out / "page" / "index.html"
    if as_json:
        typer.echo(json.dumps({"page": str(page), "test": key.test, "trials": len(key.trials), "arms": key.arms}))
    else:
        typer.echo(f"{len(key.trials)} pairs of {', '.join(key.arms)}: {page}")
    if serve:
        _serve(out, host, port)


@app.command()
def score(
    votes: Annotated[list[Path], typer.Argument(help="Files of votes, or a folder of them.", show_default=False)],
    test: Annotated[Path, typer.Option(help="Folder of the test.")] = Path("listening-test"),
    out: Annotated[Path | None, typer.Option(help="Folder for score.html and score.json; the test's.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the resampling.", min=0)] = 0,
    as_json: _Json = False,
) -> None:
    """Count the votes: preferences with intervals for other listeners and prompts, and how many more would decide."""
    from eisbach.report.listen.page import score_lines, write_score
    from eisbach.report.listen.votes import score_votes

    result = score_votes(test, votes, seed=seed)
    page = write_score(result, out or test)
    for skip in result.skips.skipped:
        typer.echo(f"skipped: {skip.item}: {skip.reason}", err=True)
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2, ensure_ascii=False))
        return
    typer.echo("\n".join(score_lines(result)))
    typer.echo(str(page))


@app.command("serve")
def serve_(
    test: Annotated[Path, typer.Argument(help="Folder of a test.")] = Path("listening-test"),
    host: Annotated[str, typer.Option(help="127.0.0.1 is this computer alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port.")] = 8765,
) -> None:
    """Serve a test that was made before, and collect votes in TEST/votes until stopped."""
    _serve(test, host, port)


def _serve(test: Path, host: str, port: int) -> None:
    from eisbach.report.listen.page import listening_app
    from eisbach.report.page import serve

    typer.echo(f"votes go to {test / 'votes'}", err=True)
    serve(listening_app(test), host, port, "the test, and can send votes")
