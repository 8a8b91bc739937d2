"""Where the tower looks."""

import re
from base64 import b64decode
from io import BytesIO

import pytest
from PIL import Image

from tests.report.synthetic_diagnosis import estimate, gaze, make_pictures
from yarbus.report.gaze import MOST_PAIRS, gaze_figure, half, outline
from yarbus.report.thumbnails import Album

HOSTILE = '<img src=x onerror="alert(1)">'


def test_half_of_the_gaze_lies_on_the_fewest_patches():
    assert half([0.1, 0.4, 0.2, 0.3]) == {1, 3}
    assert half([0.6, 0.4]) == {0}


def test_the_outline_goes_around_a_set_and_not_through_it():
    assert outline({0}, 2) == "M0 0h1M0 1h1M0 0v1M1 0v1"
    both = outline({0, 1}, 2)
    assert "M1 0v1" not in both and "M2 0v1" in both
    assert outline(set(), 2) == ""


def test_patches_are_darker_the_less_they_are_looked_at(tmp_path):
    record = gaze([], side=2, num_samples=1)
    record["samples"][0] |= {"gaze": [0.5, 0.25, 0.25, 0.0]}
    body = gaze_figure("dense", [record], Album(tmp_path)).body
    veil = Image.open(BytesIO(b64decode(re.search(r"image/png;base64,([^)]+)", body).group(1))))
    assert veil.size == (2, 2)
    assert [veil.convert("RGBA").getpixel(place) for place in ((0, 0), (1, 0), (0, 1), (1, 1))] == [
        (0, 0, 0, 0), (0, 0, 0, 76), (0, 0, 0, 76), (0, 0, 0, 153),
    ]  # fmt: skip
    assert "Strongest in row 1, column 1 of 2 by 2." in body


@pytest.mark.parametrize(
    ("distance", "same", "other", "reading"),
    [
        (0.01, 0.0, 0.02, "The gaze hardly moves: another question on the same picture moves 1 (\N{MINUS SIGN}3 to 5)"),
        (0.4, 0.2, 0.5, "a question of another task moves 50 (46 to 54) percent of the gaze, another question of the "
         "same task 20 (16 to 24) percent."),
        (0.4, None, None, "Another question on the same picture moves 40 (36 to 44) percent of the gaze."),
    ],
)  # fmt: skip
def test_the_reading_says_how_far_the_gaze_moves(tmp_path, distance, same, other, reading):
    record = gaze([], num_samples=3)
    record["distance"] = estimate(distance, 0.04)
    for key, value in (("distance_same_task", same), ("distance_other_task", other)):
        record[key] = {"mean": None} if value is None else estimate(value, 0.04)
    assert reading in gaze_figure("dense", [record], Album(tmp_path)).reading


def test_pairs_are_chosen_by_a_hash_in_turn_from_every_task(tmp_path):
    record = gaze(make_pictures(tmp_path / "p"))
    album = Album(tmp_path)
    body = gaze_figure("dense", [record], album).body
    assert body.count('class="pair"') == MOST_PAIRS
    turned = gaze_figure("dense", [{**record, "samples": record["samples"][::-1]}], album).body
    assert turned == body
    assert re.search(r'class="thumb t\d+"', body)


def test_an_unknown_layout_stands_in_one_row_and_says_so(tmp_path):
    record = gaze([], num_samples=2) | {"grid": None}
    for sample in record["samples"]:
        sample["grid"] = None
    figure = gaze_figure("dense", [record], Album(tmp_path))
    assert "they stand in one row" in figure.how
    assert 'viewBox="0 0 36 1"' in figure.body


def test_pictures_may_have_grids_of_their_own(tmp_path):
    record = gaze([], num_samples=1) | {"grid": None}
    record["samples"][0]["grid"] = [4, 9]
    figure = gaze_figure("dense", [record], Album(tmp_path))
    assert 'viewBox="0 0 9 4"' in figure.body and "one row" not in figure.how


def test_questions_are_text_and_broken_gazes_are_left_out(tmp_path):
    record = gaze([], num_samples=3)
    record["samples"][0] |= {"question": HOSTILE, "task": HOSTILE}
    record["samples"][1]["gaze"] = [None] * 36
    record["samples"][2]["other"] = None
    body = gaze_figure("dense", [record], Album(tmp_path)).body
    assert body.count('class="pair"') == 1 and HOSTILE not in body


def test_nothing_recorded_draws_nothing(tmp_path):
    assert gaze_figure("dense", [], Album(tmp_path)) is None
    assert gaze_figure("dense", [{"samples": []}], Album(tmp_path)) is None
