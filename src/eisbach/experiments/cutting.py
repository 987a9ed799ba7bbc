"""Clips cut to one length, because most measures of structure grow with it: new files beside the analysis, never the
originals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from eisbach.audio import audio_hash, read_audio, write_blocks
from eisbach.errors import AudioError, UserError
from eisbach.experiments.sets import ClipSets
from eisbach.files import atomic_write
from eisbach.progress import Progress
from eisbach.structure.batch import Clip
from eisbach.types import SkipReport, Waveform

_STARTS = ("start", "middle", "loudest")
_SHORT_BY = 0.01  # share of the length that a codec's delay may have taken
_STEP = 0.1  # seconds between two places that could be the loudest
_LONG_ENOUGH = 1.0  # seconds; nothing is measured of less


def cut_sets(
    sets: ClipSets, seconds: float, start: str, folder: Path, *, skips: SkipReport, quiet: bool = False
) -> ClipSets:
    """The sets with every clip cut to `seconds`; clips that are shorter are left out and reported.

    Parameters
    ----------
    seconds : float
        At least 1.
    start : 'start', 'middle' or 'loudest'
        Which stretch is kept; the loudest is the one with most energy over all channels.
    folder : Path
        Where the stretches are written, without loss; a rerun takes up those of unchanged files. The records of a clip
        say where it was taken from (`cut_from`, `cut_start` in seconds).

    Raises
    ------
    UserError
        A length or start that cannot be, or no clip that is long enough.
    StorageError
        The folder cannot be written.
    """
    check_cut(seconds, start)
    clips, names = [], {}
    with Progress(len(sets.clips), "cut", quiet=quiet) as bar:
        for clip in sets.clips:
            try:
                stretch = _cut(clip, seconds, start, folder)
            except AudioError as error:
                skips.add(str(clip.path), str(error))
            else:
                clips.append(stretch)
                names[str(stretch.path)] = sets.names[str(clip.path)]
            bar.advance()
    if not clips:
        raise UserError(f"none of the {len(sets.clips)} clips can be cut to {seconds:g} s: {skips.skipped[0].reason}")
    return replace(sets, clips=clips, names=names)


def cut_stretches(
    clips: Sequence[Clip], seconds: float, most: int, folder: Path, *, skips: SkipReport, shorter: bool = False
) -> list[Clip]:  # fmt: skip
    """At most `most` stretches of `seconds`, as many of each clip as the others allow, apart and evenly over it.

    Each has its clip's path as `unit`, so that statistics draw the stretches of a recording together. Clips that are
    shorter are left out and reported; with `shorter` they are taken whole.

    Raises
    ------
    StorageError
        The folder cannot be written.
    """
    lengths: dict[int, float] = {}  # by the clip's place
    for index, clip in enumerate(clips):
        try:
            lengths[index] = _whole_seconds(clip.path, 0.0 if shorter else seconds)
        except AudioError as error:
            skips.add(str(clip.path), str(error))
    room = {index: max(1, int(length / (seconds * (1.0 - _SHORT_BY)))) for index, length in lengths.items()}
    shares = dict.fromkeys(room, 0)
    while sum(shares.values()) < min(most, sum(room.values())):
        for index in room:  # round after round, so that long recordings do not crowd out short ones
            if shares[index] < room[index] and sum(shares.values()) < most:
                shares[index] += 1
    stretches = []
    for index, count in shares.items():
        clip, name = clips[index], clips[index].keys.get("id", clips[index].path.stem)
        spare = max(0.0, lengths[index] - count * seconds)
        for number in range(count):
            first = (number + 0.5) * spare / count + number * seconds
            own = _write_stretch(clip, first, min(seconds, lengths[index]), folder)
            place = f" at {round(first) // 60}:{round(first) % 60:02d}" if count > 1 or spare else ""
            keys = {**own.keys, "unit": str(clip.path), "id": f"{name}{place}"}
            stretches.append(replace(own, keys=keys))
    return stretches


def check_cut(seconds: float, start: str) -> None:
    """Refuses a length or start that cannot be, before anything is read."""
    if not (math.isfinite(seconds) and seconds >= _LONG_ENOUGH):
        raise UserError(f"--seconds is {seconds:g}; give the length in seconds that all clips are cut to, at least 1.")
    if start not in _STARTS:
        raise UserError(f"--from is '{start}'; choose one of {', '.join(_STARTS)}.")


def _cut(clip: Clip, seconds: float, start: str, folder: Path) -> Clip:
    first = _first(clip.path, _whole_seconds(clip.path, seconds), seconds, start)
    return _write_stretch(clip, first, seconds, folder)


def _whole_seconds(path: Path, seconds: float) -> float:
    """A file's length; `AudioError` where it cannot be read or is shorter than `seconds`."""
    import soundfile as sf

    read_audio(path, duration=0.01, allow_silent=True)  # says what is wrong with a file that cannot be read
    whole = float(sf.info(str(path)).duration)
    if whole < seconds * (1.0 - _SHORT_BY):
        raise AudioError(f"{path} lasts {whole:.1f} s, less than the {seconds:g} s that all clips are cut to.")
    return whole


def _write_stretch(clip: Clip, first: float, seconds: float, folder: Path) -> Clip:
    name = f"{clip.path.stem[:60]}-{audio_hash(clip.path)[:12]}-{first:.2f}+{seconds:g}"
    file = next((path for end in ("flac", "wav") if (path := folder / f"{name}.{end}").is_file()), None)
    if file is None:
        file = _write(read_audio(clip.path, start=first, duration=seconds, allow_silent=True), folder / name)
    return Clip(file, {**clip.keys, "cut_from": str(clip.path), "cut_start": round(first, 3)})


def _first(path: Path, whole: float, seconds: float, start: str) -> float:
    """Where the stretch begins, in seconds."""
    room = max(0.0, whole - seconds)
    if start == "start" or room == 0.0:
        return 0.0
    return room / 2.0 if start == "middle" else _loudest(path, seconds, room)


def _loudest(path: Path, seconds: float, room: float) -> float:
    """The start of the loudest stretch, on a grid of 0.1 s; the earliest of equals."""
    import soundfile as sf

    with sf.SoundFile(str(path)) as handle:
        step = max(1, round(_STEP * handle.samplerate))
        energy = [float(np.sum(block**2)) for block in handle.blocks(step, dtype="float64", always_2d=True)]
        step_seconds = step / handle.samplerate
    before = np.concatenate([[0.0], np.cumsum(energy)])
    width = min(len(energy), round(seconds / step_seconds))
    inside = before[width:] - before[:-width]
    return min(room, int(np.argmax(inside)) * step_seconds)


def _write(waveform: Waveform, stem: Path) -> Path:
    """24-bit FLAC, or WAV of floats where samples exceed full scale or channels FLAC's eight."""
    fits = float(np.abs(waveform.samples).max()) <= 1.0 and waveform.channels <= 8
    file = stem.with_name(f"{stem.name}.{'flac' if fits else 'wav'}")
    options = {"format": "FLAC", "subtype": "PCM_24"} if fits else {"format": "WAV", "subtype": "FLOAT"}
    samples: Sequence[np.ndarray] | np.ndarray = waveform.samples

    def write(partial: Path) -> None:
        write_blocks(str(partial), np.asarray(samples), waveform.sample_rate, **options)

    atomic_write(file, write)
    return file
