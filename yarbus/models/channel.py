"""The keys on which the question travels, from the processor through trainers and ``generate`` to the model."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from yarbus.models.encoder_inputs import CHOICE, COUNTS, FEATURES, MASK, PIXELS, STATES


@dataclass(frozen=True)
class ContextKey:
    """One tensor of the context channel."""

    name: str
    axis: Literal["row", "image"]
    pad: int
    reader: Literal["tower", "head"]


CHANNEL = (
    ContextKey("context_input_ids", axis="row", pad=0, reader="tower"),
    ContextKey("context_attention_mask", axis="row", pad=0, reader="tower"),
    ContextKey("context_image_counts", axis="row", pad=0, reader="tower"),
    ContextKey("context_turn_index", axis="row", pad=-1, reader="head"),
    ContextKey("context_row_key", axis="row", pad=0, reader="tower"),
    ContextKey("context_prompt_ids", axis="row", pad=0, reader="head"),
    ContextKey("context_prompt_mask", axis="row", pad=0, reader="head"),
    ContextKey("context_vision_features", axis="row", pad=0, reader="head"),
    ContextKey("context_vision_mask", axis="row", pad=0, reader="head"),
)
"""Every key that travels beside a batch; the signature and ``model_input_names`` are built from it.

``context_input_ids``, ``context_attention_mask`` [batch, text_tokens]: the question in the text encoder's tokens; a row
whose mask is all zero has no context. With one text per turn they are [batch, turns, text_tokens]: the tower then
answers to a row's last turn.
``context_image_counts`` [batch]: images of each row (of InternVL: tiles), needed only without ``input_ids``.
``context_turn_index`` [batch, tokens]: the answered turn of each token, -1 for none. ``context_row_key`` [batch]: a
number for each row that keys what is drawn at random for its images; without it the row's tokens are the key, so that
a row is always seen alike.

``context_prompt_ids``, ``context_prompt_mask`` [batch, tokens], or [batch, turns, tokens]: what the user said up to a
turn, in the language model's tokens and without pictures; a head's weights depend on it alone.
``context_vision_features`` [batch, tokens, dim], ``context_vision_mask`` [batch, tokens]: the features of each row's
images. ``generate`` puts them there itself where it encodes images before the first forward.
"""


def channel_of(encoders: Iterable[str] = ()) -> tuple[ContextKey, ...]:
    """The channel of a model with these further vision encoders; without any it is ``CHANNEL``.

    ``context_pixel_values_<encoder>`` [pictures, 3, height, width]: every picture as that encoder's processor makes it;
    ``context_picture_counts`` [batch]: pictures of each row. ``generate`` puts into their place, before beams are made
    of rows, what came of them: ``context_prompt_states`` [batch, turns, dim], ``context_encoder_choice`` [batch],
    ``context_encoder_features`` [batch, tokens, dim] and ``context_encoder_mask`` [batch, tokens].
    """
    pixels = [ContextKey(f"{PIXELS}{name}", axis="image", pad=0, reader="head") for name in encoders]
    beside = (COUNTS, STATES, CHOICE, FEATURES, MASK) if pixels else ()
    return (*CHANNEL, *(ContextKey(name, axis="row", pad=0, reader="head") for name in beside), *pixels)


def take_channel(kwargs: dict[str, Any], encoders: Iterable[str] = ()) -> dict[str, Any]:
    """Takes the ``context_*`` tensors out of keyword arguments."""
    return {key.name: kwargs.pop(key.name, None) for key in channel_of(encoders)}
