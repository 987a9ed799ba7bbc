"""A blind listening test of sets: which excerpts stand against each other, and the folder that listeners get.

`OUT/page` is for listeners: one page and its sounds, whose names say nothing. `OUT/key.json` is not: it says which arm
each sound is of. The page draws the order of pairs and the side of each clip itself, anew for every listener.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from eisbach.audio import read_audio, resample, write_blocks
from eisbach.audio_file import AudioFile
from eisbach.config import StrictModel
from eisbach.errors import AudioError, UserError
from eisbach.experiments.comparing import AUTO, match_sets
from eisbach.experiments.sets import collect_sets, short_names
from eisbach.files import atomic_write, write_json, write_text
from eisbach.output_folder import claim, exclusive
from eisbach.progress import Progress
from eisbach.report.page import render_page
from eisbach.statistics.resampling import random_stream
from eisbach.structure import analyze
from eisbach.structure.loudness_meter import LoudnessMeter, integrated_loudness
from eisbach.types import Record, SkipReport, Waveform

Question = Literal["develops", "repeats", "prefer"]
QUESTIONS: dict[Question, str] = {
    "develops": "Which develops more?",
    "repeats": "Which repeats itself more?",
    "prefer": "Which do you prefer?",
}
"""What may be asked of a pair, in this order."""
KEY_NAME = "key.json"

_RATE = 44_100
_LOUDEST = -18.0  # LUFS; what all excerpts are brought to where their peaks allow it
_PEAK = 10.0 ** (-1.0 / 20.0)  # -1 dBFS
_FADE = 0.02  # seconds at both ends, so that a loop does not click
_LOOP = 2.0  # seconds that an anchor repeats
_SHORTEST = 4.0  # seconds


class TestClip(StrictModel):
    """A sound of the test. `arm` is empty for an anchor's loop; `metrics` are those of the excerpt."""

    __test__ = False  # no test of pytest's
    arm: str
    prompt: str
    seed: str
    path: str
    caption: str = ""
    metrics: dict[str, float | None] = Field(default_factory=dict)


class Trial(StrictModel):
    """Two sounds that a listener compares. `answers` holds what an attentive listener says, for anchors."""

    id: str
    kind: Literal["pair", "repeat", "anchor"]
    first: str
    second: str
    of: str | None = None
    answers: dict[Question, str] = Field(default_factory=dict)


class TestKey(StrictModel):
    """What `key.json` holds: everything that a listener must not know."""

    __test__ = False
    test: str
    baseline: str
    arms: list[str]
    questions: list[Question]
    seconds: float
    clips: dict[str, TestClip]
    trials: list[Trial]


@dataclass(frozen=True)
class ListeningPlan:
    """What a test is made of.

    Attributes
    ----------
    paths : sequence of path
        Sets, as `analyze` takes them; two at least, whose clips match by prompt and seed or by name.
    out : Path
    pairs : int
        How many pairs a listener hears at most, without repeats and anchors.
    seconds : float
        Length of an excerpt; a pair is cut to the shorter clip.
    start : 'start' or 'middle'
        Where the excerpt is taken.
    questions : tuple of str
        Of `QUESTIONS`.
    repeats, anchors : int
        Pairs heard a second time with sides changed, and pairs of a clip with a loop of its own loudest two seconds:
        both tell attentive listeners from others.
    baseline : str or None
        The set that scores are told against; the first.
    """

    paths: Sequence[str | Path]
    out: Path
    pairs: int = 24
    seconds: float = 30.0
    start: Literal["start", "middle"] = "middle"
    questions: tuple[Question, ...] = ("develops", "repeats", "prefer")
    repeats: int = 3
    anchors: int = 3
    baseline: str | None = None
    by: str | None = None
    pair: str = AUTO
    seed: int = 0


@dataclass
class _Sound:
    """An excerpt before it has a name."""

    row: Record
    waveform: Waveform
    metrics: dict[str, float | None] = field(default_factory=dict)


