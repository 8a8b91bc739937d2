"""Advice: every branch on records made by hand, and no claim where an interval reaches across its threshold."""

import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yarbus.analysis import advice
from yarbus.analysis.advice import MIN_GAIN_NATS, MIN_GAP_NATS, advise, is_above, is_below, listed, shown

FIELDS = {
    "verdict",
    "action",
    "sureness",
    "headline",
    "sentences",
    "blocks",
    "figures",
    "thresholds",
    "thresholds_from",
}


def estimate(mean, low=None, high=None):
    return {"mean": mean, "low": low, "high": high}


NOTHING = estimate(None)
APART, ALIKE, OPEN = estimate(-0.4, -0.5, -0.3), estimate(0.4, 0.3, 0.5), estimate(0.0, -0.3, 0.3)
COSTS, FREE, UNCLEAR = estimate(0.2, 0.15, 0.25), estimate(-0.1, -0.15, -0.05), estimate(0.1, -0.3, 0.5)
HELPS, HARMS = COSTS, FREE
SMALL = estimate(0.05, 0.02, 0.08)  # clear of 0, and not worth calling conflict
CEILING = estimate(0.5, 0.4, 0.6)


def gradients(corrected=ALIKE, same=CEILING, blocks=(ALIKE,) * 4, pairs=(1, 3)):
    overall = {"same_task": same, "across": estimate(0.1, 0.0, 0.2), "corrected": corrected}
    return {
        "blocks": list(range(len(blocks))),
        "overall": {**overall, "opposing_pairs_of_tasks": list(pairs)},
        "by_block": [{"block": block, "corrected": one} for block, one in enumerate(blocks)],
    }


def gap(**tasks):
    """Cost of sharing and gain of tuning by task."""
    return {"steps": 100, "seeds": 2, "tasks": {name: {"gap": g, "gain": b} for name, (g, b) in tasks.items()}}


def advised(corrected=ALIKE, costs=None, swapped=None, **kw):
    return advise({"gradients": gradients(corrected, **kw), "gap": costs}, swapped)


def said(record):
    return " ".join([record["headline"], record["sureness"], *record["sentences"]])


@pytest.mark.parametrize(
    ("corrected", "verdict", "action", "words"),
    [
        (APART, "conflict", "condition", "opposite first steps"),
        (ALIKE, "agreement", "tune", "partly the same first step"),
        (OPEN, "undecided", "undecided", "includes 0"),
        (NOTHING, "undecided", "undecided", "take more per task"),
        (estimate(0.9), "undecided", "undecided", "take more per task"),
    ],
)
def test_gradients_alone_are_a_lead(corrected, verdict, action, words):
    record = advised(corrected)
    assert (record["verdict"], record["action"]) == (verdict, action)
    assert words in said(record)
    assert record["sureness"].startswith("A lead, not a finding") and "--steps" in record["sureness"]
    assert set(record) == FIELDS
    assert (verdict == "undecided") == ("short runs would (yarbus conflict RECIPE --steps N)." in record["headline"])


@pytest.mark.parametrize("same", [OPEN, NOTHING, estimate(0.4), estimate(-0.2, -0.3, -0.1)])
def test_nothing_is_read_from_gradients_whose_own_halves_do_not_agree(same):
    record = advised(APART, same=same)
    assert record["verdict"] == record["action"] == "undecided"
    assert "Take more samples per task" in said(record) and "opposite" not in said(record)


