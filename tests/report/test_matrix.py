"""Cells hold the number, the colour of its sign, and say what is a ceiling."""

import re

import pytest

from tests.report.synthetic_diagnosis import gradients
from yarbus.report.matrix import matrix_figure

HOSTILE = "<script>alert(1)</script>"


def of(cosine: list[list[float | None]], half: float | None = 0.1) -> dict:
    tasks = [f"t{number}" for number in range(len(cosine))]
    ends = {} if half is None else {
        key: [[None if value is None else value + sign * half for value in row] for row in cosine]
        for key, sign in (("low", -1), ("high", 1))
    }  # fmt: skip
    return {"tasks": tasks, "cosine": cosine, **ends}


def test_cells_show_number_interval_sign_and_ceiling():
    figure = matrix_figure(of([[0.5, -0.4], [-0.4, 0.6]]))
    cell = re.search(r'<td class="heat below" style="--share:(\d+)%">(.*?)</td>', figure.body)
    assert cell.group(2) == "\N{MINUS SIGN}0.40<small>\N{MINUS SIGN}0.50 to \N{MINUS SIGN}0.30</small>"
    assert cell.group(1) == "100"
    assert figure.body.count('class="heat ceiling"') == 2
    assert "0.50<small>ceiling</small>" in figure.body
    assert figure.reading == (
        "1 of 1 pairs oppose each other beyond noise, most of all t0 and t1, \N{MINUS SIGN}0.40 "
        "(\N{MINUS SIGN}0.50 to \N{MINUS SIGN}0.30)."
    )


def test_pairs_within_noise_are_not_opposed_and_stand_in_grey():
    figure = matrix_figure(of([[0.5, -0.05], [-0.05, 0.6]]))
    assert "No pair of tasks opposes each other beyond noise" in figure.reading
    assert figure.body.count("heat below open") == 2


def test_small_cosines_stay_pale():
    shares = re.findall(r"--share:(\d+)%", matrix_figure(of([[0.5, 0.02], [0.02, 0.6]])).body)
    assert set(shares) == {"10"}


def test_unknown_cells_are_dashes_and_missing_intervals_are_told():
    figure = matrix_figure(of([[0.5, None, 0.1], [None, 0.4, -0.2], [0.1, -0.2, 0.3]], half=None))
    assert figure.body.count("heat none") == 2
    assert "1 of 2 pairs lie below 0, without an interval" in figure.reading
    assert len(figure.rows) == 7


def test_one_task_has_no_pair_and_no_record_no_matrix():
    assert "no pair to compare" in matrix_figure(of([[0.5]])).reading
    assert matrix_figure(None) is None
    assert matrix_figure({"tasks": ["a"], "cosine": [[float("nan")]]}) is None
    assert matrix_figure({"tasks": ["a", "b"], "cosine": [[None]]}) is None


def test_many_tasks_leave_their_intervals_to_the_file():
    figure = matrix_figure(of([[0.3] * 9] * 9))
    assert "<small>" not in figure.body and "Intervals of 95 % stand in tasks.csv" in figure.how
    assert figure.rows[1][3:] == [pytest.approx(0.2), pytest.approx(0.4)]


def test_names_of_tasks_are_text():
    record = gradients()["matrix"]
    body = matrix_figure({**record, "tasks": [HOSTILE, *record["tasks"][1:]]}).body
    assert HOSTILE not in body and "&lt;script&gt;" in body
