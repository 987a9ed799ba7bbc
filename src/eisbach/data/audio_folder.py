"""A person's own folder of audio with captions beside it, as a manifest."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from eisbach.audio import AUDIO_SUFFIXES, audio_hash, list_audio
from eisbach.data.audio_facts import AudioFacts, CodecInput, inspect_audio, unusable
from eisbach.data.caption_files import CaptionSource, clean_caption, find_captions, find_shards
from eisbach.data.earlier_manifest import EarlierManifest, check_ids, read_earlier
from eisbach.data.manifest import MANIFEST_NAME, Manifest, ManifestRow, save_manifest
from eisbach.data.splits import afford_held_out, assign_split
from eisbach.errors import AudioError, UserError, counted, one_line
from eisbach.progress import in_threads
from eisbach.types import Skipped, SkipReport


@dataclass(frozen=True)
class Sample:
    """One file of a folder, or one row of a manifest, looked at.

    Attributes
    ----------
    name : str
        The path relative to the folder, or the id.
    path : Path
    caption : str or None
        None where there is none.
    written : str or None
        The caption as it is written, before `clean_caption`.
    facts : AudioFacts
    audio_hash : str
        "" where the file cannot be read.
    refused : str or None
        Why it cannot be used; None when it can.
    caption_fault : str or None
        What is wrong with the caption's file.
    """

    name: str
    path: Path
    caption: str | None
    written: str | None
    facts: AudioFacts
    audio_hash: str = ""
    refused: str | None = None
    caption_fault: str | None = None

    @property
    def is_wordless(self) -> bool:
        """Whether it is audio that can be used, and nothing gives it a caption."""
        return not self.caption and self.caption_fault is None and self.facts.problem is None


@dataclass(frozen=True)
class FolderScan:
    """What a folder holds.

    Attributes
    ----------
    folder : Path
    samples : tuple of Sample
        Every file that was tried, in the order of their names.
    left_out : tuple of Skipped
        Audio that was not tried, and why.
    captions : CaptionSource
        Where the captions came from.
    """

    folder: Path
    samples: tuple[Sample, ...]
    left_out: tuple[Skipped, ...]
    captions: CaptionSource

    def manifest(self, labels: Mapping[str, str] | None = None, before: EarlierManifest | None = None) -> Manifest:
        """The samples that can be used, with the labels and weights of tables, and split.

        Parameters
        ----------
        labels : mapping or None
            Of every row; they come before those of tables.
        before : EarlierManifest or None
            Gives what a person had set in it and nothing says anew.
        """
        rows = []
        for sample in self.samples:
            if sample.refused is not None:
                continue
            said = self.captions.tables.row(sample.path)
            row = ManifestRow(
                sample.name, sample.name, sample.caption or "", sample.facts.duration,
                {**said.labels, **(labels or {})}, sample.audio_hash, "train", said.weight, said.weight_above,
            )  # fmt: skip
            rows += [row] if before is None else before.fill(row, said.cleared)
        rows = [replace(row, split=assign_split(row.audio_hash, row.labels)) for row in rows]
        return Manifest(afford_held_out(rows) if before is None else before.set_splits(rows), self.folder)

    def with_captions_of(self, before: EarlierManifest) -> FolderScan:
        """The scan in which samples without any words have those that stand in the manifest of before."""
        used = {sample.audio_hash for sample in self.samples if sample.refused is None}
        here = {sample.audio_hash for sample in self.samples}
        samples = []
        for sample in self.samples:
            words = before.caption(sample.name, sample.audio_hash, here)
            if words and sample.is_wordless and (sample.refused is None or sample.audio_hash not in used):
                used.add(sample.audio_hash)
                sample = replace(sample, caption=words, written=words, refused=None)
            samples.append(sample)
        return replace(self, samples=tuple(samples))

    def wordless_sentence(self) -> str | None:
        """How many recordings do not train because others have words and they have none, and the two ways out; None
        where there are none."""
        wordless = [sample for sample in self.samples if sample.refused is not None and sample.is_wordless]
        if not wordless:
            return None
        return (
            f"{len(wordless)} of {counted(len(self.samples), 'recording')} will not train: captions come from "
            f"{self.captions.mode.partition(':')[0]}, and these have none ({one_line(wordless[0].name)}"
            f"{', ...' if len(wordless) > 1 else ''}); {self.captions.mend()}, or train all without words "
            "(--caption-from none)"
        )

    def skipped(self) -> SkipReport:
        """Everything that is not used, and why."""
        refused = [Skipped(sample.name, sample.refused) for sample in self.samples if sample.refused is not None]
        return SkipReport([*refused, *self.left_out])


def scan_folder(
    folder: str | Path,
    *,
    caption_from: str = "auto",
    heard: CodecInput | None = None,
    jobs: int = 4,
    quiet: bool = False,
) -> FolderScan:
    """Looks at every audio file of a folder and at its caption.

    Parameters
    ----------
    folder : str or Path
        Searched with all folders below it.
    caption_from : str
        See `caption_files.find_captions`.
    heard : CodecInput or None
        What the codec is given; None is the embedded codec's.
    jobs : int
        Threads that read and hash.

    Raises
    ------
    UserError
        No folder, or no audio in it.
    """
    folder = Path(folder)
    listing = list_audio(folder)
    captions = find_captions(folder, listing.files, caption_from)
    if not listing.files and not listing.left_out:
        if find_shards(folder):
            raise UserError(
                f"{folder} holds WebDataset shards and no audio; unpack them first: eisbach data folder {folder} --out "
                "my_music."
            )
        raise UserError(f"{folder} holds no audio; put {', '.join(AUDIO_SUFFIXES[:4])}, ... files into it.")
    real_root = os.path.realpath(folder)
    inside, left_out = [], list(listing.left_out)
    left_out += [
        Skipped(name, "is named by a table of captions and is not in the folder") for name in captions.unmatched
    ]
    for path in listing.files:
        if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(real_root):
            left_out.append(
                Skipped(path.relative_to(folder).as_posix(), "is a link that leaves the folder; copy the file into it")
            )
        else:
            inside.append(path)

    def look(path: Path) -> Sample:
        return _look(path, path.relative_to(folder).as_posix(), captions, heard)

    samples: list[Sample] = []
    first: dict[str, str] = {}
    with in_threads(inside, look, jobs=jobs, title="read", quiet=quiet) as results:
        for _, sample in results:
            if sample.refused is None and sample.audio_hash in first:
                sample = replace(sample, refused=f"has the same bytes as {first[sample.audio_hash]}")
            elif sample.refused is None:
                first[sample.audio_hash] = sample.name
            samples.append(sample)
    return FolderScan(folder, tuple(samples), tuple(sorted(left_out, key=lambda item: item.item)), captions)


def _look(path: Path, name: str, captions: CaptionSource, heard: CodecInput | None) -> Sample:
    written = caption = fault = None
    try:
        written = captions.read(path)
        caption = None if written is None else clean_caption(written)
    except UserError as error:
        fault = str(error)
    facts = inspect_audio(path, heard)
    try:
        digest = audio_hash(path)
    except AudioError as error:
        facts, digest = unusable(str(error)), ""
    refused = facts.problem or fault
    if refused is None and caption is None:
        refused = captions.wanting()
    elif refused is None and not caption and captions.mode != "none":
        refused = "has an empty caption; write one, or choose --caption-from"
    return Sample(name, path, caption, written, facts, digest, refused, fault)


def read_folder(
    folder: str | Path, *, caption_from: str = "auto", labels: dict[str, str] | None = None, jobs: int = 4,
    save: bool = True, out: str | Path | None = None, heard: CodecInput | None = None, quiet: bool = False,
    fresh: bool = False, notify: Callable[[str], object] | None = None,
) -> tuple[Manifest, SkipReport]:  # fmt: skip
    """The manifest of a folder, written as ``manifest.jsonl``, and what was left out and why.

    Audio that is unreadable, empty, silent or holds NaN is left out and reported; so is audio whose caption is
    missing, empty or malformed, and the second of two files with the same bytes. Nothing is made up in their place.
    A manifest that is there is made again, with what a person set in it (see `earlier_manifest`).

    Parameters
    ----------
    folder, caption_from, heard, jobs
        See `scan_folder`.
    labels : dict or None
        Given to every row.
    save : bool
        Write the manifest.
    out : str, Path or None
        The folder that it is written into; None is the audio's own.
    fresh : bool
        Keep nothing of a manifest that is there.
    notify : callable or None
        Is told, in a sentence each, of recordings without words beside others, labels in tables and what was kept.

    Raises
    ------
    UserError
        No folder, no audio, nothing usable in it, or a manifest there that is malformed.
    """
    home = Path(folder if out is None else out)
    before = EarlierManifest() if fresh or not save else read_earlier(home)
    scan = scan_folder(folder, caption_from=caption_from, heard=heard, jobs=jobs, quiet=quiet)
    before = replace(before, words=caption_from == "auto")
    scan = scan.with_captions_of(before)
    manifest, report = scan.manifest(labels, before), scan.skipped()
    if notify is not None:
        said = [scan.wordless_sentence(), scan.captions.tables.labels_sentence()]
        for sentence in [*filter(None, said), *scan.captions.tables.notes, *before.sentences(manifest.rows)]:
            notify(f"{sentence}.")
    if not len(manifest):
        first = report.skipped[0]
        raise UserError(
            f"none of the {len(report.skipped)} files in {folder} can be used (the first, {first.item}: "
            f"{first.reason})."
        )
    check_ids(manifest.rows, home / MANIFEST_NAME)
    manifest = Manifest(manifest.rows, home, folder)
    if save:
        save_manifest(manifest)
    return manifest, report
