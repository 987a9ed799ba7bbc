"""Votes of listeners: read and checked against the test's key, and turned into preferences between arms."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from eisbach.config import StrictModel, check_values
from eisbach.errors import UserError
from eisbach.files import read_object
from eisbach.report.listen.trials import KEY_NAME, Question, TestKey, Trial
from eisbach.statistics.preferences import Preference, Vote, preferences, share_for
from eisbach.statistics.resampling import random_stream
from eisbach.types import SkipReport

_ATTENTIVE = 0.75  # share of an anchor's answers that must be right
_HEARD = 1.0  # seconds of each side, below which an answer was given blindly
_MOST_PAIRS = 5_000


class _Pair(StrictModel):
    trial: str
    A: str
    B: str
    answers: dict[Question, Literal["A", "B", "none"]]
    heard: dict[Literal["A", "B"], float]
    seconds: float = Field(ge=0)


class VoteFile(StrictModel):
    """What a listener's page saves: `pairs` in the order heard, never an arm."""

    format: Literal["eisbach-votes"]
    version: Literal[1]
    test: str
    listener: str = Field(min_length=1, max_length=64)
    pairs: list[_Pair] = Field(max_length=_MOST_PAIRS)


@dataclass(frozen=True)
class Listener:
    """One file of votes.

    Attributes
    ----------
    name : str
        The file's.
    answered : int
        Pairs, of those that count.
    anchors_right, anchors : int
        Answers on anchors.
    repeats_equal, repeats : int
        Answers that were given again when the pair came back with its sides changed.
    attentive : bool
        At least three quarters of the anchors' answers were right; True in a test without anchors.
    """

    name: str
    answered: int
    anchors_right: int
    anchors: int
    repeats_equal: int
    repeats: int

    @property
    def attentive(self) -> bool:
        """Whether the listener's votes count."""
        return self.anchors == 0 or self.anchors_right >= _ATTENTIVE * self.anchors


@dataclass(frozen=True)
class Agreement:
    """How often the votes on a question agree with a metric: the share of votes for the clip where it is higher."""

    metric: str
    question: str
    share: float
    low: float | None
    high: float | None
    votes: int


@dataclass(frozen=True)
class ListeningScore:
    """What the votes say. `preferences` and `agreements` are by question; `skips` names files that do not count."""

    key: TestKey
    listeners: list[Listener]
    preferences: dict[Question, list[Preference]]
    agreements: list[Agreement]
    skips: SkipReport = field(default_factory=SkipReport)

    def to_json(self) -> dict[str, Any]:
        """Every number, as in `score.json`."""
        return {
            "test": self.key.test,
            "baseline": self.key.baseline,
            "listeners": [{**asdict(listener), "attentive": listener.attentive} for listener in self.listeners],
            "preferences": {
                question: [{**asdict(preference), "decided": preference.decided} for preference in found]
                for question, found in self.preferences.items()
            },
            "agreement_with_metrics": [asdict(agreement) for agreement in self.agreements],
            "skipped": [{"item": skip.item, "reason": skip.reason} for skip in self.skips.skipped],
        }


def load_key(test: str | Path) -> TestKey:
    """The key of a test's folder (or the file itself).

    Raises
    ------
    UserError
        There is none, or it was changed.
    """
    path = Path(test) / KEY_NAME if Path(test).is_dir() else Path(test)
    if not path.exists():
        raise UserError(
            f"there is no listening test in {test}; make one (eisbach listen A/ B/ --out {shlex.quote(str(test))}), or "
            "name the folder of yours with --test."
        )
    key = check_values(TestKey, read_object(path, "key of the listening test"), str(path))
    lost = [token for trial in key.trials for token in (trial.first, trial.second) if token not in key.clips]
    if lost:
        raise UserError(f"{path} names a sound that it does not describe ({lost[0]}); restore the file.")
    return key


def _read_all(files: Sequence[str | Path], key: TestKey) -> tuple[list[tuple[str, VoteFile]], SkipReport]:
    """The files that are votes on this test, and the others with the reason; of two files of one listener the one with
    more answers counts."""
    skips = SkipReport()
    chosen: dict[str, tuple[str, VoteFile]] = {}
    for file in files:
        try:
            votes = check_votes(read_object(file, "file of votes"), str(file), key)
        except UserError as error:
            skips.add(str(file), str(error))
            continue
        before = chosen.get(votes.listener)
        if before is not None:
            smaller = min((before, (str(file), votes)), key=lambda item: len(item[1].pairs))
            skips.add(smaller[0], "is an earlier or second file of a listener who is counted already")
            if smaller[1] is votes:
                continue
        chosen[votes.listener] = (str(file), votes)
    return list(chosen.values()), skips


def check_votes(values: Mapping[str, Any], name: str, key: TestKey) -> VoteFile:
    """Votes as plain values, held against the test that they are about.

    Parameters
    ----------
    values : mapping
    name : str
        What they are called in a message.

    Raises
    ------
    UserError
        They are no votes, on another test, or answer what this one does not ask.
    """
    votes = check_values(VoteFile, values, name)
    if votes.test != key.test:
        raise UserError(f"{name} holds votes on another test ({votes.test[:20]}, not {key.test}).")
    trials = {trial.id: trial for trial in key.trials}
    twice = [trial for trial, count in Counter(pair.trial for pair in votes.pairs).items() if count > 1]
    if twice:
        raise UserError(f"{name} was changed by hand: pair {twice[0][:20]} is answered twice.")
    for pair in votes.pairs:
        trial = trials.get(pair.trial)
        if trial is None or {pair.A, pair.B} != {trial.first, trial.second}:
            raise UserError(f"{name} was changed by hand: pair {pair.trial[:20]} is none of the test's.")
        if set(pair.answers) - set(key.questions):
            raise UserError(f"{name} was changed by hand: it answers what the test does not ask.")
    return votes


