"""Pictures of a page, each embedded once however often it is shown.

A picture is a CSS class with the pixels as its background: figures name the class, and the page's style holds the
pixels. A budget bounds the page; what did not fit is counted and said.
"""

from base64 import b64encode
from io import BytesIO
from pathlib import Path

from PIL import Image

from yarbus.report.gallery import FORMATS, find_picture
from yarbus.report.markup import Markup, tag

BUDGET_BYTES = 800_000
"""Of all thumbnails of a page together, as they stand in the file."""


def _encoded(path: Path, px: int) -> str | None:
    """The picture, reduced to ``px``, as a data URI; None if it cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as opened:
            opened.draft("RGB", (px, px))  # a large JPEG is decoded at a fraction of its size
            picture = opened.convert("RGB")
    except Exception:  # Pillow leaks six kinds of error; a page without a picture is still a page
        return None
    picture.thumbnail((px, px))
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=84)
    return f"data:image/jpeg;base64,{b64encode(buffer.getvalue()).decode()}"


class Album:
    """The thumbnails of one page."""

    def __init__(self, folder: Path, budget_bytes: int = BUDGET_BYTES) -> None:
        self._folder = folder
        self._free_bytes = budget_bytes
        self._classes: dict[tuple[str, int], str | None] = {}
        self._rules: list[str] = []
        self.num_left_out = 0
        """Pictures that did not fit into the budget."""

    def add(self, name: str | None, px: int = 64) -> str | None:
        """The CSS class that shows a recorded picture; None without one, if it is unreadable, or over budget."""
        if not name:
            return None
        key = (name, px)
        if key not in self._classes:
            self._classes[key] = self._embed(name, px)
        return self._classes[key]

    def _embed(self, name: str, px: int) -> str | None:
        found = _encoded(find_picture(name, self._folder), px)
        if found is None:
            return None
        if len(found) > self._free_bytes:
            self.num_left_out += 1
            return None
        self._free_bytes -= len(found)
        self._rules.append(f".t{len(self._rules)}{{background-image:url({found})}}")
        return f"t{len(self._rules) - 1}"

    def style(self) -> Markup:
        """The rules that hold the pixels."""
        return Markup("\n".join(self._rules))


def thumbnail(shown: str | None, alt: str) -> Markup:
    """A small picture by its class; an empty frame where there is none."""
    return tag("span", class_=f"thumb {shown or ''}".strip(), role="img", aria_label=alt)
