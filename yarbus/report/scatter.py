"""A map of samples: every dot is a question about a picture, and pointing at it shows which.

Without a pointer the arrow keys walk from dot to dot; without a script the first sample stands below the map.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from yarbus.report.look import SHAPES, Look
from yarbus.report.markup import Markup, join, tag

WIDTH = 400
MARGIN = 12
MOST_FLAT = 0.62
"""Lowest height of a map as a share of its width."""


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One sample on one map. ``name`` is what its colour and marker stand for."""

    x: float
    y: float
    name: str
    cluster: int | None


def marker_shapes() -> Markup:
    """The markers that every map of a page draws with."""
    shapes = (
        tag("g", tag("g", Markup(shape), transform="translate(-5 -5) scale(.62)"), id=f"m{index}")
        for index, shape in enumerate(SHAPES)
    )
    return tag("svg", tag("defs", *shapes), width=0, height=0, aria_hidden="true", class_="shapes")


def place(dots: Sequence[Dot]) -> tuple[list[tuple[float, float]], int]:
    """Where each dot lies and how high the map is; one unit is as long across as upwards, or distances would lie."""
    xs, ys = [dot.x for dot in dots], [dot.y for dot in dots]
    wide, high = max(xs) - min(xs), max(ys) - min(ys)
    share = min(1.0, max(MOST_FLAT, high / wide)) if wide > 0 else 1.0
    inner_width, inner_height = WIDTH - 2 * MARGIN, share * (WIDTH - 2 * MARGIN)
    scale = min(inner_width / wide if wide > 0 else 1.0, inner_height / high if high > 0 else 1.0)
    left = WIDTH / 2 - scale * (max(xs) + min(xs)) / 2
    bottom = inner_height / 2 + MARGIN + scale * (max(ys) + min(ys)) / 2
    return [(left + scale * dot.x, bottom - scale * dot.y) for dot in dots], round(inner_height + 2 * MARGIN)


def map_markup(
    dots: Sequence[Dot], look: Look, *, title: str, described: str
) -> tuple[Markup, list[tuple[float, float]]]:
    """The map, and where its dots lie for the pointer (page.js)."""
    places, height = place(dots)
    marks = [
        tag("use", href=f"#m{look.shape(dot.name)}", x=f"{x:.1f}", y=f"{y:.1f}", class_=look.colour(dot.name))
        for dot, (x, y) in zip(dots, places, strict=True)
    ]
    members: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for dot, where in zip(dots, places, strict=True):
        if dot.cluster is not None:
            members[dot.cluster].append(where)
    numbers = [
        tag(
            "text",
            cluster,
            x=f"{sum(x for x, _ in some) / len(some):.1f}",
            y=f"{sum(y for _, y in some) / len(some):.1f}",
        )
        for cluster, some in sorted(members.items())
    ]
    ring = tag("circle", class_="ring", r=8, cx=f"{places[0][0]:.1f}", cy=f"{places[0][1]:.1f}")
    drawing = tag(
        "svg",
        *marks,
        *numbers,
        ring,
        viewBox=f"0 0 {WIDTH} {height}",
        class_="map",
        tabindex=0,
        role="group",
        aria_label=f"{described} Arrow keys walk from sample to sample.",
    )
    return join([tag("p", title, class_="panel-title"), drawing]), places
