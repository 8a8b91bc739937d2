"""Medians and ratios of what variants were measured at, in turn."""

import numpy as np
import pytest

from yarbus.analysis.overhead import costs, estimate, orders


def turn(step=1.0, answer=1.0, rows=5.0, training=100, kept=10, repeats=3, **more):
    steps = [{"rows": rows, "forward": 0.5 * step, "backward": 0.25 * step, "update": 0.25 * step}] * repeats
    answers = [{"processor": rows, "tower": 0.4 * answer, "decode": 0.6 * answer}] * repeats
    sizes = {"training": training, "answering": 50, "kept": kept}
    return {"steps": steps, "answers": answers, "bytes": sizes, "failed": {}, **more}


def test_every_round_has_each_variant_once_and_turns_round():
    order = orders(["frozen", "full", "covft"], 3)
    assert order == [["frozen", "full", "covft"], ["covft", "full", "frozen"], ["frozen", "full", "covft"]]
    places = np.array([[row.index(name) for name in sorted(row)] for row in orders(["a", "b", "c", "d"], 4)])
    assert len(set(places.mean(axis=0))) == 1  # over an even number of rounds nobody is earlier than another


def test_a_median_lies_in_its_interval_and_a_single_repeat_has_none():
    found = estimate([[1.0, 2.0, 9.0], [2.0, 3.0, 2.0]])
    assert found.value == 2.0 and found.low <= 2.0 <= found.high and found.high > found.low
    assert estimate([[4.0]]).low is None
    with pytest.raises(ValueError, match="inhomogeneous"):
        estimate([[1.0, 2.0], [1.0]])


def test_rounds_that_differ_widen_the_interval_more_than_repeats_do():
    calm = estimate([[1.0, 1.1, 0.9, 1.0]] * 4)
    moved = estimate([[value + shift for value in (1.0, 1.1, 0.9, 1.0)] for shift in (0.0, 0.2, -0.2, 0.4)])
    assert moved.high - moved.low > 2 * (calm.high - calm.low)


def test_a_ratio_draws_the_same_rounds_for_both_so_that_what_slows_both_cancels():
    slow = [[shift, shift, shift] for shift in (1.0, 3.0, 2.0)]
    found = estimate([[2 * value for value in row] for row in slow], slow)
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)


def test_costs_leave_rows_out_of_a_step_and_the_processor_out_of_an_answer():
    turns = {
        "frozen": {0: turn(), 1: turn()},
        "full": {0: turn(step=2, answer=3, kept=40), 1: turn(step=2, answer=3, kept=60)},
    }
    found = costs(turns, ["frozen", "full"], new_tokens=4)
    full = found["full"]
    assert full["step"]["seconds"] == {"value": 2.0, "low": 2.0, "high": 2.0}
    assert full["step"]["parts"]["forward"]["value"] == 1.0 and full["step"]["rows"]["value"] == 5.0
    assert full["step"]["times"]["frozen"]["value"] == 2.0 and "full" not in full["step"]["times"]
    assert full["answer"]["times"]["frozen"]["value"] == 3.0 and full["answer"]["processor"]["value"] == 5.0
    assert full["answer"]["token"]["value"] == pytest.approx(0.6 * 3 / 3)  # three of four tokens are decoded
    assert full["answer"]["parts"]["text_encoder"] is None
    assert full["kept"] == {"bytes": 40, "times": {"frozen": 4.0}}  # what is left from loading only adds
    assert found["frozen"]["step"]["times"]["full"]["value"] == 0.5
    assert found["frozen"]["failed"] == {}


def test_what_a_variant_could_not_do_is_none_with_its_reason_and_others_have_no_ratio_to_it():
    failed = {
        "steps": None,
        "answers": turn()["answers"],
        "bytes": {"answering": 50},
        "failed": {"training": "no room"},
    }
    found = costs({"frozen": {0: turn(), 1: turn()}, "full": {0: failed}}, ["frozen", "full"], new_tokens=4)
    full = found["full"]
    assert full["step"] is full["training"] is full["kept"] is None and full["failed"] == {"training": "no room"}
    assert full["answer"]["times"]["frozen"]["value"] == 1.0  # over the one round that both have
    assert found["frozen"]["step"]["times"]["full"] is None
    assert found["frozen"]["training"]["times"] == {"full": None}
    killed = {"failed": {"turn": "killed"}, "bytes": {}}
    assert costs({"frozen": {0: killed}}, ["frozen"], new_tokens=4)["frozen"]["answer"] is None
