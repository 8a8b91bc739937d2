"""Printed digits: what two installed libraries carry anyway, Pillow's built-in font and the ones of matplotlib.

Nothing is downloaded and no font ships with us, so the last grey level of a pixel is the installed versions'. A glyph
is drawn large once and brought to the height that handwriting has in its square; the scene tilts and scales it.
"""

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from yarbus.core.errors import ConfigError

SQUARE_PX = 24
"""Side of a glyph's square of ink, about as large as it is seen."""
DRAWN_PX = 8 * SQUARE_PX
MARGIN_PX = 1
BUILT_IN = "Aileron"
"""Pillow's own; every other name is a file of matplotlib's."""
FONTS = {
    "validation": ("DejaVuSerif", "cmss10", "cmtt10"),
    "test": (BUILT_IN, "DejaVuSans", "DejaVuSansMono-Bold", "cmr10", "STIXGeneral"),
}
"""No typeface is in both, and train has none."""


def _load(font: str) -> ImageFont.FreeTypeFont:
    try:
        if font == BUILT_IN:
            built_in = ImageFont.load_default(DRAWN_PX)
            assert isinstance(built_in, ImageFont.FreeTypeFont)
            return built_in
        path = _folder_of_matplotlib() / f"{font}.ttf"
        if not path.is_file():
            raise ConfigError("no such font", where=path, fix="install matplotlib as pip does, with its fonts")
        # Not Raqm, which some builds of Pillow lack: the same pixels with and without it.
        return ImageFont.truetype(path, DRAWN_PX, layout_engine=ImageFont.Layout.BASIC)
    except ImportError as error:
        raise ConfigError("cannot draw letters", why=str(error), fix="install Pillow with FreeType") from None


def _folder_of_matplotlib() -> Path:
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@cache
def glyph(font: str, digit: int) -> np.ndarray:
    """Ink of a printed digit, ``[24, 24]`` uint8: in the middle, as high as the square but for a margin."""
    drawn = Image.new("L", (2 * DRAWN_PX, 2 * DRAWN_PX))
    ImageDraw.Draw(drawn).text((DRAWN_PX // 2, DRAWN_PX // 4), str(digit), fill=255, font=_load(font))
    box = drawn.getbbox()
    assert box is not None, f"{font} has no {digit}"
    height = SQUARE_PX - 2 * MARGIN_PX
    width = min(height, max(1, round((box[2] - box[0]) * height / (box[3] - box[1]))))
    ink = drawn.crop(box).resize((width, height), Image.Resampling.BOX)
    square = Image.new("L", (SQUARE_PX, SQUARE_PX))
    square.paste(ink, ((SQUARE_PX - width) // 2, MARGIN_PX))
    return np.asarray(square)
