"""What the other tasks do to a task."""

from tests.report.synthetic_diagnosis import estimate
from yarbus.report.pull import pull_figure


def of(**pulls: float | None) -> dict:
    rows = [{"task": task, "share": 0.5, "pull": None if p is None else estimate(p, 0.1)} for task, p in pulls.items()]
    return {"by_task": rows}


def test_reading_tells_hindered_from_helped_tasks():
    assert pull_figure(of(read=-0.5, size=0.5, lean=0.0)).reading == "The others work against read; they help size."
    assert pull_figure(of(size=0.5)).reading == "The others help size."


def test_pulls_that_include_zero_are_not_claimed():
    figure = pull_figure(of(read=0.05, size=-0.05))
    assert "No pull seen" in figure.reading
    assert "50 % of the rows" in figure.body


def test_nothing_recorded_draws_nothing():
    assert pull_figure(None) is None and pull_figure({}) is None and pull_figure(of(read=None)) is None
