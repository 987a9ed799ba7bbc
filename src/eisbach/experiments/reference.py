"""The reference that sets and arms are held against: music that was not trained on, cut, measured and embedded."""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from eisbach.data.manifest import Split, load_manifest
from eisbach.errors import AudioError, UserError
from eisbach.executors import available_cpus
from eisbach.experiments.cutting import cut_sets, cut_stretches
from eisbach.experiments.sets import ClipSets, collect_sets
from eisbach.experiments.spec import ExperimentSpec, MaterialConfig
from eisbach.files import read_json, write_json
from eisbach.progress import in_threads
from eisbach.statistics.comparison import withhold
from eisbach.statistics.nearness import compare_to_reference
from eisbach.statistics.records import MetricInfo
from eisbach.statistics.sets import Nearness
from eisbach.structure import analyze_files
from eisbach.structure.batch import Clip, sample_clips
from eisbach.types import Record, SkipReport

GROUP = "reference"
"""What the reference's folder, and its records' set, are called."""

_OTHER_SEED = 7_919  # other performances than the material's
_MOST = 200  # clips of a reference: an even sample of more
_HEARD_SECONDS = 10.0  # of the middle of a clip that musicnn hears
_MOST_LISTENERS = 4
_ALIKE = 1.1
_MUSICNN_FILE = "musicnn-2.json"  # the first version heard a clip's end too: what it kept is not mixed in


@dataclass(frozen=True)
class Reference:
    """Measured music to hold sets against.

    Attributes
    ----------
    label : str
        What sentences call it ('your music').
    records : list of Record
        A row a clip, with a `unit` where several clips come from one recording.
    rows : dict of str to dict of str to np.ndarray
        By embedding, each clip's row by its path.
    sketches : list
        `structure.sets.clips.clip_sketch` of every clip, for pictures.
    """

    label: str
    records: list[Record]
    rows: dict[str, dict[str, np.ndarray]] = field(default_factory=dict, repr=False)
    sketches: list[Mapping[str, Sequence[float]]] = field(default_factory=list, repr=False)


def collect_reference(paths: Sequence[str | Path]) -> ClipSets:
    """The clips of a reference: of a manifest with a held-out split only that, of other paths every file; an even
    sample of 200 where there are more.

    Raises
    ------
    UserError
        As `sets.collect_sets`.
    """
    sets = collect_sets(paths, "argument")
    held_out = [clip for clip in sets.clips if clip.keys.get("split") == "held_out"]
    clips = sample_clips(held_out or sets.clips, _MOST)
    plain = [Clip(clip.path, {"id": clip.keys["id"], "group": GROUP, "unit": str(clip.path)}) for clip in clips]
    return ClipSets(plain, {str(clip.path): sets.names[str(clip.path)] for clip in clips})


def read_reference(
    sets: ClipSets, label: str, *, seconds: float | None = None, start: str = "start", out: Path | None = None,
    jobs: int = 1, skips: SkipReport | None = None, quiet: bool = True,
) -> Reference:  # fmt: skip
    """The reference, cut to `seconds` as the sets are, and analysed.

    Parameters
    ----------
    out : Path or None
        Folder of its analysis and of its cut clips; None keeps nothing (then nothing can be cut).
    """
    skips = SkipReport() if skips is None else skips
    if seconds is not None and out is not None:
        sets = cut_sets(sets, seconds, start, out / "cut", skips=skips, quiet=quiet)
    details: dict[str, str] = {}
    records = analyze_files(sets.clips, jobs=jobs, out=out, skips=skips, quiet=quiet, details=details)
    sketches = [json.loads(line)["sketch"] for line in details.values()]
    return Reference(label, records, {"texture": texture_rows(details)}, sketches)


