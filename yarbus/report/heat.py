"""Cells coloured by how far a number lies above or below a middle: blue above, orange below, the number in each.

Blue and orange stay apart for every kind of colour blindness, and the number says the same without them.
"""

from yarbus.report.markup import Markup, tag


def heat(text: object, value: float, reach: float, *, note: str = "", classes: str = "", name: str = "td") -> Markup:
    """A table cell; ``value`` is the distance from the middle and ``reach`` the distance of the full colour."""
    share = min(1.0, abs(value) / reach) if reach > 0 else 0.0
    side = "above" if value >= 0 else "below"
    small = tag("small", note) if note else ""
    return tag(name, text, small, class_=f"heat {side} {classes}".strip(), style=f"--share:{100 * share:.0f}%")


def scale(low: str, middle: str, high: str) -> Markup:
    """The legend of the colours: both full colours and the middle."""
    return tag(
        "p",
        tag("span", low),
        tag("span", class_="gradient", aria_hidden="true"),
        tag("span", high),
        tag("span", f"{middle} in the middle", class_="middle"),
        class_="scale",
    )
