"""The one path on which the question reaches the eyes.

The processor adds ``context_*`` tensors to a batch; a pre-hook on the base model takes them out of
the keyword arguments, encodes the text, maps images to rows, and fills a slot that inserted modules
read. The slot never holds the answer, is empty outside of a forward, and is handed back to the
recomputation of activation checkpointing (``bind``), which runs the blocks again during backward.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any, Literal

import torch
from torch import Tensor, nn

from yarbus.core.errors import DataError
from yarbus.models.consistency import check_tokens_of_rows, refuse_missing_pictures, refuse_new_question
from yarbus.models.encoder_inputs import (
    CHOICE,
    COUNTS,
    FEATURES,
    MASK,
    PIXELS,
    STATES,
    EncoderInputs,
    encoder_inputs,
    encoder_names,
)
from yarbus.models.images import ImageMap
from yarbus.models.sketch import hashed, key_of
from yarbus.models.text_encoder import TextStates
from yarbus.models.vlm import Family, ImageUnits


@dataclass(frozen=True)
class ContextKey:
    """One tensor of the context channel."""

    name: str
    axis: Literal["row", "image"]
    pad: int
    reader: Literal["tower", "head"]


_ROW = key_of("row of a batch")

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


@dataclass(frozen=True)
class Context:
    """What the slot holds during one forward."""

    text: TextStates | None
    """By row of context: a row of the batch, or each of its turns; None if no text came with the batch."""
    tower: ImageMap | None
    """The tower's images and the rows they answer to; None if the batch has no image."""
    projector: ImageMap | None
    """The same for what leaves the projector."""
    turn_index: Tensor | None = None
    """[batch, tokens] of the prompt."""
    prompt_ids: Tensor | None = None
    """[batch, turns, tokens] what the user said up to each turn, in the language model's tokens."""
    prompt_mask: Tensor | None = None
    """[batch, turns, tokens]"""
    vision_features: Tensor | None = None
    """[batch, tokens, dim] of each row's images, where they were encoded before this forward."""
    vision_mask: Tensor | None = None
    """[batch, tokens]"""
    num_turns: int = 1
    """Texts per row of the batch."""
    num_rows: int = 0
    """Rows of the batch."""
    image_keys: Tensor | None = None
    """[images] int64, from the key of the image's row and the image's number there; None if the rows are unknown."""
    row_keys: Tensor | None = None
    """[batch] int64, what is drawn at random for a row is keyed by; None if unknown, or without a picture."""
    encoders: EncoderInputs | None = None
    """What further vision encoders look at; None without them, and in a forward without pictures."""
    has_gradient: bool = False
    """Whether the forward was begun with gradients on; inside of a reentrant checkpoint they are off at first."""
    is_idle: bool = False
    """Whether its one image is a dummy, run for other processes' sake (``models.idle``): it counts for nothing."""
    notes: dict[tuple[str, int], Tensor] = field(default_factory=dict)
    """(word, block) -> what a block leaves for later ones of the same forward. Hooks may leave tensors that require
    grad; code inside a block may not: reentrant checkpointing would cut their gradient."""

    def question(self) -> TextStates:
        """The text of every row; raises where a module needs it and none was given."""
        if self.text is None:
            raise DataError(
                "no question reached the vision tower",
                why="this model's features depend on the question, and the batch has no context_input_ids",
                fix="make the batch with the processor that attach returned, or pass context=",
            )
        return self.text

    def pooled_by_image(self) -> Tensor:
        """[images, text_dim] the pooled question of each image's row."""
        assert self.tower is not None
        return self.question().pooled[self.tower.rows]

    def turn_of_position(self, length: int) -> Tensor:
        """[batch, length] turn whose answer each position writes: the position before an answer's first token as well.

        A position behind an answer belongs to the next turn. While decoding, new tokens belong to a row's last turn.
        """
        assert self.prompt_mask is not None
        last = self.prompt_mask.any(dim=-1).sum(dim=1, keepdim=True).clamp(min=1) - 1
        index = self.turn_index
        if index is None or index.shape[1] != length:
            if index is None and self.prompt_mask.shape[1] > 1:
                raise DataError(
                    "no turn index in the batch",
                    why="it holds several questions per row, and each answer has its own",
                    fix="pass context_turn_index",
                )
            return last.expand(-1, length)
        following = torch.nn.functional.pad(index, (0, 1), value=-1)[:, 1:]
        answered = index.cummax(dim=1).values
        return torch.where(following >= 0, following, torch.where(index >= 0, index, answered + 1)).minimum(last)