def make_test(plan: ListeningPlan, *, quiet: bool = True) -> tuple[TestKey, SkipReport]:
    """Writes `out/page/index.html` with its sounds, and `out/key.json`.

    Returns
    -------
    key : TestKey
    skips : SkipReport
        Pairs that were left out, with the reason.

    Raises
    ------
    UserError
        Fewer than two sets, sets whose clips do not match, no pair that can be heard, a folder that holds another
        test.
    """
    _check(plan)
    rows, arms = _matched_rows(plan)
    chosen = _choose(rows, arms, plan)
    rng = random_stream(plan.seed, "listening test")
    with exclusive(plan.out):
        claim(plan.out, "test-settings.json", "a listening test", _settings(plan, chosen))
        skips = SkipReport()
        sounds, trials = _prepare(plan, chosen, rng, skips, quiet=quiet)
        if not any(trial.kind == "pair" for trial in trials):
            raise UserError(f"no pair can be heard: {skips.skipped[0].reason}")
        key = _write(plan, arms, sounds, trials)
    return key, skips


def _check(plan: ListeningPlan) -> None:
    if not plan.questions or set(plan.questions) - set(QUESTIONS) or len(set(plan.questions)) < len(plan.questions):
        raise UserError(f"--questions must name some of {', '.join(QUESTIONS)}, each once.")
    if not (math.isfinite(plan.seconds) and plan.seconds >= _SHORTEST):
        raise UserError(f"--seconds is {plan.seconds:g}; an excerpt of a test lasts at least {_SHORTEST:g} s.")
    if plan.start not in ("start", "middle"):
        raise UserError(f"--from is '{plan.start}'; choose start or middle.")


def _matched_rows(plan: ListeningPlan) -> tuple[list[Record], list[str]]:
    """Clips with `arm`, `prompt_id`, `seed` and `train_seed`, and the arms with the baseline first."""
    sets = collect_sets(plan.paths, plan.by)
    called = short_names(list(sets.sizes))
    arms = [called[group] for group in sets.sizes]
    if len(arms) < 2:
        raise UserError("a listening test needs two sets; name two folders or manifests, or --by LABEL.")
    baseline = plan.baseline or arms[0]
    if baseline not in arms:
        raise UserError(f"there is no set '{baseline}'; the sets are {', '.join(arms)}.")
    arms = [baseline, *(arm for arm in arms if arm != baseline)]
    by_arm: dict[str, list[Record]] = {arm: [] for arm in arms}
    for clip in sets.clips:
        row: Record = {**clip.keys, "id": str(clip.keys["id"]), "path": str(clip.path)}
        by_arm[called[str(clip.keys["group"])]].append(row)
    matching = match_sets(by_arm, plan.pair, names=sets.names, side_by_side=sets.side_by_side)
    if matching.unmatched:
        raise UserError(
            f"the clips of {' and '.join(matching.unmatched)} match none of '{baseline}', so no pair shares a prompt "
            "and a seed; give files of equal names or manifests with prompt_id and seed."
        )
    return matching.rows, arms


def _choose(rows: Sequence[Record], arms: Sequence[str], plan: ListeningPlan) -> list[tuple[Record, Record]]:
    """Pairs in turn over the pairs of arms, each going round all prompts before it comes back to one."""
    cells: dict[tuple[str, str, str], dict[str, Record]] = {}
    for row in rows:
        place = (str(row["prompt_id"]), str(row["seed"]), str(row.get("train_seed")))
        cells.setdefault(place, {})[str(row["arm"])] = row
    rng = random_stream(plan.seed, "pairs")
    queues = []
    for first, second in itertools.combinations(arms, 2):
        both = [cell for cell in cells.values() if first in cell and second in cell]
        by_prompt: dict[str, list[dict[str, Record]]] = {}
        for index in rng.permutation(len(both)):
            by_prompt.setdefault(str(both[index][first]["prompt_id"]), []).append(both[index])
        rounds = itertools.chain.from_iterable(itertools.zip_longest(*by_prompt.values()))
        queues.append([(cell[first], cell[second]) for cell in rounds if cell is not None])
    turns = itertools.chain.from_iterable(itertools.zip_longest(*queues))
    return [pair for pair in turns if pair is not None][: plan.pairs]