@pytest.mark.parametrize(
    ("costs", "verdict", "action", "words"),
    [
        (gap(read=(COSTS, HELPS), size=(FREE, HELPS)), "conflict", "condition", "read does better"),
        (gap(read=(COSTS, HELPS), size=(COSTS, HARMS)), "conflict", "condition", "read and size do better"),
        (gap(read=(COSTS, HELPS), size=(COSTS, HARMS)), "conflict", "condition", "tuning harms size"),
        (gap(read=(COSTS, UNCLEAR), size=(UNCLEAR, UNCLEAR)), "conflict", "condition", "compare it with freezing"),
        (gap(read=(COSTS, HARMS), size=(FREE, HARMS)), "conflict", "freeze", "harms read and size and helps nothing"),
        (gap(read=(FREE, HELPS), size=(FREE, HELPS)), "agreement", "tune", "tuning helps read and size"),
        (gap(read=(FREE, HELPS), size=(FREE, UNCLEAR)), "agreement", "tune", "tuning helps read:"),
        (gap(read=(FREE, HARMS), size=(FREE, UNCLEAR)), "agreement", "freeze", "harms read at this rate"),
        (gap(read=(FREE, HARMS), size=(FREE, HELPS)), "agreement", "undecided", "helps size and harms read"),
        (gap(read=(FREE, UNCLEAR), size=(FREE, UNCLEAR)), "agreement", "undecided", "whether tuning helps is not"),
        (gap(read=(UNCLEAR, HELPS), size=(FREE, UNCLEAR)), "undecided", "undecided", "For read the interval does not"),
        (gap(read=(UNCLEAR, HELPS), size=(FREE, HELPS)), "undecided", "tune", "tuning helps every one of them"),
        (gap(read=(UNCLEAR, HARMS), size=(FREE, UNCLEAR)), "undecided", "freeze", "but tuning harms read"),
        (gap(read=(SMALL, HELPS), size=(FREE, HELPS)), "agreement", "tune", "tuning helps read and size"),
        (gap(read=(NOTHING, NOTHING), size=(estimate(0.9), estimate(0.9))), "undecided", "undecided", "read and size"),
    ],
)
def test_short_runs_decide_where_they_were_made(costs, verdict, action, words):
    for corrected in (APART, ALIKE, OPEN, NOTHING):
        record = advised(corrected, costs)
        assert (record["verdict"], record["action"]) == (verdict, action)
        assert words in said(record)
        assert "Measured after 100 steps" in record["sureness"]


def test_it_says_whether_the_gradients_point_where_the_runs_do():
    conflict, none = gap(read=(COSTS, HELPS), size=(FREE, HELPS)), gap(read=(FREE, HELPS), size=(FREE, HELPS))
    assert "point the same way" in advised(APART, conflict)["sureness"]
    assert "point the same way" in advised(ALIKE, none)["sureness"]
    assert "do not decide" in advised(OPEN, conflict)["sureness"]
    for corrected, costs in ((ALIKE, conflict), (APART, none)):
        assert "the other way: the runs weigh more" in advised(corrected, costs)["sureness"]
    assert advised(ALIKE, gap(read=(UNCLEAR, HELPS)))["sureness"].startswith("Not sure")


def test_where_the_short_runs_decide_their_being_clear_comes_first():
    partly, wholly = gap(read=(COSTS, HELPS), size=(UNCLEAR, HELPS)), gap(read=(FREE, HELPS), size=(FREE, HELPS))
    for costs, tasks in ((partly, "at least one task"), (wholly, "every task")):
        for corrected in (APART, ALIKE, OPEN):
            first = f"The short runs are clear of the threshold for {tasks}; the gradients at the start "
            assert advised(corrected, costs)["sureness"].startswith(first)


def test_blocks_are_named_where_their_interval_lies_below_the_whole_towers_and_only_with_conflict():
    lower = estimate(-0.8, -0.9, -0.7)
    for blocks, named, words in (
        ((APART, APART, lower, lower), [2, 3], "blocks 2 and 3"),
        ((APART, APART, APART, lower), [3], "block 3."),
        ((APART,) * 4, [], "upper half, here blocks 2 to 3"),
        ((NOTHING,) * 4, [], "upper half"),
        ((APART,), [], "upper half, here block 0"),
    ):
        record = advised(APART, blocks=blocks)
        assert record["blocks"] == named and words in said(record)
    assert advised(ALIKE, blocks=(ALIKE, lower))["blocks"] == []


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (estimate(0.1, 0.05, 0.15), "loses +10.0 (+5.0 to +15.0) points: the trained tower uses its context"),
        (estimate(0.1, -0.05, 0.25), "no use of the context is seen"),
        (estimate(0.0, 0.0, 0.0), "no use of the context is seen"),
        (estimate(0.1), "+10.0 (no interval) points: no use of the context is seen"),
        (NOTHING, "no question of another task"),
    ],
)
def test_the_swapped_question_is_a_sentence_and_changes_no_advice(loss, words):
    record = advised(ALIKE, swapped={"mean": {"loss_other_task": loss}})
    assert words in record["sentences"][-1]
    assert {**record, "sentences": record["sentences"][:-1]} == advised(ALIKE)


