"""The allocation's picture: what is drawn, checked on the figure's own objects, and its mistakes."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eisbach.errors import UserError
from eisbach.report import allocation_figure
from eisbach.report.allocation_figure import (
    Curve,
    allocation_picture,
    draw_curves,
    noise_level_axis,
    panels_over_log_snr,
)
from eisbach.weighting.allocation import allocation

GRID = torch.linspace(-8, 8, 161, dtype=torch.float64)


def made(*names, density="logit_normal"):
    return [allocation(name, density, "linear", "u", log_snr=GRID) for name in names]


@pytest.fixture
def figures(monkeypatch):
    """The figures that were saved, before they became bytes."""
    kept = []
    save = allocation_figure.save
    monkeypatch.setattr(allocation_figure, "save", lambda figure, *rest: kept.append(figure) or save(figure, *rest))
    return kept


def labels(panel):
    return [text.get_text() for text in panel.texts]


def lines(panel):
    """Drawn curves: what is not a label's stroke, a leader or the grey outline."""
    return [line for line in panel.lines if len(line.get_xdata()) > 2]


@pytest.mark.whole
def test_three_panels_hold_weight_draws_and_effort(figures, tmp_path: Path):
    found = made("min_snr", "erd")
    png = allocation_picture(found, ["one", "two"], out=tmp_path / "a.png", title="both")
    assert (tmp_path / "a.png").read_bytes() == png
    assert len(png) < 150_000
    image = Image.open(io.BytesIO(png))
    assert image.width > 900
    assert png == allocation_picture(found, ["one", "two"], title="both"), "the same picture gives the same bytes"
    weight, draws, effort = figures[0].axes[:3]
    for line, one in zip(lines(weight), found, strict=True):
        x = line.get_xdata()
        kept = np.isin(one.log_snr.numpy(), x)
        np.testing.assert_array_equal(line.get_ydata(), one.weight.numpy()[kept])
        assert one.draws.numpy()[kept].sum() > 0.995 * one.draws.numpy().sum()
    assert {"one", "two"} <= set(labels(weight))
    assert {"one", "two"} <= set(labels(effort))
    assert "logit_normal(m=0, s=1)" in draws.get_title(loc="left")
    assert figures[0].get_suptitle() == "both"
    assert weight.get_xlim() == effort.get_xlim()


def test_equal_curves_share_a_line_and_a_label(figures):
    allocation_picture(made("constant", "sigma_sqrt", "min_snr"))
    weight = figures[0].axes[0]
    assert len(lines(weight)) == 2
    assert "constant = sigma_sqrt" in labels(weight)


def test_several_densities_are_drawn_as_curves(figures):
    allocation_picture([*made(None), *made(None, density="uniform")], ["a", "b"])
    weight, draws, _ = figures[0].axes[:3]
    assert "the same for all" in labels(weight)
    assert {"a", "b"} <= set(labels(draws))


def test_labels_do_not_touch():
    figure, (panel,) = panels_over_log_snr(1)
    x = np.linspace(-1, 1, 9)
    draw_curves(panel, [Curve(f"curve {i}", x, np.full(9, 1 + 1e-3 * i), i) for i in range(8)], "close", log=True)
    figure.draw_without_rendering()
    boxes = sorted((t.get_window_extent() for t in panel.texts), key=lambda box: box.y0)
    assert all(a.y1 <= b.y0 + 1.5 for a, b in itertools.pairwise(boxes))
    styles = {(line.get_color(), str(line._dash_pattern)) for line in lines(panel)}
    assert len(styles) == 8, "every curve can be told apart"


def test_the_second_axis_says_the_noise_level():
    _, (panel,) = panels_over_log_snr(1)
    t = torch.sigmoid(-GRID / 2)
    panel.set_xlim(-8, 8)
    noise_level_axis(panel, GRID.numpy(), t.numpy())
    (top,) = panel.child_axes
    places = {text.get_text(): x for x, text in zip(top.get_xticks(), top.get_xticklabels(), strict=True)}
    assert places["0.5"] == pytest.approx(0, abs=1e-6)
    assert places["0.1"] == pytest.approx(2 * np.log(9), abs=1e-3)
    gaps = np.diff(sorted(places.values()))
    assert gaps.min() > 0.05 * 16


def test_mistakes():
    with pytest.raises(UserError, match="1 to 12 allocations, not 0"):
        allocation_picture([])
    with pytest.raises(UserError, match="one for each"):
        allocation_picture(made("min_snr"), ["a", "b"])
    with pytest.raises(UserError, match="share path and target"):
        allocation_picture([*made("min_snr"), allocation("min_snr", "logit_normal", "linear", "eps", log_snr=GRID)])
    with pytest.raises(UserError, match="same points"):
        allocation_picture([*made("min_snr"), allocation("erd", "logit_normal", "linear", "u")])
