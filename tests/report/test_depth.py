"""Conflict by depth says what its bands say."""

import pytest

from tests.report.synthetic_diagnosis import estimate, gradients
from yarbus.report.depth import by_block, depth_figure


def of(same: float, across: float, half: float = 0.05, num_blocks: int = 3) -> dict:
    rows = [
        {
            "block": block, "same_task": estimate(same, half), "across": estimate(across, half),
            "corrected": estimate(across / same if same else 0.0, half), "opposing": 0.1, "opposing_same_task": 0.0,
        }
        for block in range(num_blocks)
    ]  # fmt: skip
    overall = {key: rows[0][key] for key in ("same_task", "across", "corrected")}
    return {"num_batches": 32, "batch": 16, "by_block": rows, "overall": overall}


@pytest.mark.parametrize(
    ("same", "across", "reading"),
    [
        (0.5, 0.48, "No separation seen"),
        (0.5, 0.2, "agree less than batches of one task in all 3 blocks: 0.20 (0.15 to 0.25) against 0.50"),
        (0.5, -0.2, "pull against each other in all 3 blocks"),
        (0.02, -0.2, "Even batches of one task do not agree beyond noise"),
    ],
)
def test_the_reading_follows_the_intervals(same, across, reading):
    assert reading in depth_figure(of(same, across)).reading


def test_blocks_that_are_separated_are_named():
    record = of(0.5, 0.48, num_blocks=4)
    for block in (1, 2):
        record["by_block"][block]["across"] = estimate(0.1, 0.05)
    assert "in 2 blocks of 4 (1 to 2)" in depth_figure(record).reading


def test_numbers_are_those_of_the_record_with_the_whole_tower_last():
    record = gradients(num_blocks=2)
    figure = depth_figure(record)
    assert figure.header[:4] == ["block", "same_task", "same_task_low", "same_task_high"]
    assert [row[0] for row in figure.rows] == [0, 1, "all"]
    assert figure.rows[0][4] == record["by_block"][0]["across"]["mean"]
    assert "the ceiling" in figure.body and "unrelated" in figure.body


def test_one_block_and_missing_parts_are_drawn_as_far_as_they_go():
    assert "in the only block" in depth_figure(of(0.5, 0.2, num_blocks=1)).reading
    record = of(0.5, 0.2)
    for row in record["by_block"]:
        row["corrected"] = {"mean": None, "low": None, "high": None}
        row["opposing"] = float("nan")
    figure = depth_figure({**record, "overall": None})
    assert "Divided by the ceiling" not in figure.body
    for row in record["by_block"]:
        row["same_task"] = None
    assert "No ceiling was recorded" in depth_figure(record).reading


def test_without_intervals_nothing_is_claimed():
    record = of(0.5, 0.2)
    for row in record["by_block"]:
        row["across"] = row["across"]["mean"]
    assert "Without intervals nothing can be separated" in depth_figure(record).reading


def test_nothing_recorded_draws_nothing():
    assert depth_figure(None) is None and depth_figure({"by_block": []}) is None
    assert by_block([{"block": 0, "x": None}], "x") == []
