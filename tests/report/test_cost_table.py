"""The table of costs says what was measured, and under what circumstances."""

from dataclasses import replace

import pytest

from yarbus.report.cost_table import cost_figure, count_text, seconds_text, shared_machine
from yarbus.report.costs import Cost, step_ratio
from yarbus.report.look import Look

FROZEN = Cost(
    variant="frozen", methods={"vision": "frozen"}, rates={"language": 1e-3}, vision_declared=0, vision_trained=0,
    all_declared=1_000_000, all_trained=1_000_000, step_seconds=0.5, peak_bytes=2**30, jobs=[2], threads=[1],
)  # fmt: skip
FULL = replace(
    FROZEN, variant="full", methods={"vision": "full"}, rates={"language": 2e-3, "vision": 1e-4},
    vision_declared=400_000, vision_trained=364_000, all_trained=1_364_000, step_seconds=0.6, peak_bytes=2**30 * 3 // 2,
)  # fmt: skip
LOOK = Look(["frozen", "full"])


def test_ratios_rates_and_parameters_stand_beside_each_variant():
    found = cost_figure([FROZEN, FULL], LOOK)
    for text in ("364 k", "400 k declared", "1.36 M", "0.60 s", "× 1.20", "1.5 GiB", "× 1.50", "language 0.002"):
        assert text in found.body
    assert "vision 0.0001" not in found.body  # only full trains it, so nobody differs
    assert found.reading == "A step of full takes 1.20 times as long as one of frozen."
    assert "Measured while 2 runs shared the machine, with 1 thread each." in found.how
    assert len(found.rows[0]) == len(found.header)


def test_columns_that_no_record_fills_are_left_out():
    unknown = {"step_seconds": None, "peak_bytes": None, "rates": {}}
    found = cost_figure([replace(FROZEN, **unknown), replace(FULL, **unknown)], LOOK)
    assert "one step" not in found.body and "memory" not in found.body and "rates" not in found.body
    assert "No step time" in found.reading and "Seconds" not in found.how
    assert cost_figure([], LOOK) is None


@pytest.mark.parametrize(
    ("jobs", "threads", "text"),
    [
        ([1], [2], "Measured while 1 run had the machine, with 2 threads each."),
        (
            [2, 8],
            [1, 4],
            "Measured while 2 to 8 runs shared the machine. Times under other numbers of runs or threads are not "
            "compared.",
        ),
        ([], [1], "How many runs shared the machine meanwhile was not recorded."),
    ],
)
def test_seconds_say_how_many_runs_shared_the_machine(jobs, threads, text):
    assert shared_machine([replace(FULL, jobs=jobs, threads=threads)]) == text


def test_numbers_have_three_digits():
    assert [count_text(n) for n in (0, 9_999, 23_800, 304_000_000, 7_290_000_000)] == [
        "0", "9,999", "23.8 k", "304 M", "7.29 B",
    ]  # fmt: skip
    assert [seconds_text(s) for s in (0.038, 0.42, 12.4)] == ["38 ms", "0.42 s", "12 s"]


@pytest.mark.parametrize(
    "other", [{"jobs": [1]}, {"threads": [2]}, {"jobs": []}, {"threads": []}, {"jobs": [1, 2]}, {"step_seconds": None}]
)
def test_a_step_under_other_circumstances_is_a_dash_beside_its_seconds(other):
    found = cost_figure([FROZEN, replace(FULL, **other)], LOOK)
    assert "1.20" not in found.body and found.rows[1][found.header.index("step_ratio")] is None
    assert found.reading == "No step time can be compared with frozen's."
    assert step_ratio(FULL, replace(FROZEN, **other)) is step_ratio(None, FROZEN) is step_ratio(FULL, None) is None
    assert step_ratio(FULL, FROZEN) == pytest.approx(1.2)


def test_memory_of_a_cpu_is_said_to_hold_the_libraries():
    assert "On a CPU the peak includes the libraries, so that ratios lie near 1." in cost_figure([FROZEN], LOOK).how
