"""The one path on which the question reaches the eyes.

The processor adds ``context_*`` tensors to a batch (``models.channel``); a pre-hook on the base model takes them out of
the keyword arguments, encodes the text, maps images to rows, and fills a slot that inserted modules read
(``models.slot``). The slot never holds the answer, is empty outside of a forward, and is handed back to the
recomputation of activation checkpointing (``models.recompute``), which runs the blocks again during backward.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from yarbus.core.errors import DataError
from yarbus.models.channel import take_channel
from yarbus.models.consistency import (
    check_tokens_of_rows,
    note_question,
    refuse_missing_pictures,
    refuse_new_question,
)
from yarbus.models.encoder_inputs import encoder_inputs, encoder_names
from yarbus.models.images import ImageMap
from yarbus.models.sketch import hashed, key_of
from yarbus.models.slot import Context, ContextSlot
from yarbus.models.vlm import Family, ImageUnits

_ROW = key_of("row of a batch")


def _texts(ids: Tensor, mask: Tensor) -> list[tuple[int, ...]]:
    """Each row's token ids without padding; an empty tuple where the row has no context."""
    rows = zip(ids.tolist(), mask.tolist(), strict=True)
    return [tuple(token for token, keep in zip(row, keeps, strict=True) if keep) for row, keeps in rows]


def rows_of_images(
    input_ids: Tensor | None, units: ImageUnits, image_token: int, counts: Tensor | None = None
) -> Tensor:
    """[images] row of the batch that each image stands in; a tile stands where its picture does."""
    tokens = None if input_ids is None else (input_ids == image_token).sum(dim=1)
    if units.rows is not None:
        if tokens is not None:
            check_tokens_of_rows(tokens, units.rows, units.placeholders)
        return units.rows
    rows = _rows_of_pictures(tokens, units.placeholders, counts)
    return rows if units.tiles is None else rows.repeat_interleave(units.tiles)


def _rows_of_pictures(tokens: Tensor | None, placeholders: Tensor, counts: Tensor | None) -> Tensor:
    """From the image tokens of each row, or from the pictures of each row where the batch tells them."""
    if counts is not None:
        rows = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
        if len(rows) != len(placeholders) or (tokens is not None and len(counts) != len(tokens)):
            raise DataError(
                "context_image_counts do not fit the batch",
                why=f"{len(rows)} images in {len(counts)} rows are told, and {len(placeholders)} images came",
                fix="give the number of images of each row",
            )
    elif tokens is None:
        raise DataError(
            "cannot tell which image belongs to which row",
            why="inputs_embeds hold no image tokens",
            fix="pass context_image_counts, or input_ids",
        )
    else:
        rows = torch.searchsorted(tokens.cumsum(0), placeholders.to(tokens).cumsum(0))
    if tokens is not None:
        check_tokens_of_rows(tokens, rows, placeholders)
    return rows


def _pictures_by_row(rows: Tensor, units: ImageUnits, num_rows: int) -> Tensor:
    """[batch] pictures of each row; in families whose crops have image tokens of their own, each crop counts."""
    firsts = rows if units.tiles is None else rows[(units.tiles.cumsum(0) - units.tiles).to(rows)]
    return torch.bincount(firsts, minlength=num_rows)


def _last_turns(texts: list[tuple[int, ...]], num_turns: int, rows: Tensor) -> Tensor:
    """[images] row of context, the last turn that has a text, of each image's row of the batch."""
    found = []
    for row in rows.tolist():
        asked = [index for index in range(row * num_turns, (row + 1) * num_turns) if texts[index]]
        if not asked:
            raise DataError(
                "no question for an image", where=f"row {row} of the batch", fix="pass context= with one text per row"
            )
        found.append(asked[-1])
    return torch.tensor(found, dtype=rows.dtype, device=rows.device)


def row_keys(config: Any, input_ids: Tensor, attention_mask: Any) -> Tensor:
    """[batch] int64, a hash of each row's tokens: neither padding nor the other rows change it."""
    padding = getattr(config.get_text_config(), "pad_token_id", None)
    keep = torch.ones_like(input_ids, dtype=torch.bool) if padding is None else input_ids != padding
    if isinstance(attention_mask, Tensor) and attention_mask.shape == input_ids.shape:
        keep = keep & attention_mask.bool()
    positions = keep.long().cumsum(dim=1)
    return hashed(positions, hashed(input_ids, _ROW)).where(keep, 0).sum(dim=1)


def _image_keys(row_key: Tensor, rows: Tensor) -> Tensor:
    """[images] the key of each image's row and the image's number in it, as one number."""
    numbers = torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows, rows)
    return hashed(numbers, row_key.to(rows.device)[rows])


