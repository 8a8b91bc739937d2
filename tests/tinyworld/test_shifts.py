import json

import numpy as np
import pytest
from PIL import Image

from yarbus.evaluation.benchmark import BENCHMARKS
from yarbus.evaluation.runner import load_benchmark
from yarbus.tinyworld.classification import HELD_OUT
from yarbus.tinyworld.fonts import FONTS
from yarbus.tinyworld.scene import COLOURS, GROUNDS, PATTERNS, SCANS, SIZES, load_scans
from yarbus.tinyworld.shifts import CONTRAST, KINDS, NUM_PICTURES, STYLES, export, look_of, picture, shifted

NUMBERS = range(60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("test")
    export("test", folder, num_pictures=20)
    return folder


def digits(kind, style="test"):
    return [shifted(kind, number, style=style).digits[0] for number in NUMBERS]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_departs_from_the_large_digits_in_nothing_else(kind, style):
    for number in NUMBERS:
        scene = shifted(kind, number, style=style)
        (digit,) = scene.digits
        assert digit.digit == number % 10
        assert (digit.colour in COLOURS) == (kind != "tint")
        assert (scene.ground in GROUNDS) == (kind != "ground")
        assert (digit.px > SIZES["large"][1]) == (kind == "scale")
        assert kind in ("scale", "font") or digit.px >= SIZES["large"][0]
        assert digit.px / 2 <= min(digit.x, digit.y) and max(digit.x, digit.y) <= 48 - digit.px / 2
        if kind == "font":
            assert digit.scan in range(len(STYLES[style].fonts))
        else:
            assert SCANS[style][0] <= digit.scan < SCANS[style][1]
            assert load_scans()[1][digit.scan] == digit.digit


def test_validation_and_test_share_nothing_strange():
    validation, test = STYLES["validation"], STYLES["test"]
    for name in ("tints", "grounds", "fonts"):
        assert not set(getattr(validation, name)) & set(getattr(test, name))
    assert SIZES["large"][1] < validation.scale[0] <= validation.scale[1] < test.scale[0]


@pytest.mark.parametrize("style", STYLES)
def test_a_strange_tint_is_far_from_every_named_colour(style):
    for tint in STYLES[style].tints.values():
        assert min(np.abs(np.subtract(tint, usual)).max() for usual in COLOURS.values()) >= 45


@pytest.mark.parametrize("style", STYLES)
def test_a_strange_ground_is_no_usual_one_under_another_name(style):
    rows, columns = np.ogrid[:48, :48]
    for pattern in STYLES[style].grounds.values():
        drawn = np.asarray(pattern(rows, columns, 6), dtype=float)
        assert drawn.shape == (48, 48) and 0 <= drawn.min() < drawn.max() <= 1
        for usual in PATTERNS.values():
            assert abs(np.asarray(usual(rows, columns, 6), dtype=float) - drawn).mean() > 0.15
    assert look_of("ground", style).contrast == CONTRAST and CONTRAST[0] > look_of("tint", style).contrast[1]


def test_every_font_shows_every_digit_and_equally_often():
    shown = {(digit.scan, digit.digit) for digit in (shifted("font", n, style="test").digits[0] for n in range(250))}
    assert shown == {(font, digit) for font in range(len(FONTS["test"])) for digit in range(10)}
    assert NUM_PICTURES["test"] % (10 * len(FONTS["test"])) == 0
    assert NUM_PICTURES["validation"] % (10 * len(FONTS["validation"])) == 0


def test_printed_digits_come_in_several_sizes_and_tilts():
    shown = digits("font")
    assert len({digit.px for digit in shown}) >= 4 and {digit.lean for digit in shown} == {"left", "straight", "right"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_number_means_the_same_pixels_every_time(kind):
    np.testing.assert_array_equal(picture(kind, 3, style="test"), picture(kind, 3, style="test"))
    assert (picture(kind, 3, style="test") != picture(kind, 13, style="test")).any()


def test_train_scans_in_a_strange_style_are_train_scans_and_other_pictures():
    scene = shifted("scale", 5, style="validation", scans="train")
    assert SCANS["train"][0] <= scene.digits[0].scan < SCANS["train"][1]
    assert scene.seed != shifted("scale", 5, style="validation").seed


def test_rows_hold_the_picture_the_answer_and_what_must_not_count_twice(folder):
    rows = json.loads((folder / "classify-ood.json").read_text())
    assert [row["task"] for row in rows[::20]] == list(KINDS) and len({row["id"] for row in rows}) == len(rows) == 80
    for place, row in enumerate(rows):
        number = place % 20
        question, answer = (turn["value"] for turn in row["conversations"])
        assert question.removeprefix("<image>\n") in HELD_OUT and answer == str(number % 10)
        pixels = np.asarray(Image.open(folder / row["image"]))
        np.testing.assert_array_equal(pixels, picture(row["task"], number, style="test"))
        font = STYLES["test"].fonts[shifted("font", number, style="test").digits[0].scan]
        assert row["group"] == f"{font}-{answer}" if row["task"] == "font" else row["group"].startswith("scan-")


def test_exporting_again_gives_the_same_bytes(folder, tmp_path):
    export("test", tmp_path, num_pictures=20)
    assert (tmp_path / "classify-ood.json").read_bytes() == (folder / "classify-ood.json").read_bytes()
    for path in (folder / "images").iterdir():
        assert path.read_bytes() == (tmp_path / "images" / path.name).read_bytes()


def test_the_benchmark_has_one_number_for_all_and_one_for_each_kind():
    benchmark = BENCHMARKS["tinyworld/classify-ood"]
    assert list(benchmark.metrics) == ["exact_match", "label_named", *KINDS]
    assert {benchmark.chance_of(name) for name in ("exact_match", *KINDS)} == {0.1}
    assert benchmark.chance_of("label_named") is None
    assert len(benchmark.samples()) == NUM_PICTURES["test"] * len(KINDS)
    assert set(load_benchmark("file:tinyworld:validation/classify-ood.json").metrics) == {"accuracy", *KINDS}
