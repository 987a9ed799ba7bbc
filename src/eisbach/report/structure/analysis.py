"""The whole way from paths of audio to a page: what `eisbach analyze` calls, and anybody from Python."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from eisbach import __version__
from eisbach.errors import UserError
from eisbach.experiments.analysis import AnalysedSets, AnalysisPlan, analyze_sets, plan_analysis
from eisbach.experiments.reference import GROUP
from eisbach.progress import Progress
from eisbach.report.comparison.numbers import set_tables
from eisbach.report.comparison.page import LISTEN, ComparisonPage, write_comparison_page
from eisbach.report.figures import clip_picture
from eisbach.report.listen.votes import ListeningScore
from eisbach.types import SkipReport

_HEARD_OF_REFERENCE = 2  # clips beside every row of players
_FILES = (
    ("records.jsonl, records.parquet", "a row a clip, a column a measure"),
    ("details.jsonl", "each clip's sections, onsets and embedding"),
    ("comparison.json, comparison.csv", "every number of this page, with intervals, effect sizes and p"),
)


@dataclass(frozen=True)
class PageOptions:
    """How an analysis is shown.

    Attributes
    ----------
    title : str
        Heading; "" names the sets.
    listen : int
        Clips to embed at most.
    chosen : tuple of str
        Ids of clips to embed in place of an even sample.
    pictures : bool
        Draw every clip that can be heard.
    files : bool
        Also write a PNG of every clip into `pictures/`.
    command : str
        Shell line that makes the page again; "" makes one up.
    votes : ListeningScore or None
        Of a blind test between these sets (`report.listen.votes.votes_about`).
    """

    title: str = ""
    listen: int = LISTEN
    chosen: tuple[str, ...] = ()
    pictures: bool = True
    files: bool = False
    command: str = ""
    votes: ListeningScore | None = None


def analyze(
    paths: Sequence[str | Path],
    out: str | Path | None = None,
    *,
    page: PageOptions | None = None,
    quiet: bool = False,
    **options: Any,
) -> AnalysedSets:
    """The structure of audio, and how sets of it differ; with `out` also records, statistics and `out/index.html`.

    Parameters
    ----------
    paths : sequence of paths
        Files, folders or manifests; `NAME=PATH` names a set. Several are compared.
    out : path or None
        Folder; a second call continues it. None keeps nothing.
    page : PageOptions or None
        How it is shown.
    **options
        `by`, `pair`, `baseline`, `oracle`, `metrics`, `primary`, `seconds`, `start`, `training`, `held_out`, `jobs`,
        `seed`: as `experiments.analysis.AnalysisPlan` has them.

    Raises
    ------
    UserError
        Whatever is wrong with a name, before anything is analysed, or a set of which nothing can be.
    StorageError
        The folder cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from eisbach.studies.ground_truth import synthetic
    >>> from eisbach.audio import write_audio
    >>> folder = Path(tempfile.mkdtemp())
    >>> for seed in range(2):
    ...     write_audio(folder / f"{seed}.flac", synthetic.loop(1.0, seed, 8.0))
    >>> analysed = analyze([folder], quiet=True)
    >>> len(analysed.records), analysed.records[0]["is_flat"]
    (2, True)
    """
    plan = plan_analysis(paths, out=None if out is None else Path(out), **options)
    analysed = analyze_sets(plan, quiet=quiet)
    if plan.out is not None:
        write_page(analysed, page or PageOptions(), [str(path) for path in paths], quiet=quiet)
    return analysed


def write_page(analysed: AnalysedSets, page: PageOptions, paths: Sequence[str] = (), *, quiet: bool = False) -> Path:
    """Writes `index.html` (and the clips' pictures where asked) beside an analysis' files; returns the page's path.

    Raises
    ------
    StorageError
        The disk is full or the folder cannot be written.
    """
    plan = analysed.plan
    if plan.out is None:
        raise UserError("a page needs a folder; analyse with out=FOLDER.")
    files = list(_FILES)
    if plan.seconds is not None:
        files.append(("cut/", f"the {plan.seconds:g} s of each clip that were analysed"))
    if analysed.reference is not None:
        files.append((f"{GROUP}/", "the same of the reference"))
    if page.files:
        draw_clips(analysed, plan.out / "pictures", quiet=quiet)
        files.append(("pictures/", "a picture a clip"))
    contents = ComparisonPage(
        analysed.sets,
        commands=[page.command or shlex.join(["eisbach", "analyze", *paths, "--out", str(plan.out)])],
        title=page.title,
        set_tables=set_tables(analysed.sets.names, analysed.whole.comparisons),
        set_notes=analysed.whole.notes,
        skipped=analysed.skips.skipped,
        reference=analysed.reference,
        heard=_HEARD_OF_REFERENCE,
        captions=analysed.captions,
        analysis=plan.out,
        listen=page.listen,
        chosen=page.chosen,
        pictures=page.pictures,
        files=files,
        configuration=_configuration(plan),
        votes=page.votes,
        versions={"eisbach": __version__, "python": platform.python_version()},
    )
    return write_comparison_page(plan.out, contents, quiet=quiet)


def _configuration(plan: AnalysisPlan) -> str:
    """What decided the result; the files themselves stand in the records."""
    settings = {key: value for key, value in plan.settings().items() if key not in ("clips", "out", "jobs")}
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def draw_clips(analysed: AnalysedSets, folder: Path, *, quiet: bool = False) -> None:
    """One picture a clip, named by its id and content, so that a rerun draws only what is new."""
    skips: SkipReport = analysed.skips
    with Progress(len(analysed.records), "draw", quiet=quiet) as bar:
        for record in analysed.records:
            name = "".join(c if c.isalnum() or c in "-_." else "_" for c in str(record["id"]))[:80]
            file = folder / f"{name}-{str(record['audio_hash'])[:8]}.png"
            if not file.is_file():
                try:
                    clip_picture(str(record["path"]), out=file, title=str(record["id"]))
                except UserError as error:
                    skips.add(str(record["path"]), str(error))
            bar.advance()
