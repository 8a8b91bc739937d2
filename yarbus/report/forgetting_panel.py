"""Gained and forgotten in one picture and one table: classification upwards, instructions to the right.

The drawing keeps its shape, so that an arrow points where it says.
"""

from collections.abc import Sequence
from math import hypot

from yarbus.report.cells import Cell
from yarbus.report.estimates import decimal, listed, percent
from yarbus.report.figure import Figure
from yarbus.report.forgetting import Forgetting, Point
from yarbus.report.intervals import Difference
from yarbus.report.look import Look, ticks
from yarbus.report.markup import Markup, tag

TITLE = "What was gained, and what forgotten"
WIDTH, HEIGHT = 400, 300
MARGIN = 14
ROOM = 9
"""Between the tip of an arrow and the middle of what it points at."""
HEAD = 8
LABELLED = (0.0, 0.5, 1.0)
"""Alphas whose number stands beside the curve."""
Place = tuple[float, float]


class _Plane:
    """Where a pair of scores lies in the drawing."""

    def __init__(self, points: Sequence[Point]) -> None:
        self.x_marks, self.y_marks = (
            ticks(100 * min(cell.low for cell in cells), 100 * max(cell.high for cell in cells), most=6)
            for cells in ([one.instruction for one in points], [one.classification for one in points])
        )

    def x(self, fraction: float) -> float:
        first, last = self.x_marks[0], self.x_marks[-1]
        return MARGIN + (WIDTH - 2 * MARGIN) * (100 * fraction - first) / (last - first)

    def y(self, fraction: float) -> float:
        first, last = self.y_marks[0], self.y_marks[-1]
        return HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * (100 * fraction - first) / (last - first)

    def place(self, point: Point) -> Place:
        return self.x(point.instruction.value), self.y(point.classification.value)


def _style(place: Place) -> str:
    return f"left:{100 * place[0] / WIDTH:.2f}%;top:{100 * place[1] / HEIGHT:.2f}%"


def _line(d: str, classes: str) -> Markup:
    return tag("path", d=d, class_=classes, vector_effect="non-scaling-stroke")


def _whiskers(point: Point, plane: _Plane, colour: str) -> Markup:
    x, y = plane.place(point)
    across = f"M{plane.x(point.instruction.low):.1f} {y:.1f}H{plane.x(point.instruction.high):.1f}"
    up = f"M{x:.1f} {plane.y(point.classification.low):.1f}V{plane.y(point.classification.high):.1f}"
    return _line(across + up, f"interval {colour}")


def _arrow(start: Place, end: Place) -> list[Markup]:
    """From near one point to near another; nothing between points that touch."""
    across, down = end[0] - start[0], end[1] - start[1]
    length = hypot(across, down)
    if length < 2 * ROOM + HEAD:
        return []
    across, down = across / length, down / length
    x, y = end[0] - ROOM * across, end[1] - ROOM * down
    back_x, back_y, half = x - HEAD * across, y - HEAD * down, 0.4 * HEAD
    shaft = f"M{start[0] + ROOM * across:.1f} {start[1] + ROOM * down:.1f}L{back_x:.1f} {back_y:.1f}"
    corners = [(x, y), (back_x - half * down, back_y + half * across), (back_x + half * down, back_y - half * across)]
    head = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners) + "Z"
    return [_line(shaft, "arrow"), tag("path", d=head, class_="arrow head")]


