"""Dots lie on the map in true proportion."""

import re

import pytest

from yarbus.report.look import SHAPES, Look
from yarbus.report.scatter import MARGIN, WIDTH, Dot, map_markup, marker_shapes, place


def dots(*places: tuple[float, float], cluster: int | None = None) -> list[Dot]:
    return [Dot(x=x, y=y, name="a", cluster=cluster) for x, y in places]


def test_one_unit_is_as_long_across_as_upwards():
    (left, right, top), _ = place(dots((0.0, 0.0), (4.0, 0.0), (0.0, 1.0)))
    assert (right[0] - left[0]) / 4 == pytest.approx(left[1] - top[1])
    assert left[0] == pytest.approx(MARGIN) and right[0] == pytest.approx(WIDTH - MARGIN)


@pytest.mark.parametrize("places", [[(1.0, 1.0)], [(0.0, 0.0), (0.0, 0.0)], [(0.0, 0.0), (0.0, 9.0)]])
def test_dots_on_one_line_or_one_point_stay_inside(places):
    found, height = place(dots(*places))
    assert all(0 <= x <= WIDTH and 0 <= y <= height for x, y in found)


def test_the_map_shows_markers_cluster_numbers_and_the_chosen_sample():
    drawing, places = map_markup(
        dots((0.0, 0.0), (2.0, 1.0), cluster=7), Look(["a"], neutral=()), title="Map", described="Two samples."
    )
    assert drawing.count("<use") == 2 and len(places) == 2
    assert re.search(r"<text[^>]*>7</text>", drawing)
    assert 'class="ring"' in drawing and 'tabindex="0"' in drawing
    assert "Two samples. Arrow keys walk" in drawing


def test_a_page_defines_every_marker_once():
    assert [f'id="m{index}"' in marker_shapes() for index in range(len(SHAPES))] == [True] * len(SHAPES)
