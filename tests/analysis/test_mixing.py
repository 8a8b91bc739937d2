"""Mixing weights by task: known weights give known means, spreads and shares."""

import numpy as np
import pytest
import torch

from yarbus.analysis.mixing import BINS, answer_weights, mixing_record
from yarbus.models.slot import ContextSlot

TASKS = ["read"] * 4 + ["lean"] * 4


def test_the_weight_of_a_row_is_the_one_at_its_last_position_of_text():
    slot = ContextSlot()
    with slot.recording() as recorder:
        for shift in (0.0, 10.0):
            slot.record("is_text", 0, torch.tensor([[True, True, False], [True, True, True], [True, False, False]]))
            slot.record("vision_weight", 0, shift + torch.arange(9.0).reshape(3, 3, 1))
    assert answer_weights(recorder).tolist() == [1.0, 5.0, 6.0, 11.0, 15.0, 16.0]


def test_means_spreads_and_distributions_are_those_of_the_weights():
    weights = np.array([0.1, 0.3, 0.1, 0.3, 0.6, 0.6, 0.6, 0.6])
    record = mixing_record(weights, TASKS, [f"scene {place}" for place in range(8)])
    read, lean = record["tasks"]["read"], record["tasks"]["lean"]
    assert read["vision_weight"]["mean"] == pytest.approx(0.2) and read["sd"] == pytest.approx(0.1)
    assert 0.1 <= read["vision_weight"]["low"] < 0.2 < read["vision_weight"]["high"] <= 0.3
    assert lean["vision_weight"] == pytest.approx({"mean": 0.6, "low": 0.6, "high": 0.6}) and lean["sd"] == 0
    assert (read["distinct"], lean["distinct"]) == (2, 1)
    assert len(read["histogram"]) == BINS and sum(read["histogram"]) == 4 and max(lean["histogram"]) == 4
    # Between: 8 * 0.2 ** 2; within: 4 * 0.1 ** 2.
    assert record["between_tasks"] == pytest.approx(0.32 / 0.36)
    assert record["between_tasks_by_chance"] == pytest.approx(1 / 7)


def test_a_constant_has_no_spread_and_no_tasks():
    record = mixing_record(np.full(8, 0.5), TASKS, list("abcdefgh"))
    assert record["between_tasks"] == 0.0
    assert all(line["sd"] == 0 and line["distinct"] == 1 for line in record["tasks"].values())
