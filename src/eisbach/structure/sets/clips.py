"""What the set metrics read of a clip, computed once and small enough to keep ten thousand of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.errors import UserError
from eisbach.executors import open_executor
from eisbach.progress import Progress
from eisbach.structure.features import (
    TEXTURE_WINDOW,
    Features,
    extract_features,
    one_thread,
    source_of,
    texture_statistics,
)
from eisbach.structure.metrics.form import BLOCKS_MIN_SECONDS, block_curve
from eisbach.structure.sections import find_sections
from eisbach.structure.sets.excerpts import ExcerptFeatures, excerpt_features
from eisbach.structure.sets.onset_details import OnsetEvents, onset_events, unpack_events
from eisbach.types import SkipReport, Waveform


@dataclass(frozen=True)
class SetClip:
    """One clip of a set.

    Attributes
    ----------
    name : str
        Path or id; unique in its set.
    prompt : str or None
        What takes of one prompt share; None where clips have no prompts.
    duration : float
        Seconds, silence at the ends included.
    texture : np.ndarray [shape=(64,)]
        `frechet.texture_embedding`, dB.
    boundaries : np.ndarray [shape=(k,)]
        Where sections begin, seconds from the start of the file.
    onsets : OnsetEvents
    excerpt : ExcerptFeatures or None
        What memorisation of excerpts needs; None where only the analysis' details were at hand.
    notes : OnsetEvents or None
        The clip's moments with the pitches that begin at each (`embeddings.notes.note_events`); None where they were
        not asked for.
    """

    name: str
    prompt: str | None
    duration: float
    texture: np.ndarray = field(repr=False)
    boundaries: np.ndarray = field(repr=False)
    onsets: OnsetEvents = field(repr=False)
    excerpt: ExcerptFeatures | None = field(repr=False)
    notes: OnsetEvents | None = field(default=None, repr=False)


def clip_sketch(features: Features) -> dict[str, list[float]]:
    """What pictures of sets draw of a clip, small enough to be kept for every clip of an analysis.

    Returns
    -------
    dict
        `energy`, `spread`: of `mean_spectrum` (none for silence); `scales`, `strengths`: of `metrics.form.block_curve`
        (none under about 5 s).
    """
    energy, spread = mean_spectrum(features) if len(features.mel_db) else (np.zeros(0), np.zeros(0))
    scales, strengths = block_curve(features) if features.duration >= BLOCKS_MIN_SECONDS else (np.zeros(0),) * 2
    parts = {"energy": (energy, 2), "spread": (spread, 2), "scales": (scales, 3), "strengths": (strengths, 4)}
    return {name: [round(float(value), digits) for value in values] for name, (values, digits) in parts.items()}


def mean_spectrum(features: Features) -> tuple[np.ndarray, np.ndarray]:
    """A clip's mean spectral energy and its spread over time, by mel band.

    Returns
    -------
    energy : np.ndarray [shape=(64,)]
        Mean power in dB relative to the clip's mean over all bands, so that gain makes no difference.
    spread : np.ndarray [shape=(64,)]
        Standard deviation over time of the level, dB.
    """
    db = features.mel_db.astype(np.float64)
    power = (10.0 ** (db / 10.0)).mean(axis=0)
    return 10.0 * np.log10(power / power.mean()), db.std(axis=0)


def describe_clip(
    audio: Waveform | Features | str | Path, name: str, prompt: str | None = None, *, duration: float | None = None
) -> SetClip:
    """A clip's description from its audio or file, or from features that exist already (then give the file's
    `duration`).

    Raises
    ------
    UserError
        Empty, non-finite, unreadable or silent audio, or less than 2 s of it.
    """
    if isinstance(audio, Features):
        features, whole = audio, 0.0
    else:
        source = source_of(audio)  # a file is decoded in blocks, however long it is
        features, whole = extract_features(source), source.declared_seconds()
    texture = texture_statistics(features)
    if texture is None:
        raise UserError(f"{name} holds less than {TEXTURE_WINDOW:g} s of sound; leave it out of the set.")
    if duration is None:
        duration = max(whole, features.trimmed_start + features.duration)
    return SetClip(
        name,
        prompt,
        float(duration),
        np.asarray(texture, dtype=np.float64),
        np.asarray(find_sections(features).boundaries, dtype=np.float64),
        onset_events(features),
        excerpt_features(features),
    )


def clip_of_detail(detail: Mapping[str, Any], name: str, prompt: str | None, *, duration: float) -> SetClip | None:
    """A clip's description from its line of an analysis' ``details.jsonl``, without its excerpt features and without
    reading any audio.

    None where the clip holds less than 2 s of sound.
    """
    if detail["embedding"] is None:
        return None
    return SetClip(
        name,
        prompt,
        duration,
        np.asarray(detail["embedding"], dtype=np.float64),
        np.asarray(detail["sections"]["boundaries"], dtype=np.float64),
        unpack_events(detail["onsets"], detail["attacks"]),
        None,
    )


def read_clips(
    paths: Sequence[str | Path],
    prompts: Sequence[str | None] | None = None,
    *,
    jobs: int = 1,
    skips: SkipReport | None = None,
    quiet: bool = False,
    description: str = "describe",
) -> list[SetClip]:
    """The readable ones of many files, described; about 2 kB a second of audio is kept.

    Parameters
    ----------
    paths : sequence of paths
        At most `features.MAX_SECONDS` of each are described; excerpts are kept of the first ten minutes.
    prompts : sequence of str or None
        One a path.
    jobs : int
        Processes, at least 1.
    skips : SkipReport or None
        Receives the files that were left out, with the reason.

    Raises
    ------
    UserError
        No path, prompts that do not match, or no file that could be read.
    """
    if not paths:
        raise UserError("there is no file to describe; give at least one.")
    if prompts is not None and len(prompts) != len(paths):
        raise UserError(f"{len(paths)} files came with {len(prompts)} prompts; give one prompt a file.")
    if jobs < 1:
        raise UserError(f"jobs must be at least 1, not {jobs}.")
    skips = SkipReport() if skips is None else skips
    outcomes: dict[int, tuple[SetClip | None, str, str]] = {}
    with Progress(len(paths), description, quiet=quiet) as bar:
        for index, outcome in _all([str(path) for path in paths], list(prompts or [None] * len(paths)), jobs):
            outcomes[index] = outcome
            bar.advance()
    clips = []
    for _, (clip, name, reason) in sorted(outcomes.items()):
        if clip is None:
            skips.add(name, reason)
        else:
            clips.append(clip)
    if not clips:
        raise UserError(f"none of the {len(paths)} files could be described; the first: {skips.skipped[0].reason}")
    return clips


def _all(
    names: list[str], prompts: list[str | None], jobs: int
) -> Iterator[tuple[int, tuple[SetClip | None, str, str]]]:
    def dead(index: int) -> tuple[SetClip | None, str, str]:
        return None, names[index], f"{names[index]} killed the process that described it twice (out of memory?)"

    with open_executor(jobs, len(names)) as executor:
        yield from executor.each(_attempt, list(zip(names, prompts, strict=True)), dead=dead)


def _attempt(name: str, prompt: str | None) -> tuple[SetClip | None, str, str]:
    try:
        with one_thread():  # the same numbers from any number of threads and processes
            return describe_clip(name, name, prompt), name, ""
    except UserError as error:
        return None, name, str(error)
    except MemoryError:
        return None, name, f"{name} needs more memory than there is"