def experiment_reference(spec: ExperimentSpec, root: Path, *, quiet: bool = True) -> Reference | None:
    """The reference of an experiment in stretches as long as what is played, measured; kept in `root/reference`.

    Raises
    ------
    UserError
        Fewer than four stretches are held out.
    """
    config = spec.reference
    if config is None:
        return None
    folder, seconds, skips = root / GROUP, float(spec.generation.duration), SkipReport()
    if config.source not in ("held_out", "everything"):
        clips = collect_reference([config.source]).clips
    elif spec.material is not None:
        clips = _rendered(spec.material, seconds, config.clips, folder / "rendered")
    else:
        clips = manifest_clips(spec, "held_out" if config.source == "held_out" else None)
    stretches = cut_stretches(clips, seconds, config.clips, folder / "cut", skips=skips)
    if len(stretches) < 4:
        why = f"; the first: {skips.skipped[0].reason}" if skips.skipped else ""
        raise UserError(
            f"the reference gives {len(stretches)} stretches of {seconds:g} s and at least 4 are needed{why}: name "
            "other music (reference.source), or shorten generation.duration."
        )
    music = read_reference(ClipSets(stretches, {}), config.label, out=folder, skips=skips, quiet=quiet)
    music.rows["musicnn"] = musicnn_rows(music.records, folder, quiet=quiet)
    return _below(music, root)


def _below(music: Reference, root: Path) -> Reference:
    """The reference with paths below the experiment's folder, as its records' are."""

    def short(path: object) -> str:
        return Path(str(path)).relative_to(root).as_posix()

    rows = {name: {short(path): row for path, row in own.items()} for name, own in music.rows.items()}
    records = [{**row, "path": short(row["path"])} for row in music.records]
    return Reference(music.label, records, rows, music.sketches)


def manifest_clips(spec: ExperimentSpec, split: Split | None) -> list[Clip]:
    """The clips of one split of the experiment's manifests, or of all."""
    manifests = (spec.training.get("data") or {}).get("manifest") or []
    rows = [
        (manifest, row)
        for path in ([manifests] if isinstance(manifests, str) else manifests)
        for manifest in [load_manifest(path)]
        for row in manifest.select(split=split)
    ]
    once: dict[str, Clip] = {}
    for manifest, row in rows:  # a recording may have a row for each of several captions
        once.setdefault(row.audio_hash, Clip(manifest.audio_path(row), {"id": row.id, "group": GROUP}))
    return list(once.values())


def _rendered(material: MaterialConfig, seconds: float, clips: int, folder: Path) -> list[Clip]:
    """New performances of the scores that no training hears."""
    from eisbach.data.render import RenderSpec, render
    from eisbach.data.scores import list_pieces
    from eisbach.data.splits import assign_split

    held_out = tuple(
        piece.id for piece in list_pieces() if assign_split("0" * 64, {"piece": piece.id}) == "held_out"
    )  # fmt: skip
    settings = RenderSpec(seed=material.seed + _OTHER_SEED, seconds=(seconds,), pieces=held_out)
    manifest, _ = render(folder, clips=clips, spec=settings, jobs=max(1, available_cpus()), quiet=True)
    return [Clip(manifest.audio_path(row), {"id": row.id, "group": GROUP}) for row in manifest]


