"""Marks on an axis and what tells variants apart."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from yarbus.report.look import Look, ticks


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e4))
def test_ticks_enclose_the_range_evenly_and_are_few(low, width):
    marks = ticks(low, low + width)
    assert 2 <= len(marks) <= 8
    assert marks[0] <= low + 1e-6 * width
    assert marks[-1] >= low + width - 1e-6 * width


@given(st.floats(-1e4, 1e4), st.floats(0.0, 1e-12), st.sampled_from([1.0, 1e-6, 1e-15]))
def test_ticks_are_apart_however_close_the_values(low, width, scale):
    marks = ticks(scale * low, scale * (low + width))
    assert all(one < other for one, other in itertools.pairwise(marks))
    slack = 1e-6 * (marks[1] - marks[0])
    assert marks[0] <= scale * low + slack and scale * (low + width) - slack <= marks[-1]


def test_each_variant_has_a_look_of_its_own_and_frozen_is_grey():
    names = ["full", "frozen", *(f"v{number}" for number in range(12))]
    look = Look(names)
    assert look.colour("frozen") == "v0"
    assert len({(look.colour(name), look.marker(name)) for name in names}) == len(names)
