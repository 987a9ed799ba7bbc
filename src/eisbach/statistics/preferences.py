"""Votes between pairs: strengths of arms (Bradley and Terry 1952), intervals for listeners and prompts as samples, and
how many more votes would decide.

A vote says which of two clips of one prompt a listener chose; 'no difference' counts half for each side. Listeners and
prompts both stand for more of their kind, so an estimate's variance is that over listeners drawn anew plus that over
prompts drawn anew less that over single votes, which both of them hold (Cameron, Gelbach & Miller 2011, for two-way
clusters; here by the bootstrap). Drawing both at once would count the votes' own spread three times (Owen 2007).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

_PRIOR = 0.5
"""Votes of 'no difference' added between every two arms that met: strengths stay finite where all votes agree."""
_POWER = 0.8
_MOST_LISTENERS = 10_000


@dataclass(frozen=True)
class Vote:
    """One answer.

    Attributes
    ----------
    listener, prompt : str
        What the two random effects are; a prompt's seeds belong to it.
    first, second : str
        The two arms.
    share : float
        1 where the first was chosen, 0 the second, 0.5 for 'no difference'.
    """

    listener: str
    prompt: str
    first: str
    second: str
    share: float


@dataclass(frozen=True)
class Preference:
    """How often `arm` would be chosen over `baseline`.

    Attributes
    ----------
    share : float
        Expected share of votes, 0-1, 'no difference' counting half (Bradley-Terry over all arms).
    low, high : float or None
        95% interval for other listeners and other prompts; None with fewer than two of either.
    votes, no_difference : int
        Direct meetings of the two, and how many of them were called equal.
    listeners, prompts : int
        Of the direct meetings.
    more_listeners : int or None
        Further listeners of the same prompts with which a share as seen would be told from a half in 80% of tests; 0
        when it is told apart already, None when no number of them would do it and more prompts are needed.
    """

    arm: str
    baseline: str
    share: float
    low: float | None
    high: float | None
    votes: int
    no_difference: int
    listeners: int
    prompts: int
    more_listeners: int | None

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out a half."""
        return self.low is not None and self.high is not None and (self.low > 0.5 or self.high < 0.5)


def strengths(wins: np.ndarray) -> np.ndarray:
    """Log strengths of arms that sum to zero, [shape=(..., K)].

    Parameters
    ----------
    wins : np.ndarray [shape=(..., K, K)]
        `wins[..., i, j]`: votes for arm i over arm j, halves allowed. Arms that never met are tied through the others;
        an arm that met nobody gets strength 0.

    Examples
    --------
    >>> import numpy as np
    >>> strengths(np.array([[0.0, 30.0], [10.0, 0.0]])).round(2)
    array([ 0.54, -0.54])
    """
    met = (wins + np.swapaxes(wins, -1, -2)) > 0
    padded = wins + 0.5 * _PRIOR * met
    if wins.shape[-1] == 2:  # the closed form
        with np.errstate(invalid="ignore", divide="ignore"):
            half = 0.5 * np.log(padded[..., 0, 1] / padded[..., 1, 0])
        half = np.where(met[..., 0, 1], half, 0.0)
        return np.stack([half, -half], axis=-1)
    flat = [
        _connected(padded_wins, seen)
        for padded_wins, seen in zip(
            padded.reshape(-1, *wins.shape[-2:]), met.reshape(-1, *wins.shape[-2:]), strict=True
        )
    ]
    return np.array(flat).reshape(wins.shape[:-1])


def _connected(padded: np.ndarray, met: np.ndarray) -> np.ndarray:
    """Strengths of one table of votes, group by group of arms that hang together."""
    import choix

    theta = np.zeros(len(padded))
    for group in _groups(met):
        if len(group) > 1:
            theta[group] = choix.ilsr_pairwise_dense(padded[np.ix_(group, group)])
    return np.asarray(theta - theta.mean())


def _groups(met: np.ndarray) -> list[list[int]]:
    """Arms connected through their meetings."""
    from scipy.sparse.csgraph import connected_components

    count, label = connected_components(met, directed=False)
    return [np.flatnonzero(label == number).tolist() for number in range(count)]


def preferences(
    votes: Sequence[Vote], baseline: str, rng: np.random.Generator, n_resamples: int = 999
) -> list[Preference]:
    """Each other arm against the baseline, by all votes together.

    The interval is the estimate on the log-odds scale plus and minus Student's quantile (degrees of freedom: the
    smaller number of listeners or prompts, less one) times the error of the module's head.

    Parameters
    ----------
    votes : sequence of Vote
        Of one question.
    baseline : str
    rng : np.random.Generator

    Raises
    ------
    ValueError
        The baseline is in no vote.
    """
    table = _VoteTable(votes)
    if baseline not in table.arms:
        raise ValueError(f"no vote is about '{baseline}'; arms: {', '.join(table.arms)}")
    base = table.arms.index(baseline)
    others = [index for index in range(len(table.arms)) if index != base]

    def log_odds(weights: np.ndarray) -> np.ndarray:
        theta = strengths(table.wins(weights))
        return np.asarray(theta[:, others] - theta[:, [base]])

    seen = log_odds(np.ones((1, len(table.votes))))[0]
    variance, by_listener, by_prompt = table.variances(log_odds, rng, n_resamples)
    results = []
    for place, index in enumerate(others):
        direct = [vote for vote in votes if {vote.first, vote.second} == {baseline, table.arms[index]}]
        listeners, prompts = len({vote.listener for vote in direct}), len({vote.prompt for vote in direct})
        low = high = more = None
        if min(listeners, prompts) > 1:
            half = _t_quantile(min(listeners, prompts) - 1) * float(variance[place]) ** 0.5
            low, high = _share(float(seen[place]) - half), _share(float(seen[place]) + half)
            told = low > 0.5 or high < 0.5
            more = 0 if told else _more(float(seen[place]), by_listener[place], by_prompt[place], listeners)
        share = _share(float(seen[place]))
        equal = sum(vote.share == 0.5 for vote in direct)
        results.append(
            Preference(table.arms[index], baseline, share, low, high, len(direct), equal, listeners, prompts, more)
        )
    return results


