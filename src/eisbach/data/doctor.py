"""The doctor: what is wrong with a folder or a manifest, and what each sample will really train on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from eisbach.audio import audio_hash
from eisbach.audio_file import is_file
from eisbach.data.audio_facts import (
    CANCELLED_DB,
    CLIPPED_SHARE,
    LONG_SECONDS,
    SHORT_SECONDS,
    CodecInput,
    inspect_audio,
    unusable,
)
from eisbach.data.audio_folder import Sample, scan_folder
from eisbach.data.caption_files import clean_caption
from eisbach.data.latents import sections_of
from eisbach.data.manifest import MANIFEST_NAME, Manifest, load_manifest
from eisbach.data.same_sound import same_sounding
from eisbach.data.selection import TrainingChoice, TrainingRule, choose_clips, cut_captions, unheard_words
from eisbach.errors import AudioError, UserError, counted, one_line
from eisbach.progress import in_threads
from eisbach.structure.energy import NARROW_BAND_HZ

PROBLEMS = {
    "left_out": "audio in the folder that is not read",
    "missing_caption": "no caption",
    "empty_caption": "a caption without words",
    "bad_caption": "a caption that cannot be understood",
    "unseen_characters": "a caption with characters that cannot be seen",
    "unusable": "unreadable, empty, silent or NaN-bearing audio",
    "changed": "audio that is not what the manifest's hash says: training refuses it",
    "wrong_length": "another length than the manifest says",
    "truncated": "less audio than the file's header says",
    "damaged": "audio that the decoder had to leave parts out of",
    "cancelling": "channels that cancel each other when they are mixed",
    "clipped": f"more than {CLIPPED_SHARE:.2%} of the samples at full scale in a row",
    "too_short": f"shorter than {SHORT_SECONDS:g} s",
    "very_long": f"longer than {LONG_SECONDS / 60:g} minutes: only sections train",
    "duplicate": "the same bytes as another file",
    "same_audio": "sounds the same as another file (other container or gain)",
    "refused": "a set that training refuses",
}
"""Names of what is reported, and what they mean."""

JUDGED_SECONDS = 4.5
"""Length from which the recommended weighting can judge a clip: two windows of three seconds that overlap by half."""

_SHOWN = 3  # names in a note
_WRONG_SECONDS, _WRONG_SHARE = 0.5, 0.02  # of a length, from which a manifest's is wrong


@dataclass(frozen=True)
class Problem:
    """One finding: `kind` is a key of `PROBLEMS`; `sample` is "" where it is about the whole set."""

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
        Files or rows that were looked at.
    crop_seconds : float
    problems : list of Problem
    trained : list of Trained
        What trains (not what is held out).
    held_out : list of str
        Samples that are held out.
    selection : str
        How many train, are held out and are left out: the sentence that training prints.
    formats : dict of str to int
        Count of files for each "rate Hz, channels".
    notes : list of str
        What is no fault of the data, such as words that the model does not know.
    first : list of str
        What is said before all else: recordings that do not train because they have no words beside others.
    """

    samples: int
    crop_seconds: float
    problems: list[Problem] = field(default_factory=list)
    trained: list[Trained] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)
    selection: str = ""
    formats: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    first: list[str] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        """True when training would refuse the set as it is, or a clip of it."""
        return any(problem.kind in ("changed", "refused") for problem in self.problems)

    @property
    def healthy(self) -> bool:
        """True when nothing was found."""
        return not self.problems

    def counts(self) -> dict[str, int]:
        """Problems by kind, in the order of `PROBLEMS`."""
        counts = Counter(problem.kind for problem in self.problems)
        return {kind: counts[kind] for kind in PROBLEMS if counts[kind]}

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {**asdict(self), "counts": self.counts(), "healthy": self.healthy}


class CaptionReader(Protocol):
    """What a model makes of captions: every `Backbone` is one."""

    def unknown_words(self, caption: str) -> Sequence[str]:
        """The words that the model does not know."""

    def text_length(self, caption: str) -> tuple[int, int] | None:
        """Tokens of a caption and how many the model reads; None where it reads everything."""


@dataclass(frozen=True)
class _Set:
    """What is examined: samples, the manifest of those that can be used, and what is wrong with the set itself."""

    samples: Sequence[Sample]
    manifest: Manifest
    problems: list[Problem]
    captions_wanted: bool
    first: Sequence[str] = ()
    notes: Sequence[str] = ()
    wanting: str = "add a .txt or .json of the same name"