@dataclass(frozen=True)
class Record:
    """One thing a module noticed."""

    kind: str
    """``context``, ``routing_weights``, ``gaze``, ``balance_loss``, ``z_loss``; of a head ``mixing_weights``,
    ``columns``, ``is_text``, ``language_states``, ``vision_states``, ``vision_weight``, ``encoder_choice``,
    ``encoder_probabilities``, ``encoder_balance_loss``."""
    block_index: int
    values: Tensor
    """Detached, on the CPU; axes as the module that records says."""


@dataclass
class Recorder:
    """Collects what modules notice during forwards, for analyses. Off unless put into the slot."""

    records: list[Record] = field(default_factory=list)

    def of(self, kind: str) -> dict[int, list[Tensor]]:
        """Values of one kind by block, in the order of the forwards."""
        found: dict[int, list[Tensor]] = {}
        for record in self.records:
            if record.kind == kind:
                found.setdefault(record.block_index, []).append(record.values)
        return found


class ContextSlot:
    """Shared by all inserted modules of a model; not a module, so that it stays out of checkpoints.

    Copies of a model share it: fine one after the other, not for two forwards at once in threads.
    """

    def __init__(self) -> None:
        self.context: Context | None = None
        self.recorder: Recorder | None = None
        self.head_listens = False
        """True once a head method wants the context of every forward, those without pictures and each decoding step
        included."""
        self.frozen_groups: frozenset[str] = frozenset()
        """Parameter groups whose rate is 0 for now (``frozen_fraction``). Our trainer says it; for plain Trainer and
        TRL set it yourself, or leave it: then nothing is taken as frozen."""
        self.loss_scale = 1.0
        """What auxiliary losses weigh beside the loss of a forward (``methods.auxiliary``). Our trainer sets one over
        the number of micro-batches, so that they weigh as one batch; plain Trainer and TRL leave it at 1."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "ContextSlot":
        return self

    def read(self) -> Context:
        """The context of the forward that is running; outside of one this raises."""
        if self.context is None:
            raise DataError(
                "no context for the vision tower",
                why="it was called outside of the model's forward or generate",
                fix="call the model itself, or fill the slot with `models.context.context_of(...)`",
            )
        return self.context

    @contextmanager
    def holding(self, context: Context | None) -> Iterator[None]:
        """The slot with another content for a while."""
        before, self.context = self.context, context
        try:
            yield
        finally:
            self.context = before

    @contextmanager
    def weighing(self, loss_scale: float) -> Iterator[None]:
        """Auxiliary losses with another weight for a while: of forwards and of their backwards."""
        before, self.loss_scale = self.loss_scale, loss_scale
        try:
            yield
        finally:
            self.loss_scale = before

    @contextmanager
    def freezing(self, groups: Iterable[str]) -> Iterator[None]:
        """Says for a while which parameter groups have a rate of 0."""
        before, self.frozen_groups = self.frozen_groups, frozenset(groups)
        try:
            yield
        finally:
            self.frozen_groups = before

    @contextmanager
    def recording(self) -> Iterator[Recorder]:
        """Collects what modules notice while the block runs."""
        before, self.recorder = self.recorder, Recorder()
        try:
            yield self.recorder
        finally:
            self.recorder = before

    @contextmanager
    def unrecorded(self) -> Iterator[None]:
        """What modules notice for a while is not collected."""
        before, self.recorder = self.recorder, None
        try:
            yield
        finally:
            self.recorder = before

    def record(self, kind: str, block_index: int, values: Tensor) -> None:
        """Hands something to the recorder, if there is one."""
        if self.recorder is not None:
            self.recorder.records.append(Record(kind, block_index, values.detach().cpu()))


def _trains(function: Callable[..., Any]) -> bool:
    """Whether the block that a checkpointing function is handed has anything to train; True where it is not known."""
    plain = function.func if isinstance(function, partial) else function
    given = function.args if isinstance(function, partial) else ()
    owners = [one for one in (getattr(plain, "__self__", None), *given) if isinstance(one, nn.Module)]
    return not owners or any(parameter.requires_grad for parameter in owners[0].parameters())


def _reached_by_gradient(function: Callable[..., Any], args: tuple) -> tuple:
    """The arguments of a checkpointed block, with one that requires grad where the block trains and none does.

    Reentrant checkpointing gives no gradient to a block without such an input. The library takes care of it at the
    embeddings, but some towers (Qwen3-VL's, Molmo2's) do not tell it where they are: their blocks would train nothing,
    silently, behind a frozen patch embedding.
    """
    tensors = [one for one in args if isinstance(one, Tensor) and one.is_floating_point()]
    if not tensors or any(one.requires_grad for one in tensors) or not torch.is_grad_enabled() or not _trains(function):
        return args
    return tuple(one.detach().requires_grad_() if one is tensors[0] else one for one in args)


def bind(checkpoint: Callable[..., Any], slot: ContextSlot) -> Callable[..., Any]:
    """A checkpointing function whose recomputation sees the context of its own forward.

    Without it two forwards before one backward recompute the first with the second's questions, silently.
    """

    @wraps(checkpoint)
    def run_checkpoint(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        args = _reached_by_gradient(function, args)
        context = slot.context
        ran: list[bool] = []

        def run(*inputs: Any) -> Any:
            recorder = slot.recorder
            if ran:  # a recomputation: what it notices was noticed before
                slot.recorder = None
            ran.append(True)
            try:
                with slot.holding(context):
                    return function(*inputs)
            finally:
                slot.recorder = recorder

        return checkpoint(run, *args, **kwargs)

    run_checkpoint.is_bound = True  # type: ignore[attr-defined]
    return run_checkpoint


def _texts(ids: Tensor, mask: Tensor) -> list[tuple[int, ...]]:
    """Each row's token ids without padding; an empty tuple where the row has no context."""
    rows = zip(ids.tolist(), mask.tolist(), strict=True)
    return [tuple(token for token, keep in zip(row, keeps, strict=True) if keep) for row, keeps in rows]


