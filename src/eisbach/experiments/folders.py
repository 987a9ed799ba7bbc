"""Folders of audio as arms: finding their clips, matching them across arms, and measuring them into records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from eisbach.errors import UserError
from eisbach.statistics.records import save_records, validate_records
from eisbach.types import Record, SkipReport

Pairing = Literal["prompt", "name", "none"]
PAIRINGS = ("auto", "prompt", "name", "none")

PAIRING_SENTENCES: dict[str, str] = {
    "prompt": "Clips were matched across arms by the prompt and seed that their manifests state.",
    "name": "Clips were matched across arms by their file names; each name counts as one prompt.",
    "none": "Nothing matches the clips of one arm with those of another, so the arms were compared as unmatched groups "
    "and every clip counts as one.",
}
"""How clips were matched, in words."""


@dataclass(frozen=True)
class ArmClip:
    """One file of an arm, before it is measured.

    Attributes
    ----------
    path : Path
    name : str
        Path within the arm's folder without its ending: what is matched by name.
    prompt_id, seed : str, int or None
        From the manifest's labels; None where there are none.
    train_seed : int or None
    caption : str
    """

    path: Path
    name: str
    prompt_id: str | None = None
    seed: int | str | None = None
    train_seed: int | None = None
    caption: str = ""


@dataclass(frozen=True)
class ArmSource:
    """An arm: its name and its files."""

    name: str
    clips: list[ArmClip]


@dataclass(frozen=True)
class Measured:
    """Records of several arms and how their clips were matched.

    Attributes
    ----------
    records : list of Record
        `path` as given by the user (relative to the working directory or absolute).
    pairing : 'prompt', 'name' or 'none'
    prompts : dict of str to str
        Words of each prompt, from manifests.
    skips : SkipReport
        Files that could not be measured.
    """

    records: list[Record]
    pairing: Pairing
    prompts: dict[str, str] = field(default_factory=dict)
    skips: SkipReport = field(default_factory=SkipReport)


def parse_arms(arguments: Sequence[str]) -> list[ArmSource]:
    """The arms that arguments name: `FOLDER`, `NAME=FOLDER`, or a `manifest.jsonl`.

    A folder that holds a `manifest.jsonl` is read through it. A manifest whose rows carry several `arm` labels gives
    one arm for each.

    Raises
    ------
    UserError
        Fewer than two arms, two arms of one name or of the same files, a path that does not exist or holds no audio.
    """
    sources = [source for argument in arguments for source in _parse_one(argument)]
    if len(sources) < 2:
        found = sources[0].name if sources else "none"
        raise UserError(f"a comparison needs at least two arms, and there is {found}; name two folders or manifests.")
    names = Counter(source.name for source in sources)
    twice = [name for name, count in names.items() if count > 1]
    if twice:
        raise UserError(f"two arms are called '{twice[0]}'; give each its own name, as in NAME=FOLDER.")
    seen: dict[frozenset[Path], str] = {}
    for source in sources:
        files = frozenset(clip.path.resolve() for clip in source.clips)
        if files in seen:
            raise UserError(f"the arms '{seen[files]}' and '{source.name}' hold the very same files; name two others.")
        seen[files] = source.name
    return sources


def _parse_one(argument: str) -> list[ArmSource]:
    name, separator, rest = argument.partition("=")
    path = Path(argument)
    if separator and not path.exists():  # a folder may have '=' in its own name
        path = Path(rest)
        if not name.strip() or not rest.strip():
            raise UserError(f"the arm '{argument}' must look like FOLDER or NAME=FOLDER.")
    else:
        name = ""
    if not path.exists():
        raise UserError(f"the arm '{argument}' names {path}, which does not exist; give a folder or a manifest.jsonl.")
    if path.is_file() and path.suffix != ".jsonl":
        raise UserError(f"the arm '{argument}' is a single file; give a folder of audio or a manifest.jsonl.")
    manifest = path / "manifest.jsonl" if path.is_dir() else path
    if manifest.is_file():
        return _from_manifest(manifest, name)
    from eisbach.structure.batch import find_audio

    files = find_audio(path)
    stems = Counter(_name_of(file, path) for file in files)
    clips = [
        ArmClip(file, stem if stems[stem := _name_of(file, path)] == 1 else file.relative_to(path).as_posix())
        for file in files
    ]
    return [ArmSource(name or path.resolve().name, clips)]


def _name_of(file: Path, folder: Path) -> str:
    return file.relative_to(folder).with_suffix("").as_posix()


def _from_manifest(path: Path, name: str) -> list[ArmSource]:
    from eisbach.data.manifest import load_manifest

    manifest = load_manifest(path, check_files=False)  # a missing file is skipped and reported like a broken one
    default = name or path.resolve().parent.name
    labelled = {row.labels.get("arm", "") for row in manifest}
    by_arm: dict[str, list[ArmClip]] = {}
    for row in manifest:
        labels = row.labels
        arm = labels.get("arm") or default
        if len(labelled) == 1:
            arm = name or arm
        elif name:
            arm = f"{name}/{arm}"
        train_seed = labels.get("train_seed", "")
        clip = ArmClip(
            manifest.audio_path(row),
            Path(row.path).with_suffix("").as_posix(),
            labels.get("prompt_id"),
            _seed(labels.get("seed")),
            int(train_seed) if train_seed.isdigit() else None,
            row.caption,
        )
        by_arm.setdefault(arm, []).append(clip)
    return [ArmSource(arm, clips) for arm, clips in by_arm.items()]


def _seed(text: str | None) -> int | str | None:
    if text is None:
        return None
    return int(text) if text.lstrip("-").isdigit() else text


def choose_pairing(sources: Sequence[ArmSource], baseline: str, wanted: str = "auto") -> tuple[Pairing, list[str]]:
    """How clips are matched with the baseline's, and the arms that cannot be.

    By prompt and seed when all manifests state them, else by name, else not at all. Names match by themselves only
    when an arm shares at least half of its clips (or of the baseline's, if those are fewer) with the baseline: a few
    names in common are chance. An arm that finds no partners stays unmatched while the others are paired.

    Raises
    ------
    UserError
        A way of matching that these arms do not allow.
    """
    if wanted not in PAIRINGS:
        raise UserError(f"there is no pairing '{wanted}'; choose one of {', '.join(PAIRINGS)}.")
    others = [one.name for one in sources if one.name != baseline]
    labelled = all(clip.prompt_id is not None and clip.seed is not None for one in sources for clip in one.clips)
    if wanted == "prompt" and not labelled:
        raise UserError("pairing by prompt needs manifests whose rows have the labels prompt_id and seed; use 'name'.")
    ways: list[tuple[Pairing, float]] = []
    if labelled and wanted in ("auto", "prompt"):
        ways.append(("prompt", 0.0))
    if wanted in ("auto", "name"):
        ways.append(("name", 0.5 if wanted == "auto" else 0.0))
    for way, least in ways:
        overlaps = _overlaps(sources, baseline, way)
        matched = [name for name in others if overlaps[name] > 0 and overlaps[name] >= least]
        if matched:
            return way, [name for name in others if name not in matched]
    if wanted in ("prompt", "name"):
        what = "prompts and seeds" if wanted == "prompt" else "file names"
        raise UserError(f"no arm shares any {what} with the baseline '{baseline}'; use the pairing 'none'.")
    return "none", others


def _overlaps(sources: Sequence[ArmSource], baseline: str, by: str) -> dict[str, float]:
    """Each arm's share of clips that have a partner in the baseline (of the smaller side's clips)."""
    keys = {
        one.name: {(clip.prompt_id, clip.seed) if by == "prompt" else clip.name for clip in one.clips}
        for one in sources
    }
    base = keys[baseline]
    return {name: len(base & own) / max(1, min(len(base), len(own))) for name, own in keys.items()}


def pairing_sentence(pairing: Pairing, unmatched: Sequence[str]) -> str:
    """How clips were matched, in words."""
    sentence = PAIRING_SENTENCES[pairing]
    if pairing == "none" or not unmatched:
        return sentence
    return f"{sentence} Not so {' and '.join(unmatched)}: compared as an unmatched group in which every clip counts as one."


def measure_arms(
    sources: Sequence[ArmSource], pairing: Pairing, *, out: str | Path | None = None, jobs: int = 1, quiet: bool = False
) -> Measured:
    """Analyses every clip and returns records; broken files are left out and reported.

    Parameters
    ----------
    out : path or None
        Folder for `records.jsonl`, `records.parquet` and the analysis that a rerun takes up again.

    Raises
    ------
    UserError
        An arm of which no file could be measured.
    """
    from eisbach.structure import analyze_files

    skips = SkipReport()
    paths = list(dict.fromkeys(str(clip.path) for source in sources for clip in source.clips))
    cache = None if out is None else Path(out) / "analysis"
    rows = {str(row["path"]): row for row in analyze_files(paths, jobs=jobs, out=cache, skips=skips, quiet=quiet)}
    records: list[Record] = []
    prompts: dict[str, str] = {}
    for source in sources:
        found = [clip for clip in source.clips if str(clip.path) in rows]
        if not found:
            lost = [item for item in skips.skipped if item.item in {str(clip.path) for clip in source.clips}]
            reason = f" ({lost[0].reason.rstrip('.')})" if lost else ""
            raise UserError(f"none of the {len(source.clips)} files of the arm '{source.name}' can be read{reason}.")
        for clip in found:
            keys = _keys(clip, pairing)
            if clip.caption:
                prompts.setdefault(str(keys["prompt_id"]), clip.caption)
            measured = {key: value for key, value in rows[str(clip.path)].items() if key != "path"}
            records.append({"arm": source.name, **keys, "path": str(clip.path), **measured})
    checked = validate_records(records, "the measured clips")
    if out is not None:
        save_records(checked, out)
    return Measured(checked, pairing, prompts, skips)


def _keys(clip: ArmClip, pairing: Pairing) -> Record:
    if pairing == "prompt":
        return {"train_seed": clip.train_seed, "prompt_id": clip.prompt_id, "seed": clip.seed}
    return {"train_seed": None, "prompt_id": clip.name, "seed": 0}


def condition_notes(records: Sequence[Record]) -> list[str]:
    """What a reader must know about the recordings themselves: lengths, bandwidths, silence, that could pass for structure."""
    notes = []
    lengths = [float(row["duration"]) for row in records if isinstance(row.get("duration"), int | float)]  # type: ignore[arg-type]
    if lengths and max(lengths) > 1.1 * min(lengths):
        notes.append(
            f"The clips last from {min(lengths):.1f} to {max(lengths):.1f} s. Most measures grow with length, so cut the "
            "clips to one length before you trust a difference."
        )
    bands = _by_arm(records, "bandwidth_hz")
    if bands and max(bands.values()) > 1.5 * min(bands.values()):
        said = ", ".join(f"{arm} {value / 1000:.1f} kHz" for arm, value in bands.items())
        notes.append(
            f"The arms differ in bandwidth ({said}): part of a difference may come from the recording, not the music."
        )
    for flag, words in (("silent", "silent, and so count as flat"), ("clipped", "clipped (overdriven)")):
        count = sum(flag in str(row.get("flags") or "").split(";") for row in records)
        if count:
            notes.append(f"{count} clip{'s are' if count > 1 else ' is'} {words}.")
    return notes


def _by_arm(records: Sequence[Record], column: str) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for row in records:
        value = row.get(column)
        if isinstance(value, int | float):
            values.setdefault(str(row["arm"]), []).append(float(value))
    return {arm: sum(own) / len(own) for arm, own in values.items()}
