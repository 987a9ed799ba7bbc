"""What an adapter was heard to do: its clips beside the base's, of the same prompts from the same noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eisbach.errors import UserError
from eisbach.generation import GenerateConfig, generate
from eisbach.report.structure.analysis import analyze
from eisbach.report.wording import format_difference, format_interval, format_p, format_value

BASE, ADAPTER = "base", "adapter"


@dataclass(frozen=True)
class Heard:
    """A measured comparison.

    Attributes
    ----------
    rows : list of (measure, base, adapter, difference, interval, p)
        As texts.
    prompts, clips : int
    players : list of (caption, base's file, adapter's file)
        Relative to the passport.
    nearest : (distance, usual distance, share with p <= .05, training clips) or None
        How near the adapter's clips lie to their nearest training clip, held-out ones to theirs; None where it was not
        measured.
    """

    rows: list[tuple[str, str, str, str, str, str]]
    prompts: int
    clips: int
    players: list[tuple[str, str, str]]
    nearest: tuple[float, float, float, int] | None = None


def play(config: GenerateConfig, folder: Path, *, quiet: bool) -> tuple[Path, Path]:
    """Plays the base and the adapter of `config` into `folder`; what is there already stays."""
    places = folder / BASE, folder / ADAPTER
    for place, adapter in zip(places, (None, config.adapter), strict=True):
        chosen = {"out": str(place), "arm": place.name, "adapter": adapter}
        generate(config.model_copy(update=chosen), quiet=quiet)
    return places


def demos_of(run: Path) -> tuple[Path, Path] | None:
    """The demos that a training made of the base and of its last step (`demos` in a recipe); None without both."""
    steps = {
        int(number): folder
        for folder in (run / "samples").glob("step-*")
        if (number := folder.name.removeprefix("step-")).isdigit() and (folder / "manifest.jsonl").is_file()
    }
    last = max(steps, default=0)
    return (steps[0], steps[last]) if 0 in steps and last > 0 else None


def compare(base: Path, adapter: Path, root: Path, *, quiet: bool = True) -> Heard:
    """The two folders' clips, measured and compared; players are named relative to `root` where they lie below it.

    Raises
    ------
    UserError
        Clips that cannot be measured.
    """
    from eisbach.data.manifest import load_manifest

    analysed = analyze([f"{BASE}={base}", f"{ADAPTER}={adapter}"], quiet=quiet, by="argument", baseline=BASE)
    results = analysed.sets.results
    if results is None:
        raise UserError(f"the clips of {base} and {adapter} are no two sets of the same prompts.")
    infos = {info.name: info for info in results.metrics if info.primary}
    rows = []
    for item in results.comparisons:
        if item.metric in infos:
            info = infos[item.metric]
            rows.append((
                info.label, format_value(info, item.baseline_mean), format_value(info, item.mean),
                format_difference(info, item.difference), format_interval(info, item.shown_interval),
                format_p(item.decisive_p),
            ))  # fmt: skip
    theirs = {row.id: row for row in load_manifest(adapter, check_files=False)}
    players = [
        (row.caption, _relative(base / row.path, root), _relative(adapter / theirs[row.id].path, root))
        for row in load_manifest(base, check_files=False)
        if row.id in theirs
    ]
    prompts = {row.labels.get("prompt_id", row.id) for row in theirs.values()}
    return Heard(rows, len(prompts), len(theirs), players)


def _relative(path: Path, root: Path) -> str:
    inside = path.resolve().is_relative_to(root.resolve())
    return path.resolve().relative_to(root.resolve()).as_posix() if inside else ""


def nearest_training(adapter: Path, rows: list[Any], *, quiet: bool = True) -> tuple[float, float, float, int] | None:
    """How near the clips of a folder lie to their nearest training clip, and held-out clips to theirs, by texture; None
    where the set is not at hand or holds fewer than two clips out."""
    from eisbach.data.manifest import load_manifest

    if not all(path.is_file() for path, _ in rows):
        return None
    told = load_manifest(adapter)
    groups: Mapping[str, list[Path]] = {
        "made": [told.audio_path(row) for row in told],
        "train": [path for path, row in rows if row.split == "train"],
        "held_out": [path for path, row in rows if row.split == "held_out"],
    }
    return _nearness(groups, quiet)


def _nearness(groups: Mapping[str, list[Path]], quiet: bool) -> tuple[float, float, float, int] | None:
    import numpy as np

    from eisbach.experiments.reference import texture_rows
    from eisbach.structure import analyze_files
    from eisbach.structure.sets.memorisation import clip_memorisation

    if not groups["train"] or len(groups["held_out"]) < 2:
        return None
    details: dict[str, str] = {}
    paths = [path for group in groups.values() for path in group]
    analyze_files(list(dict.fromkeys(paths)), quiet=quiet, details=details)
    rows = texture_rows(details)
    made, train, held = (np.stack([rows[str(path)] for path in groups[name] if str(path) in rows]) for name in groups)
    try:
        found = clip_memorisation(made, train, held)
    except UserError:  # a held-out clip that is also trained on
        return None
    return float(np.median(found.value)), float(np.median(found.held_out)), found.share.value, len(train)
