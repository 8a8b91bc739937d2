"""The time left is made of measured speeds only."""

import pytest

from yarbus.core.records import write_json
from yarbus.evaluation.folder import benchmark_folder
from yarbus.studies.pace import Pace, seconds_left
from yarbus.studies.work import Work


def write_record(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, value)


def test_time_left_counts_steps_and_questions_of_all_runs_over_the_jobs(tmp_path):
    recipe = {"stages": {"instruct": {"steps": 100}}}
    work = Work(label="a", recipe=recipe, run=tmp_path, start=None, stages=("instruct",), benchmarks=("b",))
    begun = Pace(work, steps=50, step_seconds=0.5, replies=10, questions=100, reply_seconds=0.1)
    waiting = Pace(work)
    assert seconds_left([waiting], jobs=2) is None
    # begun: 50 x 0.5 + 90 x 0.1 = 34; waiting at the same speeds: 100 x 0.5 + 100 x 0.1 = 60.
    assert seconds_left([begun, waiting], jobs=1) == pytest.approx(94)
    assert seconds_left([begun, waiting], jobs=2) == pytest.approx(60)


def test_no_time_left_is_told_where_epochs_decide(tmp_path):
    recipe = {"stages": {"instruct": {"steps": None}}}
    work = Work(label="a", recipe=recipe, run=tmp_path, start=None, stages=("instruct",), benchmarks=())
    begun = Pace(work, steps=5, step_seconds=1.0)
    assert seconds_left([begun], jobs=1) is None
    done = Pace(work, steps=5, step_seconds=1.0, is_done=True)
    assert seconds_left([done], jobs=1) == 0


@pytest.mark.parametrize("name", ["tinyworld/read", "file:a/test.json"])
def test_questions_of_every_kind_of_benchmark_are_counted_and_finish_a_run(name, tmp_path):
    work = Work(label="a", recipe={}, run=tmp_path, start=None, stages=(), benchmarks=(name,))
    folder = benchmark_folder(tmp_path, name, "official")
    write_record(folder / "identity.json", {"num_samples": 8})
    (folder / "replies.jsonl").write_text('{"reply": "one"}\n' * 3)
    pace = Pace(work)
    pace.look()
    assert (pace.questions, pace.replies) == (8, 3)
    assert not work.is_finished()
    write_record(tmp_path / "adapter" / "adapter.json", {})
    write_record(folder / "scores.json", {"num_replies": 8, "num_samples": 8, "num_errors": 0})
    assert work.is_finished()