def share_for(
    signs: Sequence[float], votes: Sequence[Vote], rng: np.random.Generator, n_resamples: int = 999
) -> tuple[float, float | None, float | None, int]:
    """How often votes agree with a number that was measured of both clips: share, 95% interval, votes counted.

    Parameters
    ----------
    signs : sequence of float
        One a vote: above 0 where the number is higher for the vote's first clip, below 0 for its second; 0 and NaN
        leave the vote out, and so does 'no difference'.
    """
    chosen = [
        (vote, 0.5 + 0.5 * np.sign(sign) * (2.0 * vote.share - 1.0))
        for sign, vote in zip(signs, votes, strict=True)
        if np.isfinite(sign) and sign != 0.0 and vote.share != 0.5
    ]
    if not chosen:
        return float("nan"), None, None, 0
    table = _VoteTable([vote for vote, _ in chosen])
    agrees = np.array([value for _, value in chosen])

    def mean(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):  # no vote drawn
            return np.asarray((weights @ agrees / weights.sum(axis=1))[:, None])

    seen = float(agrees.mean())
    smaller = min(len(table.listeners), len(table.prompts))
    if smaller < 2:
        return seen, None, None, len(chosen)
    half = _t_quantile(smaller - 1) * float(table.variances(mean, rng, n_resamples)[0][0]) ** 0.5
    return seen, max(0.0, seen - half), min(1.0, seen + half), len(chosen)


class _VoteTable:
    """Votes with their listeners, prompts and arms as numbers."""

    def __init__(self, votes: Sequence[Vote]) -> None:
        self.votes = list(votes)
        self.arms = sorted({arm for vote in votes for arm in (vote.first, vote.second)})
        self.listeners = sorted({vote.listener for vote in votes})
        self.prompts = sorted({vote.prompt for vote in votes})
        self._listener = np.array([self.listeners.index(vote.listener) for vote in votes], dtype=np.intp)
        self._prompt = np.array([self.prompts.index(vote.prompt) for vote in votes], dtype=np.intp)
        self._first = np.array([self.arms.index(vote.first) for vote in votes], dtype=np.intp)
        self._second = np.array([self.arms.index(vote.second) for vote in votes], dtype=np.intp)
        self._share = np.array([vote.share for vote in votes], dtype=np.float64)

    def wins(self, weights: np.ndarray) -> np.ndarray:
        """Weighted votes of each arm over each other, [shape=(R, K, K)]; weights [shape=(R, votes)]."""
        size = len(self.arms)
        votes = np.arange(len(self.votes))
        ballots = np.zeros((len(self.votes), size, size))
        ballots[votes, self._first, self._second] = self._share
        ballots[votes, self._second, self._first] = 1.0 - self._share
        return np.asarray(np.tensordot(weights, ballots, axes=1))

    def variances(
        self, estimate: Callable[[np.ndarray], np.ndarray], rng: np.random.Generator, n_resamples: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Variance of an estimate for new listeners and prompts together, for new listeners, and for new prompts.

        `estimate` takes weights of the votes, [shape=(R, votes)], and gives [shape=(R, K)].
        """
        by_listener, by_prompt, by_vote = (
            np.nanvar(estimate(_drawn(int(units.max()) + 1, n_resamples, rng)[:, units]), axis=0, ddof=1)
            for units in (self._listener, self._prompt, np.arange(len(self.votes)))
        )
        both = np.maximum(by_listener + by_prompt - by_vote, np.maximum(by_listener, by_prompt))
        return both, by_listener, by_prompt


def _drawn(count: int, times: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of `count` is drawn in `count` draws with replacement, [shape=(times, count)]."""
    return rng.multinomial(count, np.full(count, 1.0 / count), size=times).astype(np.float64)


def _more(log_odds: float, by_listener: float, by_prompt: float, listeners: int) -> int | None:
    """Listeners that are still missing; the prompts' share of the variance stays whoever listens."""
    from scipy.stats import norm

    wanted = abs(log_odds) / float(norm.ppf(0.975) + norm.ppf(_POWER))
    room = wanted**2 - float(by_prompt)
    if room <= 0.0:
        return None
    needed = int(np.ceil(listeners * float(by_listener) / room))
    return None if needed > _MOST_LISTENERS else max(1, needed - listeners)


def _share(log_odds: float) -> float:
    return float(1.0 / (1.0 + np.exp(-log_odds)))


def _t_quantile(df: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, df))
