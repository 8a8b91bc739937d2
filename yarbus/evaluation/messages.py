"""What lmms-eval hands to a model, in our words: chat messages as a sample, generation settings as a decoding.

Nothing here imports lmms-eval. A message is ``{"role": ..., "content": [part, ...]}``, a part ``{"type": "text",
"text": ...}`` or ``{"type": "image", "url": ...}`` with an open picture or a path.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from yarbus.core.errors import DataError
from yarbus.data.sample import IMAGE_TAG, Sample, Turn
from yarbus.data.stored import OpenPicture, Picture
from yarbus.evaluation.asking import Decoding

MAX_NEW_TOKENS = 1024
"""Length of a reply where a task states none, as in lmms-eval's own adapters for LLaVA."""
INJECTED_END = "\n\n"
"""lmms-eval puts this into the ``until`` of every task that has none: the gap between few-shot examples. It would cut
every reply at its first paragraph, so its own adapters (Qwen2.5-VL, Gemma 3) leave it out, and so do we."""
SETTINGS = (
    *("max_new_tokens", "max_gen_toks", "num_beams", "do_sample", "temperature", "top_p", "top_k"),
    *("repetition_penalty", "until"),
)
"""Generation settings that are followed."""
PICTURE_NAMES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
"""Ends of a path to a picture; lmms-eval gives a path to a video in the same place."""

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request to generate, of either shape that lmms-eval has."""

    context: str
    """The prompt as bare text: of a chat request good for its length alone."""
    settings: Mapping[str, Any]
    task: str
    split: str
    row: Any
    messages: Callable[[Any], Messages]
    """The conversation of a row of data."""

    @property
    def where(self) -> str:
        """``task/split:row``, for messages."""
        return f"{self.task}/{self.split}:{self.row}"

    @classmethod
    def of(cls, arguments: Sequence[Any]) -> "Asked":
        """A request's arguments: (context, messages of a row, settings, row, task, split), or of the older shape
        (context, settings, pictures of a row, row, task, split).

        lmms-eval loads a task from a file, or with an override of its group, in the older shape for chat models too.
        """
        context, one, other, row, task, split = arguments
        if callable(one):
            settings, messages = other, one
        else:
            settings, messages = one, _messages_of_pictures(context, other)
        return cls(context=context, settings=settings, task=task, split=split, row=row, messages=messages)


def _shown(visual: Any) -> dict[str, Any]:
    if isinstance(visual, str):
        return {"type": "image" if visual.lower().endswith(PICTURE_NAMES) else "video", "url": visual}
    return {"type": visual.get("type", "video") if isinstance(visual, Mapping) else "image", "url": visual}


def _messages_of_pictures(context: str, pictures: Callable[[Any], Any] | None) -> Callable[[Any], Messages]:
    def messages(doc: Any) -> Messages:
        shown = [_shown(visual) for visual in (pictures and pictures(doc)) or []]
        return [{"role": "user", "content": [*shown, {"type": "text", "text": context}]}]

    return messages


def _picture(url: Any, where: str, number: int) -> Picture:
    if isinstance(url, Image.Image):
        task, _, row = where.partition(":")
        return OpenPicture(Path(task), f"{row}:{number}", url)
    if isinstance(url, str | Path):
        return Path(url)
    why = f"a {type(url).__name__} is neither an open picture nor a path"
    raise DataError("cannot use picture", where=where, why=why, fix="choose a task with pictures that Pillow opens")


def _parts(content: Sequence[Mapping[str, Any]], where: str) -> Iterator[tuple[str, Any]]:
    """(kind, text or picture) of each part; what is neither is refused."""
    for part in content:
        kind = part["type"]
        if kind not in ("text", "image"):
            raise DataError(
                f"a task with {kind} input",
                where=where,
                why="Yarbus conditions how pictures are seen; no model here is tuned or tested on anything else",
                fix="choose tasks of pictures and text",
            )
        yield kind, part["text"] if kind == "text" else part["url"]


def _written(parts: Sequence[tuple[str, Any]]) -> str:
    """The text of a turn, each picture a tag on a line of its own; rendering drops exactly these line breaks."""
    text = "".join(part if kind == "text" else f"\n{IMAGE_TAG}\n" for kind, part in parts)
    if parts and parts[0][0] == "image":
        text = text.removeprefix("\n")
    return f"{text}\n" if parts and parts[-1][0] == "text" and text.endswith("\n") else text


def sample_of(messages: Messages, where: str) -> Sample:
    """One conversation of lmms-eval. ``where``: ``task/split:row``, for messages.

    A text that has as many ``<image>`` of its own as there are pictures says by them where the pictures stand.

    Raises ``DataError`` for videos and sounds.
    """
    turns = [(message["role"], list(_parts(message["content"], where))) for message in messages]
    urls = [part for _, parts in turns for kind, part in parts if kind == "image"]
    own_tags = sum(part.count(IMAGE_TAG) for _, parts in turns for kind, part in parts if kind == "text")
    if urls and own_tags == len(urls):
        turns = [(role, [part for part in parts if part[0] == "text"]) for role, parts in turns]
    return Sample(
        id=where,
        images=tuple(_picture(url, where, number) for number, url in enumerate(urls)),
        turns=tuple(Turn(role, _written(parts)) for role, parts in turns),
        source="lmms-eval",
        where=where,
    )


def _ends(until: str | Sequence[str] | None) -> tuple[str, ...]:
    ends = [until] if isinstance(until, str) else until or ()
    return tuple(end for end in ends if end and end != INJECTED_END)


def decoding_of(settings: Mapping[str, Any]) -> Decoding:
    """How a task wants its replies decoded: greedily, unless it draws (``do_sample``) at a temperature above 0.

    A task that names a temperature alone draws, as lmms-eval's own adapters have it.
    """
    told = {name: value for name, value in settings.items() if value is not None}
    draws = told.get("do_sample", told.get("temperature", 0) > 0)
    length = told.get("max_new_tokens", told.get("max_gen_toks", MAX_NEW_TOKENS))
    return Decoding(
        max_new_tokens=int(length),
        num_beams=int(told.get("num_beams", 1)),
        temperature=float(told.get("temperature", 1.0)) if draws else 0.0,
        top_p=float(told.get("top_p", 1.0)) if draws else 1.0,
        top_k=int(told["top_k"]) if draws and "top_k" in told else None,
        repetition_penalty=float(told.get("repetition_penalty", 1.0)),
        until=_ends(told.get("until")),
    )


def not_followed(settings: Mapping[str, Any]) -> list[str]:
    """Generation settings of a task that change nothing here."""
    return sorted(set(settings) - set(SETTINGS))
