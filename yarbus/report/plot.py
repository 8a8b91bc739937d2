"""Lines over blocks or steps with bands of 95 %, and clouds of points, in HTML that fits any width.

The drawing is an SVG that is stretched; markers and labels are placed beside it by percentages and keep their shape.
Several panels stand beside each other where there is room and below each other on a phone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from yarbus.report.estimates import Estimate, decimal
from yarbus.report.look import Look, ticks
from yarbus.report.markup import Markup, tag

MAX_MARKED = 30
"""Lines of more points than this are told apart by dashes instead of markers."""
PADDING = 3.0
"""Percent left free at both ends, so that no marker is cut."""
LEAST_RANGE = 0.01
"""Points of a cloud that differ by less are drawn as alike; so its marks need three decimals, which fit beside it."""
DECIMALS = 12
"""Marks are round to this many."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line: estimates in the order of their places."""

    name: str
    points: list[tuple[float, Estimate]]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One drawing of a figure."""

    title: str
    series: list[Series]
    x_title: str
    x_marks: list[float]
    levels: Mapping[float, str] = field(default_factory=lambda: {0.0: ""})
    """Values that a reader compares with, and what they mean; they always lie in the picture."""
    digits: int = 2


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """Points of one kind over two measures."""

    title: str
    points: list[tuple[float, float]]
    x_title: str
    y_title: str
    colour: str
    """CSS class that sets ``--c``."""


@dataclass(frozen=True)
class Axes:
    """Where a value lies in the drawing, in percent from its left and its top."""

    x_range: tuple[float, float]
    y_marks: list[float]

    def across(self, x: float) -> float:
        first, last = self.x_range
        return 50.0 if last == first else PADDING + (100 - 2 * PADDING) * (x - first) / (last - first)

    def down(self, y: float) -> float:
        return 100 * (self.y_marks[-1] - y) / (self.y_marks[-1] - self.y_marks[0])


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.2f} {y:.2f}" for x, y in points)


def _stroke(d: str, colour: str, dash: str | None = None) -> Markup:
    return tag("path", d=d, class_=colour, stroke_dasharray=dash, vector_effect="non-scaling-stroke")


def _places(marks: Sequence[float]) -> int:
    """Decimals that write every mark in full."""
    whole = [round(mark, DECIMALS) for mark in marks]
    return next(places for places in range(DECIMALS + 1) if all(round(mark, places) == mark for mark in whole))


def _frame(
    axes: Axes,
    *,
    title: str,
    described: str,
    x_title: str,
    x_marks: Sequence[float],
    levels: Mapping[float, str],
    drawn: Sequence[Markup],
    markers: Sequence[Markup] = (),
) -> Markup:
    """Title, axes and grid around what is drawn."""
    grid = [_stroke(f"M0 {axes.down(mark):.2f}H100", "grid") for mark in axes.y_marks if mark not in levels]
    grid += [_stroke(f"M0 {axes.down(level):.2f}H100", "grid level") for level in levels]
    chart = tag(
        "svg", *grid, *drawn, viewBox="0 0 100 100", preserveAspectRatio="none", role="img", aria_label=described
    )
    places = _places(axes.y_marks)
    y_labels = [tag("span", decimal(y, places), style=f"top:{axes.down(y):.2f}%") for y in axes.y_marks]
    first, last = axes.x_range
    shown = [mark for mark in x_marks if first <= mark <= last]
    places = _places(shown) if shown else 0
    x_labels = [tag("span", decimal(x, places), style=f"left:{axes.across(x):.2f}%") for x in shown]
    names = [
        tag("span", name, class_="level-name", style=f"top:{axes.down(level):.2f}%")
        for level, name in levels.items()
        if name
    ]
    return tag(
        "div",
        tag("p", title, class_="panel-title"),
        tag(
            "div",
            tag("div", *y_labels, class_="y", aria_hidden="true"),
            tag("div", chart, *names, *markers, class_="area"),
            tag("div", x_title, class_="x-title", aria_hidden="true"),
            tag("div", *x_labels, class_="x", aria_hidden="true"),
            class_="plot",
        ),
        class_="panel",
    )


def _described(panel: Panel) -> str:
    """The lines in words, for who cannot see them."""
    lines = []
    for series in panel.series:
        (first_x, first), (last_x, last) = series.points[0], series.points[-1]
        ends = f"{decimal(first.mean, panel.digits)} at {panel.x_title} {first_x:g}"
        if len(series.points) > 1:
            ends += f", {decimal(last.mean, panel.digits)} at {last_x:g}"
        lines.append(f"{series.name}: {ends}")
    return f"{panel.title}. {'; '.join(lines)}"


def _band(series: Series, axes: Axes, colour: str) -> Markup | None:
    known = [(axes.across(x), *map(axes.down, value.ends)) for x, value in series.points if value.low is not None]
    if len(known) < 2:
        return None
    outline = [(x, high) for x, _, high in known] + [(x, low) for x, low, _ in reversed(known)]
    return tag("path", d=_path(outline) + "Z", class_=f"band {colour}")


def panel_markup(panel: Panel, look: Look) -> Markup:
    """Axes, bands, lines and markers of one drawing."""
    xs = [x for series in panel.series for x, _ in series.points]
    ends = [end for series in panel.series for _, value in series.points for end in value.ends]
    y_marks = ticks(min(*ends, *panel.levels), max(*ends, *panel.levels), most=6)
    axes = Axes((min(xs), max(xs)), y_marks)
    bands = [_band(series, axes, look.colour(series.name)) for series in panel.series]
    drawn, markers = [band for band in bands if band is not None], []
    for series in panel.series:
        points = [(axes.across(x), axes.down(value.mean)) for x, value in series.points]
        is_marked = len(points) <= MAX_MARKED
        dash = None if is_marked else look.dash(series.name) or None
        drawn.append(_stroke(_path(points), look.colour(series.name), dash))
        if len(points) == 1:  # one point has no band
            low, high = map(axes.down, series.points[0][1].ends)
            drawn.append(_stroke(f"M{points[0][0]:.2f} {low:.2f}V{high:.2f}", look.colour(series.name)))
        if is_marked:
            markers += [look.marker(series.name, style=f"left:{x:.2f}%;top:{y:.2f}%") for x, y in points]
    return _frame(
        axes,
        title=panel.title,
        described=_described(panel),
        x_title=panel.x_title,
        x_marks=panel.x_marks,
        levels=panel.levels,
        drawn=drawn,
        markers=markers,
    )


def _cloud_marks(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    if high - low < LEAST_RANGE:
        # Widened downwards, and without the noise of rounding: the cosines of a collapsed router end at 1.
        high = round(high, 6)
        low = high - LEAST_RANGE
    return ticks(low, high, most=6)


def cloud_markup(cloud: Cloud) -> Markup:
    """Points as dots that keep their size however the drawing is stretched."""
    x_marks, y_marks = (_cloud_marks(values) for values in zip(*cloud.points, strict=True))
    axes = Axes((x_marks[0], x_marks[-1]), y_marks)
    # A line of no length with round ends is a dot whose size the stretching leaves alone.
    dots = "".join(f"M{axes.across(x):.2f} {axes.down(y):.2f}h0" for x, y in cloud.points)
    return _frame(
        axes,
        title=cloud.title,
        described=f"{len(cloud.points)} points of {cloud.y_title} over {cloud.x_title}",
        x_title="",
        x_marks=x_marks,
        levels={},
        drawn=[_stroke(dots, f"cloud {cloud.colour}")],
    )


def legend(entries: Sequence[tuple[str, str]], look: Look, *, dashed: bool = False) -> Markup:
    """Marker (or line) and name of every series, with a few words in small type."""

    def sample(name: str) -> Markup:
        if not dashed:
            return look.marker(name)
        line = tag("path", d="M0 5H28", stroke_dasharray=look.dash(name) or None)
        return tag("svg", line, class_=f"sample {look.colour(name)}", viewBox="0 0 28 10", aria_hidden="true")

    items = (
        tag("li", sample(name), tag("span", name), *([" ", tag("small", note)] if note else []))
        for name, note in entries
    )
    return tag("ul", *items, class_="legend")


def block_marks(blocks: Sequence[int | float], most: int = 12) -> list[float]:
    """Which blocks are written under an axis: all of a few, else every second, third, ..."""
    every = max(1, -(-len(blocks) // most))
    return [float(block) for block in blocks[::every]]


def panels(some: Sequence[Panel], look: Look) -> Markup:
    """Drawings beside each other."""
    drawn = (panel_markup(panel, look) for panel in some if any(series.points for series in panel.series))
    return tag("div", *drawn, class_="panels")