def examine(
    target: str | Path, *, rule: TrainingRule | None = None, caption_from: str = "auto", same_audio: bool = False,
    heard: CodecInput | None = None, reader: CaptionReader | None = None, jobs: int = 4, quiet: bool = False,
) -> DoctorReport:  # fmt: skip
    """Looks at every sample of a manifest (a file, or a folder that holds one) or of a folder of audio.

    Parameters
    ----------
    target : str or Path
    rule : TrainingRule or None
        What decides which clips train, and in which crops; None is a recipe's defaults.
    caption_from : str
        Where captions of a folder come from, see `audio_folder.scan_folder`; a manifest has its own.
    same_audio : bool
        Also compare the sound itself (length, level over time, brightness), which finds the same audio in another
        container.
    heard : CodecInput or None
        What the model's codec is given; None is the embedded codec's.
    reader : CaptionReader or None
        What the model makes of captions, such as its backbone.
    jobs : int
        Threads.

    Raises
    ------
    UserError
        Nothing to look at, a manifest that is malformed, or a crop length that is not positive.
    """
    rule = TrainingRule() if rule is None else rule
    if not rule.crop_seconds > 0:
        raise UserError(f"the crop length must be positive (got {rule.crop_seconds}); give seconds such as 30.")
    target = Path(target)
    manifest_file = target / MANIFEST_NAME if target.is_dir() else target
    if manifest_file.suffix == ".jsonl" and (is_file(manifest_file) or not target.is_dir()):
        examined = _of_manifest(manifest_file, heard, jobs, quiet)
    else:
        examined = _of_folder(target, caption_from, heard, jobs, quiet)
    choice = choose_clips(examined.manifest, rule)
    report = DoctorReport(len(examined.samples), rule.crop_seconds, list(examined.problems))
    formats: Counter[str] = Counter()
    for sample in examined.samples:
        report.problems += _problems(sample, examined)
        if sample.facts.problem is None:
            channels = sample.facts.channels
            formats[f"{sample.facts.sample_rate} Hz, {channels} channel{'s' if channels != 1 else ''}"] += 1
    report.formats = dict(sorted(formats.items()))
    if same_audio:
        twins = same_sounding(examined.samples, jobs=jobs, quiet=quiet)
        report.problems += [Problem(name, "same_audio", f"sounds like {first}") for name, first in twins]
    _add_choice(report, choice, reader)
    report.first = list(examined.first)
    report.notes += [*examined.notes, *_cautions(examined, choice)]
    return report


def _add_choice(report: DoctorReport, choice: TrainingChoice, reader: CaptionReader | None) -> None:
    """What trains, and what stands against it."""
    report.selection = choice.sentence()
    report.held_out = [row.id for row in choice.held_out]
    length = report.crop_seconds
    for row in choice.train:
        sections = [(round(start, 3), round(seconds, 3)) for start, seconds in sections_of(row.duration, length)]
        padding = round(max(0.0, length - row.duration), 3)
        report.trained.append(Trained(row.id, row.caption, round(row.duration, 3), sections, padding))
    twins = [item for item in choice.left_out if "same bytes" in item.reason]
    report.problems += [Problem(item.item, "duplicate", item.reason) for item in twins]
    if reader is not None:
        unheard = unheard_words([row.caption for row in choice.train], reader.unknown_words)
        rows = [*choice.train, *choice.held_out]
        cut = cut_captions([(row.id, row.caption) for row in rows], reader.text_length)
        report.notes += [note for note in (unheard, cut) if note is not None]
    fault = choice.fault()
    if fault is not None:
        report.problems.append(Problem("", "refused", fault))


def _cautions(examined: _Set, choice: TrainingChoice) -> list[str]:
    """What trains and is no fault, and which a person may not know of their clips."""
    facts = {sample.name: sample.facts for sample in examined.samples}
    narrow = [row.id for row in choice.train if facts[row.id].bandwidth <= NARROW_BAND_HZ]
    short = [row.id for row in choice.train if row.duration < JUDGED_SECONDS]
    of = f"of {counted(len(choice.train), 'training clip')}"
    said = []
    if narrow:
        said.append(
            f"{len(narrow)} {of} sound like a telephone or an old recording, with nothing above "
            f"{NARROW_BAND_HZ / 1000:g} kHz, and a model learns that too ({_named(narrow)})"
        )
    if short:
        said.append(
            f"{len(short)} {of} are shorter than {JUDGED_SECONDS:g} s, too short for the recommended weighting to "
            f"judge: they count 1 ({_named(short)})"
        )
    return said


