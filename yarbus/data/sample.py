"""What a row of data is, wherever it came from: pictures, a conversation, and where it stands."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

IMAGE_TAG = "<image>"
"""Stands in a user's turn where a picture is shown; the n-th tag is the n-th picture."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One thing that somebody says."""

    role: Literal["user", "assistant"]
    text: str

    @property
    def words(self) -> str:
        """The text without image tags: what the question says."""
        return " ".join(filter(None, (part.strip() for part in self.text.split(IMAGE_TAG))))


@dataclass(frozen=True, slots=True)
class Sample:
    """One conversation about its pictures. Turns alternate and begin with the user."""

    id: str
    images: tuple[Path, ...]
    turns: tuple[Turn, ...]
    task: str | None = None
    group: str | None = None
    """What rows share that must not count twice, e.g. the scene: resampling draws groups."""
    source: str = ""
    where: str = ""
    """``file:row``, for messages."""
