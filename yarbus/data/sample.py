"""What a row of data is, wherever it came from: pictures, a conversation, and where it stands."""

from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal

from yarbus.data.stored import Picture
from yarbus.data.wording import Wording

IMAGE_TAG = "<image>"
"""Stands in a user's turn where a picture is shown; the n-th tag is the n-th picture."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One thing that somebody says."""

    role: Literal["system", "user", "assistant"]
    text: str

    @property
    def words(self) -> str:
        """The text without image tags: what the question says."""
        return " ".join(filter(None, (part.strip() for part in self.text.split(IMAGE_TAG))))


@dataclass(frozen=True, slots=True)
class Sample:
    """One conversation about its pictures. Turns alternate and begin with the user, or a system turn before that."""

    id: str
    images: tuple[Picture, ...]
    turns: tuple[Turn, ...]
    task: str | None = None
    group: str | None = None
    """What rows share that must not count twice, e.g. the scene: resampling draws groups."""
    source: str = ""
    where: str = ""
    """``file:row``, for messages."""
    wording: Wording | None = field(default=None, compare=False, repr=False)
    """How the question is worded anew at each visit; None: the turns stand as they are."""

    def asked(self, seed: int, epoch: int, row: int) -> "Sample":
        """The sample as it is on one of its visits. The draw depends on (seed, epoch, row) alone."""
        if self.wording is None:
            return self
        answer = self.turns[-1]
        question = self.wording.question(answer.text, Random(f"wording {seed} {epoch} {row}"))
        return replace(self, turns=(Turn("user", f"{IMAGE_TAG}\n{question}"), answer), wording=None)