def _named(names: Sequence[str]) -> str:
    return ", ".join(map(one_line, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")


def _of_manifest(file: Path, heard: CodecInput | None, jobs: int, quiet: bool) -> _Set:
    manifest = load_manifest(file, check_files=False)

    def look(number: int) -> tuple[Sample, list[Problem]]:
        row = manifest.rows[number]
        path = manifest.audio_path(row)
        caption = clean_caption(row.caption)
        if not is_file(path):
            return Sample(row.id, path, caption, row.caption, unusable("is missing"), refused="is missing"), []
        facts = inspect_audio(path, heard)
        try:
            digest = audio_hash(path)
        except AudioError as error:
            facts, digest = unusable(str(error)), ""
        problems = []
        if digest and digest != row.audio_hash:
            problems.append(Problem(row.id, "changed", "make the manifest again, or restore the file"))
        elif (
            abs(facts.duration - row.duration) > max(_WRONG_SECONDS, _WRONG_SHARE * row.duration) and not facts.problem
        ):
            said = f"{row.duration:.2f} s in the manifest, {facts.duration:.2f} s in the file; make the manifest again"
            problems.append(Problem(row.id, "wrong_length", said))
        return Sample(row.id, path, caption, row.caption, facts, digest, facts.problem), problems

    samples, problems = [], []
    with in_threads(range(len(manifest)), look, jobs=jobs, title="examine", quiet=quiet) as results:
        for _, (sample, faults) in results:
            samples.append(sample)
            problems += faults
    usable = {sample.name for sample in samples if sample.refused is None}
    rows = [row for row in manifest if row.id in usable]
    missing = sum(sample.facts.problem == "is missing" for sample in samples)
    if missing:
        problems.append(
            Problem("", "refused", f"{missing} files of the manifest do not exist; restore them, or make it again")
        )
    return _Set(samples, manifest.with_rows(rows), problems, any(row.caption.strip() for row in manifest))


def _of_folder(folder: Path, caption_from: str, heard: CodecInput | None, jobs: int, quiet: bool) -> _Set:
    scan = scan_folder(folder, caption_from=caption_from, heard=heard, jobs=jobs, quiet=quiet)
    problems = [Problem(item.item, "left_out", item.reason) for item in scan.left_out]
    problems += [
        Problem(sample.name, "duplicate", sample.refused)
        for sample in scan.samples
        if sample.refused is not None and sample.refused.startswith("has the same bytes")
    ]
    captions = scan.captions
    wanting = captions.wanting().partition("; ")[2]
    labels = captions.tables.labels_sentence()
    first = [wordless] if (wordless := scan.wordless_sentence()) else []
    notes = [captions.sentence(), *([labels] if labels else []), *captions.tables.notes]
    return _Set(scan.samples, scan.manifest(), problems, captions.mode != "none", first, notes, wanting)


def _problems(sample: Sample, examined: _Set) -> list[Problem]:
    findings: list[tuple[str, str]] = []
    facts = sample.facts
    if sample.caption_fault:
        findings.append(("bad_caption", sample.caption_fault))
    elif facts.problem:
        pass  # nobody misses its words
    elif sample.caption is None:
        findings.append(("missing_caption", examined.wanting))
    elif not sample.caption and examined.captions_wanted:
        findings.append(("empty_caption", "write what the clip sounds like"))
    elif sample.written is not None and sample.caption != sample.written.strip().replace("\n", " "):
        findings.append(("unseen_characters", f"take them out of '{one_line(sample.written)}'"))
    if facts.problem:
        findings.append(("unusable", facts.problem))
        return [Problem(sample.name, kind, detail) for kind, detail in findings]
    if facts.missing:
        findings.append(("truncated", f"{facts.missing}; what is there trains"))
    if facts.complaints:
        findings.append(("damaged", facts.complaints[0]))
    if facts.lost_db > CANCELLED_DB:
        findings.append(
            ("cancelling", f"their mix is {facts.lost_db:.0f} dB quieter than they are; turn one of them around")
        )
    if facts.clipped > CLIPPED_SHARE:
        findings.append(("clipped", f"{facts.clipped:.2%} of the samples"))
    if facts.duration < SHORT_SECONDS:
        findings.append(("too_short", f"{facts.duration:.2f} s"))
    if facts.duration > LONG_SECONDS:
        findings.append(("very_long", f"{facts.duration / 60:.0f} min"))
    return [Problem(sample.name, kind, detail) for kind, detail in findings]
