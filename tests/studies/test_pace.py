"""The time left is made of measured speeds only."""

import pytest

from yarbus.studies.pace import Pace, seconds_left
from yarbus.studies.work import Work


def test_time_left_counts_steps_and_questions_of_all_runs_over_the_jobs(tmp_path):
    recipe = {"stages": {"instruct": {"steps": 100}}}
    work = Work(label="a", recipe=recipe, run=tmp_path, start=None, stages=("instruct",), benchmarks=("b",))
    begun = Pace(work, steps=50, step_seconds=0.5, replies=10, questions=100, reply_seconds=0.1)
    waiting = Pace(work)
    assert seconds_left([waiting], jobs=2) is None
    # begun: 50 x 0.5 + 90 x 0.1 = 34; waiting at the same speeds: 100 x 0.5 + 100 x 0.1 = 60.
    assert seconds_left([begun, waiting], jobs=1) == pytest.approx(94)
    assert seconds_left([begun, waiting], jobs=2) == pytest.approx(60)
