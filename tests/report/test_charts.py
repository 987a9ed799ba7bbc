import re
import xml.etree.ElementTree as ET
from importlib import resources

import pytest

from eisbach.experiments.measures import FLAT
from eisbach.report.charts import COLOURS, Series, arms_chart, curves_chart, nice_ticks
from eisbach.report.structure.style import line_style
from eisbach.statistics.records import MetricInfo
from eisbach.statistics.results import ArmSummary

LEVEL = MetricInfo("level", "level & <range>", unit="dB")


def circles(svg, kind):
    return [node for node in ET.fromstring(svg).iter("circle") if node.get("class") == kind]


def test_arms_chart_places_means_points_and_says_it_in_words():
    summaries = [
        ArmSummary("a", "is_flat", 0.5, (0.25, 0.75), {"p0": 0.0, "p1": 1.0}, 4),
        ArmSummary("b", "is_flat", 0.0, None, {"p0": 0.0, "p1": 0.0}, 4),
    ]
    svg = arms_chart(FLAT, summaries, {"a": "Arm <A>", "b": "B"})
    assert len(circles(svg, "dot")) == 4
    middle, left = (float(node.get("cx").rstrip("%")) for node in circles(svg, "mean"))
    assert middle == pytest.approx(50.0)
    assert left == pytest.approx(2.5)
    label = ET.fromstring(svg).get("aria-label")
    assert "Arm <A> 2 of 4 (95% interval 25% to 75%)" in label
    coincident = [node.get("cy") for node in circles(svg, "dot")[2:]]
    assert len(set(coincident)) == 2  # dots on one spot are fanned out


def test_arms_chart_survives_gaps_and_is_empty_without_values():
    nan = float("nan")
    assert arms_chart(LEVEL, [ArmSummary("a", "level", nan, None, {}, 0)], {}) == ""
    svg = arms_chart(
        LEVEL, [ArmSummary("a", "level", nan, None, {}, 0), ArmSummary("b", "level", 3.0, None, {"p": 3.0}, 1)], {}
    )
    assert "nan" not in svg
    assert len(circles(svg, "mean")) == 1


def test_curves_leave_out_what_is_not_finite_and_thin_long_runs():
    nan = float("nan")
    svg = curves_chart([Series("A & B", list(range(5000)), [1.0 + 1 / (i + 1) for i in range(5000)])], "step", "loss")
    chart = ET.fromstring(svg[: svg.index("<ul")])
    (line,) = list(chart.iter("polyline"))
    points = line.get("points").split()
    assert len(points) < 450
    assert points[0].startswith("0.0,")
    assert points[-1].startswith("1000.0,")
    assert "A &amp; B" in svg
    assert curves_chart([Series("x", [0, 1], [nan, float("inf")])], "step", "loss") == ""
    assert "nan" not in curves_chart([Series("x", [0, 1, 2], [1.0, nan, 2.0])], "step", "loss")


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (0.003, 0.0071), (-12.0, 57.0), (5.0, 5.0), (0.0, 0.0), (99_000.0, 1e6)]
)
def test_ticks_are_round_ascending_and_enclose(low, high):
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(ticks)
    assert ticks[0] <= low + 1e-9
    assert ticks[-1] >= high - 1e-9


def test_every_set_is_told_from_every_other_and_has_the_style_sheet_s_colour():
    curves = curves_chart([Series(str(n), [0, 1], [n, n], n) for n in range(30)], "step", "loss")
    classes = [node.get("class") for node in ET.fromstring(f"<div>{curves}</div>").iter("polyline")]
    assert len(set(classes)) == 30
    rows = arms_chart(LEVEL, [ArmSummary(str(n), "level", n, None, {"p": n}, 1) for n in range(12)], {})
    assert len({node.get("class") for node in ET.fromstring(rows).iter("g") if node.get("class")}) == 12
    lines = [line_style(n) for n in range(30)]
    assert len({(line["color"], str(line["linestyle"])) for line in lines}) == 30
    sheet = (resources.files("eisbach.report") / "templates" / "style.css").read_text()
    light, dark = (dict(re.findall(r"--a(\d+): (#[0-9a-f]{6})", part)) for part in sheet.split("prefers-color-scheme"))
    assert light == {str(n): colour for n, colour in enumerate(COLOURS)}
    assert list(dark) == list(light)
    assert len(set(dark.values())) == len(dark)
    for n in light:
        assert f".arm-{n} {{ --c: var(--a{n}); }}" in sheet
