"""What is known of an adapter without playing it: its file, its run's recipe and set, and where it can be played.

Nothing here says where anything lay: paths of the machine that trained are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from eisbach.adapters import convert
from eisbach.adapters.effect import Effect
from eisbach.adapters.formats.low_rank import Differences, LowRankAdapter
from eisbach.config import read_yaml
from eisbach.errors import UserError, one_line
from eisbach.report.passport.hosts import Host, known_hosts

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")
_LOCAL = "(a local path)"
_LEFT_OUT = ("out", "device", "tensorboard", "trackers", "log_every")
_WORTH = 0.1  # of the largest effect: at levels with less the adapter need not act


@dataclass(frozen=True)
class TrainingSet:
    """What an adapter was trained on, as counts.

    Attributes
    ----------
    clips : int
    minutes : float or None
    pieces : int or None
        Different pieces that the clips are from, where the manifest says.
    licences : dict of str to int
        Clips by what the manifest says of their licence; empty where it says nothing.
    """

    clips: int
    minutes: float | None = None
    pieces: int | None = None
    licences: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """All that a passport says but for what was heard.

    Attributes
    ----------
    name, kind : str
    rank, layers, parameters : int
    alpha : float
    base : str
        The base's name where it is a public one, else "".
    base_identity : str or None
    steps : int or None
    averaged : bool
    trained_on : TrainingSet or None
    recipe : str
        YAML; "" where the run is not at hand.
    recipe_hash : str or None
    hosts : list of Host
    effect : Effect or None
        None where it was not measured.
    """

    name: str
    kind: str
    rank: int
    alpha: float
    layers: int
    parameters: int
    base: str
    base_identity: str | None
    steps: int | None
    averaged: bool
    trained_on: TrainingSet | None
    recipe: str
    recipe_hash: str | None
    hosts: list[Host]
    effect: Effect | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The noise levels from the lowest to the highest at which the adapter does a tenth of its most at least; None
        where that is not known, or it does nothing."""
        if self.effect is None or self.effect.negligible:
            return None
        levels = sorted(zip(self.effect.levels, self.effect.relative, strict=True))
        most = max(value for _, value in levels)
        acting = [place for place, (_, value) in enumerate(levels) if value >= _WORTH * most]
        low = 0.0 if acting[0] == 0 else levels[acting[0]][0]
        high = 1.0 if acting[-1] == len(levels) - 1 else levels[acting[-1]][0]
        return (low, high) if low < high else (max(0.0, low - 0.05), min(1.0, high + 0.05))


def gather(adapter: str | Path, *, effect: Effect | None = None) -> Facts:
    """The facts of an adapter's file or folder; in the `adapter/` of a run, those of the run too.

    Raises
    ------
    UserError
        It cannot be read, or is no adapter of factors.
    """
    path = Path(adapter)
    read = convert.read(path)
    if isinstance(read, Differences):
        raise UserError(f"{path} holds whole differences; a passport is written for LoRA and DoRA adapters.")
    run, stamp = path.resolve().parent, read.stamp
    is_run = path.is_dir() and path.name == "adapter" and (run / "config.yaml").is_file()
    config = read_yaml(run / "config.yaml", "configuration of the run") if is_run else {}
    return Facts(
        name=one_line(run.name if is_run else path.stem if path.is_file() else path.resolve().name),
        kind=read.kind,
        rank=read.rank,
        alpha=read.alpha,
        layers=len(read.layers),
        parameters=_count(read),
        base=_public_name(config.get("model")),
        base_identity=_text(stamp.get("base_identity")),
        steps=stamp["steps"] if isinstance(stamp.get("steps"), int) else None,
        averaged=stamp.get("averaged") is True,
        trained_on=_training_set(config, run, stamp),
        recipe=yaml.safe_dump(without_paths(config), sort_keys=False, allow_unicode=True) if config else "",
        recipe_hash=_text(stamp.get("recipe_hash")),
        hosts=known_hosts(read),
        effect=effect,
    )


def _text(value: Any) -> str | None:
    return one_line(value)[:80] if isinstance(value, str) and value else None


def _count(adapter: LowRankAdapter) -> int:
    return sum(
        value.numel()
        for factors in adapter.layers.values()
        for value in (factors.a, factors.b, factors.magnitude)
        if value is not None
    )


def _public_name(model: Any) -> str:
    """The name of a model that others can get: the embedded one, or one of the hub; "" for a folder."""
    if model == "embedded":
        return "embedded"
    known = isinstance(model, str) and _HUB_ID.fullmatch(model) is not None and not Path(model).exists()
    return str(model) if known else ""


def without_paths(values: Any, key: str = "") -> Any:
    """Plain values with `(a local path)` in place of whatever names a place on this machine."""
    if isinstance(values, Mapping):
        kept = {name: value for name, value in values.items() if key or name not in _LEFT_OUT}
        return {str(name): without_paths(value, f"{key}.{name}") for name, value in kept.items()}
    if isinstance(values, list | tuple):
        return [without_paths(value, key) for value in values]
    if not isinstance(values, str) or (key == ".model" and _public_name(values)):
        return values
    places = (".data.manifest", ".data.cache", ".data.weights", ".data.images.folder", ".model")
    looks = values.startswith(("/", "~", "./", "../", "\\")) or re.match(r"[A-Za-z]:[\\/]", values) is not None
    return _LOCAL if looks or key in places or ("/" in values and Path(values).exists()) else values


def training_rows(config: Mapping[str, Any], run: Path) -> list[Any]:
    """The rows of the manifests that a run trained on; none where they are not at hand."""
    from eisbach.data.manifest import load_manifest

    group = config.get("data")
    sources = group.get("manifest") if isinstance(group, Mapping) else None
    rows: list[Any] = []
    for source in [sources] if isinstance(sources, str) else sources or []:
        try:
            manifest = load_manifest(source, check_files=False)
        except (UserError, OSError):
            return []
        rows += [(manifest.audio_path(row), row) for row in manifest]
    chosen = group.get("select") if isinstance(group, Mapping) else None
    wanted = chosen if isinstance(chosen, Mapping) else {}
    return [pair for pair in rows if all(pair[1].labels.get(key) == value for key, value in wanted.items())]


def _training_set(config: Mapping[str, Any], run: Path, stamp: Mapping[str, Any]) -> TrainingSet | None:
    rows = [row for _, row in training_rows(config, run) if row.split == "train"]
    counted = stamp.get("clips")
    if not rows:
        return TrainingSet(counted) if isinstance(counted, int) else None
    told = (row.labels.get("licence") or row.labels.get("license") for row in rows)
    licences = Counter(one_line(licence)[:80] for licence in told if licence)
    pieces = {row.labels["piece"] for row in rows if row.labels.get("piece")}
    minutes = sum(row.duration for row in rows) / 60.0
    clips = counted if isinstance(counted, int) else len(rows)
    return TrainingSet(clips, minutes, len(pieces) or None, dict(licences.most_common()))
