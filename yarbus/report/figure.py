"""What every picture of a page has: a title, one sentence that reads it, its origin, its numbers as CSV."""

from collections.abc import Sequence
from dataclasses import dataclass

from yarbus.report.downloads import csv_text, data_uri
from yarbus.report.markup import Markup, join, tag


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the numbers of a page come from."""

    name: str
    """Of the run or study: what downloads are called after."""
    command: str
    """The command that made the records; empty where none is known."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One picture, before it is put on a page."""

    name: str
    """Of its CSV file."""
    title: str
    reading: str
    """One sentence made from the data; it can say that nothing is seen."""
    how: str = ""
    """What the marks mean, in small type."""
    body: Markup
    header: list[str]
    rows: Sequence[Sequence[object]]
    """The numbers drawn, one list per line of the CSV file; None is an empty cell."""
    classes: str | None = None


def unbroken(text: str) -> str:
    """Keeps a number and its percent sign on one line."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def caption(title: str, reading: str, how: str = "") -> Markup:
    """The title, the sentence and, in grey, how to read the marks."""
    return tag(
        "figcaption",
        tag("strong", title if title.endswith("?") else f"{title}.", " "),
        unbroken(reading),
        tag("span", f" {unbroken(how)}", class_="quiet") if how else "",
    )


def source(figure: Figure, origin: Origin) -> Markup:
    """The download and the command behind a figure, on one quiet line."""
    link = tag(
        "a",
        f"{figure.name}.csv",
        href=data_uri(csv_text(figure.header, figure.rows)),
        download=f"{origin.name}-{figure.name}.csv",
    )
    made = [" from ", tag("code", origin.command.splitlines()[0])] if origin.command else []
    return tag("p", link, *made, class_="source")


def show(figure: Figure, origin: Origin) -> Markup:
    """The figure as it stands on the page."""
    return tag(
        "figure",
        caption(figure.title, figure.reading, figure.how),
        figure.body,
        source(figure, origin),
        class_=figure.classes,
    )


def show_all(figures: Sequence[Figure | None], origin: Origin) -> Markup:
    """Those of the figures that there is something to draw for."""
    return join(show(figure, origin) for figure in figures if figure is not None)
