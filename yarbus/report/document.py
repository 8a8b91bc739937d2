"""The shell of every page: head, policy, style, script, a header, a table of contents and sections.

No network, no font, no library: the page opens from a disk years later. Its content-security policy
allows what is in the file and nothing else.
"""

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from string import Template

from yarbus.report.figure import unbroken
from yarbus.report.markup import Markup, join, tag
from yarbus.report.scatter import marker_shapes

FEW_SECTIONS = 4
"""A page of at most so many sections needs no table of contents."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading with what stands under it."""

    title: str
    content: Markup

    @property
    def anchor(self) -> str:
        """Its name within the page."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")


def _resource(name: str) -> str:
    return files("yarbus.report").joinpath(name).read_text(encoding="utf-8")


def header(name: str, headline: str, *below: object) -> Markup:
    """The page's name, its one message, and what qualifies it."""
    return tag(
        "header",
        tag("p", "Yarbus", tag("span", name), class_="eyebrow"),
        tag("h1", unbroken(headline)),
        *below,
    )


def document(name: str, head: Markup, sections: Sequence[Section], style: Markup | str = "") -> str:
    """The whole file. ``style`` is appended to the page's own."""
    sections = [section for section in sections if section.content]
    contents = [
        tag("li", tag("a", section.title, href=f"#{section.anchor}"))
        for section in sections
        if len(sections) > FEW_SECTIONS
    ]
    nav = tag("nav", tag("ul", *contents), aria_label="Sections of this page") if contents else ""
    main = tag("main", *(tag("section", tag("h2", s.title), s.content, id=s.anchor) for s in sections))
    script = _resource("page.js")
    return Template(_resource("page.html")).substitute(
        title=tag("title", f"{name} \N{MIDDLE DOT} Yarbus"),
        style=join([Markup(_resource("page.css")), style]),
        script=script,
        script_hash=b64encode(sha256(script.encode()).digest()).decode(),
        body=join([marker_shapes(), head, nav, main]),
    )
