import numpy as np
import pytest

from yarbus.tinyworld.scene import CELL_EDGES_PX, SCANS, Digit, cell_at, draw_scene, load_scans, render, scans_by_digit


def scenes(split: str = "train", count: int = 60):
    return [draw_scene(split, (5, number)) for number in range(count)]


def test_a_seed_means_the_same_scene_and_the_same_pixels_every_time():
    for first, again in zip(scenes(), scenes(), strict=True):
        assert first == again
        np.testing.assert_array_equal(render(first), render(again))


def test_another_seed_means_another_scene():
    drawn = scenes()
    assert len({scene.digits for scene in drawn}) == len(drawn)


def test_no_scan_belongs_to_two_splits_and_every_scan_to_one():
    numbers = [number for first, end in SCANS.values() for number in range(first, end)]
    assert sorted(numbers) == list(range(len(load_scans()[0])))
    for split, (first, end) in SCANS.items():
        assert all(first <= digit.scan < end for scene in scenes(split) for digit in scene.digits)


def test_a_scan_shows_the_digit_that_the_scene_says():
    labels = load_scans()[1]
    assert all(labels[digit.scan] == digit.digit for scene in scenes() for digit in scene.digits)
    assert all((labels[numbers] == digit).all() for digit, numbers in enumerate(scans_by_digit("test")))


def test_digits_stand_from_left_to_right_and_share_neither_digit_nor_colour():
    for scene in scenes():
        assert 1 <= len(scene.digits) <= 4
        assert [digit.x for digit in scene.digits] == sorted(digit.x for digit in scene.digits)
        assert (
            len({digit.digit for digit in scene.digits}) == len({d.colour for d in scene.digits}) == len(scene.digits)
        )


def test_a_digit_lies_whole_in_the_picture_and_its_centre_clearly_in_one_cell():
    for digit in (digit for scene in scenes() for digit in scene.digits):
        assert digit.px / 2 <= min(digit.x, digit.y) and max(digit.x, digit.y) <= 48 - digit.px / 2
        assert min(abs(centre - edge) for centre in (digit.x, digit.y) for edge in CELL_EDGES_PX) >= 1.5


@pytest.mark.parametrize(
    ("x", "y", "cell"), [(10.0, 10.0, "a1"), (40.0, 10.0, "d1"), (20.0, 30.0, "b3"), (30.0, 40.0, "c4")]
)
def test_cells_are_lettered_from_the_left_and_numbered_from_the_top(x: float, y: float, cell: str):
    assert cell_at(x, y) == cell


def test_the_ink_is_where_the_scene_says_and_has_its_colour():
    scene = draw_scene("train", (0, 0), num_digits=(1, 1), sizes=("large",))
    only = Digit(**{**scene.digits[0].__dict__, "colour": "white", "x": 12.0, "y": 36.0})
    picture = render(type(scene)(**{**scene.__dict__, "digits": (only,)})).astype(float)
    corners = {
        name: picture[rows, columns].max()
        for name, rows, columns in (
            ("there", slice(26, 46), slice(2, 22)),
            ("above", slice(0, 22), slice(0, 24)),
            ("beside", slice(26, 48), slice(26, 48)),
        )
    }
    assert corners["there"] > 220 and corners["above"] < 170 and corners["beside"] < 170
