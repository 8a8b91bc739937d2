"""What must agree in one forward, or numbers are wrong without a word: image tokens, pictures, and the question.

The library compares totals: tokens of one row that were cut off and made up for by another's go unseen, and so do image
tokens in a batch without any picture.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from yarbus.core.errors import DataError

QUESTION = "context_question"
"""Attribute of a cache: the question with which the pictures in it were seen."""


def has_past(named: Mapping[str, Any]) -> bool:
    """Whether a forward goes on with cached text."""
    cache = named.get("past_key_values")
    return cache is not None and int(cache.get_seq_length()) > 0


def check_tokens_of_rows(counts: Tensor, rows: Tensor, placeholders: Tensor) -> None:
    """Raises ``DataError`` where a row has other image tokens than its pictures have features.

    Args:
        counts: [batch] image tokens of each row.
        rows: [pictures] row of each picture.
        placeholders: [pictures] image tokens that each picture takes.
    """
    most = len(counts) - 1
    wanted = torch.zeros_like(counts).index_add(0, rows.clamp(max=most), placeholders.to(counts))
    wrong = (wanted != counts).nonzero().flatten().tolist()
    if wrong:
        row = wrong[0]
        raise DataError(
            "image tokens and features do not agree",
            where=f"row {row} of the batch",
            why=f"{int(counts[row])} image tokens; those of the whole pictures in it would be {int(wanted[row])}",
            fix="do not cut a row inside a picture (max_length, truncation), and give one image tag per picture",
        )


def refuse_missing_pictures(base_model: nn.Module, named: Mapping[str, Any]) -> None:
    """Raises ``DataError`` for image tokens in a batch that brings no picture: the library would train on them."""
    ids = named.get("input_ids")
    if ids is None or ids.shape[1] == 1 or has_past(named):
        return
    if named.get("pixel_values") is not None or named.get("mm_encoder_outputs"):
        return
    has_tokens = (ids == base_model.config.image_token_id).any(dim=1)  # type: ignore[union-attr]
    if has_tokens.any():
        raise DataError(
            "image tokens without a picture",
            where=f"row {int(has_tokens.int().argmax())} of the batch",
            why="the batch has no pixel_values",
            fix="give the picture, or take the image tag out of the text",
        )


def refuse_new_question(base_model: nn.Module, named: Mapping[str, Any], question: Tensor | None) -> None:
    """Raises ``DataError`` where cached pictures were seen with another question than the one asked now."""
    cache = named.get("past_key_values")
    methods = base_model.context_attachment.places  # type: ignore[union-attr]
    before = getattr(cache, QUESTION, None)
    if cache is None or question is None or before is question or not _eyes_read(methods):
        return
    if not has_past(named):
        if named.get("pixel_values") is not None or named.get("mm_encoder_outputs"):
            setattr(cache, QUESTION, question)
        return
    if before is not None and not torch.equal(before, question):
        raise DataError(
            "a new question on cached pictures",
            why="what is cached was seen with the question before, and the eyes depend on it",
            fix="generate from the whole conversation, without past_key_values",
        )


def note_question(base_model: nn.Module, output: Any, question: Tensor | None) -> None:
    """Writes on the cache that a forward with pictures made itself with which question they were seen."""
    given = output if isinstance(output, tuple) else (getattr(output, "past_key_values", None),)
    cache = next((one for one in given if isinstance(one, Cache)), None)
    methods = base_model.context_attachment.places  # type: ignore[union-attr]
    if cache is not None and question is not None and getattr(cache, QUESTION, None) is None and _eyes_read(methods):
        setattr(cache, QUESTION, question)


def _eyes_read(methods: Mapping[str, Any]) -> bool:
    return any(place in methods and methods[place].reads_question for place in ("vision", "projector"))
