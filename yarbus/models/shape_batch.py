"""A training batch of which only the shapes are real, for models that run on shapes (``models.shapes``)."""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from yarbus.models.attachment import attachment_of
from yarbus.models.shapes import Shapes
from yarbus.models.text_encoder import TextEncoder
from yarbus.models.vlm import VLM

IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """The batch of one device: all rows alike, none padded."""

    rows: int
    tokens: int
    """Of each row, its image tokens included."""
    answer_tokens: int
    """Supervised positions of each row."""
    images: int
    """Pictures of each row."""
    side: int | None = None
    """Of each picture, in pixels; None where the family has one size, or its usual one."""
    question_tokens: int = 32
    """Of the text that conditions the eyes, and of what a head is told."""


class _NoEncoder(nn.Module):
    """Token states of the right width in place of a text encoder that was left out."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.states = nn.Parameter(torch.zeros(dim), requires_grad=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.states.expand(*input_ids.shape, -1)


def stand_in_encoder(model: nn.Module) -> None:
    """Gives a model that was built without its text encoder something that answers in its place."""
    encoder: TextEncoder | None = getattr(model.base_model, "context_encoder", None)
    if encoder is not None and encoder.encoder is None:
        encoder.encoder = _NoEncoder(encoder.dim)


def _pictures(model: nn.Module, rows: int, images: int, side: int | None) -> tuple[dict[str, Tensor], int]:
    """The pictures' part of a batch with that many rows and pictures in each, and the image tokens of one picture."""
    vlm, attachment = VLM.of(model), attachment_of(model)
    config = vlm.config
    pictures, tokens = vlm.family.pictures(config, rows * images, side)
    units = vlm.family.units(config, pictures, 0)
    if attachment.image_tokens is not None:  # a method changed their number
        tokens = attachment.image_tokens
    if tokens is None:
        tokens = vlm.image_tokens
    if tokens is None:
        tokens = int(units.placeholders[0])
    if units.rows is not None:  # they came one to a row of pixels, and rows of pixels are those of the batch
        pictures = {name: value.reshape(rows, -1, *value.shape[2:]) for name, value in pictures.items()}
    return pictures, tokens


def tokens_of_picture(model: nn.Module, side: int | None) -> int:
    """Image tokens of a picture in the language model's sequence."""
    with Shapes():
        return _pictures(model, 1, 1, side)[1]


def shape_batch(model: nn.Module, shape: BatchShape) -> dict[str, Any]:
    """The forward's keyword arguments, ``labels`` included. Floating ones are shapes where ``Shapes`` is entered."""
    vlm, attachment = VLM.of(model), attachment_of(model)
    text = vlm.config.get_text_config()
    word = max(0, min(text.vocab_size - 1, 5))
    ids = torch.full((shape.rows, shape.tokens), word)
    batch: dict[str, Any] = {"attention_mask": torch.ones_like(ids)}
    if shape.images:
        pictures, tokens = _pictures(model, shape.rows, shape.images, shape.side)
        batch |= pictures
        start = getattr(vlm.config, "vision_start_token_id", None)
        for number in range(shape.images):  # one other token before each, so that neighbours stay apart
            first = number * (tokens + 1)
            ids[:, first] = word if start is None else start
            ids[:, first + 1 : first + 1 + tokens] = vlm.image_token_id
        known = inspect.signature(vlm.base_model.forward).parameters
        for name in ("mm_token_type_ids", "token_type_ids"):  # positions or masks follow them
            if name in known:
                batch[name] = (ids == vlm.image_token_id).long()
    is_answer = torch.arange(shape.tokens) >= shape.tokens - shape.answer_tokens
    batch |= {"input_ids": ids, "labels": ids.masked_fill(~is_answer, IGNORED)}
    question = torch.full((shape.rows, shape.question_tokens), word)
    mask = torch.ones_like(question)
    if getattr(vlm.base_model, "context_encoder", None) is not None:
        batch |= {"context_input_ids": question, "context_attention_mask": mask}
    methods = attachment.places.values()
    if any(method.reads_prompt for method in methods):
        batch |= {"context_prompt_ids": question, "context_prompt_mask": mask}
        batch["context_turn_index"] = torch.where(is_answer, 0, -1).expand(shape.rows, -1).contiguous()
    if any(method.draws_at_random for method in methods):
        batch["context_row_key"] = torch.arange(shape.rows)
    return batch
