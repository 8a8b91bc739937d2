import numpy as np
import pytest

from yarbus.core.errors import ConfigError
from yarbus.tinyworld import fonts
from yarbus.tinyworld.fonts import FONTS, MARGIN_PX, SQUARE_PX, glyph

EVERY = [font for some in FONTS.values() for font in some]


@pytest.mark.parametrize("font", EVERY)
def test_a_glyph_fills_its_square_in_height_and_stands_in_its_middle(font):
    for digit in range(10):
        ink = glyph(font, digit)
        assert ink.shape == (SQUARE_PX, SQUARE_PX) and ink.dtype == np.uint8
        rows, columns = np.flatnonzero(ink.max(1) > 40), np.flatnonzero(ink.max(0) > 40)
        assert rows[0] <= MARGIN_PX + 1 and rows[-1] >= SQUARE_PX - MARGIN_PX - 2
        assert abs(columns[0] - (SQUARE_PX - 1 - columns[-1])) <= 2
        assert ink.max() > 180


@pytest.mark.parametrize("font", EVERY)
def test_the_ten_digits_of_a_font_are_ten_shapes_and_no_placeholder(font):
    inks = [glyph(font, digit).astype(float) for digit in range(10)]
    assert min(abs(a - b).mean() for i, a in enumerate(inks) for b in inks[:i]) > 10


def test_no_two_fonts_draw_the_same_digits():
    for i, first in enumerate(EVERY):
        for second in EVERY[:i]:
            assert sum(abs(glyph(first, d).astype(float) - glyph(second, d)).mean() for d in range(10)) / 10 > 8


def test_train_has_no_font_and_validation_and_test_share_none():
    assert set(FONTS) == {"validation", "test"} and not set(FONTS["validation"]) & set(FONTS["test"])


def test_a_font_that_is_not_installed_is_named_with_its_place(monkeypatch, tmp_path):
    monkeypatch.setattr(fonts, "_folder_of_matplotlib", lambda: tmp_path)
    with pytest.raises(ConfigError, match="no such font.*cmr99.ttf.*install matplotlib"):
        glyph("cmr99", 3)


def test_a_pillow_that_draws_no_letters_says_what_to_install(monkeypatch):
    def refused(*args, **options):
        raise ImportError("The _imagingft C module is not installed")

    monkeypatch.setattr(fonts.ImageFont, "truetype", refused)
    with pytest.raises(ConfigError, match="cannot draw letters.*FreeType"):
        glyph.__wrapped__("cmr10", 3)
