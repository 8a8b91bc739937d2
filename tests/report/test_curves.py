"""Curves from the lines of metrics.jsonl."""

import pytest

from yarbus.report.curves import curve_of, curves, running_mean
from yarbus.report.look import SHARED
from yarbus.report.runs import read_comparison


def test_curve_is_the_mean_over_seeds_at_steps_that_all_have_logged():
    found = curve_of("full", [[{"step": 10, "loss": 2.0}, {"step": 20, "loss": 1.0}], [{"step": 10, "loss": 4.0}]])
    assert (found.steps, found.losses, found.num_seeds, found.window) == ([10.0], [3.0], 2, 1)


def test_lines_without_a_finite_loss_are_left_out():
    lines = [
        {"step": 1, "loss": 2.0, "wall_seconds": 3.0}, {"step": 2, "loss": float("nan")}, {"step": 3, "loss": "x"},
        {"event": "end"}, {"loss": 1.0}, {"step": 4, "loss": True}, {"step": 5, "loss": None, "wall_seconds": 9.5},
    ]  # fmt: skip
    found = curve_of("full", [lines])
    assert (found.steps, found.wall_seconds) == ([1.0], 9.5)
    assert curve_of("full", [[]]) is None


def test_running_mean_is_centred_and_shorter_at_the_ends():
    assert running_mean([1.0, 2.0, 6.0, 4.0], 3) == pytest.approx([1.5, 3.0, 4.0, 5.0])
    assert running_mean([1.0, 2.0], 1) == [1.0, 2.0]


def test_the_shared_stage_has_one_curve_and_comes_first(comparison_folder):
    found = curves(read_comparison(comparison_folder))
    assert [(stage, len(some)) for stage, some in found.items()] == [("align", 1), ("instruct", 4)]
    assert found["align"][0].variant == SHARED
