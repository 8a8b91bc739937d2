"""Markdown pages as the tests see them: fenced blocks, links, headings, command lines."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ANY_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_FILE_NAME = re.compile(r"# ([\w.-]+\.ya?ml)\b")


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    language: str
    text: str
    line: int
    """Of the page, where the block's first line stands."""

    @property
    def file(self) -> str | None:
        """The name in the first line of a YAML block: ``# my-recipe.yaml`` is written under that name."""
        found = _FILE_NAME.match(self.text)
        return found[1] if found else None


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[Block]:
    """The page's blocks in these languages, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start(2)) + 1)
        for found in _FENCE.finditer(text)
        if found[1] in languages
    ]


def pages_with(*languages: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, *languages)]


def commands(page: Path, program: str) -> list[list[str]]:
    """The page's shell lines that call the program, split into words; a line that ends in a backslash goes on."""
    lines = [
        line for block in blocks(page, "sh") for line in block.text.replace("\\\n", " ").splitlines() if line.strip()
    ]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line and line[0] == program]


def links(page: Path) -> list[str]:
    """Targets of the page's links and pictures inside the repository."""
    text = _COMMENT.sub("", _ANY_FENCE.sub("", page.read_text(encoding="utf-8")))
    return [target for target in _LINK.findall(text) if "://" not in target]


def anchors(page: Path) -> set[str]:
    """What ``#...`` may name, as GitHub makes it from headings."""
    text = _ANY_FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = (heading.lower().replace("`", "") for heading in _HEADING.findall(text))
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in headings}
