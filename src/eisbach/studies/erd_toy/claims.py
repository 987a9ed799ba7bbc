"""The ERD paper's statements on its toy figures, each as a number that can come out either way.

A claim is judged on every path and target that it speaks of; the numbers stand beside the verdict, so that a reader
with another threshold can judge anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

Figures = Mapping[str, Mapping[str, Tensor]]
_Judge = Callable[[Mapping[str, Tensor], int, str], dict[str, Any]]
_Over = Callable[[Sequence[str], _Judge], dict[str, dict[str, Any]]]
_DROP = 10.0  # an eigenvalue that falls by an order of magnitude has dropped
_RISE = 1.5
_ROOM = 0.02  # of the largest value: less is wobble, not a rise
_LOW, _HIGH = 0.1, 0.9


@dataclass(frozen=True)
class Claim:
    """One statement of the paper, judged.

    Attributes
    ----------
    figure : str
    text : str
        The statement.
    test : str
        What was computed and when the statement counts as true.
    cells : dict
        For each 'path target': the numbers and whether it holds there.
    holds, judged : int
        Cells in which it holds, and all.
    """

    figure: str
    text: str
    test: str
    cells: dict[str, dict[str, Any]]

    @property
    def holds(self) -> int:
        """Cells in which the statement holds."""
        return sum(bool(cell["holds"]) for cell in self.cells.values())

    @property
    def judged(self) -> int:
        """Cells in which it was judged."""
        return len(self.cells)

    @property
    def verdict(self) -> str:
        """'holds', 'holds in k of n' or 'does not hold'."""
        if self.holds == self.judged:
            return "holds"
        return f"holds in {self.holds} of {self.judged}" if self.holds else "does not hold"

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "holds": self.holds, "judged": self.judged, "verdict": self.verdict}


def judge_claims(figures: Figures, targets: Sequence[str]) -> list[Claim]:
    """All claims for the figures' paths.

    Parameters
    ----------
    figures : mapping of path to arrays
        `ToyRun.figures`.
    targets : sequence of str
        Order of the arrays' first axis.
    """

    def over(names: Sequence[str], judge: _Judge) -> dict[str, dict[str, Any]]:
        return {
            f"{path} {name}": judge(arrays, targets.index(name), name)
            for path, arrays in figures.items()
            for name in names
            if name in targets
        }

    return [claim for claim in [*_losses_and_features(over, targets), *_kernels(over, targets)] if claim.cells]


def _losses_and_features(over: _Over, targets: Sequence[str]) -> list[Claim]:
    return [
        Claim(
            "7", "The excess of the global model is massive where the Bayes floor is low, for eps as t goes to 1.",
            "mean excess over t > 0.9 above twice the mean over t in [0.1, 0.9]", over(["eps"], _excess_at_the_end),
        ),
        Claim(
            "7", "The excess is smallest where the floor is large.",
            "rank correlation of excess and floor over t below -0.3", over(targets, _excess_against_floor),
        ),
        Claim(
            "7", "Piecewise models come much closer to the floor than the global one.",
            "mean excess of the piecewise models below half of the global model's", over(targets, _piecewise),
        ),
        Claim(
            "3, 8", "eps is dominated by Bayes noise at low noise levels only.",
            "noise norm above signal norm at the first level and below it at the last", over(["eps"], _noise_first),
        ),
        Claim(
            "3, 8", "x0 is dominated by Bayes noise at high noise levels only.",
            "noise norm below signal norm at the first level and above it at the last", over(["x0"], _noise_last),
        ),
        Claim(
            "3, 8", "v and u avoid domination by Bayes noise at a single end.",
            "not exactly one of the two ends has a noise norm above twice the signal norm", over(["v", "u"], _balanced),
        ),
        Claim(
            "9", "Clusters shrink towards the origin as t grows.",
            "features' spread at t = 0.9 below half of that at t = 0.1", over(targets, _shrinks),
        ),
        Claim(
            "9", "Clusters become entangled as t grows.",
            "share of the features' variance between clusters falls below half of that at t = 0.1", over(targets,
            _entangles),
        ),
    ]  # fmt: skip


def _kernels(over: _Over, targets: Sequence[str]) -> list[Claim]:
    return [
        Claim(
            "4, 10", "For x0 and u the top eigenvalue drops monotonically over several orders of magnitude.",
            "first over last above 100 and never a rise of more than 2% of the largest", over(["x0", "u"], _drops),
        ),
        Claim(
            "10", "For eps the top eigenvalue is U-shaped: it falls and rises again at high noise.",
            "the smallest value lies inside, both ends above 1.5 times it", over(["eps"], _u_shape),
        ),
        Claim(
            "10", "The attenuation of the top-3 eigenvalues is universal.",
            "each of the three falls below a tenth of its largest value at some later t", over(targets, _attenuates),
        ),
        Claim(
            "11", "The effective rank collapses as t goes to 1.",
            "rank at the last level below half of the largest", over(targets, _rank_collapse),
        ),
        Claim(
            "12", "The Gram matrix is block diagonal by cluster at t = 0.05.",
            "mean cosine within clusters exceeds that between clusters by 0.3", over(targets, _blocks),
        ),
        Claim(
            "12", "The Gram matrix has lost the clusters at t = 0.95.",
            "the difference of mean cosines at t = 0.95 is below a fifth of that at t = 0.05", over(targets,
            _homogeneous),
        ),
        Claim(
            "12", "The Gram matrix is uniform at t = 0.95: updates are near-identical.",
            "mean cosine between different samples above 0.8 (a threshold set after the first run)", over(targets,
            _uniform),
        ),
        Claim(
            "4", "Noise levels are coupled: updates at one level move the others.",
            "mean normalised joint kernel between the lowest and the highest level above 0.1", over(targets, _coupled),
        ),
    ]  # fmt: skip


def _number(value: Tensor | float) -> float:
    return float(f"{float(value):.4g}")


def _excess_at_the_end(arrays: Mapping[str, Tensor], i: int, _: str) -> dict[str, Any]:
    t, excess = arrays["global/t"], arrays["global/excess"][i]
    # The outermost levels count as the ends where the grid is coarser than a tenth.
    last, first = t >= min(_HIGH, float(t[-1])), t <= max(_LOW, float(t[0]))
    end, middle = excess[last].mean(), excess[~last & ~first].mean()
    floor = arrays["global/floor"][i][last].mean()
    return {
        "end": _number(end), "middle": _number(middle), "over_floor_at_end": _number(end / floor),
        "start": _number(excess[first].mean()), "holds": bool(end > 2 * middle),
    }  # fmt: skip


def _excess_against_floor(arrays: Mapping[str, Tensor], i: int, _: str) -> dict[str, Any]:
    from scipy.stats import spearmanr

    rank = float(spearmanr(arrays["global/excess"][i].numpy(), arrays["global/floor"][i].numpy()).statistic)
    return {"rank_correlation": _number(rank), "holds": rank < -0.3}


def _piecewise(arrays: Mapping[str, Tensor], i: int, _: str) -> dict[str, Any]:
    ratio = arrays["piecewise/excess"][i].mean() / arrays["global/excess"][i].mean()
    return {"ratio": _number(ratio), "holds": bool(ratio < 0.5)}


def _ends(arrays: Mapping[str, Tensor], i: int) -> tuple[float, float]:
    ratio = arrays["phase/noise"][i] / arrays["phase/signal"][i].clamp(min=1e-12)
    return _number(ratio[0]), _number(ratio[-1])


def _noise_first(arrays: Mapping[str, Tensor], i: int, _: str) -> dict[str, Any]:
    first, last = _ends(arrays, i)
    return {"noise_over_signal_first": first, "noise_over_signal_last": last, "holds": first > 1 > last}


def _noise_last(arrays: Mapping[str, Tensor], i: int, _: str) -> dict[str, Any]:
    first, last = _ends(arrays, i)
    return {"noise_over_signal_first": first, "noise_over_signal_last": last, "holds": first < 1 < last}


def _balanced(arrays: Mapping[str, Tensor], i: int, _: str) -> dict[str, Any]:
    first, last = _ends(arrays, i)
    return {
        "noise_over_signal_first": first, "noise_over_signal_last": last, "holds": (first > 2) == (last > 2)
    }  # fmt: skip


def _shrinks(arrays: Mapping[str, Tensor], i: int, _: str) -> dict[str, Any]:
    spread = arrays["features/spread"][i]
    return {"spread": [_number(v) for v in spread], "holds": bool(spread[-1] < 0.5 * spread[0])}


def _entangles(arrays: Mapping[str, Tensor], i: int, _: str) -> dict[str, Any]:
    share = arrays["features/separation"][i]
    return {"between_share": [_number(v) for v in share], "holds": bool(share[-1] < 0.5 * share[0])}


def _drops(arrays: Mapping[str, Tensor], i: int, _: str) -> dict[str, Any]:
    top = arrays["ntk/top"][i][:, 0]
    rise = (top.diff().clamp(min=0)).max() / top.max()
    return {
        "first": _number(top[0]), "last": _number(top[-1]), "fall": _number(top[0] / top[-1]),
        "largest_rise": _number(rise), "holds": bool(top[0] / top[-1] > _DROP**2 and rise < _ROOM),
    }  # fmt: skip


def _u_shape(arrays: Mapping[str, Tensor], i: int, _: str) -> dict[str, Any]:
    top = arrays["ntk/top"][i][:, 0]
    low = top.min()
    inside = 0 < int(top.argmin()) < len(top) - 1
    return {
        "first": _number(top[0]), "smallest": _number(low), "smallest_at_t": _number(arrays["ntk/t"][top.argmin()]),
        "last": _number(top[-1]), "holds": bool(inside and top[0] > _RISE * low and top[-1] > _RISE * low),
    }  # fmt: skip


def _attenuates(arrays: Mapping[str, Tensor], i: int, _: str) -> dict[str, Any]:
    falls = []
    for mode in range(arrays["ntk/top"].shape[-1]):
        top = arrays["ntk/top"][i][:, mode]
        peak = int(top.argmax())
        falls.append(_number(top[peak:].min() / top[peak]))
    return {"smallest_later_over_peak": falls, "holds": all(fall < 1 / _DROP for fall in falls)}


def _rank_collapse(arrays: Mapping[str, Tensor], i: int, _: str) -> dict[str, Any]:
    rank = arrays["ntk/rank"][i]
    return {
        "first": _number(rank[0]),
        "largest": _number(rank.max()),
        "last": _number(rank[-1]),
        "untrained_last_over_largest": _number(
            arrays["ntk_untrained/rank"][0][-1] / arrays["ntk_untrained/rank"][0].max()
        ),
        "holds": bool(rank[-1] < 0.5 * rank.max()),
    }


def _blocks(arrays: Mapping[str, Tensor], i: int, _: str) -> dict[str, Any]:
    contrast = arrays["ntk/contrast"][i]
    return {"contrast": _number(contrast[0]), "holds": bool(contrast[0] > 0.3)}


def _homogeneous(arrays: Mapping[str, Tensor], i: int, _: str) -> dict[str, Any]:
    contrast = arrays["ntk/contrast"][i]
    return {
        "contrast_low_noise": _number(contrast[0]), "contrast_high_noise": _number(contrast[1]),
        "holds": bool(contrast[1].abs() < 0.2 * contrast[0].abs()),
    }  # fmt: skip


def _uniform(arrays: Mapping[str, Tensor], i: int, _: str) -> dict[str, Any]:
    cosines = arrays["ntk/gram"][i, 1]
    count = len(cosines)
    mean = (cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1))
    return {"mean_cosine": _number(mean), "holds": bool(mean > 0.8)}


def _coupled(arrays: Mapping[str, Tensor], i: int, _: str) -> dict[str, Any]:
    joint = arrays["ntk/joint"][i]
    return {"first_with_last": _number(joint[0, -1]), "mean": _number(joint.mean()), "holds": bool(joint[0, -1] > 0.1)}