def _settings(plan: ListeningPlan, chosen: Sequence[tuple[Record, Record]]) -> dict[str, Any]:
    return {
        "pairs": [[str(row["path"]) for row in pair] for pair in chosen],
        "seconds": plan.seconds,
        "from": plan.start,
        "questions": list(plan.questions),
        "repeats": plan.repeats,
        "anchors": plan.anchors,
        "seed": plan.seed,
    }


def _prepare(
    plan: ListeningPlan,
    chosen: Sequence[tuple[Record, Record]],
    rng: np.random.Generator,
    skips: SkipReport,
    *,
    quiet: bool,
) -> tuple[dict[str, _Sound], list[Trial]]:
    """The excerpts by token and the trials that they stand in."""
    sounds: dict[str, _Sound] = {}
    trials: list[Trial] = []
    count = 3 * len(chosen) + plan.repeats + 2 * plan.anchors
    tokens = iter([f"{number:08x}" for number in rng.choice(2**31, size=count, replace=False)])

    def add(sound: _Sound) -> str:
        token = next(tokens)
        sounds[token] = sound
        return token

    with Progress(len(chosen), "excerpts", quiet=quiet) as bar:
        for first, second in chosen:
            try:
                pair = [_Sound(row, waveform) for row, waveform in _cut(first, second, plan)]
            except AudioError as error:
                skips.add(f"{first['path']} against {second['path']}", str(error))
            else:
                for sound in pair:
                    sound.metrics = _metrics(sound.waveform)
                trials.append(Trial(id=next(tokens), kind="pair", first=add(pair[0]), second=add(pair[1])))
            bar.advance()
    pairs = list(trials)
    for index in rng.permutation(len(pairs))[: plan.repeats]:
        whole = pairs[index]
        trials.append(Trial(id=next(tokens), kind="repeat", first=whole.first, second=whole.second, of=whole.id))
    for index in rng.permutation(len(pairs))[: plan.anchors]:
        token = pairs[index].first if rng.random() < 0.5 else pairs[index].second
        loop = add(_Sound({**sounds[token].row, "arm": ""}, _looped(sounds[token].waveform)))
        known: dict[Question, str] = {"develops": token, "repeats": loop}
        answers = {question: known[question] for question in plan.questions if question in known}
        trials.append(Trial(id=next(tokens), kind="anchor", first=token, second=loop, answers=answers))
    _level(sounds)
    return sounds, trials


def _cut(first: Record, second: Record, plan: ListeningPlan) -> list[tuple[Record, Waveform]]:
    """Both clips with their excerpts, of one length."""
    paths = [Path(str(row["path"])) for row in (first, second)]
    lengths = [AudioFile(path).seconds() for path in paths]
    seconds = min(plan.seconds, *lengths)
    if seconds < _SHORTEST:
        raise AudioError(f"{paths[int(np.argmin(lengths))]} lasts {min(lengths):.1f} s, less than {_SHORTEST:g} s.")
    excerpts = []
    for row, path, length in zip((first, second), paths, lengths, strict=True):
        start = (length - seconds) / 2 if plan.start == "middle" else 0.0
        waveform = resample(read_audio(path, start=start, duration=seconds), _RATE)
        if waveform.channels > 2:
            waveform = Waveform(waveform.samples.mean(axis=0, keepdims=True), _RATE)
        excerpts.append((row, waveform))
    return excerpts


def _metrics(waveform: Waveform) -> dict[str, float | None]:
    analysis = analyze(waveform)
    return {name: float(value) if math.isfinite(value) else None for name, value in analysis.metrics.items()}


