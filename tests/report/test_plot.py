"""Lines with bands and clouds of points lie where their numbers say."""

import re

import pytest

from yarbus.report.estimates import Estimate
from yarbus.report.look import Look
from yarbus.report.plot import (
    LEAST_RANGE,
    MAX_MARKED,
    Cloud,
    Panel,
    Series,
    block_marks,
    cloud_markup,
    legend,
    panel_markup,
    panels,
)

LOOK = Look(["a", "b"], neutral=("a",))


def panel(*series: Series, **more) -> Panel:
    return Panel(title="T", series=list(series), x_title="block", x_marks=[0.0, 1.0], **more)


def line(name: str, *values: Estimate) -> Series:
    return Series(name=name, points=[(float(x), value) for x, value in enumerate(values)])


def test_markers_and_band_stand_at_the_values():
    drawn = panel_markup(panel(line("a", Estimate(0.0, 0.0, 0.5), Estimate(1.0, 0.5, 1.0))), LOOK)
    assert re.findall(r'style="left:([\d.]+)%;top:([\d.]+)%"', drawn) == [("3.00", "100.00"), ("97.00", "0.00")]
    assert 'd="M3.00 50.00L97.00 0.00L97.00 50.00L3.00 100.00Z"' in drawn
    assert 'aria-label="T. a: 0.00 at block 0, 1.00 at 1"' in drawn


def test_one_block_stands_in_the_middle_with_a_whisker():
    drawn = panel_markup(panel(line("a", Estimate(0.5, 0.0, 1.0))), LOOK)
    assert 'style="left:50.00%;top:50.00%"' in drawn
    assert 'd="M50.00 100.00V0.00"' in drawn and 'class="band' not in drawn


def test_levels_are_drawn_and_named_even_between_the_marks():
    drawn = panel_markup(panel(line("a", Estimate(10.0), Estimate(60.0)), levels={0.0: "", 50.0: "unrelated"}), LOOK)
    assert drawn.count('class="grid level"') == 2
    place = re.search(r'class="level-name" style="top:([\d.]+)%">unrelated', drawn).group(1)
    assert f'd="M0 {place}H100" class="grid level"' in drawn


def test_long_lines_are_told_apart_by_dashes_and_short_ones_by_markers():
    values = [Estimate(0.1 * number) for number in range(MAX_MARKED + 1)]
    long, short = (panel_markup(panel(line("b", *some)), LOOK) for some in (values, values[:5]))
    assert "stroke-dasharray" in long and 'class="marker' not in long
    assert "stroke-dasharray" not in short and short.count('class="marker') == 5


def test_values_without_an_interval_have_no_band():
    assert "band" not in panel_markup(panel(line("a", Estimate(0.1), Estimate(0.2))), LOOK)


def test_a_panel_without_a_point_is_left_out():
    assert panels([panel(line("a"))], LOOK) == '<div class="panels"></div>'


def test_a_cloud_keeps_its_points_inside():
    drawn = cloud_markup(Cloud(title="T", points=[(-0.2, 0.5), (0.9, -1.0)], x_title="x", y_title="y", colour="v1"))
    dots = re.search(r'd="((?:M[\d.]+ [\d.]+h0)+)" class="cloud v1"', drawn).group(1)
    assert all(0 <= float(place) <= 100 for place in re.findall(r"[\d.]+(?= |h)", dots))
    assert "2 points of y over x" in drawn


def labels(drawn: str, axis: str) -> list[str]:
    (texts,) = re.findall(rf'class="{axis}" aria-hidden="true">(.*?)</div>', drawn)
    return re.findall(r">([^<]+)</span>", texts)


@pytest.mark.parametrize("ends", [(1 - 1e-6, 1.0), (1.0, 1.0), (1 - 1e-7, 1 + 1e-7), (0.2, 0.2004), (0.985, 0.99999)])
def test_marks_of_alike_values_can_be_told_apart_and_are_short(ends):
    drawn = cloud_markup(
        Cloud(title="T", points=[(ends[0], ends[1]), (ends[1], ends[0])], x_title="x", y_title="y", colour="v1")
    )
    for axis in ("x", "y"):
        marks = labels(drawn, axis)
        assert 2 <= len(set(marks)) == len(marks) <= 6
        assert all(len(mark) <= len("0.995") for mark in marks)
        assert float(marks[0]) <= ends[0] + 1e-6 and ends[1] - 1e-6 <= float(marks[-1])
        assert float(marks[-1]) - float(marks[0]) >= LEAST_RANGE


def test_alike_cosines_are_drawn_below_one():
    drawn = cloud_markup(Cloud(title="T", points=[(0.0, 1.0), (0.5, 1.0)], x_title="x", y_title="y", colour="v1"))
    assert labels(drawn, "y")[-1] == "1.000"


def test_marks_of_a_panel_are_written_in_full():
    drawn = panel_markup(panel(line("b", Estimate(0.9999990), Estimate(0.9999995)), levels={}), LOOK)
    assert len(set(labels(drawn, "y"))) == len(labels(drawn, "y")) > 2
    drawn = panel_markup(panel(line("b", Estimate(0.0), Estimate(1234567.0))), LOOK)
    assert labels(drawn, "y")[:2] == ["0", "500000"]


@pytest.mark.parametrize(("count", "shown"), [(6, 6), (23, 12), (1, 1)])
def test_few_enough_blocks_are_written(count, shown):
    assert len(block_marks(list(range(count)))) == shown


def test_legend_escapes_names():
    assert "&lt;b&gt;" in legend([("<b>", "")], Look(["<b>"]))
