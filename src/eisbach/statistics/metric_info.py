"""What a reader must know of a measure before its numbers mean anything: its name, unit, direction and meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from eisbach.errors import UserError
from eisbach.statistics.effect_size import Direction


@dataclass(frozen=True)
class MetricInfo:
    """How one column of the records is read.

    Attributes
    ----------
    name : str
        Column.
    label : str
        What people see, lower case.
    unit : str
        'dB', 's', …; empty when it has none.
    better : 'higher', 'lower', 'nearer' or None
        The direction that was declared as wanted; 'nearer' wants small distances to a reference; None describes.
    primary : bool
        Declared before looking: corrected by Holm; everything else is exploratory.
    meaning : str
        One sentence for somebody who has not seen the formula.
    outcome : str
        For a share: what happened to the clips that count, as in '9% of the pieces *came out flat*'.
    share : bool
        The values are true/false, shown as percentages.
    margin : float or None
        Differences smaller than this count as none (for the equivalence test); None takes half a standard deviation
        of the baseline's clips.
    """

    name: str
    label: str
    unit: str = ""
    better: Direction = None
    primary: bool = False
    meaning: str = ""
    outcome: str = ""
    share: bool = False
    margin: float | None = None


def choose_metrics(
    infos: Sequence[MetricInfo],
    names: Sequence[str] = (),
    primary: Sequence[str] | Mapping[str, Direction] = (),
) -> list[MetricInfo]:
    """The metrics named (all when none is), with `primary` declared in place of the defaults when it is given.

    A mapping as `primary` also declares which direction is wanted.

    Raises
    ------
    UserError
        A name that is not among `infos`, or a primary metric that was not chosen.
    """
    known = {info.name: info for info in infos}
    wrong = [name for name in (*names, *primary) if name not in known]
    if wrong:
        raise UserError(
            f"no clip has a value for the metric {', '.join(repr(name) for name in wrong)}; the measured ones are: "
            f"{', '.join(known) or 'none'}."
        )
    chosen = [known[name] for name in dict.fromkeys(names)] if names else list(infos)
    left_out = [name for name in primary if name not in {info.name for info in chosen}]
    if left_out:
        raise UserError(
            f"the primary metric {', '.join(left_out)} is not among the metrics asked for; add it to --metrics."
        )
    if primary:
        chosen = [replace(info, primary=info.name in primary) for info in chosen]
        order = list(primary)
        chosen.sort(key=lambda info: order.index(info.name) if info.primary else len(order))
    if isinstance(primary, Mapping):
        chosen = [replace(info, better=primary.get(info.name, info.better)) for info in chosen]
    return chosen
