"""Curves from the lines of metrics.jsonl."""

import json
import shutil

import pytest

from yarbus.report.curves import curve_of, curves, running_mean
from yarbus.report.look import SHARED, SHARED_BY_REST
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


def test_a_start_of_its_own_is_told_from_the_one_that_the_others_share(comparison_folder, tmp_path):
    folder = shutil.copytree(comparison_folder, tmp_path / "two-starts")
    (shared,) = folder.glob("align-*")
    own = shutil.copytree(shared, folder / "align-own")
    lines = [{"step": 10, "loss": 9.0}, {"step": 20, "loss": 8.0}]
    (own / "stages" / "align" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = json.loads((folder / "comparison.json").read_text())
    for run in record["runs"].values():
        run["start"] = own.name if run["variant"] == "full" else shared.name
    (folder / "comparison.json").write_text(json.dumps(record))
    found = {curve.variant: curve for curve in curves(read_comparison(folder))["align"]}
    assert list(found) == [SHARED_BY_REST, "full"] and found["full"].losses == [9.0, 8.0]
    before = curves(read_comparison(comparison_folder))["align"][0]
    assert found[SHARED_BY_REST].losses == before.losses