def texture_rows(details: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Each clip's texture statistics by path, from its line of `details.jsonl`; clips with under 2 s of sound have
    none."""
    rows = {path: json.loads(line)["embedding"] for path, line in details.items()}
    return {path: np.asarray(row, dtype=np.float64) for path, row in rows.items() if row is not None}


def listeners(own_threads: int = 1) -> int:
    """Threads that hear clips at once, by those that a network takes itself: it leaves the interpreter to the others
    while it computes."""
    return max(1, min(_MOST_LISTENERS, available_cpus() // own_threads))


def musicnn_rows(
    records: Sequence[Record], cache: Path | None = None, *, root: Path = Path(), quiet: bool = True
) -> dict[str, np.ndarray]:
    """Each clip's musicnn features over its middle ten seconds, by the record's path.

    Parameters
    ----------
    cache : Path or None
        Folder that keeps them by the audio's hash, so that a second call hears only what is new.
    root : Path
        Folder that the records' paths start from.
    """
    import torch

    from eisbach.audio import read_audio
    from eisbach.structure.embeddings import load_embedding

    file = None if cache is None else cache / _MUSICNN_FILE
    known: dict[str, list[float]] = read_json(file, "musicnn features") if file is not None and file.is_file() else {}
    todo = [row for row in records if str(row["audio_hash"]) not in known]
    if todo:
        model = load_embedding("musicnn")

        def hear(row: Record) -> list[float] | None:
            start = max(0.0, (float(row["duration"] or 0.0) - _HEARD_SECONDS) / 2.0)
            try:
                heard = read_audio(root / str(row["path"]), start=start, duration=_HEARD_SECONDS)
                return [round(float(x), 6) for x in model.embed([heard])[0]]
            except AudioError:  # silent in the middle: it has no row, and the distance says how many it rests on
                return None

        with in_threads(
            todo, hear, jobs=listeners(torch.get_num_threads()), title="embed (musicnn)", quiet=quiet
        ) as results:
            known |= {str(row["audio_hash"]): made for row, made in results if made is not None}
        if file is not None:
            write_json(file, known)
    return {
        str(row["path"]): np.asarray(known[str(row["audio_hash"])])
        for row in records
        if str(row["audio_hash"]) in known
    }


def beside_reference(
    records: Sequence[Record],
    reference: Reference,
    metrics: Sequence[MetricInfo],
    names: Sequence[str],
    *,
    rows: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    unmatched: Collection[str] = (),
    refused: Mapping[str, str] | None = None,
    redrawn: bool = False,
    seed: int = 0,
) -> Nearness:
    """How near each set lies to the reference, by every metric and embedding.

    Sets whose clips differ in length from the reference's, or from the first set's (`refused`), get numbers and no
    verdict.

    Parameters
    ----------
    rows : mapping or None
        By embedding, the rows of the records' clips by path; embeddings that the reference has as well are compared.
    redrawn : bool
        As in `compare_to_reference`.
    """
    embeddings = {
        name: {**dict(own), **reference.rows[name]} for name, own in (rows or {}).items() if name in reference.rows
    }
    near = compare_to_reference(
        records, reference.records, metrics, names, label=reference.label, unmatched=unmatched, redrawn=redrawn,
        embeddings=embeddings, seed=seed,
    )  # fmt: skip
    faults = {name: fault for name in names if (fault := _length_fault(records, name, reference))}
    withheld = {*faults, *(refused or {})} | (set(names) if names[0] in faults else set())
    return Nearness(
        near.label, near.clips, near.metrics, near.spreads, near.distances, withhold(near.comparisons, withheld),
        [*faults.values(), *_size_notes(near)],
    )  # fmt: skip


def _length_fault(records: Sequence[Record], name: str, reference: Reference) -> str:
    own, music = (
        [float(row["duration"]) for row in rows if row.get("duration")]  # type: ignore[arg-type]
        for rows in ([row for row in records if row["arm"] == name], reference.records)
    )
    if not own or not music:
        return ""
    lengths = statistics.median(own), statistics.median(music)
    if max(lengths) <= _ALIKE * min(lengths):
        return ""
    return (
        f"{name} cannot be held against {reference.label}: its clips last {lengths[0]:.1f} s (median) and the "
        f"reference's {lengths[1]:.1f} s, and most measures grow with length. Cut all to one length with --seconds."
    )


def _size_notes(near: Nearness) -> list[str]:
    if near.clips >= 16:
        return []
    return [
        f"{near.label[:1].upper()}{near.label[1:]} is {near.clips} clips: a coarse yardstick, 16 and more are better."
    ]


def check_reference(sets: ClipSets, reference: ClipSets) -> None:
    """Refuses a reference that is one of the sets: everything would be nearest to itself."""
    shared = {clip.path.resolve() for clip in sets.clips} & {clip.path.resolve() for clip in reference.clips}
    if shared:
        raise UserError(
            f"the reference and the sets share {len(shared)} file{'' if len(shared) == 1 else 's'} (first "
            f"{min(shared)}), and a clip is at no distance from itself; give --reference other music."
        )
