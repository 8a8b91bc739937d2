"""Weight changes: cosines and distances against loops, the control, and intervals that hold the truth."""

import json
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yarbus.analysis.drift import Change, cosine, drift, pairs_of

DIM = 200


def changes(means: np.ndarray, noise: float, seed: int, num_seeds: int = 2) -> list[Change]:
    """Runs that move along their task's mean with noise of their own, ``means`` [tasks, dim]."""
    random = np.random.default_rng(seed)
    return [
        Change(task=f"task{task}", seed=number, delta=mean + noise * random.standard_normal(len(mean)))
        for number in range(num_seeds)
        for task, mean in enumerate(means)
    ]


def directions(count: int, value: float, seed: int = 0) -> np.ndarray:
    """Unit vectors of which every two have about that cosine."""
    random = np.random.default_rng(seed)
    rows = np.linalg.qr(random.standard_normal((DIM, count + 1)))[0].T
    return np.sqrt(value) * rows[:1] + np.sqrt(1 - value) * rows[1:]


@given(tasks=st.integers(1, 4), seeds=st.integers(1, 3), draw=st.integers(0, 50))
def test_pairs_equal_a_loop_and_leave_out_equal_seeds(tasks, seeds, draw):
    runs = changes(np.eye(tasks, 6), 0.3, draw, seeds)
    expected = []
    for one, other in combinations(runs, 2):
        if one.seed != other.seed:
            lengths = np.sqrt((one.delta**2).sum()) * np.sqrt((other.delta**2).sum())
            distance = np.sqrt(((one.delta - other.delta) ** 2).sum())
            expected.append(((one.task, other.task), (one.delta * other.delta).sum() / lengths, distance))
    found = [(pair.tasks, pair.cosine, pair.distance) for pair in pairs_of(runs)]
    assert [tasks for tasks, *_ in found] == [tasks for tasks, *_ in expected]
    if found:
        np.testing.assert_allclose([row[1:] for row in found], [row[1:] for row in expected])


def test_the_cosine_of_a_change_of_nothing_is_no_number():
    assert np.isnan(cosine(np.zeros(3), np.ones(3)))
    assert cosine(np.ones(3), -2 * np.ones(3)) == pytest.approx(-1)


def test_tasks_are_told_apart_by_cosine_where_the_distance_hardly_does():
    record = drift(
        {3: changes(directions(3, 0.1), 0.08, 0), 4: changes(directions(3, 0.1), 0.08, 1)}, steps=9, rate=1.0
    )
    overall = record["overall"]
    assert overall["across"]["high"] < overall["same_task"]["low"]
    assert record["across"][0]["l2"] < 1.35 * record["same_task"][0]["l2"]
    assert overall["ratio"]["low"] < 0.15 < overall["ratio"]["high"] < 0.6
    assert [line["block"] for line in record["across"]] == [line["block"] for line in record["same_task"]] == [3, 4]
    assert (record["steps"], record["rate"], record["blocks"]) == (9, 1.0, [3, 4])


def test_overall_is_the_mean_over_blocks_and_its_interval_knows_runs_not_blocks():
    # Ten blocks that say the same: no more is known than from one.
    runs = changes(directions(4, 0.3), 0.1, 5)
    one, ten = drift({0: runs}, steps=1, rate=1.0)["overall"], drift(dict.fromkeys(range(10), runs), steps=1, rate=1.0)
    for kind in ("across", "same_task", "ratio"):
        for end in ("mean", "low", "high"):
            assert ten["overall"][kind][end] == pytest.approx(one[kind][end])


def test_the_matrix_is_symmetric_with_the_control_on_its_diagonal():
    record = drift({0: changes(directions(3, 0.2), 0.02, 0)}, steps=1, rate=1.0)
    cells = np.array(record["matrix"]["cosine"])
    np.testing.assert_allclose(cells, cells.T)
    assert np.diag(cells).min() > 0.9 and cells[0, 1] == pytest.approx(0.2, abs=0.1)
    assert record["matrix"]["tasks"] == record["tasks"] == ["task0", "task1", "task2"]


def test_two_tasks_give_figures_without_an_interval():
    record = drift({0: changes(directions(2, 0.2), 0.05, 0)}, steps=1, rate=1.0)
    for estimate in (*record["overall"].values(), record["across"][0]["cosine"], record["same_task"][0]["cosine"]):
        assert estimate["mean"] is not None and estimate["low"] is None and estimate["high"] is None


def test_blocks_that_did_not_move_leave_null_and_never_a_number_that_json_does_not_know():
    still = [Change(task=run.task, seed=run.seed, delta=0 * run.delta) for run in changes(np.eye(3, 8), 0.1, 0)]
    record = drift({0: still}, steps=1, rate=1.0)
    json.dumps(record, allow_nan=False)
    assert record["overall"]["across"] == record["overall"]["ratio"] == {"mean": None, "low": None, "high": None}
    assert record["matrix"]["cosine"] == [[None] * 3] * 3
    moved = drift({0: still, 1: changes(np.eye(3, 8), 0.1, 0)}, steps=1, rate=1.0)
    json.dumps(moved, allow_nan=False)
    assert moved["overall"]["same_task"]["mean"] == pytest.approx(moved["same_task"][1]["cosine"]["mean"])


def test_there_is_hardly_ever_a_ratio_to_a_control_that_is_noise():
    some = [drift({0: changes(np.zeros((4, DIM)), 1.0, seed)}, steps=1, rate=1.0)["overall"] for seed in range(40)]
    assert all(one["same_task"]["mean"] is not None for one in some)
    assert sum(one["ratio"]["mean"] is not None for one in some) <= 3


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    random = np.random.default_rng(0)
    spread = random.standard_normal((8, DIM)) / np.sqrt(DIM)  # noise in few directions, as that of real runs
    means = directions(4, 0.2)

    def overall():
        noise = random.standard_normal((4, 2, 8)) @ spread / np.sqrt(8)
        runs = [Change(task=str(t), seed=s, delta=0.7 * means[t] + noise[t, s]) for t in range(4) for s in range(2)]
        return drift({0: runs}, steps=1, rate=1.0)["overall"]

    some = [overall() for _ in range(200)]
    for kind in ("across", "same_task"):
        truth = np.mean([one[kind]["mean"] for one in some])
        inside = np.mean([one[kind]["low"] <= truth <= one[kind]["high"] for one in some])
        assert inside >= 0.86, (kind, inside)
