"""Differences as dots with whiskers, in HTML that fits any width.

Positions are percentages and text stays text, so the figure reads on a phone, in both colour schemes, and aloud.
"""

from yarbus.report.look import Look, ticks
from yarbus.report.markup import Markup, join, tag
from yarbus.report.summary import MEAN, REFERENCES, Summary, percent


def difference_figure(summary: Summary, reference: str, look: Look) -> Markup:
    """Every variant minus the reference, by task: a dot, a whisker of 95 %, and the same in figures."""
    contrasts = [contrast for contrast in summary.contrasts if contrast.reference == reference]
    ends = [end for c in contrasts for end in (c.difference.low, c.difference.high)]
    marks = ticks(100 * min(0.0, *ends), 100 * max(0.0, *ends))
    low, span = marks[0], marks[-1] - marks[0]

    def place(points: float) -> str:
        return f"{100 * (points - low) / span:.2f}%"

    bodies = []
    for task in dict.fromkeys(contrast.task for contrast in contrasts):
        rows = [tag("tr", tag("th", task, colspan=3, scope="rowgroup"), class_="group")]
        for contrast in (c for c in contrasts if c.task == task):
            found = contrast.difference
            width = f"{100 * 100 * (found.high - found.low) / span:.2f}%"
            strip = tag(
                "div",
                tag("span", class_="zero", style=f"left:{place(0.0)}"),
                tag(
                    "span",
                    class_=f"whisker {look.colour(contrast.variant)}",
                    style=f"left:{place(100 * found.low)};width:{width}",
                ),
                look.marker(contrast.variant, style=f"left:{place(100 * found.mean)}"),
                class_="strip",
                style=f"--parts:{len(marks) - 1}",
            )
            interval = f"{percent(found.low, True)} to {percent(found.high, True)}"
            rows.append(
                tag(
                    "tr",
                    tag("th", look.marker(contrast.variant), contrast.variant, scope="row", class_="who"),
                    tag("td", strip, class_="where", aria_hidden="true"),
                    tag(
                        "td",
                        tag("b", percent(found.mean, True)),
                        " ",
                        tag("small", interval),
                        class_="what" + (" open" if found.includes_zero else ""),
                    ),
                    class_="item",
                )
            )
        bodies.append(tag("tbody", *rows, class_="total" if task == MEAN else None))
    labels = [
        tag("span", f"{mark:+g}".replace("-", "\N{MINUS SIGN}") if mark else "0", style=f"left:{place(mark)}")
        for mark in marks
    ]
    axis = tag("tr", tag("td"), tag("td", tag("div", *labels, class_="ticks")), tag("td", "points"), class_="axis")
    columns = tag("colgroup", *(tag("col", class_=name) for name in ("who", "where", "what")))
    table = tag("table", columns, *bodies, tag("tfoot", axis, aria_hidden="true"), class_="dots")

    separated = [c for c in contrasts if not c.difference.includes_zero]
    if separated:
        count = f"{len(separated)} of {len(contrasts)} whiskers leave"
        reading = f"{count} the zero line: only there did this run separate a variant from {reference}."
    else:
        reading = f"Every whisker touches the zero line: this run is too short to separate anything from {reference}."
    caption = tag(
        "figcaption",
        tag("strong", f"Difference to {reference}, in points. "),
        reading,
        tag(
            "span",
            " Right of zero is better; dots are paired differences, whiskers 95\N{NO-BREAK SPACE}% intervals.",
            class_="quiet",
        ),
    )
    return tag("figure", caption, table)


def difference_figures(summary: Summary, look: Look) -> Markup:
    """One figure for each reference that takes part."""
    known = [name for name in REFERENCES if any(contrast.reference == name for contrast in summary.contrasts)]
    return join(difference_figure(summary, reference, look) for reference in known)
