"""Tasks won are counted with and without their intervals."""

from dataclasses import replace

from yarbus.report.beats import Beats, beats_of
from yarbus.report.cells import MEAN
from yarbus.report.contrasts import Contrast
from yarbus.report.intervals import Difference


def test_tasks_are_counted_by_sign_and_those_clear_of_0_apart():
    found = [
        Contrast(task, "frozen", "full", Difference(mean, low, high))
        for task, mean, low, high in (
            ("a", 0.02, 0.01, 0.03), ("b", 0.01, -0.01, 0.03), ("c", 0.0, -0.01, 0.01), ("d", -0.04, -0.06, -0.02),
            (MEAN, 0.01, 0.005, 0.02),
        )
    ]  # fmt: skip
    beats = beats_of(found, "frozen", "full")
    assert beats == Beats(num_tasks=4, above=2, clearly_above=1, below=1, clearly_below=1)
    assert beats.words == ["2 of 4", "1 clear", "1 clearly below"]
    assert replace(beats, clearly_below=0).words == ["2 of 4", "1 clear"]
    assert beats_of(found, "full", "frozen") is None
