"""Rows of dots with whiskers over one axis, in HTML that fits any width.

Positions are percentages and text stays text, so the figure reads on a phone, in both colour schemes, and aloud.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from yarbus.report.estimates import Estimate, decimal, interval
from yarbus.report.look import Look
from yarbus.report.markup import Markup, join, tag


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One row: a name, its dots in the axis' unit, and the same in figures."""

    name: str
    dots: list[tuple[str, Estimate]]
    """Name (its look) and value of each dot."""
    text: Markup
    note: str = ""
    """Below the name, in small type."""
    is_open: bool = False
    """Nothing was separated: the figures stand in grey."""
    counts: list[float] = field(default_factory=list)
    """Heights of a histogram behind the dots."""
    span: tuple[float, float] = (0.0, 1.0)
    """Where the histogram begins and ends on the axis."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows under one title."""

    title: str
    strips: list[Strip]
    is_total: bool = False


def in_figures(value: Estimate, digits: int = 2, sign: bool = False) -> Markup:
    """The value with its interval in small type."""
    return join([tag("b", decimal(value.mean, digits, sign)), " ", tag("small", interval(value, digits, sign))])


def axis_labels(marks: Sequence[float], sign: bool = False) -> list[str]:
    """The marks of an axis with as many decimals as they need, 0 bare."""
    digits = max(len(f"{mark:g}".partition(".")[2]) for mark in marks)
    return [decimal(mark, digits, sign) if mark else "0" for mark in marks]


def strips(groups: Sequence[Group], look: Look, marks: Sequence[float], labels: Sequence[str], unit: str) -> Markup:
    """The rows over an axis with these marks; 0, where it is a mark, is drawn heavier."""
    low, width = marks[0], marks[-1] - marks[0]

    def place(value: float) -> float:
        return 100 * (value - low) / width

    def drawn(strip: Strip) -> Markup:
        parts = [_histogram(strip, place(strip.span[0]), place(strip.span[1]), look)] if strip.counts else []
        if low <= 0 <= marks[-1]:
            parts.append(tag("span", class_="zero", style=f"left:{place(0.0):.2f}%"))
        for name, value in strip.dots:
            if value.low is not None and value.high is not None:
                style = f"left:{place(value.low):.2f}%;width:{place(value.high) - place(value.low):.2f}%"
                parts.append(tag("span", class_=f"whisker {look.colour(name)}", style=style))
        parts += [look.marker(name, style=f"left:{place(value.mean):.2f}%") for name, value in strip.dots]
        return tag("div", *parts, class_="strip", style=f"--parts:{len(marks) - 1}")

    bodies = []
    for group in groups:
        rows = [tag("tr", tag("th", group.title, colspan=3, scope="rowgroup"), class_="group")] if group.title else []
        for strip in group.strips:
            marker = [look.marker(strip.dots[0][0])] if len(strip.dots) == 1 and strip.name in look.names else []
            note = [tag("small", strip.note)] if strip.note else []
            rows.append(
                tag(
                    "tr",
                    tag("th", *marker, strip.name, *note, scope="row", class_="who"),
                    tag("td", drawn(strip), class_="where", aria_hidden="true"),
                    tag("td", strip.text, class_="what" + (" open" if strip.is_open else "")),
                    class_="item",
                )
            )
        bodies.append(tag("tbody", *rows, class_="total" if group.is_total else None))
    written = [tag("span", label, style=f"left:{place(mark):.2f}%") for mark, label in zip(marks, labels, strict=True)]
    axis = tag("tr", tag("td"), tag("td", tag("div", *written, class_="ticks")), tag("td", unit), class_="axis")
    columns = tag("colgroup", *(tag("col", class_=name) for name in ("who", "where", "what")))
    return tag("table", columns, *bodies, tag("tfoot", axis, aria_hidden="true"), class_="dots")


def _histogram(strip: Strip, start: float, end: float, look: Look) -> Markup:
    """Counts as a stepped area, as high as the strip at the most frequent."""
    most = max(strip.counts) or 1.0
    points = ["M0 100"]
    for index, count in enumerate(strip.counts):
        height = 100 - 92 * count / most
        points.append(f"L{index} {height:.1f}L{index + 1} {height:.1f}")
    path = tag("path", d="".join(points) + f"L{len(strip.counts)} 100Z")
    return tag(
        "svg",
        path,
        class_=f"histogram {look.colour(strip.dots[0][0])}",
        viewBox=f"0 0 {len(strip.counts)} 100",
        preserveAspectRatio="none",
        style=f"left:{start:.2f}%;width:{end - start:.2f}%",
    )
