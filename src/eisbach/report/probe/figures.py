"""The pictures of a probe in the page's order: levels, what the weights follow, labels, losses and gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from eisbach.diagnostics.probe.explain import Explanation
from eisbach.diagnostics.probe.grid import make_grid
from eisbach.diagnostics.probe.result import ProbeResult
from eisbach.report.page import PagePicture
from eisbach.report.probe.driver_figures import drivers_picture, loudness_picture
from eisbach.report.probe.gradient_figures import gradient_levels_picture, gradients_picture
from eisbach.report.probe.label_figures import auc_picture, belief_loss_picture, labels_picture
from eisbach.report.probe.level_figures import levels_picture, variance_picture


def probe_pictures(result: ProbeResult, explanation: Explanation) -> list[PagePicture]:
    """Every picture that this probe has the numbers for, in the page's order."""
    grid = make_grid(result.rows)
    makers: Sequence[Callable[[], PagePicture | None]] = (
        lambda: levels_picture(explanation),
        lambda: drivers_picture(explanation),
        lambda: loudness_picture(grid, explanation),
        lambda: variance_picture(explanation),
        lambda: labels_picture(grid, explanation),
        lambda: auc_picture(explanation),
        lambda: belief_loss_picture(explanation),
        lambda: gradients_picture(explanation),
        lambda: gradient_levels_picture(explanation),
    )
    return [picture for picture in (make() for make in makers) if picture is not None]
