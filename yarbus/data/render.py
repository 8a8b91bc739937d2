"""A conversation as the model's own chat template writes it, and where in that text its answers stand.

The answer of a turn is what the template adds to the prompt: the text before it, rendered with the
generation prompt, has to be the beginning of the text after it. Its span runs to the end marker
(``<|im_end|>``), without the white space behind it. A template that writes no end marker after an
answer gets the tokenizer's end-of-sequence token there: a model never shown one never stops. A processor
without any template writes one turn a line, without roles.

PaliGemma's processor takes no conversation: pictures, one question, and the answer as a ``suffix`` of its own. Its text
is the question's words behind one image token per picture, wherever the row has its tags: it was trained that way.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from yarbus.core.errors import DataError
from yarbus.data.sample import IMAGE_TAG, Sample, Turn
from yarbus.models.processor import takes_suffix

CACHED_SAMPLES = 8192
"""Conversations whose rendering is kept: a small set is rendered once, a large one costs bounded memory."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """One conversation, ready for the processor."""

    text: str
    """With one image token of the model per picture, not yet expanded."""
    spans: tuple[tuple[int, int], ...]
    """Characters of each answer and its end marker, to be learned; none where the answer is a suffix."""
    answers: tuple[str, ...]
    """The same answers as the data has them, with their end marker."""


def content(turn: Turn) -> list[dict[str, str]]:
    """A turn as Hugging Face writes one: text between pictures, without the line breaks that set a tag apart."""
    first, *others = turn.text.split(IMAGE_TAG)
    parts = [{"type": "text", "text": first}]
    for text in others:
        parts += [{"type": "image"}, {"type": "text", "text": text.removeprefix("\n")}]
    for part, following in zip(parts, [*parts[1:], {"type": "image"}], strict=True):
        if part["type"] == "text" and following["type"] == "image":
            part["text"] = part["text"].removesuffix("\n")
    return [part for part in parts if part["type"] == "image" or part["text"]]


class Renderer:
    """Writes samples in the words of one processor."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.image_token: str = processor.image_token
        self.has_template = processor.chat_template is not None
        self.takes_suffix = takes_suffix(processor)
        self.text = lru_cache(maxsize=CACHED_SAMPLES)(self._text)
        self.conversation = lru_cache(maxsize=CACHED_SAMPLES)(self._conversation)
        self._end_marker: str | None = None

    def __reduce__(self) -> Any:
        return Renderer, (self.processor,)  # a loader's worker process starts with an empty cache

    def _write(self, turns: tuple[Turn, ...], prompt: bool = False) -> str:
        if not self.has_template:
            return "".join(f"{turn.text.replace(IMAGE_TAG, self.image_token)}\n" for turn in turns)
        messages = [{"role": turn.role, "content": content(turn)} for turn in turns]
        return self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)

    def _appended_end(self) -> str:
        """What has to be appended to an answer so that it ends: nothing where the template writes a marker."""
        if self._end_marker is None:
            question, answer = Turn("user", "question"), Turn("assistant", "answer")
            marked = self._write((question, answer)).rpartition("answer")[2].strip()
            self._end_marker = "" if marked else self.tokenizer.eos_token or ""
        return self._end_marker

    def _fault(self, sample: Sample, why: str) -> DataError:
        fix = "give the processor a chat template that writes every answer as it stands, after its generation prompt"
        return DataError("chat template and answers disagree", where=sample.where or sample.id, why=why, fix=fix)

    def _ended(self, sample: Sample) -> tuple[Turn, ...]:
        """The turns, each answer with an end."""
        end = self._appended_end()
        return tuple(Turn(turn.role, turn.text + end) if turn.role == "assistant" else turn for turn in sample.turns)

    def _question(self, sample: Sample) -> str:
        """One question behind the image tokens of its pictures, where the answer is a suffix."""
        roles = [turn.role for turn in sample.turns]
        if roles not in (["user"], ["user", "assistant"]):
            raise DataError(
                f"a row of {len(roles)} turns",
                where=sample.where or sample.id,
                why="this processor takes one question and its answer: its text looks at itself in both directions, so "
                "an earlier answer would be read before it is said",
                fix="write one row for each question",
            )
        if not sample.images:
            raise DataError(
                "a row without a picture",
                where=sample.where or sample.id,
                why="this processor takes none",
                fix="remove the row",
            )
        question, *answer = sample.turns
        tags = self.image_token * question.text.count(IMAGE_TAG)
        self._check_images(sample, "".join([tags, question.words, *(turn.text for turn in answer)]))
        return tags + question.words

    def suffix(self, sample: Sample) -> str:
        """The answer as an argument of its own; the processor puts the end marker behind it."""
        return sample.turns[-1].text.strip() if sample.turns[-1].role == "assistant" else ""

    def _text(self, sample: Sample) -> str:
        """The whole conversation, in one rendering; the question alone where the answer is a suffix."""
        if self.takes_suffix:
            return self._question(sample)
        text = self._write(self._ended(sample))
        self._check_images(sample, text)
        return text

    def _conversation(self, sample: Sample) -> Rendered:
        """With the place of every answer: two renderings for each."""
        if self.takes_suffix:
            answers = [turn.text for turn in sample.turns if turn.role == "assistant"]
            return Rendered(
                self.text(sample), (), tuple(f"{answer.strip()}{self.tokenizer.eos_token}" for answer in answers)
            )
        text, turns = self.text(sample), self._ended(sample)
        spans, answers = [], []
        for position, turn in enumerate(turns):
            if turn.role != "assistant":
                continue
            start = len(before := self._write(turns[:position], prompt=True))
            until = len(after := text if position + 1 == len(turns) else self._write(turns[: position + 1]))
            if not text.startswith(after) or not after.startswith(before):
                raise self._fault(sample, f"the text before answer {position} changes once the answer is there")
            said = turn.text.strip()
            found = text.find(said, start, until)
            if found < 0:
                raise self._fault(sample, f"answer {position} is not in the rendered text")
            stop = start + len(text[start:until].rstrip())
            spans.append((start, stop))
            answers.append(text[found:stop])
        return Rendered(text, tuple(spans), tuple(answers))

    def _check_images(self, sample: Sample, text: str) -> None:
        found = text.count(self.image_token)
        if found != len(sample.images):
            counts = f"{len(sample.images)} images, {found} {self.image_token} in the rendered text"
            raise DataError(
                "image tokens and images disagree",
                where=sample.where or sample.id,
                why=counts,
                fix=f"write one {IMAGE_TAG} per image, and no {self.image_token} in other text",
            )

    def prompt(self, sample: Sample) -> str:
        """The conversation up to its last question, ready to be answered: the beginning of what training shows."""
        if self.takes_suffix:
            return self._question(sample)
        turns = self._ended(sample)
        text = self._write(turns[:-1] if turns[-1].role == "assistant" else turns, prompt=True)
        self._check_images(sample, text)
        return text