def rows_of_images(
    input_ids: Tensor | None, units: ImageUnits, image_token: int, counts: Tensor | None = None
) -> Tensor:
    """[images] row of the batch that each image stands in; a tile stands where its picture does."""
    if units.rows is not None:
        return units.rows
    rows = _rows_of_pictures(input_ids, units.placeholders, image_token, counts)
    return rows if units.tiles is None else rows.repeat_interleave(units.tiles)


def _rows_of_pictures(
    input_ids: Tensor | None, placeholders: Tensor, image_token: int, counts: Tensor | None
) -> Tensor:
    if counts is not None:
        return torch.arange(len(counts), device=counts.device).repeat_interleave(counts)
    if input_ids is None:
        raise DataError(
            "cannot tell which image belongs to which row",
            why="inputs_embeds hold no image tokens",
            fix="pass context_image_counts, or input_ids",
        )
    counts = (input_ids == image_token).sum(dim=1)
    rows = torch.searchsorted(counts.cumsum(0), placeholders.to(counts).cumsum(0))
    check_tokens_of_rows(counts, rows, placeholders)
    return rows


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
    tower = projector = text = rows = units = image_keys = keys = None
    if kwargs.get("pixel_values") is not None:
        placeholders = 0 if input_ids is None else int((input_ids == base_model.config.image_token_id).sum())
        units = family.units(base_model.config, kwargs, placeholders)
        rows = rows_of_images(input_ids, units, base_model.config.image_token_id, channel.get("context_image_counts"))
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
        encoders=encoder_inputs(
            encoder_names(base_model),
            channel,
            _num_rows(input_ids, kwargs),
            has_pictures=kwargs.get("pixel_values") is not None,
        ),
        has_gradient=torch.is_grad_enabled(),
    )


def _num_rows(input_ids: Tensor | None, kwargs: Mapping) -> int:
    tensors = (input_ids, kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
    return next((len(tensor) for tensor in tensors if tensor is not None), 0)


def _by_turn(values: Tensor | None) -> Tensor | None:
    return values[:, None] if values is not None and values.ndim == 2 else values


def take_channel(kwargs: dict[str, Any], encoders: Iterable[str] = ()) -> dict[str, Any]:
    """Takes the ``context_*`` tensors out of keyword arguments."""
    return {key.name: kwargs.pop(key.name, None) for key in channel_of(encoders)}


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
    base_model.context_slot.context = None
