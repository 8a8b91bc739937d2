"""How a class picture is asked about: one of many wordings, with a list of names to choose from or without.

CARPE (section 4.1) trains on about twenty wordings and on open and closed questions in equal parts; it prints two
wordings and no length of the lists, so the other eighteen are ours, and so are the lengths. A list of all 1000 names
of ImageNet would not fit beside a picture. What evaluation asks (``yarbus.evaluation.classification``) is none of them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

from yarbus.core.errors import DataError

CLOSED_SHARE = 0.5
"""Of all visits, those that offer a list of names."""
LIST_SIZES = (5, 10, 20, 50, 100)
"""Names that a list may hold, the right one among them; each is as likely as the others that there are classes for."""
TEMPLATES = Path(__file__).parent / "class_questions.json"


def offering(question: str, names: Sequence[str]) -> str:
    """The question with names to choose from, in the words of Zhang et al. (NeurIPS 2024)."""
    return f'{question} Choose one from "{", ".join(names)}".'


def offered(answer: str, names: Sequence[str], size: int, random: Random) -> list[str]:
    """That many names in random order, the answer among them."""
    others = [name for name in names if name != answer]
    chosen = [answer, *random.sample(others, size - 1)]
    random.shuffle(chosen)
    return chosen


@dataclass(frozen=True)
class Wording:
    """The wordings of a question whose answer is one of the names; all pictures of one source share it."""

    templates: tuple[str, ...]
    names: tuple[str, ...]

    def question(self, answer: str, random: Random) -> str:
        """Any wording; open, or closed with a list of a random length."""
        question = random.choice(self.templates)
        if random.random() >= CLOSED_SHARE:
            return question
        sizes = [size for size in LIST_SIZES if size <= len(self.names)] or [len(self.names)]
        return offering(question, offered(answer, self.names, random.choice(sizes), random))


def _why_not(entry: object) -> str | None:
    if not isinstance(entry, str) or not entry.strip():
        return f"{entry!r} is no question"
    return "a question has no <image> tag, it is put in front" if "<image>" in entry else None


@cache
def read_templates(path: Path = TEMPLATES) -> tuple[str, ...]:
    """The wordings in a file: a JSON list of questions."""
    fix = 'write a JSON list of questions, ["What is this?", ...]'
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError("no such file of questions", where=path, fix="check 'templates'") from None
    except (OSError, ValueError) as error:
        raise DataError("cannot read questions", where=path, why=str(error), fix=fix) from None
    if not isinstance(entries, list) or not entries:
        raise DataError("cannot read questions", where=path, why="it holds no list of them", fix=fix)
    for entry in entries:
        if (why := _why_not(entry)) is not None:
            raise DataError("cannot read questions", where=path, why=why, fix=fix)
    return tuple(entry.strip() for entry in entries)
