"""How a variant looks: one colour, one marker and one kind of line everywhere on a page; and round axis marks."""

from dataclasses import dataclass
from math import ceil, floor, log10

from yarbus.report.markup import Markup, tag

NUM_COLOURS = 8
SHAPES = (
    '<circle cx="8" cy="8" r="5.5"/>',
    '<rect x="3" y="3" width="10" height="10"/>',
    '<path d="M8 1.5 14.5 8 8 14.5 1.5 8z"/>',
    '<path d="M8 2 14.5 13.5h-13z"/>',
    '<path d="M8 14 1.5 2.5h13z"/>',
    '<path d="M5.5 2h5v3.5H14v5h-3.5V14h-5v-3.5H2v-5h3.5z"/>',
)
DASHES = ("", "7 4", "2 3", "10 3 2 3", "12 5")
SHARED = "shared by all"


@dataclass(frozen=True)
class Look:
    """Colour, marker and line of every variant of a page."""

    variants: list[str]

    def _index(self, variant: str) -> int:
        """0 is the neutral grey of ``frozen`` and of what all share; the others count from 1."""
        if variant in ("frozen", SHARED):
            return 0
        return 1 + [name for name in self.variants if name != "frozen"].index(variant)

    def colour(self, variant: str) -> str:
        """CSS class that sets ``--c``."""
        index = self._index(variant)
        return "v0" if index == 0 else f"v{1 + (index - 1) % (NUM_COLOURS - 1)}"

    def dash(self, variant: str) -> str:
        """Dash pattern of the variant's line."""
        return DASHES[self._index(variant) % len(DASHES)]

    def marker(self, variant: str, **attributes: object) -> Markup:
        """The variant's marker; decoration, since its name always stands beside it."""
        shape = Markup(SHAPES[self._index(variant) % len(SHAPES)])
        classes = f"marker {self.colour(variant)}"
        return tag("svg", shape, class_=classes, viewBox="0 0 16 16", aria_hidden="true", **attributes)


def ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers, evenly spaced, that enclose [low, high]; at least two."""
    if high <= low:
        low, high = low - 0.5, high + 0.5
    power = 10.0 ** floor(log10((high - low) / most))
    for factor in (1, 2, 5, 10, 20, 50):
        step = power * factor
        first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
        if last - first + 1 <= most:
            break
    return [round(number * step, 12) for number in range(first, last + 1)]