def test_figures_and_thresholds_stand_beside_the_words():
    record = advised(ALIKE, gap(read=(FREE, HELPS), size=(FREE, HELPS)))
    assert [figure["value"] for figure in record["figures"]][2:] == [FREE, HELPS, FREE, HELPS]
    assert all(figure["name"] and figure["unit"] for figure in record["figures"])
    assert record["thresholds"] and all(isinstance(value, float) for value in record["thresholds"].values())
    assert record["thresholds_from"]


@st.composite
def estimates(draw):
    kind = draw(st.sampled_from(["nothing", "no interval", "interval"]))
    if kind == "nothing":
        return NOTHING
    low, mean, high = sorted(draw(st.lists(st.floats(-1, 1), min_size=3, max_size=3)))
    return estimate(mean) if kind == "no interval" else estimate(mean, low, high)


def reaches_across(one, threshold):
    return one["low"] is None or one["low"] <= threshold <= one["high"]


@given(corrected=estimates(), same=estimates(), costs=st.lists(st.tuples(estimates(), estimates()), max_size=3))
def test_nothing_is_claimed_across_a_threshold_and_no_null_crashes(corrected, same, costs):
    made = gap(**{f"task{place}": pair for place, pair in enumerate(costs)}) if costs else None
    record = advised(corrected, made, same=same, blocks=(corrected, same))
    text = said(record)
    assert not re.search(r"None|nan|\binf\b|  ", text) and record["headline"].endswith(".")
    if made is None:
        if reaches_across(corrected, advice.MIN_COSINE) or reaches_across(same, advice.MIN_CEILING):
            assert record["verdict"] == record["action"] == "undecided"
        return
    if all(reaches_across(one, MIN_GAP_NATS) for one, _ in costs):
        assert record["verdict"] == "undecided"
    if any(reaches_across(one, MIN_GAP_NATS) for one, _ in costs):
        assert record["verdict"] != "agreement"
    sides = (MIN_GAIN_NATS, -MIN_GAIN_NATS)
    if all(reaches_across(gain, side) for _, gain in costs for side in sides):
        assert record["action"] not in ("tune", "freeze")


def test_an_end_on_the_threshold_decides_nothing():
    for one, threshold in product([estimate(0.5, 0.0, 1.0), estimate(-0.5, -1.0, 0.0)], [0.0]):
        assert not is_above(one, threshold) and not is_below(one, threshold)
    assert not is_above(None, 0.0) and not is_below(None, 0.0)


def test_words():
    assert listed([1]) == "1" and listed(["a", "b", "c"]) == "a, b and c"
    assert shown(estimate(0.5, 0.25, 0.75)) == "+0.50 (+0.25 to +0.75)"
    assert shown(estimate(0.5)) == "+0.50 (no interval)" and "noise" in shown(NOTHING)


def entropies(*shares):
    return {
        "by_block": [
            {"block": block, "entropy": None if share is None else estimate(share), "max_entropy": 1.0}
            for block, share in enumerate(shares)
        ]
    }


def test_a_collapsed_router_is_told_and_one_that_was_not_recorded_is_not():
    record = {"gradients": gradients(), "gap": None}
    told = said(advise(record, None, entropies(0.7, 0.01, 0.0)))
    assert "router has collapsed in blocks 1 and 2" in told and "Lower its rate" in told
    assert "70 to 90 % of its greatest entropy" in said(advise(record, None, entropies(0.7, 0.9)))
    assert "entropy" not in said(advise(record, None, entropies(None)))
    assert "collapsed" not in said(advise(record))
