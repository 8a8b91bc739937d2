"""What counts as the question: which turns, and which words of them.

The context comes from the user's turns only, never from an answer. Chat messages say whose turn is
whose; for rendered text the markers of the model's own chat template are looked for.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from yarbus.core.errors import DataError

Rules = Literal["ours", "official"]

FORMAT_SENTENCES = (
    r"Answer the question using a single word or phrase\.",
    r"Answer with the option's letter from the given choices directly\.",
    r"请直接回答选项字母。",
    r"Reference OCR token:.*",
)
"""Sentences that say how to answer, not what to look for; removed by the rules ``ours`` (benchmarks.md 1.5, 1.6)."""

_FORMAT = re.compile(r"\s*(?:^|\n)(?:" + "|".join(FORMAT_SENTENCES) + r")\s*(?=\n|$)")
IMAGE_TAG = "<image>"


@dataclass(frozen=True, kw_only=True)
class Question:
    """How a conversation becomes the text that conditions the tower."""

    chat_turns: Literal["last", "upto_current"] = "last"
    """Of a chat: the last user turn, or all user turns up to it, one per line."""
    rules: Rules = "ours"
    """``ours`` drops image tags, answer-format and OCR lines; ``official`` drops only an image tag before a newline."""
    max_tokens: int = 128
    """Longest context, in tokens of the text encoder; what is longer is cut at the end."""

    def clean(self, text: str, image_tags: Sequence[str]) -> str:
        """The words of a user turn that describe what to look for. Cleaning twice changes nothing."""
        if self.rules == "official":
            for tag in image_tags:
                text = text.replace(f"{tag}\n", "")
            return text.strip()
        text = without_tags(text, image_tags)
        before = None
        while before != text:  # one format line may uncover another
            before, text = text, _FORMAT.sub("", text)
        return text.strip()

    def of_turns(self, turns: Sequence[str]) -> str | None:
        """The context of the user turns of a conversation; None if there is none."""
        if not turns:
            return None
        return turns[-1] if self.chat_turns == "last" else "\n".join(turns)


def without_tags(text: str, tags: Sequence[str]) -> str:
    """The words of a user turn without its pictures."""
    for tag in tags:
        text = text.replace(tag, "")
    return text.strip()


def one_per_row(context: Any, num_rows: int) -> list[str | None]:
    """What a caller gave as ``context=``, as a list with a text or None for each row; else ``DataError``."""
    fix = "pass context= with one text (or None) per row"
    given = [context] if isinstance(context, str) or not isinstance(context, Iterable) else list(context)
    wrong = next((one for one in given if not isinstance(one, str | None)), None)
    if wrong is not None:
        raise DataError("a context that is no text", why=f"it is of type {type(wrong).__name__}", fix=fix)
    if len(given) != num_rows:
        raise DataError(f"{len(given)} contexts for {num_rows} texts", fix=fix)
    return given


def said_until(turns: Sequence[str]) -> list[str]:
    """For each turn of the user all that was said up to it, one turn per line: what a head is told."""
    return ["\n".join(turns[: number + 1]) for number in range(len(turns))]


def text_of(content: str | Sequence[Mapping[str, Any]]) -> str:
    """The text of a chat message's content, without its images."""
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") == "text")


def user_turns(messages: Sequence[Mapping[str, Any]]) -> list[str]:
    """Texts of the user's messages."""
    return [text_of(message["content"]) for message in messages if message["role"] == "user"]


_TURNS = ("@first@", "@answer@", "@second@")


@dataclass(frozen=True)
class TemplateMarkers:
    """What a chat template writes around turns, so that user turns can be found in rendered text."""

    opening: str
    """Before the first user turn: begin token, system text, the user's marker."""
    user: str
    """The user's marker alone, as it stands behind a system message."""
    to_assistant: str
    to_user: str

    @classmethod
    def of(cls, render: Callable[[list[dict[str, Any]]], str], begin: str | None = None) -> "TemplateMarkers":
        """Learns the markers from what the template makes of a conversation of known words.

        ``begin`` is the tokenizer's begin token: the template may write it right before the user's marker.
        Raises ``DataError`` for a template that does not keep turns apart.
        """
        pairs = zip(("user", "assistant", "user"), _TURNS, strict=True)
        messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in pairs]
        rendered, alone = render(messages), render(messages[:1])
        first, answer, second = (rendered.find(turn) for turn in _TURNS)
        if not 0 <= first < answer < second:
            raise DataError("the chat template does not show its turns", fix="pass context= with one text per row")
        opening = alone[: alone.find(_TURNS[0])].strip()
        last_line = opening.split("\n")[-1].strip()
        markers = cls(
            opening=opening,
            user=last_line.removeprefix(begin or "").strip() or last_line,
            to_assistant=rendered[first + len(_TURNS[0]) : answer].strip(),
            to_user=rendered[answer + len(_TURNS[1]) : second].strip(),
        )
        if not markers.to_assistant or not markers.to_user:
            raise DataError("the chat template marks no turns", fix="pass context= with one text per row")
        return markers

    def user_turns(self, text: str) -> list[str]:
        """Texts of the user's turns; none if the text holds no turn of the user.

        Raises ``DataError`` where the markers do not tell the turns apart: an answer that holds the user's marker
        would be taken for what the user says. One that holds both in turn looks like two turns and is not found out.
        """
        if not any(marker in text for marker in (self.to_assistant, self.to_user, self.user)):
            return []
        begun, body = self._at_first_turn(text.strip())
        parts = body.split(self.to_user)
        answers = [part.count(self.to_assistant) for part in parts]
        is_prompt = answers == [0] and self.to_assistant not in begun
        if any(number != 1 for number in answers) and not is_prompt:
            part = next(part for part, number in zip(parts, answers, strict=True) if number != 1)
            raise DataError(
                "cannot tell the turns of a rendered chat apart",
                where=f"at '{' '.join(part.split())[:60]}'",
                why="a turn holds what the template writes between turns, or a question behind others has no answer",
                fix="pass context= with one text per row, or tokenize with apply_chat_template",
            )
        return [part.split(self.to_assistant)[0].strip() for part in parts]

    def _at_first_turn(self, body: str) -> tuple[str, str]:
        """What stands before the first turn of the user, and the rest from its text on."""
        if self.opening and body.startswith(self.opening):
            return "", body[len(self.opening) :]
        if self.user not in body:
            raise DataError(
                "cannot find the user's turn in the prompt",
                why=f"it does not begin with '{self.opening}'",
                fix="render it with apply_chat_template, or pass context=",
            )
        begun, _, rest = body.partition(self.user)
        return begun, rest