def context_of(base_model: nn.Module, input_ids: Tensor | None, channel: Mapping[str, Any], kwargs: Mapping) -> Context:
    """The context of one forward, from the ``context_*`` tensors and the batch's images.

    Raises ``DataError`` where an image's row has no context while the model has a text encoder.
    """
    family: Family = base_model.context_family
    ids, mask = channel.get("context_input_ids"), channel.get("context_attention_mask")
    tower = projector = text = rows = units = shown = image_keys = keys = None
    if kwargs.get("pixel_values") is not None:
        placeholders = 0 if input_ids is None else int((input_ids == base_model.config.image_token_id).sum())
        units = family.units(base_model.config, kwargs, placeholders)
        rows = rows_of_images(input_ids, units, base_model.config.image_token_id, channel.get("context_image_counts"))
        if encoder_names(base_model):
            shown = _pictures_by_row(rows, units, _num_rows(input_ids, kwargs))
        keys = channel.get("context_row_key")
        if keys is None and input_ids is not None:
            keys = row_keys(base_model.config, input_ids, kwargs.get("attention_mask"))
        image_keys = None if keys is None else _image_keys(keys, rows)
    encoder, num_turns = base_model.context_encoder, 1
    if ids is not None and ids.ndim == 3:
        num_turns = ids.shape[1]
        ids, mask = ids.flatten(0, 1), None if mask is None else mask.flatten(0, 1)
    if ids is not None and encoder is not None:
        texts = _texts(ids, torch.ones_like(ids) if mask is None else mask)
        if rows is not None:
            rows = _last_turns(texts, num_turns, rows)
        special = base_model.context_special_ids
        asked = torch.tensor([not special.issuperset(text) for text in texts], device=ids.device)
        # A text-only row without context still needs a text in its place; nothing reads it.
        some = next((text for text in texts if text), None)
        if some is not None:
            text = encoder.encode([text or some for text in texts], asked)
    if rows is not None and units is not None:
        tower = ImageMap(rows, units.tower_lengths)
        projector = ImageMap(rows, units.projector_lengths)
    prompt_ids, prompt_mask = (_by_turn(channel.get(f"context_prompt_{part}")) for part in ("ids", "mask"))
    if prompt_ids is not None and prompt_mask is None:
        prompt_mask = torch.ones_like(prompt_ids)
    return Context(
        question_ids=channel.get("context_input_ids"),
        text=text,
        tower=tower,
        projector=projector,
        turn_index=channel.get("context_turn_index"),
        prompt_ids=prompt_ids,
        prompt_mask=prompt_mask,
        vision_features=channel.get("context_vision_features"),
        vision_mask=channel.get("context_vision_mask"),
        num_turns=num_turns,
        num_rows=_num_rows(input_ids, kwargs),
        image_keys=image_keys,
        row_keys=keys,
        encoders=encoder_inputs(encoder_names(base_model), channel, _num_rows(input_ids, kwargs), shown),
        has_gradient=torch.is_grad_enabled(),
    )


def _num_rows(input_ids: Tensor | None, kwargs: Mapping) -> int:
    tensors = (input_ids, kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
    return next((len(tensor) for tensor in tensors if tensor is not None), 0)


def _by_turn(values: Tensor | None) -> Tensor | None:
    return values[:, None] if values is not None and values.ndim == 2 else values


def refuse_videos(kwargs: Mapping[str, Any]) -> None:
    """Raises where the keyword arguments of a forward or of ``generate`` hold a video."""
    if kwargs.get("pixel_values_videos") is not None:
        raise DataError(
            "videos are not supported",
            why="a context-aware tower maps images, not frames, to questions",
            fix="pass the frames as images",
        )


def by_name(base_model: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """All arguments of a forward under their names, those without one too."""
    if not args:
        return kwargs
    return {**dict(zip(inspect.signature(base_model.forward).parameters, args, strict=False)), **kwargs}


def receive_context(base_model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Pre-hook of the base model: takes the channel and fills the slot. Knows no model: copies stay apart."""
    channel = take_channel(kwargs, encoder_names(base_model))
    given = by_name(base_model, args, kwargs)
    refuse_videos(given)
    refuse_missing_pictures(base_model, given)
    refuse_new_question(base_model, given, channel.get("context_input_ids"))
    slot: ContextSlot = base_model.context_slot
    if given.get("pixel_values") is not None or slot.head_listens:
        slot.context = context_of(base_model, given.get("input_ids"), channel, given)
    return args, kwargs


def release_context(base_model: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
    """Forward hook of the base model: empties the slot, so that nothing runs on a stale question."""
    slot: ContextSlot = base_model.context_slot
    if slot.context is not None and slot.context.tower is not None:
        note_question(base_model, output, slot.context.question_ids)
    slot.context = None
