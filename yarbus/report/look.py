"""How a name looks: one colour, one marker and one kind of line everywhere on a page; and round axis marks."""

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
SHARED, SHARED_BY_REST = "shared by all", "shared by the others"


@dataclass(frozen=True)
class Look:
    """Colour, marker and line of every name in a picture: variants, tasks, or a measure and its control."""

    names: list[str]
    neutral: tuple[str, ...] = ("frozen", SHARED, SHARED_BY_REST)
    """What stands in grey with a round marker: what the others are compared with."""

    def _index(self, name: str) -> int:
        """0 is neutral; the others count from 1."""
        if name in self.neutral:
            return 0
        return 1 + [other for other in self.names if other not in self.neutral].index(name)

    def colour(self, name: str) -> str:
        """CSS class that sets ``--c``."""
        index = self._index(name)
        return "v0" if index == 0 else f"v{1 + (index - 1) % (NUM_COLOURS - 1)}"

    def dash(self, name: str) -> str:
        """Dash pattern of the name's line."""
        return DASHES[self._index(name) % len(DASHES)]

    def shape(self, name: str) -> int:
        """Index of the name's marker."""
        return self._index(name) % len(SHAPES)

    def marker(self, name: str, **attributes: object) -> Markup:
        """The name's marker; decoration, since the name always stands beside it."""
        classes = f"marker {self.colour(name)}"
        return tag(
            "svg",
            Markup(SHAPES[self.shape(name)]),
            class_=classes,
            viewBox="0 0 16 16",
            aria_hidden="true",
            **attributes,
        )


ROUNDING = 1e-9
"""Relative difference below which two numbers are one, up to the noise of their computation."""

TINY = 1e-12
"""Nothing shown on these pages is measured finer: a range of a billionth of it is one value, too."""


def ticks(low: float, high: float, most: int = 7) -> list[float]:
    """Round numbers, evenly spaced, that enclose [low, high]; at least two, also where both ends are one value."""
    if high - low <= ROUNDING * max(abs(low), abs(high), TINY):
        low, high = low - 0.5, high + 0.5
    power = 10.0 ** floor(log10((high - low) / most))
    for factor in (1, 2, 5, 10, 20, 50):
        step = power * factor
        first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
        if last - first + 1 <= most:
            break
    digits = max(0, -floor(log10(step))) + 1
    return [round(number * step, digits) for number in range(first, last + 1)]
