"""Can the structure metrics be believed? Ladders of known structure, declared invariances, sets with known truth, and
real scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from eisbach.config import StrictModel
from eisbach.files import write_json
from eisbach.studies.finished import Finished
from eisbach.studies.ground_truth.check_invariances import check
from eisbach.studies.ground_truth.check_ladders import check_ladders
from eisbach.studies.ground_truth.check_real import check_real
from eisbach.studies.ground_truth.check_sets import check_sets
from eisbach.studies.ground_truth.flat_cells import render_cells


class Settings(StrictModel):
    """How much of each part.

    Attributes
    ----------
    ladder_seeds : int
        Ladders a metric, each with another timbre, pitch and rhythm.
    invariance_pieces, section_seconds
        Pieces of each of two families, of four sections each.
    sets : bool
        The measures of sets too.
    material : str
        Folder of labelled clips as `flat_cells` renders them; "" renders `cell_clips` a cell and `developing` here.
    cell_clips, developing : int
        Clips of each flat cell, and developing ones.
    """

    ladder_seeds: int = Field(12, ge=2)
    invariance_pieces: int = Field(8, ge=1)
    section_seconds: float = Field(7.6, gt=1)
    sets: bool = True
    set_seed: int = Field(0, ge=0)
    material: str = ""
    render_seed: int = Field(72, ge=0)
    cell_clips: int = Field(30, ge=1)
    developing: int = Field(150, ge=2)
    rendered_seconds: float = Field(32.0, gt=0)


QUICK: dict[str, Any] = {
    "ladder_seeds": 2, "invariance_pieces": 1, "sets": False, "cell_clips": 1, "developing": 4, "rendered_seconds": 20.0
}  # fmt: skip


def run(settings: Settings, out: Path, *, jobs: int = 1, quiet: bool = False) -> None:
    """Writes `ladders.json`, `invariances.json`, `sets.json` and `real.json`; what is done already is kept."""
    done = Finished(out / "pieces.jsonl")
    write_json(out / "ladders.json", check_ladders(settings.ladder_seeds, done, quiet))
    outcomes = done.get("invariances", lambda: check(settings.invariance_pieces, settings.section_seconds))
    write_json(out / "invariances.json", outcomes)
    if settings.sets:
        write_json(out / "sets.json", check_sets(settings.set_seed, done, quiet))
    material = Path(settings.material) if settings.material else render_cells(
        out / "material", side="held_out", seed=settings.render_seed, clips=settings.cell_clips,
        developing=settings.developing, seconds=settings.rendered_seconds, jobs=jobs, quiet=quiet,
    )  # fmt: skip
    real = check_real(material, settings.cell_clips, settings.developing, out / "structure", jobs)
    write_json(out / "real.json", real)
