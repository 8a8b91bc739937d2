"""Numbers that may be missing, and how they are written."""

import pytest

from yarbus.report.estimates import (
    Estimate,
    decimal,
    estimate,
    interval,
    listed,
    number,
    over_seeds,
    percent,
    ranges,
    rounded,
    scaled,
    several,
    words,
)  # fmt: skip


@pytest.mark.parametrize("value", [None, "0.5", True, float("nan"), float("inf"), [], {}, {"mean": None}])
def test_what_is_no_finite_number_is_missing(value):
    assert estimate(value) is None


def test_an_estimate_is_read_with_or_without_its_interval():
    assert estimate({"mean": 0.2, "low": 0.1, "high": 0.3}) == Estimate(0.2, 0.1, 0.3)
    assert estimate({"mean": 1, "low": None, "high": float("nan")}) == Estimate(1.0)
    assert estimate(0.4) == Estimate(0.4)
    assert number(3) == 3.0


def test_without_an_interval_nothing_is_above_or_below():
    sure, open_, bare = Estimate(0.2, 0.1, 0.3), Estimate(0.2, -0.1, 0.5), Estimate(0.2)
    assert sure.is_above(0.0) and sure.is_clear_of(0.0) and not sure.is_below(0.0)
    assert not open_.is_clear_of(0.0)
    assert not bare.is_above(0.0) and not bare.is_below(1.0)
    assert bare.ends == (0.2, 0.2)


def test_seeds_are_averaged_and_an_end_that_one_seed_lacks_is_missing():
    mean = over_seeds([Estimate(0.2, 0.1, 0.3), None, Estimate(0.4, 0.3, 0.5)])
    assert (mean.mean, mean.low, mean.high) == (pytest.approx(0.3), pytest.approx(0.2), pytest.approx(0.4))
    assert over_seeds([Estimate(0.2, 0.1, 0.3), Estimate(0.4)]).low is None
    assert over_seeds([None]) is None
    assert scaled(Estimate(0.5, 0.25), 100) == Estimate(50.0, 25.0)


def test_numbers_are_written_with_a_real_minus_and_no_signed_zero():
    assert decimal(-0.314) == "\N{MINUS SIGN}0.31"
    assert (decimal(-0.001), decimal(0.0, sign=True)) == ("0.00", "0.00")
    assert words(Estimate(0.2, -0.1, 0.5), sign=True) == "+0.20 (\N{MINUS SIGN}0.10 to +0.50)"
    assert interval(Estimate(0.2)) == ""
    assert (rounded(6.0), rounded(0.5), rounded(0.02)) == ("6", "0.50", "0.020")


def test_counts_and_lists_read_as_english():
    assert [several(n, "block") for n in (0, 1, 2)] == ["no block", "1 block", "2 blocks"]
    assert listed(["a"]) == "a" and listed(["a", "b", "c"]) == "a, b and c"
    assert ranges([5, 0, 1, 2]) == "0 to 2, 5"


@pytest.mark.parametrize(
    ("fraction", "sign", "text"),
    [
        (0.7125, False, "71.2"),
        (0.021, True, "+2.1"),
        (-0.0213, True, "−2.1"),
        (-0.0001, True, "0.0"),
        (1, False, "100.0"),
    ],
)
def test_percent_has_one_decimal_and_no_signed_zero(fraction, sign, text):
    assert percent(fraction, sign) == text
