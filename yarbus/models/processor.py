"""The processor's side: a class swap that adds the question to every batch, and the image tokens a model takes."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transformers import BatchFeature, PaliGemmaProcessor

from yarbus.core.errors import DataError
from yarbus.models import image_only, pil_pixtral, pil_smolvlm
from yarbus.models.channel import channel_of
from yarbus.models.encoder_inputs import COUNTS, PIXELS
from yarbus.models.encoders import FOLDER
from yarbus.models.question import (
    IMAGE_TAG,
    Question,
    TemplateMarkers,
    one_per_row,
    said_until,
    user_turns,
    without_tags,
)

TOKENIZER_FOLDER = "context_tokenizer"
OURS = (
    *("context_tokenizer", "question", "context_limit", "image_tokens", "asks_head", "picture_processors"),
    *("_markers",),
)
"""Attributes that a processor has from us."""
IMAGE_TOKENS = ("boi_token", "image_token")
"""Attributes of a processor with the word for a picture in its text; Gemma's ``image_token`` is no such word."""
ABOUT_INPUT = ("do_rescale", "input_data_format")
"""Options of a call that say what the pictures are like: they hold for every image processor."""


class ContextProcessorMixin:
    """What a processor does differently once something is attached.

    With a context tokenizer, the question for the eyes comes in every batch; with ``asks_head`` what the user said
    comes in the language model's own tokens, for a head. Where a projector hands the language model another number of
    tokens, an image takes that many placeholders. With further vision encoders every picture comes once for each, as
    its own image processor makes it.

    ``context`` may be given to a call: one text per row, None for a row without. Otherwise it is found: in
    ``apply_chat_template`` in the messages, in a plain call on rendered text by the template's markers, and
    for a model without a chat template the whole text is the question. ``said`` is the same for a head: per row one
    text, or one for each turn that is answered; found, it is all that the user said, as one text. So a conversation
    that is not told turn by turn (TRL's) has one weight, which has heard later questions, and never an answer.
    """

    context_tokenizer: Any
    question: Question
    context_limit: int | None = None
    """Positions of the text encoder; a longer question is cut there."""
    image_tokens: int | None = None
    """Placeholders of one image in the text; None where the library's own count holds."""
    asks_head: bool = False
    """Whether batches carry what the user said, for a head."""
    picture_processors: Mapping[str, Any] = MappingProxyType({})
    """Image processors of further vision encoders, by the encoder's name."""
    _markers: tuple[Any, TemplateMarkers] | None = None

    @property
    def asks(self) -> bool:
        """Whether batches carry the question."""
        return hasattr(self, "context_tokenizer")

    def replace_image_token(self, image_inputs: Any, image_idx: int, **kwargs: Any) -> str:
        """What the library puts in the place of one image's tag."""
        if self.image_tokens is None:
            return super().replace_image_token(image_inputs, image_idx, **kwargs)  # type: ignore[misc]
        return self.image_token * self.image_tokens  # type: ignore[attr-defined]

    def __call__(
        self,
        images: Any = None,
        text: Any = None,
        *args: Any,
        context: str | Sequence[str | None] | None = None,
        said: Sequence[str | Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> Any:
        batch = super().__call__(images, text, *args, **kwargs)  # type: ignore[misc]
        if text is None or not (self.asks or self.asks_head or self.picture_processors):
            return batch
        texts = [text] if isinstance(text, str) else list(text)
        places = (kwargs, kwargs.get("text_kwargs") or {}, kwargs.get("common_kwargs") or {})
        tensors = next((place["return_tensors"] for place in places if place.get("return_tensors")), None)
        if self.picture_processors and images is not None:
            rows = pictures_of_rows(images, texts, [getattr(self, name, None) for name in IMAGE_TOKENS])
            batch.update(self._pictures(rows, tensors, {**kwargs, **kwargs.get("images_kwargs", {})}))
        if self.asks_head:
            if said is None:
                said = [said_until(self._turns_of_text(one))[-1:] for one in texts]
            said = [[row] if isinstance(row, str) else row for row in said]
            batch.update(_as_tensors(self._encode_said(said, len(texts)), tensors))
        if not self.asks:
            return batch
        if context is None:
            context = [self.question.of_turns(self._turns_of_text(one)) for one in texts]
        batch.update(_as_tensors(self._encode_context(one_per_row(context, len(texts))), tensors))
        return batch

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """As the library's; the context of each conversation comes from its messages."""
        if kwargs.get("tokenize") and (self.asks or self.asks_head):
            batched = not (conversation and isinstance(conversation[0], dict))
            conversations = conversation if batched else [conversation]
            turns = [user_turns(one) for one in conversations]
            found: dict[str, Any] = {}
            if self.asks:
                found["context"] = [self.question.of_turns(one) for one in turns]
            if self.asks_head:
                found["said"] = [said_until(one)[-1:] for one in turns]
            kwargs["processor_kwargs"] = {**found, **(kwargs.get("processor_kwargs") or {})}
        return super().apply_chat_template(conversation, *args, **kwargs)  # type: ignore[misc]

    def _image_tags(self) -> list[str]:
        # Templates wrap images in special tokens of their own (Qwen's vision_start); a question holds none of them.
        return sorted({IMAGE_TAG, *self.tokenizer.all_special_tokens}, key=len, reverse=True)  # type: ignore[attr-defined]

    def _clean(self, text: str) -> str:
        return self.question.clean(text, self._image_tags())

    def _turns_of_text(self, text: str) -> list[str]:
        template = getattr(self, "chat_template", None)
        if template is None:
            return [text]
        if self._markers is None or self._markers[0] != template:
            library: Any = super()
            begin = self.tokenizer.bos_token  # type: ignore[attr-defined]
            self._markers = (template, TemplateMarkers.of(library.apply_chat_template, begin))
        return self._markers[1].user_turns(text)

    def _pictures(self, rows: list[list[Any]], tensors: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
        """All pictures as each further encoder's processor makes them, and how many each row has."""
        pictures = [picture for row in rows for picture in row]
        if not pictures:
            return {}
        given = {name: options[name] for name in ABOUT_INPUT if name in options}
        found = {
            f"{PIXELS}{name}": processor(images=pictures, return_tensors=tensors, **given)["pixel_values"]
            for name, processor in self.picture_processors.items()
        }
        return {**_as_tensors({COUNTS: [len(row) for row in rows]}, tensors), **found}

    def _encode_said(self, said: Sequence[Sequence[str]], num_rows: int) -> dict[str, Any]:
        """What the user said in the language model's tokens, padded on the right."""
        if len(said) != num_rows:
            raise DataError(f"{len(said)} rows of 'said' for {num_rows} texts", fix="pass one list of texts per row")
        num_turns = max([1, *map(len, said)])
        rows = [[*map(self._said_tokens, turns), *[[]] * (num_turns - len(turns))] for turns in said]
        longest = max([1, *(len(turn) for row in rows for turn in row)])
        ids: list[Any] = [[turn + [0] * (longest - len(turn)) for turn in row] for row in rows]
        mask: list[Any] = [[[1] * len(turn) + [0] * (longest - len(turn)) for turn in row] for row in rows]
        if num_turns == 1:
            ids, mask = ([row[0] for row in part] for part in (ids, mask))
        return {"context_prompt_ids": ids, "context_prompt_mask": mask}

    def _said_tokens(self, text: str) -> list[int]:
        """Tokens of one message of the user, as the chat template has it, without pictures."""
        text = without_tags(text, self._image_tags())
        if getattr(self, "chat_template", None) is not None:
            library: Any = super()
            text = library.apply_chat_template([{"role": "user", "content": [{"type": "text", "text": text}]}])
        tokenizer = self.tokenizer  # type: ignore[attr-defined]
        has_begin = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
        return tokenizer(text, add_special_tokens=not has_begin)["input_ids"]

    def context_rows(self, texts: Sequence[str | None]) -> list[list[int]]:
        """What the text encoder is given of each text: token ids without padding; none where a row has no text."""
        tokenizer = self.context_tokenizer
        encoded = tokenizer(
            [self._clean(text or "") for text in texts],
            padding=False,
            truncation=True,
            max_length=min(self.question.max_tokens, self.context_limit or self.question.max_tokens),
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        # A tokenizer without special tokens makes nothing of an empty question; one filler tells it from no question.
        return [[] if text is None else ids or [self._filler] for ids, text in zip(encoded, texts, strict=True)]

    @property
    def _filler(self) -> int:
        tokenizer = self.context_tokenizer
        return (tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id) or 0

    def _encode_context(self, texts: Sequence[str | None]) -> dict[str, Any]:
        """The rows, padded; a row without context has an all-zero mask."""
        rows, filler = self.context_rows(texts), self._filler
        longest = max([1, *map(len, rows)])
        return {
            "context_input_ids": [row + [filler] * (longest - len(row)) for row in rows],
            "context_attention_mask": [[1] * len(row) + [0] * (longest - len(row)) for row in rows],
        }

    @property
    def model_input_names(self) -> list[str]:
        return list(super().model_input_names) + [key.name for key in channel_of(self.picture_processors)]  # type: ignore[misc]

    def to_dict(self) -> dict[str, Any]:
        kept = super().to_dict()  # type: ignore[misc]
        for ours in OURS:
            kept.pop(ours, None)
        # The plain class is what the library can load; our loader swaps the class again.
        kept["processor_class"] = self.plain_class.__name__  # type: ignore[attr-defined]
        return kept

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> Any:
        saved = super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]
        if self.asks:
            self.context_tokenizer.save_pretrained(Path(save_directory) / TOKENIZER_FOLDER)
        for name, processor in self.picture_processors.items():
            processor.save_pretrained(Path(save_directory) / FOLDER / name)
        return saved


def takes_suffix(processor: Any) -> bool:
    """Whether an answer is an argument of its own (PaliGemma's ``suffix``) and no part of the text: what stands there
    looks at itself in both directions, so that an answer in it would be read before it is said."""
    return isinstance(processor, PaliGemmaProcessor)


def pictures_of_rows(images: Any, texts: Sequence[str], tags: Sequence[str | None]) -> list[list[Any]]:
    """The pictures of each text. ``images``: one list per text, or all in order, which the texts' tags share out.

    ``tags``: words that stand for a picture, the first that fits is taken.
    """
    flat = list(images) if isinstance(images, list | tuple) else [images]
    if len(getattr(images, "shape", ())) == 4:
        flat = list(images)
    if flat and all(isinstance(row, list | tuple) for row in flat):
        counts = [len(row) for row in flat]
        flat = [picture for row in flat for picture in row]
    elif len(texts) == 1:
        counts = [len(flat)]
    else:
        told = [[text.count(tag) for text in texts] for tag in tags if tag]
        counts = next((one for one in told if sum(one) == len(flat)), [])
    if len(counts) != len(texts) or sum(counts) != len(flat):
        raise DataError(
            f"{len(flat)} pictures for {len(texts)} texts",
            why="it is not clear which picture belongs to which text",
            fix="pass images= as one list per text",
        )
    rest = iter(flat)
    return [[next(rest) for _ in range(count)] for count in counts]


def _as_tensors(lists: dict[str, Any], kind: Any) -> dict[str, Any]:
    """Of the kind that the library was asked for (``pt``, ``np``); lists where it was asked for none."""
    return dict(BatchFeature(lists, tensor_type=kind))


@cache
def _context_processor_class(cls: Any) -> type:
    name = f"Context{cls.__name__}"
    swapped = type(name, (ContextProcessorMixin, cls), {"__module__": __name__, "plain_class": cls})
    globals()[name] = swapped  # pickle (dataloader workers) looks classes up by name
    return swapped


def __getattr__(name: str) -> type:
    """A context class in a process that has not made it yet, so that a pickled processor opens there."""
    import transformers

    plain = name.removeprefix("Context")
    homes = (transformers, image_only, pil_pixtral, pil_smolvlm) if name.startswith("Context") else ()
    found = next((getattr(home, plain) for home in homes if hasattr(home, plain)), None)
    if found is None:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return _context_processor_class(found)


def _swap(processor: Any) -> None:
    if not isinstance(processor, ContextProcessorMixin):
        processor.__class__ = _context_processor_class(processor.__class__)


def attach_to_processor(processor: Any, tokenizer: Any, question: Question, limit: int | None) -> None:
    """Gives a processor the context tokenizer, in place. ``limit``: most tokens that the text encoder takes."""
    _swap(processor)
    processor.context_tokenizer = tokenizer
    processor.question = question
    processor.context_limit = limit


def set_needs(
    processor: Any, image_tokens: int | None, asks_head: bool, pictures: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Makes batches what a model's methods need, in place.

    Args:
        image_tokens: placeholders of an image, as many as the projector gives tokens; None where no method changed
            their number, and the library's own count holds.
        asks_head: whether a head needs what the user said.
        pictures: image processors of further vision encoders, by name.
    """
    if image_tokens is not None or asks_head or pictures:
        _swap(processor)
        processor.image_tokens = image_tokens
        processor.asks_head = asks_head
        processor.picture_processors = dict(pictures)


def detach_from_processor(processor: Any) -> None:
    """Undoes ``attach_to_processor`` and ``set_needs``."""
    if isinstance(processor, ContextProcessorMixin):
        processor.__class__ = processor.plain_class  # type: ignore[attr-defined]
        for ours in OURS:
            processor.__dict__.pop(ours, None)