def _looped(waveform: Waveform) -> Waveform:
    """The loudest two seconds again and again, with joints too short to hear."""
    length, fade = round(_LOOP * _RATE), round(_FADE * _RATE)
    energy = np.concatenate([[0.0], np.cumsum(np.sum(np.square(waveform.samples, dtype=np.float64), axis=0))])
    span = min(length + fade, waveform.samples.shape[1])
    start = int(np.argmax(energy[span:] - energy[:-span]))
    piece = waveform.samples[:, start : start + span].copy()
    ramp = np.linspace(0.0, 1.0, fade, dtype=np.float32)
    head = piece[:, :-fade].copy()
    head[:, :fade] = head[:, :fade] * ramp + piece[:, -fade:] * (1.0 - ramp)
    times = -(-waveform.samples.shape[1] // head.shape[1])
    return Waveform(np.tile(head, (1, times))[:, : waveform.samples.shape[1]], waveform.sample_rate)


def _level(sounds: dict[str, _Sound]) -> None:
    """Brings all excerpts to one loudness (EBU R 128), as loud as the one with the highest peaks allows."""
    loudness, room = {}, [_LOUDEST]
    for token, sound in sounds.items():
        meter = LoudnessMeter(_RATE, sound.waveform.channels)
        meter.push(sound.waveform.samples)
        loudness[token] = integrated_loudness(meter.finish())
        if math.isfinite(loudness[token]):
            room.append(loudness[token] + 20.0 * math.log10(_PEAK / float(np.abs(sound.waveform.samples).max())))
    target, fade = min(room), round(_FADE * _RATE)
    ramp = np.sin(0.5 * np.pi * np.linspace(0.0, 1.0, fade, dtype=np.float32)) ** 2
    for token, sound in sounds.items():
        gain = 10.0 ** ((target - loudness[token]) / 20.0) if math.isfinite(loudness[token]) else 1.0
        samples = sound.waveform.samples * np.float32(gain)
        samples[:, :fade] *= ramp
        samples[:, -fade:] *= ramp[::-1]
        sound.waveform = Waveform(samples, _RATE)


def _write(plan: ListeningPlan, arms: Sequence[str], sounds: dict[str, _Sound], trials: Sequence[Trial]) -> TestKey:
    page = plan.out / "page"
    names = {}
    for token, sound in sounds.items():
        names[token] = _encode(sound.waveform, page / "sounds" / token)
    clips = {
        token: TestClip(
            arm=str(sound.row["arm"]),
            prompt=str(sound.row["prompt_id"]),
            seed=str(sound.row["seed"]),
            path=str(sound.row["path"]),
            caption=str(sound.row.get("caption") or ""),
            metrics=sound.metrics,
        )
        for token, sound in sounds.items()
    }
    heard = [{"id": trial.id, "a": trial.first, "b": trial.second, "after": trial.of} for trial in trials]
    digest = hashlib.sha256(json.dumps([heard, plan.questions], sort_keys=True).encode()).hexdigest()[:16]
    seconds = max(sound.waveform.samples.shape[1] for sound in sounds.values()) / _RATE
    key = TestKey(
        test=digest, baseline=arms[0], arms=list(arms), questions=list(plan.questions), seconds=seconds, clips=clips,
        trials=list(trials),
    )  # fmt: skip
    test = {
        "test": digest,
        "trials": sorted(heard, key=lambda trial: str(trial["id"])),
        "sounds": names,
        "questions": [{"name": name, "text": QUESTIONS[name]} for name in plan.questions],
    }
    minutes = max(1, round(len(trials) * (2.0 * seconds + 10.0) / 60.0))
    write_text(
        page / "index.html",
        render_page("listen.html.j2", title="Listening test", test=test, pairs=len(trials), minutes=minutes, facts=[]),
    )
    write_json(plan.out / KEY_NAME, key.model_dump(mode="json"))
    return key


def _encode(waveform: Waveform, stem: Path) -> str:
    """A stereo or mono MP3 at the format's best constant rate; Ogg Vorbis where libsndfile cannot write it."""
    import soundfile as sf

    mp3 = "MP3" in sf.available_formats()
    file = stem.with_suffix(".mp3" if mp3 else ".ogg")
    options: dict[str, Any] = (
        {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT", "compression_level": 0.4}
        if mp3
        else {"format": "OGG", "subtype": "VORBIS", "compression_level": 0.3}
    )
    atomic_write(file, lambda partial: write_blocks(str(partial), waveform.samples, _RATE, **options))
    return f"sounds/{file.name}"
