"""HTML that is escaped unless it was built here.

A question may hold ``<script>``; only what :func:`tag` returns counts as markup, any other text is text.
"""

from collections.abc import Iterable
from html import escape

VOID = {"br", "col", "img"}


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def html_of(child: object) -> str:
    """A child as HTML: markup as it is, anything else escaped."""
    return child if isinstance(child, Markup) else escape(str(child), quote=True)


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """``tag("td", "a < b", class_="number")``: an element with escaped children and attribute values.

    A trailing underscore and inner underscores of attribute names are Python's (``class_``, ``aria_label``);
    None leaves an attribute out and True writes its bare name.
    """
    parts = []
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(f" {key}")
        elif value is not None and value is not False:
            parts.append(f' {key}="{escape(str(value), quote=True)}"')
    opening = f"<{name}{''.join(parts)}>"
    return Markup(opening if name in VOID else f"{opening}{''.join(map(html_of, children))}</{name}>")


def join(children: Iterable[object]) -> Markup:
    """Children side by side, without an element around them."""
    return Markup("".join(map(html_of, children)))
