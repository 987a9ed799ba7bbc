"""The measured curve: H[Z | X_t] over noise levels, as a file that sampling schedules and gates are built from.

**File** (JSON, `SignatureCurve.save`): the attributes below by name, plus ``"format": "eisbach-signature-curve"`` and
``"version": 1``. Lists run from noise to data (t falls). ``log_snr`` is null where SNR is 0. Everything is in nats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from eisbach.config import check_values
from eisbach.errors import UserError
from eisbach.files import read_json, write_json

FORMAT, VERSION = "eisbach-signature-curve", 1


@dataclass(frozen=True)
class HalfTime:
    """Where half of the prior entropy is gone, read between levels by linear interpolation in t.

    Attributes
    ----------
    t, log_snr : float or None
        None when the curve never falls to one half.
    t_lo, t_hi, log_snr_lo, log_snr_hi : float or None
        95% interval over trajectories; None without one, or when a part of the resamples never falls to one half.
    """

    t: float | None = None
    t_lo: float | None = None
    t_hi: float | None = None
    log_snr: float | None = None
    log_snr_lo: float | None = None
    log_snr_hi: float | None = None


@dataclass(frozen=True)
class SignatureCurve:
    """H[Z | X_t] (or a cross-entropy) of one partition by one estimator.

    Attributes
    ----------
    partition : str
        What Z is: "classes", or the name of a partition into groups.
    groups : list of str
        Names of Z's values.
    estimator : "exact", "chain", "rate" or "statistic"
    quantity : "entropy" or "cross-entropy"
        A cross-entropy wherever trajectories were guided: they do not follow the distribution that the posterior is of.
    prior_entropy : float
        H[Z], nats: the value at pure noise.
    t, log_snr : list of float
        From noise to data; null for a log-SNR of minus infinity.
    entropy, entropy_lo, entropy_hi : list of float
        Mean over trajectories and its 95% interval. The chain's mean is extrapolated to no discretisation (2 fine -
        coarse), so it may leave [0, H[Z]] by that correction's error; it is not clipped.
    rate, rate_lo, rate_hi : list of float
        dH/dt, nats per unit of t (positive where moving towards the data decides Z).
    half : HalfTime
    path : str
    path_options : dict
        Options that build the path by its name; a discrete path has its table here.
    fine, coarse : list of float
        The chain's readings without extrapolation, with every step and with every second; empty for other estimators.
    meta : dict
        Model identity, numbers of steps and trajectories, guidance, seed, versions.
    """

    partition: str
    groups: list[str]
    estimator: str
    quantity: str
    prior_entropy: float
    t: list[float]
    log_snr: list[float | None]
    entropy: list[float]
    entropy_lo: list[float]
    entropy_hi: list[float]
    rate: list[float]
    rate_lo: list[float]
    rate_hi: list[float]
    half: HalfTime
    path: str
    path_options: dict[str, Any] = field(default_factory=dict)
    fine: list[float] = field(default_factory=list)
    coarse: list[float] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The file's content."""
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    def save(self, path: str | Path) -> None:
        """Writes the curve as JSON, atomically."""
        write_json(path, self.to_json())

    @classmethod
    def from_json(cls, values: Mapping[str, Any], source: str = "the curve") -> SignatureCurve:
        """The curve of a file's content.

        Raises
        ------
        UserError
            Another format, missing or unknown fields, something else than numbers, lists of different lengths, or
            levels that do not fall.
        """
        if not isinstance(values, Mapping) or values.get("format") != FORMAT or values.get("version") != VERSION:
            raise UserError(f"{source} is not a measured signature (format '{FORMAT}', version {VERSION} is expected).")
        given = {key: value for key, value in values.items() if key not in ("format", "version")}
        known = {item.name for item in fields(cls)}
        if given.keys() != known:
            odd = sorted(given.keys() ^ known)
            raise UserError(f"{source} has missing or unknown fields: {', '.join(odd)}; measure it again.")
        if not isinstance(given["half"], Mapping) or given["half"].keys() != asdict(HalfTime()).keys():
            raise UserError(f"{source} has a half time without its fields; measure it again.")
        lists = [
            key
            for key in ("t", "log_snr", "entropy", "entropy_lo", "entropy_hi", "rate")
            if not _numbers(given[key], key)
        ]
        if lists or not _numbers([given["prior_entropy"]], "prior_entropy"):
            raise UserError(f"{source} needs finite numbers in '{(lists or ['prior_entropy'])[0]}'; measure it again.")
        curve = check_values(cls, given, source)
        rows: list[list[Any]] = [curve.log_snr, curve.entropy, curve.entropy_lo, curve.entropy_hi, curve.rate]
        if len(curve.t) < 2 or any(len(row) != len(curve.t) for row in rows):
            raise UserError(f"{source} has lists of different lengths or fewer than 2 noise levels; measure it again.")
        if any(later >= earlier for earlier, later in pairwise(curve.t)):
            raise UserError(f"{source} has noise levels that do not fall from noise to data; measure it again.")
        return curve


def _numbers(row: object, key: str) -> bool:
    """Whether `row` is a list of finite numbers; a log-SNR may be null."""
    return isinstance(row, list) and all(
        (value is None and key == "log_snr")
        or (isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value))
        for value in row
    )


def load_curve(path: str | Path) -> SignatureCurve:
    """The curve saved at `path`; `UserError` when it is missing, malformed or something else."""
    return SignatureCurve.from_json(read_json(path, "signature curve"), str(path))


def finite_or_none(value: float) -> float | None:
    """`value`, or None where JSON has no number for it."""
    return value if math.isfinite(value) else None
