"""What modules read while a forward runs: its context, in a slot that all of them share."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import local
from typing import Any

import torch
from torch import Tensor

from yarbus.core.errors import DataError
from yarbus.models.encoder_inputs import EncoderInputs
from yarbus.models.images import ImageMap
from yarbus.models.text_encoder import TextStates


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
    question_ids: Tensor | None = None
    """The texts as the batch brought them, in the text encoder's tokens."""
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

        A position behind an answer belongs to the next turn. New tokens of a generation belong to a row's last turn,
        and so do all positions of a row without an answer: it is a prompt.
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
        found = torch.where(following >= 0, following, torch.where(index >= 0, index, answered + 1)).minimum(last)
        return torch.where((index < 0).all(dim=1, keepdim=True), last, found)


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

    Copies of a model share it. Each thread has a context of its own, so that forwards may run at once; a backward that
    recomputes blocks in a thread of autograd's is handed the context there (``models.recompute``). The rest is one for
    all threads.
    """

    def __init__(self) -> None:
        self._of_thread = local()
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

    def __getstate__(self) -> dict[str, Any]:
        """What a thread holds is no part of a pickled model."""
        return {name: value for name, value in vars(self).items() if name != "_of_thread"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _of_thread=local())

    @property
    def context(self) -> Context | None:
        """That of the forward that runs in this thread; None outside of one."""
        return getattr(self._of_thread, "context", None)

    @context.setter
    def context(self, context: Context | None) -> None:
        self._of_thread.context = context

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