def _curve(name: str, points: Sequence[Point], plane: _Plane, look: Look) -> tuple[list[Markup], list[Markup]]:
    """The line with a dot for each alpha, and the numbers beside it."""
    places = [plane.place(point) for point in points]
    colour = look.colour(name)
    line = _line("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places), colour)
    dots = _line("".join(f"M{x:.1f} {y:.1f}h0" for x, y in places), f"blend {colour}")
    labels = [
        tag("span", f"{point.alpha:g}", class_=f"alpha {colour}", style=_style(place))
        for point, place in zip(points, places, strict=True)
        if point.alpha in LABELLED
    ]
    return [line, dots], labels


def _described(found: Forgetting) -> str:
    said = [
        f"{point.name}: classification {percent(point.classification.value)}, "
        f"instructions {percent(point.instruction.value)}"
        for point in [*found.variants, *(end for curve in found.curves.values() for end in (curve[0], curve[-1]))]
    ]
    return f"{TITLE}, in percent. {'; '.join(dict.fromkeys(said))}"


def _plane(found: Forgetting, look: Look) -> Markup:
    plane = _Plane(found.points)
    xs = [(mark, plane.x(mark / 100)) for mark in plane.x_marks]
    ys = [(mark, plane.y(mark / 100)) for mark in plane.y_marks]
    grid = [_line(f"M{x:.1f} 0V{HEIGHT}", "grid") for _, x in xs] + [
        _line(f"M0 {y:.1f}H{WIDTH}", "grid") for _, y in ys
    ]
    base = next(point for point in found.points if point.name == found.base)
    arrows = [part for one in found.variants for part in _arrow(plane.place(base), plane.place(one)) if one is not base]
    whiskers = [_whiskers(point, plane, look.colour(point.name)) for point in found.variants]
    if not found.variants:  # where there are variants, whiskers of every blend would hide them
        whiskers = [_whiskers(one, plane, look.colour(name)) for name, some in found.curves.items() for one in some]
    lines, labels = list[Markup](), list[Markup]()
    for name, points in found.curves.items():
        drawn, numbers = _curve(name, points, plane, look)
        lines, labels = [*lines, *drawn], [*labels, *numbers]
    markers = [look.marker(point.name, style=_style(plane.place(point))) for point in found.variants]
    chart = tag(
        "svg", *grid, *arrows, *whiskers, *lines, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img",
        aria_label=_described(found),
    )  # fmt: skip
    places = _digits(plane.x_marks), _digits(plane.y_marks)
    columns = [tag("span", decimal(mark, places[0]), style=f"left:{100 * x / WIDTH:.2f}%") for mark, x in xs]
    rows = [tag("span", decimal(mark, places[1]), style=f"top:{100 * y / HEIGHT:.2f}%") for mark, y in ys]
    axes = [
        tag("div", *rows, class_="y", aria_hidden="true"),
        tag("div", chart, *labels, *markers, class_="area"),
        tag("div", *columns, class_="x", aria_hidden="true"),
    ]
    return tag(
        "div",
        tag("p", f"classification, percent (mean of {len(found.classification)})", class_="axis-title"),
        tag("div", *axes, class_="plot"),
        tag("p", f"instructions, percent (mean of {len(found.instruction)})", class_="axis-title below"),
        class_="plane",
    )


def _legend(found: Forgetting, look: Look) -> Markup:
    """A marker for each variant, a line for each curve."""
    notes = {found.base: tag("small", "where the arrows begin")}
    items = [tag("li", look.marker(one.name), tag("span", one.name), notes.get(one.name, "")) for one in found.variants]
    for name, points in found.curves.items():
        line = [_line("M2 5H26", ""), _line("M2 5h0M26 5h0", "blend")]
        sample = tag("svg", *line, class_=f"sample {look.colour(name)}", viewBox="0 0 28 10", aria_hidden="true")
        note = f"blends, alpha from {points[0].alpha:g} to {points[-1].alpha:g}"
        items.append(tag("li", sample, tag("span", name), tag("small", note)))
    return tag("ul", *items, class_="legend")


def _digits(marks: Sequence[float]) -> int:
    return 0 if all(float(mark).is_integer() for mark in marks) else 1


def _count(names: Sequence[str], most: int = 4) -> str:
    return listed(names) if len(names) <= most else f"{len(names)} models"


def _reading(found: Forgetting) -> str:
    """Who gained, and who lost, beyond what the intervals allow; then where the curves lead."""
    others = [point for point in found.variants if point.gained is not None and point.kept is not None]
    gained = [one for one in others if one.gained is not None and one.gained.low > 0]
    forgot = [one for one in others if one.kept is not None and one.kept.high < 0]
    free = [one.name for one in gained if one not in forgot]
    paid = [one.name for one in gained if one in forgot]
    lost = [one.name for one in forgot if one not in gained]
    parts = []
    if free:
        parts.append(f"{_count(free)} gained in classification over {found.base} without a loss in instructions "
                     "that the interval shows.")  # fmt: skip
    if paid:
        parts.append(f"{_count(paid)} gained in classification and lost in instructions.")
    if lost:
        parts.append(f"{_count(lost)} lost in instructions without a gain in classification that the interval shows.")
    if fell := [one.name for one in others if one.gained is not None and one.gained.high < 0]:
        parts.append(f"{_count(fell)} lost in classification.")
    if others and not parts:
        parts.append(f"No difference to {found.base} is clear of 0 in either.")
    for name, points in found.curves.items():
        first, last = points[0], points[-1]
        if first is not last:
            parts.append(
                f"Along {name} classification goes from {percent(first.classification.value)} to "
                f"{percent(last.classification.value)}, instructions from {percent(first.instruction.value)} to "
                f"{percent(last.instruction.value)}."
            )
    return " ".join(parts)


def forgetting_figure(found: Forgetting, look: Look) -> Figure:
    """Every model as a point with its intervals, arrows from the base, blends as a line."""
    how = "Whiskers: 95 % intervals. Up is better classification, right is better instructions."
    if found.curves:
        how += " A dot on a line is a blend of two models; the numbers are its alpha."
    if found.left_out:
        how += f" Not asked all of it and left out: {', '.join(found.left_out)}."
    body = tag("div", _legend(found, look), _plane(found, look))
    return Figure(
        name="forgetting", title=TITLE, reading=_reading(found), how=how, body=body, header=HEADER, rows=_rows(found)
    )


HEADER = ["model", "alpha", "score", "value", "low", "high", "minus_base", "minus_base_low", "minus_base_high"]


def _rows(found: Forgetting) -> list[list[object]]:
    rows: list[list[object]] = []
    for point in found.points:
        scores = {
            "classification": (point.classification, point.gained),
            "instructions": (point.instruction, point.kept),
        }
        for score, (cell, gap) in scores.items():
            ends = [None] * 3 if gap is None else [gap.mean, gap.low, gap.high]
            rows.append([point.name, point.alpha, score, cell.value, cell.low, cell.high, *ends])
        for task, cell in point.tasks.items():
            rows.append([point.name, point.alpha, task, cell.value, cell.low, cell.high, None, None, None])
    return rows


def _cell(cell: Cell) -> Markup:
    return tag("td", percent(cell.value), tag("small", f"{percent(cell.low)}\N{EN DASH}{percent(cell.high)}"))


def _gap(gap: Difference | None) -> Markup:
    if gap is None:
        return tag("td", tag("span", "\N{EN DASH}", class_="quiet"))
    ends = tag("small", f"{percent(gap.low, True)} to {percent(gap.high, True)}")
    return tag("td", percent(gap.mean, True), ends, class_="open" if gap.includes_zero else None)


def forgetting_table(found: Forgetting, look: Look) -> Figure:
    """The same in figures: both means, their differences to the base, and every task."""
    curve_of = {point.name: name for name, points in found.curves.items() for point in points}
    heads = ["model", "classification", f"minus {found.base}", "instructions", f"minus {found.base}"]
    tasks = [*found.classification, *found.instruction]
    rows = [
        tag(
            "tr",
            tag("th", look.marker(curve_of.get(point.name, point.name)), " ", point.name, scope="row"),
            _cell(point.classification),
            _gap(point.gained),
            _cell(point.instruction),
            _gap(point.kept),
            *(_cell(point.tasks[task]) for task in tasks),
        )
        for point in found.points
    ]
    head = tag("thead", tag("tr", *(tag("th", text, scope="col") for text in [*heads, *tasks])))
    title = "Classification and instructions, in percent"
    size = found.points[0]
    counts = f"{size.classification.num_questions:,} and {size.instruction.num_questions:,} questions"
    table = tag("table", head, tag("tbody", *rows), class_="scores ranked many")
    return Figure(
        name="forgetting-table",
        title=title,
        reading=f"Classification is {listed(found.classification)}; instructions are {listed(found.instruction)}.",
        how=f"Small figures: 95 % interval; {counts}. Grey differences include 0.",
        body=tag("div", table, class_="wide", tabindex=0, role="region", aria_label=title),
        header=HEADER,
        rows=_rows(found),
    )