def score_votes(test: str | Path, files: Sequence[str | Path], *, seed: int = 0) -> ListeningScore:
    """Preferences by question, the attention of each listener, and how votes agree with the structure metrics.

    Only attentive listeners' answers count, to pairs of which both sides were heard; repeats and anchors do not.

    Parameters
    ----------
    test : path
        The folder that `listen` wrote.
    files : sequence of path
        Files of votes; a folder stands for the JSON files in it.

    Raises
    ------
    UserError
        No file holds votes on this test, or no listener was attentive.
    """
    key = load_key(test)
    names = [name for file in files for name in (sorted(Path(file).glob("*.json")) if Path(file).is_dir() else [file])]
    read, skips = _read_all(names, key)
    if not read:
        reason = skips.skipped[0].reason if skips.skipped else "there is no file"
        raise UserError(f"no file holds votes on this test: {reason}")
    listeners = []
    answers: dict[Question, list[tuple[Vote, Trial]]] = {question: [] for question in key.questions}
    for file, votes in read:
        listener = _attention(Path(file).name, votes, key)
        listeners.append(listener)
        if not listener.attentive:
            right = f"{listener.anchors_right} of {listener.anchors}"
            skips.add(file, f"the listener told a loop from its original in {right} answers; the votes do not count")
            continue
        for question in key.questions:
            answers[question].extend(_votes(votes, question, key))
    if not any(answers.values()):
        raise UserError("no votes count: no attentive listener answered a pair after hearing both sides.")
    found: dict[Question, list[Preference]] = {}
    agreements = []
    for question in key.questions:
        direct = [vote for vote, _ in answers[question]]
        arms = {arm for vote in direct for arm in (vote.first, vote.second)}
        found[question] = (
            preferences(direct, key.baseline, random_stream(seed, "votes", question)) if key.baseline in arms else []
        )
        agreements += _agreements(question, answers[question], key, seed)
    return ListeningScore(key, listeners, found, agreements, skips)


def votes_about(test: str | Path, names: Sequence[str], *, seed: int = 0) -> ListeningScore:
    """The score of a listening test that compared the sets of a page.

    Parameters
    ----------
    test : path
        The test's folder, with the files of votes in its `votes/` (where `listen serve` collects them).
    names : sequence of str
        What the page calls its sets.

    Raises
    ------
    UserError
        There is no such test, nobody has voted, or it compared sets that are not on the page.
    """
    folder = Path(test)
    key = load_key(folder)
    missing = [arm for arm in key.arms if arm not in names]
    if missing:
        raise UserError(
            f"the listening test {folder} compared {', '.join(key.arms)}, and the page is about {', '.join(names)}: "
            f"there is no {missing[0]}; name the folders as the test has them (NAME=PATH), or another test."
        )
    if not any(folder.glob("votes/*.json")):
        raise UserError(
            f"nobody has voted yet: {folder / 'votes'} holds no .json file; put the listeners' files there."
        )
    return score_votes(folder, [folder / "votes"], seed=seed)


def _chosen(pair: _Pair, answer: str) -> str | None:
    """The sound that was chosen; None for 'no difference'."""
    return None if answer == "none" else pair.A if answer == "A" else pair.B


def _heard(pair: _Pair) -> bool:
    return min(pair.heard.get("A", 0.0), pair.heard.get("B", 0.0)) >= _HEARD


def _attention(name: str, votes: VoteFile, key: TestKey) -> Listener:
    trials = {trial.id: trial for trial in key.trials}
    pairs = {pair.trial: pair for pair in votes.pairs}
    counts: Counter[str] = Counter()
    for pair in votes.pairs:
        trial = trials[pair.trial]
        counts["answered"] += trial.kind == "pair" and _heard(pair)
        for question, truth in trial.answers.items():
            if question in pair.answers:
                counts["anchors"] += 1
                counts["right"] += _chosen(pair, pair.answers[question]) == truth
        first = pairs.get(trial.of or "")
        for question in set(pair.answers) & set(first.answers if first else ()):
            counts["repeats"] += 1
            counts["equal"] += _chosen(pair, pair.answers[question]) == _chosen(first, first.answers[question])  # type: ignore[arg-type,union-attr]
    return Listener(name, counts["answered"], counts["right"], counts["anchors"], counts["equal"], counts["repeats"])


def _votes(votes: VoteFile, question: Question, key: TestKey) -> list[tuple[Vote, Trial]]:
    trials = {trial.id: trial for trial in key.trials if trial.kind == "pair"}
    result = []
    for pair in votes.pairs:
        trial = trials.get(pair.trial)
        if trial is None or question not in pair.answers or not _heard(pair):
            continue
        chosen = _chosen(pair, pair.answers[question])
        share = 0.5 if chosen is None else float(chosen == trial.first)
        first, second = key.clips[trial.first], key.clips[trial.second]
        result.append((Vote(votes.listener, first.prompt, first.arm, second.arm, share), trial))
    return result


def _agreements(question: Question, answers: Sequence[tuple[Vote, Trial]], key: TestKey, seed: int) -> list[Agreement]:
    from eisbach.structure import METRICS

    rows = []
    for metric in METRICS:
        signs = []
        for _, trial in answers:
            first, second = (key.clips[token].metrics.get(metric) for token in (trial.first, trial.second))
            signs.append(float("nan") if first is None or second is None else first - second)
        votes = [vote for vote, _ in answers]
        share, low, high, count = share_for(signs, votes, random_stream(seed, question, metric), 199)
        if count:
            rows.append(Agreement(metric, question, share, low, high, count))
    return rows
