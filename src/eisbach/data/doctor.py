"""The doctor: what is wrong with a folder or a manifest, and what each sample will really train on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eisbach.audio import audio_hash
from eisbach.data.audio_check import CLIPPED_SHARE, LONG_SECONDS, SHORT_SECONDS, AudioFacts, inspect_audio
from eisbach.data.audio_folder import find_audio, read_caption
from eisbach.data.latents import sections_of
from eisbach.data.manifest import MANIFEST_NAME, load_manifest
from eisbach.data.threads import in_threads
from eisbach.errors import AudioError, UserError

PROBLEMS = {
    "missing_caption": "no caption beside the audio",
    "empty_caption": "a caption without words",
    "bad_caption": "a caption that cannot be understood",
    "unusable": "unreadable, empty, silent or NaN-bearing audio",
    "changed": "audio that is not what the manifest's hash says",
    "clipped": f"more than {CLIPPED_SHARE:.2%} of the samples at full scale in a row",
    "too_short": f"shorter than {SHORT_SECONDS:g} s",
    "very_long": f"longer than {LONG_SECONDS / 60:g} minutes: only sections train",
    "duplicate": "the same bytes as another file",
    "same_audio": "sounds the same as another file (other container or gain)",
}
"""Names of what is reported, and what they mean."""

_CURVE_POINTS = 64
_SAME_CORRELATION, _SAME_SECONDS, _SAME_HERTZ = 0.9995, 0.1, 0.03


@dataclass(frozen=True)
class Problem:
    """One finding: `kind` is a key of `PROBLEMS`."""

    sample: str
    kind: str
    detail: str


@dataclass(frozen=True)
class Trained:
    """What one sample will train on.

    Attributes
    ----------
    sample : str
    caption : str
        The words that condition the model.
    duration : float
        Seconds of the file.
    sections : list of (start, length)
        Seconds that are encoded; each crop falls within one of them.
    padding : float
        Seconds of masked padding behind the sample when it is shorter than the crop.
    """

    sample: str
    caption: str
    duration: float
    sections: list[tuple[float, float]]
    padding: float


@dataclass
class DoctorReport:
    """Everything found.

    Attributes
    ----------
    samples : int
    problems : list of Problem
    trained : list of Trained
        Usable samples only.
    formats : dict of str to int
        Count of files for each "rate Hz, channels".
    crop_seconds : float
    """

    samples: int
    crop_seconds: float
    problems: list[Problem] = field(default_factory=list)
    trained: list[Trained] = field(default_factory=list)
    formats: dict[str, int] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """True when nothing was found."""
        return not self.problems

    def counts(self) -> dict[str, int]:
        """Problems by kind, in the order of `PROBLEMS`."""
        found = Counter(problem.kind for problem in self.problems)
        return {kind: found[kind] for kind in PROBLEMS if found[kind]}

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {**asdict(self), "counts": self.counts(), "healthy": self.healthy}


@dataclass(frozen=True)
class _Sample:
    name: str
    path: Path
    caption: str | None
    caption_fault: str | None = None
    digest: str | None = None


def examine(
    target: str | Path, *, crop_seconds: float = 30.0, caption_from: str = "files", same_audio: bool = False,
    jobs: int = 4, quiet: bool = False,
) -> DoctorReport:  # fmt: skip
    """Looks at every sample of a manifest (a file, or a folder that holds one) or of a folder of audio.

    Parameters
    ----------
    target : str or Path
    crop_seconds : float
        Length of the training crops, for what each sample will train on.
    caption_from : str
        Where captions of a folder come from, see `audio_folder.read_caption`; a manifest has its own.
    same_audio : bool
        Also compare the sound itself (length, level over time, brightness), which finds the same audio in another container.
    jobs : int
        Threads.

    Raises
    ------
    UserError
        Nothing to look at, a manifest that is malformed, or a crop length that is not positive.
    """
    if not crop_seconds > 0:
        raise UserError(f"the crop length must be positive (got {crop_seconds}); give seconds such as 30.")
    samples = _samples(Path(target), caption_from)
    report = DoctorReport(len(samples), crop_seconds)
    formats: Counter[str] = Counter()
    hashes: dict[str, str] = {}
    sounds: list[_Sound] = []
    with in_threads(
        samples, lambda sample: _look(sample, same_audio), jobs=jobs, title="examine", quiet=quiet
    ) as results:
        for sample, (facts, digest, sound) in results:
            problems = _problems(sample, facts, digest)
            if digest and digest in hashes:
                problems.append(Problem(sample.name, "duplicate", f"same bytes as {hashes[digest]}"))
            elif digest:
                hashes[digest] = sample.name
                if sound is not None:
                    sounds.append(sound)
            report.problems += problems
            if facts.problem is None:
                formats[f"{facts.sample_rate} Hz, {facts.channels} channel{'s' if facts.channels != 1 else ''}"] += 1
                if sample.caption or (sample.caption == "" and caption_from == "none"):
                    report.trained.append(_trained(sample, facts, crop_seconds))
    report.problems += _same_sound(sounds)
    report.formats = dict(sorted(formats.items()))
    return report


def _samples(target: Path, caption_from: str) -> list[_Sample]:
    manifest_file = target / MANIFEST_NAME if target.is_dir() else target
    if manifest_file.suffix == ".jsonl" and (manifest_file.is_file() or not target.is_dir()):
        manifest = load_manifest(manifest_file, check_files=False)
        return [
            _Sample(row.id, manifest.audio_path(row), row.caption, digest=row.audio_hash or None) for row in manifest
        ]
    samples = []
    for path in find_audio(target):
        name = path.relative_to(target).as_posix()
        try:
            samples.append(_Sample(name, path, read_caption(path, caption_from)))
        except UserError as error:
            if caption_from != "files":
                raise
            samples.append(_Sample(name, path, None, caption_fault=str(error)))
    return samples


def _look(sample: _Sample, same_audio: bool) -> tuple[AudioFacts, str | None, _Sound | None]:
    if not sample.path.is_file():
        return AudioFacts(0.0, 0, 0, 0.0, 0.0, "is missing"), None, None
    facts = inspect_audio(sample.path)
    try:
        digest = audio_hash(sample.path)
    except AudioError as error:
        return AudioFacts(0.0, 0, 0, 0.0, 0.0, str(error)), None, None
    wanted = same_audio and facts.problem is None
    return facts, digest, _listen(sample.name, sample.path, facts) if wanted else None


def _problems(sample: _Sample, facts: AudioFacts, digest: str | None) -> list[Problem]:
    found: list[tuple[str, str]] = []
    if sample.caption_fault:
        found.append(("bad_caption", sample.caption_fault))
    elif sample.caption is None:
        found.append(("missing_caption", "add a .txt or .json of the same name"))
    elif not sample.caption.strip():
        found.append(("empty_caption", "write what the clip sounds like"))
    if facts.problem:
        found.append(("unusable", facts.problem))
    else:
        if sample.digest and digest != sample.digest:
            found.append(("changed", "make the manifest again, or restore the file"))
        if facts.clipped > CLIPPED_SHARE:
            found.append(("clipped", f"{facts.clipped:.2%} of the samples"))
        if facts.duration < SHORT_SECONDS:
            found.append(("too_short", f"{facts.duration:.2f} s"))
        if facts.duration > LONG_SECONDS:
            found.append(("very_long", f"{facts.duration / 60:.0f} min"))
    return [Problem(sample.name, kind, detail) for kind, detail in found]


def _trained(sample: _Sample, facts: AudioFacts, crop_seconds: float) -> Trained:
    return Trained(
        sample=sample.name,
        caption=sample.caption or "",
        duration=round(facts.duration, 3),
        sections=[(round(a, 3), round(b, 3)) for a, b in sections_of(facts.duration, crop_seconds)],
        padding=round(max(0.0, crop_seconds - facts.duration), 3),
    )


@dataclass(frozen=True)
class _Sound:
    """What containers, gain and sample rate hardly change: length, level over time, brightness.

    `curve` is the level in dB at 64 points, centred and of unit length, or zero where the level never moves;
    `hertz` is the root mean square frequency.
    """

    name: str
    duration: float
    curve: np.ndarray
    hertz: float


def _listen(name: str, path: Path, facts: AudioFacts) -> _Sound:
    import soundfile as sf

    energy, counts, slope = np.zeros(_CURVE_POINTS), np.zeros(_CURVE_POINTS), 0.0
    frames = max(1, round(facts.duration * facts.sample_rate))
    at = 0
    with sf.SoundFile(str(path)) as handle:
        for block in handle.blocks(1 << 16, dtype="float32", always_2d=True):
            mono = block.mean(axis=1, dtype=np.float64)
            place = np.minimum((at + np.arange(len(mono))) * _CURVE_POINTS // frames, _CURVE_POINTS - 1)
            np.add.at(energy, place, np.square(mono))
            np.add.at(counts, place, 1)
            slope += float(np.square(np.diff(mono)).sum())
            at += len(mono)
    level = 10 * np.log10(energy / np.maximum(counts, 1) + 1e-10)
    curve = level - level.mean()
    size = float(np.linalg.norm(curve))
    hertz = float(np.sqrt(slope / max(energy.sum(), 1e-12))) * facts.sample_rate / (2 * np.pi)
    return _Sound(name, facts.duration, curve / size if size > 1.0 else np.zeros_like(curve), hertz)


def _same_sound(sounds: Sequence[_Sound]) -> list[Problem]:
    problems: list[Problem] = []
    if len(sounds) < 2:
        return problems
    matrix = np.stack([sound.curve for sound in sounds]).astype(np.float32)
    lengths, hertz = (np.array([getattr(sound, name) for sound in sounds]) for name in ("duration", "hertz"))
    for index in range(1, len(sounds)):
        same = (
            (matrix[:index] @ matrix[index] > _SAME_CORRELATION)
            & (np.abs(lengths[:index] - lengths[index]) < _SAME_SECONDS)
            & (np.abs(hertz[:index] - hertz[index]) < _SAME_HERTZ * hertz[index])
        )
        if same.any():
            first = sounds[int(np.argmax(same))].name
            problems.append(Problem(sounds[index].name, "same_audio", f"sounds like {first}"))
    return problems
