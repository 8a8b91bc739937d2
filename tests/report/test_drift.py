"""Weight changes are read against their control."""

from tests.report.synthetic_diagnosis import drift
from yarbus.report.drift import drift_figure


def test_reading_names_both_cosines_and_what_the_distance_is_worth():
    reading = drift_figure(drift()).reading
    assert "less alike than two runs of one task in 6 of 6 blocks: 0.04 (0.03 to 0.06) against 0.36" in reading
    assert "The L2 distance tells little: 92 % of it appears between two runs of one task." in reading


def test_equal_cosines_are_no_separation():
    assert "No separation seen" in drift_figure(drift(clash=0.0)).reading


def test_the_distance_is_never_drawn_without_its_control():
    record = drift()
    for row in record["same_task"]:
        row["l2"] = None
    figure = drift_figure(record)
    assert "L2 distance of weights" not in figure.body
    assert "its same-task control was not recorded" in figure.body
    assert "L2" not in figure.reading


def test_so_few_runs_that_no_interval_can_be_made_separate_nothing():
    record = drift()
    for row in record["same_task"]:
        row["cosine"] |= {"low": None, "high": None}
    assert "So few runs give no interval by block, so nothing is separated" in drift_figure(record).reading


def test_without_a_second_run_of_a_task_the_cosines_cannot_be_read():
    assert "have no control" in drift_figure({**drift(), "same_task": []}).reading


def test_nothing_recorded_draws_nothing_and_one_block_is_enough():
    assert drift_figure(None) is None and drift_figure({"across": [], "same_task": []}) is None
    figure = drift_figure(drift(num_blocks=1))
    assert [row[0] for row in figure.rows] == [0]
    assert len(figure.rows[0]) == len(figure.header)
