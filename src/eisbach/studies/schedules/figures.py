"""The study's picture: quality against number of steps, a panel a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

COLOURS = {
    "uniform": "C0", "log_snr": "C1", "karras": "C2", "entropic": "C3", "rescaled_entropic": "C4", "sa3": "C5"
}  # fmt: skip


def steps_picture(comparisons: dict[str, Any], out: Path) -> None:
    """Draws the comparisons that have numbers into a PNG; `entropic` is in records from before it left."""
    from matplotlib.figure import Figure

    shown = [(key, one) for key, one in comparisons.items() if one]
    figure = Figure(figsize=(4.2 * len(shown), 3.6), layout="constrained")
    for axes, (key, one) in zip(np.atleast_1d(figure.subplots(1, len(shown))), shown, strict=True):
        for name, curve in one["schedules"].items():
            colour = COLOURS[name]
            axes.plot(curve["steps"], curve["mean"], marker="o", markersize=3, label=name, color=colour)
            axes.fill_between(curve["steps"], curve["low"], curve["high"], alpha=0.15, color=colour, lw=0)
        above_0 = all(min(curve["low"]) > 0 for curve in one["schedules"].values())  # an unbiased distance may not be
        axes.set(xscale="log", yscale="log" if above_0 else "linear", xlabel="steps", title=key)
        axes.set_xticks(curve["steps"], [str(step) for step in curve["steps"]], minor=False)
        axes.minorticks_off()
        axes.legend(fontsize=7)
    figure.savefig(out, dpi=110)
